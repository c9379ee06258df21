//! Probes and admin: health, metrics, live streams, revocations, drain; for monitors and operators, never for clients.
//!
//! Owns two listeners of their own. The probes listener only tells (`/livez`, `/readyz`, `/metrics`), and may listen
//! anywhere; the admin listener tells the same, shows live streams and changes things, so it asks who comes (`door`). Knows
//! no token: streams are shown by hashes. Called by the app.

mod bans;
mod crowd;
mod door;
mod error;
pub(crate) mod keys;
mod listener;
mod page;
mod reply;
mod streams;
mod upstreams;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use error::AdminError;

use crate::clock::Clock;
use crate::gateway::Gateway;
use crate::jwks::Source;
use crate::listen::CertificateFiles;
use crate::registry::Registry;
use crate::revocation::Revocations;
use crate::secret::Secret;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{self, Snapshot};
use crate::token::verify::Issuer;
use crowd::Seat;
use door::{Door, Need, Refusal};
use listener::{Answers, Bound};
use reply::{json, problem, text};

/// The two listeners, each if it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where the probes listener listens.
    pub probes: Option<SocketAddr>,
    /// The admin listener.
    pub admin: Option<Admin>,
}

/// The admin listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// Names by which it may be called, beside those of loopback and its own address: lower case, no port.
    pub hosts: Vec<String>,
    /// What callers must show as a bearer token, if anything.
    pub secret: Option<Secret>,
    /// For TLS.
    pub tls: Option<TlsFiles>,
}

/// Where the admin listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket at this path, for the gateway's own user.
    Unix(PathBuf),
}

/// The listener's end of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// What it shows.
    pub certificate: CertificateFiles,
    /// Who must have signed the certificates of its clients; `None`: clients need none.
    pub client_ca: Option<PathBuf>,
}

impl PartialEq for Admin {
    fn eq(&self, other: &Self) -> bool {
        let secrets = |admin: &Self| admin.secret.as_ref().map(|secret| secret.expose().to_vec());
        (&self.address, &self.hosts, &self.tls) == (&other.address, &other.hosts, &other.tls)
            && secrets(self) == secrets(other)
    }
}

impl Eq for Admin {}

/// What the listeners see and change. Clones are the same.
#[derive(Clone)]
pub struct Desk(Arc<Parts>, Arc<Told>);

/// The metrics as they were told last: they are put together by one at a time, however many ask.
#[derive(Default)]
struct Told {
    /// How often they were asked for.
    asked: AtomicU64,
    /// What was told, and to whom it is new enough: those of the first so many.
    last: Arc<tokio::sync::Mutex<(u64, Bytes)>>,
}

/// What a [`Desk`] is made of.
pub struct Parts {
    /// The gateway, for what it is called and whether it is leaving.
    pub gateway: Gateway,
    /// The live streams.
    pub registry: Registry,
    /// The bans.
    pub revocations: Revocations,
    /// The counters.
    pub metrics: Metrics,
    /// The clock.
    pub clock: Clock,
    /// The issuers in force.
    pub issuers: ArcSwap<Vec<Arc<Issuer>>>,
    /// Where their key sets come from.
    pub sources: ArcSwap<Vec<Arc<Source>>>,
    /// Cancelled when an operator wants the gateway to leave.
    pub leave: CancellationToken,
}

/// The sockets, bound.
pub struct Listeners {
    probes: Option<Bound>,
    admin: Option<(Bound, Door)>,
}

impl Listeners {
    /// Binds what the config asks for. Needs a runtime.
    pub fn bind(config: &Config) -> Result<Self, AdminError> {
        let probes = config.probes.map(|address| Bound::new("probes", &Address::Tcp(address), None)).transpose()?;
        let admin = match &config.admin {
            None => None,
            Some(admin) => {
                let address = match &admin.address {
                    Address::Tcp(address) => Some(address.ip()).filter(|ip: &IpAddr| !ip.is_unspecified()),
                    Address::Unix(_) => None,
                };
                let (hosts, secret) = (admin.hosts.clone(), admin.secret.clone());
                let door = Door { hosts, address, secret, secure: admin.tls.is_some() };
                Some((Bound::new("admin", &admin.address, admin.tls.as_ref())?, door))
            }
        };
        Ok(Self { probes, admin })
    }

    /// Name and address of each; Unix sockets have none.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let probes = self.probes.as_ref().and_then(|bound| Some(("probes".to_owned(), bound.address()?)));
        let admin = self.admin.as_ref().and_then(|(bound, _)| Some(("admin".to_owned(), bound.address()?)));
        probes.into_iter().chain(admin).collect()
    }

    /// Serves, in tasks of its own, until `stop`.
    pub fn run(self, desk: &Desk, stop: &CancellationToken) {
        if let Some(bound) = self.probes {
            tokio::spawn(bound.run(Probes(desk.clone()), stop.clone()));
        }
        if let Some((bound, door)) = self.admin {
            tokio::spawn(bound.run(Operators(desk.clone(), Arc::new(door)), stop.clone()));
        }
    }
}

/// Whether these files can be used.
pub fn check_tls(files: &TlsFiles) -> Result<(), AdminError> {
    listener::acceptor(files).map(drop)
}

impl Desk {
    /// A desk with these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts), Arc::default())
    }

    /// Has the issuers of a new config count.
    pub fn replace_issuers(&self, issuers: Vec<Arc<Issuer>>, sources: Vec<Arc<Source>>) {
        self.0.issuers.store(issuers.into());
        self.0.sources.store(sources.into());
    }

    /// A clock was stepped: key sets may be due.
    pub fn recheck_sources(&self) {
        for source in self.0.sources.load().iter() {
            source.recheck();
        }
    }

    /// What both listeners tell, if that is what is asked for.
    async fn probe(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        match path {
            "/livez" => Some(text(StatusCode::OK, "live\n")),
            "/readyz" => Some(match self.unready() {
                None => text(StatusCode::OK, self.ready()),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            }),
            "/metrics" => {
                let desk = self.clone();
                let turn = self.1.asked.fetch_add(1, Ordering::SeqCst);
                let mut last = self.1.last.clone().lock_owned().await;
                let tell = move || {
                    // It goes on, and keeps the lock, when whoever asked goes away.
                    if last.0 <= turn {
                        last.0 = desk.1.asked.load(Ordering::SeqCst);
                        last.1 = desk.metrics().into();
                    }
                    last.1.clone()
                };
                // Tens of thousands of streams take milliseconds, in which a worker of the runtime would serve none.
                let Ok(metrics) = tokio::task::spawn_blocking(tell).await else {
                    return Some(problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "the metrics cannot be told"));
                };
                let mut response = text(StatusCode::OK, metrics);
                response
                    .headers_mut()
                    .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(metrics::CONTENT_TYPE));
                Some(response)
            }
            _ => None,
        }
    }

    fn unready(&self) -> Option<&'static str> {
        if self.0.gateway.draining() {
            return Some("draining\n");
        }
        let now = self.0.clock.now();
        let keyless = self.0.issuers.load().iter().all(|issuer| issuer.keys.is_empty(now));
        if keyless {
            return Some("no issuer has a key\n");
        }
        self.all_down().then_some("every upstream is down\n")
    }

    /// Ready, and which issuers are without keys and which upstreams are down all the same: a gateway that serves others is of
    /// more use than none.
    fn ready(&self) -> String {
        let now = self.0.clock.now();
        let issuers = self.0.issuers.load();
        let keyless = issuers.iter().filter(|issuer| issuer.keys.is_empty(now));
        let text = keyless.fold("ready\n".to_owned(), |text, issuer| text + "issuer " + &issuer.name + " has no key\n");
        self.down().fold(text, |text, name| text + "upstream " + &name + " is down\n")
    }

    fn metrics(&self) -> String {
        let Parts { gateway, registry, revocations, metrics, .. } = &*self.0;
        let tally = registry.tally();
        let mut streams = tally.routes;
        for name in gateway.route_names() {
            if !streams.iter().any(|(route, _)| *route == name) {
                streams.push((name, 0));
            }
        }
        let (now, sources) = (self.0.clock.now(), self.0.sources.load());
        let seen = |issuer: &Issuer| {
            sources.iter().find(|source| *source.issuer() == issuer.name).and_then(|source| source.last_success())
        };
        let issuers = self.0.issuers.load();
        let keys = issuers.iter().map(|issuer| (issuer.name.clone(), issuer.keys.len(now), seen(issuer)));
        metrics.render(&Snapshot {
            keys: keys.collect(),
            endpoints: self.endpoints(),
            streams,
            upward: tally.upward,
            downward: tally.downward,
            revocations: revocations.count(self.0.clock.now().wall),
            revocations_capacity: revocations.capacity(),
            revocations_refused: revocations.refused(),
        })
    }

    /// Has the gateway leave, as SIGTERM does.
    fn drain(&self) -> Response<Full<Bytes>> {
        tracing::info!("an operator has asked the gateway to leave");
        self.0.leave.cancel();
        json(StatusCode::ACCEPTED, &json!({ "draining": true }))
    }
}

/// Answers on the probes listener.
#[derive(Clone)]
struct Probes(Desk);

impl Answers for Probes {
    async fn answer(&self, request: Request<Incoming>, seat: &Seat) -> Response<Full<Bytes>> {
        seat.keep();
        if door::need(request.method()) != Need::Read {
            return not_allowed();
        }
        self.0.probe(request.uri().path()).await.unwrap_or_else(not_found)
    }
}

/// Answers on the admin listener.
#[derive(Clone)]
struct Operators(Desk, Arc<Door>);

impl Answers for Operators {
    async fn answer(&self, request: Request<Incoming>, seat: &Seat) -> Response<Full<Bytes>> {
        let Self(desk, door) = self;
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let open = page::file(path);
        let told = ["/livez", "/readyz"].contains(&path);
        let need = match door::need(&head.method) {
            Need::Read if open.is_some() || told => Need::Nothing,
            need => need,
        };
        if let Err(Refusal(status, reason, detail)) = door.check(&head, need) {
            tracing::warn!(status = status.as_u16(), cause = reason, "an admin request was refused");
            return problem(status, reason, detail);
        }
        seat.keep();
        if need == Need::Nothing {
            return match open {
                Some(file) => file,
                None => desk.probe(path).await.unwrap_or_else(not_found),
            };
        }
        let body = match read(body).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (&head.method, parts.as_slice()) {
            (&Method::GET | &Method::HEAD, ["streams"]) => desk.streams(head.uri.query()),
            (&Method::DELETE, ["streams", id]) => desk.end(id),
            (&Method::GET | &Method::HEAD, ["keys"]) => desk.keys(),
            (&Method::GET | &Method::HEAD, ["upstreams"]) => desk.upstreams(),
            (&Method::GET | &Method::HEAD, ["revocations"]) => desk.bans(head.uri.query()),
            (&Method::POST, ["revocations"]) => desk.ban(&body).await,
            (&Method::DELETE, ["revocations", id]) => desk.lift(id).await,
            (&Method::POST, ["drain"]) => desk.drain(),
            (&Method::GET | &Method::HEAD, ["metrics"]) => desk.probe(path).await.unwrap_or_else(not_found),
            (
                _,
                ["streams" | "keys" | "upstreams" | "revocations" | "drain" | "metrics"]
                | ["streams" | "revocations", _],
            ) => not_allowed(),
            _ if open.is_some() || told => not_allowed(),
            _ => not_found(),
        }
    }
}

/// The body, if it comes in time and is not too large.
async fn read(body: Incoming) -> Result<Bytes, Response<Full<Bytes>>> {
    let whole = Limited::new(body, LARGEST_BODY).collect();
    match tokio::time::timeout(BODY, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => {
            Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "body", "the body is larger than 16 KiB, or broke off"))
        }
        Err(_) => Err(problem(StatusCode::REQUEST_TIMEOUT, "body", "the body did not come in time")),
    }
}

fn not_found() -> Response<Full<Bytes>> {
    problem(StatusCode::NOT_FOUND, "not_found", "there is nothing here")
}

fn not_allowed() -> Response<Full<Bytes>> {
    problem(StatusCode::METHOD_NOT_ALLOWED, "method", "not with this method")
}

/// For the body of a request.
const BODY: Duration = Duration::from_secs(5);
const LARGEST_BODY: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::gateway;
    use crate::token::KeyRing;

    fn issuer(keys: KeyRing) -> Arc<Issuer> {
        Arc::new(Issuer::new("i".into(), keys))
    }

    fn desk() -> Desk {
        let clock = Clock::system();
        let metrics = Metrics::new(clock.now().wall);
        let registry = Registry::new(&clock);
        let (config, tracker) = (gateway::Config::default(), TaskTracker::new());
        Desk::new(Parts {
            gateway: Gateway::new(config, Vec::new(), clock.clone(), registry.clone(), tracker, metrics.clone()),
            revocations: registry.revocations().clone(),
            registry,
            metrics,
            clock,
            issuers: ArcSwap::from_pointee(vec![issuer(KeyRing::default())]),
            sources: ArcSwap::default(),
            leave: CancellationToken::new(),
        })
    }

    #[tokio::test]
    async fn metrics_are_put_together_once_for_all_who_ask_at_a_time() {
        let desk = desk();
        let ask = async || {
            let body = desk.probe("/metrics").await.unwrap().into_body();
            body.collect().await.unwrap().to_bytes()
        };
        let held = desk.1.last.lock().await;
        let release = async {
            tokio::task::yield_now().await;
            assert_eq!(desk.1.asked.load(Ordering::SeqCst), 2);
            drop(held);
        };
        let (one, other, ()) = tokio::join!(ask(), ask(), release);
        assert!(one.ends_with(b"# EOF\n") && one.as_ptr() == other.as_ptr(), "they share one text");
        assert!(ask().await.as_ptr() != one.as_ptr(), "who asks later is told what is so then");
    }

    #[tokio::test]
    async fn it_is_ready_only_while_some_issuer_has_a_key_and_it_does_not_leave() {
        let desk = desk();
        let ready = async || desk.probe("/readyz").await.unwrap().status().as_u16();
        assert_eq!(ready().await, 503);
        let mut keys = KeyRing::default();
        let secret = Secret::new(b"0123456789abcdef0123456789abcdef".to_vec());
        keys.add_secret(crate::token::keys::Algorithm::from_name("HS256").unwrap(), None, &secret).unwrap();
        desk.replace_issuers(vec![issuer(KeyRing::default()), issuer(keys)], Vec::new());
        assert_eq!(ready().await, 200);
        desk.0.gateway.begin_drain(Duration::ZERO);
        assert_eq!(ready().await, 503);
        assert_eq!(desk.probe("/livez").await.unwrap().status(), 200);
    }
}
