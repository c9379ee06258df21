//! A service: one endpoint or several, and which of them is asked first.
//!
//! Owns the choice only. Whoever asks tries the candidates in their order, and may go on to the next one for as long as
//! no byte of its request was sent. Called by `forward`.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Map, Value};

use crate::clock::Mono;
use crate::secret::sha256;
use crate::token::claims::named::Claim;
use crate::upstream::Config;
use crate::upstream::check::Check;
use crate::upstream::endpoint::{Endpoint, Rules, Use};
use crate::upstream::health::Passive;

/// How the endpoint for a stream is chosen among those that are well and have room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The same for the same client address, by rendezvous hashing: an endpoint that goes or comes moves only its own.
    Address,
    /// Likewise, for the same value of this claim. Where there is none, the one with the least.
    Claim(Claim),
    /// The one with the least streams and requests; in turn where that is several.
    LeastStreams,
}

/// Who asks, for services that send the same client to the same endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Affinity<'a> {
    /// The claims of its token, if it has shown one.
    pub claims: Option<&'a Map<String, Value>>,
    /// Its address, as trusted proxies show it.
    pub address: IpAddr,
}

/// What a service with a name of its own is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How endpoints are chosen.
    pub balance: Balance,
    /// How many more endpoints are dialled when one cannot be reached.
    pub retries: usize,
    /// What holds for each endpoint.
    pub rules: Rules,
    /// How endpoints are checked, if they are.
    pub check: Option<Check>,
    /// How often names are looked up again.
    pub resolve_interval: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Service {
    /// Its name in the config; `None`: it is one route's own.
    name: Option<Arc<str>>,
    options: Options,
    /// Where it is, as it was typed.
    typed: Vec<Config>,
    /// Likewise, with the addresses of the names.
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Those whose addresses are gone and that are still in use: a name may show a few of its addresses at a time.
    gone: Mutex<Vec<Arc<Endpoint>>>,
    /// Whose turn it is among equals.
    turn: AtomicUsize,
}

impl Service {
    /// A service that runs in one place, which is tried whatever is known of it. A name is looked up for each dial.
    pub fn single(config: Config) -> Self {
        let passive = Passive { fail_after: None, fail_pause: Duration::ZERO };
        let options = Options {
            balance: Balance::LeastStreams,
            retries: 0,
            rules: Rules { max_streams: None, passive },
            check: None,
            resolve_interval: Duration::MAX,
        };
        Self { name: None, ..Self::new("".into(), options, vec![config]) }
    }

    /// A service of this name that runs in all these places.
    pub fn new(name: Arc<str>, options: Options, typed: Vec<Config>) -> Self {
        let endpoint = |config: &Config| {
            let address = config.ip().map(|ip| SocketAddr::new(ip, config.port));
            Arc::new(Endpoint::new(config.clone(), address, options.rules))
        };
        let endpoints = ArcSwap::from_pointee(typed.iter().map(endpoint).collect());
        Self { name: Some(name), options, typed, endpoints, gone: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// Its name in the config; `None`: it is one route's own.
    pub const fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    /// What it is held to.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The endpoints, as they are now.
    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Whether the checks of every endpoint say that it is down.
    pub fn is_down(&self) -> bool {
        self.endpoints.load().iter().all(|endpoint| endpoint.is_down())
    }

    /// The endpoints to try, in this order. One that is full is not among them; one that is known to be down only if none
    /// is well, as the last resort. None at all: every endpoint that could be tried is full.
    pub fn candidates(
        &self,
        affinity: Affinity<'_>,
        r#use: Use,
        now: Mono,
    ) -> impl Iterator<Item = Arc<Endpoint>> + use<> {
        let endpoints = self.endpoints.load();
        let (well, others): (Vec<_>, Vec<_>) = endpoints.iter().cloned().partition(|endpoint| endpoint.is_well(now));
        let mut candidates = if well.is_empty() { others } else { well };
        candidates.retain(|endpoint| endpoint.has_room(r#use));
        if let Some(key) = self.key(affinity) {
            candidates.sort_by_cached_key(|endpoint| Reverse(score(&key, endpoint)));
        } else {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let first = turn.checked_rem(candidates.len()).unwrap_or(0);
            candidates.rotate_left(first);
            // The load is read once for each: it changes meanwhile.
            candidates.sort_by_cached_key(|endpoint| endpoint.load());
        }
        candidates.into_iter().take(self.options.retries.saturating_add(1))
    }

    /// What its choice depends on, hashed; `None`: on the load.
    fn key(&self, affinity: Affinity<'_>) -> Option<[u8; 32]> {
        match &self.options.balance {
            Balance::Address => Some(sha256(affinity.address.to_string().as_bytes())),
            Balance::Claim(claim) => {
                let value = claim.find(affinity.claims?).filter(|value| !value.is_null())?;
                Some(sha256(value.to_string().as_bytes()))
            }
            Balance::LeastStreams => None,
        }
    }

    /// Takes over what an older service of the same name knows of the endpoints that stay.
    pub fn take_over(&self, older: &Self) {
        let forget = self.options.check != older.options.check;
        let before = older.endpoints.load();
        let mine = self.endpoints.load();
        let endpoints = mine.iter().flat_map(|endpoint| {
            let config = endpoint.config();
            let same = before.iter().filter(|older| older.config().url == config.url);
            let stay = |older: &Arc<Endpoint>| Arc::new(older.under(config.clone(), self.options.rules, forget));
            let staying: Vec<Arc<Endpoint>> = same.map(stay).collect();
            if staying.is_empty() { vec![endpoint.clone()] } else { staying }
        });
        self.endpoints.store(Arc::new(endpoints.collect()));
        let gone = older.gone().clone().into_iter().filter_map(|endpoint| {
            let config = self.typed.iter().find(|config| config.url == endpoint.config().url)?;
            Some(Arc::new(endpoint.under(config.clone(), self.options.rules, forget)))
        });
        *self.gone() = gone.collect();
    }

    /// The places as they were typed whose names must be looked up.
    pub(super) fn names(&self) -> impl Iterator<Item = &Config> {
        let named = self.name.is_some();
        self.typed.iter().filter(move |config| named && config.ip().is_none())
    }

    /// The name of `config` has these addresses now: those that stay keep their endpoints, those that are gone get no
    /// more streams.
    pub(super) fn resolved(&self, config: &Config, addresses: &[SocketAddr]) {
        let before = self.endpoints.load();
        let (same, others): (Vec<_>, Vec<_>) =
            before.iter().cloned().partition(|endpoint| endpoint.config().url == config.url);
        let mut gone = self.gone();
        let is =
            |endpoint: &Endpoint, address| endpoint.config().url == config.url && endpoint.address() == Some(address);
        let known = |address| same.iter().find(|endpoint| is(endpoint, address)).cloned();
        // Nobody has checked it meanwhile.
        let back = |endpoint: &Arc<Endpoint>| Arc::new(endpoint.under(config.clone(), self.options.rules, true));
        let returned = |address| gone.iter().find(|endpoint| is(endpoint, address)).map(back);
        let fresh = |address| Arc::new(Endpoint::new(config.clone(), Some(address), self.options.rules));
        let now = addresses.iter().copied();
        let now = now.map(|address| known(address).or_else(|| returned(address)).unwrap_or_else(|| fresh(address)));
        let now: Vec<Arc<Endpoint>> = now.collect();
        gone.extend(same);
        gone.retain(|endpoint| endpoint.load() > 0 && !addresses.iter().any(|address| is(endpoint, *address)));
        self.endpoints.store(Arc::new(others.into_iter().chain(now).collect()));
    }

    /// Every change under this lock is complete before anything could panic.
    fn gone(&self) -> MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much an endpoint is the one for a key. The same in every process, so that several gateways agree.
fn score(key: &[u8; 32], endpoint: &Endpoint) -> [u8; 32] {
    sha256(&[key.as_slice(), endpoint.name().as_bytes()].concat())
}

#[cfg(test)]
mod tests;
