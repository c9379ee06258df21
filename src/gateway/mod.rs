//! The tower pipeline from a request to a `101` or a refusal.
//!
//! Owns the order of the stages (`stack`) and what they share: the rules in force and whether the gateway is leaving.
//! Does not accept connections (`listen`) and does not carry a stream's bytes (`relay`). Called by `listen` for each
//! request, and by the app to replace the rules and to drain.

pub mod address;
pub mod authenticate;
pub mod body;
pub mod client;
pub mod door;
pub mod endpoint;
pub mod first_message;
pub mod forward;
pub mod headers;
pub mod identity;
pub mod limit;
pub mod narrow;
pub mod observe;
pub mod origin;
pub mod pass;
pub mod path;
pub mod peer;
pub mod rejection;
pub mod renew;
pub mod respond;
pub mod route;
pub mod ticket;
pub mod turn_away;
pub mod upgrade;
pub mod waiting;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::Body as HttpBody;
use ipnet::IpNet;
use tokio_util::task::TaskTracker;
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceBuilder};

pub use body::{Body, BoxError};
pub use peer::Peer;

use crate::clock::Clock;
use crate::registry::Registry;
use crate::stream::CloseReason;
use crate::telemetry::Metrics;
use crate::upstream::Service;
use authenticate::Authenticate;
use body::Upload;
use endpoint::{Endpoints, Page};
use first_message::Doorkeeper;
use forward::Forward;
use narrow::narrow;
use observe::Observe;
use pass::{Pass, Passing};
use respond::Respond;
use route::Route;
use ticket::Tickets;
use turn_away::TurnAway;
use waiting::{Place, Waiting};

/// The pipeline, in running order. Each stage takes the type that the one before it makes: leaving one out does not
/// compile.
fn stack(shared: &Arc<Shared>) -> Pipeline {
    let (room, pages) = (shared.clone(), shared.clone());
    let stages = ServiceBuilder::new()
        .layer_fn(Observe::with(shared.metrics.clone())) //         one line in the log per refusal; counts
        .layer_fn(Respond) //                                       Rejection -> problem JSON
        .layer(narrow(route::choose)) //                            Arrived   -> Routed: a sane target that a route takes
        .layer_fn(Endpoints::with(shared.clone())) //               what the gateway itself answers on a route: renewals, tickets
        .layer_fn(Pass::with(shared.clone())) //                    plain HTTP, where the route has it, goes on to the service
        .layer_fn(TurnAway::with(shared.clone())) //                Rejection -> a Close, where the route says so
        .layer(narrow(move |routed| limit::check(&room, routed))) //   Routed  -> Within: the gateway takes new streams
        .layer(narrow(move |within| origin::check(&pages, within))) // Within -> Welcome: from a page that may
        .layer(narrow(upgrade::check)) //                           Welcome   -> Upgrade: a WebSocket handshake
        .layer_fn(Doorkeeper::with(shared.clone())) //              Upgrade   -> 101 at once, where a message has the token
        .layer_fn(Authenticate::with(shared.clone())) //            Upgrade   -> Admitted: the one token, or a ticket, is good
        .service(Forward(shared.clone())); //                       Admitted  -> 101: a place, the service, the stream
    BoxCloneSyncService::new(stages)
}

/// What the app sets for the whole pipeline.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The largest request head, bytes; `None` for what hyper takes, which may be one read more than its buffer.
    pub max_request_head: Option<usize>,
    /// Streams at a time in the whole process; `None` for no limit of its own.
    pub max_streams: Option<usize>,
    /// Plain requests that are passed on at a time; `None` for no limit.
    pub max_requests: Option<usize>,
    /// Tickets that were handed out and not used, at a time.
    pub max_tickets: usize,
    /// Peers whose word on where a request came from is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How many streams may wait for their first message, or for the end of their refusal.
    pub waiting: waiting::Caps,
}

/// The pipeline with its rules. Clones are the same gateway.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
    pipeline: Pipeline,
    fallback: Option<Fallback>,
}

/// Answers a request that is no WebSocket upgrade, given its head and its peer; `None` = the pipeline answers it. For
/// the page of the demo, which lives on the gateway's own port; nothing else sets one.
pub type Fallback = Arc<dyn Fn(&http::request::Parts, SocketAddr) -> Option<Response<Bytes>> + Send + Sync>;

impl Gateway {
    /// A gateway with these rules. Its streams run as tasks of `tracker` and have their places in `registry`.
    pub fn new(
        config: Config,
        routes: Vec<Arc<Route>>,
        clock: Clock,
        registry: Registry,
        tracker: TaskTracker,
        metrics: Metrics,
    ) -> Self {
        let rules = ArcSwap::from_pointee(Rules { config, routes });
        let shared = Arc::new(Shared {
            rules,
            draining: AtomicBool::new(false),
            clock,
            registry,
            tickets: Tickets::default(),
            tracker,
            metrics,
            waiting: Waiting::default(),
            passing: Passing::default(),
        });
        Self { pipeline: stack(&shared), shared, fallback: None }
    }

    /// The same gateway, which asks `fallback` first about requests that are no upgrades.
    #[must_use]
    pub fn with_fallback(self, fallback: Option<Fallback>) -> Self {
        Self { fallback, ..self }
    }

    /// Puts new rules in force, all at once, for requests from now on. Live streams keep the rules they began with.
    pub fn replace(&self, config: Config, routes: Vec<Arc<Route>>) {
        self.shared.rules.store(Arc::new(Rules { config, routes }));
    }

    /// The names of the routes in force.
    pub fn route_names(&self) -> Vec<Arc<str>> {
        self.shared.rules.load().routes.iter().map(|route| route.name.clone()).collect()
    }

    /// The services of the routes in force, each once.
    pub fn services(&self) -> Vec<Arc<Service>> {
        route::services(&self.shared.rules.load().routes)
    }

    /// From now on new streams are refused with 503, those whose service is being dialled too. Those that wait for their
    /// first message are closed, spread over `window`.
    pub fn begin_drain(&self, window: Duration) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.waiting.end_where(|_| true, CloseReason::Drain, window);
    }

    /// Closes the streams that wait for their first message on a route that is not in force any more.
    pub fn end_strays(&self) {
        let rules = self.shared.rules.load();
        let gone = |name: &str| rules.routes.iter().all(|route| *route.name != *name);
        self.shared.waiting.end_where(gone, CloseReason::RouteGone, Duration::ZERO);
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Whether it is leaving.
    pub fn draining(&self) -> bool {
        self.shared.draining()
    }

    /// Answers one request. A body that comes with it is read only by a service that the request is passed on to.
    pub async fn answer<B>(&self, request: Request<B>, peer: Arc<Peer>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let visit = Arc::new(Visit {
            peer,
            rules: self.shared.rules.load_full(),
            route: OnceLock::new(),
            page: OnceLock::new(),
            own: OnceLock::new(),
        });
        let (head, body) = request.into_parts();
        if let Some(fallback) = &self.fallback
            && !head.headers.contains_key(http::header::UPGRADE)
            // A request whose host is in doubt is the pipeline's to refuse.
            && route::named(&head.headers, &head.uri).is_ok_and(|(_, host)| visit.peer.serves(&host))
            && let Some(response) = fallback(&head, visit.peer.address)
        {
            return response.map(Body::from);
        }
        let arrived = Arrived { visit, request: Request::from_parts(head, Upload::new(body)) };
        match self.pipeline.clone().call(arrived).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

type Pipeline = BoxCloneSyncService<Arrived, Response<Body>, Infallible>;

/// What all requests share.
pub struct Shared {
    rules: ArcSwap<Rules>,
    draining: AtomicBool,
    clock: Clock,
    registry: Registry,
    tickets: Tickets,
    tracker: TaskTracker,
    metrics: Metrics,
    waiting: Waiting,
    passing: Passing,
}

impl Shared {
    fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// A place among those that wait, for a client of `route` that comes from `address`.
    fn wait(&self, visit: &Visit, route: &Route, address: IpAddr) -> Place {
        self.waiting.enter(route.name.clone(), address, visit.rules.config.waiting)
    }
}

/// The rules that a request is judged by, from its first stage to its last.
pub struct Rules {
    config: Config,
    routes: Vec<Arc<Route>>,
}

/// One request's circumstances.
pub struct Visit {
    peer: Arc<Peer>,
    rules: Arc<Rules>,
    /// Set by the `route` stage, read by `observe`.
    route: OnceLock<Arc<str>>,
    /// The page that may read the answer, whatever it is. Set by the `endpoint` stage, read by `respond`.
    page: OnceLock<Page>,
    /// Set by the `endpoint` stage for what it answers itself, read by `observe`, which counts upgrades.
    own: OnceLock<()>,
}

impl Visit {
    /// The name of the route that took the request, if one did.
    fn route_name(&self) -> Option<&str> {
        self.route.get().map(|name| &**name)
    }

    /// Where a request with these headers comes from, for counting.
    fn client(&self, headers: &HeaderMap) -> IpAddr {
        address::client(headers, self.peer.address.ip(), &self.rules.config.trusted_proxies)
    }

    /// Whether the peer is a proxy whose word counts.
    fn trusted(&self) -> bool {
        let address = self.peer.address.ip().to_canonical();
        self.rules.config.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// A request as it came, before anything was checked.
pub struct Arrived {
    visit: Arc<Visit>,
    request: Request<Upload>,
}
