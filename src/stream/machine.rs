//! The state machine of one stream.
//!
//! It is told what happened (a Close, the end of a side, a deadline, a signal) and answers what may be done: may this
//! frame start, what becomes of what a side sends, is a Close due to a side, is the stream over. It does nothing by
//! itself, and asks neither clock nor socket.
//!
//! A side is two halves: what we write to it (`Out`) and what we read from it (`In`). What happens to the bytes of
//! one side follows from its own reading half and the other side's writing half; see [`Stream::flow`].

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Mono, Now};
use crate::stream::deadlines::{Deadline, Deadlines, Timer};
use crate::stream::{CloseReason, Limits, Side, Signal};

/// What becomes of the bytes that a side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Each frame is judged and goes on.
    Pass,
    /// Only the rest of the frame under way goes on.
    Finish,
    /// Nothing goes on; heads are followed until the side's Close.
    Discard,
    /// Nothing goes on and nothing is looked at; the end of the side is waited for.
    Ignore,
    /// The side has ended: there is nothing to read.
    Ended,
}

/// Whether a Close that was read goes on to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It goes on unchanged.
    Forward,
    /// The other side has been, or will be, told otherwise.
    Swallow,
}

/// What is due to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Our Close, now: the side stands between frames.
    Close(Farewell),
    /// The end of our writing half.
    Finish,
    /// A reset as soon as nothing more is read from the side for the other one; nothing is written to it any more.
    Wait,
    /// A reset: the side can't be told anything.
    Reset,
}

/// The Close that we send to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The text for this cause.
    Cause(CloseReason),
    /// The code that the side itself closed with (`None`: an empty Close), because no answer came from the other side.
    Echo(Option<u16>),
}

/// What is written to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    /// Frames of the other side.
    Open,
    /// Our Close, as soon as the side stands on a frame boundary.
    Ending(Farewell),
    /// Nothing more but the FIN: a Close has gone out, ours or the other side's.
    Told,
    /// Nothing more but the FIN: the other side ended without a Close, and so does this one.
    Leaving,
    /// Nothing more: it will be reset, and is only read from for the other side.
    Doomed,
    /// Our writing half has ended.
    Finished,
    /// The side was reset, or cannot be written to any more.
    Gone,
}

/// What is read from a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    /// Frames.
    Open,
    /// It sent a frame that breaks the rules: where the next one begins is not known.
    Broken,
    /// It sent a Close with this code.
    Closed(Option<u16>),
    /// Its writing half has ended, or failed.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Half {
    out: Out,
    r#in: In,
    /// The code of the Close that it sent, if it sent one.
    closed_with: Option<Option<u16>>,
    /// Whether the side was reset by us.
    reset: bool,
}

impl Half {
    const NEW: Self = Self { out: Out::Open, r#in: In::Open, closed_with: None, reset: false };

    /// Nothing more will be written, and nothing more needs to be read.
    fn over(&self) -> bool {
        match self.out {
            Out::Gone => self.reset || matches!(self.r#in, In::Closed(_) | In::Ended),
            Out::Finished => matches!(self.r#in, In::Closed(_) | In::Ended),
            _ => false,
        }
    }
}

/// The state machine of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub(super) limits: Arc<Limits>,
    pub(super) deadline: Deadline,
    /// How often its token was renewed.
    pub(super) renewals: u32,
    /// Whether the client has been told that this token is about to expire.
    pub(super) noticed: bool,
    timers: Deadlines,
    downstream: Half,
    upstream: Half,
    /// Why the stream ends; the first cause counts.
    pub(super) reason: Option<CloseReason>,
    /// Between the Close to the service and the Close to the client: the cause that the client will be told.
    settling: Option<CloseReason>,
    over: bool,
}

impl Stream {
    /// A stream that has just been opened.
    pub const fn new(deadline: Deadline, limits: Arc<Limits>) -> Self {
        Self {
            limits,
            deadline,
            renewals: 0,
            noticed: false,
            timers: Deadlines::NEW,
            downstream: Half::NEW,
            upstream: Half::NEW,
            reason: None,
            settling: None,
            over: false,
        }
    }

    /// Why no frame may start now, if none may.
    pub fn judge(&self, now: Now) -> Option<CloseReason> {
        self.deadline.passed(now)
    }

    /// How long ago the token expired, if that is why the stream ends.
    pub fn late(&self, now: Mono) -> Option<Duration> {
        self.deadline.late(now).filter(|_| self.reason == Some(CloseReason::Expired))
    }

    /// Why the stream ends; `None` while it does not.
    pub const fn reason(&self) -> Option<CloseReason> {
        self.reason
    }

    /// Whether frames pass both ways and nothing is due to either side: how a stream spends its life.
    pub fn is_calm(&self) -> bool {
        [&self.downstream, &self.upstream].into_iter().all(|half| half.out == Out::Open && half.r#in == In::Open)
    }

    /// Whether both sides are done with.
    pub fn is_over(&self) -> bool {
        self.over || (self.downstream.over() && self.upstream.over())
    }

    /// Whether this side is done with.
    pub fn is_side_over(&self, side: Side) -> bool {
        self.half(side).over()
    }

    /// Whether the side was reset by us.
    pub const fn was_reset(&self, side: Side) -> bool {
        self.half(side).reset
    }

    /// The code of the Close that the side sent: `Some(None)` for an empty one.
    pub const fn closed_with(&self, side: Side) -> Option<Option<u16>> {
        self.half(side).closed_with
    }

    /// When to call [`Stream::on_time`] at the latest.
    pub fn next_deadline(&self, now: Now) -> Option<Mono> {
        let (deadline, notice) =
            if self.is_ending() { (None, None) } else { (self.deadline.next(now), self.next_notice(now)) };
        [deadline, notice, self.timers.next()].into_iter().flatten().min()
    }

    /// What becomes of the bytes that `from` sends.
    pub fn flow(&self, from: Side) -> Flow {
        match (self.half(from).r#in, self.half(from.other()).out) {
            (In::Ended, _) => Flow::Ended,
            (In::Broken | In::Closed(_), _) => Flow::Ignore,
            (In::Open, Out::Open) => Flow::Pass,
            (In::Open, Out::Ending(_)) => Flow::Finish,
            (In::Open, Out::Told | Out::Leaving | Out::Doomed | Out::Finished | Out::Gone) => Flow::Discard,
        }
    }

    /// Time has moved on: the deadline first, then the timers of an end that is under way.
    pub fn on_time(&mut self, now: Now) {
        if let Some(reason) = self.deadline.passed(now)
            && !self.is_ending()
        {
            self.end(reason, now);
        }
        if self.timers.take_due(Timer::Settle, now) {
            self.settled(now);
        }
        for side in Side::BOTH {
            if self.timers.take_due(side.finish_timer(), now) && !self.half(side).over() {
                self.reset(side);
            }
        }
        if self.timers.take_due(Timer::Close, now) {
            self.on_close_timeout(now);
        }
    }

    /// A signal from outside.
    pub fn on_signal(&mut self, signal: Signal, now: Now) {
        self.on_time(now);
        match signal {
            Signal::Recheck | Signal::Renew => {}
            Signal::Drain if self.reason.is_none() => self.end(CloseReason::Drain, now),
            Signal::RouteGone if self.reason.is_none() => self.end(CloseReason::RouteGone, now),
            Signal::Replace if self.reason.is_none() => self.end(CloseReason::Replaced, now),
            Signal::End if self.reason.is_none() => self.end(CloseReason::EndedByOperator, now),
            Signal::Revoke if !self.is_ending() => self.end(CloseReason::Revoked, now),
            Signal::KeyRemoved if !self.is_ending() => self.end(CloseReason::KeyRemoved, now),
            Signal::Drain | Signal::End | Signal::RouteGone | Signal::Replace | Signal::Revoke | Signal::KeyRemoved => {
            }
        }
    }

    /// A frame of `from` may not start, for a cause that is the gateway's.
    pub fn on_cut(&mut self, reason: CloseReason, now: Now) {
        if !self.is_ending() {
            self.end(reason, now);
        }
    }

    /// `from` sent a frame that breaks RFC 6455.
    pub fn on_violation(&mut self, from: Side, now: Now) {
        self.half_mut(from).r#in = In::Broken;
        if self.half(from.other()).out == Out::Open {
            self.end(
                match from {
                    Side::Downstream => CloseReason::ClientProtocol,
                    Side::Upstream => CloseReason::UpstreamProtocol,
                },
                now,
            );
        }
    }

    /// `from` sent a Close.
    pub fn on_close(&mut self, from: Side, code: Option<u16>, now: Now) -> Passage {
        let half = self.half_mut(from);
        half.r#in = In::Closed(code);
        half.closed_with = Some(code);
        if self.settling.is_some() {
            self.settled(now);
            return Passage::Swallow;
        }
        let other = self.half_mut(from.other());
        if other.out != Out::Open {
            return Passage::Swallow;
        }
        other.out = Out::Told;
        self.set_reason(match from {
            Side::Downstream => CloseReason::ClientClosed,
            Side::Upstream => CloseReason::UpstreamClosed,
        });
        self.arm_close(now);
        Passage::Forward
    }

    /// The end of what `side` sends: EOF, or a read that failed.
    pub fn on_end(&mut self, side: Side, now: Now) {
        let closed_with = self.half(side).closed_with;
        self.half_mut(side).r#in = In::Ended;
        if closed_with.is_some() || self.half(side.other()).out != Out::Open {
            // It had its say before; or the other side has been told already, and only this end was waited for.
            self.settled(now);
            return;
        }
        match side {
            Side::Downstream => {
                self.set_reason(CloseReason::ClientLost);
                self.upstream.out = Out::Leaving;
            }
            Side::Upstream => {
                let farewell = match (self.downstream.closed_with, self.downstream.r#in, self.reason) {
                    (Some(code), _, _) => Some(Farewell::Echo(code)),
                    // Both have ended without a Close.
                    (None, In::Ended, _) => None,
                    (None, _, reason) => Some(Farewell::Cause(reason.unwrap_or(CloseReason::UpstreamLost))),
                };
                self.set_reason(CloseReason::UpstreamLost);
                self.downstream.out = farewell.map_or(Out::Leaving, Out::Ending);
                if self.upstream.out == Out::Open {
                    self.upstream.out = Out::Leaving;
                }
            }
        }
        self.settled(now);
        self.arm_close(now);
    }

    /// A write to `side` failed: nothing more reaches it. What it sent before may still be read, a Close above all.
    pub fn on_unwritable(&mut self, side: Side, now: Now) {
        if self.half(side).out != Out::Finished {
            self.half_mut(side).out = Out::Gone;
        }
        self.arm_close(now);
    }

    /// What is due to `side`, which stands in the middle of a frame of which `rest` bytes are missing (0: between two
    /// frames). `drained` says whether everything that came for it before the end of the other side has been written.
    pub fn due(&self, side: Side, rest: u64, other_rest: u64, drained: bool) -> Due {
        let half = self.half(side);
        match half.out {
            Out::Ending(farewell) if rest == 0 => Due::Close(farewell),
            Out::Ending(_) if !self.may_finish(side, rest) && self.is_read_for(side.other(), other_rest) => Due::Wait,
            Out::Ending(_) if !self.may_finish(side, rest) => Due::Reset,
            Out::Doomed if !self.is_read_for(side.other(), other_rest) => Due::Reset,
            Out::Leaving if drained => Due::Finish,
            Out::Told if half.r#in != In::Open => Due::Finish,
            _ => Due::Nothing,
        }
    }

    /// Our Close to `side` was handed to the wire.
    pub fn close_sent(&mut self, side: Side) {
        self.half_mut(side).out = Out::Told;
    }

    /// `side` will be reset, but not yet.
    pub fn doomed(&mut self, side: Side) {
        self.half_mut(side).out = Out::Doomed;
    }

    /// Everything that was written to `side` is the kernel's.
    pub fn on_flushed(&mut self, side: Side) {
        if matches!(self.half(side).out, Out::Told | Out::Finished) {
            self.timers.disarm(side.finish_timer());
        }
    }

    /// Our writing half of `side` has ended.
    pub fn finished(&mut self, side: Side) {
        self.half_mut(side).out = Out::Finished;
        self.timers.disarm(side.finish_timer());
    }

    /// `side` was reset.
    pub fn reset(&mut self, side: Side) {
        let half = self.half_mut(side);
        half.out = Out::Gone;
        half.r#in = In::Ended;
        half.reset = true;
        self.timers.disarm(side.finish_timer());
    }

    /// Whether nothing new may start in either direction already.
    fn is_ending(&self) -> bool {
        self.over || (self.downstream.out != Out::Open && self.upstream.out != Out::Open)
    }

    /// The gateway ends the stream: both sides are told, or first the service and then the client.
    fn end(&mut self, reason: CloseReason, now: Now) {
        let first = self.reason.is_none();
        self.set_reason(reason);
        if self.upstream.out == Out::Open {
            self.upstream.out = Out::Ending(Farewell::Cause(reason));
            self.arm_finish(Side::Upstream, now);
        }
        if reason.settles() && first && self.upstream.r#in == In::Open {
            self.settling = Some(reason);
            self.timers.arm(Timer::Settle, now.mono.saturating_add(self.limits.settle));
        } else {
            self.tell_client(reason, now);
        }
        self.arm_close(now);
    }

    /// The client gets its Close; what the service still sends does not pass any more.
    fn tell_client(&mut self, reason: CloseReason, now: Now) {
        // A cause that is about the right to be here is told even if another one came first.
        let first = self.settling.take().filter(|_| reason.settles());
        let reason = first.unwrap_or(reason);
        self.timers.disarm(Timer::Settle);
        if self.downstream.out == Out::Open {
            self.downstream.out = Out::Ending(match self.downstream.closed_with {
                Some(code) if reason == CloseReason::UpstreamProtocol => Farewell::Echo(code),
                _ => Farewell::Cause(reason),
            });
            self.arm_finish(Side::Downstream, now);
            self.timers.arm(Timer::Close, now.mono.saturating_add(self.limits.close_timeout));
        }
    }

    /// Settling, if it is under way, is over: its time is up, or nothing more can come.
    fn settled(&mut self, now: Now) {
        if let Some(reason) = self.settling {
            self.tell_client(reason, now);
        }
    }

    /// No answer came in time: whoever can still be told something is told, then both sides are let go.
    fn on_close_timeout(&mut self, now: Now) {
        if self.reason.is_none() {
            let lost =
                if self.downstream.out == Out::Gone { CloseReason::ClientLost } else { CloseReason::UpstreamLost };
            self.set_reason(lost);
        }
        if self.downstream.out == Out::Open && self.downstream.r#in != In::Ended {
            // The client closed and the service never answered, or it can't be written to.
            let farewell = match self.downstream.closed_with {
                Some(code) => Farewell::Echo(code),
                None => Farewell::Cause(self.reason.unwrap_or(CloseReason::UpstreamLost)),
            };
            self.downstream.out = Out::Ending(farewell);
            self.arm_finish(Side::Downstream, now);
            if self.upstream.out != Out::Gone {
                self.reset(Side::Upstream);
            }
            self.timers.arm(Timer::Close, now.mono.saturating_add(self.limits.close_timeout));
            return;
        }
        self.over = true;
    }

    fn may_finish(&self, side: Side, rest: u64) -> bool {
        let source = self.half(side.other()).r#in;
        source == In::Open && rest <= self.limits.finish_bytes && !self.limits.finish_frame.is_zero()
    }

    /// Whether `side` still gets something from the other one: answers while settling, or the rest of its frame. The other
    /// one is not reset before that; its finish timer bounds the wait.
    fn is_read_for(&self, side: Side, rest: u64) -> bool {
        if self.limits.finish_frame.is_zero() || self.half(side.other()).r#in != In::Open {
            return false;
        }
        match self.half(side).out {
            Out::Open => self.settling.is_some() && side == Side::Downstream,
            Out::Ending(_) => rest > 0 && rest <= self.limits.finish_bytes,
            _ => false,
        }
    }

    fn arm_finish(&mut self, side: Side, now: Now) {
        self.timers
            .arm(side.finish_timer(), now.mono.saturating_add(self.limits.finish_frame.max(Duration::from_millis(1))));
    }

    fn arm_close(&mut self, now: Now) {
        if !self.timers.is_armed(Timer::Close) {
            self.timers.arm(Timer::Close, now.mono.saturating_add(self.limits.close_timeout));
        }
    }

    fn set_reason(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    const fn half(&self, side: Side) -> &Half {
        match side {
            Side::Downstream => &self.downstream,
            Side::Upstream => &self.upstream,
        }
    }

    fn half_mut(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Downstream => &mut self.downstream,
            Side::Upstream => &mut self.upstream,
        }
    }
}
