//! A client's connection between its `101` and its stream, or its end: nothing stands behind it yet.
//!
//! Hears the first message and takes leave; decides nothing. A ping is answered, and of many only the last one that
//! could not be answered at once (RFC 6455, section 5.5.3), so that a client that never reads makes nothing grow. What
//! is held is the message under way and, when it is whole, what came in the same chunk.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use zeroize::{Zeroize as _, Zeroizing};

use crate::wire::{HEADROOM, Scratch, Wire, with_scratch};
use crate::ws::Sender;
use crate::ws::message::{self, Assembler, Event, Fault};

/// See the module.
pub struct Door<W> {
    wire: W,
    assembler: Assembler,
    /// What had been read before; looked at first.
    early: Bytes,
    /// The rest of a frame that is being sent.
    outbox: Vec<u8>,
    /// The pong that comes after it.
    pong: Option<Vec<u8>>,
    /// Our Close has gone out, or is on its way: no pong follows it.
    leaving: bool,
    /// Where the next frame begins is not known.
    broken: bool,
}

/// What came of waiting for the first message.
#[derive(Debug)]
pub enum Heard {
    /// The client closed, with this code.
    Closed(Option<u16>),
    /// The client's connection ended.
    Lost,
    /// A text message.
    Message(Message),
    /// What came can be no first message.
    Unusable(Fault),
}

/// The first message.
#[derive(Debug)]
pub struct Message {
    /// Its frames, as they came.
    pub frames: Zeroizing<Vec<u8>>,
    /// What came with it, from the next frame on.
    pub rest: Zeroizing<Vec<u8>>,
}

/// How the client is taken leave of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// By our Close; its own is waited for.
    First,
    /// By the answer to its Close.
    Answer,
}

impl<W: Wire> Door<W> {
    /// The door over this connection, of which `early` has been read. Messages of at most `cap` bytes are heard.
    pub fn new(wire: W, early: Bytes, cap: usize) -> Self {
        let assembler = Assembler::new(Sender::Client, cap);
        Self { wire, assembler, early, outbox: Vec::new(), pong: None, leaving: false, broken: false }
    }

    /// The connection, of which everything up to the message and what came with it has been read.
    pub fn into_wire(self) -> W {
        self.wire
    }

    /// Takes back what came with the message, which went nowhere.
    pub fn take_back(&mut self, rest: Zeroizing<Vec<u8>>) {
        self.early = Bytes::from_owner(rest);
    }

    /// Waits for the first message; nothing is on its way to the client then. The caller bounds the time.
    pub async fn first_message(&mut self) -> Heard {
        let heard = self.hear().await;
        match &heard {
            Heard::Message(_) if poll_fn(|cx| self.poll_flush(cx)).await.is_err() => Heard::Lost,
            _ => heard,
        }
    }

    /// Sends the client `frame`, a Close, and lets go of the connection: in order when the client is done too, or after
    /// `patience`; by a reset if it has not taken the Close by then.
    pub async fn leave(mut self, frame: &[u8], leave: Leave, patience: Duration) {
        self.pong = None;
        self.leaving = true;
        self.outbox.extend_from_slice(frame);
        let farewell = async {
            if leave == Leave::First {
                self.assembler.discard();
                while !matches!(self.hear().await, Heard::Closed(_) | Heard::Lost) {}
            }
            poll_fn(|cx| self.poll_flush(cx)).await
        };
        // Late or lost: what is not the kernel's by then is given up below.
        let _ = tokio::time::timeout(patience, farewell).await;
        if self.outbox.is_empty() && !self.wire.unsent() {
            // As well as it goes without waiting.
            let _ = poll_fn(|cx| Poll::Ready(self.wire.poll_finish(cx))).await;
        } else {
            self.wire.abort();
        }
    }

    async fn hear(&mut self) -> Heard {
        loop {
            let early = std::mem::take(&mut self.early);
            if let Some(heard) = self.look(&early) {
                return heard;
            }
            match poll_fn(|cx| with_scratch(|scratch| self.poll_chunks(cx, scratch))).await {
                Some(heard) => return heard,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Ready without anything heard when others should have their turn.
    fn poll_chunks(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Option<Heard>> {
        for _ in 0..BUDGET {
            if let Poll::Ready(Err(_)) = self.poll_flush(cx) {
                return Poll::Ready(Some(Heard::Lost));
            }
            let Ok(read @ 1..) = ready!(self.wire.poll_chunk(cx, scratch)) else {
                return Poll::Ready(Some(Heard::Lost));
            };
            let chunk = scratch.plain.get_mut(HEADROOM..HEADROOM + read).unwrap_or_default();
            let heard = self.look(chunk);
            // It may have held a token.
            chunk.zeroize();
            if heard.is_some() {
                return Poll::Ready(heard);
            }
        }
        Poll::Ready(None)
    }

    fn look(&mut self, mut bytes: &[u8]) -> Option<Heard> {
        while !bytes.is_empty() && !self.broken {
            let (read, event) = self.assembler.feed(bytes);
            bytes = bytes.get(read..).unwrap_or_default();
            match event {
                Ok(None | Some(Event::Pong)) => {}
                Ok(Some(Event::Ping(payload))) if !self.leaving => self.pong = Some(message::pong(&payload)),
                Ok(Some(Event::Ping(_))) => {}
                Ok(Some(Event::Close(frame))) => return Some(Heard::Closed(frame.code)),
                Ok(Some(Event::Message)) => {
                    let rest = Zeroizing::new(bytes.to_vec());
                    return Some(Heard::Message(Message { frames: self.assembler.take(), rest }));
                }
                Err(fault) => {
                    self.broken = matches!(fault, Fault::Violation(_));
                    self.early = Bytes::copy_from_slice(bytes);
                    return Some(Heard::Unusable(fault));
                }
            }
        }
        None
    }

    /// Hands what is for the client to the kernel; ready when all of it is there.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.outbox.is_empty() {
                match self.pong.take() {
                    Some(pong) => self.outbox = pong,
                    None => return self.wire.poll_flush(cx),
                }
            }
            let taken = ready!(self.wire.poll_send(cx, &self.outbox))?;
            self.outbox = self.outbox.get(taken..).unwrap_or_default().to_vec();
        }
    }
}

/// Chunks that are read before others have their turn.
const BUDGET: usize = 8;
