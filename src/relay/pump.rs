//! One side of a stream and what comes from it: read, scanned, judged, written to the other side.

use std::borrow::Cow;
use std::io;
use std::task::{Context, Poll, ready};

use crate::clock::{Clock, Mono, Now};
use crate::registry::Guard;
use crate::relay::asked::{Asked, Own};
use crate::stream::{CloseReason, Flow, Passage, Side, Stream, Traffic};
use crate::wire::{HEADROOM, Scratch, Wire};
use crate::ws::{Extensions, Ruling, Scanner, Sender, Step};

/// One side: its wire, what it sent that waits, and what waits for it.
pub(super) struct Leg<W> {
    pub(super) side: Side,
    wire: Option<W>,
    /// Stands where the other side's writing stands: every byte before it was judged and written, none behind it.
    pub(super) scanner: Scanner,
    /// What this side sent and the scanner has not passed: because the other side is blocked, or, if `starved`, because
    /// it is the start of a head that must come whole. At most a chunk and a held head.
    pending: Vec<u8>,
    starved: bool,
    /// What must go to this side before anything else: the rest of a head whose first bytes are gone, a Close.
    pub(super) outbox: Vec<u8>,
    /// What only routes need that ask for it; nothing on all others.
    pub(super) asked: Option<Box<Asked>>,
    /// When something last came from this side.
    pub(super) heard: Mono,
    /// What went on from this side to the other.
    pub(super) traffic: Traffic,
}

/// The state machine with the time it is asked at, which is read for each chunk when the chunk is there: reading and
/// opening one can take milliseconds.
pub(super) struct Judged<'a> {
    pub(super) stream: &'a mut Stream,
    pub(super) guard: &'a Guard,
    pub(super) clock: &'a Clock,
    pub(super) now: Now,
}

/// Why a frame does not simply go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The stream ends.
    End(CloseReason),
    /// It begins a message that may be a token.
    Look,
    /// It begins a message, and the gateway has something to say first.
    Notices,
    /// The gateway has a ping to send first.
    Ping,
    /// It may be the answer to one.
    Pong,
}

/// Why bytes were left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing is left.
    Nothing,
    /// The other side takes no more, or must be told something first.
    Blocked,
    /// The start of a head: more must come.
    Starved,
    /// Something else stands before it now, to be judged like all frames; see [`Asked::between`].
    Spliced,
}

impl<W: Wire> Leg<W> {
    pub(super) fn new(side: Side, wire: W, sender: Sender, extensions: Extensions, early: &[u8]) -> Self {
        Self {
            side,
            wire: Some(wire),
            scanner: Scanner::new(sender, extensions),
            pending: early.to_vec(),
            starved: false,
            outbox: Vec::new(),
            asked: None,
            heard: Mono::default(),
            traffic: Traffic::default(),
        }
    }

    /// Bytes that the other side still misses of the frame under way; 0 between two frames.
    pub(super) const fn rest(&self) -> u64 {
        self.scanner.rest()
    }

    /// Whether everything that can go on from this side has gone.
    pub(super) fn is_drained(&self) -> bool {
        self.pending.is_empty() || self.starved
    }

    /// Whether this side is not read because the other one takes no more.
    pub(super) fn is_blocked(&self) -> bool {
        !self.is_drained()
    }

    /// Whether this side, which is not read, is known to be dead.
    pub(super) fn is_broken(&self) -> bool {
        self.is_blocked() && self.wire.as_ref().is_some_and(Wire::is_broken)
    }

    /// Drops what waits for the other side.
    pub(super) fn forget(&mut self) {
        self.pending = Vec::new();
    }

    /// Whether anything for this side is on its way, and not yet the kernel's.
    pub(super) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty() || self.wire.as_ref().is_some_and(Wire::unsent)
    }

    /// Puts bytes in line for this side.
    pub(super) fn enqueue(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    /// Moves what this side sends to the other side, as far as it goes now.
    pub(super) fn pump<V: Wire>(
        &mut self,
        to: &mut Leg<V>,
        (stream, clock, guard): (&mut Stream, &Clock, &Guard),
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) {
        for _ in 0..BUDGET {
            if !self.is_drained() {
                let pending = std::mem::take(&mut self.pending);
                let judged = &mut Judged { stream, guard, clock, now: clock.now() };
                let (used, left) = self.feed(&pending, to, judged, cx);
                self.keep(pending.get(used..).unwrap_or_default(), left, cx);
                match left {
                    Left::Blocked => return self.note_unread(Some(judged.now.mono)),
                    // More is read only when what is held has gone: else it would grow with each such message.
                    Left::Spliced => continue,
                    Left::Nothing | Left::Starved => {}
                }
            }
            let Some(wire) = self.wire.as_mut().filter(|_| stream.flow(self.side) != Flow::Ended) else {
                return;
            };
            match wire.poll_chunk(cx, scratch) {
                Poll::Pending => return self.note_unread(None),
                Poll::Ready(Ok(read)) if read > 0 => {
                    let judged = &mut Judged { stream, guard, clock, now: clock.now() };
                    self.heard = judged.now.mono;
                    let chunk = self.join_held(scratch, read);
                    let (used, left) = self.feed(&chunk, to, judged, cx);
                    self.keep(chunk.get(used..).unwrap_or_default(), left, cx);
                    if left == Left::Blocked {
                        return self.note_unread(Some(judged.now.mono));
                    }
                }
                Poll::Ready(end) => {
                    self.pending = Vec::new();
                    let now = clock.now();
                    stream.on_end(self.side, now);
                    if end.is_err() {
                        stream.on_unwritable(self.side, now);
                    }
                    return;
                }
            }
        }
        // Others have their turn before this side is read again.
        super::give_way(cx);
    }

    /// The chunk, with the bytes that were held back put in front of it.
    fn join_held<'s>(&mut self, scratch: &'s mut Scratch, read: usize) -> Cow<'s, [u8]> {
        let mut held = std::mem::take(&mut self.pending);
        if held.len() > HEADROOM {
            held.extend_from_slice(scratch.plain.get(HEADROOM..HEADROOM + read).unwrap_or_default());
            return held.into();
        }
        let start = HEADROOM.saturating_sub(held.len());
        if let Some(headroom) = scratch.plain.get_mut(start..start + held.len()) {
            headroom.copy_from_slice(&held);
        }
        scratch.plain.get(start..HEADROOM + read).unwrap_or_default().into()
    }

    /// Keeps what is left over until the next poll. What comes after it must not stand in the way of others.
    fn keep(&mut self, rest: &[u8], left: Left, cx: &mut Context<'_>) {
        self.starved = left == Left::Starved;
        if let Some(wire) = self.wire.as_mut().filter(|_| left == Left::Blocked) {
            wire.hoard(cx);
        }
        let most = if self.reader().is_some() { HELD_IN_BAND } else { Scanner::MAX_HELD };
        debug_assert!(!self.starved || rest.len() <= most, "only the start of a head is held, or what may be a token");
        self.pending = rest.to_vec();
        if left == Left::Spliced
            && let Some(asked) = &mut self.asked
        {
            self.pending.splice(..0, std::mem::take(&mut asked.between));
        }
    }

    /// Lets `bytes` go as far as they may; answers how many are done with, and why the others are not.
    fn feed<V: Wire>(
        &mut self,
        bytes: &[u8],
        to: &mut Leg<V>,
        judged: &mut Judged<'_>,
        cx: &mut Context<'_>,
    ) -> (usize, Left) {
        let mut at = 0;
        loop {
            let Some(tail) = bytes.get(at..).filter(|tail| !tail.is_empty()) else {
                return (bytes.len(), Left::Nothing);
            };
            let (used, left) = match judged.stream.flow(self.side) {
                Flow::Ended | Flow::Ignore => return (bytes.len(), Left::Nothing),
                Flow::Discard => self.discard(tail, judged),
                Flow::Finish if self.scanner.on_boundary() => (0, Left::Blocked),
                flow => self.pass(tail, flow, to, judged, cx),
            };
            at += used;
            if left != Left::Nothing {
                return (at, left);
            }
        }
    }

    /// Follows heads up to the side's Close; nothing goes on.
    fn discard(&mut self, bytes: &[u8], judged: &mut Judged<'_>) -> (usize, Left) {
        match self.scanner.step(bytes, |_| Ruling::<CloseReason>::Pass) {
            Step::Pass { bytes, .. } => (bytes, Left::Nothing),
            Step::Close { bytes, frame } => {
                judged.stream.on_close(self.side, frame.code, judged.now);
                (bytes, Left::Nothing)
            }
            Step::Hold => (0, Left::Starved),
            Step::Cut(_) | Step::Violation(_) => {
                judged.stream.on_violation(self.side, judged.now);
                (0, Left::Nothing)
            }
        }
    }

    /// Judges what stands at the start of `bytes`, and writes what may go.
    fn pass<V: Wire>(
        &mut self,
        bytes: &[u8],
        flow: Flow,
        to: &mut Leg<V>,
        judged: &mut Judged<'_>,
        cx: &mut Context<'_>,
    ) -> (usize, Left) {
        match to.poll_outbox(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                judged.stream.on_unwritable(to.side, judged.now);
                return (0, Left::Nothing);
            }
            Poll::Pending => return (0, Left::Blocked),
        }
        let start = self.scanner;
        // The rest of a frame that has begun may go; nothing after it.
        let verdict = match flow {
            Flow::Pass => judged.stream.judge(judged.now),
            _ => Some(judged.stream.reason().unwrap_or(CloseReason::Expired)),
        };
        let step = match (verdict, &self.asked, to.own()) {
            (None, None, Own::Nothing) => self.scanner.step(bytes, |_| Ruling::Pass),
            (verdict, _, own) => self.step_by_rules(bytes, verdict, own, judged.now.mono),
        };
        match step {
            Step::Pass { bytes: passed, frames } => {
                let passed = bytes.get(..passed).unwrap_or_default();
                let (used, left) = self.write(start, passed, frames, to, judged, cx);
                if let Some(asked) = self.asked.as_mut().filter(|_| used > 0) {
                    asked.passed();
                }
                (used, left)
            }
            Step::Close { bytes: length, frame } => {
                if judged.stream.on_close(self.side, frame.code, judged.now) == Passage::Forward {
                    to.enqueue(bytes.get(..length).unwrap_or_default());
                    self.count(length, 1);
                }
                (length, Left::Nothing)
            }
            Step::Hold => (0, Left::Starved),
            Step::Cut(stop) => self.stopped(stop, bytes, to, judged, cx),
            Step::Violation(_) => {
                judged.stream.on_violation(self.side, judged.now);
                (0, Left::Nothing)
            }
        }
    }

    /// The frame that begins `bytes` does not simply go on.
    // Apart from the way of all others, which is shorter without it.
    #[inline(never)]
    fn stopped<V: Wire>(
        &mut self,
        stop: Stop,
        bytes: &[u8],
        to: &mut Leg<V>,
        judged: &mut Judged<'_>,
        cx: &mut Context<'_>,
    ) -> (usize, Left) {
        match stop {
            Stop::End(reason) => {
                judged.stream.on_cut(reason, judged.now);
                (0, Left::Nothing)
            }
            Stop::Notices => {
                to.enqueue_notices();
                (0, Left::Nothing)
            }
            Stop::Ping => {
                match to.pings() {
                    Some(pings) if !judged.stream.is_calm() => pings.stop(),
                    _ => to.enqueue_ping(judged.now),
                }
                (0, Left::Nothing)
            }
            Stop::Pong => match self.pings().and_then(|pings| pings.look(bytes)) {
                Some(left_out) => (left_out, Left::Nothing),
                None => (0, Left::Starved),
            },
            Stop::Look => self.look(bytes, judged, cx),
        }
    }

    /// Writes `passed`, over which the scanner has moved from `start`, with what was counted there; what could not be
    /// written is judged again later, so the scanner goes back to where the writing ended.
    fn write<V: Wire>(
        &mut self,
        start: Scanner,
        passed: &[u8],
        frames: u64,
        to: &mut Leg<V>,
        judged: &mut Judged<'_>,
        cx: &mut Context<'_>,
    ) -> (usize, Left) {
        match to.poll_send(cx, passed) {
            Poll::Ready(Ok(written)) if written >= passed.len() => {
                self.count(passed.len(), frames);
                (passed.len(), Left::Nothing)
            }
            Poll::Ready(Ok(written)) => {
                self.go_back(start);
                let (committed, frames) = match self.asked.as_deref_mut() {
                    None => self.scanner.advance(passed, written, |_| {}),
                    Some(asked) => self.scanner.advance(passed, written, |head| asked.count(head, judged.now.mono)),
                };
                to.enqueue(passed.get(written..committed).unwrap_or_default());
                self.count(committed, frames);
                // Not blocked yet: the next write tells.
                (committed, Left::Nothing)
            }
            Poll::Ready(Err(_)) => {
                self.go_back(start);
                judged.stream.on_unwritable(to.side, judged.now);
                (0, Left::Nothing)
            }
            Poll::Pending => {
                self.go_back(start);
                (0, Left::Blocked)
            }
        }
    }

    fn go_back(&mut self, start: Scanner) {
        self.scanner = start;
        if let Some(asked) = &mut self.asked {
            asked.go_back();
        }
    }

    fn count(&mut self, bytes: usize, frames: u64) {
        self.traffic.bytes += bytes as u64;
        self.traffic.frames += frames;
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Some(wire) => wire.poll_send(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes what is in line for this side; ready when nothing is.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let bytes = std::mem::take(&mut self.outbox);
            let sent = self.poll_send(cx, &bytes);
            let written = if let Poll::Ready(Ok(written)) = sent { written } else { 0 };
            self.outbox = bytes.get(written..).unwrap_or_default().to_vec();
            ready!(sent)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the writing half, after what is in line: a Close as a rule, which goes in one write with the end of TLS.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(wire) = self.wire.as_mut().filter(|_| !self.outbox.is_empty()) {
            let held = wire.hold(&self.outbox);
            self.outbox.drain(..held);
        }
        ready!(self.poll_outbox(cx))?;
        match &mut self.wire {
            Some(wire) => wire.poll_finish(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Hands everything on its way to the kernel, and tells the stream when it is there.
    pub(super) fn flush(&mut self, stream: &mut Stream, now: Now, cx: &mut Context<'_>) {
        let flushed = match self.poll_outbox(cx) {
            Poll::Ready(Ok(())) => match &mut self.wire {
                Some(wire) if wire.unsent() => wire.poll_flush(cx),
                _ => Poll::Ready(Ok(())),
            },
            other => other,
        };
        match flushed {
            Poll::Ready(Ok(())) => stream.on_flushed(self.side),
            Poll::Ready(Err(_)) => {
                self.outbox = Vec::new();
                stream.on_unwritable(self.side, now);
            }
            Poll::Pending => {}
        }
    }

    /// Resets the connection.
    pub(super) fn abort(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.abort();
        }
        self.outbox = Vec::new();
        self.pending = Vec::new();
    }

    /// Ends the connection as well as it can be ended without waiting.
    pub(super) fn let_go(&mut self, cx: &mut Context<'_>) {
        if let Some(mut wire) = self.wire.take() {
            let _ = wire.poll_finish(cx);
        }
    }

    /// Closes a connection of which both halves have ended.
    pub(super) fn close(&mut self) {
        self.wire = None;
        self.outbox = Vec::new();
        self.pending = Vec::new();
    }
}

/// The most bytes that are held for the reader of tokens: what it holds at most, and the chunk that made it more.
const HELD_IN_BAND: usize = crate::relay::in_band::MOST_HELD;
/// Chunks that one poll moves in one direction before other tasks have their turn.
const BUDGET: usize = 8;
