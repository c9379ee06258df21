//! What only some routes need of a side: its tokens read, its frames held to bounds, a ping of the gateway's own.
//!
//! On all other routes none of this is there. Does not read or write wires; the pump calls it.

use std::task::{Context, Poll};

use crate::clock::{Mono, Now};
use crate::relay::in_band::{InBand, Look, Mode, Reader};
use crate::relay::notice;
use crate::relay::pump::{Judged, Left, Leg, Stop};
use crate::stream::bounds::Spent;
use crate::stream::{Bounds, CloseReason, RenewalError};
use crate::telemetry::metrics::RENEWED;
use crate::wire::Wire;
use crate::ws::{Head, Opcode, Ruling, Step};

/// See the module.
#[derive(Default)]
pub(super) struct Asked {
    /// Looks for tokens among the messages that this side sends.
    pub(super) reader: Option<Reader>,
    /// Whole frames of the gateway's own for this side, which go between two messages.
    pub(super) notices: Vec<u8>,
    /// What this side sends waits because it does not take the answers.
    pub(super) full: bool,
    /// Control frames that stood between the fragments of a token: they are all that is left of it.
    pub(super) between: Vec<u8>,
    /// What this side may send, and what it has.
    bounds: Bounds,
    spent: Spent,
    /// What it had at the beginning of the step under way.
    before: Spent,
    known: Known,
    /// Since when what this side sends may have waited to be read.
    unread: Option<Mono>,
    /// Pings for this side.
    pub(super) pings: Option<Pings>,
}

/// What was looked at before, of what begins at the beginning of the step under way: it may go on.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    message: bool,
    pong: bool,
}

/// The gateway's own pings. All of one stream carry the same mark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pings {
    mark: [u8; MARK],
    /// One waits for the end of a frame.
    waits: bool,
    /// When the last one went out.
    sent: Option<Mono>,
    /// How many have had no pong.
    unanswered: u32,
    /// The pong that begins at the scanner's position was looked at: it is the service's.
    foreign: bool,
}

/// What the gateway has to say to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Nothing,
    /// It goes between two frames.
    Ping,
    /// It goes between two messages.
    Notices,
}

impl Asked {
    /// Whether there is nothing that must be kept.
    pub(super) fn is_idle(&self) -> bool {
        self.reader.is_none() && self.notices.is_empty() && self.bounds.is_off() && self.pings.is_none()
    }

    pub(super) fn own(&self) -> Own {
        match self.pings {
            Some(Pings { waits: true, .. }) => Own::Ping,
            _ if self.notices.is_empty() => Own::Nothing,
            _ => Own::Notices,
        }
    }

    /// Notes that what this side sends has to wait, or that all of it has been read.
    pub(super) fn note_unread(&mut self, since: Option<Mono>) {
        self.unread = since.map(|now| self.unread.unwrap_or(now));
    }

    /// Frames have gone on: what was known of the first one is over.
    pub(super) fn passed(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.free = false;
        }
        if let Some(pings) = &mut self.pings {
            pings.foreign = false;
        }
    }

    /// The scanner is about to move.
    pub(super) fn begin_step(&mut self) {
        self.before = self.spent;
        let message = self.reader.as_ref().is_some_and(|reader| reader.free);
        self.known = Known { message, pong: self.pings.is_some_and(|pings| pings.foreign) };
    }

    /// Rules on the head of a frame that this side sends. It is counted if it passes.
    fn rule(&mut self, head: &Head, now: Mono) -> Ruling<Stop> {
        if head.opcode == Opcode::Text && self.reader.is_some() && !std::mem::take(&mut self.known.message) {
            return Ruling::Cut(Stop::Look);
        }
        if self.pings.is_some_and(|pings| pings.may_answer(head)) && !std::mem::take(&mut self.known.pong) {
            return Ruling::Cut(Stop::Pong);
        }
        let unread = self.unread.unwrap_or(now);
        match self.bounds.judge(&mut self.spent, head, now, unread) {
            None => Ruling::Pass,
            Some(reason) => Ruling::Cut(Stop::End(reason)),
        }
    }

    /// What was counted in the step under way has not gone on.
    pub(super) const fn go_back(&mut self) {
        self.spent = self.before;
    }

    /// Counts frames that have gone on.
    pub(super) fn count(&mut self, head: &Head, now: Mono) {
        // They were judged before, by the same time.
        let _passes = self.bounds.judge(&mut self.spent, head, now, self.unread.unwrap_or(now));
    }
}

impl Pings {
    pub(super) const fn new(mark: [u8; MARK]) -> Self {
        Self { mark, waits: false, sent: None, unanswered: 0, foreign: false }
    }

    /// Has one go out as soon as it may.
    pub(super) const fn ask(&mut self) {
        self.waits = true;
    }

    /// When the last one went out; `None` while one waits.
    pub(super) fn sent(&self) -> Option<Mono> {
        self.sent.filter(|_| !self.waits)
    }

    /// No more of them go out.
    pub(super) const fn stop(&mut self) {
        self.waits = false;
    }

    /// The frame that waited, unmasked (RFC 6455, section 5.1).
    pub(super) fn take(&mut self, now: Mono) -> [u8; 2 + MARK] {
        let mut frame = [0; 2 + MARK];
        let bytes = PING.into_iter().chain(self.mark);
        frame.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        (self.waits, self.sent, self.unanswered) = (false, Some(now), self.unanswered.saturating_add(1));
        frame
    }

    /// Whether a frame with this head may be the answer to one.
    const fn may_answer(&self, head: &Head) -> bool {
        matches!(head.opcode, Opcode::Pong) && self.unanswered > 0 && head.payload == MARK as u64
    }

    /// Looks at the pong that begins `bytes`, which may be the answer to one. Answers how many bytes of it are to be left
    /// out: all, or none if it is no answer and may go on. `None`: more must come.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Option<usize> {
        let (head, rest) = bytes.split_at_checked(CONTROL_HEAD)?;
        let (key, payload) = (head.get(2..)?, rest.get(..MARK)?);
        self.foreign = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).ne(self.mark);
        if self.foreign {
            return Some(0);
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        Some(CONTROL_HEAD + MARK)
    }
}

impl<W: Wire> Leg<W> {
    /// Looks for tokens among the messages that this side sends; the first one may go on if it was `judged` before.
    pub(super) fn read_in_band(&mut self, rules: InBand, judged: bool) {
        self.asked.get_or_insert_default().reader.insert(Reader::new(rules)).free = judged;
    }

    /// Holds what this side sends to these bounds.
    pub(super) fn hold_to(&mut self, bounds: Bounds) {
        if !bounds.is_off() {
            self.asked.get_or_insert_default().bounds = bounds;
        }
    }

    /// Has this side asked by pings with this mark whether it is there.
    pub(super) fn ask_by(&mut self, mark: [u8; MARK]) {
        self.asked.get_or_insert_default().pings = Some(Pings::new(mark));
    }

    /// Its pings, if it is asked by any.
    pub(super) fn pings(&mut self) -> Option<&mut Pings> {
        self.asked.as_mut().and_then(|asked| asked.pings.as_mut())
    }

    /// What the gateway has to say to this side.
    pub(super) fn own(&self) -> Own {
        self.asked.as_ref().map_or(Own::Nothing, |asked| asked.own())
    }

    /// Puts what the gateway has to say in line, if what goes on from `source` to this side stands where it may go.
    pub(super) fn enqueue_own<V>(&mut self, source: &Leg<V>, now: Now) {
        match self.own() {
            Own::Ping if source.scanner.on_boundary() => self.enqueue_ping(now),
            Own::Notices if source.scanner.on_boundary() && !source.scanner.in_message() => self.enqueue_notices(),
            _ => {}
        }
    }

    /// Between two frames: the ping that waits goes next.
    pub(super) fn enqueue_ping(&mut self, now: Now) {
        if let Some(ping) = self.pings().map(|pings| pings.take(now.mono)) {
            self.outbox.extend_from_slice(&ping);
        }
    }

    /// Puts a whole frame in line for this side, to go between two messages.
    pub(super) fn notify(&mut self, frame: &[u8]) {
        self.asked.get_or_insert_default().notices.extend_from_slice(frame);
    }

    /// Whether what waited for this side to take its answers need not wait any more.
    pub(super) fn may_go_on(&self) -> bool {
        let room = |asked: &Asked| asked.full && asked.notices.len() + self.outbox.len() <= MOST_NOTICES;
        self.asked.as_deref().is_some_and(room)
    }

    /// Between two messages: what the gateway has to say goes next, once what was said before has gone.
    pub(super) fn enqueue_notices(&mut self) {
        let Some(asked) = self.asked.as_mut().filter(|_| self.outbox.is_empty()) else { return };
        self.outbox.append(&mut asked.notices);
        if asked.is_idle() {
            self.asked = None;
        }
    }

    /// Notes that what this side sends has to wait, or that all of it has been read.
    pub(super) fn note_unread(&mut self, since: Option<Mono>) {
        if let Some(asked) = &mut self.asked {
            asked.note_unread(since);
        }
    }

    /// Steps over what may go, where not everything may: `verdict` is why nothing may start, if nothing may, and `own` what the
    /// gateway has to say to the other side.
    // Apart from the loop of all other routes, which is shorter without it.
    #[inline(never)]
    pub(super) fn step_by_rules(
        &mut self,
        bytes: &[u8],
        verdict: Option<CloseReason>,
        own: Own,
        now: Mono,
    ) -> Step<Stop> {
        let mut asked = self.asked.as_deref_mut();
        if let Some(asked) = &mut asked {
            asked.begin_step();
        }
        self.scanner.step(bytes, |head| {
            if let Some(reason) = verdict {
                return Ruling::Cut(Stop::End(reason));
            }
            match own {
                Own::Ping => return Ruling::Cut(Stop::Ping),
                Own::Notices if matches!(head.opcode, Opcode::Text | Opcode::Binary) => {
                    return Ruling::Cut(Stop::Notices);
                }
                _ => {}
            }
            asked.as_mut().map_or(Ruling::Pass, |asked| asked.rule(head, now))
        })
    }

    pub(super) fn reader(&mut self) -> Option<&mut Reader> {
        self.asked.as_mut().and_then(|asked| asked.reader.as_mut())
    }

    /// Looks at the message that begins here. What is a token is judged before anything of it goes on.
    pub(super) fn look(&mut self, bytes: &[u8], judged: &mut Judged<'_>, cx: &mut Context<'_>) -> (usize, Left) {
        let waiting = self.outbox.len();
        let Some(Asked { reader: Some(reader), notices, full, between, .. }) = self.asked.as_deref_mut() else {
            return (0, Left::Starved);
        };
        let length = match reader.look(bytes) {
            Look::More => return (0, Left::Starved),
            Look::Ordinary => {
                reader.free = true;
                return (0, Left::Nothing);
            }
            Look::Token(length) => length,
        };
        // Whoever does not take the answers gets no more of them.
        *full = notices.len() + waiting > MOST_NOTICES;
        if *full {
            return (0, Left::Blocked);
        }
        let may_try = reader.is_judging() || judged.guard.may_try(reader.rules.interval, judged.now.mono);
        let answer = if may_try {
            match reader.poll_verdict(cx) {
                Poll::Pending => return (0, Left::Blocked),
                Poll::Ready(Err(denial)) => {
                    judged.guard.count_renewal(denial.public.as_str());
                    notice::denied(&denial)
                }
                Poll::Ready(Ok((grant, terms))) => {
                    // The verdict may have taken a while, and what comes next is judged by this time too.
                    judged.now = judged.clock.now();
                    let renewed = crate::relay::renew(judged.stream, judged.guard, &grant, terms, judged.now);
                    judged.guard.count_renewal(renewed.map_or_else(RenewalError::as_str, |_| RENEWED));
                    renewed.map_or_else(notice::kept, notice::renewed)
                }
            }
        } else {
            judged.guard.count_renewal(RenewalError::TooOften.as_str());
            notice::kept(RenewalError::TooOften)
        };
        let controls = reader.finish();
        match reader.rules.mode {
            Mode::Forward => {
                reader.free = true;
                (0, Left::Nothing)
            }
            Mode::Consume => {
                notices.extend(answer);
                between.extend(controls.into_iter().filter_map(|range| bytes.get(range)).flatten());
                (length, if between.is_empty() { Left::Nothing } else { Left::Spliced })
            }
        }
    }
}

/// Bytes of a ping's mark.
pub(super) const MARK: usize = 8;
/// The head of an unmasked ping with a mark.
const PING: [u8; 2] = [0x89, 8];
/// The head of a client's control frame.
const CONTROL_HEAD: usize = 6;
/// The most bytes of answers that wait for a client, before its tokens do.
const MOST_NOTICES: usize = 1024;
