//! The wire over the gateway's own end of TLS.

use std::io;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

pub use crate::tls::accept;
use crate::tls::{self, TlsStream};
use crate::wire::{Scratch, Wire};

/// A client's connection, the handshake done.
pub type Stream = TlsStream<TcpStream>;

/// What [`accept`] gives.
pub type Accepted = tls::Accepted<TcpStream>;

/// What was agreed on to be spoken (ALPN), if anything was.
pub fn protocol(stream: &Stream) -> Option<&[u8]> {
    stream.state().alpn_protocol()
}

impl Wire for TlsStream<TcpStream> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        self.poll_open(cx, scratch.chunk())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, bytes)
    }

    fn hold(&mut self, bytes: &[u8]) -> usize {
        self.seal_along(bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn unsent(&self) -> bool {
        self.has_unsent()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_close(cx)
    }

    fn is_broken(&self) -> bool {
        super::tcp::is_broken(self.get_ref())
    }

    fn abort(self) {
        super::tcp::reset(self.into_io());
    }
}
