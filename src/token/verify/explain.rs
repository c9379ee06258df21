//! Every rule tried on a token, whatever has failed before: what `portcullis token inspect` shows.

use serde_json::Value;

use super::demands::{Demands, Typ};
use super::rules::{self, CLAIM_RULES, Case, HEADER_RULES, Header, ISSUER_RULES, Kept};
use super::{Issuer, Verifier, check_signature};
use crate::clock::{Now, Wall, humane};
use crate::secret::Token;
use crate::token::Denial;
use crate::token::claims::{Claims, Parts};

/// One rule of a route that was tried on a token, for `portcullis token inspect`.
#[derive(Clone, Debug)]
pub struct RuleOutcome {
    /// The rule, such as `signature`, `iss`, `exp`.
    pub rule: &'static str,
    /// The issuer whose rule it is, by its name in the config; `None` for rules about every token.
    pub issuer: Option<std::sync::Arc<str>>,
    /// Whether the token passed; `None` if the rule does not apply or could not be tried.
    pub passed: Option<bool>,
    /// What was found and what was wanted.
    pub detail: String,
}

impl Verifier {
    /// Tries every rule on the token, also after one has failed, also when the signature is bad.
    ///
    /// Details name the rules and the times found, but hold no part of the token and no value of `sub`. The rules of
    /// an issuer are tried for each issuer that the token may be from; if there is none, for all.
    pub fn explain(&self, token: &Token, now: Now) -> Vec<RuleOutcome> {
        let mut outcomes = Vec::new();
        let parts = match Parts::split(token.expose()) {
            Ok(parts) => parts,
            Err(denial) => {
                outcomes.push(failed("form", &denial));
                return outcomes;
            }
        };
        outcomes.push(passed("form", "three parts"));
        let members = note(&mut outcomes, "header", "a JSON object without duplicate members", parts.read_header());
        for rule in HEADER_RULES {
            outcomes.push(match &members {
                None => untried(rule.name, "the header cannot be read"),
                Some(members) => match (rule.check)(members) {
                    Ok(Kept::Yes) => passed(rule.name, describe_header(rule.name, members)),
                    Ok(Kept::NotApplicable) => untried(rule.name, "absent"),
                    Err(denial) => failed(rule.name, &denial),
                },
            });
        }
        let header = members.as_ref().and_then(|members| Header::read(members).ok());
        let signature = parts.read_signature();
        let claims = note(&mut outcomes, "claims", "a JSON object without duplicate members", parts.read_claims());
        let known = claims.as_ref().is_none_or(|claims| self.issuers_of(claims).next().is_some());
        if let Some(claims) = &claims {
            outcomes.push(if known {
                passed("issuer", "an issuer of the route may have signed it")
            } else {
                failed("issuer", &self.no_issuer(claims))
            });
        }
        let chosen: Vec<&std::sync::Arc<Issuer>> = match &claims {
            Some(claims) if known => self.issuers_of(claims).collect(),
            _ => self.issuers.iter().collect(),
        };
        for issuer in chosen {
            let from = outcomes.len();
            explain_header(&mut outcomes, issuer, header);
            explain_signature(&mut outcomes, issuer, header, parts.signed, &signature, now);
            if let Some(claims) = &claims {
                self.explain_claims(&mut outcomes, &Case { issuer, route: &self.demands, claims, now: now.wall });
            }
            for outcome in outcomes.iter_mut().skip(from) {
                outcome.issuer = Some(std::sync::Arc::clone(&issuer.name));
            }
        }
        outcomes
    }

    fn explain_claims(&self, outcomes: &mut Vec<RuleOutcome>, case: &Case<'_>) {
        for rule in CLAIM_RULES {
            outcomes.push(match (rule.check)(case) {
                Ok(Kept::Yes) => passed(rule.name, describe_claim(rule.name, case)),
                Ok(Kept::NotApplicable) => untried(rule.name, describe_absence(rule.name, case)),
                Err(denial) => failed(rule.name, &denial),
            });
        }
        outcomes.push(match rules::principal(case, &self.same) {
            Ok(principal) => {
                passed("principal", format!("{} -> {}", made_of(case, &self.same), principal.fingerprint()))
            }
            Err(denial) => failed("principal", &denial),
        });
    }
}

fn explain_header(outcomes: &mut Vec<RuleOutcome>, issuer: &Issuer, header: Option<Header<'_>>) {
    for rule in ISSUER_RULES {
        outcomes.push(match header.map(|header| (rule.check)(issuer, header)) {
            None => untried(rule.name, "the header does not say how to check it"),
            Some(Ok(Kept::Yes)) => passed(rule.name, listed(rule.name, issuer)),
            Some(Ok(Kept::NotApplicable)) if rule.name == "typ" => untried(rule.name, "absent, and may be"),
            Some(Ok(Kept::NotApplicable)) => untried(rule.name, "those of the issuer's keys"),
            Some(Err(denial)) => failed(rule.name, &denial),
        });
    }
}

/// Which keys were tried and what each said; then what follows from it.
fn explain_signature(
    outcomes: &mut Vec<RuleOutcome>,
    issuer: &Issuer,
    header: Option<Header<'_>>,
    signed: &[u8],
    signature: &Result<Vec<u8>, Denial>,
    now: Now,
) {
    let (header, signature) = match (header, signature) {
        (None, _) => return outcomes.push(untried("signature", "the header does not say how to check it")),
        (_, Err(denial)) => return outcomes.push(failed("signature", denial)),
        (Some(header), Ok(signature)) => (header, signature),
    };
    let set = issuer.keys.set(now);
    let set = set.as_deref();
    let mut tried = 0_usize;
    for candidate in issuer.keys.candidates(set, header.algorithm, header.kid) {
        tried += 1;
        let key = issuer.keys.describe(candidate.key);
        if candidate.key.verifies(signed, signature) {
            outcomes.push(passed("key", format!("{key}: has signed the token")));
            break;
        }
        // Not a failure: another one may have.
        outcomes.push(untried("key", format!("{key}: has not signed the token")));
    }
    if tried == 0 {
        let all = issuer.keys.all(set);
        outcomes.extend(all.take(SHOWN).map(|key| {
            untried("key", format!("{}: not tried, it is for another algorithm or kid", issuer.keys.describe(key)))
        }));
        if let Some(more) = issuer.keys.len(now).checked_sub(SHOWN).filter(|more| *more > 0) {
            outcomes.push(untried("key", format!("and {more} more")));
        }
    }
    outcomes.push(match check_signature(issuer, header, signed, signature, now) {
        Ok(_) => passed("signature", format!("{} with a key of {}", header.algorithm, issuer.name)),
        Err(unsigned) => failed("signature", &unsigned.denial),
    });
}

/// More keys than this are only counted when none of them fits.
const SHOWN: usize = 10;

/// What an issuer's rule for the header allows.
fn listed(rule: &str, issuer: &Issuer) -> String {
    let names: Vec<&str> = match rule {
        "typ" => issuer.typ.iter().map(Typ::as_str).collect(),
        _ => issuer.algorithms.iter().map(|algorithm| algorithm.as_str()).collect(),
    };
    format!("one of {}", names.join(", "))
}

/// Notes whether a part could be read, and hands it on.
fn note<T>(
    outcomes: &mut Vec<RuleOutcome>,
    rule: &'static str,
    good: &'static str,
    read: Result<T, Denial>,
) -> Option<T> {
    match read {
        Ok(value) => {
            outcomes.push(passed(rule, good));
            Some(value)
        }
        Err(denial) => {
            outcomes.push(failed(rule, &denial));
            None
        }
    }
}

fn describe_header(rule: &str, members: &serde_json::Map<String, Value>) -> String {
    match (rule, members.get(rule).and_then(Value::as_str)) {
        ("alg", Some(value)) => value.to_owned(),
        _ => "present".to_owned(),
    }
}

fn describe_claim(rule: &str, case: &Case<'_>) -> String {
    let Claims { exp, nbf, iat, .. } = case.claims;
    match rule {
        "iss" => case.issuer.iss.clone().unwrap_or_default(),
        "aud" => format!("one of {}", case.issuer.aud.join(", ")),
        "cnf" => "present, and allow_bound_tokens takes it without a proof".to_owned(),
        "exp" => {
            let rest = rules::expiry(case.issuer, case.claims).map(|expiry| expiry.saturating_since(case.now));
            format!(
                "{}, expires in {} (leeway {})",
                seconds(*exp),
                humane(rest.unwrap_or_default()),
                humane(case.issuer.leeway)
            )
        }
        "nbf" => format!("{} (skew {})", seconds(*nbf), humane(case.issuer.skew)),
        "iat" => format!("{} (skew {})", seconds(*iat), humane(case.issuer.skew)),
        "max_lifetime" => format!("within {}", humane(case.issuer.max_lifetime.unwrap_or_default())),
        "max_age" => format!("within {} of iat", humane(case.issuer.max_age.unwrap_or_default())),
        "azp" => format!("one of {}", case.issuer.azp.join(", ")),
        "scope" => format!("has {}", case.issuer.demands.scope.join(", ")),
        "route scope" => format!("has {}", case.route.scope.join(", ")),
        "required_claims" => required(&case.issuer.demands),
        "route required_claims" => required(case.route),
        _ => String::new(),
    }
}

fn required(demands: &Demands) -> String {
    let names: Vec<_> = demands.claims.iter().map(|required| required.claim.as_str()).collect();
    format!("has {}", names.join(", "))
}

/// The claims that make the principal; one that is absent counts too, as that.
fn made_of(case: &Case<'_>, same: &[String]) -> String {
    let is_absent = |name: &str| matches!(case.claims.members.get(name), None | Some(Value::Null));
    let name = |name: &String| if is_absent(name) { format!("{name} absent") } else { name.clone() };
    same.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn describe_absence(rule: &str, case: &Case<'_>) -> &'static str {
    match rule {
        "iss" => "the issuer's config does not ask for one",
        "max_lifetime" if case.issuer.max_lifetime.is_none() => "no limit is set",
        "max_lifetime" => "there is no exp to measure by",
        "max_age" => "no limit is set",
        "cnf" | "events" => "absent",
        "scope" | "required_claims" | "route scope" | "route required_claims" => "none is required",
        _ => "absent, and not required",
    }
}

/// Seconds since the epoch, with the fraction that was written.
fn seconds(date: Option<Result<Wall, crate::token::claims::date::DateError>>) -> String {
    let Some(Ok(date)) = date else { return "absent".to_owned() };
    let since = date.since_epoch();
    if since.subsec_nanos() == 0 {
        return since.as_secs().to_string();
    }
    let text = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
    text.trim_end_matches('0').to_owned()
}

fn passed(rule: &'static str, detail: impl Into<String>) -> RuleOutcome {
    RuleOutcome { rule, issuer: None, passed: Some(true), detail: detail.into() }
}

fn untried(rule: &'static str, detail: impl Into<String>) -> RuleOutcome {
    RuleOutcome { rule, issuer: None, passed: None, detail: detail.into() }
}

fn failed(rule: &'static str, denial: &Denial) -> RuleOutcome {
    RuleOutcome { rule, issuer: None, passed: Some(false), detail: denial.to_string() }
}
