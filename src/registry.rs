//! Live streams: a place for each, counted, and a way to signal it.
//!
//! The registry owns no stream. Each stream's task holds a [`Guard`]; the registry reaches it only by putting a signal
//! into the guard's mailbox, which is the one path between tasks, or by waking it at the time that it has asked for.
//! Called by the pipeline (to reserve), by the app (to drain, to recheck after a step of the clock), and by the relay (to
//! take its signals, to set its alarm).

mod alarms;
mod crowds;
mod overview;
mod renewals;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

pub use alarms::Alarm;
use alarms::Alarms;
pub use crowds::{CrowdCaps, WhenFull};
use crowds::{Crowds, Membership};
use futures_util::task::AtomicWaker;
use overview::Meter;
pub use overview::{Gauge, Glimpse, Tally};
use renewals::Inbox;
pub use renewals::{Live as LiveStream, Renewal};
use tokio::task::AbortHandle;

use crate::clock::{Clock, Wall};
use crate::revocation::{self, Revocations};
use crate::secret::{Fingerprint, OpaqueHash};
use crate::stream::{Signal, Traffic};
use crate::telemetry::{Metrics, StreamLine};
use crate::token::{Grant, Marks, Principal};

/// What is known of a live stream.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The route's name.
    pub route: Arc<str>,
    /// The client's address.
    pub peer: SocketAddr,
    /// Who the stream belongs to.
    pub principal: Principal,
    /// What its client names it by to renew its token; `None` where that cannot be.
    pub handle: Option<OpaqueHash>,
    /// When it was let in.
    pub since: Wall,
    /// Its first token.
    pub standing: Standing,
}

/// What is known of a stream's present token.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its `jti`.
    pub jti: Option<Box<str>>,
    /// What a revocation may name of it.
    pub marks: Marks,
    /// Its short hash.
    pub token: Fingerprint,
    /// When it expires, leeway included.
    pub expiry: Option<Wall>,
    /// How many tokens the stream has had before it.
    pub renewals: u32,
}

impl Standing {
    /// The standing of a stream with this grant, renewed so often.
    pub fn new(grant: &Grant, renewals: u32) -> Self {
        let (marks, token) = (grant.marks, grant.fingerprint);
        Self { jti: grant.jti.clone(), marks, token, expiry: grant.expiry, renewals }
    }
}

/// What has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain request and its answer, held to a token. Counts as no stream.
    Http,
    /// A stream.
    Stream,
}

/// How many streams there may be; `None` for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caps {
    /// In the whole process.
    pub total: Option<usize>,
    /// On the stream's route.
    pub route: Option<usize>,
    /// There, of its principal and from its address.
    pub crowds: CrowdCaps,
}

/// Why a stream gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are as many from its address as there may be.
    AddressFull,
    /// There is no place for another stream.
    Full,
    /// The handle that its client has chosen is another live stream's.
    HandleTaken,
    /// There are as many of its principal as there may be.
    PrincipalFull,
}

/// The live streams of the process. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    live: Mutex<Live>,
    alarms: Arc<Alarms>,
    revocations: Revocations,
    metrics: Metrics,
    /// The task that rings them.
    bell: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.bell.abort();
    }
}

#[derive(Debug, Default)]
struct Live {
    places: HashMap<u64, Arc<Place>>,
    /// Of them, those that are streams, in all and by route.
    streams: usize,
    by_route: HashMap<Arc<str>, usize>,
    by_handle: HashMap<OpaqueHash, u64>,
    crowds: Crowds,
    /// What has passed up and down on streams that have ended.
    ended: (Traffic, Traffic),
}

#[derive(Debug)]
struct Place {
    kind: Kind,
    route: Arc<str>,
    peer: SocketAddr,
    principal: Principal,
    handle: Option<OpaqueHash>,
    since: Wall,
    standing: Mutex<Standing>,
    inbox: Mutex<Inbox>,
    mailbox: Mailbox,
    meter: Meter,
}

/// Signals that wait for a stream, at most one of each kind: a bit for each. Read by the stream on every poll.
#[derive(Debug, Default)]
struct Mailbox {
    signals: AtomicU8,
    waker: AtomicWaker,
}

/// Signals that were taken from a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals(u8);

impl Signals {
    const fn of(signal: Signal) -> Self {
        Self(1 << signal as u8)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is among them.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & Self::of(signal).0 != 0
    }

    /// The signals, the gravest first.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        Signal::ALL.into_iter().filter(move |signal| self.contains(*signal))
    }
}

impl Registry {
    /// An empty registry, whose alarms are set by this clock. Must be called within a tokio runtime: they ring there.
    /// No token is revoked, and nobody looks at its counters.
    pub fn new(clock: &Clock) -> Self {
        let revocations = Revocations::in_memory(revocation::Config::default().max_entries);
        Self::with(clock, revocations, Metrics::new(Wall::default()))
    }

    /// Likewise, with these bans and counters.
    pub fn with(clock: &Clock, revocations: Revocations, metrics: Metrics) -> Self {
        let alarms = Arc::<Alarms>::default();
        let bell = tokio::spawn(alarms.clone().ring(clock.clone())).abort_handle();
        let (next, live) = (AtomicU64::new(0), Mutex::default());
        Self(Arc::new(Shared { next, live, alarms, revocations, metrics, bell }))
    }

    /// Live streams, reserved places included.
    pub fn len(&self) -> usize {
        self.lock().streams
    }

    /// Whether there is no live stream.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a place for a stream. Its signals are armed from here on: one that is sent before the stream's first poll
    /// is heard at that poll.
    pub fn reserve(&self, entry: Entry, caps: Caps) -> Result<Guard, Refused> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut live = self.lock();
        let on_route = live.by_route.get(&entry.route).copied().unwrap_or(0);
        let full = |count: usize, cap: Option<usize>| cap.is_some_and(|cap| count >= cap);
        if full(live.streams, caps.total) || full(on_route, caps.route) {
            return Err(Refused::Full);
        }
        if entry.handle.is_some_and(|handle| live.by_handle.contains_key(&handle)) {
            return Err(Refused::HandleTaken);
        }
        let membership = live.crowds.join(id, &entry.route, entry.principal, caps.crowds)?;
        if let Some(handle) = entry.handle {
            live.by_handle.insert(handle, id);
        }
        live.by_route.insert(entry.route.clone(), on_route + 1);
        live.streams += 1;
        let place = live.place(id, Kind::Stream, entry);
        Ok(Guard { id, place, alarm: None, membership, registry: self.0.clone() })
    }

    /// A place for a plain request: it is signalled like a stream, and counts under no cap.
    pub fn enter_http(&self, entry: Entry) -> Guard {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let place = self.lock().place(id, Kind::Http, entry);
        Guard { id, place, alarm: None, membership: None, registry: self.0.clone() }
    }

    /// Signals every stream.
    pub fn signal_all(&self, signal: Signal) {
        self.signal_where(|_| true, signal);
    }

    /// Signals the streams whose route `chosen` picks; answers how many.
    pub fn signal_where(&self, chosen: impl Fn(&Arc<str>) -> bool, signal: Signal) -> usize {
        let places: Vec<_> = self.lock().places.values().filter(|place| chosen(&place.route)).cloned().collect();
        for place in &places {
            self.put(place, signal);
        }
        places.len()
    }

    /// Signals one stream; false if it has ended.
    pub fn signal(&self, id: u64, signal: Signal) -> bool {
        let place = self.lock().places.get(&id).cloned();
        place.is_some_and(|place| {
            self.put(&place, signal);
            true
        })
    }

    /// The signal is there at once; the stream is woken in its turn, so that thousands are not woken together.
    fn put(&self, place: &Arc<Place>, signal: Signal) {
        if place.mailbox.put(signal) {
            self.0.alarms.wake_soon(place);
        }
    }

    /// The numbers of all live streams, in no order.
    pub fn ids(&self) -> Vec<u64> {
        self.lock().places.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        lock(&self.0.live)
    }
}

impl Live {
    fn place(&mut self, id: u64, kind: Kind, entry: Entry) -> Arc<Place> {
        let Entry { route, peer, principal, handle, since, standing } = entry;
        let (standing, inbox) = (Mutex::new(standing), Mutex::default());
        let (mailbox, meter) = (Mailbox::default(), Meter::default());
        let place = Arc::new(Place { kind, route, peer, principal, handle, since, standing, inbox, mailbox, meter });
        self.places.insert(id, place.clone());
        place
    }
}

impl Mailbox {
    /// Puts the signal in; whether there was none of its kind.
    fn put(&self, signal: Signal) -> bool {
        !Signals(self.signals.fetch_or(Signals::of(signal).0, Ordering::Release)).contains(signal)
    }
}

/// A stream's place in the registry, and its mailbox. Leaves the registry when dropped.
#[derive(Debug)]
pub struct Guard {
    id: u64,
    place: Arc<Place>,
    /// What the alarm was last set to.
    alarm: Option<Alarm>,
    /// The crowds that it belongs to, where its route bounds them.
    membership: Option<Box<Membership>>,
    registry: Arc<Shared>,
}

impl Guard {
    /// The stream's number, unique in the process.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The route's name.
    pub fn route(&self) -> &Arc<str> {
        &self.place.route
    }

    /// What the stream's lines in the log say of it.
    pub fn line(&self) -> StreamLine<'_> {
        let Place { route, peer, principal, standing, .. } = &*self.place;
        let Standing { jti, token, renewals, .. } = lock(standing).clone();
        StreamLine { stream: self.id, route, peer: *peer, jti, token, principal: principal.fingerprint(), renewals }
    }

    /// Takes the signals that wait, and has the task woken by the next one.
    pub fn poll_signals(&self, cx: &mut Context<'_>) -> Signals {
        let mailbox = &self.place.mailbox;
        mailbox.waker.register(cx.waker());
        match mailbox.signals.load(Ordering::Relaxed) {
            0 => Signals(0),
            _ => Signals(mailbox.signals.swap(0, Ordering::Acquire)),
        }
    }

    /// Waits for a signal of these kinds and takes it, the gravest first. Others stay.
    pub async fn told(&self, kinds: &[Signal]) -> Signal {
        let mailbox = &self.place.mailbox;
        poll_fn(|cx| {
            mailbox.waker.register(cx.waker());
            let waiting = Signals(mailbox.signals.load(Ordering::Acquire));
            let Some(signal) = waiting.iter().find(|signal| kinds.contains(signal)) else { return Poll::Pending };
            mailbox.signals.fetch_and(!Signals::of(signal).0, Ordering::AcqRel);
            Poll::Ready(signal)
        })
        .await
    }

    /// What the alarm was last set to; it may have rung.
    pub const fn alarm(&self) -> Option<Alarm> {
        self.alarm
    }

    /// Has the task that last called [`Guard::poll_signals`] told to [recheck](Signal::Recheck) at this time, and not at
    /// the one set before. It may be told later if many are to be told at once, and never earlier.
    pub fn wake_at(&mut self, alarm: Option<Alarm>) {
        let before = std::mem::replace(&mut self.alarm, alarm);
        self.registry.alarms.shift(self.id, &self.place, before, alarm);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.wake_at(None);
        lock(&self.place.inbox).close();
        let mut live = lock(&self.registry.live);
        live.places.remove(&self.id);
        let Place { kind, route, handle, meter, .. } = &*self.place;
        if *kind == Kind::Http {
            return;
        }
        live.streams -= 1;
        let (upward, downward) = meter.read();
        live.ended.0.add(upward);
        live.ended.1.add(downward);
        if let Some(handle) = handle {
            live.by_handle.remove(handle);
        }
        if let Some(membership) = &self.membership {
            live.crowds.leave(self.id, membership);
        }
        if let Some(count) = live.by_route.get_mut(route) {
            *count -= 1;
            if *count == 0 {
                live.by_route.remove(route);
            }
        }
    }
}

/// A poisoned lock only says that a thread panicked while it held it; every change under these locks is complete
/// before anything could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Mono;

    fn entry(route: &str) -> Entry {
        Entry {
            route: route.into(),
            peer: ([192, 0, 2, 1], 1).into(),
            principal: Principal::new(&["x".into()]),
            handle: None,
            since: Wall::default(),
            standing: Standing {
                jti: None,
                marks: Marks::default(),
                token: crate::secret::fingerprint(b"x"),
                expiry: None,
                renewals: 0,
            },
        }
    }

    #[tokio::test]
    async fn a_place_counts_until_its_guard_is_dropped() {
        let registry = Registry::new(&Clock::system());
        let caps = Caps { total: Some(3), route: Some(2), ..Caps::default() };
        let first = registry.reserve(entry("a"), caps).unwrap();
        let _second = registry.reserve(entry("a"), caps).unwrap();
        assert_eq!(registry.reserve(entry("a"), caps).unwrap_err(), Refused::Full, "the route is full");
        let third = registry.reserve(entry("b"), caps).unwrap();
        assert_eq!(registry.reserve(entry("c"), caps).unwrap_err(), Refused::Full, "the process is full");
        drop(first);
        assert_eq!(registry.len(), 2);
        let _again = registry.reserve(entry("a"), caps).unwrap();
        drop(third);
        assert!(!registry.lock().by_route.contains_key("b"), "a route without streams leaves nothing behind");
    }

    #[tokio::test]
    async fn a_signal_is_heard_once_and_only_by_those_it_is_for() {
        let registry = Registry::new(&Clock::system());
        let a = registry.reserve(entry("a"), Caps::default()).unwrap();
        let b = registry.reserve(entry("b"), Caps::default()).unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(registry.signal_where(|route| &**route == "a", Signal::Drain), 1);
        registry.signal_all(Signal::Recheck);
        registry.signal_all(Signal::Recheck);
        let mut heard = |guard: &Guard| guard.poll_signals(&mut cx).iter().collect::<Vec<_>>();
        assert_eq!(heard(&a), [Signal::Drain, Signal::Recheck]);
        assert_eq!(heard(&a), []);
        assert_eq!(heard(&b), [Signal::Recheck]);
        registry.signal_all(Signal::Drain);
        assert!(registry.signal(b.id(), Signal::Revoke));
        assert_eq!(heard(&b), [Signal::Revoke, Signal::Drain], "the gravest first");
    }

    #[tokio::test]
    async fn whoever_waits_for_some_signals_hears_them_past_others_which_stay() {
        let registry = Registry::new(&Clock::system());
        let guard = registry.reserve(entry("a"), Caps::default()).unwrap();
        let waiter = tokio::spawn(async move { (guard.told(&[Signal::End, Signal::Revoke]).await, guard) });
        for signal in [Signal::Renew, Signal::Revoke] {
            // It waits on, and has heard the first one when the second one comes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            registry.signal_all(signal);
        }
        let (told, guard) = tokio::time::timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap();
        assert_eq!(told, Signal::Revoke);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(guard.poll_signals(&mut cx).iter().collect::<Vec<_>>(), [Signal::Renew]);
    }

    #[tokio::test]
    async fn alarms_that_are_due_together_ring_on_time_and_leave_others_their_turn() {
        const STREAMS: usize = 500;
        let clock = Clock::system();
        let registry = Registry::new(&clock);
        let at = clock.now().mono.saturating_add(Duration::from_millis(50));
        let rung = Arc::new(AtomicU64::new(0));
        for _ in 0..STREAMS {
            let mut guard = registry.reserve(entry("a"), Caps::default()).unwrap();
            let (clock, rung) = (clock.clone(), rung.clone());
            tokio::spawn(async move {
                guard.wake_at(Some(Alarm::At(at.saturating_add(Duration::from_secs(3600)))));
                guard.wake_at(Some(Alarm::At(at)));
                poll_fn(|cx| {
                    let rung = guard.poll_signals(cx).contains(Signal::Recheck);
                    if rung { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                assert!(clock.now().mono >= at, "too early");
                rung.fetch_add(1, Ordering::Relaxed);
            });
        }
        let mut turns = 0;
        while rung.load(Ordering::Relaxed) < STREAMS as u64 {
            turns += u64::from(rung.load(Ordering::Relaxed) > 0);
            tokio::task::yield_now().await;
            assert!(clock.now().mono < at.saturating_add(Duration::from_secs(10)), "{rung:?} of {STREAMS} rang");
        }
        // A turn that takes long, on a busy machine, is followed by more alarms than usual.
        assert!(turns > STREAMS as u64 / 10, "only {turns} turns while {STREAMS} alarms rang");
        assert!(registry.is_empty() && registry.0.alarms.is_empty(), "what has rung is forgotten");
    }

    #[tokio::test]
    async fn deadlines_go_before_turns_and_signals_before_both() {
        let registry = Registry::new(&Clock::system());
        let now = Mono::from_origin(Duration::from_secs(60));
        let place = |alarm| {
            let mut guard = registry.reserve(entry("a"), Caps::default()).unwrap();
            guard.wake_at(alarm);
            guard
        };
        let turns =
            [Duration::from_secs(1), Duration::from_secs(2)].map(|at| place(Some(Alarm::Turn(Mono::from_origin(at)))));
        let late = place(Some(Alarm::At(now)));
        let _later = place(Some(Alarm::At(now.saturating_add(Duration::from_secs(1)))));
        let signalled = place(None);
        registry.signal(signalled.id(), Signal::Revoke);
        let (due, next) = registry.0.alarms.due(now, 3);
        for (place, guard) in due.iter().zip([&signalled, &late, &turns[0]]) {
            assert!(Arc::ptr_eq(place, &guard.place));
        }
        assert_eq!((due.len(), next), (3, turns[1].alarm().map(Alarm::at)));
        assert_eq!(registry.0.alarms.due(now, 3).0.len(), 1, "what is not due waits");
    }

    #[tokio::test]
    async fn a_stream_that_has_ended_leaves_no_alarm_behind() {
        let registry = Registry::new(&Clock::system());
        let mut guard = registry.reserve(entry("a"), Caps::default()).unwrap();
        guard.wake_at(Some(Alarm::At(Mono::from_origin(Duration::from_secs(60)))));
        guard.wake_at(Some(Alarm::Turn(Mono::from_origin(Duration::from_secs(30)))));
        assert!(!registry.0.alarms.is_empty());
        drop(guard);
        assert!(registry.0.alarms.is_empty());
    }
}
