//! The wire over one stream of an HTTP/2 connection (RFC 8441), and how it comes from the connection's task to the
//! stream's.
//!
//! What the client sends is taken from the connection as soon as it is there, also while it cannot go on: small DATA
//! frames that waited in the connection would be charged to all streams on it. The client's window opens as the relay
//! takes what it sent, which it does until it is blocked: a stream holds two windows at most. What is written counts as
//! unsent until the connection has it in its own buffer, which is flushed at once.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use h2::{Reason, RecvStream, SendStream};
use tokio::sync::{oneshot, watch};

use crate::wire::{Scratch, Wire};

/// One stream of an HTTP/2 connection that carries a WebSocket.
pub struct Http2Wire {
    send: SendStream<Piece>,
    recv: RecvStream,
    /// Taken from the connection and not handed on; the client's window is as much smaller.
    ahead: Vec<u8>,
    /// How the client's side has ended, once everything before it is in `ahead`.
    end: Option<Result<(), io::ErrorKind>>,
    unsent: Arc<Unsent>,
    finished: bool,
    busy: Busy,
}

impl Http2Wire {
    /// The wire over this stream, whose head is answered.
    pub fn new(send: SendStream<Piece>, recv: RecvStream, busy: Busy) -> Self {
        let (ahead, unsent) = (Vec::new(), Arc::default());
        Self { send, recv, ahead, end: None, unsent, finished: false, busy }
    }

    /// Takes what is there. It ends with what the window allows.
    fn take(&mut self, cx: &mut Context<'_>, mut put: impl FnMut(&[u8]) -> usize) {
        while self.end.is_none() {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    let taken = if self.ahead.is_empty() { put(&data) } else { 0 };
                    // A copy: the original would keep the connection's read buffer alive.
                    self.ahead.extend_from_slice(data.get(taken..).unwrap_or_default());
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(kind(&error))),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => return,
            }
        }
    }

    /// Ready with how much may be written now, at most `wanted`.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(wanted.min(MOST));
        loop {
            match self.send.capacity() {
                0 => {}
                room => return Poll::Ready(Ok(room.min(wanted))),
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(kind(&error).into())),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

impl Wire for Http2Wire {
    fn let_in(&mut self) {
        self.busy.let_in();
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        let mut room = scratch.chunk();
        let most = room.len();
        let mut put = |bytes: &[u8]| {
            let now = bytes.len().min(room.len());
            let (filled, rest) = std::mem::take(&mut room).split_at_mut(now);
            filled.copy_from_slice(bytes.get(..now).unwrap_or_default());
            room = rest;
            now
        };
        let handed = put(&self.ahead);
        self.ahead = self.ahead.split_off(handed);
        self.take(cx, &mut put);
        match (most - room.len(), self.end) {
            (0, None) => Poll::Pending,
            (0, Some(Ok(()))) => Poll::Ready(Ok(0)),
            (0, Some(Err(kind))) => Poll::Ready(Err(kind.into())),
            (filled, _) => {
                // An error says that the stream is closed, which the next read will tell.
                let _ = self.recv.flow_control().release_capacity(filled);
                Poll::Ready(Ok(filled))
            }
        }
    }

    fn hoard(&mut self, cx: &mut Context<'_>) {
        self.take(cx, |_| 0);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, bytes.len()))?;
        let piece = Piece::counted(bytes.get(..room).unwrap_or_default(), &self.unsent);
        let sent = self.send.send_data(piece, false);
        // What this stream does not use is the others'.
        self.send.reserve_capacity(0);
        Poll::Ready(sent.map(|()| room).map_err(|error| kind(&error).into()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unsent.poll_none(cx).map(Ok)
    }

    fn unsent(&self) -> bool {
        self.unsent.pieces.load(Ordering::Acquire) > 0
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            if let Err(error) = self.send.send_data(Piece::whole(Bytes::new()), true) {
                return Poll::Ready(Err(kind(&error).into()));
            }
        }
        self.poll_flush(cx)
    }

    fn is_broken(&self) -> bool {
        matches!(self.end, Some(Err(_)))
    }

    fn abort(mut self) {
        // What a reset of the connection is over TCP (RFC 8441, section 5).
        self.send.send_reset(Reason::CANCEL);
    }
}

fn kind(error: &h2::Error) -> io::ErrorKind {
    match error.get_io() {
        Some(error) => error.kind(),
        None if error.is_reset() => io::ErrorKind::ConnectionReset,
        None => io::ErrorKind::ConnectionAborted,
    }
}

/// Bytes on their way into an HTTP/2 connection.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    unsent: Option<Arc<Unsent>>,
}

impl Piece {
    /// Bytes that nobody counts.
    pub const fn whole(bytes: Bytes) -> Self {
        Self { bytes, unsent: None }
    }

    fn counted(bytes: &[u8], unsent: &Arc<Unsent>) -> Self {
        unsent.pieces.fetch_add(1, Ordering::Relaxed);
        Self { bytes: Bytes::copy_from_slice(bytes), unsent: Some(unsent.clone()) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(unsent) = &self.unsent
            && unsent.pieces.fetch_sub(1, Ordering::Release) == 1
        {
            unsent.waker.wake();
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// How many pieces of a stream the connection has not taken.
#[derive(Debug, Default)]
struct Unsent {
    pieces: AtomicUsize,
    waker: AtomicWaker,
}

impl Unsent {
    fn poll_none(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pieces.load(Ordering::Acquire) == 0 {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // The last one may have gone in between.
        if self.pieces.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What goes on on an HTTP/2 connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that are being answered, and streams.
    pub busy: usize,
    /// Those of them that were let in.
    pub carried: usize,
    /// How many were let in since the connection began.
    pub ever: u64,
}

/// A request that is being answered, or a stream; counted until it is dropped.
#[derive(Debug)]
pub struct Busy {
    load: watch::Sender<Load>,
    let_in: bool,
}

impl Busy {
    /// One more.
    pub fn begin(load: &watch::Sender<Load>) -> Self {
        load.send_modify(|load| load.busy += 1);
        Self { load: load.clone(), let_in: false }
    }

    /// It was let in, and is now a stream or an answer that takes its time.
    pub fn let_in(&mut self) {
        if !std::mem::replace(&mut self.let_in, true) {
            self.load.send_modify(|load| {
                load.carried += 1;
                load.ever += 1;
            });
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.load.send_modify(|load| {
            load.busy -= 1;
            load.carried -= usize::from(self.let_in);
        });
    }
}

/// Gives a request's stream, once its answer is on its way. Clones are for the same stream, which one of them gets.
#[derive(Clone, Debug)]
pub struct Tunnel(Arc<Mutex<Option<oneshot::Receiver<Http2Wire>>>>);

impl Tunnel {
    /// Both ends.
    pub fn new() -> (oneshot::Sender<Http2Wire>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(Arc::new(Mutex::new(Some(receiver)))))
    }

    /// The stream; `None` if the client went away before it was answered, or if it was given out before.
    pub async fn wire(self) -> Option<Http2Wire> {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        receiver?.await.ok()
    }
}

impl std::fmt::Debug for Http2Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http2Wire")
    }
}

/// The most that a stream asks room for at once, bytes.
const MOST: usize = 64 * 1024;
