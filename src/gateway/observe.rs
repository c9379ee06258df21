//! The outermost stage: one line in the log for each request that is refused: a warning if the service behind is at fault.
//!
//! Never writes a query, a header value or a token: the line names route, peer, status, cause and detail. Requests that
//! become streams write their own lines.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use tower::Service;

use crate::gateway::endpoint::Answered;
use crate::gateway::rejection::{Fault, Rejection};
use crate::gateway::{Arrived, Body, Visit};
use crate::names::field;
use crate::telemetry::Metrics;
use crate::ws::CloseText;

/// See the module.
#[derive(Clone)]
pub struct Observe<S> {
    metrics: Metrics,
    inner: S,
}

impl<S> Observe<S> {
    /// The layer.
    pub fn with(metrics: Metrics) -> impl Fn(S) -> Self + Clone {
        move |inner| Self { metrics: metrics.clone(), inner }
    }
}

impl<S> Service<Arrived> for Observe<S>
where
    S: Service<Arrived, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, arrived: Arrived) -> Self::Future {
        let visit = arrived.visit.clone();
        let (reply, metrics) = (self.inner.call(arrived), self.metrics.clone());
        Box::pin(async move {
            let mut response = reply.await?;
            let status = response.status();
            let code = response.extensions_mut().remove::<CloseText>().map(|close| close.code());
            match response.extensions_mut().remove::<Rejection>() {
                Some(rejection) => {
                    if visit.own.get().is_none() {
                        metrics.upgrade(visit.route.get(), Some(rejection.told().reason));
                    }
                    let why = (rejection.cause(), &*rejection.detail());
                    refused(&visit, status, code, rejection.fault(), why);
                }
                // What the gateway itself answers is no refusal, and told by whoever answered.
                None if response.extensions_mut().remove::<Answered>().is_some() => {}
                None if status != StatusCode::SWITCHING_PROTOCOLS => {
                    metrics.upgrade(visit.route.get(), Some("upstream_answer"));
                    let why = ("upstream_answer", "the service refused the upgrade");
                    refused(&visit, status, None, Fault::Request, why);
                }
                None => metrics.upgrade(visit.route.get(), None),
            }
            Ok(response)
        })
    }
}

/// Writes the line: what the client is told, and why, as cause and detail. `code`: of the Close, if it is told by one.
pub(super) fn refused(
    visit: &Visit,
    status: StatusCode,
    code: Option<u16>,
    fault: Fault,
    (cause, detail): (&str, &str),
) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                { field::ROUTE } = visit.route_name(),
                { field::PEER } = %visit.peer.address,
                { field::STATUS } = status.as_u16(),
                { field::CODE } = code,
                { field::CAUSE } = cause,
                { field::DETAIL } = detail,
                "refused"
            )
        };
    }
    match fault {
        Fault::Service => line!(warn),
        Fault::Request => line!(info),
    }
}
