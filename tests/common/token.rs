//! Tokens, signed here and not by the code under test.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The secret that the gateway of [`super::config`] trusts.
pub const SECRET: &str = "a secret for tests, longer than 32 bytes";

/// The `iss` of the usual claims, which the gateway of [`super::config`] asks for.
pub const ISSUER: &str = "https://issuer.test";

/// A token that lives for `life` from now.
pub fn token(life: Duration) -> String {
    mint(&claims(life))
}

/// The usual claims, with `exp` at now + `life`, to the millisecond.
#[allow(clippy::cast_precision_loss)] // milliseconds of this century are exact
pub fn claims(life: Duration) -> Value {
    let at = (now() + life).as_millis() as f64 / 1000.0;
    json!({"iss": ISSUER, "sub": "someone", "exp": at})
}

/// `claims` signed with HS256 and [`SECRET`].
pub fn mint(claims: &Value) -> String {
    sign(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET.as_bytes())
}

/// `claims` under any `header`, signed with HMAC-SHA-256 whatever the header says.
pub fn sign(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Wall time since the epoch.
#[allow(clippy::disallowed_methods)] // a test plays the issuer; it is not part of the program
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}
