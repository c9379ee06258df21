//! No token and no secret reaches a log, an error or an answer, at whatever level.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::{Backend, Gateway, ISSUER, SECRET, Signal, claims, config, mint, now, sign};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn no_token_and_no_secret_stands_in_a_log_or_an_answer() {
    let backend = Backend::echo().await;
    let carriers = "carriers = [\"query:access_token\", \"subprotocol:pair\", \"subprotocol:prefix\", \"header\", \"cookie:session\"]\norigins = [\"https://good.test\"]\nidentity = { \"X-User\" = \"sub\" }";
    let down = format!("{carriers}\n[[route]]\nname = \"down\"\npath = \"/down\"\nupstream = \"ws://127.0.0.1:9\"\n");
    let text = config(&backend.url(), &down).replace("level = \"debug\"", "level = \"trace\"");
    let mut gateway = Gateway::start(&text).await;
    let good = mint(&claims(MINUTE));
    let origin = "Origin: https://good.test\r\n";
    let mut tokens = vec![good.clone()];
    let mut answers = String::new();
    // Let in by each carrier.
    for (target, more) in [
        (format!("/?access_token={good}"), String::new()),
        (format!("/?access%5ftoken={good}&x=1"), String::new()),
        ("/".into(), format!("Sec-WebSocket-Protocol: bearer, {good}\r\n")),
        ("/".into(), format!("Sec-WebSocket-Protocol: bearer.{good}, chat\r\n")),
        ("/".into(), format!("Authorization: Bearer {good}\r\n")),
        ("/".into(), format!("Cookie: a=b; session={good}\r\n")),
    ] {
        let (reply, mut client) = gateway.ask(&target, &format!("{origin}{more}")).await;
        assert_eq!(reply.status, 101, "{target} {more}");
        answers.push_str(&reply.head);
        client.text(&good).await;
        assert_eq!(client.frame().await.text(), good);
        client.close(4001, "bye").await;
        client.frame().await;
    }
    // Refused, each for another reason.
    let refused = [
        mint(&json!({"iss": ISSUER, "sub": "gone", "exp": now().as_secs() - 1})),
        mint(&json!({"iss": "https://other.test", "sub": "x", "exp": now().as_secs() + 60})),
        mint(&json!({"iss": ISSUER, "sub": "no-exp"})),
        mint(&json!({"iss": ISSUER, "sub": "x", "exp": "soon-not-a-number"})),
        sign(&json!({"alg": "HS256"}), &claims(MINUTE), b"another secret, also longer than 32 bytes"),
        sign(&json!({"alg": "none"}), &claims(MINUTE), SECRET.as_bytes()),
        sign(&json!({"alg": "HS256", "crit": ["exp"]}), &claims(MINUTE), SECRET.as_bytes()),
        sign(&json!({"alg": "RS256", "kid": "unknown-kid"}), &claims(MINUTE), SECRET.as_bytes()),
        "bm90LWpzb24taGVhZGVy.bm90LWpzb24tY2xhaW1z.bm90LWEtc2lnbmF0dXJl".to_owned(),
        "onlyonepartbutlongenough".to_owned(),
        format!("{good}%00"),
    ];
    for bad in &refused {
        for (target, more) in [
            (format!("/?access_token={bad}"), String::new()),
            (format!("/down?access_token={bad}"), String::new()),
            ("/".to_owned(), format!("Authorization: Bearer {bad}\r\n")),
            (format!("/?access_token={bad}"), format!("Authorization: Bearer {good}\r\n")),
            (format!("/%2e%2e/?access_token={bad}"), String::new()),
        ] {
            let (reply, _) = gateway.ask(&target, &format!("{origin}{more}")).await;
            assert!(reply.status >= 400, "{target}: {}", reply.head);
            answers.push_str(&reply.head);
            answers.push_str(reply.body_text());
        }
    }
    tokens.extend(refused);
    let (reply, _) = gateway.ask(&format!("/down?access_token={good}"), origin).await;
    assert_eq!(reply.status, 502);
    // A reload and a leave with a live stream, for their lines.
    let _live = gateway.ask(&format!("/?access_token={good}"), origin).await;
    gateway.signal(Signal::HUP);
    gateway.signal(Signal::TERM);
    gateway.exit(Duration::from_secs(20)).await;

    let log = gateway.log();
    assert!(log.lines().count() > 50, "the log is too short to tell anything:\n{log}");
    nothing_of(&tokens, "the log", &log);
    nothing_of(&tokens, "an answer", &answers);
}

/// Neither the secret, nor a token, nor its claims or signature, in any of the forms in which they travel.
fn nothing_of(tokens: &[String], what: &str, text: &str) {
    assert!(!text.contains(SECRET), "the secret stands in {what}");
    for token in tokens {
        let parts = token.split('.').filter(|part| part.len() >= 20);
        // The header is the same for all and tells nothing; claims and signature do.
        for part in parts.skip(usize::from(token.contains('.'))) {
            let start = text.find(&part[..20]);
            let near = start.map(|at| text[at.saturating_sub(300)..].chars().take(600).collect::<String>());
            assert!(near.is_none(), "a part of a token stands in {what}: ...{}", near.unwrap_or_default());
        }
    }
}
