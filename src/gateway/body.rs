//! Bodies: of answers, which are small and there at once, or come from a service; and of requests.
//!
//! Owns the types only, which fit any HTTP server in front. What passes through them is the `pass` stage's. A body is
//! never held as a whole but where it is small.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

pub use crate::upstream::exchange::{BoxError, Streamed};

/// The body of an answer.
pub struct Body {
    kind: Kind,
    cut: Option<CancellationToken>,
}

enum Kind {
    Whole(Full<Bytes>),
    Passed(Streamed),
}

impl Body {
    /// What a service answers. Once `cut` is cancelled nothing more of it may be written.
    pub fn passed<B>(body: B, cut: Option<CancellationToken>) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self { kind: Kind::Passed(body.map_err(Into::into).boxed_unsync()), cut }
    }

    /// Whether a service has answered it, and not the gateway itself.
    pub const fn is_passed(&self) -> bool {
        matches!(self.kind, Kind::Passed(_))
    }

    /// Cancelled when nothing more of it may be written, not even what was read from it before: whoever writes it cuts the
    /// client off, in a way that shows that the rest is missing. `None` for an answer that may always be written as a whole.
    pub fn cut(&self) -> Option<CancellationToken> {
        self.cut.clone()
    }
}

impl Default for Body {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl From<Bytes> for Body {
    fn from(whole: Bytes) -> Self {
        Self { kind: Kind::Whole(Full::new(whole)), cut: None }
    }
}

impl From<String> for Body {
    fn from(whole: String) -> Self {
        Bytes::from(whole).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().kind {
            Kind::Whole(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            Kind::Passed(passed) => Pin::new(passed).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(whole) => whole.is_end_stream(),
            Kind::Passed(passed) => passed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(whole) => whole.size_hint(),
            Kind::Passed(passed) => passed.size_hint(),
        }
    }
}

/// The body of a request; nothing of it is read before a stage asks for it.
#[derive(Default)]
pub struct Upload(
    /// Only ever reached by who owns it; the lock is what lets stages share the request that it belongs to.
    Option<Mutex<Streamed>>,
);

impl Upload {
    /// This body.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Most requests have none, upgrades above all.
        if body.is_end_stream() { Self(None) } else { Self(Some(Mutex::new(body.map_err(Into::into).boxed_unsync()))) }
    }

    /// The body; `None` if the request has none.
    pub fn into_streamed(self) -> Option<Streamed> {
        self.0.map(|body| body.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
