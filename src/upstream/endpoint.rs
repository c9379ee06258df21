//! One place where a service runs: how it is reached, what is on it, and what is known of its health.
//!
//! Whoever uses an endpoint holds a [`Lease`]; dropping that is the only way back. Health is learnt from dials (failed
//! ones in a row pause the endpoint for a while) and from checks, where the service has some. A pause ends by itself, by a
//! dial that stands, or by a good check. When it has run out, the first who comes tries the endpoint, and the others wait
//! for what becomes of it: they see it paused once more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Mono};
use crate::upstream::dial::{self, Connected};
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
    /// So many failed dials in a row pause it.
    pub fail_after: u32,
    /// For how long.
    pub fail_pause: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_streams: None, fail_after: 3, fail_pause: Duration::from_secs(10) }
    }
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

/// What outlives the config: an endpoint that stays keeps it.
#[derive(Debug, Default)]
struct State {
    streams: AtomicUsize,
    requests: AtomicUsize,
    dials: AtomicU64,
    failed_dials: AtomicU64,
    health: Mutex<Health>,
}

/// What is known of an endpoint's health.
#[derive(Debug, Default)]
struct Health {
    /// Failed dials in a row.
    failed: u32,
    /// No one is sent there before, unless there is nothing better.
    paused_until: Option<Mono>,
}

/// A use of an endpoint, for as long as it lasts.
#[derive(Debug)]
pub struct Lease {
    state: Arc<State>,
    r#use: Use,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.counter(self.r#use).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Endpoint {
    /// An endpoint that is reached like this; `address` is the one that it stands for, if its name was looked up already.
    pub fn new(config: Config, address: Option<SocketAddr>, rules: Rules) -> Self {
        Self { config, address, rules, pool: Pool::default(), state: Arc::default() }
    }

    /// How it is reached.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Its connections that wait for a plain request.
    pub const fn pool(&self) -> &Pool {
        &self.pool
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
        self.health().paused_until.is_none_or(|until| until <= now)
    }

    /// Counts one more use; `None` if it is full.
    pub fn enter(&self, r#use: Use, now: Mono) -> Option<Lease> {
        let most = self.rules.max_streams.filter(|_| r#use == Use::Stream).unwrap_or(usize::MAX);
        let more = |count: usize| (count < most).then(|| count.saturating_add(1));
        self.state.counter(r#use).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let mut health = self.health();
        if health.paused_until.is_some_and(|until| until <= now) {
            health.paused_until = Some(now.saturating_add(self.rules.fail_pause));
        }
        drop(health);
        Some(Lease { state: self.state.clone(), r#use })
    }

    /// Connects, within the service's `connect_timeout`, and remembers what came of it.
    pub async fn dial(&self, clock: &Clock) -> Result<Connected, Error> {
        let timeout = self.config.connect_timeout;
        let connected = match tokio::time::timeout(timeout, dial::connect(&self.config, self.address)).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::Timeout("connecting to the service", timeout)),
        };
        self.dialled(connected.is_ok(), clock.now().mono);
        connected
    }

    /// A dial has come to an end; whether there is a connection.
    pub fn dialled(&self, good: bool, now: Mono) {
        let mut health = self.health();
        if good {
            self.state.dials.fetch_add(1, Ordering::Relaxed);
            *health = Health::default();
            return;
        }
        self.state.failed_dials.fetch_add(1, Ordering::Relaxed);
        health.failed = health.failed.saturating_add(1);
        if health.failed >= self.rules.fail_after {
            health.paused_until = Some(now.saturating_add(self.rules.fail_pause));
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.state.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const fn counter(&self, r#use: Use) -> &AtomicUsize {
        match r#use {
            Use::Request => &self.requests,
            Use::Stream => &self.streams,
        }
    }
}
