//! Token, rules and time in; grant or denial out.
//!
//! Owns the order in which a token is judged: its form, its header, which issuer it claims to be from and what that one
//! signs, the signature, then the claims (RFC 7519, section 7.2; RFC 8725). Does not fetch keys, find tokens or know of streams. The gateway
//! asks through [`Judge`]; the command line uses [`Verifier::explain`].

pub mod demands;
mod explain;
mod rules;

use std::sync::Arc;
use std::time::Duration;

pub use demands::{Demands, RequiredClaim, Typ, Wanted};
pub use explain::RuleOutcome;

use crate::clock::Now;
use crate::secret::Token;
use crate::token::claims::{Claims, Parts};
use crate::token::keys::{Algorithm, KeyId, KeySet, KeyStore};
use crate::token::{Answer, Denial, Grant, Judge, Marks, Principal, Public, Purpose, marks};
use rules::{CLAIM_RULES, Case, HEADER_RULES, Header, ISSUER_RULES};

/// The rules of one issuer.
#[derive(Debug)]
pub struct Issuer {
    /// Its name in the config.
    pub name: Arc<str>,
    /// The `iss` its tokens must have, exactly; `None` if it is not checked.
    pub iss: Option<String>,
    /// The `aud` values of which a token must have at least one; empty if `aud` is not checked (then a token that has one is refused).
    pub aud: Vec<String>,
    /// Its keys.
    pub keys: Arc<KeyStore>,
    /// Added to `exp`, at admission and on the live stream alike. At most 5 min.
    pub leeway: Duration,
    /// Allowed for `nbf` and `iat` only.
    pub skew: Duration,
    /// Whether a token without `exp` is refused.
    pub require_exp: bool,
    /// The longest `exp - iat` (or `exp - now`) that is accepted; `None` for no limit.
    pub max_lifetime: Option<Duration>,
    /// The longest that a token counts since its `iat`, which it then must have; `None` for no limit.
    pub max_age: Option<Duration>,
    /// The algorithms that count, whatever keys there are; empty = those of the keys.
    pub algorithms: Vec<Algorithm>,
    /// The kinds of token that count.
    pub typ: Vec<Typ>,
    /// The clients whose tokens count (`azp`); empty = all. Others are `forbidden`.
    pub azp: Vec<String>,
    /// Whether tokens count that are bound to a key of the client's (`cnf`), though no proof of that key is asked for.
    pub allow_bound: bool,
    /// What tokens must have beside this; one that has it not is `forbidden`.
    pub demands: Demands,
}

impl Issuer {
    /// An issuer with these keys and the rules that the config has by default.
    pub fn new(name: Arc<str>, keys: impl Into<Arc<KeyStore>>) -> Self {
        Self {
            name,
            iss: None,
            aud: Vec::new(),
            keys: keys.into(),
            leeway: Duration::ZERO,
            skew: Duration::from_secs(5),
            require_exp: true,
            max_lifetime: Some(Duration::from_secs(24 * 3600)),
            max_age: None,
            algorithms: Vec::new(),
            typ: Typ::usual(),
            azp: Vec::new(),
            allow_bound: false,
            demands: Demands::default(),
        }
    }

    /// By which name revocations go: its `iss`, or its name in the config where `iss` is not checked.
    pub fn revoked_as(&self) -> &str {
        self.iss.as_deref().unwrap_or(&self.name)
    }

    /// How long a token that is good now, or is made now, counts at most; `None` if nothing bounds it. `skew` is in it
    /// because a token may be dated ahead by that much. It does not bound a token without `iat` that lives longer than the
    /// issuer's tokens may: that one is good once most of its life is over.
    pub fn longest_life(&self) -> Option<Duration> {
        let life = self.max_lifetime.filter(|_| self.require_exp).into_iter().chain(self.max_age).min()?;
        Some(life.saturating_add(self.leeway).saturating_add(self.skew))
    }
}

/// The judge of one route: its issuers and the claims that make its principal.
#[derive(Debug)]
pub struct Verifier {
    /// The issuers whose tokens the route accepts.
    pub issuers: Vec<Arc<Issuer>>,
    /// The route's `same` claims.
    pub same: Vec<String>,
    /// What the route asks for, after the issuer's own.
    pub demands: Demands,
}

/// Why a token is not accepted now.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// It is not good.
    Denied(Denial),
    /// It may be good, by a key that is not known here: a newer set could have it.
    UnknownKey {
        /// What is said if there is no such key.
        denial: Denial,
        /// The issuers whose key it could be.
        issuers: Vec<Arc<Issuer>>,
        /// How the token names the key.
        kid: Option<Box<str>>,
    },
}

impl Refusal {
    /// What is said if nothing else becomes known.
    pub fn into_denial(self) -> Denial {
        match self {
            Self::Denied(denial) | Self::UnknownKey { denial, .. } => denial,
        }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// Judges with the keys that are known; waits for none.
impl Judge for Verifier {
    fn judge<'a>(&'a self, token: &'a Token, _purpose: Purpose, now: Now) -> Answer<'a> {
        Answer::Ready(self.verify(token, now))
    }
}

impl Verifier {
    /// The judge of a route that accepts these issuers and asks for no more; the principal is `iss` and `sub`.
    pub fn new(issuers: Vec<Arc<Issuer>>) -> Self {
        Self { issuers, same: vec!["iss".into(), "sub".into()], demands: Demands::default() }
    }

    /// Judges `token` at the time `now` by the keys that are known; what [`Judge::judge`] answers.
    pub fn verify(&self, token: &Token, now: Now) -> Result<Grant, Denial> {
        self.attempt(token, now).map_err(Refusal::into_denial)
    }

    /// Likewise, and tells whether a key that is not known yet could change the verdict.
    ///
    /// Issuers never share keys: a token that names the `iss` of an issuer is tried with the keys of that issuer
    /// only, and any other token only with issuers whose `iss` is not checked.
    pub fn attempt(&self, token: &Token, now: Now) -> Result<Grant, Refusal> {
        let parts = Parts::split(token.expose())?;
        let members = parts.read_header()?;
        for rule in HEADER_RULES {
            (rule.check)(&members)?;
        }
        let header = Header::read(&members)?;
        let claims = parts.read_claims()?;
        let signature = parts.read_signature()?;

        let (issuer, key, principal) = self.accept(header, &claims, parts.signed, &signature, now)?;
        Ok(grant(issuer, key, principal, token, claims, now))
    }

    /// The issuer by whose keys and rules the token is good, the key if it came in a set, and who it speaks for.
    fn accept(
        &self,
        header: Header<'_>,
        claims: &Claims,
        signed: &[u8],
        signature: &[u8],
        now: Now,
    ) -> Result<(&Issuer, Option<KeyId>, Principal), Refusal> {
        // A denial by an issuer that has signed the token says more than one by an issuer that has not.
        let mut by_signer = None;
        let mut by_other = None;
        let mut may_come = Vec::new();
        for issuer in self.issuers_of(claims) {
            if let Err(denial) = ISSUER_RULES.iter().try_for_each(|rule| (rule.check)(issuer, header).map(drop)) {
                by_other.get_or_insert(denial);
                continue;
            }
            let key = match check_signature(issuer, header, signed, signature, now) {
                Ok(key) => key,
                Err(unsigned) => {
                    if unsigned.may_come {
                        may_come.push(Arc::clone(issuer));
                    }
                    by_other.get_or_insert(unsigned.denial);
                    continue;
                }
            };
            match self.check_claims(issuer, claims, now) {
                Ok(principal) => return Ok((issuer, key, principal)),
                Err(denial) => {
                    by_signer.get_or_insert(denial);
                }
            }
        }
        let denial = match (by_signer, by_other) {
            (Some(denial), _) => return Err(denial.into()),
            (None, other) => other.unwrap_or_else(|| self.no_issuer(claims)),
        };
        if may_come.is_empty() {
            return Err(denial.into());
        }
        Err(Refusal::UnknownKey { denial, issuers: may_come, kid: header.kid.map(Into::into) })
    }

    /// The issuers that may have signed a token with these claims.
    fn issuers_of<'a, 'c>(&'a self, claims: &'c Claims) -> impl Iterator<Item = &'a Arc<Issuer>> + use<'a, 'c> {
        let iss = claims.members.get("iss").and_then(serde_json::Value::as_str);
        let owns = move |issuer: &Issuer| issuer.iss.is_some() && issuer.iss.as_deref() == iss;
        let named = self.issuers.iter().any(|issuer| owns(issuer));
        self.issuers.iter().filter(move |issuer| if named { owns(issuer) } else { issuer.iss.is_none() })
    }

    fn no_issuer(&self, claims: &Claims) -> Denial {
        let wanted: Vec<&str> = self.issuers.iter().filter_map(|issuer| issuer.iss.as_deref()).collect();
        let wanted = wanted.join(", ");
        match claims.members.get("iss") {
            None => invalid("iss_missing", format!("the token has no iss; wanted is {wanted}")),
            Some(serde_json::Value::String(_)) => {
                invalid("iss_unknown", format!("the token's iss is none of the route's; wanted is {wanted}"))
            }
            Some(_) => invalid("iss_malformed", "the token's iss is not a string"),
        }
    }

    fn check_claims(&self, issuer: &Issuer, claims: &Claims, now: Now) -> Result<Principal, Denial> {
        let case = Case { issuer, route: &self.demands, claims, now: now.wall };
        for rule in CLAIM_RULES {
            (rule.check)(&case)?;
        }
        rules::principal(&case, &self.same)
    }
}

/// A token that no key of an issuer's has signed.
struct Unsigned {
    denial: Denial,
    /// Whether a newer set could have the key.
    may_come: bool,
}

/// Which of the issuer's keys has signed the token; it has a name if it came in a set.
fn check_signature(
    issuer: &Issuer,
    header: Header<'_>,
    signed: &[u8],
    signature: &[u8],
    now: Now,
) -> Result<Option<KeyId>, Unsigned> {
    let Header { algorithm, kid, .. } = header;
    let set = issuer.keys.set(now);
    let set = set.as_deref();
    let mut tried = 0_usize;
    for candidate in issuer.keys.candidates(set, algorithm, kid) {
        tried += 1;
        if candidate.key.verifies(signed, signature) {
            return Ok(candidate.id);
        }
    }
    let may_come = issuer.keys.may_come(algorithm, kid, set);
    Err(Unsigned { denial: unsigned(issuer, header, set, tried), may_come })
}

/// Why no key of the issuer's has signed the token, after so many were tried.
fn unsigned(issuer: &Issuer, header: Header<'_>, set: Option<&KeySet>, tried: usize) -> Denial {
    let Header { algorithm, kid, .. } = header;
    let name = &issuer.name;
    if tried > 0 {
        let which = match tried {
            1 => "was not made with the one key".to_owned(),
            _ => format!("was made with none of the {tried} keys"),
        };
        return invalid("signature_invalid", format!("the signature {which} of {name} that fits"));
    }
    if issuer.keys.has_set() && set.is_none() && issuer.keys.may_come(algorithm, kid, set) {
        let detail = format!("the keys of {name} are not there: its key set was not fetched yet, or is too old");
        return Denial::new(Public::IssuerUnavailable, "keys_unavailable", detail);
    }
    if !issuer.keys.allows(set, algorithm) {
        return invalid("alg_not_allowed", format!("{name} has no key for {algorithm}"));
    }
    let (reason, what) = match kid {
        Some(_) => ("kid_unknown", "the kid that the token names"),
        None => ("kid_missing", "tokens that name no kid"),
    };
    invalid(reason, format!("{name} has no {algorithm} key for {what}"))
}

fn grant(issuer: &Issuer, key: Option<KeyId>, principal: Principal, token: &Token, claims: Claims, now: Now) -> Grant {
    let expiry = rules::expiry(issuer, &claims).map(|expiry| expiry.min(now.wall.saturating_add(FAR)));
    Grant {
        principal,
        expiry,
        issuer: Arc::clone(&issuer.name),
        jti: claims.members.get("jti").and_then(marks::text).map(Into::into),
        marks: Marks::new(issuer.revoked_as(), &claims.members, claims.iat.and_then(Result::ok)).signed_with(key),
        fingerprint: token.fingerprint(),
        claims: Arc::new(claims.members),
    }
}

fn invalid(reason: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Denial {
    Denial::new(Public::TokenInvalid, reason, detail)
}

/// Ten years: further than any stream lives, near enough that no timer overflows.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[cfg(test)]
mod tests;
