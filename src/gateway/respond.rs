//! The stage that turns a refusal into a reply: the one place where that happens.
//!
//! Replies are problem details (RFC 9457) whose `type` and `reason` name the public reason: that is all the client
//! learns. The refusal itself goes along
//! as an extension of the response, for `observe` to log.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use tower::Service;

use crate::gateway::rejection::Rejection;
use crate::gateway::{Arrived, Body};

/// See the module.
#[derive(Clone)]
pub struct Respond<S>(pub S);

impl<S> Service<Arrived> for Respond<S>
where
    S: Service<Arrived, Response = Response<Body>, Error = Rejection>,
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
        let reply = self.0.call(arrived);
        Box::pin(async move {
            let mut response = reply.await.unwrap_or_else(refusal);
            if let Some(page) = visit.page.get() {
                page.may_read(response.headers_mut());
            }
            Ok(response)
        })
    }
}

/// The reply to a refused request.
pub fn refusal(rejection: Rejection) -> Response<Body> {
    let told = rejection.told();
    let title = told.status.canonical_reason().unwrap_or_default();
    let problem = serde_json::json!({
        "type": format!("urn:portcullis:{}", told.reason),
        "title": title,
        "status": told.status.as_u16(),
        "reason": told.reason,
    });
    let mut response = Response::new(Body::from(problem.to_string()));
    *response.status_mut() = told.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some((name, value)) = told.header {
        headers.insert(name, value);
    }
    if told.status == StatusCode::UPGRADE_REQUIRED {
        // `Upgrade` is hop-by-hop, so `Connection` names it (RFC 9110, sections 7.8 and 15.5.22).
        headers.insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    response.extensions_mut().insert(rejection);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::token::{Denial, Public};

    #[tokio::test]
    async fn a_refusal_is_problem_json_that_nobody_stores_and_that_tells_the_public_reason_only() {
        let response = refusal(Denial::new(Public::TokenInvalid, "crit_present", "crit names b64").into());
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "type": "urn:portcullis:token_invalid", "title": "Unauthorized", "status": 401, "reason": "token_invalid",
        });
        assert_eq!(problem, expected);
    }

    #[test]
    fn an_upgrade_that_is_required_is_named() {
        for rejection in [Rejection::UpgradeRequired, Rejection::Version] {
            let response = refusal(rejection);
            assert_eq!(response.headers()["upgrade"], "websocket");
            assert_eq!(response.headers()["connection"], "upgrade");
        }
    }
}
