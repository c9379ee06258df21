//! A session over a transport.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize as _;

use crate::tls::READ;
use crate::tls::scratch::{After, Scratch};
use crate::tls::session::{End, Session};

/// TLS over `T`, the handshake done. Small, so that it can be moved; what it has is behind one pointer.
pub struct TlsStream<T>(Box<Inner<T>>);

struct Inner<T> {
    io: T,
    session: Session,
    /// Opened, and from `read` on not yet read.
    ahead: Vec<u8>,
    read: usize,
    /// Sealed, and from `sent` on not yet the transport's.
    unsent: Vec<u8>,
    sent: usize,
    /// `close_notify` is sealed.
    closing: bool,
    /// How a write has failed. Nothing can follow: it is not known how much the transport took.
    lost: Option<io::ErrorKind>,
}

impl<T> TlsStream<T> {
    pub(super) fn new(io: T, session: Session) -> Self {
        let (ahead, unsent) = (Vec::new(), Vec::new());
        Self(Box::new(Inner { io, session, ahead, read: 0, unsent, sent: 0, closing: false, lost: None }))
    }

    /// What was agreed: version, suite, protocol.
    pub fn state(&self) -> &CommonState {
        self.0.session.state()
    }

    /// The transport.
    pub const fn get_ref(&self) -> &T {
        &self.0.io
    }

    /// Gives the transport back, and forgets what was not sent or read.
    pub fn into_io(self) -> T {
        self.0.io
    }

    /// Whether anything was taken that the transport does not have yet.
    pub fn has_unsent(&self) -> bool {
        !self.0.unsent.is_empty()
    }

    /// How many bytes of its own the stream holds: 0 when nothing is unfinished.
    pub fn held(&self) -> usize {
        let Inner { session, ahead, unsent, .. } = &*self.0;
        session.capacity() + ahead.capacity() + unsent.capacity()
    }

    pub(super) fn end(&self) -> Option<&End> {
        self.0.session.end()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> TlsStream<T> {
    /// Reads at most as many bytes of records as `plain` has room for, and [`READ`], and opens them into it; 0 is the
    /// end, with or without `close_notify`, or no room. What finds none comes first the next time.
    ///
    /// # Errors
    ///
    /// Of the transport; `InvalidData` with a [`rustls::Error`], after everything that came before it.
    pub fn poll_open(&mut self, cx: &mut Context<'_>, plain: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut plain = ReadBuf::new(plain);
        self.take_ahead(&mut plain);
        while plain.filled().is_empty() && plain.remaining() > 0 {
            match self.0.session.end() {
                Some(End::Closed | End::Cut) => return Poll::Ready(Ok(0)),
                Some(End::Failed(error)) => {
                    let error = invalid(error);
                    // The alert may still wait, if the error came together with something else.
                    let _ = self.poll_drain(cx);
                    return Poll::Ready(Err(error));
                }
                None => {}
            }
            ready!(self.0.poll_fill(cx, &mut plain, After::Leave))?;
            if self.has_unsent() {
                // An alert; if it cannot go now it goes with the next write or flush.
                let _ = self.poll_drain(cx);
            }
        }
        Poll::Ready(Ok(plain.filled().len()))
    }

    /// Seals the start of `bytes`, at most [`SEAL`](crate::tls::SEAL), and writes it; how many bytes were taken. What
    /// the transport does not take is kept, and must go before more is taken.
    ///
    /// # Errors
    ///
    /// Of the transport, and the same ever after, for what it took is not known; `BrokenPipe` after
    /// [`TlsStream::poll_close`] or an alert.
    pub fn poll_seal(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.0.sent > 0 || self.0.unsent.len() > ALONG || self.0.lost.is_some() {
            ready!(self.poll_drain(cx))?;
        }
        if self.0.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let inner = &mut *self.0;
        let sealed = Scratch::with(|scratch| {
            let (taken, made) = inner.session.seal(bytes, &mut scratch.outgoing, &mut inner.unsent)?;
            let records = scratch.outgoing.get(..made).unwrap_or_default();
            let written = write(&mut inner.io, cx, records, &mut inner.lost)?;
            // Exactly as much as is left: this is what a stream with a slow reader costs.
            inner.unsent = records.get(written..).unwrap_or_default().to_vec();
            Ok(taken)
        });
        if sealed.is_err() {
            let _ = self.poll_drain(cx);
        }
        Poll::Ready(sealed)
    }

    /// Seals a few bytes without writing them: they go with what is written next, which should follow at once. How many
    /// bytes were taken: none if there are many, or if much waits already.
    pub fn seal_along(&mut self, bytes: &[u8]) -> usize {
        let Inner { session, unsent, sent, closing, .. } = &mut *self.0;
        if *closing || *sent > 0 || unsent.len() > ALONG || bytes.len() > ALONG / 2 {
            return 0;
        }
        let mut room = [0; 2 * ALONG];
        let Ok((taken, made)) = session.seal(bytes, &mut room, unsent) else { return 0 };
        *unsent = room.get(..made).unwrap_or_default().to_vec();
        taken
    }

    /// Hands the transport what was taken; ready when it has all of it.
    ///
    /// # Errors
    ///
    /// Of the transport.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Inner { io, unsent, sent, lost, .. } = &mut *self.0;
        let rest = unsent.get(*sent..).unwrap_or_default();
        let written = write(io, cx, rest, lost);
        if let Ok(more) = written {
            *sent += more;
            if *sent < unsent.len() {
                return Poll::Pending;
            }
        }
        *unsent = Vec::new();
        *sent = 0;
        Poll::Ready(written.map(drop))
    }

    /// Ends the writing side: what was taken, `close_notify`, the end of the transport. Reading goes on.
    ///
    /// # Errors
    ///
    /// Of the transport.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0;
        if !inner.closing {
            inner.closing = true;
            inner.session.close(&mut inner.unsent);
        }
        ready!(self.poll_drain(cx))?;
        match ready!(Pin::new(&mut self.0.io).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }

    /// Reads once, what may be meant for others than us, and opens it.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, plain: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_fill(cx, plain, After::Wipe)
    }

    fn take_ahead(&mut self, plain: &mut ReadBuf<'_>) {
        let Inner { ahead, read, .. } = &mut *self.0;
        if ahead.is_empty() {
            return;
        }
        *read += put(ahead.get(*read..).unwrap_or_default(), plain);
        if *read >= ahead.len() {
            ahead.zeroize();
            *ahead = Vec::new();
            *read = 0;
        }
    }
}

impl<T: AsyncRead + Unpin> Inner<T> {
    /// Reads once, and opens what came into `plain`. The end of the transport, and what else ends the session, is then
    /// known to the session.
    fn poll_fill(&mut self, cx: &mut Context<'_>, plain: &mut ReadBuf<'_>, after: After) -> Poll<io::Result<()>> {
        let most = plain.remaining().clamp(LEAST, READ);
        let Self { io, session, ahead, unsent, .. } = self;
        Scratch::with(|scratch| {
            let kept = session.kept();
            let Some(room) = scratch.incoming.get_mut(kept..kept + most) else {
                return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
            };
            let mut buffer = ReadBuf::new(room);
            ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            if read == 0 {
                session.cut();
                return Poll::Ready(Ok(()));
            }
            let incoming = scratch.incoming.get_mut(..kept + read).unwrap_or_default();
            session.open(
                incoming,
                |bytes| {
                    let taken = put(bytes, plain);
                    ahead.extend_from_slice(bytes.get(taken..).unwrap_or_default());
                },
                unsent,
            );
            if after == After::Wipe {
                scratch.wipe(kept + read);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let most = buf.remaining();
        this.take_ahead(buf);
        while buf.remaining() == most && most > 0 {
            match this.0.session.end() {
                Some(End::Closed) => return Poll::Ready(Ok(())),
                Some(End::Cut) => {
                    let detail = "the peer ended the connection without close_notify";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, detail)));
                }
                Some(End::Failed(error)) => {
                    let error = invalid(error);
                    let _ = this.poll_drain(cx);
                    return Poll::Ready(Err(error));
                }
                None => {}
            }
            let filled = this.poll_fill(cx, buf);
            if filled.is_pending() || this.end().is_some() {
                // What rustls answered, such as session tickets, goes with what is written next; but that may be
                // long to come. If it cannot go, the next write says why.
                let _ = this.poll_drain(cx);
            }
            ready!(filled)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.0.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close(cx)
    }
}

impl<T> fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("end", &self.0.session.end()).finish_non_exhaustive()
    }
}

/// Writes as much as `io` takes now; less than all of it has `cx` woken when there is room. An error is `lost` for good.
fn write(
    io: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    bytes: &[u8],
    lost: &mut Option<io::ErrorKind>,
) -> io::Result<usize> {
    if let Some(kind) = *lost {
        return Err(kind.into());
    }
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        let error = match Pin::new(&mut *io).poll_write(cx, rest) {
            Poll::Ready(Ok(0)) => io::ErrorKind::WriteZero.into(),
            Poll::Ready(Ok(more)) => {
                written += more;
                continue;
            }
            Poll::Ready(Err(error)) => error,
            Poll::Pending => break,
        };
        *lost = Some(error.kind());
        return Err(error);
    }
    Ok(written)
}

/// Puts as much of `bytes` as there is room for; how much that was.
fn put(bytes: &[u8], plain: &mut ReadBuf<'_>) -> usize {
    let (now, _) = bytes.split_at(bytes.len().min(plain.remaining()));
    plain.put_slice(now);
    now.len()
}

pub(super) fn invalid(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}

/// How much of what waits goes in one write with what is sealed next, bytes.
const ALONG: usize = 2048;
/// What is read at least, where the reader has room for less: heads of requests come whole.
const LEAST: usize = 4096;
