//! What a service is told with each upgrade: who comes, the client's token where it wants it, and who the gateway is.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{Asked, Backend, Frame, Gateway, Link, Reply, Signal, claims, config, eventually, field, mint, op, token};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

async fn start(route: &str) -> (Gateway, Backend) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), route)).await;
    (gateway, backend)
}

/// The usual claims and these.
fn with(more: &Value) -> String {
    let mut all = claims(MINUTE);
    for (name, value) in more.as_object().expect("an object") {
        all[name] = value.clone();
    }
    mint(&all)
}

/// Opens a stream; what the service was asked, and both ends of the stream.
async fn open(gateway: &Gateway, backend: &mut Backend, target: &str, more: &str) -> (String, Link, Link) {
    let answered = async {
        let asked = backend.asked().await;
        (asked.request.clone(), asked.agree("").await)
    };
    let ((reply, client), (request, service)) = tokio::join!(gateway.ask(target, more), answered);
    assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
    (request, client, service)
}

/// All values of a header, in any spelling of its name.
fn values<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    let fold = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
    let lines = request.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| fold(key) == fold(name)).map(|(_, value)| value.trim()).collect()
}

fn reason(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(reply.body_text()).expect("problem JSON");
    body["reason"].as_str().unwrap_or_default().to_owned()
}

async fn ticket(gateway: &Gateway, token: &str) -> String {
    let port = gateway.address().port();
    let head = format!(
        "POST /.portcullis/ticket HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let reply = gateway.connect().await.request(&head).await;
    assert_eq!(reply.status, 200, "{}\n{}", reply.head, reply.body_text());
    let body: Value = serde_json::from_str(reply.body_text()).expect("JSON");
    body["ticket"].as_str().expect("a ticket").to_owned()
}

const SHAPES: &str = r#"[route.identity]
X-User = "sub"
X-Roles = "/realm_access/roles"
X-Scope = { claim = "scp", separator = " " }
X-Access = { claim = "/realm_access", list = "json" }
X-Name = { claim = "name", encoding = "base64" }
X-Names = { claim = "names", list = "json", encoding = "base64" }
"#;

#[tokio::test]
async fn a_claim_of_each_shape_reaches_the_service_as_the_route_says() {
    let (gateway, mut backend) = start(SHAPES).await;
    let rows = [
        (
            json!({
                "sub": "Zoë", "realm_access": {"roles": ["user", "a,b", 7, true]}, "scp": ["read", "write it"],
                "name": "Zoë\r\n", "names": ["ö", "\u{0}"],
            }),
            [
                vec!["Zo%C3%AB".to_owned()],
                vec!["user,a%2Cb,7,true".to_owned()],
                vec!["read write%20it".to_owned()],
                vec![r#"{"roles":["user","a,b",7,true]}"#.to_owned()],
                vec![STANDARD.encode("Zoë\r\n")],
                vec![STANDARD.encode(r#"["\u00f6","\u0000"]"#)],
            ],
        ),
        (
            json!({"sub": 7, "realm_access": {"roles": []}, "scp": "read write", "name": null, "names": "x"}),
            [
                vec!["7".to_owned()],
                vec![],
                vec!["read%20write".to_owned()],
                vec![r#"{"roles":[]}"#.to_owned()],
                vec![],
                vec![STANDARD.encode("\"x\"")],
            ],
        ),
    ];
    for (more, expected) in rows {
        let (request, ..) = open(&gateway, &mut backend, &format!("/?access_token={}", with(&more)), "").await;
        for (name, expected) in ["x-user", "x-roles", "x-scope", "x-access", "x-name", "x-names"].iter().zip(expected) {
            assert_eq!(values(&request, name), expected, "{name} of {more}");
        }
    }
}

#[tokio::test]
async fn what_a_client_says_under_these_names_never_reaches_the_service_claim_or_not() {
    let route = format!(
        "pass_token = true\nupstream_credential_file = \"gate\"\nupstream_credential_header = \"X-Gate\"\n{SHAPES}"
    );
    let backend = Backend::start().await;
    let text = config(&backend.url(), &route).replace("\"gate\"", "\"token.secret\"");
    let (gateway, mut backend) = (Gateway::start(&text).await, backend);
    let mut lies = "authorization: Basic bGll\r\nAUTHORIZATION: token lie\r\n".to_owned();
    for name in ["X-User", "X-Roles", "X-Scope", "X-Access", "X-Name", "X-Names", "X-Gate"] {
        for spelled in [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replace('-', ".")] {
            lies = lies + &spelled + ": lie\r\n";
        }
    }
    for more in [json!({}), json!({"realm_access": {"roles": ["user"]}, "scp": "read", "name": "x", "names": []})] {
        let token = with(&more);
        let (request, ..) = open(&gateway, &mut backend, &format!("/?access_token={token}"), &lies).await;
        assert!(!request.contains("lie") && !request.contains("bGll"), "{request}");
        assert_eq!(values(&request, "authorization"), [format!("Bearer {token}")]);
        assert_eq!(values(&request, "x-gate"), [common::SECRET]);
        assert_eq!(values(&request, "x-user"), ["someone"]);
    }
}

#[tokio::test]
async fn a_claim_that_its_header_cannot_say_is_refused_and_nothing_is_dialled() {
    let message =
        "[[route]]\nname = \"message\"\npath = \"/message\"\ncarriers = [\"message\"]\nidentity = { X-User = \"sub\" }";
    let backend = Backend::start().await;
    let route = format!("{SHAPES}{message}\nupstream = \"{}\"", backend.url());
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    let rows = [
        json!({"sub": "a\r\nX-Admin: 1"}),
        json!({"sub": "a\nb"}),
        json!({"sub": "a\rb"}),
        json!({"sub": "a\u{0}b"}),
        json!({"sub": {"name": "ann"}}),
        json!({"realm_access": {"roles": ["user", "ad\nmin"]}}),
        json!({"realm_access": {"roles": [["user"]]}}),
        json!({"scp": ["read", ""]}),
        json!({"realm_access": {"roles": vec!["é".repeat(100); 15]}}),
    ];
    for more in &rows {
        let (reply, _) = gateway.ask("/", &format!("Authorization: Bearer {}\r\n", with(more))).await;
        assert_eq!((reply.status, reason(&reply).as_str()), (403, "forbidden"), "{more}");
    }
    let unusable = |line: &Value| field(line, "cause") == Some(&json!("identity_unusable"));
    eventually("a line for each", || gateway.log_lines().iter().filter(|line| unusable(line)).count() == rows.len())
        .await;
    assert!(!gateway.log().contains("X-Admin"), "{}", gateway.log());

    let (_, mut client) = gateway.ask("/message", "").await;
    client.text(&with(&rows[0])).await;
    assert_eq!(client.frame().await.close_code(), (3003, "forbidden"));
    assert_eq!(backend.dialled(), 0);
}

#[tokio::test]
async fn the_token_goes_on_as_a_bearer_whichever_way_it_came() {
    let carriers = "carriers = [\"query:t\", \"subprotocol:pair\", \"subprotocol:prefix\", \"subprotocol:k8s\", \"header\", \"cookie:session\", \"ticket:ticket\"]\norigins = [\"https://good.test\"]\npass_token = true";
    let backend = Backend::start().await;
    let message = format!(
        "[[route]]\nname = \"message\"\npath = \"/message\"\ncarriers = [\"message\"]\npass_token = true\nupstream = \"{}\"",
        backend.url()
    );
    let gateway = Gateway::start(&config(&backend.url(), &format!("{carriers}\n{message}"))).await;
    let mut backend = backend;
    let token = token(MINUTE);
    let encoded = URL_SAFE_NO_PAD.encode(&token);
    let origin = "Origin: https://good.test\r\n";
    let port = gateway.address().port();
    let post = format!(
        "POST /.portcullis/ticket HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n{origin}Cookie: session={token}\r\n\r\n"
    );
    let reply = gateway.connect().await.request(&post).await;
    let body: Value = serde_json::from_str(reply.body_text()).expect("JSON");
    let ticket = body["ticket"].as_str().expect("a ticket");
    for (target, more) in [
        (format!("/?t={token}"), "Authorization: Basic eDp5\r\n".to_owned()),
        ("/".into(), format!("Sec-WebSocket-Protocol: bearer, {token}\r\n")),
        ("/".into(), format!("Sec-WebSocket-Protocol: bearer.{token}, chat\r\n")),
        ("/".into(), format!("Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{encoded}, chat\r\n")),
        ("/".into(), format!("authorization: bearer  {token}\r\n")),
        ("/".into(), format!("Cookie: a=b; session={token}\r\n")),
        (format!("/?ticket={ticket}"), "Authorization: Basic eDp5\r\n".to_owned()),
    ] {
        let (request, ..) = open(&gateway, &mut backend, &target, &format!("{origin}{more}")).await;
        assert_eq!(values(&request, "authorization"), [format!("Bearer {token}")], "{target} {more}");
        assert_eq!(request.matches(token.as_str()).count(), 1, "{request}");
        assert!(!request.contains(&encoded) && !request.contains(ticket), "{request}");
    }
    let (reply, mut client) = gateway.ask("/message", "Authorization: Basic eDp5\r\n").await;
    assert_eq!(reply.status, 101);
    client.text(&format!("Bearer {token}")).await;
    let asked: Asked = backend.asked().await;
    assert_eq!(values(&asked.request, "authorization"), [format!("Bearer {token}")]);
    let mut service = asked.agree("").await;
    client.text("hello").await;
    assert_eq!(service.frame().await, Frame { masked: true, ..Frame::new(op::TEXT, "hello") }, "and not as a message");
}

#[tokio::test]
async fn a_ticket_from_before_the_route_passed_tokens_on_is_refused_and_not_sent_without() {
    let tickets = "carriers = [\"ticket:ticket\"]";
    let (gateway, mut backend) = start(tickets).await;
    let token = token(MINUTE);
    let (old, other) = (ticket(&gateway, &token).await, ticket(&gateway, &token).await);
    let (request, ..) = open(&gateway, &mut backend, &format!("/?ticket={other}"), "").await;
    assert!(values(&request, "authorization").is_empty(), "{request}");
    let passing = config(&backend.url(), &format!("{tickets}\npass_token = true"));
    std::fs::write(gateway.path("config.toml"), passing).expect("the config");
    reload(&gateway).await;
    let dialled = backend.dialled();
    let (reply, _) = gateway.ask(&format!("/?ticket={old}"), "").await;
    assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_invalid"));
    assert_eq!(backend.dialled(), dialled);
    let new = ticket(&gateway, &token).await;
    let (request, ..) = open(&gateway, &mut backend, &format!("/?ticket={new}"), "").await;
    assert_eq!(values(&request, "authorization"), [format!("Bearer {token}")]);
}

#[tokio::test]
async fn the_credential_is_sent_with_each_upgrade_and_read_anew_on_reload() {
    let backend = Backend::start().await;
    let route = "carriers = [\"header\"]\nupstream_credential_file = \"token.secret\"";
    let (gateway, mut backend) = (Gateway::start(&config(&backend.url(), route)).await, backend);
    let bearer = format!("Authorization: Bearer {}\r\nAuthorization: Basic eDp5\r\n", token(MINUTE));
    for _ in 0..2 {
        let (request, ..) = open(&gateway, &mut backend, "/", &bearer).await;
        assert_eq!(values(&request, "authorization"), [common::SECRET]);
    }
    let text = config(&backend.url(), &route.replace("token.secret", "gate.credential"));
    std::fs::write(gateway.path("config.toml"), text).expect("the config");
    std::fs::write(gateway.path("gate.credential"), "Basic Z2F0ZTpwYXNz\r\n").expect("the credential");
    reload(&gateway).await;
    let (request, ..) = open(&gateway, &mut backend, "/", &bearer).await;
    assert_eq!(values(&request, "authorization"), ["Basic Z2F0ZTpwYXNz"]);

    // One that is none changes nothing.
    std::fs::write(gateway.path("gate.credential"), "Basic swordfish\nX-Admin: 1\n").expect("the credential");
    gateway.signal(Signal::HUP);
    eventually("a complaint in the log", || gateway.log().contains("\"ERROR\"")).await;
    let (request, ..) = open(&gateway, &mut backend, "/", &bearer).await;
    assert_eq!(values(&request, "authorization"), ["Basic Z2F0ZTpwYXNz"]);
    let log = gateway.log();
    assert!(!log.contains("swordfish") && !log.contains("Z2F0ZTpwYXNz"), "{log}");
}

#[tokio::test]
async fn neither_the_token_nor_the_credential_reaches_a_log_or_an_answer() {
    let route = "carriers = [\"query:t\", \"ticket:ticket\"]\npass_token = true\nidentity = { X-User = \"sub\" }\nupstream_credential_file = \"token.secret\"\nupstream_credential_header = \"X-Gate\"";
    let backend = Backend::start().await;
    let down = format!("[[route]]\nname = \"down\"\npath = \"/down\"\nupstream = \"ws://127.0.0.1:9\"\n{route}");
    let text = config(&backend.url(), &format!("{route}\n{down}")).replace("level = \"debug\"", "level = \"trace\"");
    let (gateway, mut backend) = (Gateway::start(&text).await, backend);
    let token = with(&json!({"sub": "swordfish"}));
    let bad = with(&json!({"sub": "sword\nfish"}));
    let mut answers = String::new();
    let spent = ticket(&gateway, &token).await;
    for target in [format!("/?t={token}"), format!("/?ticket={spent}")] {
        let (_, client, _service) = open(&gateway, &mut backend, &target, "").await;
        answers.push_str(&client.head);
    }
    for (target, status) in [(format!("/down?t={token}"), 502), (format!("/?t={bad}"), 403)] {
        let (reply, _) = gateway.ask(&target, "").await;
        assert_eq!(reply.status, status);
        answers.push_str(&reply.head);
        answers.push_str(reply.body_text());
    }
    // A service may show what it was sent, and nothing is searched for that; but the gateway logs nothing of it.
    let target = format!("/?t={token}");
    let (_, asked) = tokio::join!(gateway.ask(&target, ""), async {
        let asked = backend.asked().await;
        let echo = format!("HTTP/1.1 200 OK\r\nX-Echo: {token}\r\nContent-Length: 0\r\n\r\n");
        asked.answer(echo).await
    });
    drop(asked);
    gateway.signal(Signal::HUP);
    gateway.logged("a reload", |line| field(line, "message") == Some(&json!("reloaded"))).await;
    let log = gateway.log();
    assert!(log.lines().count() >= 10, "the log is too short to tell anything:\n{log}");
    // The header is the same for all and tells nothing.
    let parts = token.split('.').skip(1).chain(bad.split('.').skip(1)).map(|part| &part[part.len() - 24..]);
    for secret in parts.chain([common::SECRET, "swordfish", &spent]) {
        assert!(!log.contains(secret), "{secret} stands in the log:\n{log}");
        assert!(!answers.contains(secret), "{secret} stands in an answer:\n{answers}");
    }
}

/// Has the config read anew, and waits until it counts.
async fn reload(gateway: &Gateway) {
    gateway.signal(Signal::HUP);
    gateway.logged("a reload", |line| field(line, "message") == Some(&json!("reloaded"))).await;
}
