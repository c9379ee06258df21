//! `GET /keys`: what each issuer has, since when and until when. Names of keys, and never anything of a secret.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::Desk;
use super::reply::json;
use crate::clock::Now;
use crate::jwks::{Source, Status};
use crate::token::verify::Issuer;

impl Desk {
    pub(super) fn keys(&self) -> Response<Full<Bytes>> {
        let (now, issuers, sources) = (self.0.clock.now(), self.0.issuers.load(), self.0.sources.load());
        let shown: Vec<Value> = issuers.iter().map(|issuer| shown(issuer, &sources, now)).collect();
        json(StatusCode::OK, &json!({ "keys": shown, "next": null }))
    }
}

/// One issuer, with its keys.
pub(crate) fn shown(issuer: &Issuer, sources: &[std::sync::Arc<Source>], now: Now) -> Value {
    let fixed = issuer.keys.ring().list();
    let key = |algorithm: &str, kid: Option<&str>| json!({ "algorithm": algorithm, "kid": kid });
    let fixed: Vec<Value> = fixed.map(|(algorithm, kid)| key(algorithm.as_str(), kid)).collect();
    let source = sources.iter().find(|source| *source.issuer() == issuer.name);
    let set = source.map(|source| {
        let Status { origin, loaded, skipped, seen, counts_for, next, error } = source.status(now);
        let loaded: Vec<Value> = loaded.iter().map(|jwk| key(jwk.algorithm.as_str(), jwk.kid.as_deref())).collect();
        let skipped: Vec<Value> = skipped.iter().map(|jwk| json!({ "kid": jwk.kid, "reason": jwk.reason })).collect();
        json!({
            "origin": origin.to_string(),
            "keys": loaded,
            "not_used": skipped,
            "seen": seen.map(crate::clock::Wall::as_secs),
            "counts_for": counts_for.map(|left| left.as_secs()),
            "next_fetch_in": next.as_secs(),
            "error": error,
        })
    });
    json!({
        "issuer": &*issuer.name,
        "iss": issuer.iss,
        "usable": !issuer.keys.is_empty(now),
        "keys": fixed,
        "set": set,
    })
}
