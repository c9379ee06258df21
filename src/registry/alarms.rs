//! The times at which streams want to be woken.
//!
//! One queue and one task for all streams, instead of a runtime's timer for each: when thousands of alarms are due at
//! once, a runtime makes all their tasks ready in one go, and every other stream waits behind them. Here a few are woken,
//! then whatever else is ready has its turn, then the next few. An alarm may so ring later than it was set for, never
//! earlier. The longer the turn of the others takes, the more alarms ring after it: about half of the time is theirs.
//! Streams that were sent a signal are woken in the same way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::clock::{Clock, Mono};
use crate::registry::{Place, lock};
use crate::stream::Signal;

/// What a stream wants to be woken for. Deadlines go first, however long the others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// A deadline at this time.
    At(Mono),
    /// What can wait, since this time: the stream's turn comes when no deadline is due.
    Turn(Mono),
}

impl Alarm {
    /// The time before which it does not ring.
    pub const fn at(self) -> Mono {
        let (Self::At(at) | Self::Turn(at)) = self;
        at
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    queue: Mutex<Queue>,
    /// There is a new first one.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// At most one for each stream, with its number.
    alarms: BTreeMap<(Alarm, u64), Arc<Place>>,
    /// Streams with signals, to be woken before all others: at most one more for each signal that was sent meanwhile.
    signalled: VecDeque<Arc<Place>>,
}

impl Alarms {
    /// Moves the alarm of the stream `id`.
    pub(super) fn shift(&self, id: u64, place: &Arc<Place>, from: Option<Alarm>, to: Option<Alarm>) {
        let mut queue = lock(&self.queue);
        // It may have rung already.
        let _rung = from.and_then(|alarm| queue.alarms.remove(&(alarm, id)));
        if let Some(alarm) = to {
            let before = queue.first();
            queue.alarms.insert((alarm, id), place.clone());
            drop(queue);
            if before.is_none_or(|before| alarm.at() < before) {
                self.earlier.notify_one();
            }
        }
    }

    /// Wakes the stream, which was sent a signal.
    pub(super) fn wake_soon(&self, place: &Arc<Place>) {
        lock(&self.queue).signalled.push_back(place.clone());
        self.earlier.notify_one();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.queue).alarms.is_empty()
    }

    /// Rings, for ever.
    pub(super) async fn ring(self: Arc<Self>, clock: Clock) {
        let mut rung = None;
        loop {
            let now = clock.now().mono;
            let turn = rung.map_or(Duration::ZERO, |rung| now.saturating_since(rung));
            let most = usize::try_from(turn.as_micros() / EACH).unwrap_or(AT_MOST).clamp(AT_LEAST, AT_MOST);
            let (due, next) = self.due(now, most);
            rung = (!due.is_empty()).then_some(now);
            for place in due {
                place.mailbox.waker.wake();
            }
            match next {
                // What is ready has its turn, and the runtime looks for more of that.
                _ if rung.is_some() => tokio::task::yield_now().await,
                None => self.earlier.notified().await,
                // Over when the time has come or the first alarm is another one: both are looked at again.
                Some(at) => drop(timeout_at(clock.instant(at).into(), self.earlier.notified()).await),
            }
        }
    }

    /// Takes the first streams that are due, `most` of them; and when the next one is.
    pub(super) fn due(&self, now: Mono, most: usize) -> (Vec<Arc<Place>>, Option<Mono>) {
        let mut queue = lock(&self.queue);
        let mut due = Vec::new();
        while due.len() < most
            && let Some(place) = queue.take(now)
        {
            due.push(place);
        }
        (due, queue.first())
    }
}

impl Queue {
    /// The next stream to be woken, if it is time.
    fn take(&mut self, now: Mono) -> Option<Arc<Place>> {
        if let Some(place) = self.signalled.pop_front() {
            return Some(place);
        }
        let key = self.firsts().into_iter().flatten().find(|(alarm, _)| alarm.at() <= now)?;
        let place = self.alarms.remove(&key)?;
        place.mailbox.put(Signal::Recheck);
        Some(place)
    }

    /// When the next stream is to be woken.
    fn first(&self) -> Option<Mono> {
        let signalled = (!self.signalled.is_empty()).then(Mono::default);
        let alarms = self.firsts().into_iter().flatten().map(|(alarm, _)| alarm.at());
        alarms.chain(signalled).min()
    }

    /// The first deadline and the first turn.
    fn firsts(&self) -> [Option<(Alarm, u64)>; 2] {
        let turns = (Alarm::Turn(Mono::default()), 0);
        let key = |(key, _): (&(Alarm, u64), &Arc<Place>)| *key;
        [self.alarms.range(..turns).next().map(key), self.alarms.range(turns..).next().map(key)]
    }
}

/// How many streams are woken at least, if so many are due, before others have their turn.
const AT_LEAST: usize = 2;
/// And at most: the others' turn has the woken streams' own work in it, which must not call for ever more.
const AT_MOST: usize = 256;
/// For this much of the others' turn one more is woken: twice what it costs to end a stream, microseconds.
const EACH: u128 = 200;
