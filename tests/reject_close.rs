//! `reject = "close"`: a refused client gets a `101` and a Close that a script can read.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::{
    Backend, Frame, Gateway, Link, PATIENCE, Role, Signal, claims, config, field, instant, mint, op, sign, token,
};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
const CLOSE: &str = "reject = \"close\"\nclose_timeout = \"2s\"";

fn with(server: &str, text: &str) -> String {
    text.replace("[log]", &format!("[server]\n{server}\n[log]"))
}

/// The Close of a client that was turned away, its own answered, and the end that follows.
async fn turned_away(gateway: &Gateway, target: &str, more: &str) -> (u16, String, String) {
    let (reply, mut client) = gateway.ask(target, more).await;
    assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
    assert_eq!(reply.header("sec-websocket-extensions"), None);
    let (code, reason) = {
        let close = client.frame().await;
        let (code, reason) = close.close_code();
        (code, reason.to_owned())
    };
    client.close(code, "").await;
    assert_eq!(client.rest().await, (Vec::new(), false), "an orderly end after {code} {reason}");
    (code, reason, reply.header("sec-websocket-protocol").unwrap_or_default().to_owned())
}

#[tokio::test]
async fn each_refusal_has_the_code_of_the_table_and_dials_nothing() {
    let backend = Backend::start().await;
    let route = format!("{CLOSE}\norigins = [\"https://app.example\"]");
    let text =
        config(&backend.url(), &route).replace("[[issuer.key]]", "required_claims = [\"scope\"]\n[[issuer.key]]");
    let gateway = Gateway::start(&text).await;
    let query = |token: &str| format!("/?access_token={token}");
    let signed = |claims| query(&mint(&claims));
    let scoped =
        |life: f64| json!({"iss": common::ISSUER, "sub": "x", "scope": "a", "exp": common::now().as_secs_f64() + life});
    let forged = sign(&json!({"alg": "HS256"}), &claims(MINUTE), b"another secret, also longer than 32 bytes");
    let mut early = scoped(90.0);
    early["nbf"] = json!(common::now().as_secs_f64() + 60.0);
    let foreign = "Origin: https://evil.example\r\n";
    let table: [(String, &str, u16, &str); 6] = [
        ("/".into(), "", 3000, "token_missing"),
        (signed(scoped(-60.0)), "", 3000, "token_expired"),
        (signed(early), "", 3000, "token_not_yet_valid"),
        (query(&forged), "", 3000, "token_invalid"),
        (signed(claims(MINUTE)), "", 3003, "forbidden"),
        (signed(scoped(60.0)), foreign, 3003, "forbidden"),
    ];
    for (target, more, code, reason) in table {
        assert_eq!(turned_away(&gateway, &target, more).await, (code, reason.to_owned(), String::new()));
    }
    assert_eq!(backend.dialled(), 0);
    let line = gateway.logged("a refusal", |line| field(line, "cause") == Some(&"origin".into())).await;
    assert_eq!((field(&line, "status"), field(&line, "code")), (Some(&json!(101)), Some(&json!(3003))), "{line}");
}

#[tokio::test]
async fn what_is_about_the_request_itself_stays_with_http() {
    let backend = Backend::start().await;
    let route = format!("{CLOSE}\npath = \"/chat\"");
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    let ask = async |request: String| {
        let mut link = gateway.connect().await;
        let reply = link.request(&request).await;
        let problem: serde_json::Value = serde_json::from_slice(&reply.body).expect("a problem");
        (reply.status, problem["reason"].as_str().expect("a reason").to_owned())
    };
    let upgrade = |target: &str, more: &str| gateway.upgrade(target, more);
    let two = format!("/chat?access_token={}&access_token={}", token(MINUTE), token(MINUTE * 2));
    let large = format!("/chat?access_token={}", "x".repeat(9_000));
    let table = [
        (upgrade("/elsewhere", ""), 404, "no_route"),
        (upgrade("/chat", "").replace("Upgrade: websocket\r\n", ""), 426, "upgrade_required"),
        (upgrade("/chat", "").replace("Version: 13", "Version: 8"), 426, "version"),
        (upgrade("/chat", "").replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400, "bad_request"),
        (upgrade(&two, ""), 400, "bad_request"),
        (upgrade(&large, ""), 400, "bad_request"),
        (upgrade("/chat", "Sec-WebSocket-Protocol: a,,b\r\n"), 400, "bad_request"),
        (upgrade("/chat/../x", ""), 400, "bad_request"),
    ];
    for (request, status, reason) in table {
        assert_eq!(ask(request).await, (status, reason.to_owned()));
    }
}

#[tokio::test]
async fn the_answer_is_the_first_subprotocol_that_is_not_the_token() {
    let backend = Backend::start().await;
    let route = format!("{CLOSE}\ncarriers = [\"subprotocol:pair\", \"subprotocol:prefix\", \"header\"]");
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    let expired = mint(&json!({"iss": common::ISSUER, "sub": "x", "exp": 1_000_000_000}));
    let table = [
        (format!("bearer, {expired}"), "bearer"),
        (format!("bearer.{expired}, chat, other"), "chat"),
        (format!("{expired}, chat"), "chat"),
        ("chat, other".to_owned(), "chat"),
    ];
    for (offer, expected) in table {
        let more = format!("Sec-WebSocket-Protocol: {offer}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n");
        let (code, _, answer) = turned_away(&gateway, "/", &more).await;
        assert_eq!((code, answer.as_str()), (3000, expected), "{offer}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_and_a_gateway_that_is_full_say_come_back_later() {
    let backend = Backend::echo().await;
    let nowhere =
        format!("[[route]]\nname = \"nowhere\"\npath = \"/nowhere\"\nupstream = \"ws://127.0.0.1:9\"\n{CLOSE}");
    let gateway = Gateway::start(&config(&backend.url(), &format!("{CLOSE}\nmax_streams = 1\n{nowhere}"))).await;
    let target = format!("/nowhere?access_token={}", token(MINUTE));
    assert_eq!(turned_away(&gateway, &target, "").await, (1013, "upstream_refused".into(), String::new()));
    let _one = gateway.open(&token(MINUTE)).await;
    let target = format!("/?access_token={}", token(MINUTE));
    assert_eq!(turned_away(&gateway, &target, "").await, (1013, "rate_limited".into(), String::new()));
}

#[tokio::test]
async fn the_service_s_own_refusal_is_passed_on_as_it_is() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), CLOSE)).await;
    let target = format!("/?access_token={}", token(MINUTE));
    let asked = gateway.ask(&target, "");
    let answered = async {
        let asked = backend.asked().await;
        asked.answer("HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nhi").await
    };
    let ((reply, _), _service) = tokio::join!(asked, answered);
    assert_eq!((reply.status, reply.body_text()), (418, "hi"));
}

#[tokio::test]
async fn the_connection_stays_until_the_client_has_closed_too_or_the_time_is_over() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), CLOSE)).await;
    let (_, mut client) = gateway.ask("/", "").await;
    assert_eq!(client.frame().await.close_code(), (3000, "token_missing"));
    // It still sends what it was about to send: that is read, and answers nothing.
    for _ in 0..100 {
        client.send(&Frame::new(op::BINARY, vec![7; 10_000])).await;
        client.send(&Frame::new(op::PING, "x")).await;
    }
    let early = tokio::time::timeout(Duration::from_millis(500), client.next_or_error()).await;
    assert!(early.is_err(), "nothing follows the Close, not even the end: {early:?}");
    client.close(3000, "").await;
    assert_eq!(client.rest().await, (Vec::new(), false));

    let (_, mut silent) = gateway.ask("/", "").await;
    let start = instant();
    assert_eq!(silent.frame().await.close_code().0, 3000);
    assert_eq!(silent.rest().await, (Vec::new(), false));
    assert!(start.elapsed() > Duration::from_millis(1_500) && start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn those_who_are_turned_away_count_among_those_who_wait() {
    let backend = Backend::start().await;
    let route = "reject = \"close\"\nclose_timeout = \"1m\"";
    let gateway = Gateway::start(&with("max_waiting = 3", &config(&backend.url(), route))).await;
    let mut clients: Vec<Link> = Vec::new();
    for _ in 0..4 {
        let (reply, mut client) = gateway.ask("/", "").await;
        assert_eq!(reply.status, 101);
        assert_eq!(client.frame().await.close_code().0, 3000);
        clients.push(client);
    }
    let mut oldest = clients.remove(0);
    assert_eq!(oldest.rest().await.0, Vec::<u8>::new(), "the oldest is let go of");
    for mut client in clients {
        let end = tokio::time::timeout(Duration::from_millis(200), client.next_or_error()).await;
        assert!(end.is_err(), "the others are still there: {end:?}");
    }
}

#[tokio::test]
async fn presets_and_own_texts_count_for_refusals_too() {
    let backend = Backend::start().await;
    let expired = format!("/?access_token={}", mint(&json!({"iss": common::ISSUER, "sub": "x", "exp": 1_000_000_000})));
    for (more, missing, old) in [
        ("close.preset = \"generic\"", (3000, "token_missing"), (3000, "token_expired")),
        ("close.preset = \"graphql-ws\"", (4401, "token_missing"), (4403, "token_expired")),
        ("close.preset = \"centrifuge\"", (3500, "token_missing"), (3005, "token_expired")),
        ("close.unauthorized = { code = 4999, reason = \"sign in\" }", (4999, "sign in"), (3000, "token_expired")),
        (
            "close.preset = \"graphql-ws\"\nclose.expired = { code = 4444 }\nclose.unauthorized = { code = 4445 }",
            (4445, "token_missing"),
            (4444, "token_expired"),
        ),
    ] {
        let gateway = Gateway::start(&config(&backend.url(), &format!("{CLOSE}\n{more}"))).await;
        for (target, (code, reason)) in [("/", missing), (expired.as_str(), old)] {
            assert_eq!(turned_away(&gateway, target, "").await, (code, reason.to_owned(), String::new()), "{more}");
        }
    }
}

#[tokio::test]
async fn a_route_with_first_messages_tells_its_other_refusals_by_a_close_too() {
    let backend = Backend::start().await;
    let route = format!("{CLOSE}\ncarriers = [\"message\"]\norigins = [\"https://app.example\"]");
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    let away = turned_away(&gateway, "/", "Origin: https://evil.example\r\n").await;
    assert_eq!(away, (3003, "forbidden".into(), String::new()));
    let (reply, mut client) = gateway.ask("/", "Origin: https://app.example\r\n").await;
    assert_eq!(reply.status, 101);
    client.text("no token").await;
    assert_eq!(client.frame().await.close_code(), (3000, "token_invalid"));
}

#[tokio::test]
async fn a_gateway_that_is_leaving_says_so_by_a_close() {
    let mut backend = Backend::start().await;
    let mut gateway = Gateway::start(&config(&backend.url(), CLOSE)).await;
    let target = format!("/?access_token={}", token(MINUTE));
    let mut client = gateway.connect().await;
    client.raw(gateway.upgrade(&target, "").as_bytes()).await;
    let asked = backend.asked().await;
    gateway.signal(Signal::TERM);
    gateway.logged("the drain", |line| field(line, "message") == Some(&"draining".into())).await;
    let _service = asked.agree("").await;
    assert_eq!(client.reply().await.expect("an answer").status, 101);
    assert_eq!(client.frame().await.close_code(), (1013, "draining"));
    client.raw(&Frame::close(1013, "").encode(Role::Client)).await;
    assert_eq!(client.rest().await, (Vec::new(), false));
    assert!(gateway.exit(PATIENCE).await.success());
}
