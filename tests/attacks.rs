//! Every known attack on a token, through the gateway itself: each is refused for its own reason, before anything is
//! dialled; and beside each family stands a good token that passes.
//!
//! Rows stand in `attacks/*.json` or are computed in `attacks/table.rs`. `$now`, `$later` (an hour ahead), `$past` and the
//! like are times; `$header`, `$claims` and `$signature` are the parts of a good token.
#![allow(clippy::expect_used, clippy::unwrap_used)] // a test that cannot go on fails, and says why
#![allow(clippy::format_push_string, clippy::format_collect)] // tests are not hot
#![allow(clippy::too_many_lines, clippy::items_after_statements)] // tables are long, and their types stand beside them

mod common;
#[path = "attacks/keys.rs"]
mod keys;
#[path = "attacks/rsa.rs"]
mod rsa;
#[path = "attacks/table.rs"]
mod table;
#[path = "attacks/wycheproof.rs"]
mod wycheproof;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::OnceLock;

use common::{Backend, Gateway, Link, Reply, field};
use keys::{ALGORITHMS, keys};
use serde_json::Value;
use table::{Attack, Table};
use tempfile::TempDir;

#[tokio::test]
async fn every_attack_is_refused_for_its_own_reason_and_nothing_is_dialled() {
    let (gateway, backend, _folder) = gateway().await;
    let attacks = attacks();
    let wrong = refused(&gateway, &attacks.rows).await;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attacks.rows.len(), wrong.join("\n"));
    assert_eq!(backend.dialled(), 0, "something was dialled for a token that was refused");
}

#[tokio::test]
async fn a_good_token_beside_each_family_passes() {
    let (gateway, backend, _folder) = gateway().await;
    let good = Table::neighbours();
    let mut wrong = Vec::new();
    for Attack { family, name, route, token, .. } in &good.rows {
        let mut link = Link::connect(gateway.address(), None).await;
        let reply = link.request(&request(&gateway, route, token)).await;
        if reply.status != 101 {
            wrong.push(format!("{family}: {name} at {route}: {} {}", reply.status, reply.body_text()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), gateway.log());
    assert_eq!(backend.dialled(), good.rows.len());
}

#[test]
fn there_are_many_attacks_each_another_one_and_each_family_has_a_good_neighbour() {
    let (attacks, good) = (attacks(), Table::neighbours());
    let different: HashSet<_> = attacks.rows.iter().map(|attack| (&attack.route, &attack.token)).collect();
    let tokens: HashSet<_> = attacks.rows.iter().map(|attack| &attack.token).collect();
    let mut seen = HashSet::new();
    for attack in &attacks.rows {
        assert!(seen.insert(&attack.token), "{}: {} stands twice", attack.family, attack.name);
    }
    assert_eq!((different.len(), tokens.len()), (attacks.rows.len(), attacks.rows.len()));
    assert!(tokens.len() >= 1700, "only {} tokens", tokens.len());
    let families = attacks.families();
    let without: Vec<_> = families.keys().filter(|family| !good.families().contains_key(*family)).collect();
    assert!(without.is_empty(), "no good token beside {without:?}");
    println!("{} tokens: {families:?}", tokens.len());
}

/// RFC 8725, section 3, point by point, and the families that try it.
const BEST_PRACTICES: [(&str, &str, &[&str]); 12] = [
    ("3.1", "Perform Algorithm Verification", &["none", "algorithms", "pinned keys", "another algorithm's signature"]),
    ("3.2", "Use Appropriate Algorithms", &["none", "algorithms"]),
    (
        "3.3",
        "Validate All Cryptographic Operations",
        &[
            "encryption",
            "PKCS#1 blocks",
            "PSS encodings",
            "truncated signatures",
            "extended signatures",
            "flipped bits",
        ],
    ),
    (
        "3.4",
        "Validate Cryptographic Inputs",
        &["ES256 numbers", "ES256 forms", "ES384 and ES512 numbers", "Ed25519 numbers", "RSA numbers"],
    ),
    (
        "3.5",
        "Ensure Cryptographic Keys Have Sufficient Entropy",
        &["secrets that are guessed", "a public key as a secret"],
    ),
    ("3.6", "Avoid Compression of Encryption Inputs", &["compression"]),
    ("3.7", "Use UTF-8", &["UTF-8", "json", "duplicates"]),
    ("3.8", "Validate Issuer and Subject", &["iss", "another issuer's key", "principal"]),
    ("3.9", "Use and Validate Audience", &["aud"]),
    ("3.10", "Do Not Trust Received Claims", &["kid", "keys in the header", "crit", "b64", "sizes", "depth"]),
    ("3.11", "Use Explicit Typing", &["typ"]),
    (
        "3.12",
        "Use Mutually Exclusive Validation Rules for Different Kinds of JWTs",
        &["typ", "aud", "azp", "scope", "required claims", "max_age"],
    ),
];

#[test]
fn each_point_of_the_best_practices_is_tried() {
    let attacks = attacks();
    let families = attacks.families();
    let numbers: Vec<_> = BEST_PRACTICES.iter().map(|(number, ..)| (*number).to_owned()).collect();
    assert_eq!(numbers, (1..=12).map(|number| format!("3.{number}")).collect::<Vec<_>>());
    for (number, title, tried) in BEST_PRACTICES {
        let count: usize = tried.iter().map(|family| families.get(family).expect("a family")).sum();
        assert!(count >= 5, "{number} {title}: only {count} tokens");
    }
}

/// The table, made once: its signatures take a while.
fn attacks() -> &'static Table {
    static ATTACKS: OnceLock<Table> = OnceLock::new();
    ATTACKS.get_or_init(Table::attacks)
}

/// Asks for an upgrade with each token, one after the other, and says what was not as it must be.
async fn refused(gateway: &Gateway, attacks: &[Attack]) -> Vec<String> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut link = Link::connect(gateway.address(), None).await;
    for (at, attack) in attacks.iter().enumerate() {
        link.raw(request(gateway, &attack.route, &attack.token).as_bytes()).await;
        let reply = link.reply().await.expect("an answer");
        // A connection that becomes no stream lives for a while only, and a slow machine takes a while for all of them.
        let closed = reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if reply.status == 101 || closed || at % 100 == 99 {
            link = Link::connect(gateway.address(), None).await;
        }
        replies.push(reply);
    }
    let causes = causes(gateway, replies.iter().filter(|reply| reply.status != 101).count()).await;
    let mut causes = causes.into_iter();
    let mut wrong = Vec::new();
    for (attack, reply) in attacks.iter().zip(&replies) {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let told = body["reason"].as_str().unwrap_or_default();
        let cause = if reply.status == 101 { String::new() } else { causes.next().unwrap_or_default() };
        let (status, public) = expected(&attack.reason);
        if (reply.status, told, cause.as_str()) != (status, public, &attack.reason) {
            let Attack { family, name, reason, .. } = attack;
            wrong.push(format!("{family}: {name}: {} {told} {cause}, wanted {status} {public} {reason}", reply.status));
        }
    }
    wrong
}

/// The causes of the first refusals of the log, once there are so many.
async fn causes(gateway: &Gateway, count: usize) -> Vec<String> {
    let refusals = || {
        let lines = gateway.log_lines();
        let refused = lines.iter().filter(|line| field(line, "message") == Some(&"refused".into()));
        refused
            .map(|line| field(line, "cause").and_then(Value::as_str).unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    common::eventually("a line of the log for each refusal", || refusals().len() >= count).await;
    refusals()
}

/// What a client is told of a token that is refused for `reason`.
fn expected(reason: &str) -> (u16, &'static str) {
    match reason {
        "token_missing" => (401, "token_missing"),
        "token_too_large" => (400, "bad_request"),
        "expired" | "max_age_exceeded" => (401, "token_expired"),
        "not_yet_valid" | "issued_in_future" => (401, "token_not_yet_valid"),
        "azp_mismatch" | "scope_missing" | "required_claim_missing" | "required_claim_mismatch" => (403, "forbidden"),
        _ => (401, "token_invalid"),
    }
}

/// An upgrade request with the token in the query, each byte that is not plain percent-encoded.
fn request(gateway: &Gateway, route: &str, token: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded: String = token
        .iter()
        .map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    gateway.upgrade(&format!("/{route}?access_token={encoded}"), "")
}

/// A gateway with a route for each kind of key, and its service.
async fn gateway() -> (Gateway, Backend, TempDir) {
    let backend = Backend::echo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), &backend.url());
    (Gateway::start(&config).await, backend, folder)
}

/// Issuers by the name of their route; `two` has two of them.
fn config(folder: &Path, upstream: &str) -> String {
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    };
    let secret = write("long.secret", keys::SECRET.as_bytes());
    let key = |algorithm: &str, pem: &str, kid: &str| {
        let source = if algorithm.starts_with("HS") {
            format!("secret_file = \"{secret}\"")
        } else {
            format!("pem_file = \"{}\"", write(&format!("{algorithm}{kid}.pem"), pem.as_bytes()))
        };
        let kid = if kid.is_empty() { String::new() } else { format!("kid = \"{kid}\"\n") };
        format!("[[issuer.key]]\nalgorithm = \"{algorithm}\"\n{source}\n{kid}")
    };
    let usual = key("HS256", "", "");
    let mut issuers: BTreeMap<String, String> = BTreeMap::new();
    for algorithm in ALGORITHMS {
        issuers.insert(algorithm.to_lowercase(), key(algorithm, &keys().pem(algorithm), ""));
    }
    let all: String = ALGORITHMS.iter().map(|algorithm| key(algorithm, &keys().pem(algorithm), "")).collect();
    issuers.insert("mixed".into(), all);
    issuers.insert("kid".into(), key("HS256", "", "a"));
    let a = key("ES256", &keys().pem("ES256"), "a") + &key("RS256", &keys().pem("RS256"), "r");
    issuers.insert("a".into(), format!("iss = \"https://a.test\"\n{a}"));
    let b = {
        use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
        use aws_lc_rs::signature::KeyPair as _;
        let der: PublicKeyX509Der<'_> = keys().other_p256.public_key().as_der().expect("DER");
        key("ES256", &keys::pem("PUBLIC KEY", der.as_ref()), "b")
    };
    issuers.insert("b".into(), format!("iss = \"https://b.test\"\n{b}"));
    let strict = r#"iss = "https://issuer.test"
aud = ["ws"]
typ = ["at+jwt"]
azp = ["app"]
scope = ["chat"]
max_age = "1h"
required_claims = [{ claim = "tier", any_of = [7, "gold"] }, { claim = "level", equals = 9007199254740992 }]
"#;
    issuers.insert("strict".into(), format!("{strict}{usual}"));

    let mut config = "[log]\nlevel = \"info\"\nformat = \"json\"\n".to_owned();
    config += "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\nplaintext = true\n";
    for (name, issuer) in &issuers {
        config += &format!("[[issuer]]\nname = \"{name}\"\n{issuer}");
    }
    let routes: BTreeSet<&str> = issuers.keys().map(String::as_str).filter(|name| !["a", "b"].contains(name)).collect();
    for route in routes.into_iter().chain(["two"]) {
        let accepted = if route == "two" { "\"a\", \"b\"".to_owned() } else { format!("\"{route}\"") };
        config += &format!(
            "[[route]]\nname = \"{route}\"\npath = \"/{route}\"\nupstream = \"{upstream}\"\nissuers = [{accepted}]\n"
        );
        if route == "strict" {
            config +=
                "scope = [\"chat:write\"]\nrequired_claims = [{ claim = \"/realm/roles\", equals = \"admin\" }]\n";
        }
    }
    config
}
