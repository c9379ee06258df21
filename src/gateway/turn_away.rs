//! The stage that tells a refusal by a Close, on routes with `reject = "close"`: a script in a browser sees no status.
//!
//! The client gets its `101`, without any extension, then the Close with code and public reason; nothing is dialled. The
//! connection is let go of only after the client's own Close: Firefox loses the code if the end of TCP comes along with
//! it. Meanwhile the client has a place among those that wait. A request that is no proper handshake, and a refusal that
//! has no Close, stay with HTTP. So does a refusal by the service itself, which is passed on as it is.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, Response, StatusCode};
use tower::Service;

use crate::gateway::client;
use crate::gateway::door::{Door, Leave};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Reject, Route, Routed};
use crate::gateway::{Body, Shared, Visit};
use crate::token::carrier;
use crate::ws::handshake::{self, Key};

/// See the module.
#[derive(Clone)]
pub struct TurnAway<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> TurnAway<S> {
    /// The layer.
    pub fn with(shared: Arc<Shared>) -> impl Fn(S) -> Self + Clone {
        move |inner| Self { shared: shared.clone(), inner }
    }
}

impl<S> Service<Routed> for TurnAway<S>
where
    S: Service<Routed, Response = Response<Body>, Error = Rejection>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Rejection;
    type Future = Either<S::Future, Pin<Box<dyn Future<Output = Result<Self::Response, Rejection>> + Send>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, routed: Routed) -> Self::Future {
        let client = Client::of(&routed);
        let reply = self.inner.call(routed);
        let Some(client) = client else { return Either::Left(reply) };
        let shared = self.shared.clone();
        Either::Right(Box::pin(async move {
            match reply.await {
                Err(rejection) => client.turn_away(&shared, rejection),
                reply => reply,
            }
        }))
    }
}

/// What it takes to answer a client whose request the inner stages have used up.
struct Client {
    visit: Arc<Visit>,
    route: Arc<Route>,
    address: IpAddr,
    connection: client::Client,
    key: Key,
    subprotocol: Option<String>,
}

impl Client {
    /// `None` if the request is always answered by HTTP.
    fn of(routed: &Routed) -> Option<Self> {
        let Routed { visit, route, request, .. } = routed;
        if route.reject == Reject::Http {
            return None;
        }
        let headers = request.headers();
        let key = handshake::check_request(request.method(), request.version(), headers).ok()?;
        let subprotocol = carrier::answerable(&route.carriers, headers, None).ok()?;
        let connection = client::Client::of(request)?;
        let address = visit.client(headers);
        Some(Self { visit: visit.clone(), route: route.clone(), address, connection, key, subprotocol })
    }

    fn turn_away(self, shared: &Arc<Shared>, rejection: Rejection) -> Result<Response<Body>, Rejection> {
        let Self { visit, route, address, connection, key, subprotocol } = self;
        let Some(close) = rejection.close(&route.codes) else { return Err(rejection) };
        let mut response = switching(&key, subprotocol.as_deref());
        response.extensions_mut().insert(rejection);
        response.extensions_mut().insert(close.clone());
        let mut place = shared.wait(&visit, &route, address);
        shared.tracker.spawn(Box::pin(async move {
            // Whoever goes away before has no use for a Close.
            let Ok((wire, early)) = connection.take_back().await else { return };
            let (door, frame) = (Door::new(wire, early, 0), close.frame(None));
            place.unless_crowded(door.leave(&frame, Leave::First, route.limits.close_timeout)).await;
            drop(visit);
        }));
        Ok(response)
    }
}

/// The `101` of a client behind whom nothing stands yet.
pub(super) fn switching(key: &Key, subprotocol: Option<&str>) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    if let Some(subprotocol) = subprotocol.and_then(|entry| HeaderValue::from_str(entry).ok()) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    handshake::make_answer(response.headers_mut(), key);
    response
}
