//! Streams that are answered already and not yet let in: a place for each, counted in all and by address.
//!
//! They have cost the client nothing but a handshake, so there is a bound, and whoever wants most of it loses first:
//! when all places are taken, the oldest stream of the address that has the most is told to go. Owns no stream: each has
//! a task of its own, which holds its [`Place`] and listens to it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::{Future, pending};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::stream::CloseReason;

/// How many may wait at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// For each address.
    pub per_address: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { total: 1_000, per_address: 100 }
    }
}

/// Why a stream may wait no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Its place is needed.
    Crowded,
    /// The gateway is leaving, or the route is gone; the stream may take that long to go.
    Ended(CloseReason, Duration),
}

/// All waiting streams. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    total: usize,
    by_address: HashMap<IpAddr, BTreeMap<u64, Waiter>>,
    /// One entry for each address, the one with the most streams last; of those with as many, the one with the oldest.
    by_load: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
}

#[derive(Debug)]
struct Waiter {
    route: Arc<str>,
    notice: oneshot::Sender<Notice>,
}

/// One stream's place. Given back when dropped.
#[derive(Debug)]
pub struct Place {
    id: u64,
    address: IpAddr,
    /// `None` once it was heard.
    notice: Option<oneshot::Receiver<Notice>>,
    waiting: Waiting,
}

impl Waiting {
    /// Takes a place for a stream of `route` that comes from `address`. If there is none, one that waits has to go: of
    /// this address, if it has as many as it may, else of the address that then has the most; always its oldest.
    pub fn enter(&self, route: Arc<str>, address: IpAddr, caps: Caps) -> Place {
        let mut streams = self.lock();
        let id = streams.next;
        streams.next += 1;
        let (sender, notice) = oneshot::channel();
        streams.insert(id, address, Waiter { route, notice: sender });
        let crowded = if streams.count(address) > caps.per_address.max(1) {
            Some(address)
        } else if streams.total > caps.total.max(1) {
            streams.by_load.last().map(|(_, _, address)| *address)
        } else {
            None
        };
        if let Some(address) = crowded
            && let Some(oldest) = streams.oldest(address)
            && let Some(waiter) = streams.remove(oldest, address)
        {
            // It may just have ended by itself.
            let _ = waiter.notice.send(Notice::Crowded);
        }
        Place { id, address, notice: Some(notice), waiting: self.clone() }
    }

    /// Tells those whose route `gone` picks to go, each after a random part of `window`.
    pub fn end_where(&self, gone: impl Fn(&str) -> bool, reason: CloseReason, window: Duration) {
        let mut streams = self.lock();
        let all = streams.by_address.iter().flat_map(|(address, of)| of.iter().map(|(id, of)| (*address, *id, of)));
        let chosen: Vec<_> = all.filter(|(_, _, of)| gone(&of.route)).map(|(address, id, _)| (id, address)).collect();
        for (id, address) in chosen {
            if let Some(waiter) = streams.remove(id, address) {
                let _ = waiter.notice.send(Notice::Ended(reason, window.mul_f64(rand::random())));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        // Every change is complete before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn insert(&mut self, id: u64, address: IpAddr, waiter: Waiter) {
        self.change(address, |of| {
            of.insert(id, waiter);
        });
        self.total += 1;
    }

    fn remove(&mut self, id: u64, address: IpAddr) -> Option<Waiter> {
        let removed = self.change(address, |of| of.remove(&id));
        self.total -= usize::from(removed.is_some());
        removed
    }

    /// Changes the streams of one address, and keeps `by_load` true.
    fn change<R>(&mut self, address: IpAddr, change: impl FnOnce(&mut BTreeMap<u64, Waiter>) -> R) -> R {
        let of = self.by_address.entry(address).or_default();
        let load = |of: &BTreeMap<u64, Waiter>| Some((of.len(), Reverse(*of.keys().next()?), address));
        if let Some(before) = load(of) {
            self.by_load.remove(&before);
        }
        let changed = change(of);
        match load(of) {
            Some(after) => drop(self.by_load.insert(after)),
            None => drop(self.by_address.remove(&address)),
        }
        changed
    }

    fn count(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, BTreeMap::len)
    }

    fn oldest(&self, address: IpAddr) -> Option<u64> {
        self.by_address.get(&address)?.keys().next().copied()
    }
}

impl Place {
    /// Waits until the stream is told to go, which happens once at most.
    pub async fn told(&mut self) -> Notice {
        let Some(notice) = &mut self.notice else { return pending().await };
        // The sender is only dropped after a notice was sent, or with this place.
        let told = notice.await.unwrap_or(Notice::Crowded);
        self.notice = None;
        told
    }

    /// Gives the place back before the stream goes on, or ends.
    pub fn give_back(&mut self) {
        self.notice = None;
        self.waiting.lock().remove(self.id, self.address);
    }

    /// Takes leave of a client, `work`, unless the place is needed for another one.
    pub async fn unless_crowded(&mut self, work: impl Future<Output = ()>) {
        let crowded = async { while self.told().await != Notice::Crowded {} };
        tokio::select! {
            biased;
            () = work => {}
            () = crowded => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn told(place: &mut Place) -> Option<Notice> {
        place.notice.as_mut()?.try_recv().ok()
    }

    fn enter(waiting: &Waiting, last: u8, total: usize, per_address: usize) -> Place {
        waiting.enter("route".into(), address(last), Caps { total, per_address })
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_goes_first() {
        let waiting = Waiting::default();
        let mut quiet: Vec<Place> = (1..=2).map(|last| enter(&waiting, last, 6, 100)).collect();
        let mut flood: Vec<Place> = (0..20).map(|_| enter(&waiting, 9, 6, 100)).collect();
        assert_eq!(waiting.lock().total, 6);
        assert!(quiet.iter_mut().all(|place| told(place).is_none()), "a flood pushes out nobody else");
        let gone: Vec<bool> = flood.iter_mut().map(|place| told(place).is_some()).collect();
        assert_eq!(gone, [[true; 16].as_slice(), &[false; 4]].concat(), "the oldest go");
        let mut late = enter(&waiting, 3, 6, 100);
        assert_eq!((told(&mut late), told(&mut flood[16])), (None, Some(Notice::Crowded)), "whoever comes gets in");
        drop((quiet, flood, late));
        let streams = waiting.lock();
        assert!(streams.total == 0 && streams.by_address.is_empty() && streams.by_load.is_empty(), "{streams:?}");
    }

    #[test]
    fn an_address_that_is_full_pushes_out_its_own() {
        let waiting = Waiting::default();
        let mut other: Vec<Place> = (0..3).map(|_| enter(&waiting, 1, 100, 3)).collect();
        let mut own: Vec<Place> = (0..4).map(|_| enter(&waiting, 2, 100, 3)).collect();
        assert!(other.iter_mut().all(|place| told(place).is_none()));
        assert_eq!(own.iter_mut().map(told).collect::<Vec<_>>(), [Some(Notice::Crowded), None, None, None]);
        drop(own.remove(1));
        let mut next = enter(&waiting, 2, 100, 3);
        assert!(told(&mut next).is_none() && own.iter_mut().all(|place| told(place).is_none()), "a place came free");
    }

    #[test]
    fn those_of_a_route_that_is_gone_are_told() {
        let waiting = Waiting::default();
        let caps = Caps::default();
        let (mut stays, mut goes) =
            (waiting.enter("a".into(), address(1), caps), waiting.enter("b".into(), address(1), caps));
        waiting.end_where(|route| route == "b", CloseReason::RouteGone, Duration::ZERO);
        let gone = Notice::Ended(CloseReason::RouteGone, Duration::ZERO);
        assert_eq!((told(&mut stays), told(&mut goes)), (None, Some(gone)));
    }
}
