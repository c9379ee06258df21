//! The server's end of TLS over any byte stream, on rustls' unbuffered API.
//!
//! [`accept`] makes the handshake. The [`TlsStream`] that it gives is an `AsyncRead + AsyncWrite` for HTTP, and has a
//! second set of methods for bulk: [`TlsStream::poll_open`] reads 64 KiB at a time into a slice of the caller's, and
//! [`TlsStream::poll_seal`] makes one write of as many records as it is given.
//!
//! rustls keeps every key, counter and alert. What is kept here are buffers, and as few of them as can be: records are
//! read into and sealed in scratch that all streams of a thread share, and no borrow of it outlives a poll. A stream
//! owns bytes only while something is unfinished, and frees them when it is finished:
//!
//! | bytes | bound |
//! |---|---|
//! | the start of a record, or of a handshake message in several records | [`RECORD`] |
//! | opened and not yet read, which happens only to readers with little room | [`RECORD`] and 4 KiB |
//! | sealed and not yet the transport's | one [`TlsStream::poll_seal`], and what rustls answers by itself |
//!
//! rustls answers little by itself: one alert that ends the session, one refusal of a renegotiation; to a `KeyUpdate`
//! with the next data. A peer cannot make it answer without end.
//!
//! Scratch that carried bytes for an `AsyncRead`, so possibly a request with credentials, is wiped before the poll ends;
//! debug builds overwrite it after every use. 0-RTT data is not taken.
//!
//! This module does not know what is sent over it, and nothing else of this crate.

mod handshake;
mod io;
mod scratch;
mod session;

pub use handshake::{Accepted, accept};
pub use io::TlsStream;

/// The most bytes that one read takes from the transport.
pub const READ: usize = 64 * 1024;

/// The longest record, with its head: what rustls and TLS 1.2 allow (RFC 5246, section 6.2.3).
pub const RECORD: usize = 5 + 16 * 1024 + 2048;

/// The most bytes of plaintext that are sealed at once.
pub const SEAL: usize = READ + RECORD + 1024;
