//! The wire over a connection taken back from tokio-rustls, driven through rustls' buffered API: TLS towards a `wss://`
//! service.
//!
//! Ciphertext is read into shared scratch and opened from there; a chunk is sealed in one go and leaves in one write.
//! What the kernel did not take stays sealed in rustls, at most one chunk, and is flushed before anything else.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::wire::{HEADROOM, Scratch, Wire};

/// A TLS connection over TCP, its handshake done; either end of it.
pub struct TlsWire {
    tcp: TcpStream,
    tls: Connection,
    /// The peer will send no more: `close_notify`, or the end of TCP without one.
    ended: bool,
    /// Our `close_notify` is sealed.
    finishing: bool,
    /// What was wrong with a record, until the records before it are handed on.
    broken: Option<io::Error>,
}

impl TlsWire {
    /// The wire over this connection.
    pub fn new(tcp: TcpStream, tls: impl Into<Connection>) -> Self {
        let mut tls = tls.into();
        // A send takes a whole chunk or nothing: the bound is ours, in `poll_send`.
        tls.set_buffer_limit(None);
        Self { tcp, tls, ended: false, finishing: false, broken: None }
    }

    /// Moves what is open already into `plain`; how much that was.
    fn take_plaintext(&mut self, plain: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(room) = plain.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.tls.reader().read(room) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Opens `sealed` into `plain`; how much plaintext that gave. `plain` has room for all of it.
    fn open(&mut self, mut sealed: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !sealed.is_empty() && !self.ended {
            if self.tls.read_tls(&mut sealed)? == 0 {
                // After `close_notify` rustls takes no more; whatever follows must be ignored (RFC 8446, section 6.1).
                break;
            }
            let processed = self.tls.process_new_packets();
            // Good records that came before a broken one count.
            filled += self.take_plaintext(plain.get_mut(filled..).unwrap_or_default())?;
            if let Err(error) = processed {
                self.broken = Some(io::Error::new(io::ErrorKind::InvalidData, error));
                break;
            }
        }
        Ok(filled)
    }
}

impl Wire for TlsWire {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        let Scratch { plain, sealed } = scratch;
        let plain = plain.get_mut(HEADROOM..).unwrap_or_default();
        // hyper and tokio-rustls may have opened more than they handed on.
        let waiting = self.take_plaintext(plain)?;
        if waiting > 0 || self.ended {
            return Poll::Ready(Ok(waiting));
        }
        loop {
            if let Some(error) = self.broken.take() {
                self.ended = true;
                return Poll::Ready(Err(error));
            }
            let mut buffer = ReadBuf::new(sealed);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(0));
            }
            let opened = self.open(buffer.filled(), plain);
            if self.tls.wants_write() {
                // The answer to a KeyUpdate, or the alert that says what was wrong with a record.
                let _ = self.poll_flush(cx);
            }
            match opened {
                Ok(0) if !self.ended => {}
                opened => return Poll::Ready(opened),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.finishing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_flush(cx))?;
        self.tls.writer().write_all(bytes)?;
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut PollWrite(&mut self.tcp, cx)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn unsent(&self) -> bool {
        self.tls.wants_write()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finishing {
            self.finishing = true;
            self.tls.send_close_notify();
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn is_broken(&self) -> bool {
        super::tcp::is_broken(&self.tcp)
    }

    fn abort(self) {
        super::tcp::reset(self.tcp);
    }
}

/// A synchronous writer over a poll, for rustls: `Pending` becomes `WouldBlock`.
struct PollWrite<'a, 'b>(&'a mut TcpStream, &'a mut Context<'b>);

impl Write for PollWrite<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(Pin::new(&mut *self.0).poll_write(self.1, bytes))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        would_block(Pin::new(&mut *self.0).poll_write_vectored(self.1, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn would_block(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
