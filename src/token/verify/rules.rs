//! The rules, each on its own: for the header before any key is touched, and for the claims.

use serde_json::{Map, Value};

use super::demands::{self, Demands, Typ};
use super::{Issuer, invalid};
use crate::clock::{Wall, humane};
use crate::token::claims::Claims;
use crate::token::claims::date::DateError;
use crate::token::keys::{Algorithm, MAX_KID};
use crate::token::{Denial, Principal, Public};

/// That a rule was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// What it is about is there and good.
    Yes,
    /// What it is about is not there, and need not be.
    NotApplicable,
}

/// A rule for the header.
pub(super) struct HeaderRule {
    pub(super) name: &'static str,
    pub(super) check: fn(&Map<String, Value>) -> Result<Kept, Denial>,
}

/// Tried in this order, before any key is chosen.
pub(super) const HEADER_RULES: &[HeaderRule] = &[
    HeaderRule { name: "alg", check: |header| algorithm(header).map(|_| Kept::Yes) },
    HeaderRule { name: "crit", check: |header| absent(header, "crit", "crit_present", CRIT) },
    HeaderRule {
        name: "b64",
        check: |header| absent(header, "b64", "b64_present", "the token changes its encoding (RFC 7797)"),
    },
    HeaderRule { name: "jwk", check: |header| absent(header, "jwk", "jwk_present", EMBEDDED) },
    HeaderRule { name: "jku", check: |header| absent(header, "jku", "jku_present", EMBEDDED) },
    HeaderRule { name: "x5c", check: |header| absent(header, "x5c", "x5c_present", EMBEDDED) },
    HeaderRule { name: "x5u", check: |header| absent(header, "x5u", "x5u_present", EMBEDDED) },
    HeaderRule { name: "zip", check: |header| absent(header, "zip", "zip_present", "the token is compressed") },
    HeaderRule { name: "enc", check: |header| absent(header, "enc", "enc_present", ENCRYPTED) },
    HeaderRule { name: "kid", check: |header| kid(header).map(|kid| kid.map_or(Kept::NotApplicable, |_| Kept::Yes)) },
];

const CRIT: &str = "the token demands extensions; none is supported (RFC 7515, section 4.1.11)";
const ENCRYPTED: &str = "the header is one of an encrypted token (RFC 7516, section 9), and the token has three parts";
const EMBEDDED: &str = "the token brings or points to a key; only keys of the config count (RFC 8725, section 3.10)";

/// What of the header decides about the key.
#[derive(Clone, Copy)]
pub(super) struct Header<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<&'a str>,
    typ: Option<&'a Value>,
}

impl<'a> Header<'a> {
    pub(super) fn read(header: &'a Map<String, Value>) -> Result<Self, Denial> {
        Ok(Self { algorithm: algorithm(header)?, kid: kid(header)?, typ: header.get("typ") })
    }
}

fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, Denial> {
    match header.get("alg") {
        None => Err(invalid("alg_missing", "the header has no alg")),
        Some(Value::String(name)) if name.eq_ignore_ascii_case("none") => {
            Err(invalid("alg_none", "the token says that it is not signed"))
        }
        Some(Value::String(name)) => Algorithm::from_name(name)
            .ok_or_else(|| invalid("alg_unknown", "the header's alg is none of those supported, in their exact case")),
        Some(_) => Err(invalid("alg_not_string", "the header's alg is not a string")),
    }
}

fn kid(header: &Map<String, Value>) -> Result<Option<&str>, Denial> {
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(kid)) if kid.is_empty() => Err(invalid("kid_empty", "the header's kid is empty")),
        Some(Value::String(kid)) if kid.len() > MAX_KID => {
            Err(invalid("kid_too_long", "the header's kid is longer than 256 bytes"))
        }
        Some(Value::String(kid)) => Ok(Some(kid)),
        Some(_) => Err(invalid("kid_not_string", "the header's kid is not a string")),
    }
}

fn absent(header: &Map<String, Value>, name: &str, reason: &'static str, detail: &'static str) -> Result<Kept, Denial> {
    if header.contains_key(name) { Err(invalid(reason, detail)) } else { Ok(Kept::NotApplicable) }
}

/// A rule for the header that is another one for each issuer.
pub(super) struct IssuerRule {
    pub(super) name: &'static str,
    pub(super) check: fn(&Issuer, Header<'_>) -> Result<Kept, Denial>,
}

/// Tried in this order for each issuer that the token may be from, before any of its keys is touched.
pub(super) const ISSUER_RULES: &[IssuerRule] =
    &[IssuerRule { name: "typ", check: typ }, IssuerRule { name: "algorithms", check: algorithms }];

/// One kind of token is not taken for another (RFC 8725, section 3.11).
fn typ(issuer: &Issuer, header: Header<'_>) -> Result<Kept, Denial> {
    let found = match header.typ {
        None => Some(Typ::Absent),
        Some(typ) => typ.as_str().map(Typ::named),
    };
    if found.is_some_and(|found| issuer.typ.contains(&found)) {
        return Ok(if header.typ.is_some() { Kept::Yes } else { Kept::NotApplicable });
    }
    let wanted: Vec<_> = issuer.typ.iter().map(Typ::as_str).collect();
    let found = if header.typ.is_some() { "typ is another one" } else { "header has no typ" };
    Err(invalid("typ_not_allowed", format!("the token's {found}; wanted is {}", wanted.join(" or "))))
}

fn algorithms(issuer: &Issuer, header: Header<'_>) -> Result<Kept, Denial> {
    if issuer.algorithms.is_empty() {
        return Ok(Kept::NotApplicable);
    }
    if issuer.algorithms.contains(&header.algorithm) {
        return Ok(Kept::Yes);
    }
    let wanted: Vec<_> = issuer.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
    Err(invalid("alg_not_allowed", format!("{} signs with {}", issuer.name, wanted.join(" or "))))
}

/// What a rule for claims is tried on.
pub(super) struct Case<'a> {
    pub(super) issuer: &'a Issuer,
    /// What the route asks for beside its issuers.
    pub(super) route: &'a Demands,
    pub(super) claims: &'a Claims,
    pub(super) now: Wall,
}

/// A rule for the claims.
pub(super) struct ClaimRule {
    pub(super) name: &'static str,
    pub(super) check: fn(&Case<'_>) -> Result<Kept, Denial>,
}

/// Tried in this order, after the signature.
pub(super) const CLAIM_RULES: &[ClaimRule] = &[
    ClaimRule { name: "iss", check: iss },
    ClaimRule { name: "aud", check: aud },
    ClaimRule { name: "cnf", check: cnf },
    ClaimRule { name: "events", check: events },
    ClaimRule { name: "exp", check: exp },
    ClaimRule { name: "nbf", check: nbf },
    ClaimRule { name: "iat", check: iat },
    ClaimRule { name: "max_lifetime", check: max_lifetime },
    ClaimRule { name: "max_age", check: max_age },
    // From here on the token is good, but may not be good enough.
    ClaimRule { name: "azp", check: azp },
    ClaimRule { name: "scope", check: |case| scope(&case.issuer.demands, case) },
    ClaimRule { name: "required_claims", check: |case| required_claims(&case.issuer.demands, case) },
    ClaimRule { name: "route scope", check: |case| scope(case.route, case) },
    ClaimRule { name: "route required_claims", check: |case| required_claims(case.route, case) },
];

fn iss(case: &Case<'_>) -> Result<Kept, Denial> {
    let Some(wanted) = &case.issuer.iss else { return Ok(Kept::NotApplicable) };
    match case.claims.members.get("iss") {
        None => Err(invalid("iss_missing", format!("the token has no iss; wanted is {wanted}"))),
        Some(Value::String(iss)) if iss == wanted => Ok(Kept::Yes),
        Some(Value::String(_)) => Err(invalid("iss_unknown", format!("the token's iss is another one than {wanted}"))),
        Some(_) => Err(invalid("iss_malformed", "the token's iss is not a string")),
    }
}

fn aud(case: &Case<'_>) -> Result<Kept, Denial> {
    let wanted = &case.issuer.aud;
    let Some(value) = case.claims.members.get("aud") else {
        if wanted.is_empty() {
            return Ok(Kept::NotApplicable);
        }
        return Err(invalid("aud_missing", format!("the token has no aud; wanted is {}", wanted.join(" or "))));
    };
    let found =
        match value {
            Value::String(one) => vec![one.as_str()],
            Value::Array(many) => many.iter().map(Value::as_str).collect::<Option<Vec<_>>>().ok_or_else(|| {
                invalid("aud_malformed", "the token's aud is a list with members that are no strings")
            })?,
            _ => return Err(invalid("aud_malformed", "the token's aud is neither a string nor a list of strings")),
        };
    if wanted.is_empty() {
        return Err(invalid(
            "aud_unexpected",
            "the token is for an audience, but the issuer's config lists none in aud (RFC 7519, section 4.1.3)",
        ));
    }
    if found.iter().any(|aud| wanted.iter().any(|wanted| wanted == aud)) {
        return Ok(Kept::Yes);
    }
    Err(invalid("aud_mismatch", format!("the token is for another audience than {}", wanted.join(" or "))))
}

/// The gateway can check no proof of a key, so a token that is worth nothing without one would be worth all in anybody's hands
/// (RFC 7800, section 3; RFC 9449; RFC 8705, section 3).
fn cnf(case: &Case<'_>) -> Result<Kept, Denial> {
    if !case.claims.members.contains_key("cnf") {
        return Ok(Kept::NotApplicable);
    }
    if case.issuer.allow_bound {
        return Ok(Kept::Yes);
    }
    let detail =
        "the token is bound to a key, of which no proof can be asked here; allow_bound_tokens takes it without";
    Err(invalid("cnf_present", detail))
}

/// What tells of an event, such as a logout token, lets nobody in (RFC 8417, section 2.2; RFC 8725, section 3.12). There it is
/// an object; an application may have a claim of its own under that name.
fn events(case: &Case<'_>) -> Result<Kept, Denial> {
    if !matches!(case.claims.members.get("events"), Some(Value::Object(_))) {
        return Ok(Kept::NotApplicable);
    }
    Err(invalid("events_present", "the token tells of an event, and is for nobody to come in with"))
}

fn exp(case: &Case<'_>) -> Result<Kept, Denial> {
    match case.claims.exp {
        None if case.issuer.require_exp => Err(invalid("exp_missing", "the token has no exp")),
        None => Ok(Kept::NotApplicable),
        Some(Err(error)) => Err(bad_date("exp", error)),
        Some(Ok(exp)) => {
            let expiry = exp.saturating_add(case.issuer.leeway);
            // RFC 7519, section 4.1.4: "on or after" exp the token must not be accepted.
            if case.now >= expiry {
                let ago = humane(case.now.saturating_since(expiry));
                return Err(Denial::new(Public::TokenExpired, "expired", format!("the token expired {ago} ago")));
            }
            Ok(Kept::Yes)
        }
    }
}

/// The instant from which the token no longer counts, not yet capped.
pub(super) fn expiry(issuer: &Issuer, claims: &Claims) -> Option<Wall> {
    let exp = claims.exp.and_then(Result::ok);
    let aged = issuer.max_age.and_then(|age| Some(claims.iat?.ok()?.saturating_add(age)));
    exp.into_iter().chain(aged).min().map(|end| end.saturating_add(issuer.leeway))
}

fn nbf(case: &Case<'_>) -> Result<Kept, Denial> {
    not_ahead(case, "nbf", case.claims.nbf, "not_yet_valid")
}

fn iat(case: &Case<'_>) -> Result<Kept, Denial> {
    not_ahead(case, "iat", case.claims.iat, "issued_in_future")
}

fn not_ahead(
    case: &Case<'_>,
    name: &'static str,
    date: Option<Result<Wall, DateError>>,
    reason: &'static str,
) -> Result<Kept, Denial> {
    let date = match date {
        None => return Ok(Kept::NotApplicable),
        Some(Err(error)) => return Err(bad_date(name, error)),
        Some(Ok(date)) => date,
    };
    if date > case.now.saturating_add(case.issuer.skew) {
        let ahead = humane(date.saturating_since(case.now));
        let detail = format!("the token's {name} is {ahead} ahead; allowed are {}", humane(case.issuer.skew));
        return Err(Denial::new(Public::TokenNotYetValid, reason, detail));
    }
    Ok(Kept::Yes)
}

fn max_lifetime(case: &Case<'_>) -> Result<Kept, Denial> {
    let (Some(limit), Some(Ok(exp))) = (case.issuer.max_lifetime, case.claims.exp) else {
        return Ok(Kept::NotApplicable);
    };
    let start = match case.claims.iat {
        Some(Ok(iat)) => iat,
        _ => case.now,
    };
    let life = exp.saturating_since(start);
    if life <= limit {
        return Ok(Kept::Yes);
    }
    // Seconds reach this number in the year 5138, milliseconds did in 1973.
    let hint =
        if exp.as_secs() > 100_000_000_000 { "; its exp looks like milliseconds, wanted are seconds" } else { "" };
    Err(invalid("lifetime_too_long", format!("the token lives {}, allowed are {}{hint}", humane(life), humane(limit))))
}

/// However far off its `exp` is, a token counts for so long only.
fn max_age(case: &Case<'_>) -> Result<Kept, Denial> {
    let Some(limit) = case.issuer.max_age else { return Ok(Kept::NotApplicable) };
    let iat = match case.claims.iat {
        None => return Err(invalid("iat_missing", "the token has no iat, by which its age would be known")),
        Some(Err(error)) => return Err(bad_date("iat", error)),
        Some(Ok(iat)) => iat,
    };
    let end = iat.saturating_add(limit).saturating_add(case.issuer.leeway);
    if case.now < end {
        return Ok(Kept::Yes);
    }
    let age = humane(case.now.saturating_since(iat));
    let detail = format!("the token was issued {age} ago; it counts for {}", humane(limit));
    Err(Denial::new(Public::TokenExpired, "max_age_exceeded", detail))
}

fn azp(case: &Case<'_>) -> Result<Kept, Denial> {
    let wanted = &case.issuer.azp;
    if wanted.is_empty() {
        return Ok(Kept::NotApplicable);
    }
    demands::check_azp(wanted, &case.claims.members).map(|()| Kept::Yes)
}

fn scope(demands: &Demands, case: &Case<'_>) -> Result<Kept, Denial> {
    let kept = if demands.scope.is_empty() { Kept::NotApplicable } else { Kept::Yes };
    demands::check_scope(demands, &case.claims.members).map(|()| kept)
}

fn required_claims(demands: &Demands, case: &Case<'_>) -> Result<Kept, Denial> {
    let kept = if demands.claims.is_empty() { Kept::NotApplicable } else { Kept::Yes };
    demands::check_claims(demands, &case.claims.members).map(|()| kept)
}

/// Who the stream belongs to. Where the issuer's `iss` is not checked, any of its tokens can claim any `iss`; its name
/// in the config is then part of the principal, so that it cannot speak for the users of another issuer.
pub(super) fn principal(case: &Case<'_>, same: &[String]) -> Result<Principal, Denial> {
    let mut values = Vec::with_capacity(same.len() + 1);
    for name in same {
        let value = case.claims.members.get(name).unwrap_or(&Value::Null);
        if !is_exact(value) {
            return Err(invalid(
                "principal_not_exact",
                format!("the claim {name} makes the principal, but has a number that is no 64-bit integer"),
            ));
        }
        // With its name: other claims may make the principal after a reload.
        values.push(format!("{}: {value}", Value::from(name.as_str())));
    }
    if case.issuer.iss.is_none() {
        values.push(format!("issuer {}", case.issuer.name));
    }
    // A token that says nothing of whom it speaks for speaks for itself only: any two such tokens of an issuer would
    // else be one principal, and could renew each other's streams.
    let is_empty = |value: &Value| value.is_null() || value == "";
    let says = |name: &String| name != "iss" && case.claims.members.get(name).is_some_and(|value| !is_empty(value));
    if !same.iter().any(says) {
        values.push(format!("token {}", Value::Object(case.claims.members.clone())));
    }
    Ok(Principal::new(&values))
}

/// Whether equal texts mean equal values: two long numbers may be read as the same float.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        _ => true,
    }
}

fn bad_date(name: &'static str, error: DateError) -> Denial {
    let reason = match (name, error) {
        ("exp", DateError::NotANumber) => "exp_not_a_number",
        ("exp", DateError::Negative) => "exp_negative",
        ("exp", DateError::TooLarge) => "exp_too_large",
        ("nbf", DateError::NotANumber) => "nbf_not_a_number",
        ("nbf", DateError::Negative) => "nbf_negative",
        ("nbf", DateError::TooLarge) => "nbf_too_large",
        (_, DateError::NotANumber) => "iat_not_a_number",
        (_, DateError::Negative) => "iat_negative",
        (_, DateError::TooLarge) => "iat_too_large",
    };
    invalid(reason, format!("the token's {name} {error}"))
}
