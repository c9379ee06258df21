//! The transport of an HTTP/2 connection, as it suits the library that reads and writes it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hands on at most [`TURN`] bytes before others have their turn: what is read is taken by the tasks of its streams, and
/// would pile up until they run. And writes the head of a frame together with its payload.
pub(super) struct Paced<T> {
    io: T,
    /// Bytes until others have their turn.
    left: usize,
    gathered: Vec<u8>,
}

impl<T> Paced<T> {
    pub(super) const fn new(io: T) -> Self {
        Self { io, left: TURN, gathered: Vec::new() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            this.left = TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(read) => {
                this.left = this.left.saturating_sub(buf.filled().len().saturating_sub(before));
                Poll::Ready(read)
            }
            Poll::Pending => {
                this.left = TURN;
                Poll::Pending
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        let (Some(first), Some(_)) = (filled.next(), filled.next()) else {
            let only = slices.iter().find(|slice| !slice.is_empty());
            return Pin::new(&mut this.io).poll_write(cx, only.map_or(&[], |slice| slice));
        };
        // One TLS record, and one write, for both.
        this.gathered.reserve_exact(slices.iter().map(|slice| slice.len()).sum::<usize>().min(GATHER));
        for slice in slices {
            let room = GATHER.saturating_sub(this.gathered.len());
            this.gathered.extend_from_slice(slice.get(..room.min(slice.len())).unwrap_or_default());
        }
        debug_assert!(this.gathered.len() >= first.len().min(GATHER), "the first slice goes first");
        let written = Pin::new(&mut this.io).poll_write(cx, &this.gathered);
        this.gathered = Vec::new();
        Poll::Ready(ready!(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// See [`Paced`], bytes.
const TURN: usize = 128 * 1024;
/// The most that one write gathers, bytes: a frame with its head, and what went before it.
const GATHER: usize = 34 * 1024;
