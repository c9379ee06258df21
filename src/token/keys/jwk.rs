//! JWK sets (RFC 7517, RFC 7518 section 6, RFC 8037): which members are keys for signatures, and for which algorithm.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::pem::without_leading_zeros;
use super::{Algorithm, Check, JwkSetReport, Key, KeyError, LoadedJwk, MAX_KID, Material, SetRules, SkippedJwk};
use crate::secret;
use crate::token::claims::json::{Dates, object};

/// More keys than this in one set are a mistake, and a way to make every token costly.
const MAX_KEYS: usize = 100;
/// More keys than this are not tried for one token: each try costs a check of a signature, whoever has sent the token.
const MAX_TRIES: usize = 8;
/// More bytes than this are no key set.
const MAX_SET: usize = 1024 * 1024;

/// The usable keys of a set, and what became of each member.
pub(super) fn read_set(json: &[u8], rules: &SetRules) -> Result<(Vec<Key>, JwkSetReport), KeyError> {
    if json.len() > MAX_SET {
        return Err(KeyError("the JWK set is larger than 1 MiB".into()));
    }
    let text = std::str::from_utf8(json).map_err(|_| KeyError("the JWK set is not UTF-8".into()))?;
    let set = object(text, Dates::Plain).map_err(|error| KeyError(format!("the JWK set cannot be read: {error}")))?;
    let Some(Value::Array(members)) = set.members.get("keys") else {
        let hint = if set.members.contains_key("kty") { "; a single key must stand in {\"keys\": [...]}" } else { "" };
        return Err(KeyError(format!("this is no JWK set: it has no list \"keys\"{hint}")));
    };
    if members.len() > MAX_KEYS {
        return Err(KeyError(format!("the JWK set has {} keys; at most {MAX_KEYS} are accepted", members.len())));
    }
    let is_secret = |member: &Value| member.get("kty").is_some_and(|kty| kty == "oct");
    let secrets = Secrets {
        local: rules.secrets,
        meant: rules.algorithms.iter().any(|algorithm| algorithm.is_hmac()) || members.iter().all(is_secret),
    };
    let mut keys = Vec::new();
    let mut report = JwkSetReport::default();
    for (index, member) in members.iter().enumerate() {
        let kid = member.get("kid").and_then(Value::as_str).map(str::to_owned);
        let uses = read_member(member, rules, secrets).and_then(|uses| {
            let crowded = uses.uses.iter().any(|(algorithm, _)| is_crowded(&keys, *algorithm, kid.as_deref()));
            let reason = || KeyError(format!("tokens would be tried with {MAX_TRIES} keys before it: give keys a kid"));
            if crowded { Err(reason()) } else { Ok(uses) }
        });
        match uses {
            Ok(Usable { uses, thumbprint }) => {
                for (algorithm, check) in uses {
                    report.loaded.push(LoadedJwk { algorithm, kid: kid.clone() });
                    keys.push(Key {
                        algorithm,
                        kid: kid.clone(),
                        origin: None,
                        in_set: true,
                        thumbprint,
                        check: check.into(),
                    });
                }
            }
            Err(KeyError(reason)) => report.skipped.push(SkippedJwk { index, kid, reason }),
        }
    }
    if keys.is_empty() {
        let reasons: Vec<String> =
            report.skipped.iter().map(|skipped| format!("key {}: {}", skipped.index, skipped.reason)).collect();
        let reasons = if reasons.is_empty() { "the list is empty".to_owned() } else { reasons.join("; ") };
        return Err(KeyError(format!("the JWK set has no usable key: {reasons}")));
    }
    Ok((keys, report))
}

/// Whether some token would have to be tried with too many keys if one with this `kid` were added.
fn is_crowded(keys: &[Key], algorithm: Algorithm, kid: Option<&str>) -> bool {
    let fitting = || keys.iter().filter(|key| key.algorithm == algorithm);
    let named = |kid: Option<&str>| fitting().filter(|key| key.kid.as_deref() == kid).count();
    let beside = match kid {
        Some(kid) => named(Some(kid)),
        None => fitting().filter_map(|key| key.kid.as_deref()).map(|kid| named(Some(kid))).max().unwrap_or(0),
    };
    named(None) + beside >= MAX_TRIES
}

/// Whether shared secrets of a set count.
#[derive(Clone, Copy)]
struct Secrets {
    /// The set came from this machine.
    local: bool,
    /// The issuer signs with secrets: its list says so, or the set has nothing else.
    meant: bool,
}

/// A member that is a key for signatures.
struct Usable {
    /// What it counts for: one algorithm, but for an Ed25519 key that names none, since that has two names.
    uses: Vec<(Algorithm, Check)>,
    /// Its JWK thumbprint.
    thumbprint: Option<[u8; 32]>,
}

fn read_member(member: &Value, rules: &SetRules, secrets: Secrets) -> Result<Usable, KeyError> {
    let Value::Object(jwk) = member else { return Err(skip("it is not an object")) };
    if !matches!(jwk.get("kid"), None | Some(Value::String(_))) {
        return Err(skip("its kid is not a string"));
    }
    if jwk.get("kid").and_then(Value::as_str).is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID) {
        return Err(skip("its kid is empty or longer than 256 bytes"));
    }
    match jwk.get("use") {
        None => {}
        Some(Value::String(purpose)) if purpose == "sig" => {}
        Some(_) => return Err(skip("its use is not \"sig\"")),
    }
    if let Some(ops) = jwk.get("key_ops") {
        check_operations(ops)?;
    }
    let kty = text(jwk, "kty")?;
    if kty != "oct" && jwk.contains_key("d") {
        return Err(skip("it holds a private key; publish only the public part"));
    }
    let named = named_algorithm(jwk)?;
    if kty == "oct" {
        if !secrets.local {
            return Err(skip("it is a shared secret, and the set came over the network"));
        }
        if !secrets.meant {
            return Err(skip(
                "it is a shared secret among public keys, which anybody may have read; if it is secret, name its algorithm \
                 in the issuer's algorithms",
            ));
        }
        let algorithm = named.ok_or_else(|| skip("it names no alg, and HS256, HS384 and HS512 would all fit"))?;
        let secret = Zeroizing::new(bytes(jwk, "k")?);
        if !algorithm.is_hmac() {
            return Err(KeyError(format!("its kty is oct, but its alg {algorithm} needs {}", algorithm.wants())));
        }
        check_listed(algorithm, rules)?;
        let uses = vec![(algorithm, Check::from_secret(algorithm, &secret)?)];
        // RFC 7638, section 3.2; what is decoded here has one spelling.
        let json = Zeroizing::new(format!(r#"{{"k":"{}","kty":"oct"}}"#, text(jwk, "k")?));
        return Ok(Usable { uses, thumbprint: Some(secret::sha256(json.as_bytes())) });
    }
    let (material, fitting) = public_key(jwk, kty)?;
    let pinned = match named {
        Some(named) => vec![named],
        None => unnamed(fitting, rules)?,
    };
    for algorithm in &pinned {
        check_listed(*algorithm, rules)?;
    }
    let uses = pinned.into_iter().map(|algorithm| Ok((algorithm, Check::from_material(algorithm, &material)?)));
    Ok(Usable { uses: uses.collect::<Result<_, KeyError>>()?, thumbprint: material.thumbprint() })
}

/// What a key that names no algorithm counts for: the one that fits; of several, the one that the issuer's list has.
/// Without a list an RSA key counts for RS256, which most issuers sign with; large ones publish such keys.
fn unnamed(fitting: &[Algorithm], rules: &SetRules) -> Result<Vec<Algorithm>, KeyError> {
    if !fitting.contains(&Algorithm::RS256) {
        let listed = |algorithm: &&Algorithm| rules.algorithms.is_empty() || rules.algorithms.contains(algorithm);
        let listed: Vec<_> = fitting.iter().filter(listed).copied().collect();
        return Ok(if listed.is_empty() { fitting.to_vec() } else { listed });
    }
    let listed: Vec<_> = rules.algorithms.iter().filter(|algorithm| fitting.contains(algorithm)).copied().collect();
    match listed.as_slice() {
        [] => Ok(vec![Algorithm::RS256]),
        [one] => Ok(vec![*one]),
        several => {
            let names: Vec<_> = several.iter().map(|algorithm| algorithm.as_str()).collect();
            Err(KeyError(format!("it names no alg, and {} would all fit: keep one RSA algorithm", names.join(", "))))
        }
    }
}

fn check_listed(algorithm: Algorithm, rules: &SetRules) -> Result<(), KeyError> {
    if rules.algorithms.is_empty() || rules.algorithms.contains(&algorithm) {
        return Ok(());
    }
    Err(KeyError(format!("it is for {algorithm}, which is not in the issuer's algorithms")))
}

/// `key_ops` (RFC 7517, section 4.3): different strings, "verify" among them.
fn check_operations(ops: &Value) -> Result<(), KeyError> {
    let ops = ops.as_array().and_then(|ops| ops.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let ops = ops.ok_or_else(|| skip("its key_ops are no list of strings"))?;
    if ops.iter().enumerate().any(|(at, op)| ops.iter().skip(at + 1).any(|other| other == op)) {
        return Err(skip("its key_ops name one operation twice"));
    }
    if ops.contains(&"verify") { Ok(()) } else { Err(skip("its key_ops do not contain \"verify\"")) }
}

/// The key, and what fits it.
fn public_key(jwk: &Map<String, Value>, kty: &str) -> Result<(Material, &'static [Algorithm]), KeyError> {
    match kty {
        "RSA" => {
            let n = without_leading_zeros(&bytes(jwk, "n")?).to_vec();
            let e = without_leading_zeros(&bytes(jwk, "e")?).to_vec();
            Ok((Material::Rsa { n, e }, &RSA))
        }
        "EC" => match text(jwk, "crv")? {
            "P-256" => Ok((Material::P256(point(jwk, 32)?), &[Algorithm::ES256])),
            "P-384" => Ok((Material::P384(point(jwk, 48)?), &[Algorithm::ES384])),
            "P-521" => Ok((Material::P521(point(jwk, 66)?), &[Algorithm::ES512])),
            _ => Err(skip("its curve is not P-256, P-384 or P-521")),
        },
        "OKP" => match text(jwk, "crv")? {
            "Ed25519" => Ok((Material::Ed25519(sized(jwk, "x", 32)?), &[Algorithm::EdDSA, Algorithm::Ed25519])),
            _ => Err(skip("its curve is not Ed25519")),
        },
        _ => Err(skip("its kty is not RSA, EC, OKP or oct")),
    }
}

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

fn named_algorithm(jwk: &Map<String, Value>) -> Result<Option<Algorithm>, KeyError> {
    if !jwk.contains_key("alg") {
        return Ok(None);
    }
    Algorithm::from_name(text(jwk, "alg")?).map(Some).ok_or_else(|| skip("its alg is none of those supported"))
}

/// An uncompressed point (SEC 1, section 2.3.3). Both coordinates have their full length (RFC 7518, section 6.2.1.2).
fn point(jwk: &Map<String, Value>, length: usize) -> Result<Vec<u8>, KeyError> {
    let mut point = vec![4];
    point.extend(sized(jwk, "x", length)?);
    point.extend(sized(jwk, "y", length)?);
    Ok(point)
}

fn sized(jwk: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, KeyError> {
    let bytes = bytes(jwk, name)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(KeyError(format!("its {name} has {} bytes instead of {length}", bytes.len())))
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD.decode(text(jwk, name)?).map_err(|_| KeyError(format!("its {name} is not base64url")))
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<&'a str, KeyError> {
    jwk.get(name).and_then(Value::as_str).ok_or_else(|| KeyError(format!("it has no {name} that is a string")))
}

fn skip(reason: &str) -> KeyError {
    KeyError(reason.to_owned())
}
