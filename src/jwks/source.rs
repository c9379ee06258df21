//! One source of keys: its set, its timetable, and those who wait for it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::cache::{again, freshness, next};
use super::desk::{Desk, Name, Verdict};
use super::ledger::Ledger;
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
    ledger: Ledger,
    /// When it is fetched again, by either clock, unless somebody asks.
    due: Now,
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

/// What becomes of a question for a key.
pub(super) enum Answer {
    /// A fetch is under way or about to begin.
    Round(Round),
    /// The issuer has no key of this name, or had none a moment ago.
    NoSuchKey,
    /// The issuer is not asked now.
    NotNow,
}

/// A fetch that is under way or about to begin.
pub(super) struct Round {
    after: u64,
    rounds: watch::Receiver<Ended>,
    /// It began before the question: what it brings may be older.
    pub(super) late: bool,
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
            ledger: Ledger::default(),
            due: Now::default(),
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
            next: left(state.due, now),
            error: state.error.clone(),
        }
    }

    /// Somebody needs the key of this name.
    pub(super) fn ask(&self, kid: Option<&str>, now: Mono) -> Answer {
        // Of a file, whoever writes it decides when it is new; it is looked at soon in any case.
        if self.is_file() {
            return Answer::NoSuchKey;
        }
        let mut state = self.lock();
        if state.stopped || self.clock.get().is_none() || self.rounds.receiver_count() >= MOST_WAITING {
            return Answer::NotNow;
        }
        let verdict = state.desk.ask(kid.map(Name::new), now);
        match verdict {
            Verdict::Unknown => return Answer::NoSuchKey,
            Verdict::NotNow => return Answer::NotNow,
            Verdict::Fetch => self.wake.notify_one(),
            Verdict::Join | Verdict::JoinLate => {}
        }
        // Under the lock, under which rounds end: this one has not.
        let rounds = self.rounds.subscribe();
        let after = rounds.borrow().count;
        Answer::Round(Round { after, rounds, late: verdict == Verdict::JoinLate })
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

    /// Begins with what `older` knows: the keys that streams may rest on; and its set, if that leads to the same keys and
    /// is not the older one of two.
    pub(super) fn adopt(&self, older: &Self) {
        let (due, failures, success, error, ledger) = {
            let older = older.lock();
            (older.due, older.failures, older.success, older.error.clone(), older.ledger.clone())
        };
        let mut state = self.lock();
        state.ledger = ledger;
        let newer = success.filter(|success| state.success.is_none_or(|own| own.mono < success.mono));
        let Some(success) = newer.filter(|_| older.is_loaded() && self.config.same_keys(&older.config)) else { return };
        self.store.adopt(&older.store);
        // It counts as this config says, and a ceiling that was lowered counts at once.
        self.store.extend(self.until(success));
        // A file is looked at at once: it was read for this config, and may be another one by now.
        let ceiling = if self.is_file() { Duration::ZERO } else { self.config.max_refresh };
        state.due = earlier(due, success.after(ceiling));
        (state.failures, state.success, state.error) = (failures, Some(success), error);
        drop(state);
        // What was remembered of another set says nothing of this one. Nobody fetches yet.
        if let Ok(mut memory) = self.memory.try_lock() {
            *memory = Memory::default();
        }
    }

    /// From now on nothing that is fetched is put in force.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        self.end_round(&state, false);
    }

    /// From now on the source can be asked; its task is to be run next.
    pub fn begin(&self, context: &Context) {
        // Set once: a source runs once.
        let _ = self.clock.set(context.clock.clone());
        if self.is_loaded() {
            self.reckon(context);
        }
    }

    /// A clock was stepped: it may be time.
    pub fn recheck(&self) {
        self.wake.notify_one();
    }

    /// Keeps the set fresh until it is stopped.
    pub async fn run(self: Arc<Self>, context: Context) {
        let working = async {
            loop {
                let due = self.lock().due;
                let timer = tokio::time::Instant::from_std(context.clock.instant(due.mono));
                tokio::select! {
                    () = tokio::time::sleep_until(timer) => {}
                    () = self.wake.notified() => {}
                }
                let now = context.clock.now();
                let (due, asked) = {
                    let state = self.lock();
                    (state.due, state.desk.is_waiting())
                };
                // A wish may have been served by the clock, just before its call was heard.
                if asked || now.mono >= due.mono || now.wall >= due.wall {
                    self.refresh(&context).await;
                }
            }
        };
        context.stop.run_until_cancelled(working).await;
        self.stop();
    }

    /// Fetches the set, and tells all who wait.
    async fn refresh(&self, context: &Context) {
        self.lock().desk.begin();
        let fetched = self.fetch(&context.clock).await;
        let now = context.clock.now();
        context.metrics.keys_fetched(&self.issuer, fetched.is_ok());
        let (change, life) = match fetched {
            Ok(found) => found,
            Err(error) => {
                let most = if self.is_file() { FILE } else { self.config.max_refresh };
                let (wait, news) = self.lock().fail(&error, now, most);
                if news {
                    let left = self.store.set(now).map(|set| set.until().map(|until| left(until, now)));
                    self.complain(&error, wait, left);
                }
                let mut state = self.lock();
                state.desk.failed();
                self.end_round(&state, false);
                return;
            }
        };
        self.lock().succeed(now, life);
        self.tell(&change);
        self.reckon(context);
        let set = self.store.set(now);
        let known = |name: Name| {
            let loaded = set.iter().flat_map(|set| &set.report.loaded);
            loaded.filter_map(|key| key.kid.as_deref()).any(|kid| Name::new(kid) == name)
        };
        let vain = {
            let mut state = self.lock();
            let vain = state.desk.done(known, change != Change::default(), now.mono);
            self.end_round(&state, true);
            vain
        };
        if vain {
            // The set may have moved.
            self.memory.lock().await.found = None;
        }
    }

    fn tell(&self, change: &Change) {
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
    }

    /// What follows for streams from the set as it is now: keys that it shows count again, whatever was before; those that
    /// were taken back end their streams where the config says so.
    fn reckon(&self, context: &Context) {
        let shown = self.store.ids();
        let removed = {
            let mut state = self.lock();
            let removed = state.ledger.look(&shown, self.is_file());
            if self.config.close_on_removal && state.ledger.is_in_doubt() {
                state.due = earlier(state.due, context.clock.now().after(self.config.cooldown.min(SECOND_LOOK)));
            }
            removed
        };
        let removed = if self.config.close_on_removal { removed } else { Vec::new() };
        let added = shown.into_iter().collect();
        let told = context.registry.keys_changed(&Change { added, removed });
        if told > 0 {
            tracing::warn!(
                issuer = &*self.issuer,
                streams = told,
                "keys were taken back: the streams that rest on them end"
            );
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
        let limit = self.config.timeout.saturating_mul(2).saturating_add(SLACK);
        let loaded = tokio::time::timeout(limit, load(&self.config, &mut memory, clock.now().mono)).await;
        let loaded = loaded.unwrap_or(Err(LoadError::Hung(limit)));
        let found = loaded.and_then(|loaded| self.install(loaded, &mut memory, clock.now()));
        if found.is_err() {
            // What was remembered may be why.
            (memory.found, memory.etag) = (None, None);
        }
        found
    }

    fn install(&self, loaded: Loaded, memory: &mut Memory, now: Now) -> Result<(Change, Duration), LoadError> {
        let Config { min_refresh, max_refresh, stale, rules, .. } = &self.config;
        let until = self.until(now);
        let (found, headers) = match loaded {
            Loaded::Same(headers) => (None, headers),
            Loaded::Set(json, headers) => {
                let hash = Some(secret::sha256(&json));
                let same = hash == memory.hash && self.is_loaded();
                let found = if same { None } else { Some(KeyRing::from_jwk_set(&json, rules)?) };
                memory.hash = hash;
                (found, headers)
            }
        };
        let change = {
            // Whoever has stopped it has taken over what was there then.
            let state = self.lock();
            if state.stopped {
                return Err(LoadError::Stopped);
            }
            if let Some((ring, report)) = found {
                self.store.install(ring, report, until)
            } else {
                self.store.extend(until);
                Change::default()
            }
        };
        if self.is_file() {
            return Ok((change, FILE));
        }
        let life = next(freshness(&headers, now.wall), *min_refresh, *max_refresh, rand::random());
        // Long before the set is too old.
        Ok((change, life.min(*stale / 2)))
    }

    /// From when a set that was seen at `seen` is too old.
    fn until(&self, seen: Now) -> Option<Now> {
        (!self.is_file()).then(|| seen.after(self.config.stale))
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
        self.due = now.after(life);
        (self.failures, self.success, self.error) = (0, Some(now), None);
    }

    /// Counts a failure: how long until the next attempt, and whether it is worth a line in the log.
    fn fail(&mut self, error: &LoadError, now: Now, most: Duration) -> (Duration, bool) {
        self.failures = self.failures.saturating_add(1);
        let error = Some(error.to_string());
        let news = error != self.error || self.failures.is_power_of_two();
        self.error = error;
        let wait = again(self.failures, most, rand::random());
        self.due = now.after(wait);
        (wait, news)
    }
}

/// The first of two times, by either clock.
fn earlier(one: Now, other: Now) -> Now {
    Now { wall: one.wall.min(other.wall), mono: one.mono.min(other.mono) }
}

/// How long until the first of both clocks is there.
fn left(until: Now, now: Now) -> Duration {
    until.wall.saturating_since(now.wall).min(until.mono.saturating_since(now.mono))
}

/// How often a file is looked at.
const FILE: Duration = Duration::from_secs(5);
/// When a key that is missing is looked for again.
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// What a file may take beside what is fetched.
const SLACK: Duration = Duration::from_secs(5);
/// Tokens that wait for one source at a time; more are judged by what is known.
const MOST_WAITING: usize = 1_000;
