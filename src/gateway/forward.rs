//! The last stage: a place in the registry, the service, the `101`, and the stream's own task.
//!
//! Only an [`Admitted`] gets here. Until the `101` is returned everything is held by this stage's future, so that a
//! client that goes away, a service that refuses and a token that dies meanwhile all free everything at once.
//!
//! A service that refuses the upgrade itself (3xx, 4xx, 5xx) is passed through, as HTTP proxies do: its status, its
//! end-to-end headers and its body if that has at most 64 KiB (a larger one is left out). A success that is no `101` is
//! no answer to an upgrade: 502.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use tokio::sync::OwnedSemaphorePermit;
use tower::Service;

use crate::admission::Admitted;
use crate::clock::{Clock, Mono, Now};
use crate::gateway::authenticate::Tokenless;
use crate::gateway::client::Client;
use crate::gateway::headers::{self, Hop};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::Route;
use crate::gateway::upgrade::Upgrade;
use crate::gateway::{Body, Shared, path, renew};
use crate::names::{self, field};
use crate::registry::{Caps, CrowdCaps, Entry, Guard, Standing};
use crate::relay::{self, Early, Relay};
use crate::revocation::Cause;
use crate::secret::{Opaque, OpaqueHash};
use crate::stream::{CloseReason, Deadline, Signal};
use crate::token::marks::Kind;
use crate::token::{Denial, Grant, Public};
use crate::upstream::dial::Connected;
use crate::upstream::{self, Affinity, Answer, Lease, Switched, Use};
use crate::wire::Socket;
use crate::ws::{Extensions, handshake};

/// See the module.
#[derive(Clone)]
pub struct Forward(pub Arc<Shared>);

impl Service<Admitted<Tokenless>> for Forward {
    type Response = Response<Body>;
    type Error = Rejection;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Rejection>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, admitted: Admitted<Tokenless>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { forward(&shared, admitted).await })
    }
}

async fn forward(shared: &Arc<Shared>, admitted: Admitted<Tokenless>) -> Result<Response<Body>, Rejection> {
    let known = admitted.request().handle;
    let made = (admitted.request().upgrade.route.renewal.out_of_band && known.is_none()).then(Opaque::random);
    let (guard, deadline) = reserve(shared, &admitted, known.or_else(|| made.as_ref().map(Opaque::hash)))?;
    let (switched, lease) = match reach(shared, &admitted).await? {
        (Answer::Other(answer), _) => return Ok(passed_on(answer)),
        (Answer::Switched(switched), lease) => (switched, lease),
    };
    may_begin(shared, &guard, deadline)?;
    guard.begin();
    let (Tokenless { upgrade, fallback, .. }, _) = admitted.into_parts();
    let Switched { head, subprotocol, socket, early } = *switched;
    let settings = settings(shared, &upgrade.route, &head.headers, deadline);
    let subprotocol = subprotocol.or_else(|| fallback.and_then(|entry| HeaderValue::try_from(entry).ok()));
    let now = shared.clock.now();
    let mut response = switching(head.headers, &upgrade.key, subprotocol, deadline, now);
    if let Some(made) = made {
        tell_handle(&mut response, &made);
    }
    let (clock, permit) = (shared.clock.clone(), upgrade.visit.peer.permit.clone());
    let beginning = Beginning { client: upgrade.client, socket, early, settings, guard, lease };
    begin(shared, opening(beginning, clock, now.mono), permit);
    Ok(response)
}

/// Tells a client the handle of its stream, in the `101`.
pub(super) fn tell_handle(response: &mut Response<Body>, handle: &Opaque) {
    if let Ok(handle) = HeaderValue::from_str(handle.expose()) {
        response.headers_mut().insert(HeaderName::from_static(names::STREAM_HANDLE), handle);
    }
}

/// A place for the stream, under this handle, and its deadline.
pub(super) fn reserve(
    shared: &Shared,
    admitted: &Admitted<Tokenless>,
    handle: Option<OpaqueHash>,
) -> Result<(Guard, Deadline), Rejection> {
    let Upgrade { visit, route, headers, .. } = &admitted.request().upgrade;
    let deadline = Deadline::new(admitted.grant().expiry, route.limits.max_stream, admitted.at());
    let entry = Entry {
        route: route.name.clone(),
        peer: visit.peer.address,
        principal: admitted.grant().principal,
        handle,
        since: admitted.at().wall,
        standing: Standing::new(admitted.grant(), 0),
    };
    let crowds = CrowdCaps {
        per_principal: route.crowds.per_principal,
        per_address: route.crowds.per_address.map(|most| (visit.client(headers), most)),
        when_full: route.crowds.when_full,
    };
    let caps = Caps { total: visit.rules.config.max_streams, route: route.max_streams, crowds };
    let guard = shared.registry.reserve(entry, caps)?;
    // Asked with the place taken: a ban that is not seen here looks for streams after this, and finds this one.
    let now = shared.clock.now();
    not_revoked(&guard, now)?;
    shared.metrics.admitted(admitted.grant().expiry.map(|expiry| expiry.saturating_since(now.wall)));
    Ok((guard, deadline))
}

/// Dials the service: its `101`, or its own refusal, and the place on the endpoint that gave it.
pub(super) async fn reach(shared: &Shared, admitted: &Admitted<Tokenless>) -> Result<(Answer, Lease), Rejection> {
    let began = shared.clock.now().mono;
    let (connected, request, timeout, lease) = dial(shared, admitted).await?;
    let answer = connected.upgrade(request, timeout).await?;
    shared.metrics.connected(shared.clock.now().mono.saturating_since(began));
    match answer {
        Answer::Other(answer) if answer.status().is_success() => {
            Err(Rejection::UpstreamInvalid(format!("the service answered {}, not 101", answer.status())))
        }
        answer => Ok((answer, lease)),
    }
}

/// A connection to the first endpoint that can be reached, with the request for it and the time for its answer. Nothing
/// of the request was sent to the others.
async fn dial(
    shared: &Shared,
    admitted: &Admitted<Tokenless>,
) -> Result<(Connected, Request<()>, Duration, Lease), Rejection> {
    let Upgrade { visit, route, headers, .. } = &admitted.request().upgrade;
    let affinity = Affinity { claims: Some(&admitted.grant().claims), address: visit.client(headers) };
    let mut failed = Rejection::UpstreamFull;
    for endpoint in route.upstream.candidates(affinity, Use::Stream, shared.clock.now().mono) {
        let Some(lease) = endpoint.enter(Use::Stream, shared.clock.now().mono) else { continue };
        let request = outgoing(admitted, endpoint.config())?;
        match endpoint.dial(&shared.clock).await {
            Ok(connected) => return Ok((connected, request, endpoint.config().response_timeout, lease)),
            Err(error) => failed = error.into(),
        }
    }
    Err(failed)
}

/// Whether a stream whose service has answered `101` may still begin.
pub(super) fn may_begin(shared: &Shared, guard: &Guard, deadline: Deadline) -> Result<(), Rejection> {
    still_good(guard, deadline, shared.clock.now())?;
    if shared.draining() || guard.is_told(Signal::End) { Err(Rejection::Draining) } else { Ok(()) }
}

/// What the stream is held to, given the service's `101`.
pub(super) fn settings(shared: &Arc<Shared>, route: &Route, answer: &HeaderMap, deadline: Deadline) -> relay::Settings {
    relay::Settings {
        limits: route.limits.clone(),
        codes: route.codes.clone(),
        extensions: Extensions::agreed(answer.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().map(HeaderValue::as_bytes)),
        deadline,
        in_band: renew::in_band(shared, route),
        policies: route.policies,
    }
}

/// The request as this endpoint of the service gets it.
fn outgoing(admitted: &Admitted<Tokenless>, to: &upstream::Config) -> Result<Request<()>, Rejection> {
    let Tokenless { upgrade, query, subprotocols, .. } = admitted.request();
    let (visit, route) = (&upgrade.visit, &upgrade.route);
    let trusted = visit.trusted();
    let mut headers = upgrade.headers.clone();
    headers::clean_request(&mut headers, trusted, &route.introduction);
    if route.forwarded {
        let hop = Hop {
            peer: visit.peer.address.ip(),
            trusted,
            secure: visit.peer.tls.is_some(),
            host: &upgrade.host,
            stripped: (route.strip_prefix && route.path != "/").then(|| route.path.trim_end_matches('/')),
        };
        headers::set_forwarded(&mut headers, &hop);
    }
    headers::rewrite(&mut headers, &route.host, &route.origin, &upgrade.host, to);
    headers::offer(&mut headers, subprotocols);
    if route.renewal.in_band.is_some() {
        // Taking a message out of a compressed stream breaks the other side's window (RFC 7692, section 7.2.3.2).
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    }
    route.introduction.set(&mut headers, admitted.grant(), admitted.token())?;
    handshake::make_request(&mut headers, &upgrade.key);
    let prefix = if route.strip_prefix { route.path.as_str() } else { "/" };
    let mut request = Request::new(());
    *request.uri_mut() = target(upgrade.target.path(), prefix, query.as_deref())
        .ok_or(Rejection::BadRequest("what is left of the target is none"))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// `path` without `prefix`, with `query`: in origin form, every byte as it came.
pub(super) fn target(path: &str, prefix: &str, query: Option<&str>) -> Option<Uri> {
    let rest = path::after_prefix(path, prefix)?;
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let (mark, query) = query.map_or(("", ""), |query| ("?", query));
    format!("{slash}{rest}{mark}{query}").parse().ok()
}

/// A token may have died, or been revoked, while the service was dialled.
pub(super) fn still_good(guard: &Guard, deadline: Deadline, now: Now) -> Result<(), Rejection> {
    match deadline.passed(now) {
        None => not_revoked(guard, now),
        Some(CloseReason::Expired) => {
            let detail = "the token expired while the service was reached";
            Err(Denial::new(Public::TokenExpired, "expired_while_dialling", detail).into())
        }
        Some(_) => Err(Rejection::UpstreamTimeout("reaching the service took all of max_stream".into())),
    }
}

/// A token may have been revoked since it was verified.
fn not_revoked(guard: &Guard, now: Now) -> Result<(), Rejection> {
    match guard.revoked(now) {
        None => Ok(()),
        Some(cause) => Err(revoked(cause).into()),
    }
}

impl Shared {
    /// The grant, if its token is not revoked.
    pub(super) fn unrevoked(&self, grant: Grant) -> Result<Grant, Denial> {
        match self.registry.revoked(&grant.marks, self.clock.now()) {
            None => Ok(grant),
            Some(cause) => Err(revoked(cause)),
        }
    }
}

/// Why a token that is revoked is refused.
pub(super) fn revoked(cause: Cause) -> Denial {
    let detail = match cause {
        Cause::Claim(Kind::Jti) => "the token's jti is revoked",
        Cause::Claim(Kind::Sid) => "the token's sid is revoked",
        Cause::Claim(Kind::Sub) => "the token's sub is revoked",
        Cause::Key => {
            let detail = "the key that has signed the token was taken back by its issuer";
            return Denial::new(Public::TokenInvalid, "key_removed", detail);
        }
    };
    Denial::new(Public::TokenRevoked, "revoked", detail)
}

/// The `101`: what the service answered, but for what belongs to the service's own connection.
fn switching(
    mut headers: HeaderMap,
    key: &handshake::Key,
    subprotocol: Option<HeaderValue>,
    deadline: Deadline,
    now: Now,
) -> Response<Body> {
    headers::clean_answer(&mut headers);
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(subprotocol) = subprotocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    if let Some(end) = deadline.next(now) {
        let seconds = end.saturating_since(now.mono).as_secs();
        headers.insert(HeaderName::from_static(names::EXPIRES_IN), HeaderValue::from(seconds));
    }
    handshake::make_answer(&mut headers, key);
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

/// The service's own refusal of the upgrade.
fn passed_on(answer: Response<Bytes>) -> Response<Body> {
    let mut answer = answer.map(Body::from);
    headers::clean_answer(answer.headers_mut());
    answer.extensions_mut().clear();
    *answer.version_mut() = http::Version::HTTP_11;
    answer
}

/// A stream whose `101` is under way to the client.
struct Beginning {
    client: Client,
    socket: Socket,
    early: Bytes,
    settings: relay::Settings,
    guard: Guard,
    lease: Lease,
}

/// A stream that begins.
pub(super) struct Opened {
    /// Its relay.
    pub(super) relay: Pin<Box<Relay<Socket, Socket>>>,
    /// When it began.
    pub(super) began: Mono,
    /// Its place on the endpoint.
    pub(super) lease: Lease,
}

/// Gives the stream its task, which begins with `opening`. The task is one pointer, and what it points to holds boxes
/// only: what is needed until the stream is open is freed before the relay runs, and the relay's state is there once.
pub(super) fn begin(
    shared: &Arc<Shared>,
    opening: impl Future<Output = Option<Opened>> + Send + 'static,
    permit: Option<Arc<OwnedSemaphorePermit>>,
) {
    let (clock, metrics) = (shared.clock.clone(), shared.metrics.clone());
    let opening = Box::pin(opening);
    shared.tracker.spawn(Box::pin(async move {
        let Some(Opened { mut relay, began, lease }) = opening.await else { return };
        relay.guard().line().open();
        let outcome = relay.as_mut().await;
        relay.guard().line().end(&outcome, clock.now().mono.saturating_since(began));
        metrics.closed(relay.guard().route(), &outcome);
        drop((permit, lease));
    }));
}

/// Waits until the `101` is sent, and makes the relay.
async fn opening(beginning: Beginning, clock: Clock, began: Mono) -> Option<Opened> {
    let Beginning { client, socket, early, settings, guard, lease } = beginning;
    match client.take_back().await {
        Ok((downstream, from_client)) => {
            let early = Early { from_client, from_upstream: early, judged: false };
            let relay = Box::pin(relay::run(downstream, socket, &early, settings, guard, clock));
            Some(Opened { relay, began, lease })
        }
        Err(detail) => {
            let line = guard.line();
            tracing::info!(
                { field::ROUTE } = line.route,
                { field::PEER } = %line.peer,
                { field::CAUSE } = "client_lost",
                { field::DETAIL } = detail,
                "stream not opened"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_keeps_its_bytes_but_for_the_prefix() {
        let table = [
            ("/chat/r%6Fom", "/", Some("a=%20&b"), "/chat/r%6Fom?a=%20&b"),
            ("/chat/r%6Fom", "/chat", None, "/r%6Fom"),
            ("/ch%61t", "/chat", Some("x"), "/?x"),
            ("/chat/", "/chat", None, "/"),
            ("/chat/room", "/chat/", None, "/room"),
            ("/", "/", Some(""), "/?"),
        ];
        for (path, prefix, query, expected) in table {
            assert_eq!(target(path, prefix, query).unwrap().to_string(), expected, "{path} {prefix} {query:?}");
        }
    }
}
