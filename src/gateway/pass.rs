//! The stage that passes plain HTTP on to the service, on routes that have it: `http = "require"` or `"pass"`.
//!
//! Owns the order of what is asked of such a request. A WebSocket handshake, good or bad, is the inner stages' part, and so is
//! `CONNECT`. With `require` a request is judged as a handshake is, and its answer is held to its token for as long as it
//! lasts (`hold`). With `pass` no token is looked for, and nothing that a service takes for the gateway's word is said.
//! docs/http.md tells what goes on and what does not.

mod answer;
mod hold;
mod page;
mod plain;
mod upload;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Method, Request, Response};
use tower::Service;

use crate::admission::{Admitted, admit};
use crate::gateway::body::{Streamed, Upload};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Access, Route, Routed};
use crate::gateway::{Body, Shared};
use crate::secret::Token;
use crate::token::{Grant, Purpose, carrier};
use crate::upstream::exchange::{self, Answer, Line};
use crate::upstream::pool::Pool;
use crate::upstream::{Affinity, Lease, Use};
use crate::ws::handshake::{self, RequestError};
use answer::answered;
use hold::Hold;
use plain::Plain;
use upload::{Progress, Rising};

/// See the module.
#[derive(Clone)]
pub struct Pass<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> Pass<S> {
    /// The layer.
    pub fn with(shared: Arc<Shared>) -> impl Fn(S) -> Self + Clone {
        move |inner| Self { shared: shared.clone(), inner }
    }
}

impl<S> Service<Routed> for Pass<S>
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
        if routed.route.http.access == Access::Refuse || !is_plain(&routed.request) {
            return Either::Left(self.inner.call(routed));
        }
        let shared = self.shared.clone();
        Either::Right(Box::pin(async move {
            let (visit, page) = (routed.visit.clone(), page::reader(&routed));
            // Of the service's own answers the service says who may read them.
            passed(&shared, routed).await.inspect_err(|_| {
                if let Some(page) = page {
                    let _ = visit.page.set(page);
                }
            })
        }))
    }
}

/// Whether it is a request that asks for nothing but an answer.
fn is_plain(request: &Request<Upload>) -> bool {
    let handshake = handshake::check_request(request.method(), request.version(), request.headers());
    *request.method() != Method::CONNECT && handshake.err() == Some(RequestError::NotAnUpgrade)
}

async fn passed(shared: &Arc<Shared>, routed: Routed) -> Result<Response<Body>, Rejection> {
    if shared.draining() {
        return Err(Rejection::Draining);
    }
    let access = routed.route.http.access;
    let (plain, body) = Plain::of(shared, routed)?;
    if access == Access::Pass || plain.is_preflight() {
        let plain = plain.without_credentials(access)?;
        return open(shared, plain, body).await;
    }
    page::check(&plain)?;
    let (plain, token) = plain.take_token()?;
    let token = (token.ok_or_else(carrier::missing)?, plain.route.afterwards());
    let judge = plain.route.judge.clone();
    let admitted = admit(plain, token, Purpose::Request, &*judge, &shared.clock).await?;
    held(shared, admitted, body).await
}

/// Passes on a request of whoever it may be.
async fn open(shared: &Arc<Shared>, plain: Plain, body: Option<Streamed>) -> Result<Response<Body>, Rejection> {
    let turn = shared.passing.enter(&plain)?;
    let progress = Progress::of(body.as_ref(), &shared.clock);
    let asked = ask(shared, &plain, None, body, &progress);
    let reached = in_time(shared, &plain.route, &progress, asked).await?;
    shared.metrics.http(&plain.route.name, PASSED);
    answered(shared, &plain, reached, (progress, turn), None)
}

/// Passes on a request whose token is good, for as long as it is.
async fn held(
    shared: &Arc<Shared>,
    admitted: Admitted<Plain>,
    body: Option<Streamed>,
) -> Result<Response<Body>, Rejection> {
    let plain = admitted.request();
    // Only now: who shows no good token takes nobody's turn.
    let turn = shared.passing.enter(plain)?;
    let mut hold = Hold::new(shared, &admitted)?;
    let progress = Progress::of(body.as_ref(), &shared.clock);
    let asked = ask(shared, plain, Some((admitted.grant(), admitted.token())), body, &progress);
    let reached = tokio::select! {
        biased;
        reason = hold.over() => return Err(hold.refused(reason)),
        reached = in_time(shared, &plain.route, &progress, asked) => reached?,
    };
    hold.still_good()?;
    shared.metrics.http(&plain.route.name, PASSED);
    answered(shared, plain, reached, (progress, turn), Some(hold))
}

/// Asks the first endpoint that can be reached. Nothing of the request was sent to the others.
async fn ask(
    shared: &Shared,
    plain: &Plain,
    who: Option<(&Grant, Option<&Token>)>,
    body: Option<Streamed>,
    progress: &Arc<Progress>,
) -> Result<Reached, Rejection> {
    let (visit, route, clock) = (&plain.visit, &plain.route, &shared.clock);
    let affinity = Affinity { claims: who.map(|(grant, _)| &*grant.claims), address: visit.client(&plain.headers) };
    let mut body = Rising::of(body, progress, route, clock);
    let mut failed = Rejection::UpstreamFull;
    for endpoint in route.upstream.candidates(affinity, Use::Request, clock.now().mono) {
        let Some(lease) = endpoint.enter(Use::Request, clock.now().mono) else { continue };
        let request = plain.outgoing(who, endpoint.config())?.map(|()| body);
        let pool = endpoint.pool().clone();
        let kept = exchange::over_kept(&pool, request, clock.now().mono).await;
        let request = match kept.map_err(|error| progress.blame(error))? {
            Ok(answer) => {
                endpoint.answered(clock.now().mono);
                return Ok(Reached { answer, pool, lease });
            }
            Err(request) => *request,
        };
        match endpoint.dial(clock).await {
            Ok(connected) => {
                let answer = exchange::over(Line::new(connected).await?, request).await;
                return Ok(Reached { answer: answer.map_err(|error| progress.blame(error))?, pool, lease });
            }
            Err(error) => (failed, body) = (error.into(), request.into_body()),
        }
    }
    Err(failed)
}

/// How many plain requests are passed on now. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Passing(Arc<AtomicUsize>);

/// The turn of one of them, until it is dropped.
struct Turn(Passing);

impl Passing {
    fn enter(&self, plain: &Plain) -> Result<Turn, Rejection> {
        let most = plain.visit.rules.config.max_requests;
        let more = |now: usize| most.is_none_or(|most| now < most).then(|| now.saturating_add(1));
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Turn(self.clone())),
            Err(_) => Err(Rejection::TooManyRequests),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A service's answer, where its connection goes afterwards, and the place on the endpoint.
struct Reached {
    answer: Answer,
    pool: Pool,
    lease: Lease,
}

/// Waits for an answer as long as the route allows: less long for a request that stands still.
async fn in_time(
    shared: &Shared,
    route: &Route,
    progress: &Progress,
    asked: impl Future<Output = Result<Reached, Rejection>>,
) -> Result<Reached, Rejection> {
    let mut asked = std::pin::pin!(asked);
    loop {
        let (end, late) = progress.end(&route.http);
        if shared.clock.now().mono >= end {
            return Err(late);
        }
        tokio::select! {
            answer = &mut asked => return answer,
            () = tokio::time::sleep_until(shared.clock.instant(end).into()) => {}
        }
    }
}

/// The result of a request that was passed on, in metrics; and of one whose answer was cut.
const PASSED: &str = "passed";
const CUT: &str = "cut";
