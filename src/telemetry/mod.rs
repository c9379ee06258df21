//! Logs: how lines look, and the two lines of a stream. And metrics.
//!
//! Owns the subscriber, the queue of lines that wait to be written, and the shape of the stream's lines. Nothing here ever sees a token, a query or a header value.
//! Called by the app (once, at start) and by the pipeline.

pub mod log;
pub mod metrics;
mod queue;
pub mod stream_line;

pub use metrics::Metrics;
pub use stream_line::StreamLine;
