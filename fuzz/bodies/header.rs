//! What stands before the signature: a token as it comes, or any header, signed. The fuzz target and
//! `tests/fuzz_corpus.rs` share this.
//!
//! A token that can be read has one spelling, and only a signature that the key has made is ever good. A signed header is
//! accepted if, and only if, it is JSON without a member that stands twice, names the algorithm of the key and asks for
//! nothing more.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::secret::Token;
use portcullis::token::claims::Parts;

use crate::reference::{Json, NOW, issuer, now, sign, verifier};

/// Plays one script: a byte that says what the rest is, and that.
pub fn run(script: &[u8]) {
    match script.split_first() {
        Some((0, token)) => whole(token),
        Some((_, header)) => signed(header),
        None => {}
    }
}

fn whole(token: &[u8]) {
    let Ok(text) = std::str::from_utf8(token) else { return };
    let token = Token::new(text.to_owned());
    let verifier = verifier(issuer());
    let verdict = verifier.verify(&token, now(0));
    let outcomes = verifier.explain(&token, now(0));
    assert_eq!(verdict.is_ok(), outcomes.iter().all(|outcome| outcome.passed != Some(false)), "{text}");
    if verdict.is_ok() {
        let (signed, _) = text.rsplit_once('.').unwrap();
        let [header, claims] = [0, 1].map(|at| URL_SAFE_NO_PAD.decode(signed.split('.').nth(at).unwrap()).unwrap());
        assert_eq!(sign(&header, &claims).expose(), text, "a forged token was accepted");
    }
    let Ok(parts) = Parts::split(text) else { return };
    assert_eq!(format!("{}.{}.{}", parts.header, parts.claims, parts.signature), text);
    assert_eq!(parts.signed, text.rsplit_once('.').unwrap().0.as_bytes());
    let one_spelling = |part: &str| URL_SAFE_NO_PAD.encode(URL_SAFE_NO_PAD.decode(part).unwrap()) == part;
    if let Ok(members) = parts.read_header() {
        assert!(one_spelling(parts.header), "{text}");
        agrees(&URL_SAFE_NO_PAD.decode(parts.header).unwrap(), &members);
    }
    if parts.read_claims().is_ok() {
        assert!(one_spelling(parts.claims), "{text}");
    }
    if let Ok(signature) = parts.read_signature() {
        assert!(one_spelling(parts.signature) && !signature.is_empty(), "{text}");
    }
}

/// What was read is what stands there, each member once.
fn agrees(json: &[u8], members: &serde_json::Map<String, serde_json::Value>) {
    let reference = Json::parse(json).expect("what was read is JSON");
    assert!(reference.is_strict() && reference.depth() <= 16, "{reference:?}");
    let Json::Object(pairs) = &reference else { panic!("no object was read as one") };
    assert_eq!(pairs.len(), members.len());
    for (name, value) in pairs {
        same(value, &members[name]);
    }
}

fn same(reference: &Json, value: &serde_json::Value) {
    match reference {
        Json::Null => assert!(value.is_null()),
        Json::Bool(flag) => assert_eq!(value.as_bool(), Some(*flag)),
        Json::Text(text) => assert_eq!(value.as_str(), Some(text.as_str())),
        Json::Number(text) => assert_eq!(value.as_f64(), text.parse().ok(), "{text}"),
        Json::List(values) => {
            let read = value.as_array().unwrap();
            assert_eq!(values.len(), read.len());
            values.iter().zip(read).for_each(|(reference, value)| same(reference, value));
        }
        Json::Object(pairs) => {
            let read = value.as_object().unwrap();
            assert_eq!(pairs.len(), read.len());
            for (name, reference) in pairs {
                same(reference, &read[name]);
            }
        }
    }
}

fn signed(header: &[u8]) {
    let token = sign(header, format!("{{\"exp\":{}}}", NOW + 10).as_bytes());
    let verdict = verifier(issuer()).verify(&token, now(0)).map_err(|denial| denial.reason);
    // Longer ones are refused for their length.
    if token.expose().len() <= 8 * 1024 {
        assert_eq!(verdict.is_ok(), is_good(header), "{verdict:?}: {}", String::from_utf8_lossy(header));
    } else {
        assert_eq!(verdict.err(), Some("token_too_large"));
    }
}

fn is_good(header: &[u8]) -> bool {
    let Some(json) = Json::parse(header) else { return false };
    let asks_for_more =
        ["crit", "b64", "jwk", "jku", "x5c", "x5u", "zip", "enc"].into_iter().any(|name| json.get(name).is_some());
    let kid = json.get("kid").is_none_or(|kid| kid.text().is_some_and(|kid| (1..=256).contains(&kid.len())));
    let typ = json.get("typ").is_none_or(|typ| {
        let kinds = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];
        typ.text().is_some_and(|typ| kinds.iter().any(|kind| typ.eq_ignore_ascii_case(kind)))
    });
    let alg = json.get("alg").and_then(Json::text) == Some("HS256");
    json.is_strict() && json.depth() <= 16 && alg && kid && typ && !asks_for_more
}
