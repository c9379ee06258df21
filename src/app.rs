//! Build, run, reload, drain: the only place that knows all parts.
//!
//! Owns the life of the process from a checked config to the last stream: the descriptor limit, the listeners, the
//! ticker that sees steps of the clock, the swap at a reload, the orderly end. It reads no file of its own and installs
//! no signal handler; the command line, the demo and tests call it.

mod drain;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminError, Desk};
use crate::clock::{Clock, StepDetector, Wall};
use crate::config::{Config, Server};
use crate::gateway::route::{self, Route};
use crate::gateway::{self, Gateway};
use crate::jwks::{self, Missing, Source};
use crate::listen::validity::Validity;
use crate::listen::{self, ListenError, Listener, ListenerHandle};
use crate::registry::Registry;
use crate::revocation::{self, Revocations};
use crate::stream::Signal;
use crate::telemetry::{self, Metrics};
use crate::token::verify::Issuer;
use crate::upstream::Service;

/// The program before it runs.
#[derive(Debug)]
pub struct App;

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be opened; the text says which one and what to do.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Nor the probes or the admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The revocations that were kept cannot be read; without them nobody is let in.
    #[error(transparent)]
    Revocations(#[from] revocation::OpenError),
}

/// Why a reload was refused; everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new certificates of a listener cannot be used.
    #[error("listener `{name}`: {source}")]
    Certificates {
        /// Its name in the config.
        name: String,
        /// What is wrong.
        source: ListenError,
    },
}

/// The program while it runs. Dropping it leaves everything running; [`Running::shutdown`] ends it.
pub struct Running {
    addresses: Vec<(String, SocketAddr)>,
    gateway: Gateway,
    registry: Registry,
    tracker: TaskTracker,
    clock: Clock,
    metrics: Metrics,
    desk: Desk,
    /// Name and address of the probes and the admin listener.
    admin_addresses: Vec<(String, SocketAddr)>,
    /// Ends the accept loops.
    stop: CancellationToken,
    /// Ends those of probes and admin, which outlive the drain.
    stop_admin: CancellationToken,
    /// An operator wants the gateway to leave.
    leave: CancellationToken,
    ticker: Arc<Ticker>,
    context: jwks::Context,
    current: Mutex<Current>,
}

/// What the present config says, for comparison with the next one.
struct Current {
    server: Server,
    log: telemetry::log::Config,
    admin: admin::Config,
    revocation: revocation::Config,
    listeners: Vec<(listen::Config, ListenerHandle)>,
    sources: Vec<Arc<Source>>,
    /// Ends those that fetch them.
    fetching: CancellationToken,
    /// Ends those that watch the services.
    watching: CancellationToken,
}

impl App {
    /// Gets the key sets that must be there before anybody is served.
    pub async fn prepare(config: &Config, clock: &Clock) -> Result<(), Vec<Missing>> {
        jwks::prepare(&config.sources, &[], clock).await
    }

    /// Opens every listener and serves. Nothing is served unless all of them could be opened.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(config: Config, clock: Clock) -> Result<Running, StartError> {
        Self::start_with(config, clock, None)
    }

    /// Likewise, with something that answers requests which are no upgrades; only the demo has one.
    #[allow(clippy::unused_async)] // what is async in the listeners may change; callers should not
    pub fn start_with(
        config: Config,
        clock: Clock,
        fallback: Option<gateway::Fallback>,
    ) -> Result<Running, StartError> {
        raise_descriptor_limit(config.server.max_connections);
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            listeners.push(Listener::bind(listener)?);
        }
        let admin = admin::Listeners::bind(&config.admin)?;
        let admin_addresses = admin.addresses();
        let now = clock.now().wall;
        let revocations = open_revocations(&config, now)?;
        let metrics = Metrics::new(now);
        metrics.certificates(certificate_ends(&config));
        let registry = Registry::with(&clock, revocations.clone(), metrics.clone());
        let tracker = TaskTracker::new();
        let rules = gateway_config(&config.server);
        let gateway =
            Gateway::new(rules, config.routes, clock.clone(), registry.clone(), tracker.clone(), metrics.clone());
        let gateway = gateway.with_fallback(fallback);
        let ticker = Arc::new(Ticker::default());
        // Before anybody is let in: who shows a token may have to wait for one.
        let context = jwks::Context {
            clock: clock.clone(),
            registry: registry.clone(),
            metrics: metrics.clone(),
            stop: ticker.stop.clone(),
        };
        let (sources, fetching) = (config.sources.clone(), run_sources(&config.sources, &context));
        let watching = watch(&gateway.services(), &ticker.stop);
        let stop = CancellationToken::new();
        let permits = Arc::new(Semaphore::new(config.server.max_connections.min(Semaphore::MAX_PERMITS)));
        let settings = settings(&config.server);
        let mut addresses = Vec::with_capacity(listeners.len());
        let mut current = Vec::with_capacity(listeners.len());
        for (listener, config) in listeners.into_iter().zip(config.listeners) {
            addresses.push((config.name.clone(), listener.address()));
            current.push((config, listener.handle()));
            let (gateway, permits) = (gateway.clone(), permits.clone());
            tracker.spawn(listener.run(gateway, settings, permits, stop.clone(), tracker.clone()));
        }
        let (leave, stop_admin) = (CancellationToken::new(), CancellationToken::new());
        let desk = Desk::new(admin::Parts {
            gateway: gateway.clone(),
            registry: registry.clone(),
            revocations: revocations.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            issuers: ArcSwap::from_pointee(config.issuers),
            sources: ArcSwap::from_pointee(config.sources.clone()),
            leave: leave.clone(),
        });
        admin.run(&desk, &stop_admin);
        tokio::spawn(ticker.clone().run(clock.clone(), registry.clone(), gateway.clone(), desk.clone()));
        tokio::spawn(expire(revocations, clock.clone(), ticker.stop.clone()));
        let (server, log, admin, revocation) = (config.server, config.log, config.admin, config.revocation);
        let current =
            Mutex::new(Current { server, log, admin, revocation, listeners: current, sources, fetching, watching });
        Ok(Running {
            addresses,
            gateway,
            registry,
            tracker,
            clock,
            metrics,
            desk,
            admin_addresses,
            stop,
            stop_admin,
            leave,
            ticker,
            context,
            current,
        })
    }
}

impl Running {
    /// Name and address of each listener; the ports that the system chose stand here.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// Name and address of the probes and the admin listener, `probes` and `admin`; a Unix socket has none.
    pub fn admin_addresses(&self) -> &[(String, SocketAddr)] {
        &self.admin_addresses
    }

    /// Waits until an operator wants the gateway to leave. [`Running::shutdown`] does that.
    pub async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }

    /// A new config was read and could not be put into force.
    pub fn reload_failed(&self) {
        self.metrics.reloaded(false, self.clock.now().wall);
    }

    /// The live streams.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Gets the key sets of a new config that are not known yet, before it is put into force.
    pub async fn prepare(&self, config: &Config) -> Result<(), Vec<Missing>> {
        let before = self.current.lock().unwrap_or_else(PoisonError::into_inner).sources.clone();
        jwks::prepare(&config.sources, &before, &self.clock).await
    }

    /// Puts a new config into force: routes, keys and certificates, all or nothing. Live streams go on under the rules
    /// that they began with; those of a route whose name is gone end with 1012.
    ///
    /// What cannot change while the process runs is left as it is, and named in what this returns.
    pub fn reload(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warnings = unchangeable(&current, &config);
        warnings.extend_from_slice(&config.notes);
        let mut prepared = Vec::new();
        for (listener, handle) in &current.listeners {
            let Some(new) = config.listeners.iter().find(|new| same_socket(new, listener)) else { continue };
            let certificates = handle.prepare(new);
            let certificates =
                certificates.map_err(|source| ReloadError::Certificates { name: listener.name.clone(), source })?;
            prepared.push((handle, certificates));
        }
        // From here on nothing can fail.
        self.metrics.certificates(certificate_ends(&config));
        self.metrics.reloaded(true, self.clock.now().wall);
        identify(self.registry.revocations(), &config.issuers, self.clock.now().wall);
        for (handle, certificates) in prepared {
            handle.commit(certificates);
        }
        self.replace_sources(&mut current, &config.sources);
        self.desk.replace_issuers(config.issuers, config.sources);
        let before = self.gateway.route_names();
        let after: BTreeSet<Arc<str>> = config.routes.iter().map(|route| route.name.clone()).collect();
        let max_request_head = Some(current.server.max_request_head);
        self.replace_services(&mut current, &config.routes);
        self.gateway.replace(gateway::Config { max_request_head, ..gateway_config(&config.server) }, config.routes);
        for gone in before.iter().filter(|name| !after.contains(*name)) {
            warnings.push(format!("the route `{gone}` is gone: its streams end with 1012"));
        }
        self.ticker.sweep(&self.registry, &self.gateway);
        let Current { server, listeners, .. } = &mut *current;
        server.drain_window = config.server.drain_window;
        server.drain_timeout = config.server.drain_timeout;
        for (listener, _) in listeners {
            if let Some(new) = config.listeners.iter().find(|new| same_socket(new, listener)) {
                *listener = new.clone();
            }
        }
        Ok(warnings)
    }

    /// Has the key sets of a new config kept fresh in the place of the old ones.
    fn replace_sources(&self, current: &mut Current, sources: &[Arc<Source>]) {
        current.fetching.cancel();
        for source in &current.sources {
            source.stop();
        }
        // What came since the new config was prepared.
        jwks::take_over(sources, &current.sources);
        current.fetching = run_sources(sources, &self.context);
        current.sources = sources.to_vec();
    }

    /// Has the services of new routes watched in the place of the old ones. Of endpoints that stay, what is known stays.
    fn replace_services(&self, current: &mut Current, routes: &[Arc<Route>]) {
        current.watching.cancel();
        let (before, after) = (self.gateway.services(), route::services(routes));
        for service in after.iter().filter(|service| service.name().is_some()) {
            if let Some(older) = before.iter().find(|older| older.name() == service.name()) {
                service.take_over(older);
            }
        }
        current.watching = watch(&after, &self.ticker.stop);
    }

    /// Ends everything in order: no new connections, new streams are refused with 503, live ones get their Close
    /// spread over `drain_window`. Returns when all are gone, at the latest after `drain_timeout`.
    pub async fn shutdown(self) {
        let (window, timeout) = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody is dialled any more.
            current.watching.cancel();
            (current.server.drain_window, current.server.drain_timeout)
        };
        self.gateway.begin_drain(window);
        self.stop.cancel();
        self.tracker.close();
        let streams = self.registry.len();
        tracing::info!(streams, ?window, ?timeout, "draining");
        drain::drain(&self.registry, &self.tracker, &self.clock, window, timeout).await;
        self.ticker.stop.cancel();
        self.stop_admin.cancel();
        match self.registry.len() {
            0 => tracing::info!("drained"),
            streams => tracing::warn!(streams, "the drain timeout is over: streams are cut off"),
        }
    }
}

/// Once a second: looks whether the clock was stepped, and, for a while after a reload, for streams of routes that are
/// gone (one may have been on its way in while the routes were swapped).
#[derive(Debug, Default)]
struct Ticker {
    stop: CancellationToken,
    sweeps: AtomicU32,
}

impl Ticker {
    async fn run(self: Arc<Self>, clock: Clock, registry: Registry, gateway: Gateway, desk: Desk) {
        let mut steps = StepDetector::new(clock.now());
        let mut seconds = tokio::time::interval(SECOND);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(seconds.tick()).await.is_some() {
            if steps.stepped(clock.now()) {
                tracing::warn!(
                    streams = registry.len(),
                    "the wall clock was stepped: every deadline is looked at again"
                );
                registry.signal_all(Signal::Recheck);
                desk.recheck_sources();
            }
            if self.sweeps.load(Ordering::Relaxed) > 0 {
                self.sweeps.fetch_sub(1, Ordering::Relaxed);
                end_strays(&registry, &gateway);
            }
        }
    }

    /// Ends streams of routes that are gone, now and for the next seconds.
    fn sweep(&self, registry: &Registry, gateway: &Gateway) {
        self.sweeps.store(SWEEPS, Ordering::Relaxed);
        end_strays(registry, gateway);
    }
}

/// Keeps these key sets fresh until what is returned is cancelled.
fn run_sources(sources: &[Arc<Source>], context: &jwks::Context) -> CancellationToken {
    let stop = context.stop.child_token();
    for source in sources {
        source.begin(context);
        tokio::spawn(source.clone().run(jwks::Context { stop: stop.clone(), ..context.clone() }));
    }
    stop
}

/// Keeps what is known of these services fresh until what is returned is cancelled.
fn watch(services: &[Arc<Service>], stop: &CancellationToken) -> CancellationToken {
    let stop = stop.child_token();
    for service in services.iter().filter(|service| service.name().is_some()) {
        let (service, stop) = (service.clone(), stop.clone());
        tokio::spawn(async move { service.watch(&stop).await });
    }
    stop
}

/// Takes out revocations that have ended, once a second.
async fn expire(revocations: Revocations, clock: Clock, stop: CancellationToken) {
    let mut seconds = tokio::time::interval(SECOND);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(seconds.tick()).await.is_some() {
        if let Err(error) = revocations.expire(clock.now().wall).await {
            tracing::warn!(%error, "revocations that have ended stay in the file");
        }
    }
}

fn open_revocations(config: &Config, now: Wall) -> Result<Revocations, revocation::OpenError> {
    let revocations = Revocations::open(&config.revocation)?;
    if !revocations.is_kept() && config.admin.admin.is_some() {
        tracing::warn!("revocations end with this process: set [revocation] file to keep them");
    }
    identify(&revocations, &config.issuers, now);
    let (count, capacity) = (revocations.count(now), revocations.capacity());
    if count > 0 {
        tracing::info!(revocations = count, capacity, "revocations in force");
    }
    if count >= capacity {
        tracing::error!(revocations = count, capacity, "there is no room for more revocations: raise max_entries");
    }
    Ok(revocations)
}

/// Has the revocations follow the issuers of a config, and says which cannot.
fn identify(revocations: &Revocations, issuers: &[Arc<Issuer>], now: Wall) {
    let (lost, names) = revocations.identify(issuers, now);
    if lost > 0 {
        tracing::error!(
            revocations = lost,
            issuers = ?names,
            "revocations name no issuer of the config and ban nobody: give the issuer its old iss (or, without iss, its old \
             name) back, or revoke anew under the present one and lift these"
        );
    }
}

/// When the first certificate of each listener ends.
fn certificate_ends(config: &Config) -> Vec<(String, Wall)> {
    let public = config.listeners.iter().flat_map(|listener| {
        let files = listener.certificates.iter().flatten();
        files.map(move |files| (listener.name.clone(), &files.certificate))
    });
    let admin = config.admin.admin.iter().filter_map(|admin| admin.tls.as_ref());
    let admin = admin.map(|tls| ("[admin]".to_owned(), &tls.certificate.certificate));
    let mut ends = BTreeMap::<String, Wall>::new();
    for (name, path) in public.chain(admin) {
        let chain = listen::certificates::chain(path).unwrap_or_default();
        let Some(validity) = chain.first().and_then(Validity::of) else { continue };
        let end = ends.entry(name).or_insert(validity.end);
        *end = validity.end.min(*end);
    }
    ends.into_iter().collect()
}

fn end_strays(registry: &Registry, gateway: &Gateway) {
    let names: BTreeSet<Arc<str>> = gateway.route_names().into_iter().collect();
    registry.signal_where(|route| !names.contains(route), Signal::RouteGone);
    gateway.end_strays();
}

fn gateway_config(server: &Server) -> gateway::Config {
    gateway::Config {
        max_request_head: Some(server.max_request_head),
        max_streams: server.max_streams,
        max_requests: Some(server.max_requests),
        max_tickets: server.max_tickets,
        trusted_proxies: server.trusted_proxies.clone(),
        waiting: server.waiting,
    }
}

fn settings(server: &Server) -> listen::Settings {
    listen::Settings {
        handshake_timeout: server.handshake_timeout,
        request_timeout: server.request_timeout,
        max_request_head: server.max_request_head,
    }
}

/// Whether the new listener is the old one, at most with other certificates.
fn same_socket(new: &listen::Config, old: &listen::Config) -> bool {
    new.name == old.name && new.address == old.address && new.certificates.is_some() == old.certificates.is_some()
}

/// What the new config would change but only a restart can.
fn unchangeable(current: &Current, new: &Config) -> Vec<String> {
    let (old, server) = (&current.server, &new.server);
    let changed = [
        ("server.workers", old.workers != server.workers),
        ("server.max_connections", old.max_connections != server.max_connections),
        ("server.handshake_timeout", old.handshake_timeout != server.handshake_timeout),
        ("server.request_timeout", old.request_timeout != server.request_timeout),
        ("server.max_request_head", old.max_request_head != server.max_request_head),
        ("server.pid_file", old.pid_file != server.pid_file),
        ("log", current.log != new.log),
        ("probes", current.admin.probes != new.admin.probes),
        ("admin", current.admin.admin != new.admin.admin),
        ("revocation", current.revocation != new.revocation),
    ];
    let mut warnings: Vec<String> = changed
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| format!("{key} has changed: that needs a restart"))
        .collect();
    for (listener, _) in &current.listeners {
        if !new.listeners.iter().any(|new| same_socket(new, listener)) {
            let name = &listener.name;
            warnings.push(format!(
                "listener `{name}` has changed its address or its TLS, or is gone: that needs a restart"
            ));
        }
    }
    for listener in &new.listeners {
        if !current.listeners.iter().any(|(old, _)| old.name == listener.name) {
            warnings.push(format!("listener `{}` is new: that needs a restart", listener.name));
        }
    }
    warnings
}

/// Raises the soft limit on open files to the hard one. A stream takes two descriptors.
fn raise_descriptor_limit(max_connections: usize) {
    let before = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
    let limit = getrlimit(Resource::Nofile).current;
    // A limit that is absent is none.
    tracing::info!(limit, was = before.current, "open files");
    let needed = (max_connections as u64).saturating_mul(2).saturating_add(SPARE_DESCRIPTORS);
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "{max_connections} connections (max_connections) and as many to services need {needed} open files; \
             the hard limit is {limit}: raise it (LimitNOFILE=, ulimit -Hn) or lower max_connections"
        );
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// Seconds for which strays are looked for after a reload: longer than an upgrade may take by default.
const SWEEPS: u32 = 60;
/// Listeners, logs, name lookups, the runtime's own.
const SPARE_DESCRIPTORS: u64 = 64;
