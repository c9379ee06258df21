//! Forged tokens at the door: every one is refused, whoever is in feels nothing of it, and nothing of them gets further.
//! `make forged` does this at full speed and holds the worst echo against a bound.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Backend, Gateway, Link, claims, config, eventually, field, instant};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
/// Live streams.
const STREAMS: usize = 4;
/// Forged tokens, and the time from one to the next: forty a second, which a debug build bears.
const FORGED: u32 = 160;
const EVERY: Duration = Duration::from_millis(25);

/// An issuer that signs with RS256.
struct Issuer(KeyPair);

impl Issuer {
    fn jwks(&self) -> String {
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let public = self.0.public_key();
        let [n, e] = [public.modulus(), public.exponent()].map(|part| number(part.big_endian_without_leading_zero()));
        json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "known", "n": n, "e": e}]}).to_string()
    }

    fn token(&self, subject: &str) -> [String; 3] {
        let [header, claims] = unsigned("known", subject);
        let mut signature = vec![0; self.0.public_modulus_len()];
        let signed = format!("{header}.{claims}");
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("a signature");
        [header, claims, URL_SAFE_NO_PAD.encode(signature)]
    }
}

fn unsigned(kid: &str, subject: &str) -> [String; 2] {
    let mut claims = claims(MINUTE);
    claims["sub"] = json!(subject);
    [json!({"alg": "RS256", "typ": "JWT", "kid": kid}), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_are_refused_and_those_who_are_in_feel_nothing_of_them() {
    let issuer = Issuer(KeyPair::generate(KeySize::Rsa2048).expect("a key"));
    let backend = Backend::echo().await;
    let gateway = Arc::new(start(&backend, &issuer).await);
    let good = issuer.token("someone");
    let over = Arc::new(AtomicBool::new(false));
    let mut live = Vec::new();
    for _ in 0..STREAMS {
        live.push(tokio::spawn(echo_until(gateway.open(&good.join(".")).await, over.clone())));
    }

    let (mut forged, mut refusals) = (Vec::new(), Vec::new());
    let mut due = tokio::time::interval(EVERY);
    for number in 0..FORGED {
        due.tick().await;
        let kid = if number % 2 == 0 { "known" } else { &format!("random-{number}") };
        let [header, claims] = unsigned(kid, &format!("forger-{number}"));
        // Another token's signature: of the right length and form, so that all of it is checked.
        let token = format!("{header}.{claims}.{}", good[2]);
        forged.push(claims);
        let gateway = gateway.clone();
        refusals.push(tokio::spawn(async move { gateway.ask(&format!("/?access_token={token}"), "").await.0 }));
    }
    for reply in refusals {
        let reply = reply.await.expect("an answer");
        let body: Value = serde_json::from_str(reply.body_text()).unwrap_or_default();
        assert_eq!((reply.status, body["reason"].as_str()), (401, Some("token_invalid")), "{}", reply.head);
    }
    over.store(true, Ordering::SeqCst);
    for stream in live {
        let took = stream.await.expect("a stream that goes on");
        assert!(took.len() >= 20, "only {} echoes", took.len());
        let median = took[took.len() / 2];
        assert!(median < Duration::from_millis(100), "half of the echoes took longer than {median:?}");
    }

    assert_eq!(backend.dialled(), STREAMS, "the service has heard of nobody else");
    for (cause, expected) in [("signature_invalid", FORGED / 2), ("kid_unknown", FORGED / 2)] {
        eventually(cause, || refused_for(&gateway, cause) == expected as usize).await;
    }
    let log = gateway.log();
    forged.extend(good.into_iter().skip(1));
    for part in &forged {
        assert!(!log.contains(&part[..20]), "a part of a token stands in the log");
    }
}

/// A gateway whose issuer has its keys in a set.
async fn start(backend: &Backend, issuer: &Issuer) -> Gateway {
    let text = config(&backend.url(), "");
    let (before, rest) = text.split_once("[[issuer.key]]").expect("keys of its own");
    let (_, after) = rest.split_once("[[route]]").expect("a route");
    let text = format!("{before}jwks_file = \"jwks.json\"\n\n[[route]]{after}");
    Gateway::start_with(&text, |command| {
        let config = std::path::PathBuf::from(command.get_args().last().expect("its config"));
        std::fs::write(config.with_file_name("jwks.json"), issuer.jwks()).expect("a file");
    })
    .await
}

/// Sends a message twenty times a second until it is told to end, and waits for each to come back; what each took, sorted.
async fn echo_until(mut link: Link, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut took = Vec::new();
    while !over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (message, since) = (took.len().to_string(), instant());
        link.text(&message).await;
        assert_eq!(link.frame().await.text(), message);
        took.push(since.elapsed());
    }
    took.sort();
    took
}

fn refused_for(gateway: &Gateway, cause: &str) -> usize {
    let is = |line: &&Value, name: &str, value: &str| field(line, name).is_some_and(|own| own == value);
    gateway.log_lines().iter().filter(|line| is(line, "message", "refused") && is(line, "cause", cause)).count()
}
