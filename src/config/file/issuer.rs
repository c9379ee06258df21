//! `[[issuer]]` as it was typed.

use std::time::Duration;

use super::demands::{self, Demands};
use super::{Key, List};
use crate::config::problem::Place;
use crate::config::section::Section;

/// `[[issuer]]`
#[derive(Debug)]
pub(in crate::config) struct Issuer {
    pub(in crate::config) place: Place,
    pub(in crate::config) name: Key<String>,
    pub(in crate::config) iss: Key<String>,
    pub(in crate::config) aud: Key<List>,
    pub(in crate::config) set: KeySet,
    pub(in crate::config) leeway: Key<Duration>,
    pub(in crate::config) skew: Key<Duration>,
    pub(in crate::config) require_exp: Key<bool>,
    pub(in crate::config) max_lifetime: Key<Duration>,
    pub(in crate::config) max_age: Key<Duration>,
    pub(in crate::config) algorithms: Key<List>,
    pub(in crate::config) typ: Key<List>,
    pub(in crate::config) azp: Key<List>,
    pub(in crate::config) allow_bound_tokens: Key<bool>,
    pub(in crate::config) demands: Demands,
    /// Whether there is any `[[issuer.key]]`, even if it cannot be read.
    pub(in crate::config) has_keys: bool,
    pub(in crate::config) keys: Vec<IssuerKey>,
}

/// What an issuer says of the key set that is fetched.
#[derive(Debug)]
pub(in crate::config) struct KeySet {
    pub(in crate::config) file: Key<String>,
    pub(in crate::config) url: Key<String>,
    pub(in crate::config) discovery: Key<String>,
    pub(in crate::config) ca: Key<String>,
    pub(in crate::config) bearer_file: Key<String>,
    pub(in crate::config) timeout: Key<Duration>,
    pub(in crate::config) min_refresh: Key<Duration>,
    pub(in crate::config) max_refresh: Key<Duration>,
    pub(in crate::config) cooldown: Key<Duration>,
    pub(in crate::config) stale: Key<Duration>,
    pub(in crate::config) start_without: Key<bool>,
    pub(in crate::config) on_key_removed: Key<String>,
}

impl KeySet {
    /// Whether the issuer has one.
    pub(in crate::config) fn is_there(&self) -> bool {
        self.file.is_some() || self.url.is_some() || self.discovery.is_some()
    }
}

/// `[[issuer.key]]`
#[derive(Debug)]
pub(in crate::config) struct IssuerKey {
    pub(in crate::config) place: Place,
    pub(in crate::config) algorithm: Key<String>,
    pub(in crate::config) secret_file: Key<String>,
    pub(in crate::config) secret_env: Key<String>,
    pub(in crate::config) pem_file: Key<String>,
    pub(in crate::config) pem_env: Key<String>,
    pub(in crate::config) kid: Key<String>,
}

pub(super) fn issuer(mut s: Section<'_>) -> Issuer {
    let keys = s.table_list("key", "issuer.key", "[[issuer.key]]");
    let issuer = Issuer {
        place: s.place.clone(),
        name: s.needed("name", "\"default\""),
        iss: s.text("iss", "\"https://issuer.example\""),
        aud: s.texts("aud", "[\"chat\"]"),
        set: key_set(&mut s),
        leeway: s.duration("leeway"),
        skew: s.duration("skew"),
        require_exp: s.boolean("require_exp"),
        max_lifetime: s.duration("max_lifetime"),
        max_age: s.duration("max_age"),
        algorithms: s.texts("algorithms", "[\"RS256\"]"),
        typ: s.texts("typ", "[\"at+jwt\"]"),
        azp: s.texts("azp", "[\"web-app\"]"),
        allow_bound_tokens: s.boolean("allow_bound_tokens"),
        demands: demands::demands(&mut s, "issuer.required_claims"),
        has_keys: s.has("key"),
        keys: keys.into_iter().map(issuer_key).collect(),
    };
    s.finish();
    issuer
}

fn key_set(s: &mut Section<'_>) -> KeySet {
    KeySet {
        file: s.text("jwks_file", "\"certs/jwks.json\""),
        url: s.text("jwks_url", "\"https://sso.example.com/certs\""),
        discovery: s.text("discovery", "\"https://sso.example.com/realms/main\""),
        ca: s.text("jwks_ca", "\"certs/issuer-ca.pem\""),
        bearer_file: s.text("jwks_bearer_file", "\"/var/run/secrets/kubernetes.io/serviceaccount/token\""),
        timeout: s.duration("jwks_timeout"),
        min_refresh: s.duration("jwks_min_refresh"),
        max_refresh: s.duration("jwks_max_refresh"),
        cooldown: s.duration("jwks_cooldown"),
        stale: s.duration("jwks_stale"),
        start_without: s.boolean("start_without_keys"),
        on_key_removed: s.text("on_key_removed", "\"close\""),
    }
}

fn issuer_key(mut s: Section<'_>) -> IssuerKey {
    let key = IssuerKey {
        place: s.place.clone(),
        algorithm: s.needed("algorithm", "\"HS256\""),
        secret_file: s.secret_source("secret_file", "\"certs/token.secret\""),
        secret_env: s.secret_source("secret_env", "\"TOKEN_SECRET\""),
        pem_file: s.text("pem_file", "\"certs/issuer.pem\""),
        pem_env: s.text("pem_env", "\"ISSUER_PEM\""),
        kid: s.text("kid", "\"2026-11\""),
    };
    s.finish();
    key
}
