//! The transport of an HTTP/2 connection, as it suits the library that reads and writes it.
//!
//! The library flushes after each frame that is not small, and would make a write and a TLS record, or two, of each. So what
//! it writes is gathered, and goes when it has nothing more to write, or when it is much.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hands on at most [`TURN`] bytes before others have their turn: what is read is taken by the tasks of its streams, and
/// would pile up until they run. What is written waits for [`Paced::writing`]. Clones are the same transport.
pub(super) struct Paced<T>(
    /// Only the connection's own task locks it.
    Arc<Mutex<Inner<T>>>,
);

struct Inner<T> {
    io: T,
    /// Bytes until others have their turn.
    left: usize,
    /// Written by the library, and from `sent` on not yet by us.
    waiting: Vec<u8>,
    sent: usize,
    /// Whether the transport may hold some of what it was given.
    unflushed: bool,
}

impl<T> Clone for Paced<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Paced<T> {
    pub(super) fn new(io: T) -> Self {
        Self(Arc::new(Mutex::new(Inner { io, left: TURN, waiting: Vec::new(), sent: 0, unflushed: false })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: AsyncWrite + Unpin> Paced<T> {
    /// Does `work`, which uses this transport, and writes what it has left at the end of each step.
    pub(super) async fn writing<O>(&self, work: impl Future<Output = O>) -> O {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            let done = work.as_mut().poll(cx);
            // An error is told by the next write, or read.
            let _ = self.inner().poll_write_out(cx);
            done
        })
        .await
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    /// Hands the transport what waits; ready when it has all of it.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, waiting, sent, unflushed, .. } = self;
        if waiting.is_empty() && !*unflushed {
            return Poll::Ready(Ok(()));
        }
        *unflushed = true;
        while let Some(rest) = waiting.get(*sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *sent += written,
            }
        }
        (*waiting, *sent) = (Vec::new(), 0);
        ready!(Pin::new(io).poll_flush(cx))?;
        *unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Inner { io, left, .. } = &mut *self.inner();
        if *left == 0 {
            *left = TURN;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(io).poll_read(cx, buf);
        *left = match read {
            Poll::Ready(_) => left.saturating_sub(buf.filled().len().saturating_sub(before)),
            Poll::Pending => TURN,
        };
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        if inner.waiting.len() >= GATHER {
            ready!(inner.poll_write_out(cx))?;
        }
        // A frame at most.
        let length = slices.iter().map(|slice| slice.len()).sum();
        inner.waiting.reserve(length);
        for slice in slices {
            inner.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What waits goes at the end of the step.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_write_out(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

/// See [`Paced`], bytes.
const TURN: usize = 128 * 1024;
/// How much is gathered, give or take a frame, bytes.
const GATHER: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_one_step_goes_together_and_much_does_not_wait() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut paced = Paced::new(near);
        let mut end = paced.clone();
        let step = async {
            paced.write_all(b"head").await.unwrap();
            paced.flush().await.unwrap();
            paced.write_all(b"payload").await.unwrap();
            assert_eq!(paced.inner().waiting, b"headpayload");
        };
        end.writing(step).await;
        assert!(end.inner().waiting.is_empty());
        let mut read = [0; 11];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"headpayload");
        paced.write_all(&vec![1; GATHER]).await.unwrap();
        paced.write_all(&[2; 10]).await.unwrap();
        assert_eq!(paced.inner().waiting.len(), 10, "the other bytes have gone");
        end.shutdown().await.unwrap();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len(), GATHER + 10, "nothing is lost at the end");
    }
    #[tokio::test]
    async fn what_the_transport_holds_back_goes_in_a_later_step() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut paced = Paced::new(tokio::io::BufWriter::new(near));
        let end = paced.clone();
        end.writing(async { paced.write_all(b"headpayload").await.unwrap() }).await;
        let mut read = [0; 11];
        for part in read.chunks_mut(4) {
            let reading = tokio::time::timeout(std::time::Duration::from_secs(5), far.read_exact(part));
            reading.await.expect("nothing more comes").unwrap();
            end.writing(std::future::ready(())).await;
        }
        assert_eq!(&read, b"headpayload");
    }
}
