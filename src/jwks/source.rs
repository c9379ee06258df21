//! One source of keys: its set, its timetable, and those who wait for it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::cache::{again, freshness, next};
use super::desk::{Desk, Name, Verdict};
use super::load::{LoadError, Loaded, Memory, load};
use super::{Config, Missing, Origin};
use crate::clock::{Clock, Mono, Now, Wall, humane};
use crate::registry::Registry;
use crate::secret;
use crate::telemetry::Metrics;
use crate::token::KeyRing;
use crate::token::keys::store::Change;
use crate::token::keys::{KeyStore, LoadedJwk, SkippedJwk};

/// What a source needs to run.
#[derive(Clone, Debug)]
pub struct Context {
    /// The time.
    pub clock: Clock,
    /// The streams that may rest on its keys.
    pub registry: Registry,
    /// What is counted.
    pub metrics: Metrics,
    /// Ends it.
    pub stop: CancellationToken,
}

/// See the module.
#[derive(Debug)]
pub struct Source {
    issuer: Arc<str>,
    config: Config,
    store: Arc<KeyStore>,
    state: Mutex<State>,
    /// Held while the set is fetched: two never are at a time.
    memory: tokio::sync::Mutex<Memory>,
    wake: Notify,
    /// The fetches that have ended.
    rounds: watch::Sender<Ended>,
    /// Set when it runs.
    clock: OnceLock<Clock>,
}

#[derive(Debug)]
struct State {
    desk: Desk,
    /// When it is fetched again, unless somebody asks.
    due: Mono,
    /// Failures since the last success.
    failures: u32,
    /// The last success.
    success: Option<Now>,
    /// The last failure, if nothing has succeeded since.
    error: Option<String>,
    stopped: bool,
}

/// How many fetches have ended, and how the last one did.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    count: u64,
    good: bool,
}

/// A fetch that is under way or about to begin.
pub(super) struct Round {
    after: u64,
    rounds: watch::Receiver<Ended>,
}

impl Round {
    /// Waits for its end; whether it was good.
    pub(super) async fn ended(mut self) -> bool {
        let after = self.after;
        self.rounds.wait_for(|ended| ended.count > after).await.is_ok_and(|ended| ended.good)
    }
}

/// How a source stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where its set comes from.
    pub origin: Origin,
    /// The keys of the set.
    pub loaded: Vec<LoadedJwk>,
    /// Its members that are not used.
    pub skipped: Vec<SkippedJwk>,
    /// When it was last seen.
    pub seen: Option<Wall>,
    /// For how long it still counts if it cannot be fetched again; `None` = without an end.
    pub counts_for: Option<Duration>,
    /// When it is fetched again.
    pub next: Duration,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
}

impl Source {
    /// A source of this issuer's keys, which are put into `store`. One that comes from a file has its first set already.
    pub fn new(issuer: Arc<str>, config: Config, store: Arc<KeyStore>) -> Self {
        let state = State {
            desk: Desk::new(config.cooldown),
            due: Mono::default(),
            failures: 0,
            success: None,
            error: None,
            stopped: false,
        };
        Self {
            issuer,
            config,
            store,
            state: Mutex::new(state),
            memory: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            rounds: watch::Sender::default(),
            clock: OnceLock::new(),
        }
    }

    /// The issuer's name in the config.
    pub const fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// Where its keys are.
    pub const fn store(&self) -> &Arc<KeyStore> {
        &self.store
    }

    /// Whether a key that goes from the set ends the live streams that rest on it.
    pub const fn closes_on_removal(&self) -> bool {
        self.config.close_on_removal
    }

    pub(super) const fn start_without(&self) -> bool {
        self.config.start_without
    }

    const fn is_file(&self) -> bool {
        matches!(self.config.origin, Origin::File(_))
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.store.last_set().is_some()
    }

    /// The time, while it runs.
    pub(super) fn now(&self) -> Option<Now> {
        self.clock.get().map(Clock::now)
    }

    /// When the set was last seen.
    pub fn last_success(&self) -> Option<Wall> {
        self.lock().success.map(|success| success.wall)
    }

    /// How it stands.
    pub fn status(&self, now: Now) -> Status {
        let state = self.lock();
        let set = self.store.last_set();
        let report = set.as_ref().map(|set| set.report.clone()).unwrap_or_default();
        Status {
            origin: self.config.origin.clone(),
            loaded: report.loaded,
            skipped: report.skipped,
            seen: state.success.map(|success| success.wall),
            counts_for: set.and_then(|set| set.until()).map(|until| left(until, now)),
            next: state.due.saturating_since(now.mono),
            error: state.error.clone(),
        }
    }

    /// Somebody needs the key of this name. The fetch that may bring it, if there is or will be one.
    pub(super) fn ask(&self, kid: Option<&str>, now: Mono) -> Option<Round> {
        // Of a file, whoever writes it decides when it is new; it is looked at soon in any case.
        if self.is_file() || self.rounds.receiver_count() >= MOST_WAITING {
            return None;
        }
        let mut state = self.lock();
        if state.stopped || self.clock.get().is_none() {
            return None;
        }
        let verdict = state.desk.ask(kid.map(Name::new), now);
        if verdict == Verdict::Refuse {
            return None;
        }
        // Under the lock, under which rounds end: this one has not.
        let rounds = self.rounds.subscribe();
        let after = rounds.borrow().count;
        if verdict == Verdict::Fetch {
            self.wake.notify_one();
        }
        Some(Round { after, rounds })
    }

    /// Fetches the set for the first time.
    pub(super) async fn first(&self, clock: &Clock) -> Result<(), Missing> {
        let fetched = self.fetch(clock).await;
        let (now, issuer) = (clock.now(), self.issuer.clone());
        match fetched {
            Ok((_, life)) => {
                self.lock().succeed(now, life);
                Ok(())
            }
            Err(error) => {
                self.lock().fail(&error, now, self.config.max_refresh);
                Err(Missing { issuer, origin: self.config.origin.clone(), error })
            }
        }
    }

    /// Begins with what `older` has, if that leads to the same keys. A file was just read anew.
    pub(super) fn adopt(&self, older: &Self) {
        if self.is_file() || !older.is_loaded() || !self.config.same_keys(&older.config) {
            return;
        }
        self.store.adopt(&older.store);
        let (due, failures, success, error) = {
            let older = older.lock();
            (older.due, older.failures, older.success, older.error.clone())
        };
        let mut state = self.lock();
        // A ceiling that was lowered counts at once.
        state.due = success.map_or(due, |success| due.min(success.mono.saturating_add(self.config.max_refresh)));
        (state.failures, state.success, state.error) = (failures, success, error);
    }

    /// Keeps the set fresh until it is stopped.
    pub async fn run(self: Arc<Self>, context: Context) {
        // Set once: a source runs once.
        let _ = self.clock.set(context.clock.clone());
        let working = async {
            loop {
                let due = tokio::time::Instant::from_std(context.clock.instant(self.lock().due));
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake.notified() => {}
                }
                self.refresh(&context).await;
            }
        };
        context.stop.run_until_cancelled(working).await;
        let mut state = self.lock();
        state.stopped = true;
        self.end_round(&state, false);
    }

    /// Fetches the set, and tells all who wait.
    async fn refresh(&self, context: &Context) {
        self.lock().desk.begin();
        let fetched = self.fetch(&context.clock).await;
        let now = context.clock.now();
        context.metrics.keys_fetched(&self.issuer, fetched.is_ok());
        let good = fetched.is_ok();
        match fetched {
            Ok((change, life)) => {
                self.lock().succeed(now, life);
                self.settle(&change, context);
            }
            Err(error) => {
                let most = if self.is_file() { FILE } else { self.config.max_refresh };
                let wait = self.lock().fail(&error, now, most);
                let left = self.store.set(now).map(|set| set.until().map(|until| left(until, now)));
                self.complain(&error, wait, left);
            }
        }
        let set = self.store.set(now);
        let known = |name: Name| {
            let loaded = set.iter().flat_map(|set| &set.report.loaded);
            loaded.filter_map(|key| key.kid.as_deref()).any(|kid| Name::new(kid) == name)
        };
        let mut state = self.lock();
        state.desk.end(if good { Some(&known) } else { None }, now.mono);
        self.end_round(&state, good);
    }

    /// What follows from a set that was found good.
    fn settle(&self, change: &Change, context: &Context) {
        if *change == Change::default() {
            return;
        }
        let set = self.store.last_set();
        let kids: Vec<&str> =
            set.iter().flat_map(|set| &set.report.loaded).filter_map(|key| key.kid.as_deref()).collect();
        tracing::info!(
            issuer = &*self.issuer,
            added = change.added.len(),
            removed = change.removed.len(),
            ?kids,
            "the issuer's keys have changed"
        );
        if self.config.close_on_removal {
            context.registry.keys_changed(change);
        }
    }

    fn complain(&self, error: &LoadError, wait: Duration, left: Option<Option<Duration>>) {
        let (issuer, origin) = (&*self.issuer, &self.config.origin);
        if let Some(left) = left {
            let left = left.map_or_else(|| "ever".to_owned(), humane);
            tracing::warn!(
                issuer, %origin, %error, again_in = humane(wait), old_keys_count_for = left,
                "the issuer's keys cannot be fetched: the old ones go on"
            );
        } else {
            tracing::error!(
                issuer, %origin, %error, again_in = humane(wait),
                "the issuer's keys cannot be fetched, and there are none: its tokens are refused"
            );
        }
    }

    /// Fetches the set and puts it in force if it is good: what it has changed, and when it is to be fetched again.
    async fn fetch(&self, clock: &Clock) -> Result<(Change, Duration), LoadError> {
        let mut memory = self.memory.lock().await;
        let loaded = load(&self.config, &mut memory, clock.now().mono).await;
        let found = loaded.and_then(|loaded| self.install(loaded, &mut memory, clock.now()));
        if found.is_err() {
            // What was remembered may be why.
            (memory.found, memory.etag) = (None, None);
        }
        found
    }

    fn install(&self, loaded: Loaded, memory: &mut Memory, now: Now) -> Result<(Change, Duration), LoadError> {
        let Config { min_refresh, max_refresh, stale, rules, .. } = &self.config;
        let until = (!self.is_file()).then(|| now.after(*stale));
        let (change, headers) = match loaded {
            Loaded::Same(headers) => {
                self.store.extend(until);
                (Change::default(), headers)
            }
            Loaded::Set(json, headers) => {
                let hash = Some(secret::sha256(&json));
                let change = if hash == memory.hash && self.is_loaded() {
                    self.store.extend(until);
                    Change::default()
                } else {
                    let (ring, report) = KeyRing::from_jwk_set(&json, rules)?;
                    self.store.install(ring, report, until)
                };
                memory.hash = hash;
                (change, headers)
            }
        };
        if self.is_file() {
            return Ok((change, FILE));
        }
        Ok((change, next(freshness(&headers, now.wall), *min_refresh, *max_refresh, rand::random())))
    }

    /// Tells all who wait that a fetch has ended. Under the lock under which they ask: whoever asks afterwards waits for the
    /// next one.
    fn end_round(&self, _state: &MutexGuard<'_, State>, good: bool) {
        self.rounds.send_modify(|ended| *ended = Ended { count: ended.count + 1, good });
    }

    /// A poisoned lock only says that a thread panicked while it held it; each change under it is complete before that.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn succeed(&mut self, now: Now, life: Duration) {
        self.due = now.mono.saturating_add(life);
        (self.failures, self.success, self.error) = (0, Some(now), None);
    }

    /// Counts a failure: how long until the next attempt.
    fn fail(&mut self, error: &LoadError, now: Now, most: Duration) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.error = Some(error.to_string());
        let wait = again(self.failures, most, rand::random());
        self.due = now.mono.saturating_add(wait);
        wait
    }
}

/// How long until the first of both clocks is there.
fn left(until: Now, now: Now) -> Duration {
    until.wall.saturating_since(now.wall).min(until.mono.saturating_since(now.mono))
}

/// How often a file is looked at.
const FILE: Duration = Duration::from_secs(5);
/// Tokens that wait for one source at a time; more are judged by what is known.
const MOST_WAITING: usize = 1_000;
