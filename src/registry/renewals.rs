//! The way of a fresh token to the stream that it is for.
//!
//! A stream is found by the hash of its handle. What waits for it lies in its inbox until it takes it; the answer comes
//! from the stream itself, or not at all once it has ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Mono;
use crate::registry::{Guard, Place, Registry, lock};
use crate::secret::OpaqueHash;
use crate::stream::{RenewalError, Signal, Terms};
use crate::token::{Grant, Principal};

/// A fresh token for a live stream.
#[derive(Debug)]
pub struct Renewal {
    /// What it allows.
    pub grant: Grant,
    /// How it is applied.
    pub terms: Terms,
    /// Told what the stream makes of it: how long it may go on, or why it keeps the old one. Dropped if it ends first.
    pub answer: oneshot::Sender<Result<Option<Duration>, RenewalError>>,
}

/// What waits for a stream.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Vec<Renewal>,
    /// When the stream will have made up for the attempts so far (GCRA); none since it was opened.
    paced: Option<Mono>,
    ended: bool,
}

impl Inbox {
    /// The stream has ended: whoever waits for an answer learns it.
    pub(super) fn close(&mut self) {
        self.ended = true;
        self.waiting = Vec::new();
    }

    fn try_again(&mut self, interval: Duration, now: Mono) -> bool {
        if interval.is_zero() {
            return true;
        }
        let due = self.paced.map_or(now, |paced| paced.max(now));
        let may = due.saturating_since(now) <= interval.saturating_mul(BURST - 1);
        if may {
            self.paced = Some(due.saturating_add(interval));
        }
        may
    }
}

/// A stream that was found by its handle. Keeps nothing of it alive.
#[derive(Debug)]
pub struct Live {
    place: std::sync::Weak<Place>,
    registry: Registry,
}

impl Registry {
    /// The live stream with this handle on this route.
    pub fn find(&self, handle: OpaqueHash, route: &str) -> Option<Live> {
        let live = self.lock();
        let place = live.by_handle.get(&handle).and_then(|id| live.places.get(id))?;
        (&*place.route == route).then(|| Live { place: Arc::downgrade(place), registry: self.clone() })
    }
}

impl Live {
    /// Whether it belongs to this principal; so does one that has ended, of which nothing more is to be learnt.
    pub fn belongs_to(&self, principal: Principal) -> bool {
        self.place.upgrade().is_none_or(|place| place.principal == principal)
    }

    /// Counts an attempt to renew; false if they come faster than one each `interval` in the long run.
    pub fn may_try(&self, interval: Duration, now: Mono) -> bool {
        self.place.upgrade().is_none_or(|place| lock(&place.inbox).try_again(interval, now))
    }

    /// Hands the stream a fresh token. If it has ended, the answer is dropped.
    pub fn renew(&self, renewal: Renewal) {
        let Some(place) = self.place.upgrade() else { return };
        {
            let mut inbox = lock(&place.inbox);
            if inbox.ended {
                return;
            }
            if inbox.waiting.len() >= MOST_WAITING {
                // Whoever asked may be gone.
                let _ = renewal.answer.send(Err(RenewalError::TooOften));
                return;
            }
            inbox.waiting.push(renewal);
        }
        self.registry.put(&place, Signal::Renew);
    }
}

impl Guard {
    /// The fresh tokens that wait, in the order in which they came.
    pub fn take_renewals(&self) -> Vec<Renewal> {
        std::mem::take(&mut lock(&self.place.inbox).waiting)
    }

    /// Counts an attempt to renew that came on the stream itself; see [`Live::may_try`].
    pub fn may_try(&self, interval: Duration, now: Mono) -> bool {
        lock(&self.place.inbox).try_again(interval, now)
    }

    /// Who the stream belongs to.
    pub fn principal(&self) -> Principal {
        self.place.principal
    }
}

/// Attempts that may come at once.
const BURST: u32 = 5;
/// The most renewals that wait for one stream.
const MOST_WAITING: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_paced_in_the_long_run_and_may_come_in_a_burst() {
        let mut inbox = Inbox::default();
        let second = Duration::from_secs(1);
        let at = |millis| Mono::from_origin(Duration::from_millis(millis));
        for _ in 0..BURST {
            assert!(inbox.try_again(second, at(10)));
        }
        assert!(!inbox.try_again(second, at(10)), "the burst is used up");
        assert!(!inbox.try_again(second, at(900)));
        assert!(inbox.try_again(second, at(1010)));
        assert!(!inbox.try_again(second, at(1010)), "one each interval");
        assert!((0..100).all(|_| inbox.try_again(Duration::ZERO, at(1010))), "no interval, no pace");
    }
}
