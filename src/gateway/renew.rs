//! Renewal: a fresh token for a live stream, posted to the route, or sent on the stream itself.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Response};
use serde_json::json;
use tokio::sync::oneshot;

use crate::admission;
use crate::gateway::endpoint::{answered, token};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Route, Routed};
use crate::gateway::{Body, Shared};
use crate::names::{self, field};
use crate::registry::Renewal;
use crate::relay::in_band::{InBand, Renewer, Verdict};
use crate::secret::{Opaque, Token};
use crate::stream::RenewalError;
use crate::telemetry::metrics::RENEWED;
use crate::token::{Denial, Grant, Public, Purpose};
use crate::ws::handshake::only;

/// Answers a renewal that was posted. `200` is said only on the stream's own word that its deadline has moved.
pub(super) async fn answer(shared: &Shared, routed: &Routed) -> Result<Response<Body>, Rejection> {
    let answer = renewed(shared, routed).await;
    let result = answer.as_ref().map_or_else(|rejection| rejection.told().reason, |_| RENEWED);
    shared.metrics.renewal(&routed.route.name, result);
    answer
}

async fn renewed(shared: &Shared, routed: &Routed) -> Result<Response<Body>, Rejection> {
    let Routed { visit, route, request, .. } = routed;
    let handle = only(request.headers(), &HeaderName::from_static(names::STREAM_HANDLE))
        .and_then(|value| Opaque::parse(value.as_bytes()))
        .ok_or(Rejection::BadRequest("Portcullis-Stream is missing, stands twice or is no handle"))?;
    let stream = shared.registry.find(handle.hash(), &route.name).ok_or(Rejection::NotRenewed(RenewalError::Gone))?;
    let grant = judge(shared, route, &token(routed)?).await?;
    // Only who could renew the stream uses up its attempts: a handle alone must not starve its owner.
    if !stream.belongs_to(grant.principal) {
        return Err(Rejection::NotRenewed(RenewalError::OtherPrincipal));
    }
    if !stream.may_try(route.renewal.interval, shared.clock.now().mono) {
        return Err(Rejection::NotRenewed(RenewalError::TooOften));
    }
    let terms = route.renewal.terms(grant.expiry);
    let fingerprint = grant.fingerprint;
    let (answer, told) = oneshot::channel();
    stream.renew(Renewal { grant, terms, answer });
    let expires_in = match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(renewed)) => renewed.map_err(Rejection::NotRenewed)?,
        Ok(Err(_)) => return Err(Rejection::NotRenewed(RenewalError::Gone)),
        Err(_) => return Err(Rejection::Unanswered),
    };
    let expires_in = expires_in.map(|left| left.as_secs());
    tracing::debug!(
        { field::ROUTE } = %route.name,
        { field::PEER } = %visit.peer.address,
        { field::TOKEN } = %fingerprint,
        expires_in,
        "renewed"
    );
    Ok(answered(&json!({ "expires_in": expires_in })))
}

async fn judge(shared: &Shared, route: &Route, token: &Token) -> Result<Grant, Denial> {
    let grant = admission::verdict(token, &*route.judge, Purpose::Renewal, shared.clock.now()).await?;
    shared.unrevoked(grant)
}

/// How the streams of a route are renewed by messages, if they are.
pub(super) fn in_band(shared: &Arc<Shared>, route: &Route) -> Option<InBand> {
    let mode = route.renewal.in_band?;
    let renewer = Arc::new(Present { shared: shared.clone(), route: route.name.clone() });
    Some(InBand { mode, prefix: route.renewal.prefix.clone(), interval: route.renewal.interval, renewer })
}

/// Judges by the rules that the route of this name has when it is asked.
struct Present {
    shared: Arc<Shared>,
    route: Arc<str>,
}

impl Renewer for Present {
    fn judge(&self, token: Token) -> Verdict {
        let (shared, name) = (self.shared.clone(), self.route.clone());
        Box::pin(async move {
            let rules = shared.rules.load_full();
            let route = rules.routes.iter().find(|route| route.name == name);
            let gone = || Denial::new(Public::Forbidden, "route_gone", "the stream's route is gone");
            let route = route.ok_or_else(gone)?;
            let grant = judge(&shared, route, &token).await?;
            let terms = route.renewal.terms(grant.expiry);
            Ok((grant, terms))
        })
    }
}

/// How long the stream's word is waited for. It comes at its next turn; only a process that is overloaded takes longer.
const PATIENCE: Duration = Duration::from_secs(5);
