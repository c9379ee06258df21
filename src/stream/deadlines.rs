//! Deadlines: the one that the token sets, and the table of those that end a stream in an orderly way.

use std::time::Duration;

use crate::clock::{Mono, Now, Wall};
use crate::stream::CloseReason;

/// The instant from which no new frame may start, by both clocks: the earlier one counts, so that neither a step of
/// the wall clock nor a suspend lengthens a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    expiry: Option<(Wall, Mono)>,
    limit: Option<Mono>,
}

impl Deadline {
    /// The deadline of a stream that begins `now`: its token's expiry, capped by the route's `max_stream`.
    pub fn new(expiry: Option<Wall>, max_stream: Option<Duration>, now: Now) -> Self {
        Self {
            expiry: expiry.map(|wall| (wall, mono_of(wall, now))),
            limit: max_stream.map(|longest| now.mono.saturating_add(longest)),
        }
    }

    /// The same stream with a fresh token: its expiry moves, `max_stream` stays.
    #[must_use]
    pub fn renewed(self, expiry: Option<Wall>, now: Now) -> Self {
        Self { expiry: expiry.map(|wall| (wall, mono_of(wall, now))), limit: self.limit }
    }

    /// When the token expires; `None` if it does not.
    pub fn expiry(&self) -> Option<Wall> {
        self.expiry.map(|(wall, _)| wall)
    }

    /// When `before` the token's expiry is reached, in monotonic time; `None` if it does not expire.
    pub fn ahead(&self, before: Duration, now: Now) -> Option<Mono> {
        self.expiry.map(|(wall, mono)| mono.min(mono_of(wall, now)).saturating_sub(before))
    }

    /// Why the stream may not go on, if it may not.
    pub fn passed(&self, now: Now) -> Option<CloseReason> {
        match (self.expiry, self.limit) {
            (Some((wall, mono)), _) if now.wall >= wall || now.mono >= mono => Some(CloseReason::Expired),
            (_, Some(limit)) if now.mono >= limit => Some(CloseReason::StreamLimit),
            _ => None,
        }
    }

    /// How long ago the token expired, by the monotonic clock; `None` if it has not.
    pub fn late(&self, now: Mono) -> Option<Duration> {
        let (_, expiry) = self.expiry?;
        (now >= expiry).then(|| now.saturating_since(expiry))
    }

    /// When to look again at the latest: the earliest of the clocks' ideas of the deadline, in monotonic time.
    pub fn next(&self, now: Now) -> Option<Mono> {
        let expiry = self.expiry.map(|(wall, mono)| mono.min(mono_of(wall, now)));
        [expiry, self.limit].into_iter().flatten().min()
    }
}

/// Where `wall` lies in monotonic time if no clock is stepped.
fn mono_of(wall: Wall, now: Now) -> Mono {
    now.mono.saturating_add(wall.saturating_since(now.wall))
}

/// What a stream that ends waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The answers to our Closes, or to the Close that was passed on.
    Close = 0,
    /// Downstream: the end of a frame that has begun, and everything written to be taken.
    FinishDownstream = 1,
    /// Upstream: likewise.
    FinishUpstream = 2,
    /// Answers that are on their way to the client.
    Settle = 3,
}

/// One table of deadlines per stream, and their earliest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines([Option<Mono>; 4]);

impl Deadlines {
    /// No timer is armed.
    pub const NEW: Self = Self([None; 4]);

    /// Whether the timer is armed.
    pub const fn is_armed(&self, timer: Timer) -> bool {
        let [close, down, up, settle] = &self.0;
        match timer {
            Timer::Close => close.is_some(),
            Timer::FinishDownstream => down.is_some(),
            Timer::FinishUpstream => up.is_some(),
            Timer::Settle => settle.is_some(),
        }
    }

    /// Arms a timer; armed already, it is moved.
    pub fn arm(&mut self, timer: Timer, at: Mono) {
        *self.slot(timer) = Some(at);
    }

    /// Disarms a timer.
    pub fn disarm(&mut self, timer: Timer) {
        *self.slot(timer) = None;
    }

    /// Whether the timer is armed and due; it is disarmed then.
    pub fn take_due(&mut self, timer: Timer, now: Now) -> bool {
        let due = self.slot(timer).is_some_and(|at| now.mono >= at);
        if due {
            self.disarm(timer);
        }
        due
    }

    /// The earliest of the armed timers.
    pub fn next(&self) -> Option<Mono> {
        self.0.iter().flatten().min().copied()
    }

    fn slot(&mut self, timer: Timer) -> &mut Option<Mono> {
        let [close, down, up, settle] = &mut self.0;
        match timer {
            Timer::Close => close,
            Timer::FinishDownstream => down,
            Timer::FinishUpstream => up,
            Timer::Settle => settle,
        }
    }
}
