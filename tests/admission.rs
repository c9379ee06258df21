//! Who is let in, who is not, in which order that is asked, and what a refused one is told.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::{Backend, Gateway, ISSUER, Reply, claims, config, mint, now, sign, token};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn each_refusal_has_its_status_its_public_reason_and_its_headers() {
    let (gateway, backend) = refusing().await;
    let good = mint(&with(&json!({})));
    let expired = mint(&json!({"iss": ISSUER, "sub": "x", "room": 1, "exp": now().as_secs()}));
    let early = mint(&with(&json!({"nbf": now().as_secs() + 60})));
    let forged = sign(&json!({"alg": "HS256"}), &with(&json!({})), b"another secret, also longer than 32 bytes");
    let poor = mint(&claims(MINUTE));
    let large = "x".repeat(8 * 1024 + 1);
    let ws = "/app?access_token=";
    let upgrade = |target: &str, more: &str| gateway.upgrade(target, more);
    let without = |line: &str| upgrade(&format!("{ws}{good}"), "").replace(line, "");
    let origin = "Origin: https://evil.test\r\n";
    let table = [
        ("no route", upgrade("/elsewhere", ""), 404, "no_route"),
        ("a segment that only begins like the prefix", upgrade("/apple", ""), 404, "no_route"),
        ("plain HTTP", without("Upgrade: websocket\r\n"), 426, "upgrade_required"),
        ("an old version", upgrade(ws, "").replace("Version: 13", "Version: 8"), 426, "version"),
        ("no key", without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "bad_request"),
        ("a short key", upgrade(ws, "").replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400, "bad_request"),
        ("another method", upgrade(ws, "").replacen("GET", "POST", 1), 400, "bad_request"),
        ("two tokens", upgrade(&format!("{ws}{good}&access_token={poor}"), ""), 400, "bad_request"),
        ("an oversized token", upgrade(&format!("{ws}{large}"), ""), 400, "bad_request"),
        ("a path with dots", upgrade("/app/%2e%2e/admin", ""), 400, "bad_request"),
        ("an encoded slash", upgrade("/app/a%2Fb", ""), 400, "bad_request"),
        ("no token", upgrade("/app", ""), 401, "token_missing"),
        ("an empty token", upgrade(ws, ""), 401, "token_missing"),
        ("an expired token", upgrade(&format!("{ws}{expired}"), ""), 401, "token_expired"),
        ("a token before its time", upgrade(&format!("{ws}{early}"), ""), 401, "token_not_yet_valid"),
        ("a forged token", upgrade(&format!("{ws}{forged}"), ""), 401, "token_invalid"),
        ("not a token", upgrade(&format!("{ws}a.b.c"), ""), 401, "token_invalid"),
        ("a claim too few", upgrade(&format!("{ws}{poor}"), ""), 403, "forbidden"),
        ("a foreign page", upgrade(&format!("{ws}{good}"), origin), 403, "forbidden"),
    ];
    for (what, head, status, reason) in table {
        let reply = gateway.connect().await.request(&head).await;
        assert_eq!((reply.status, public(&reply).as_str()), (status, reason), "{what}: {}", reply.head);
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{what}");
        let challenge = match (status, reason) {
            (401, "token_missing") => Some("Bearer"),
            (401, _) => Some("Bearer error=\"invalid_token\""),
            _ => None,
        };
        assert_eq!(reply.header("www-authenticate"), challenge, "{what}");
        match reason {
            "upgrade_required" => assert_eq!(reply.header("upgrade"), Some("websocket")),
            "version" => assert_eq!(reply.header("sec-websocket-version"), Some("13")),
            _ => {}
        }
    }
    assert_eq!(backend.dialled(), 0, "something was dialled for a request that was refused");
}

#[tokio::test]
async fn the_order_of_the_questions_is_the_promised_one() {
    let (gateway, backend) = refusing().await;
    let origin = "Origin: https://evil.test\r\n";
    let bare = |target: &str, more: &str| gateway.upgrade(target, more).replace("Upgrade: websocket\r\n", "");
    for (what, head, reason) in [
        ("the path before the route", bare("/elsewhere/%2e%2e/x", origin), "bad_request"),
        ("the route before the Origin", bare("/elsewhere", origin), "no_route"),
        ("the Origin before the handshake", bare("/app", origin), "forbidden"),
        ("the handshake before the token", bare("/app?access_token=a.b.c", ""), "upgrade_required"),
        ("the token last", gateway.upgrade("/app?access_token=a.b.c", ""), "token_invalid"),
    ] {
        let reply = gateway.connect().await.request(&head).await;
        assert_eq!(public(&reply), reason, "{what}: {}", reply.head);
    }
    assert_eq!(backend.dialled(), 0);
}

#[tokio::test]
async fn a_token_in_two_places_is_one_token() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let token = token(MINUTE);
    let both = format!("Authorization: Bearer {token}\r\nSec-WebSocket-Protocol: bearer, {token}\r\n");
    let target = format!("/a?x=1&access_token={token}&access%5Ftoken={token}");
    let (asked, (reply, _client)) = tokio::join!(
        async {
            let asked = backend.asked().await;
            (asked.request.clone(), asked.agree("").await)
        },
        gateway.ask(&target, &both)
    );
    assert_eq!(reply.status, 101, "{}", reply.head);
    assert_eq!(reply.header("sec-websocket-protocol"), Some("bearer"));
    assert!(asked.0.starts_with("GET /a?x=1 HTTP/1.1\r\n"), "{}", asked.0);
    assert!(!asked.0.contains(&token));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_bad_gateway() {
    let gone = Backend::start().await.url();
    let gateway = Gateway::start(&config(&gone, "")).await;
    let (reply, _) = gateway.ask(&format!("/?access_token={}", token(MINUTE)), "").await;
    assert_eq!((reply.status, public(&reply).as_str()), (502, "upstream_refused"));
}

#[tokio::test]
async fn a_service_that_is_silent_is_a_gateway_timeout() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "response_timeout = \"500ms\"")).await;
    let target = format!("/?access_token={}", token(MINUTE));
    let (service, (reply, _client)) = tokio::join!(backend.asked(), gateway.ask(&target, ""));
    assert_eq!((reply.status, public(&reply).as_str()), (504, "upstream_timeout"));
    let (sent, _) = service.unanswered().rest().await;
    assert!(sent.is_empty(), "the service got {sent:?}");
}

#[tokio::test]
async fn a_service_that_answers_nonsense_is_a_bad_gateway() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    // of twenty zero bytes: no key gives it
    let accept = "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n";
    for (what, answer) in [
        ("no accept", format!("{agreed}\r\n")),
        ("another key's accept", format!("{agreed}{accept}\r\n")),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        ("a subprotocol that was not offered", format!("{agreed}ACCEPT\r\nSec-WebSocket-Protocol: chat\r\n\r\n")),
        (
            "an extension that was not offered",
            format!("{agreed}ACCEPT\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        ),
    ] {
        let target = format!("/?access_token={}", token(MINUTE));
        let upstream = async {
            let asked = backend.asked().await;
            let accept = common::accept_key(asked.header("sec-websocket-key").expect("a key"));
            asked.answer(answer.replace("ACCEPT", &format!("Sec-WebSocket-Accept: {accept}"))).await
        };
        let (_service, (reply, _client)) = tokio::join!(upstream, gateway.ask(&target, ""));
        assert_eq!((reply.status, public(&reply).as_str()), (502, "upstream_invalid"), "{what}");
    }
}

#[tokio::test]
async fn a_services_own_refusal_is_passed_on() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let target = format!("/?access_token={}", token(MINUTE));
    let refusal = "HTTP/1.1 403 Forbidden\r\nX-Why: full moon\r\nConnection: close\r\nContent-Length: 7\r\n\r\nnot now";
    let upstream = async { backend.asked().await.answer(refusal).await };
    let (_service, (reply, _client)) = tokio::join!(upstream, gateway.ask(&target, ""));
    assert_eq!((reply.status, reply.header("x-why"), reply.body_text()), (403, Some("full moon"), "not now"));
}

#[tokio::test]
async fn a_token_that_dies_while_the_service_is_asked_is_refused() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let target = format!("/?access_token={}", token(Duration::from_secs(1)));
    let upstream = async {
        let asked = backend.asked().await;
        tokio::time::sleep(Duration::from_millis(1300)).await;
        asked.agree("").await
    };
    let (mut service, (reply, _client)) = tokio::join!(upstream, gateway.ask(&target, ""));
    assert_eq!((reply.status, public(&reply).as_str()), (401, "token_expired"));
    let last = service.next().await;
    assert!(last.as_ref().is_none_or(|frame| frame.close_code().0 == 1001), "the service got {last:?}");
}

#[tokio::test]
async fn one_stream_too_many_is_told_to_come_later() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "max_streams = 2")).await;
    let first = gateway.open(&token(MINUTE)).await;
    let _second = gateway.open(&token(MINUTE)).await;
    let (reply, _) = gateway.ask(&format!("/?access_token={}", token(MINUTE)), "").await;
    assert_eq!((reply.status, public(&reply).as_str()), (429, "rate_limited"));
    let wait = reply.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(wait.is_some_and(|seconds| seconds >= 1), "{}", reply.head);
    assert_eq!(backend.dialled(), 2);
    // A place that was left is free again.
    first.abort();
    common::eventually("the upstream connection of the lost client goes", || backend.live() == 1).await;
    gateway.open(&token(MINUTE)).await;
}

#[tokio::test]
async fn a_host_of_another_certificate_is_misdirected() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let head = gateway.upgrade("/", "").replace("Host: localhost", "Host: other.test");
    let reply = gateway.connect().await.request(&head).await;
    assert_eq!(reply.status, 421, "{}", reply.head);
}

#[tokio::test]
async fn an_identity_header_cannot_be_spoofed_in_any_spelling() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "identity = { \"X-User\" = \"sub\" }")).await;
    let spoofed = [
        "X-User",
        "x-user",
        "X_User",
        "x_USER",
        "Portcullis-Stream",
        "portcullis_sub",
        "X-Forwarded-For",
        "X-Real-IP",
        "Forwarded",
    ];
    let lines: String = spoofed.iter().flat_map(|name| [name, ": root\r\n"]).collect();
    let target = format!("/?access_token={}", token(MINUTE));
    let (asked, (reply, _client)) = tokio::join!(
        async {
            let asked = backend.asked().await;
            (asked.request.clone(), asked.agree("").await)
        },
        gateway.ask(&target, &lines)
    );
    assert_eq!(reply.status, 101);
    assert!(!asked.0.contains("root"), "{}", asked.0);
    assert_eq!(asked.0.to_lowercase().matches("x-user: someone").count(), 1, "{}", asked.0);
}

/// The usual claims with the one that the route of [`refusing`] requires, and `more`.
fn with(more: &Value) -> Value {
    let mut claims = claims(MINUTE);
    claims["room"] = json!(1);
    for (name, value) in more.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    claims
}

/// A gateway that has a reason to refuse nearly everything.
async fn refusing() -> (Gateway, Backend) {
    let backend = Backend::echo().await;
    let route = "path = \"/app\"\norigins = [\"https://good.test\"]";
    let config =
        config(&backend.url(), route).replace("[[issuer.key]]", "required_claims = [\"room\"]\n[[issuer.key]]");
    (Gateway::start(&config).await, backend)
}

/// The public reason in a problem body (RFC 9457).
fn public(reply: &Reply) -> String {
    let body: Value =
        serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {}{}", reply.head, reply.body_text()));
    assert_eq!(body["status"], reply.status, "{body}");
    body["reason"].as_str().unwrap_or_else(|| panic!("no reason: {body}")).to_owned()
}
