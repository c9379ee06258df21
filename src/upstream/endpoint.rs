//! One place where a service runs: how it is reached, what is on it, and what is known of its health.
//!
//! Whoever uses an endpoint holds a [`Lease`]; dropping that is the only way back. What is counted and known outlives the
//! config: an endpoint that stays keeps it over a reload.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{Clock, Mono};
use crate::upstream::dial::{self, Connected};
use crate::upstream::health::{Health, News, Passive, Turns};
use crate::upstream::pool::Pool;
use crate::upstream::{Config, Error};

/// What an endpoint is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A plain request, until its answer has ended. Load, but no stream.
    Request,
    /// A stream, from before it is dialled to its end.
    Stream,
}

/// What holds for each endpoint of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How many streams it may have at a time; `None` for no limit.
    pub max_streams: Option<usize>,
    /// When failed dials pause it.
    pub passive: Passive,
}

/// See the module.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    /// The one address that it stands for; `None`: the name is looked up for each dial.
    address: Option<SocketAddr>,
    rules: Rules,
    /// Of this config only.
    pool: Pool,
    state: Arc<State>,
}

/// What outlives the config.
#[derive(Debug, Default)]
struct State {
    streams: AtomicUsize,
    requests: AtomicUsize,
    good_dials: AtomicU64,
    failed_dials: AtomicU64,
    health: Mutex<Health>,
}

/// What is known of an endpoint at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// Its URL, and its address where the URL has a name that was looked up.
    pub name: String,
    /// Whether nothing is known against it.
    pub well: bool,
    /// Whether its checks say that it is down.
    pub down: bool,
    /// What is wrong with it, as far as that is known.
    pub error: Option<String>,
    /// Streams that are on it, or about to be.
    pub streams: usize,
    /// Requests that are on it.
    pub requests: usize,
    /// How many streams it may have; `None` for no limit.
    pub max_streams: Option<usize>,
    /// Dials that stood, since it is known.
    pub good_dials: u64,
    /// Dials that failed.
    pub failed_dials: u64,
}

/// A use of an endpoint, for as long as it lasts.
#[derive(Debug)]
pub struct Lease {
    state: Arc<State>,
    r#use: Use,
    /// Until when others are kept away, if it was to try the endpoint.
    trial: Option<Mono>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.counter(self.r#use).fetch_sub(1, Ordering::Relaxed);
        if let Some(end) = self.trial {
            self.state.health().untried(end);
        }
    }
}

impl Endpoint {
    /// An endpoint that is reached like this; `address` is the one that it stands for, if that is known.
    pub fn new(config: Config, address: Option<SocketAddr>, rules: Rules) -> Self {
        Self { config, address, rules, pool: Pool::default(), state: Arc::default() }
    }

    /// The same endpoint under another config: what is counted and known stays. What its checks have said does not, if
    /// `forget`; nor do its connections that wait, which were made under the rules of the old one.
    #[must_use]
    pub fn under(&self, config: Config, rules: Rules, forget: bool) -> Self {
        if forget {
            self.health().forget_checks();
        }
        Self { config, address: self.address, rules, pool: Pool::default(), state: self.state.clone() }
    }

    /// How it is reached.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Its connections that wait for a plain request.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The one address that it stands for; `None`: the name is looked up for each dial.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// How operators know it: its URL, and its address where the URL has a name that was looked up.
    pub fn name(&self) -> String {
        let looked_up = self.address.map(|address| address.ip()).filter(|_| self.config.ip().is_none());
        looked_up.map_or_else(|| self.config.url.clone(), |address| format!("{} ({address})", self.config.url))
    }

    /// What is known of it.
    pub fn glimpse(&self, now: Mono) -> Glimpse {
        let State { streams, requests, good_dials, failed_dials, .. } = &*self.state;
        let health = self.health();
        Glimpse {
            name: self.name(),
            well: health.is_well(now),
            down: health.is_down(),
            error: health.error().map(str::to_owned),
            streams: streams.load(Ordering::Relaxed),
            requests: requests.load(Ordering::Relaxed),
            max_streams: self.rules.max_streams,
            good_dials: good_dials.load(Ordering::Relaxed),
            failed_dials: failed_dials.load(Ordering::Relaxed),
        }
    }

    /// Streams and requests that are on it.
    pub fn load(&self) -> usize {
        let State { streams, requests, .. } = &*self.state;
        streams.load(Ordering::Relaxed).saturating_add(requests.load(Ordering::Relaxed))
    }

    /// Whether it takes one more of these. The answer holds for the moment only; [`Endpoint::enter`] decides.
    pub fn has_room(&self, r#use: Use) -> bool {
        let full = |most| self.state.streams.load(Ordering::Relaxed) >= most;
        r#use == Use::Request || !self.rules.max_streams.is_some_and(full)
    }

    /// Whether nothing is known against it.
    pub fn is_well(&self, now: Mono) -> bool {
        self.health().is_well(now)
    }

    /// Whether its checks say that it is down.
    pub fn is_down(&self) -> bool {
        self.health().is_down()
    }

    /// Counts one more use; `None` if it is full.
    pub fn enter(&self, r#use: Use, now: Mono) -> Option<Lease> {
        let most = self.rules.max_streams.filter(|_| r#use == Use::Stream).unwrap_or(usize::MAX);
        let more = |count: usize| (count < most).then(|| count.saturating_add(1));
        self.state.counter(r#use).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let trial = self.health().enter(self.rules.passive, now);
        Some(Lease { state: self.state.clone(), r#use, trial })
    }

    /// Connects, within the service's `connect_timeout`, and remembers what came of it.
    pub async fn dial(&self, clock: &Clock) -> Result<Connected, Error> {
        let timeout = self.config.connect_timeout;
        let connected = match tokio::time::timeout(timeout, dial::connect(&self.config, self.address)).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::Timeout("connecting to the service", timeout)),
        };
        let result = connected.as_ref().map(drop).map_err(ToString::to_string);
        self.dialled(result, clock.now().mono);
        connected
    }

    /// A dial has come to its end: a connection, or what was wrong.
    pub fn dialled(&self, result: Result<(), String>, now: Mono) {
        let dials = if result.is_ok() { &self.state.good_dials } else { &self.state.failed_dials };
        dials.fetch_add(1, Ordering::Relaxed);
        let news = self.health().dialled(result, self.rules.passive, now);
        self.tell(news);
    }

    /// It has answered over a connection that was there before: as good as a dial, and none.
    pub fn answered(&self, now: Mono) {
        let news = self.health().dialled(Ok(()), self.rules.passive, now);
        self.tell(news);
    }

    /// A check has come to its end: it is well, or what was wrong.
    pub fn checked(&self, result: Result<(), String>, turns: Turns) {
        let news = self.health().checked(result, turns);
        self.tell(news);
    }

    fn tell(&self, news: Option<News>) {
        let Some(news) = news else { return };
        let (endpoint, error) = (self.name(), self.health().error().map(str::to_owned));
        match news {
            News::Down => tracing::warn!(endpoint, error, "an endpoint is down: its checks fail"),
            News::Paused => {
                let pause = self.rules.passive.fail_pause;
                tracing::warn!(endpoint, error, ?pause, "an endpoint cannot be reached: it is paused");
            }
            News::Well => tracing::info!(endpoint, "an endpoint is well again"),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.state.health()
    }
}

impl State {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn counter(&self, r#use: Use) -> &AtomicUsize {
        match r#use {
            Use::Request => &self.requests,
            Use::Stream => &self.streams,
        }
    }
}
