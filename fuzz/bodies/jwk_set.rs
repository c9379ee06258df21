//! Any text as a key set, under any list of algorithms. The fuzz target and `tests/fuzz_corpus.rs` share this.
//!
//! Each member is loaded or skipped, never both. A key counts for an algorithm only if its kind fits, its `alg` and its
//! `crv` do not say otherwise, it is meant for signatures and is public; a shared secret never comes over the network, and
//! only where it is meant. No token is tried with more than 8 keys.

use portcullis::token::KeyRing;
use portcullis::token::keys::{Algorithm, SetRules};

use crate::reference::Json;

/// Plays one script: two bytes that choose the rules, and the set.
pub fn run(script: &[u8]) {
    let [first, second, set @ ..] = script else { return };
    let mask = u16::from_be_bytes([*first, *second]);
    let chosen = |at: usize| mask & 1 << at != 0;
    let algorithms =
        Algorithm::ALL.into_iter().enumerate().filter(|(at, _)| chosen(*at)).map(|(_, algorithm)| algorithm);
    let rules = SetRules { algorithms: algorithms.collect(), secrets: chosen(15) };
    let Ok((ring, report)) = KeyRing::from_jwk_set(set, &rules) else { return };
    let json = Json::parse(set).expect("what was read is JSON");
    assert!(json.is_strict());
    let Some(Json::List(members)) = json.get("keys") else { panic!("a set without keys was read") };
    assert!(members.len() <= 100 && !report.loaded.is_empty() && !ring.is_empty());

    let mut loaded = report.loaded.iter().peekable();
    for (at, member) in members.iter().enumerate() {
        if report.skipped.iter().any(|skipped| skipped.index == at) {
            continue;
        }
        let first = loaded.next().expect("a member is loaded or skipped");
        check(member, first.algorithm, &rules);
        assert_eq!(member.get("kid").and_then(Json::text), first.kid.as_deref());
        // The one kind of key that has two names.
        let twin = |next: &&_| first.algorithm == Algorithm::EdDSA && is_twin(member, next, first.kid.as_deref());
        if let Some(second) = loaded.next_if(|next| twin(next)) {
            check(member, second.algorithm, &rules);
        }
    }
    assert_eq!(loaded.next(), None, "something was loaded that does not stand there");
    let known: Vec<_> =
        Algorithm::ALL.into_iter().filter(|known| report.loaded.iter().any(|key| key.algorithm == *known)).collect();
    assert_eq!(ring.algorithms(), known);
    let is_secret = |member: &Json| member.get("kty").and_then(Json::text) == Some("oct");
    let meant = rules.algorithms.iter().any(|algorithm| algorithm.is_hmac()) || members.iter().all(is_secret);
    assert!(meant || !known.iter().any(|algorithm| algorithm.is_hmac()), "a secret among public keys");
    for key in &report.loaded {
        let same = report.loaded.iter().filter(|other| other.algorithm == key.algorithm);
        assert!(
            same.filter(|other| other.kid.is_none() || other.kid == key.kid).count() <= 8,
            "a token costs too much"
        );
    }
    let shown = format!("{ring:?}");
    for secret in members.iter().filter_map(|member| member.get("k")?.text()).filter(|secret| secret.len() > 40) {
        // What is no secret may be anything, the very text that is shown too.
        let spells_bytes = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        // And a set may give a secret away as a name: that is shown.
        let named =
            members.iter().any(|member| member.get("kid").and_then(Json::text).is_some_and(|kid| kid.contains(secret)));
        assert!(named || !secret.bytes().all(spells_bytes) || !shown.contains(secret));
    }
}

fn is_twin(member: &Json, next: &portcullis::token::keys::LoadedJwk, kid: Option<&str>) -> bool {
    next.algorithm == Algorithm::Ed25519 && next.kid.as_deref() == kid && member.get("alg").is_none()
}

fn check(member: &Json, algorithm: Algorithm, rules: &SetRules) {
    let text = |name: &str| member.get(name).and_then(Json::text);
    let name = algorithm.as_str();
    let fits = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => name.starts_with("RS") || name.starts_with("PS"),
        (Some("EC"), Some("P-256")) => name == "ES256",
        (Some("EC"), Some("P-384")) => name == "ES384",
        (Some("EC"), Some("P-521")) => name == "ES512",
        (Some("OKP"), Some("Ed25519")) => name == "EdDSA" || name == "Ed25519",
        (Some("oct"), _) => name.starts_with("HS"),
        _ => false,
    };
    assert!(fits, "{name} by {member:?}");
    assert!(rules.algorithms.is_empty() || rules.algorithms.contains(&algorithm), "{name} is not in the list");
    assert!(member.get("alg").is_none() || text("alg") == Some(name), "{name} by {member:?}");
    assert!(member.get("use").is_none() || text("use") == Some("sig"), "{member:?}");
    if let Some(ops) = member.get("key_ops") {
        let Json::List(ops) = ops else { panic!("{member:?}") };
        let mut ops: Vec<_> = ops.iter().map(|op| op.text().expect("a string")).collect();
        assert!(ops.contains(&"verify"));
        ops.sort_unstable();
        assert!(ops.windows(2).all(|pair| pair[0] != pair[1]), "{ops:?}");
    }
    assert!(member.get("kid").is_none() || text("kid").is_some_and(|kid| (1..=256).contains(&kid.len())));
    if algorithm.is_hmac() {
        assert!(rules.secrets, "a shared secret came over the network");
        assert!(text("k").is_some_and(|k| k.len() >= 43), "a short secret");
    } else {
        assert!(member.get("d").is_none(), "a private key");
    }
    if text("kty") == Some("RSA") {
        assert!(text("n").is_some_and(|n| n.len() >= 342), "a short modulus");
    }
}
