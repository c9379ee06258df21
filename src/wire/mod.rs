//! A byte stream as the relay needs it, over TLS and TCP.
//!
//! A wire keeps no buffer of ours while nothing is under way. What it reads goes into [`Scratch`], which all streams of
//! a thread share; no borrow of it outlives a poll.

#[cfg(feature = "buffered-tls")]
pub mod buffered;
pub mod http2;
pub mod served;
pub mod tcp;
pub mod tls;

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

pub use http2::Http2Wire;
pub use tcp::TcpWire;
pub use tls::TlsWire;
use tokio::net::TcpStream;

use crate::tls::TlsStream;

// Who serves a client's TLS: its handshake (`accept`) and what hyper reads and writes (`Stream`).
#[cfg(feature = "buffered-tls")]
pub use buffered as server;
#[cfg(not(feature = "buffered-tls"))]
pub use served as server;

/// One side of a stream.
pub trait Wire: Send {
    /// Says that the client was let in: a stream begins. Before that it may be one whose token is still awaited, or that is
    /// being refused.
    fn let_in(&mut self) {}

    /// Reads what is there, at most [`CHUNK`] bytes, into `scratch` behind its headroom; 0 is the end of the stream,
    /// with or without a TLS `close_notify`.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>>;

    /// Takes in what has come while it cannot go on, where it must not wait outside: on a connection that others share. Has
    /// `cx` woken when more comes. Bounded by the wire.
    fn hoard(&mut self, _cx: &mut Context<'_>) {}

    /// Takes bytes to write. Answers how many it took, at least 1 of a non-empty slice; what it took it keeps until the
    /// kernel has it (see [`Wire::unsent`]). `Pending` takes nothing.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Takes a few bytes without writing them, to go in one write with what follows at once. Answers how many it took,
    /// maybe none; always none where there is nothing to be saved by it.
    fn hold(&mut self, _bytes: &[u8]) -> usize {
        0
    }

    /// Hands what was taken to the kernel; ready when all of it is there.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether anything was taken that the kernel does not have yet.
    fn unsent(&self) -> bool;

    /// Ends the writing side: flush, `close_notify` where there is TLS, FIN. Reading goes on.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether the connection is known to be dead, without reading from it. Asked now and then about a side that is not read
    /// because the other one is blocked.
    fn is_broken(&self) -> bool;

    /// Resets the connection: the peer's reads fail and nothing that is still unsent reaches it.
    fn abort(self);
}

/// The most bytes that one read takes from the kernel.
pub const READ: usize = 64 * 1024;

/// The most bytes of plaintext that one read gives: what was read, and the start of a TLS record that came before it.
pub const CHUNK: usize = READ + 18 * 1024;

/// Room in front of a chunk, for the few bytes of an unfinished head that were held back before.
pub const HEADROOM: usize = 256;

/// Buffers that all streams of a thread share.
pub struct Scratch {
    /// Headroom, then plaintext.
    pub plain: Box<[u8]>,
    /// TLS records of a `wss://` service, as they came from the kernel.
    pub sealed: Box<[u8]>,
}

impl Scratch {
    /// Fresh buffers.
    pub fn new() -> Self {
        Self { plain: vec![0; HEADROOM + CHUNK].into_boxed_slice(), sealed: vec![0; READ].into_boxed_slice() }
    }

    /// Where a wire puts its plaintext.
    pub fn chunk(&mut self) -> &mut [u8] {
        self.plain.get_mut(HEADROOM..).unwrap_or_default()
    }

    /// In debug builds, overwrites everything: no stream may find there what another has left.
    pub fn poison(&mut self) {
        if cfg!(debug_assertions) {
            self.plain.fill(0xa5);
            self.sealed.fill(0xa5);
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `work` with the thread's scratch. Must not be called within `work`.
pub fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let result = work(scratch);
        scratch.poison();
        result
    })
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The wires of the gateway: TLS or TCP, on either side; a stream of an HTTP/2 connection on the client's.
pub enum Socket {
    /// TLS with a client, which we serve.
    Served(TlsStream<TcpStream>),
    /// TLS by tokio-rustls: with a service, whose client we are.
    Tls(Box<TlsWire>),
    /// Plain TCP.
    Tcp(TcpWire),
    /// One stream of a client's HTTP/2 connection.
    Http2(Box<Http2Wire>),
}

impl From<Http2Wire> for Socket {
    fn from(wire: Http2Wire) -> Self {
        Self::Http2(Box::new(wire))
    }
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(TcpWire::new(tcp))
    }
}

impl From<TlsStream<TcpStream>> for Socket {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Served(stream)
    }
}

impl From<tokio_rustls::client::TlsStream<TcpStream>> for Socket {
    fn from(stream: tokio_rustls::client::TlsStream<TcpStream>) -> Self {
        let (tcp, tls) = stream.into_inner();
        Self::Tls(Box::new(TlsWire::new(tcp, tls)))
    }
}

macro_rules! either {
    ($socket:expr, $wire:ident => $call:expr) => {
        match $socket {
            Socket::Served($wire) => $call,
            Socket::Tls($wire) => $call,
            Socket::Tcp($wire) => $call,
            Socket::Http2($wire) => $call,
        }
    };
}

impl Wire for Socket {
    fn let_in(&mut self) {
        either!(self, wire => wire.let_in());
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        either!(self, wire => wire.poll_chunk(cx, scratch))
    }

    fn hoard(&mut self, cx: &mut Context<'_>) {
        either!(self, wire => wire.hoard(cx));
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, wire => wire.poll_send(cx, bytes))
    }

    fn hold(&mut self, bytes: &[u8]) -> usize {
        either!(self, wire => wire.hold(bytes))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, wire => wire.poll_flush(cx))
    }

    fn unsent(&self) -> bool {
        either!(self, wire => wire.unsent())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, wire => wire.poll_finish(cx))
    }

    fn is_broken(&self) -> bool {
        either!(self, wire => wire.is_broken())
    }

    fn abort(self) {
        match self {
            Self::Served(wire) => wire.abort(),
            Self::Tls(wire) => wire.abort(),
            Self::Tcp(wire) => wire.abort(),
            Self::Http2(wire) => wire.abort(),
        }
    }
}
