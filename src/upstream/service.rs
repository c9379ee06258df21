//! A service: one endpoint or several, and which of them is asked first.
//!
//! Owns the choice only. Whoever asks tries the candidates in their order, and may go on to the next one for as long as
//! no byte of its request was sent. Called by `forward`.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Map, Value};

use crate::clock::Mono;
use crate::upstream::Config;
use crate::upstream::endpoint::{Endpoint, Rules, Use};

/// Who asks, for services that send the same client to the same endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Affinity<'a> {
    /// The claims of its token, if it has shown one.
    pub claims: Option<&'a Map<String, Value>>,
    /// Its address, as trusted proxies show it.
    pub address: IpAddr,
}

/// See the module.
#[derive(Debug)]
pub struct Service {
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
}

impl Service {
    /// A service that runs in one place.
    pub fn single(config: Config) -> Self {
        let endpoint = Endpoint::new(config, None, Rules::default());
        Self { endpoints: ArcSwap::from_pointee(vec![Arc::new(endpoint)]) }
    }

    /// The endpoints, as they are now.
    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// The endpoints to try, in this order. One that is full is not among them; one that is known to be down only if none
    /// is well, as the last resort. None at all: every endpoint that could be tried is full.
    pub fn candidates(&self, _affinity: Affinity<'_>, r#use: Use, now: Mono) -> impl Iterator<Item = Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let some_well = endpoints.iter().any(|endpoint| endpoint.is_well(now));
        let tried = endpoints.iter().filter(|endpoint| endpoint.is_well(now) || !some_well);
        let free: Vec<Arc<Endpoint>> = tried.filter(|endpoint| endpoint.has_room(r#use)).cloned().collect();
        free.into_iter()
    }
}
