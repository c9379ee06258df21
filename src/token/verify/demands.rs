//! What an issuer's tokens, or those of a route, must say beside whose they are and how long they count: scopes, claims, and
//! for an issuer the kind of token.

use serde_json::{Map, Number, Value};

use crate::token::claims::named::Claim;
use crate::token::{Denial, Public};

/// Scopes and claims that a token must have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demands {
    /// Scopes (RFC 6749, section 3.3), all of them.
    pub scope: Vec<String>,
    /// Claims, all of them.
    pub claims: Vec<RequiredClaim>,
}

/// A claim that must be there, and what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct RequiredClaim {
    /// Which one.
    pub claim: Claim,
    /// What it must be, or have as a member if it is a list: one of these. Empty = anything but null.
    pub any_of: Vec<Wanted>,
}

/// A value that a claim may be asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// A boolean.
    Boolean(bool),
    /// A number with a fraction.
    Fraction(f64),
    /// A whole number.
    Integer(i64),
    /// A string, exactly.
    Text(String),
}

/// One kind of token that an issuer's header may name (`typ`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typ {
    /// The header has no `typ`.
    Absent,
    /// This media type, in any case, with or without `application/` (RFC 7515, section 4.1.9).
    Named(String),
}

impl Typ {
    /// What counts by default: `JWT` (RFC 7519, section 5.1), `at+jwt` (RFC 9068, section 2.1), and none.
    pub fn usual() -> Vec<Self> {
        vec![Self::named("JWT"), Self::named("at+jwt"), Self::Absent]
    }

    /// The kind of this name, as the config or a header has it.
    pub fn named(typ: &str) -> Self {
        let (prefix, rest) = typ.split_at_checked(APPLICATION.len()).unwrap_or(("", typ));
        let short = if prefix.eq_ignore_ascii_case(APPLICATION) { rest } else { typ };
        Self::Named(short.to_ascii_lowercase())
    }

    /// As the config has it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Absent => "none",
            Self::Named(typ) => typ,
        }
    }
}

const APPLICATION: &str = "application/";

impl Wanted {
    /// Whether the claim is this, or a list that has it.
    fn is_in(&self, claim: &Value) -> bool {
        match claim {
            Value::Array(values) => values.iter().any(|value| self.is(value)),
            value => self.is(value),
        }
    }

    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Boolean(wanted), Value::Bool(value)) => wanted == value,
            (Self::Text(wanted), Value::String(value)) => wanted == value,
            (Self::Integer(wanted), Value::Number(value)) => whole(value) == Some(i128::from(*wanted)),
            (Self::Fraction(wanted), Value::Number(value)) => match whole(value) {
                Some(value) => whole_float(*wanted) == Some(value),
                None => value.as_f64() == Some(*wanted),
            },
            _ => false,
        }
    }
}

/// The whole number that this is, if it can only be that one.
fn whole(number: &Number) -> Option<i128> {
    if let Some(value) = number.as_i64() {
        return Some(value.into());
    }
    number.as_u64().map(i128::from).or_else(|| whole_float(number.as_f64()?))
}

/// From 2^53 on a float stands for several whole numbers.
#[allow(clippy::cast_possible_truncation)] // it is in range and has no fraction
fn whole_float(value: f64) -> Option<i128> {
    (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then_some(value as i128)
}

/// Whether the token has every scope.
pub(super) fn check_scope(demands: &Demands, claims: &Map<String, Value>) -> Result<(), Denial> {
    if demands.scope.is_empty() {
        return Ok(());
    }
    let mut granted: Vec<&str> = Vec::new();
    // `scp` is what several large issuers have in its place, as a string or as a list.
    for value in ["scope", "scp"].into_iter().filter_map(|name| claims.get(name)) {
        match value {
            Value::String(text) => granted.extend(text.split(' ')),
            Value::Array(list) => granted.extend(list.iter().filter_map(Value::as_str)),
            _ => {}
        }
    }
    match demands.scope.iter().find(|wanted| !granted.contains(&wanted.as_str())) {
        None => Ok(()),
        Some(missing) => Err(forbidden(SCOPE_MISSING, format!("the token has no scope {missing}"))),
    }
}

/// Whether the token has every claim, and each is what it must be.
pub(super) fn check_claims(demands: &Demands, claims: &Map<String, Value>) -> Result<(), Denial> {
    for RequiredClaim { claim, any_of } in &demands.claims {
        let value = claim.find(claims).filter(|value| !value.is_null());
        let Some(value) = value else {
            return Err(forbidden("required_claim_missing", format!("the token has no claim {}", claim.as_str())));
        };
        if !any_of.is_empty() && !any_of.iter().any(|wanted| wanted.is_in(value)) {
            let detail = format!("the token's {} is none of the values that are wanted", claim.as_str());
            return Err(forbidden("required_claim_mismatch", detail));
        }
    }
    Ok(())
}

/// Whether the token was issued to one of these clients (`azp`, OpenID Connect Core 1.0, section 2).
pub(super) fn check_azp(wanted: &[String], claims: &Map<String, Value>) -> Result<(), Denial> {
    let detail = match claims.get("azp") {
        Some(Value::String(azp)) if wanted.contains(azp) => return Ok(()),
        Some(Value::String(_)) => format!("the token was issued to another client than {}", wanted.join(" or ")),
        Some(_) => "the token's azp is not a string".to_owned(),
        None => format!("the token has no azp; wanted is {}", wanted.join(" or ")),
    };
    Err(forbidden("azp_mismatch", detail))
}

fn forbidden(reason: &'static str, detail: String) -> Denial {
    Denial::new(Public::Forbidden, reason, detail)
}

/// The reason of a token that lacks a scope; it is told as `insufficient_scope` (RFC 6750, section 3.1).
pub const SCOPE_MISSING: &str = "scope_missing";

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Map<String, Value> {
        crate::token::claims::json::object(json, crate::token::claims::json::Dates::Kept).unwrap().members
    }

    #[test]
    fn values_match_by_what_they_are_and_not_by_how_they_are_written() {
        let text = |text: &str| Wanted::Text(text.to_owned());
        let two_53 = 9_007_199_254_740_992_i64;
        let rows: &[(Wanted, &str, bool)] = &[
            (text("admin"), r#""admin""#, true),
            (text("admin"), r#""\u0061dmin""#, true),
            (text("admin"), r#""Admin""#, false),
            (text("admin"), r#""admin ""#, false),
            (text("admin"), r#"["user","admin"]"#, true),
            (text("admin"), r#"["user",["admin"]]"#, false),
            (text("admin"), r#"{"admin":true}"#, false),
            (text("admin"), "[]", false),
            (text("7"), "7", false),
            (text("true"), "true", false),
            (text("null"), "null", false),
            (Wanted::Integer(7), "7", true),
            (Wanted::Integer(7), "7.0", true),
            (Wanted::Integer(7), "70e-1", true),
            (Wanted::Integer(7), "[1,7.0]", true),
            (Wanted::Integer(7), "7.5", false),
            (Wanted::Integer(7), "-7", false),
            (Wanted::Integer(7), "\"7\"", false),
            (Wanted::Integer(0), "-0", true),
            (Wanted::Integer(0), "-0.0", true),
            (Wanted::Integer(0), "false", false),
            (Wanted::Integer(1), "true", false),
            (Wanted::Integer(two_53), "9007199254740992", true),
            (Wanted::Integer(two_53), "9007199254740993", false),
            (Wanted::Integer(two_53), "9007199254740993.0", false),
            (Wanted::Integer(two_53), "9007199254740991", false),
            (Wanted::Integer(two_53 + 1), "9007199254740992", false),
            (Wanted::Integer(two_53 + 1), "9007199254740993", true),
            (Wanted::Integer(i64::MAX), "9223372036854775807", true),
            (Wanted::Integer(i64::MAX), "9223372036854775808", false),
            (Wanted::Integer(i64::MAX), "9223372036854775807.0", false),
            (Wanted::Integer(i64::MIN), "-9223372036854775808", true),
            (Wanted::Integer(-1), "18446744073709551615", false),
            (Wanted::Fraction(7.5), "7.5", true),
            (Wanted::Fraction(7.5), "75e-1", true),
            (Wanted::Fraction(7.5), "7", false),
            (Wanted::Fraction(7.0), "7", true),
            (Wanted::Fraction(7.0), "7.0", true),
            (Wanted::Fraction(9_007_199_254_740_992.0), "9007199254740993", false),
            (Wanted::Boolean(true), "true", true),
            (Wanted::Boolean(true), "false", false),
            (Wanted::Boolean(true), "\"true\"", false),
            (Wanted::Boolean(true), "1", false),
            (Wanted::Boolean(true), "[false,true]", true),
        ];
        for (wanted, json, expected) in rows {
            let claim = Claim::parse("c").unwrap();
            let demands =
                Demands { claims: vec![RequiredClaim { claim, any_of: vec![wanted.clone()] }], ..Demands::default() };
            let verdict = check_claims(&demands, &claims(&format!("{{\"c\":{json}}}")));
            assert_eq!(verdict.is_ok(), *expected, "{wanted:?} {json}");
        }
    }

    #[test]
    fn scopes_are_whole_words_of_scope_or_scp() {
        let wants = |scope: &[&str]| Demands {
            scope: scope.iter().map(|scope| (*scope).to_owned()).collect(),
            ..Demands::default()
        };
        let (one, two) = (wants(&["chat"]), wants(&["chat", "chat:write"]));
        let rows: &[(&Demands, &str, bool)] = &[
            (&one, r#"{"scope":"chat"}"#, true),
            (&one, r#"{"scope":"openid chat mail"}"#, true),
            (&one, r#"{"scp":"openid chat"}"#, true),
            (&one, r#"{"scp":["openid","chat"]}"#, true),
            (&one, r#"{"scope":["chat"]}"#, true),
            (&one, r#"{"scope":"chats"}"#, false),
            (&one, r#"{"scope":"Chat"}"#, false),
            (&one, r#"{"scope":"chat:write"}"#, false),
            (&one, r#"{"scope":"chat,mail"}"#, false),
            (&one, r#"{"scope":"mail\tchat"}"#, false),
            (&one, r#"{"scp":["openid chat"]}"#, false),
            (&one, r#"{"scp":[["chat"]]}"#, false),
            (&one, r#"{"scope":{"chat":true}}"#, false),
            (&one, r#"{"scope":""}"#, false),
            (&one, r#"{"scope":null}"#, false),
            (&one, r#"{"scopes":"chat"}"#, false),
            (&one, "{}", false),
            (&two, r#"{"scope":"chat:write chat"}"#, true),
            (&two, r#"{"scope":"chat","scp":["chat:write"]}"#, true),
            (&two, r#"{"scope":"chat"}"#, false),
            (&wants(&[]), "{}", true),
        ];
        for (demands, json, expected) in rows {
            let verdict = check_scope(demands, &claims(json));
            assert_eq!(verdict.is_ok(), *expected, "{json}");
            if let Err(denial) = verdict {
                assert_eq!((denial.public, denial.reason), (Public::Forbidden, SCOPE_MISSING), "{json}");
            }
        }
    }
}
