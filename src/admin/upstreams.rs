//! `GET /upstreams`: the services that have names, and what is known of their endpoints.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::Desk;
use super::reply::json;
use crate::telemetry::metrics::Endpoint;
use crate::upstream::endpoint::Glimpse;

impl Desk {
    pub(super) fn upstreams(&self) -> Response<Full<Bytes>> {
        let now = self.0.clock.now().mono;
        let named =
            self.0.gateway.services().into_iter().filter_map(|service| Some((service.name()?.clone(), service)));
        let shown = named.map(|(name, service)| {
            let endpoints = service.endpoints();
            let endpoints: Vec<Value> = endpoints.iter().map(|endpoint| shown(&endpoint.glimpse(now))).collect();
            json!({ "upstream": &*name, "endpoints": endpoints })
        });
        let shown: Vec<Value> = shown.collect();
        json(StatusCode::OK, &json!({ "upstreams": shown, "next": null }))
    }

    /// What the metrics tell of endpoints.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let now = self.0.clock.now().mono;
        let services = self.0.gateway.services();
        let named = services.iter().filter_map(|service| Some((service.name()?, service.endpoints())));
        let endpoints = named.flat_map(|(name, endpoints)| {
            let told = |endpoint: &Arc<crate::upstream::Endpoint>| {
                let Glimpse { name: endpoint, well, streams, good_dials, failed_dials, .. } = endpoint.glimpse(now);
                Endpoint { upstream: name.clone(), endpoint, well, streams, good_dials, failed_dials }
            };
            endpoints.iter().map(told).collect::<Vec<_>>()
        });
        endpoints.collect()
    }

    /// Whether there is a service, and every endpoint of each is known to be down.
    pub(super) fn all_down(&self) -> bool {
        let services = self.0.gateway.services();
        !services.is_empty() && services.iter().all(|service| service.is_down())
    }

    /// The services of which no endpoint is well.
    pub(super) fn down(&self) -> impl Iterator<Item = Arc<str>> {
        let now = self.0.clock.now().mono;
        let services = self.0.gateway.services().into_iter();
        let down = services.filter(move |service| !service.endpoints().iter().any(|endpoint| endpoint.is_well(now)));
        down.filter_map(|service| service.name().cloned())
    }
}

fn shown(endpoint: &Glimpse) -> Value {
    let state = match (endpoint.well, endpoint.down) {
        (true, _) => "up",
        (false, true) => "down",
        (false, false) => "paused",
    };
    json!({
        "endpoint": endpoint.name,
        "state": state,
        "error": endpoint.error,
        "streams": endpoint.streams,
        "requests": endpoint.requests,
        "max_streams": endpoint.max_streams,
        "dials": endpoint.good_dials,
        "failed_dials": endpoint.failed_dials,
    })
}
