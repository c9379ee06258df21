//! The times at which streams want to be woken.
//!
//! One queue and one task for all streams, instead of a runtime's timer for each: when thousands of alarms are due at
//! once, a runtime makes all their tasks ready in one go, and every other stream waits behind them. Here a few are woken,
//! then whatever else is ready has its turn, then the next few. An alarm may so ring later than it was set for, never
//! earlier. The longer the turn of the others takes, the more alarms ring after it: about half of the time is theirs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::clock::{Clock, Mono};
use crate::registry::{Place, lock};
use crate::stream::Signal;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// By time, then by the stream's number.
    queue: Mutex<BTreeMap<(Mono, u64), Arc<Place>>>,
    /// There is a new first alarm.
    earlier: Notify,
}

impl Alarms {
    /// Moves the alarm of the stream `id` from one time to another.
    pub(super) fn shift(&self, id: u64, place: &Arc<Place>, from: Option<Mono>, to: Option<Mono>) {
        let mut queue = lock(&self.queue);
        // It may have rung already.
        let _rung = from.and_then(|at| queue.remove(&(at, id)));
        if let Some(at) = to {
            queue.insert((at, id), place.clone());
            let first = queue.first_key_value().is_some_and(|(key, _)| *key == (at, id));
            drop(queue);
            if first {
                self.earlier.notify_one();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.queue).is_empty()
    }

    /// Rings, for ever.
    pub(super) async fn ring(self: Arc<Self>, clock: Clock) {
        let mut rung = None;
        loop {
            let now = clock.now().mono;
            let turn = rung.map_or(Duration::ZERO, |rung| now.saturating_since(rung));
            let (due, next) = self.due(now, AT_LEAST.max(usize::try_from(turn.as_micros() / EACH).unwrap_or(AT_LEAST)));
            rung = (!due.is_empty()).then_some(now);
            for place in due {
                place.mailbox.put(Signal::Recheck);
            }
            match next {
                // Goes behind everything that is ready, and has the runtime look for more of that.
                _ if rung.is_some() => tokio::task::yield_now().await,
                None => self.earlier.notified().await,
                // Over when the time has come or the first alarm is another one: both are looked at again.
                Some(at) => drop(timeout_at(clock.instant(at).into(), self.earlier.notified()).await),
            }
        }
    }

    /// Takes the first alarms that are due, `most` of them; and when the next one is.
    fn due(&self, now: Mono, most: usize) -> (Vec<Arc<Place>>, Option<Mono>) {
        let mut queue = lock(&self.queue);
        let mut due = Vec::new();
        while due.len() < most {
            match queue.first_entry().filter(|first| first.key().0 <= now) {
                Some(first) => due.push(first.remove()),
                None => break,
            }
        }
        (due, queue.first_key_value().map(|((at, _), _)| *at))
    }
}

/// How many alarms ring, if so many are due, before others have their turn.
const AT_LEAST: usize = 2;
/// For this much of the others' turn one more alarm rings: twice what it costs to end a stream, microseconds.
const EACH: u128 = 200;
