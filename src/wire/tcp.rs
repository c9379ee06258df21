//! The wire over plain TCP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::wire::{READ, Scratch, Wire};

/// A TCP connection. Everything it takes is the kernel's at once.
pub struct TcpWire {
    tcp: TcpStream,
}

impl TcpWire {
    /// The wire over this connection.
    pub const fn new(tcp: TcpStream) -> Self {
        Self { tcp }
    }
}

impl Wire for TcpWire {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(scratch.chunk().get_mut(..READ).unwrap_or_default());
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn unsent(&self) -> bool {
        false
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn is_broken(&self) -> bool {
        is_broken(&self.tcp)
    }

    fn abort(self) {
        reset(self.tcp);
    }
}

/// Whether the kernel has an error for the connection: a reset, or keepalive that was not answered.
pub(crate) fn is_broken(tcp: &TcpStream) -> bool {
    !matches!(tcp.take_error(), Ok(None))
}

/// Closes a connection with a reset instead of a FIN (`SO_LINGER` 0).
pub(crate) fn reset(tcp: TcpStream) {
    // If the option cannot be set, the drop still closes the connection, only less abruptly.
    let _ = socket2::SockRef::from(&tcp).set_linger(Some(std::time::Duration::ZERO));
    drop(tcp);
}
