//! `portcullis token inspect` tells a person which rule a token fails and which key was tried, and shows no secret.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{ISSUER, Origin, SECRET, claims, config, folder, mint};
use portcullis::issuer::mint::MintKey;
use portcullis::token::keys::Algorithm;
use rcgen::PublicKeyData as _;
use serde_json::json;

/// What inspect says of `token` under `config`, and whether it ended well.
async fn inspect(config: &str, token: &str) -> (bool, String) {
    let (folder, _) = folder(config);
    std::fs::write(folder.path().join("token"), token).expect("token");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["token", "inspect", "--config"]).arg(folder.path().join("config.toml"));
    command.arg("--file").arg(folder.path().join("token"));
    let out = tokio::task::spawn_blocking(move || command.output().expect("inspect")).await.expect("no panic");
    (out.status.success(), String::from_utf8(out.stdout).expect("text") + &String::from_utf8_lossy(&out.stderr))
}

#[tokio::test]
async fn each_rule_is_told_and_the_secret_is_not() {
    let config = config("ws://127.0.0.1:9", "scope = [\"chat\"]");
    let (good, said) = inspect(&config, &mint(&claims(Duration::from_secs(60)))).await;
    assert!(!good && said.contains("refused (forbidden), scope_missing: the token has no scope chat"), "{said}");
    assert!(said.contains("FAIL  route scope"), "{said}");
    assert!(said.contains("pass  key              HS256 from token.secret: has signed the token (default)"), "{said}");
    let forged =
        common::sign(&json!({"alg": "HS256"}), &claims(Duration::from_secs(60)), b"another secret of 32 bytes or more");
    let (good, forged) = inspect(&config, &forged).await;
    assert!(!good && forged.contains("HS256 from token.secret: has not signed the token"), "{forged}");
    assert!(forged.contains("FAIL  signature"), "{forged}");
    let hash = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes));
    let jwk = format!(r#"{{"k":"{}","kty":"oct"}}"#, URL_SAFE_NO_PAD.encode(SECRET));
    for secret in [SECRET.to_owned(), URL_SAFE_NO_PAD.encode(SECRET), hash(SECRET.as_bytes()), hash(jwk.as_bytes())] {
        assert!(!said.contains(&secret) && !forged.contains(&secret), "{said}\n{forged}");
    }
}

#[tokio::test]
async fn what_is_shown_is_what_stands_there_and_what_was_judged() {
    let config = config("ws://127.0.0.1:9", "");
    let token = |header: &str, claims: &str| {
        [URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), "c2ln".to_owned()].join(".")
    };
    for name in ["RawValue", "Number"] {
        // Members that a library gives a meaning of its own.
        let name = format!("$serde_json::private::{name}");
        let claims = json!({ &name: "{\"sub\":\"trusted-admin\",\"n\":1}" }).to_string();
        let (_, said) = inspect(&config, &token("{\"alg\":\"HS256\"}", &claims)).await;
        assert!(said.contains(&format!("  \"{name}\": \"{{\\\"sub\\\":\\\"trusted-admin")), "{said}");
        assert!(!said.contains("\"sub\":"), "{said}");
    }
    let (_, said) = inspect(&config, &token("{\"alg\":\"HS256\"}", "{\"sub\":\"ann\",\n\"sub\":\"admin\"}")).await;
    assert!(said.contains("claims_duplicate_member"), "{said}");
    assert!(said.contains("claims: not readable: a member stands twice in one object\n"), "{said}");
    assert!(said.contains("  {\"sub\":\"ann\",\\u{a}\"sub\":\"admin\"}\n"), "{said}");
    let (_, said) = inspect(&config, &token("swordfish", "{}")).await;
    assert!(said.contains("header: not readable: not a JSON object\n  swordfish\n"), "{said}");
    let (_, said) = inspect(&config, "!.e30.c2ln").await;
    assert!(said.contains("header: not readable: base64url of UTF-8 is wanted"), "{said}");
}

#[tokio::test]
async fn a_key_set_is_fetched_and_the_key_is_named() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "2026", "x": URL_SAFE_NO_PAD.encode(pair.der_bytes())});
    let body = json!({ "keys": [jwk] }).to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let origin = Origin::says(head + &body).await;
    let url = origin.url("/jwks");
    let config = config("ws://127.0.0.1:9", "").replace(
        "[[issuer.key]]\nalgorithm = \"HS256\"\nsecret_file = \"token.secret\"",
        &format!("jwks_url = \"{url}\""),
    );
    assert!(config.contains(&url), "{config}");
    let key =
        MintKey::from_pem(Algorithm::Ed25519, Some("2026".into()), pair.serialize_pem().as_bytes()).expect("a key");
    let mut shared = serde_json::Map::new();
    shared.insert("iss".into(), ISSUER.into());
    let mint = portcullis::issuer::mint::Mint::new(key, shared, Duration::from_secs(60));
    let now = portcullis::clock::Clock::system().now();
    let token = mint.sign_subject("ann", now).expect("a token").token.expose().to_owned();
    let (good, said) = inspect(&config, &token).await;
    let thumbprint = {
        let text = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, jwk["x"]);
        URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()))
    };
    let expected = format!("kid \"2026\", Ed25519 from {url}, thumbprint {thumbprint}: has signed the token");
    assert!(good && said.contains(&expected), "{said}\nwanted: {expected}");

    drop(origin);
    let (good, said) = inspect(&config, &token).await;
    assert!(!good && said.contains("issuer_unavailable") && said.contains("cannot be had from"), "{said}");
}

#[tokio::test]
async fn a_token_that_the_program_has_minted_is_a_good_one_for_every_kind_of_key() {
    for (algorithm, kind) in [
        ("ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ES384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("ES512", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("EdDSA", &rcgen::PKCS_ED25519),
        ("Ed25519", &rcgen::PKCS_ED25519),
    ] {
        let pair = rcgen::KeyPair::generate_for(kind).expect("a key");
        let folder = tempfile::tempdir().expect("a folder");
        let (private, public) = (folder.path().join("private.pem"), folder.path().join("public.pem"));
        std::fs::write(&private, pair.serialize_pem()).expect("a key");
        std::fs::write(&public, pair.public_key_pem()).expect("a key");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["token", "mint", "--alg", algorithm, "--iss", ISSUER, "--sub", "ann", "--pem-file"]).arg(private);
        let out = command.output().expect("mint");
        assert!(out.status.success(), "{algorithm}: {}", String::from_utf8_lossy(&out.stderr));
        let key = format!("algorithm = \"{algorithm}\"\npem_file = \"{}\"", public.display());
        let config =
            config("ws://127.0.0.1:9", "").replace("algorithm = \"HS256\"\nsecret_file = \"token.secret\"", &key);
        let (good, said) = inspect(&config, &String::from_utf8(out.stdout).expect("text")).await;
        assert!(good && said.contains(&format!("{algorithm} from {}, thumbprint ", public.display())), "{said}");
    }
}
