//! Metrics in the OpenMetrics text form: typed counters, and no label that a client chooses.
//!
//! Owns what is counted, but for what others count anyway: live streams, their frames and bytes, and the bans are handed
//! in when the text is asked for. Labels are names of the config and words of this program; never a subject, a key id, a
//! path or an address. Nothing here is touched for a frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::clock::Wall;
use crate::names::metric;
use crate::stream::{Outcome, Traffic};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The result of a renewal that was applied.
pub const RENEWED: &str = "renewed";

/// What is counted. Clones are the same counters.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    streams: Family<Route, Gauge>,
    upgrades: Family<Upgrade, Counter>,
    http: Family<ByResult, Counter>,
    closed: Family<Closed, Counter>,
    frames: Family<Direction, Counter>,
    bytes: Family<Direction, Counter>,
    renewals: Family<ByResult, Counter>,
    remaining: Histogram,
    lateness: Histogram,
    connect: Histogram,
    reload_successful: Gauge,
    reload_time: Gauge,
    certificates: Family<Listener, Gauge>,
    key_fetches: Family<KeyFetch, Counter>,
    keys_seen: Family<Issuer, Gauge>,
    keys: Family<Issuer, Gauge>,
    endpoint_up: Family<Place, Gauge>,
    endpoint_streams: Family<Place, Gauge>,
    dials: Family<Dial, Counter>,
    revocations: Gauge,
    revocations_capacity: Gauge,
    revocations_refused: Counter,
}

/// What others count, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Live streams of each route that has any, or is in force.
    pub streams: Vec<(Arc<str>, usize)>,
    /// From clients to services, streams that have ended included.
    pub upward: Traffic,
    /// From services to clients, likewise.
    pub downward: Traffic,
    /// Keys that count, of each issuer; and, of one that has a key set, when that was last seen.
    pub keys: Vec<(Arc<str>, usize, Option<Wall>)>,
    /// Endpoints of the services that have names.
    pub endpoints: Vec<Endpoint>,
    /// Bans in force.
    pub revocations: usize,
    /// How many there may be.
    pub revocations_capacity: usize,
    /// For how many there was no room.
    pub revocations_refused: u64,
}

/// What is told of an endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The service's name.
    pub upstream: Arc<str>,
    /// Its URL, and its address where that has a name.
    pub endpoint: String,
    /// Whether nothing is known against it.
    pub well: bool,
    /// Streams that are on it.
    pub streams: usize,
    /// Dials that stood.
    pub good_dials: u64,
    /// Dials that failed.
    pub failed_dials: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    upstream: Arc<str>,
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dial {
    upstream: Arc<str>,
    endpoint: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Upgrade {
    route: Arc<str>,
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    route: Arc<str>,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    route: Arc<str>,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Issuer {
    issuer: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyFetch {
    issuer: Arc<str>,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

impl Metrics {
    /// Counters at zero, of a process that began at `start`.
    pub fn new(start: Wall) -> Self {
        let mut inner = Inner {
            registry: Registry::default(),
            streams: Family::default(),
            upgrades: Family::default(),
            http: Family::default(),
            closed: Family::default(),
            frames: Family::default(),
            bytes: Family::default(),
            renewals: Family::default(),
            remaining: Histogram::new(REMAINING),
            lateness: Histogram::new(LATENESS),
            connect: Histogram::new(CONNECT),
            reload_successful: Gauge::default(),
            reload_time: Gauge::default(),
            certificates: Family::default(),
            key_fetches: Family::default(),
            keys_seen: Family::default(),
            keys: Family::default(),
            endpoint_up: Family::default(),
            endpoint_streams: Family::default(),
            dials: Family::default(),
            revocations: Gauge::default(),
            revocations_capacity: Gauge::default(),
            revocations_refused: Counter::default(),
        };
        inner.register(start);
        let metrics = Self(Arc::new(inner));
        metrics.reloaded(true, start);
        metrics
    }

    /// A request was answered: `reason` is the public one of a refusal, `None` for a `101`. `route` is `None` if there is no
    /// route for it.
    pub fn upgrade(&self, route: Option<&Arc<str>>, reason: Option<&'static str>) {
        let route = route.map_or_else(|| NO_ROUTE.into(), Arc::clone);
        let result = if reason.is_some() { "refused" } else { "accepted" };
        self.0.upgrades.get_or_create(&Upgrade { route, result, reason: reason.unwrap_or("none") }).inc();
    }

    /// A token was found good for a stream that is about to open; how long it still has.
    pub fn admitted(&self, remaining: Option<Duration>) {
        if let Some(remaining) = remaining {
            self.0.remaining.observe(remaining.as_secs_f64());
        }
    }

    /// A service has answered an upgrade after this long.
    pub fn connected(&self, took: Duration) {
        self.0.connect.observe(took.as_secs_f64());
    }

    /// A plain request was passed on, or its answer was cut.
    pub fn http(&self, route: &Arc<str>, result: &'static str) {
        self.0.http.get_or_create(&ByResult { route: route.clone(), result }).inc();
    }

    /// A stream has ended.
    pub fn closed(&self, route: &Arc<str>, outcome: &Outcome) {
        self.0.closed.get_or_create(&Closed { route: route.clone(), cause: outcome.reason.as_str() }).inc();
        if let Some(late) = outcome.late {
            self.0.lateness.observe(late.as_secs_f64());
        }
    }

    /// A renewal was answered: `renewed`, or the public reason of its refusal.
    pub fn renewal(&self, route: &Arc<str>, result: &'static str) {
        self.0.renewals.get_or_create(&ByResult { route: route.clone(), result }).inc();
    }

    /// The config was read, at the start or again; whether it is in force.
    pub fn reloaded(&self, successful: bool, at: Wall) {
        self.0.reload_successful.set(successful.into());
        if successful {
            self.0.reload_time.set(signed(at.as_secs()));
        }
    }

    /// An issuer's key set was asked for; whether a good one came.
    pub fn keys_fetched(&self, issuer: &Arc<str>, good: bool) {
        let result = if good { "ok" } else { "failed" };
        self.0.key_fetches.get_or_create(&KeyFetch { issuer: issuer.clone(), result }).inc();
    }

    /// The certificates in use: the earliest end of each listener's.
    pub fn certificates(&self, ends: impl IntoIterator<Item = (String, Wall)>) {
        self.0.certificates.clear();
        for (listener, end) in ends {
            self.0.certificates.get_or_create(&Listener { listener }).set(signed(end.as_secs()));
        }
    }

    /// All of it as text.
    pub fn render(&self, now: &Snapshot) -> String {
        let inner = &*self.0;
        inner.streams.clear();
        for (route, streams) in &now.streams {
            inner.streams.get_or_create(&Route { route: route.clone() }).set(signed(*streams as u64));
        }
        for (direction, traffic) in [("upstream", now.upward), ("downstream", now.downward)] {
            let labels = Direction { direction };
            // A stream that ends while all are summed up may be missed once: a counter never goes back.
            inner.frames.get_or_create(&labels).inner().fetch_max(traffic.frames, Ordering::Relaxed);
            inner.bytes.get_or_create(&labels).inner().fetch_max(traffic.bytes, Ordering::Relaxed);
        }
        inner.keys.clear();
        inner.keys_seen.clear();
        for (issuer, keys, seen) in &now.keys {
            let labels = Issuer { issuer: issuer.clone() };
            inner.keys.get_or_create(&labels).set(signed(*keys as u64));
            if let Some(seen) = seen {
                inner.keys_seen.get_or_create(&labels).set(signed(seen.as_secs()));
            }
        }
        inner.endpoints(&now.endpoints);
        inner.revocations.set(signed(now.revocations as u64));
        inner.revocations_capacity.set(signed(now.revocations_capacity as u64));
        inner.revocations_refused.inner().fetch_max(now.revocations_refused, Ordering::Relaxed);
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &inner.registry);
        out
    }
}

impl Inner {
    /// What is told of endpoints that are gone is gone too: names may be looked up for years.
    fn endpoints(&self, endpoints: &[Endpoint]) {
        self.endpoint_up.clear();
        self.endpoint_streams.clear();
        self.dials.clear();
        for told in endpoints {
            let place = Place { upstream: told.upstream.clone(), endpoint: told.endpoint.clone() };
            self.endpoint_up.get_or_create(&place).set(told.well.into());
            self.endpoint_streams.get_or_create(&place).set(signed(told.streams as u64));
            for (result, count) in [("ok", told.good_dials), ("failed", told.failed_dials)] {
                let Place { upstream, endpoint } = place.clone();
                self.dials.get_or_create(&Dial { upstream, endpoint, result }).inc_by(count);
            }
        }
    }

    fn register(&mut self, start: Wall) {
        fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
            // The text form puts these endings on by itself.
            let name = name.strip_suffix("_total").or_else(|| name.strip_suffix("_info")).unwrap_or(name);
            registry.register(name, help, metric.clone());
        }
        let started = Gauge::<f64, AtomicU64>::default();
        started.set(start.since_epoch().as_secs_f64());
        let registry = &mut self.registry;
        add(registry, metric::STREAMS, "Live streams, by route", &self.streams);
        add(registry, metric::UPGRADES, "Requests answered, by route, result and public reason", &self.upgrades);
        add(registry, metric::HTTP, "Plain requests: passed on, and of these cut, by route", &self.http);
        add(registry, metric::CLOSED, "Streams that have ended, by route and cause", &self.closed);
        add(registry, metric::FRAMES, "Frames passed on, by the side that they went to", &self.frames);
        add(registry, metric::BYTES, "Bytes of frames passed on, by the side that they went to", &self.bytes);
        add(registry, metric::RENEWALS, "Renewals of live streams, by route and result", &self.renewals);
        add(registry, metric::REMAINING, "Life that tokens still have at admission", &self.remaining);
        add(
            registry,
            metric::LATENESS,
            "From a token's expiry to its Close being handed to the kernel",
            &self.lateness,
        );
        add(registry, metric::CONNECT, "From dialling a service to its answer to the upgrade", &self.connect);
        add(
            registry,
            metric::RELOAD_SUCCESSFUL,
            "Whether the last config that was read is in force",
            &self.reload_successful,
        );
        add(registry, metric::RELOAD_TIME, "When the config in force was read", &self.reload_time);
        add(registry, metric::CERTIFICATE, "When the first certificate of a listener ends", &self.certificates);
        add(registry, metric::KEY_FETCHES, "Attempts to fetch an issuer's key set, by result", &self.key_fetches);
        add(registry, metric::KEYS_SEEN, "When an issuer's key set was last seen", &self.keys_seen);
        add(registry, metric::KEYS, "Keys that count, by issuer", &self.keys);
        add(registry, metric::ENDPOINT_UP, "Whether nothing is known against an endpoint", &self.endpoint_up);
        add(registry, metric::ENDPOINT_STREAMS, "Streams on an endpoint", &self.endpoint_streams);
        add(registry, metric::DIALS, "Attempts to connect to an endpoint, by result", &self.dials);
        add(registry, metric::REVOCATIONS, "Revocations in force", &self.revocations);
        add(registry, metric::REVOCATIONS_CAPACITY, "How many revocations there may be", &self.revocations_capacity);
        add(
            registry,
            metric::REVOCATIONS_REFUSED,
            "Revocations for which there was no room",
            &self.revocations_refused,
        );
        add(registry, metric::PROCESS_START, "When the process began", &started);
        let build = Info::new(Build { version: env!("CARGO_PKG_VERSION") });
        registry.register(metric::BUILD.trim_end_matches("_info"), "The version that runs", build);
    }
}

/// Gauges are signed; no count or time of ours comes near their end.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The label of all requests for which there is no route: no route can be named so.
const NO_ROUTE: &str = "-";
const REMAINING: [f64; 11] = [1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0];
const LATENESS: [f64; 19] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0,
    5.0,
];
const CONNECT: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::CloseReason;

    fn value(text: &str, series: &str) -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    fn outcome() -> Outcome {
        Outcome {
            reason: CloseReason::Expired,
            code: Some(3000),
            downstream_reset: false,
            upstream_reset: false,
            upward: Traffic::default(),
            downward: Traffic::default(),
            late: Some(Duration::from_millis(4)),
        }
    }

    fn endpoint(url: &str, failed_dials: u64) -> Endpoint {
        let (upstream, endpoint) = ("chat".into(), url.to_owned());
        Endpoint { upstream, endpoint, well: false, streams: 2, good_dials: 5, failed_dials }
    }

    #[test]
    fn what_an_endpoint_has_seen_is_told_until_it_is_gone() {
        let metrics = Metrics::new(Wall::default());
        let render = |endpoints| metrics.render(&Snapshot { endpoints, ..Snapshot::default() });
        render(vec![endpoint("ws://chat:1", 3), endpoint("ws://chat:2", 0)]);
        let text = render(vec![endpoint("ws://chat:1", 4)]);
        let labels = "upstream=\"chat\",endpoint=\"ws://chat:1\"";
        assert_eq!(value(&text, &format!("portcullis_upstream_endpoint_up{{{labels}}}")), Some(0.0), "{text}");
        assert_eq!(value(&text, &format!("portcullis_upstream_endpoint_streams{{{labels}}}")), Some(2.0));
        assert_eq!(value(&text, &format!("portcullis_upstream_dials_total{{{labels},result=\"ok\"}}")), Some(5.0));
        assert_eq!(value(&text, &format!("portcullis_upstream_dials_total{{{labels},result=\"failed\"}}")), Some(4.0));
        assert!(!text.contains("ws://chat:2"), "{text}");
    }

    #[test]
    fn every_name_of_the_list_is_told_and_no_other() {
        let metrics = Metrics::new(Wall::from_epoch(Duration::from_millis(1_500)));
        let route: Arc<str> = "r".into();
        metrics.upgrade(None, None);
        metrics.closed(&route, &outcome());
        metrics.renewal(&route, "renewed");
        metrics.certificates([("public".to_owned(), Wall::default())]);
        metrics.keys_fetched(&"sso".into(), true);
        metrics.http(&route, "passed");
        let keys = vec![("sso".into(), 1, Some(Wall::default()))];
        let endpoints = vec![endpoint("ws://chat:1", 3)];
        let text = metrics.render(&Snapshot { streams: vec![(route, 1)], keys, endpoints, ..Snapshot::default() });
        let mut told: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            })
            .collect();
        let mut names = metric::ALL.map(str::to_owned).to_vec();
        told.sort();
        names.sort();
        assert_eq!(told, names);
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(value(&text, "process_start_time_seconds"), Some(1.5));
        assert_eq!(value(&text, "portcullis_config_last_reload_successful"), Some(1.0));
    }

    #[test]
    fn what_is_counted_is_told_with_its_labels() {
        let metrics = Metrics::new(Wall::default());
        let chat: Arc<str> = "chat".into();
        metrics.upgrade(Some(&chat), None);
        metrics.upgrade(Some(&chat), Some("token_expired"));
        metrics.upgrade(None, Some("no_route"));
        metrics.closed(&chat, &outcome());
        metrics.closed(&chat, &Outcome { reason: CloseReason::Drain, late: None, ..outcome() });
        metrics.renewal(&chat, "renewed");
        metrics.certificates([("public".to_owned(), Wall::from_epoch(Duration::from_secs(77)))]);
        metrics.reloaded(false, Wall::from_epoch(Duration::from_secs(9)));
        metrics.keys_fetched(&"sso".into(), false);
        let keys = vec![("sso".into(), 2, Some(Wall::from_epoch(Duration::from_secs(8)))), ("own".into(), 1, None)];
        let text = metrics.render(&Snapshot { streams: vec![(chat, 3)], keys, ..Snapshot::default() });
        assert_eq!(value(&text, "portcullis_jwks_last_success_timestamp_seconds{issuer=\"own\"}"), None);
        for (series, expected) in [
            ("portcullis_streams{route=\"chat\"}", 3.0),
            ("portcullis_upgrades_total{route=\"chat\",result=\"accepted\",reason=\"none\"}", 1.0),
            ("portcullis_upgrades_total{route=\"chat\",result=\"refused\",reason=\"token_expired\"}", 1.0),
            ("portcullis_upgrades_total{route=\"-\",result=\"refused\",reason=\"no_route\"}", 1.0),
            ("portcullis_stream_closed_total{route=\"chat\",cause=\"token_expired\"}", 1.0),
            ("portcullis_stream_closed_total{route=\"chat\",cause=\"drain\"}", 1.0),
            ("portcullis_token_renewals_total{route=\"chat\",result=\"renewed\"}", 1.0),
            ("portcullis_jwks_refresh_total{issuer=\"sso\",result=\"failed\"}", 1.0),
            ("portcullis_jwks_last_success_timestamp_seconds{issuer=\"sso\"}", 8.0),
            ("portcullis_issuer_keys{issuer=\"sso\"}", 2.0),
            ("portcullis_expiry_lateness_seconds_bucket{le=\"0.003\"}", 0.0),
            ("portcullis_expiry_lateness_seconds_bucket{le=\"0.005\"}", 1.0),
            ("portcullis_expiry_lateness_seconds_count", 1.0),
            ("portcullis_tls_cert_expiry_timestamp_seconds{listener=\"public\"}", 77.0),
            ("portcullis_config_last_reload_successful", 0.0),
            ("portcullis_config_last_reload_success_timestamp_seconds", 0.0),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series}\n{text}");
        }
    }

    #[test]
    fn a_counter_never_goes_back_and_a_route_that_is_gone_is_not_told() {
        let metrics = Metrics::new(Wall::default());
        let at = |frames, streams| Snapshot {
            upward: Traffic { frames, bytes: frames * 10 },
            streams: vec![(streams, 1)],
            ..Snapshot::default()
        };
        metrics.render(&at(10, "old".into()));
        let text = metrics.render(&at(8, "new".into()));
        assert_eq!(value(&text, "portcullis_frames_total{direction=\"upstream\"}"), Some(10.0), "{text}");
        assert_eq!(value(&text, "portcullis_bytes_total{direction=\"upstream\"}"), Some(100.0), "{text}");
        assert!(!text.contains("old"), "{text}");
    }
}
