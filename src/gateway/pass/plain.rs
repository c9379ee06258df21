//! A plain request on its way: what is taken out of it, and what the service gets.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, ORIGIN, REFERER, TE,
    TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use hyper::body::Body as _;

use super::page;
use crate::gateway::authenticate::take_handle;
use crate::gateway::body::Streamed;
use crate::gateway::forward::target;
use crate::gateway::headers::{self, Hop};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Access, Route, Routed};
use crate::gateway::{Shared, Visit};
use crate::names::HANDLE_PARAMETER;
use crate::secret::Token;
use crate::token::{Carrier, Grant, carrier};
use crate::upstream;
use crate::ws::handshake::{has_token, items, only};

/// A request without its body.
pub(super) struct Plain {
    pub(super) visit: Arc<Visit>,
    pub(super) route: Arc<Route>,
    /// `Host` as the client sent it.
    pub(super) host: HeaderValue,
    pub(super) method: Method,
    target: Uri,
    /// The query that goes on.
    query: Option<String>,
    pub(super) headers: HeaderMap,
    framing: Framing,
}

/// How the body of a request goes on.
#[derive(Clone, Copy)]
enum Framing {
    None,
    Sized(u64),
    Chunked,
}

impl Plain {
    /// The request and its body, without what is the gateway's own in the query: the handle of a stream; and tickets, which are
    /// for upgrades and spent wherever they are shown.
    pub(super) fn of(shared: &Shared, routed: Routed) -> Result<(Self, Option<Streamed>), Rejection> {
        let Routed { visit, route, host, request } = routed;
        let (head, body) = request.into_parts();
        if head.method == Method::TRACE {
            return Err(Rejection::NoTrace);
        }
        // hyper takes any coding before the last one, and leaves it in the body.
        let mut codings = items(&head.headers, &TRANSFER_ENCODING);
        if codings.next().is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) || codings.next().is_some() {
            return Err(Rejection::BadRequest("Transfer-Encoding is something else than chunked"));
        }
        drop(codings);
        let body = body.into_streamed();
        let length = body.as_ref().map(|body| body.size_hint().exact());
        let framing = match length {
            None if head.headers.contains_key(CONTENT_LENGTH) => Framing::Sized(0),
            None => Framing::None,
            Some(None) => Framing::Chunked,
            Some(Some(length)) => Framing::Sized(length),
        };
        let mut query = head.uri.query().map(str::to_owned);
        if let Some(name) = route.ticket_name() {
            let presented = (query.as_deref(), &head.headers);
            shared.tickets.spend_all(&route, presented, shared.clock.now().mono);
            query = carrier::take_parameter(query.as_deref(), name)?.0;
        }
        let (query, _) = take_handle(&route, query)?;
        let (method, target, mut headers) = (head.method, head.uri, head.headers);
        clean_referer(&mut headers, &visit.rules.routes);
        Ok((Self { visit, route, host, method, target, query, headers, framing }, body))
    }

    /// Whether the client's end of the connection is TLS.
    pub(super) fn secure(&self) -> bool {
        self.visit.peer.tls.is_some()
    }

    /// Whether it is the question of a page that may send requests here, which has no token with it (Fetch standard, section
    /// 3.3.2), and no body.
    pub(super) fn is_preflight(&self) -> bool {
        self.method == Method::OPTIONS
            && matches!(self.framing, Framing::None | Framing::Sized(0))
            && self.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && self.headers.contains_key(ORIGIN)
            && page::may(&self.route, &self.host, self.secure(), &self.headers)
    }

    /// The request for which no token is looked for. Parameters and cookies that carry tokens on this route do not go on;
    /// `Authorization` is the service's own affair, but not in a preflight, which has no credentials.
    pub(super) fn without_credentials(mut self, access: Access) -> Result<Self, Rejection> {
        if access == Access::Require {
            self.headers.remove(AUTHORIZATION);
            self.headers.remove(COOKIE);
            // Some services let a header say another method.
            headers::remove_where(&mut self.headers, |name| {
                name.contains("method") && *name != ACCESS_CONTROL_REQUEST_METHOD
            });
        }
        let route = self.route.clone();
        // One by one: two different ones are no contradiction where none counts.
        for carrier in route.carriers.iter().filter(|one| matches!(one, Carrier::Query(_) | Carrier::Cookie(_))) {
            self = self.take(std::slice::from_ref(carrier))?.0;
        }
        Ok(self)
    }

    /// The request and its one token, out of those carriers of the route that a plain request can have.
    pub(super) fn take_token(self) -> Result<(Self, Option<Token>), Rejection> {
        let fits = |carrier: &&Carrier| matches!(carrier, Carrier::Query(_) | Carrier::Header | Carrier::Cookie(_));
        let carriers: Vec<Carrier> = self.route.carriers.iter().filter(fits).cloned().collect();
        self.take(&carriers)
    }

    fn take(self, carriers: &[Carrier]) -> Result<(Self, Option<Token>), Rejection> {
        let (token, left) = carrier::take_any(carriers, self.query.as_deref(), &self.headers)?;
        Ok((Self { query: left.query, headers: left.headers, ..self }, token))
    }

    /// The request as the service gets it; `who`: whom it is told of, and the token that goes on.
    pub(super) fn outgoing(
        &self,
        who: Option<(&Grant, Option<&Token>)>,
        to: &upstream::Config,
    ) -> Result<Request<()>, Rejection> {
        let (visit, route) = (&self.visit, &self.route);
        let mut headers = self.headers.clone();
        headers::clean_request(&mut headers, visit.trusted(), &route.introduction);
        if route.forwarded {
            let hop = Hop {
                peer: visit.peer.address.ip(),
                trusted: visit.trusted(),
                secure: self.secure(),
                host: &self.host,
                stripped: (route.strip_prefix && route.path != "/").then(|| route.path.trim_end_matches('/')),
            };
            headers::set_forwarded(&mut headers, &hop);
        }
        headers::rewrite(&mut headers, &route.host, &route.origin, &self.host, to);
        if let Some((grant, token)) = who {
            route.introduction.set(&mut headers, grant, token)?;
        }
        self.frame(&mut headers);
        let prefix = if route.strip_prefix { route.path.as_str() } else { "/" };
        let mut request = Request::new(());
        request.method_mut().clone_from(&self.method);
        *request.uri_mut() = target(self.target.path(), prefix, self.query.as_deref())
            .ok_or(Rejection::BadRequest("what is left of the target is none"))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Says how the body comes, by what was read of it and not by what the client wrote.
    fn frame(&self, headers: &mut HeaderMap) {
        match self.framing {
            Framing::None => {}
            Framing::Sized(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
            Framing::Chunked => {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                announce(headers, &self.headers, |trailers| clean_rising(trailers, &self.route));
            }
        }
        // Hop by hop, so it is said anew: our side takes trailers if the client does.
        if has_token(&self.headers, &TE, "trailers") {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
    }
}

/// Takes out of the address of the page that sends a request what such an address may have on any of the routes: tokens,
/// tickets and handles. A page that was opened with a token in its query has it in the `Referer` of all it asks for.
fn clean_referer(headers: &mut HeaderMap, routes: &[Arc<Route>]) {
    if !headers.get_all(REFERER).iter().any(|referer| referer.as_bytes().contains(&b'?')) {
        return;
    }
    let names = routes.iter().flat_map(|route| &route.carriers).filter_map(|carrier| match carrier {
        Carrier::Query(name) | Carrier::Ticket(name) => Some(name.as_str()),
        _ => None,
    });
    let cleaned = only(headers, &REFERER).and_then(|referer| {
        let (page, query) = referer.to_str().ok()?.split_once('?')?;
        let mut names = names.chain([HANDLE_PARAMETER]);
        let left = names.try_fold(query.to_owned(), |query, name| carrier::without_parameter(Some(&query), name));
        HeaderValue::try_from(left.map_or_else(|| page.to_owned(), |query| format!("{page}?{query}"))).ok()
    });
    // One that cannot be read, or stands beside another one, may hold anything.
    match cleaned {
        Some(cleaned) => drop(headers.insert(REFERER, cleaned)),
        None => drop(headers.remove(REFERER)),
    }
}

/// Announces the trailers that `from` does, but for those that `clean` takes out.
pub(super) fn announce(headers: &mut HeaderMap, from: &HeaderMap, clean: impl Fn(&mut HeaderMap)) {
    let names = items(from, &TRAILER).filter_map(|name| HeaderName::from_bytes(name).ok());
    let mut announced: HeaderMap = names.map(|name| (name, HeaderValue::from_static(""))).collect();
    clean(&mut announced);
    let list = announced.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    if let Ok(list) = HeaderValue::from_str(&list)
        && !announced.is_empty()
    {
        headers.insert(TRAILER, list);
    }
}

/// Removes from a request's trailers what no header of it may say, and what [`clean_trailers`] does.
pub(super) fn clean_rising(trailers: &mut HeaderMap, route: &Route) {
    headers::clean_request(trailers, false, &route.introduction);
    clean_trailers(trailers);
}

/// Likewise from an answer's.
pub(super) fn clean_falling(trailers: &mut HeaderMap) {
    headers::clean_answer(trailers);
    clean_trailers(trailers);
}

/// Removes from trailers what would mean something else at the end than it does at the start (RFC 9110, section 6.5.1): a
/// service may take trailers for headers.
fn clean_trailers(trailers: &mut HeaderMap) {
    for name in FORBIDDEN {
        trailers.remove(name);
    }
}

/// Headers that say where a message goes, how it is read, or who sends it.
const FORBIDDEN: [HeaderName; 14] = [
    AUTHORIZATION,
    http::header::CACHE_CONTROL,
    http::header::CONTENT_ENCODING,
    CONTENT_LENGTH,
    http::header::CONTENT_RANGE,
    http::header::CONTENT_TYPE,
    COOKIE,
    http::header::EXPECT,
    HOST,
    http::header::MAX_FORWARDS,
    ORIGIN,
    http::header::RANGE,
    http::header::SET_COOKIE,
    TRANSFER_ENCODING,
];
