//! Any claims, signed, under any of several sets of rules. The fuzz target and `tests/fuzz_corpus.rs` share this.
//!
//! They are accepted if, and only if, a reading that shares no code with the gateway's says so: JSON without a member that
//! stands twice, times compared by their decimal digits. The stream's end is then exactly the one that stands there.

use portcullis::token::claims::named::Claim;
use portcullis::token::verify::{Demands, Issuer, RequiredClaim, Verifier, Wanted};

use crate::reference::{Json, NOW, issuer, now, sign, verifier};

use std::time::Duration;

/// Plays one script: a byte that chooses the rules, and the claims.
pub fn run(script: &[u8]) {
    let Some((rules, claims)) = script.split_first() else { return };
    let rules =
        Rules { named: rules & 1 != 0, lenient: rules & 2 != 0, aged: rules & 4 != 0, demanding: rules & 8 != 0 };
    let token = sign(br#"{"alg":"HS256"}"#, claims);
    if token.expose().len() > 8 * 1024 {
        return;
    }
    let verifier = rules.verifier();
    let verdict = verifier.verify(&token, now(NANOS));
    let outcomes = verifier.explain(&token, now(NANOS));
    assert_eq!(verdict.is_ok(), outcomes.iter().all(|outcome| outcome.passed != Some(false)));
    let end = rules.end(claims);
    let shown = String::from_utf8_lossy(claims);
    match (verdict, end) {
        (Ok(grant), Some(end)) => {
            let expiry = grant.expiry.expect("every good token ends").since_epoch().as_nanos();
            assert_eq!(expiry, end.min(NOW_NANOS + TEN_YEARS), "{shown}");
            assert!(expiry > NOW_NANOS, "{shown}");
        }
        (Err(_), None) => {}
        (Ok(_), None) => panic!("accepted: {shown}"),
        (Err(denial), Some(_)) => panic!("refused: {denial}: {shown}"),
    }
}

/// Half a second, so that fractions count on either side.
const NANOS: u32 = 500_000_000;
const SECOND: u128 = 1_000_000_000;
const NOW_NANOS: u128 = NOW as u128 * SECOND + NANOS as u128;
const TEN_YEARS: u128 = 10 * 365 * 24 * 3600 * SECOND;
const DAY: u128 = 24 * 3600 * SECOND;

#[derive(Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // each bit of the script's first byte is one
struct Rules {
    /// `iss` and `aud` are checked.
    named: bool,
    /// There is a leeway of 3 s.
    lenient: bool,
    /// A token counts for 60 s since its `iat`, and lives as long as it likes.
    aged: bool,
    /// Scopes, clients and claims are asked for.
    demanding: bool,
}

impl Rules {
    fn verifier(self) -> Verifier {
        let mut issuer = Issuer { leeway: Duration::from_secs(if self.lenient { 3 } else { 0 }), ..issuer() };
        if self.named {
            issuer.iss = Some("a".into());
            issuer.aud = vec!["x".into(), "y".into()];
        }
        if self.aged {
            issuer.max_age = Some(Duration::from_secs(60));
            issuer.max_lifetime = None;
        }
        let mut route = Demands::default();
        if self.demanding {
            issuer.azp = vec!["app".into()];
            issuer.demands.scope = vec!["chat".into()];
            let claim = Claim::parse("/r/roles").unwrap();
            route.claims =
                vec![RequiredClaim { claim, any_of: vec![Wanted::Text("admin".into()), Wanted::Boolean(true)] }];
        }
        Verifier { demands: route, ..verifier(issuer) }
    }

    /// When a token with these claims ends, if it is good.
    fn end(self, claims: &[u8]) -> Option<u128> {
        let json = Json::parse(claims)?;
        let Json::Object(members) = &json else { return None };
        let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
        names.sort();
        // What is wrong inside a date makes it none.
        let dates = ["exp", "nbf", "iat"];
        let strict = |(name, value): &(String, Json)| {
            dates.contains(&name.as_str()) || (value.is_strict() && value.depth() < 16)
        };
        let sane = names.windows(2).all(|pair| pair[0] != pair[1]) && members.iter().all(strict);
        let date =
            |name: &str| json.get(name).map(|value| if let Json::Number(text) = value { nanos(text) } else { None });
        let exp = date("exp")??;
        let (nbf, iat) = (in_time(date("nbf"))?, in_time(date("iat"))?);
        let leeway = if self.lenient { 3 * SECOND } else { 0 };
        let mut end = exp.saturating_add(leeway);
        if self.aged {
            end = end.min(iat? + 60 * SECOND + leeway);
        } else if exp.saturating_sub(iat.unwrap_or(NOW_NANOS)) > DAY {
            return None;
        }
        let in_time = |date: Option<u128>| date.is_none_or(|date| date <= NOW_NANOS + 5 * SECOND);
        let good = sane && end > NOW_NANOS && in_time(nbf) && in_time(iat);
        // Bound to a key, or telling of an event: no token to come in with.
        let bearer = json.get("cnf").is_none() && !matches!(json.get("events"), Some(Json::Object(_)));
        (good && bearer && self.named(&json) && self.demanded(&json) && exact(&json, "iss") && exact(&json, "sub"))
            .then_some(end)
    }

    fn named(self, json: &Json) -> bool {
        let Some(aud) = json.get("aud") else { return !self.named };
        if !self.named {
            return false;
        }
        let texts: Option<Vec<&str>> = match aud {
            Json::Text(text) => Some(vec![text]),
            Json::List(list) => list.iter().map(Json::text).collect(),
            _ => None,
        };
        let ours = texts.is_some_and(|texts| texts.contains(&"x") || texts.contains(&"y"));
        ours && json.get("iss").and_then(Json::text) == Some("a")
    }

    fn demanded(self, json: &Json) -> bool {
        if !self.demanding {
            return true;
        }
        let granted = |name: &str| match json.get(name) {
            Some(Json::Text(text)) => text.split(' ').any(|scope| scope == "chat"),
            Some(Json::List(list)) => list.iter().any(|scope| scope.text() == Some("chat")),
            _ => false,
        };
        let wanted = |value: &Json| matches!(value, Json::Bool(true)) || value.text() == Some("admin");
        let roles = json.get("r").and_then(|r| r.get("roles"));
        let fits = match roles {
            Some(Json::List(list)) => list.iter().any(wanted),
            Some(value) => wanted(value),
            None => false,
        };
        fits && (granted("scope") || granted("scp")) && json.get("azp").and_then(Json::text) == Some("app")
    }
}

/// A date that need not be there, and is one if it is.
#[allow(clippy::option_option)] // absent and wrong are two facts
fn in_time(date: Option<Option<u128>>) -> Option<Option<u128>> {
    match date {
        None => Some(None),
        Some(date) => date.map(Some),
    }
}

/// Whether the claim holds no number but such as 64 bits hold: two others may look the same.
fn exact(json: &Json, name: &str) -> bool {
    fn all(value: &Json) -> bool {
        match value {
            Json::Number(text) => text != "-0" && (text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok()),
            Json::List(values) => values.iter().all(all),
            Json::Object(members) => members.iter().all(|(_, value)| all(value)),
            _ => true,
        }
    }
    json.get(name).is_none_or(all)
}

/// A number as whole nanoseconds, rounded down; nothing below zero (also no `-0`) and no more than 64 bits of seconds.
fn nanos(text: &str) -> Option<u128> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.starts_with('-') {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // No script is long enough to make up for such an exponent.
    let exponent = match exponent.trim_start_matches('+').parse::<i64>() {
        Ok(exponent) => exponent.clamp(-1_000_000, 1_000_000),
        Err(_) if exponent.starts_with('-') => -1_000_000,
        Err(_) => 1_000_000,
    };
    let shift = exponent + 9 - i64::try_from(fraction.len()).ok()?;
    let length = i64::try_from(digits.len()).ok()? + shift;
    if length <= 0 {
        return Some(0);
    }
    if length > 30 {
        return None;
    }
    let kept: String = digits.chars().chain(std::iter::repeat('0')).take(usize::try_from(length).ok()?).collect();
    let nanos: u128 = kept.parse().ok()?;
    (nanos / SECOND <= u128::from(u64::MAX)).then_some(nanos)
}
