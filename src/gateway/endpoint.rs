//! The stage for what the gateway itself answers on a route's own paths, for pages and for programs: renewals and
//! tickets.
//!
//! Owns the rules that these requests have in common: the method, the page that asks (CORS, Fetch standard, section 3.3)
//! and where the token stands. Nothing of such a request is ever forwarded.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tower::Service;

use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Origins, Route, Routed};
use crate::gateway::{Body, Shared, origin, renew, ticket};
use crate::names;
use crate::secret::Token;
use crate::token::Carrier;
use crate::token::carrier;

/// See the module.
#[derive(Clone)]
pub struct Endpoints<S> {
    shared: Arc<Shared>,
    inner: S,
}

/// Marks an answer that is no refusal, and that is told by whoever answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered;

impl<S> Endpoints<S> {
    /// The layer.
    pub fn with(shared: Arc<Shared>) -> impl Fn(S) -> Self + Clone {
        move |inner| Self { shared: shared.clone(), inner }
    }
}

impl<S> Service<Routed> for Endpoints<S>
where
    S: Service<Routed, Response = Response<Body>, Error = Rejection>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Rejection;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Rejection>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, routed: Routed) -> Self::Future {
        let Some(endpoint) = Endpoint::of(&routed) else {
            return Box::pin(self.inner.call(routed));
        };
        // Set once per request, as the page is.
        let _ = routed.visit.own.set(());
        let shared = self.shared.clone();
        Box::pin(async move {
            match enter(&routed)? {
                Entered::Preflight(response) => Ok(response),
                Entered::Post => match endpoint {
                    Endpoint::Renew => renew::answer(&shared, &routed).await,
                    Endpoint::Ticket => ticket::answer(&shared, &routed).await,
                },
            }
        })
    }
}

#[derive(Clone, Copy)]
enum Endpoint {
    Renew,
    Ticket,
}

impl Endpoint {
    /// What the request is for, if the route has it.
    fn of(routed: &Routed) -> Option<Self> {
        let path = routed.request.uri().path();
        if path.ends_with(names::RENEW_PATH) && routed.route.renewal.out_of_band {
            return Some(Self::Renew);
        }
        (path.ends_with(names::TICKET_PATH) && routed.route.ticket_name().is_some()).then_some(Self::Ticket)
    }
}

enum Entered {
    Preflight(Response<Body>),
    Post,
}

/// Lets a request in if its method is answered and the page that sends it, if one does, may.
fn enter(routed: &Routed) -> Result<Entered, Rejection> {
    let Routed { visit, route, request, .. } = routed;
    let preflight = *request.method() == Method::OPTIONS;
    // A preflight has no cookie with it and changes nothing, so it needs a page only to be of use to one.
    origin::check_page(route, request.headers())?;
    if let Some(page) = Page::of(route, request.headers()) {
        // Set once per request; a second request has a visit of its own.
        let _ = visit.page.set(page);
    }
    match *request.method() {
        Method::POST => Ok(Entered::Post),
        _ if preflight => Ok(Entered::Preflight(preflighted())),
        _ => Err(Rejection::MethodNotAllowed),
    }
}

/// The answer to a page's preflight, but for the page's own name.
fn preflighted() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, portcullis-stream"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response.extensions_mut().insert(Answered);
    response
}

/// An answer with this JSON, which nobody stores.
pub(super) fn answered(body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Answered);
    response
}

/// The one token of the request: in `Authorization`, or in one of the route's carriers that is neither the query, which
/// others write to their logs, nor a message.
pub(super) fn token(routed: &Routed) -> Result<Token, Rejection> {
    let fits = |carrier: &&Carrier| !matches!(carrier, Carrier::Query(_) | Carrier::Header);
    let mut carriers: Vec<Carrier> = routed.route.carriers.iter().filter(fits).cloned().collect();
    carriers.push(Carrier::Header);
    Ok(carrier::take(&carriers, None, routed.request.headers())?.token)
}

/// A page that may read the answer.
#[derive(Clone, Debug)]
pub struct Page {
    origin: HeaderValue,
    /// Whether the page is one of a list, which may send its user's cookies along.
    listed: bool,
}

impl Page {
    /// The page that has sent a request, which [`origin::check_page`] has let through.
    pub(super) fn of(route: &Route, headers: &HeaderMap) -> Option<Self> {
        let origin = headers.get(ORIGIN)?;
        Some(match route.origins {
            Origins::Any => Self { origin: HeaderValue::from_static("*"), listed: false },
            Origins::Only(_) => Self { origin: origin.clone(), listed: true },
        })
    }

    /// Lets the page read an answer, refusals above all.
    pub fn may_read(&self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if self.listed {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}
