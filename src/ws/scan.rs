//! The frame scanner: follows frame boundaries through a byte stream and says what may happen to it.
//!
//! It looks at heads, and at the small payload of a Close; all other payload is neither unmasked, nor reassembled, nor
//! copied. Its state is a few words and always stands at one position of the stream. The one who calls it (the relay)
//! keeps that position equal to what has been written, so that "may our own Close go out here" is the question whether
//! the scanner stands on a boundary.

use crate::ws::{CloseFrame, Extensions, Head, Opcode, Sender, Violation};

/// What the rules of the stream say to a frame whose head has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling<C> {
    /// It goes on.
    Pass,
    /// It does not go, and neither does anything after it; `C` says why.
    Cut(C),
}

/// What may happen to the bytes at the scanner's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<C> {
    /// This many bytes go on as they are; `frames` heads begin in them.
    Pass {
        /// Bytes, at least 1.
        bytes: usize,
        /// Heads among them.
        frames: u64,
    },
    /// A whole Close frame of this many bytes goes on; nothing comes after it.
    Close {
        /// Bytes of the frame, head and payload.
        bytes: usize,
        /// What it says.
        frame: CloseFrame,
    },
    /// All of these bytes are the start of a head, or of a Close: they wait until more has come. At most
    /// [`Scanner::MAX_HELD`].
    Hold,
    /// The frame that begins here does not go.
    Cut(C),
    /// The frame that begins here breaks RFC 6455; where the next one begins cannot be known.
    Violation(Violation),
}

/// The scanner of one direction.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    sender: Sender,
    extensions: Extensions,
    /// Bytes of payload that are still to come of the frame under way; 0 on a boundary.
    rest: u64,
    /// Whether a fragmented message is under way.
    in_message: bool,
}

impl Scanner {
    /// The most bytes that are ever held: one less than the longest Close frame.
    pub const MAX_HELD: usize = 6 + 125 - 1;

    /// A scanner at the first byte after the handshake.
    pub const fn new(sender: Sender, extensions: Extensions) -> Self {
        Self { sender, extensions, rest: 0, in_message: false }
    }

    /// Whether the position is between two frames.
    pub const fn on_boundary(&self) -> bool {
        self.rest == 0
    }

    /// Bytes that the frame under way still has; 0 on a boundary.
    pub const fn rest(&self) -> u64 {
        self.rest
    }

    /// Whether the position is inside a fragmented message (on a frame boundary or not).
    pub const fn in_message(&self) -> bool {
        self.in_message
    }

    /// Says what may happen to the start of `bytes`, which stand at the scanner's position, and moves past what passes
    /// or closes. `judge` is asked for each frame whose whole head is there and breaks no rule of RFC 6455;
    /// it may be asked twice for the same frame.
    ///
    /// `bytes` must not be empty; with nothing to look at the answer is `Hold`.
    pub fn step<C>(&mut self, bytes: &[u8], mut judge: impl FnMut(&Head) -> Ruling<C>) -> Step<C> {
        let (mut at, mut frames) = (self.take_payload(bytes.len()), 0);
        loop {
            let tail = bytes.get(at..).unwrap_or_default();
            if tail.is_empty() && at > 0 {
                return Step::Pass { bytes: at, frames };
            }
            let stop = match self.read_head(tail, &mut judge) {
                Found::Frame(head) => {
                    self.enter(&head);
                    let head_length = usize::from(head.length);
                    at += head_length + self.take_payload(tail.len() - head_length);
                    frames += 1;
                    continue;
                }
                Found::Stop(stop) => stop,
            };
            if at > 0 {
                return Step::Pass { bytes: at, frames };
            }
            return Self::stop(stop, bytes);
        }
    }

    /// Moves from a position at which `step` let (at least) `bytes` pass to the place where a write of only `written` of
    /// them ended. If that is in the middle of a head, the position is after it, since that frame has begun: the answer
    /// says how many of `bytes` are now committed, at least `written`, and how many heads begin in them. `count` is shown
    /// each of these.
    pub fn advance(&mut self, bytes: &[u8], written: usize, mut count: impl FnMut(&Head)) -> (usize, u64) {
        let mut at = self.take_payload(written);
        let mut frames = 0;
        while at < written {
            let tail = bytes.get(at..).unwrap_or_default();
            let Ok(Some(head)) = Head::parse(tail, self.sender, self.extensions) else {
                debug_assert!(false, "only what has passed is advanced over");
                return (written, frames);
            };
            self.enter(&head);
            count(&head);
            frames += 1;
            at += usize::from(head.length);
            at += self.take_payload(written.saturating_sub(at));
        }
        (at, frames)
    }

    /// Takes up to `available` bytes of the payload under way.
    fn take_payload(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.rest).unwrap_or(usize::MAX).min(available);
        self.rest -= taken as u64;
        taken
    }

    fn enter(&mut self, head: &Head) {
        self.rest = head.payload;
        if !head.opcode.is_control() {
            self.in_message = !head.fin;
        }
    }

    fn read_head<C>(&self, tail: &[u8], judge: &mut impl FnMut(&Head) -> Ruling<C>) -> Found<C> {
        let head = match Head::parse(tail, self.sender, self.extensions) {
            Ok(Some(head)) => head,
            Ok(None) => return Found::Stop(Stop::Hold),
            Err(violation) => return Found::Stop(Stop::Violation(violation)),
        };
        match (head.opcode, self.in_message) {
            (Opcode::Continuation, false) => return Found::Stop(Stop::Violation(Violation::Continuation)),
            (Opcode::Text | Opcode::Binary, true) => return Found::Stop(Stop::Violation(Violation::Interleaved)),
            _ => {}
        }
        match judge(&head) {
            Ruling::Pass if head.opcode == Opcode::Close => Found::Stop(Stop::Close(head)),
            Ruling::Pass => Found::Frame(head),
            Ruling::Cut(cause) => Found::Stop(Stop::Cut(cause)),
        }
    }

    /// What stands at the very start of `bytes` and is not simply a frame that passes.
    fn stop<C>(stop: Stop<C>, bytes: &[u8]) -> Step<C> {
        match stop {
            Stop::Hold => Step::Hold,
            Stop::Cut(cause) => Step::Cut(cause),
            Stop::Violation(violation) => Step::Violation(violation),
            Stop::Close(head) => {
                let start = usize::from(head.length);
                let end = start + usize::try_from(head.payload).unwrap_or(usize::MAX);
                match bytes.get(start..end) {
                    None => Step::Hold,
                    Some(payload) => match CloseFrame::parse(payload, head.mask) {
                        Ok(frame) => Step::Close { bytes: end, frame },
                        Err(_) => Step::Violation(Violation::Close),
                    },
                }
            }
        }
    }
}

enum Found<C> {
    Frame(Head),
    Stop(Stop<C>),
}

enum Stop<C> {
    Hold,
    Cut(C),
    Close(Head),
    Violation(Violation),
}
