//! Routes: a stable name; host and path prefix -> upstream, with its rules. And the stage that picks one.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Uri};

use crate::admission::Afterwards;
use crate::clock::Wall;
use crate::gateway::body::Upload;
use crate::gateway::first_message::Expected;
use crate::gateway::identity::Introduction;
use crate::gateway::path;
use crate::gateway::rejection::Rejection;
use crate::gateway::{Arrived, Visit};
use crate::registry::WhenFull;
use crate::relay::in_band::Mode;
use crate::stream::{CloseCodes, Limits, Policies, Terms};
use crate::token::{Carrier, Judge};
use crate::upstream::Service;
use crate::ws::handshake::{headers_size, only};

/// What is sent upstream in `Host` or `Origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// What the client sent.
    Preserve,
    /// The upstream's own host and port (for `Origin`: with `http` or `https` in front).
    Upstream,
    /// This value.
    Fixed(HeaderValue),
}

/// Which `Origin`s may open a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Any, and none. Not with a cookie carrier.
    Any,
    /// Only these (scheme, host and port, compared in lower case); a request without `Origin` does not come from a
    /// page, and passes unless a cookie carrier is configured.
    Only(Vec<String>),
}

/// How a client that is refused learns of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reject {
    /// By an HTTP status, which a script in a browser does not see.
    #[default]
    Http,
    /// By a `101` and a Close, where the refusal has one.
    Close,
}

/// What becomes of requests that are no upgrades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// They are refused.
    #[default]
    Refuse,
    /// They go on with a good token.
    Require,
    /// They go on; no token is looked for.
    Pass,
}

/// How plain HTTP passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// Whether it does.
    pub access: Access,
    /// How long the service may take to begin its answer once it has the whole request.
    pub response_timeout: Duration,
    /// How long the body of a request may stand still, whoever it waits for.
    pub upload_timeout: Duration,
}

impl Default for Http {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { access: Access::default(), response_timeout: minute, upload_timeout: minute }
    }
}

/// How the streams of a route are renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Whether a fresh token may be posted to the route, for the stream whose handle comes with it.
    pub out_of_band: bool,
    /// Whether a text message on the stream may be a fresh token, and what becomes of it.
    pub in_band: Option<Mode>,
    /// What stands before the token in such a message; may be empty.
    pub prefix: Arc<str>,
    /// One attempt each such time in the long run, good or bad; zero = no pace.
    pub interval: Duration,
    /// How often a stream may be renewed; `None` for no limit.
    pub max_renewals: Option<u32>,
    /// Whether a token that expires earlier than the present one is taken.
    pub allow_shorter: bool,
}

impl Renewal {
    /// How a token that expires at `expiry` is applied.
    pub fn terms(&self, expiry: Option<Wall>) -> Terms {
        Terms { expiry, allow_shorter: self.allow_shorter, max_renewals: self.max_renewals }
    }
}

impl Default for Renewal {
    fn default() -> Self {
        Self {
            out_of_band: true,
            in_band: None,
            prefix: "".into(),
            interval: Duration::from_secs(1),
            max_renewals: None,
            allow_shorter: false,
        }
    }
}

/// How many streams belong together; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowds {
    /// Of one principal.
    pub per_principal: Option<usize>,
    /// From one address.
    pub per_address: Option<usize>,
    /// What becomes of one more.
    pub when_full: WhenFull,
}

/// One route with its rules. Live streams keep the one they began with.
pub struct Route {
    /// Its name: stable across reloads.
    pub name: Arc<str>,
    /// Host names without port, in lower case; `*` for any, `*.example.com` for any one label in front.
    pub hosts: Vec<String>,
    /// Path prefix, matched on segment boundaries; starts with `/`.
    pub path: String,
    /// Whether ambiguous targets are refused.
    pub strict_path: bool,
    /// Where the token may stand, in this order.
    pub carriers: Vec<Carrier>,
    /// What is expected of the first message; only, and always, where it is the carrier.
    pub first_message: Option<Arc<Expected>>,
    /// How refusals are told.
    pub reject: Reject,
    /// Says whether a token is good here.
    pub judge: Arc<dyn Judge>,
    /// Who may open a stream from a page.
    pub origins: Origins,
    /// The service.
    pub upstream: Arc<Service>,
    /// `Host` towards the service.
    pub host: Rewrite,
    /// `Origin` towards the service.
    pub origin: Rewrite,
    /// Whether `X-Forwarded-For`, `-Proto`, `-Host` (and `-Prefix` with `strip_prefix`) and `Forwarded` are set.
    pub forwarded: bool,
    /// Whether the path prefix is taken off before the request goes on.
    pub strip_prefix: bool,
    /// What becomes of requests that are no upgrades.
    pub http: Http,
    /// What its service is told with each upgrade.
    pub introduction: Introduction,
    /// The bounds within which a stream ends.
    pub limits: Arc<Limits>,
    /// What it asks of its streams besides.
    pub policies: Policies,
    /// What the client is told.
    pub codes: Arc<CloseCodes>,
    /// How its streams are renewed.
    pub renewal: Renewal,
    /// How long a ticket counts.
    pub ticket_lifetime: Duration,
    /// How many streams one principal may have there, how many may come from one address, and what becomes of one more.
    pub crowds: Crowds,
    /// How many streams the route may have at a time; `None` for no limit of its own. More are refused with 429.
    pub max_streams: Option<usize>,
}

impl Route {
    /// What becomes of a good token.
    pub const fn afterwards(&self) -> Afterwards {
        if self.introduction.pass_token { Afterwards::PassOn } else { Afterwards::Wipe }
    }

    /// The parameter in which a ticket stands, if the route takes tickets.
    pub fn ticket_name(&self) -> Option<&str> {
        self.carriers.iter().find_map(|carrier| match carrier {
            Carrier::Ticket(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// How well the route fits: its best host pattern first, then the longer prefix. `None` if it does not.
    fn rank(&self, host: &str, target: &str) -> Option<(u8, usize)> {
        let host = self.hosts.iter().filter_map(|pattern| path::host_rank(pattern, host)).max()?;
        path::after_prefix(target, &self.path)?;
        Some((host, self.path.len()))
    }
}

/// The services of these routes, each once.
pub fn services(routes: &[Arc<Route>]) -> Vec<Arc<Service>> {
    let mut services: Vec<Arc<Service>> = Vec::new();
    for route in routes {
        if !services.iter().any(|known| Arc::ptr_eq(known, &route.upstream)) {
            services.push(route.upstream.clone());
        }
    }
    services
}

/// A request that a route takes, with a target that means the same to everyone (or to whom the route does not care).
pub struct Routed {
    pub(super) visit: Arc<Visit>,
    pub(super) route: Arc<Route>,
    /// `Host` as the client sent it.
    pub(super) host: HeaderValue,
    pub(super) request: Request<Upload>,
}

/// Picks the route: among those that take the host and the path, the one that names the host best, then the one with
/// the longest prefix.
///
/// An ambiguous path is refused before any route's rules apply, unless the route that its raw text leads to has
/// `strict_path = false`: such a route takes whatever its service makes of the path.
pub fn choose(arrived: Arrived) -> Result<Routed, Rejection> {
    let Arrived { visit, request } = arrived;
    let most = visit.rules.config.max_request_head;
    if most.is_some_and(|most| head_size(&request) > most) {
        return Err(Rejection::BadRequest("the request head is larger than max_request_head"));
    }
    let (value, host) = named(request.headers(), request.uri())?;
    let value = value.clone();
    let target = request.uri().path();
    let ambiguity = path::ambiguity(target);
    let ranked = visit.rules.routes.iter().filter_map(|route| Some((route.rank(&host, target)?, route)));
    let best = ranked.max_by_key(|(rank, _)| *rank).map(|(_, route)| route.clone());
    if let Some(ambiguity) = ambiguity.filter(|_| best.as_ref().is_none_or(|route| route.strict_path)) {
        return Err(Rejection::BadRequest(ambiguity));
    }
    if !visit.peer.serves(&host) {
        return Err(Rejection::Misdirected);
    }
    let route = best.ok_or(Rejection::NoRoute)?;
    // Set once per request; a second request has a visit of its own.
    let _ = visit.route.set(route.name.clone());
    Ok(Routed { visit, route, host: value, request })
}

/// The one host that a request is for: `Host` as it came, and its name in lower case without the port.
pub(super) fn named<'a>(headers: &'a HeaderMap, target: &Uri) -> Result<(&'a HeaderValue, String), Rejection> {
    let value = only(headers, &HOST).ok_or(Rejection::BadRequest("Host is missing or stands twice"))?;
    let name = path::host_name(value.as_bytes()).ok_or(Rejection::BadRequest("Host is no host name"))?;
    if !agrees(target, value) {
        return Err(Rejection::BadRequest("the target names another host than Host"));
    }
    Ok((value, name))
}

/// How many bytes the request line and the headers take, at the least.
fn head_size(request: &Request<Upload>) -> usize {
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let absolute = uri.authority().map_or(0, |authority| "https://".len() + authority.as_str().len());
    let line = request.method().as_str().len() + target + absolute + "  HTTP/1.1\r\n\r\n".len();
    headers_size(request.headers()).saturating_add(line)
}

/// Whether a target in absolute form names the same host and port as `Host` (RFC 9112, section 3.2.2).
fn agrees(target: &Uri, host: &HeaderValue) -> bool {
    let web = target.scheme_str().is_none_or(|scheme| ["http", "https", "ws", "wss"].contains(&scheme));
    let same = |authority: &http::uri::Authority| authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes());
    web && target.authority().is_none_or(same)
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::clock::Now;
    use crate::gateway::{Config, Peer, Rules};
    use crate::secret::Token;
    use crate::token::{Answer, Denial, Public, Purpose};
    use crate::upstream;

    struct Never;

    impl Judge for Never {
        fn judge<'a>(&'a self, _: &'a Token, _: Purpose, _: Now) -> Answer<'a> {
            Answer::Ready(Err(Denial::new(Public::TokenInvalid, "never", "")))
        }
    }

    fn route(name: &str, hosts: &[&str], path: &str, strict_path: bool) -> Arc<Route> {
        Arc::new(Route {
            name: name.into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            path: path.into(),
            strict_path,
            carriers: Vec::new(),
            first_message: None,
            reject: Reject::Http,
            judge: Arc::new(Never),
            origins: Origins::Any,
            upstream: Arc::new(Service::single(upstream::Config {
                url: String::new(),
                host: String::new(),
                port: 0,
                tls: None,
                connect_timeout: std::time::Duration::ZERO,
                response_timeout: std::time::Duration::ZERO,
            })),
            host: Rewrite::Preserve,
            origin: Rewrite::Preserve,
            forwarded: true,
            strip_prefix: false,
            http: Http::default(),
            introduction: Introduction::default(),
            limits: Arc::default(),
            policies: Policies::default(),
            codes: Arc::default(),
            renewal: Renewal::default(),
            ticket_lifetime: Duration::ZERO,
            crowds: Crowds::default(),
            max_streams: None,
        })
    }

    fn chosen(hosts: &[&str], target: &str) -> Result<String, Rejection> {
        let routes = vec![
            route("any", &["*"], "/", true),
            route("any-chat", &["*"], "/chat", true),
            route("any-chat-room", &["*"], "/chat/room", true),
            route("wild-chat", &["*.example.com"], "/chat", true),
            route("exact", &["a.example.com"], "/x", true),
            route("lax", &["*"], "/lax", false),
        ];
        let peer = Peer { address: ([192, 0, 2, 1], 1).into(), tls: None, permit: None };
        let rules = Rules { config: Config::default(), routes };
        let visit = Visit {
            peer: Arc::new(peer),
            rules: Arc::new(rules),
            route: OnceLock::new(),
            page: OnceLock::new(),
            own: OnceLock::new(),
        };
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let arrived = Arrived { visit: Arc::new(visit), request: request.body(Upload::default()).unwrap() };
        choose(arrived).map(|routed| routed.route.name.to_string())
    }

    #[test]
    fn the_best_host_wins_then_the_longest_prefix() {
        let table = [
            ("other.org", "/", "any"),
            ("other.org", "/chatter", "any"),
            ("other.org", "/chat", "any-chat"),
            ("other.org", "/chat/room/1?x=/lax", "any-chat-room"),
            ("other.org", "/ch%61t", "any-chat"),
            ("a.example.com", "/chat/room", "wild-chat"),
            ("A.Example.COM:8443", "/x", "exact"),
            ("a.example.com", "/y", "any"),
            ("b.a.example.com", "/chat", "any-chat"),
        ];
        for (host, target, expected) in table {
            assert_eq!(chosen(&[host], target).as_deref(), Ok(expected), "{host} {target}");
        }
    }

    #[test]
    fn an_ambiguous_path_passes_only_to_a_route_that_does_not_care() {
        for target in ["/chat/../x", "//chat", "/chat;a=1", "/a%2Fb", "/../lax/x", "/%zz"] {
            assert!(matches!(chosen(&["h"], target), Err(Rejection::BadRequest(_))), "{target}");
        }
        for target in ["/lax/../x", "/lax/a//b", "/lax/;a=1", "/lax/%2F", "/lax/%zz"] {
            assert_eq!(chosen(&["h"], target).as_deref(), Ok("lax"), "{target}");
        }
    }

    #[test]
    fn host_must_be_there_once_and_agree_with_the_target() {
        let bad = |hosts: &[&str], target: &str| matches!(chosen(hosts, target), Err(Rejection::BadRequest(_)));
        assert!(bad(&[], "/"));
        assert!(bad(&["h", "h"], "/"));
        assert!(bad(&["h h"], "/"));
        assert!(bad(&["h"], "http://other/"));
        assert!(bad(&["h"], "http://h:81/"));
        assert!(bad(&["h"], "http://user@h/"));
        assert!(bad(&["h"], "ftp://h/"));
        assert!(bad(&["h"], "*"));
        assert_eq!(chosen(&["h"], "http://H/chat").as_deref(), Ok("any-chat"));
        assert_eq!(chosen(&["h:81"], "http://h:81/chat").as_deref(), Ok("any-chat"));
    }
}
