//! A token is renewed on the live stream: out of band, for whoever holds the stream's handle and a fresh token of the same
//! principal, and for nobody else; never after the old deadline.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, Reply, claims, config, field, instant, mint, now, op, token, within};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// Posts a fresh token for the stream with this handle.
async fn renew(gateway: &Gateway, handle: &str, token: &str) -> Reply {
    post(gateway, "/.portcullis/renew", &format!("Portcullis-Stream: {handle}\r\nAuthorization: Bearer {token}\r\n"))
        .await
}

async fn post(gateway: &Gateway, path: &str, headers: &str) -> Reply {
    ask(gateway, "POST", path, headers).await
}

async fn ask(gateway: &Gateway, method: &str, path: &str, headers: &str) -> Reply {
    let port = gateway.address().port();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n{headers}\r\n");
    gateway.connect().await.request(&head).await
}

fn reason(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(reply.body_text()).expect("problem JSON");
    body["reason"].as_str().unwrap_or_default().to_owned()
}

fn expires_in(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{}\n{}", reply.head, reply.body_text());
    let body: Value = serde_json::from_str(reply.body_text()).expect("JSON");
    body["expires_in"].as_u64().expect("seconds")
}

/// A stream with both of its ends, opened with this token, and the handle that the gateway gave it.
async fn open(gateway: &Gateway, backend: &mut Backend, token: &str) -> (Link, Link, String) {
    let target = format!("/?access_token={token}");
    let (opened, service) = tokio::join!(gateway.ask(&target, ""), backend.accept());
    let (reply, client) = opened;
    assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
    let handle = reply.header("portcullis-stream").expect("a handle").to_owned();
    assert_eq!(handle.len(), 22);
    (client, service, handle)
}

async fn start(route: &str) -> (Gateway, Backend) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), route)).await;
    (gateway, backend)
}

async fn echo(client: &mut Link, service: &mut Link, text: &str) {
    client.text(text).await;
    assert_eq!(service.frame().await.text(), text);
    service.text(text).await;
    assert_eq!(client.frame().await.text(), text);
}

#[tokio::test]
async fn a_stream_lives_through_three_tokens_and_ends_with_the_last() {
    let (gateway, mut backend) = start("").await;
    let life = Duration::from_millis(1_500);
    let (mut client, mut service, handle) = open(&gateway, &mut backend, &token(life)).await;
    let mut expires = now() + life;
    for renewal in 0..3 {
        tokio::time::sleep(expires.saturating_sub(now()).saturating_sub(Duration::from_millis(500))).await;
        let fresh = claims(life);
        expires = Duration::from_secs_f64(fresh["exp"].as_f64().expect("exp"));
        assert!(expires_in(&renew(&gateway, &handle, &mint(&fresh)).await) <= 1);
        echo(&mut client, &mut service, &format!("after renewal {renewal}")).await;
    }
    assert_eq!(client.frame().await.close_code(), (3000, "token expired"));
    assert!(now() >= expires && now() < expires + Duration::from_millis(400), "on time, by the last token");
    assert_eq!(service.frame().await.close_code().0, 1001);
    service.close(1001, "").await;
    client.close(3000, "").await;
    let line = gateway.logged("the end of the stream", |line| field(line, "by").is_some()).await;
    assert_eq!(field(&line, "renewals"), Some(&json!(3)));
    let reply = renew(&gateway, &handle, &token(MINUTE)).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (410, "stream_gone"));
}

#[tokio::test]
async fn the_new_deadline_counts_for_the_very_next_frame() {
    let (gateway, mut backend) = start("").await;
    let (mut client, mut service, handle) = open(&gateway, &mut backend, &token(Duration::from_secs(1))).await;
    assert!(expires_in(&renew(&gateway, &handle, &token(MINUTE)).await) >= 58);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    echo(&mut client, &mut service, "past the old deadline").await;
}

#[tokio::test]
async fn a_client_may_choose_its_handle_which_never_reaches_the_service() {
    let (gateway, mut backend) = start("").await;
    let handle = "a-handle_of-the-client-s-own-0123456789";
    let target = format!("/chat?a=1&portcullis%5Fstream={handle}&access_token={}&b=2", token(MINUTE));
    let (opened, _service) = tokio::join!(gateway.ask(&target, ""), async {
        let asked = backend.asked().await;
        assert_eq!(asked.target(), "/chat?a=1&b=2");
        asked.agree("").await
    });
    assert_eq!(opened.0.status, 101);
    assert_eq!(opened.0.header("portcullis-stream"), None, "the client knows it");
    assert!(expires_in(&renew(&gateway, handle, &token(MINUTE * 2)).await) > 60);

    let (reply, _) = gateway.ask(&target, "").await;
    assert_eq!((reply.status, reason(&reply).as_str()), (409, "handle_taken"), "one in use already");
    for (bad, why) in [("tooshort", "short"), (&*"x".repeat(65), "long"), ("a%20handle-with-a-space-in-it", "odd")] {
        let (reply, _) = gateway.ask(&format!("/?access_token={}&portcullis_stream={bad}", token(MINUTE)), "").await;
        assert_eq!(reply.status, 400, "{why}");
    }
    let two = format!("/?access_token={}&portcullis_stream={handle}&portcullis_stream={handle}x", token(MINUTE));
    assert_eq!(gateway.ask(&two, "").await.0.status, 400, "two different ones");
}

#[tokio::test]
async fn a_refused_renewal_says_why_and_changes_nothing() {
    let (gateway, mut backend) = start("max_renewals = 2\nrenewal_interval = \"0s\"").await;
    let (mut client, mut service, handle) = open(&gateway, &mut backend, &token(MINUTE)).await;
    let with = |changes: Value| {
        let mut all = claims(MINUTE * 2);
        let changes = changes.as_object().expect("claims").clone();
        all.as_object_mut().expect("claims").extend(changes);
        mint(&all)
    };
    let past = now().as_secs() - 5;
    let table = [
        (with(json!({"sub": "another"})), 403, "forbidden"),
        (with(json!({"sub": null})), 403, "forbidden"),
        (with(json!({"iss": "https://other.test"})), 401, "token_invalid"),
        (with(json!({"exp": past})), 401, "token_expired"),
        (with(json!({"exp": now().as_secs() + 30})), 409, "expiry_shorter"),
        (format!("{}x", token(MINUTE)), 401, "token_invalid"),
    ];
    for (token, status, why) in table {
        let reply = renew(&gateway, &handle, &token).await;
        assert_eq!((reply.status, reason(&reply).as_str()), (status, why));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("www-authenticate").is_some(), status == 401);
    }
    let reply = post(&gateway, "/.portcullis/renew", &format!("Portcullis-Stream: {handle}\r\n")).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_missing"));
    let token = token(MINUTE * 2);
    let query = format!("/.portcullis/renew?access_token={token}");
    let reply = post(&gateway, &query, &format!("Portcullis-Stream: {handle}\r\n")).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_missing"), "not in the query");
    for handles in ["", "Portcullis-Stream: short\r\n", &format!("Portcullis-Stream: {handle}\r\n").repeat(2)] {
        let reply = post(&gateway, "/.portcullis/renew", &format!("{handles}Authorization: Bearer {token}\r\n")).await;
        assert_eq!((reply.status, reason(&reply).as_str()), (400, "bad_request"));
    }
    let reply = renew(&gateway, "a-handle-that-is-nobody-s", &token).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (410, "stream_gone"), "guessed");
    assert_eq!(ask(&gateway, "GET", "/.portcullis/renew", "").await.status, 405);

    for _ in 0..2 {
        // The same token twice is the same deadline twice: whoever did not hear the answer may ask again.
        assert!(expires_in(&renew(&gateway, &handle, &token).await) > 60);
    }
    let reply = renew(&gateway, &handle, &token).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (403, "renewals_used_up"));
    echo(&mut client, &mut service, "still here").await;
    assert_eq!(backend.dialled(), 1, "nothing of this reached the service");
}

#[tokio::test]
async fn another_issuer_s_token_for_the_same_subject_is_another_principal() {
    let issuer = "[[issuer]]\nname = \"other\"\niss = \"https://other.test\"\n[[issuer.key]]\nalgorithm = \"HS256\"\nsecret_file = \"token.secret\"";
    let (gateway, mut backend) = start(&format!("same = [\"iss\", \"sid\"]\n{issuer}")).await;
    let with = |iss: &str, sub: &str, sid: &str| {
        let mut all = claims(MINUTE * 2);
        all.as_object_mut()
            .expect("claims")
            .extend(json!({"iss": iss, "sub": sub, "sid": sid}).as_object().cloned().expect("claims"));
        mint(&all)
    };
    let first = with(common::ISSUER, "one message", "run-1");
    let (mut client, mut service, handle) = open(&gateway, &mut backend, &first).await;
    for (token, status) in [
        (with("https://other.test", "one message", "run-1"), 403),
        (with(common::ISSUER, "one message", "run-2"), 403),
        // What is not in `same` may change.
        (with(common::ISSUER, "another message", "run-1"), 200),
    ] {
        assert_eq!(renew(&gateway, &handle, &token).await.status, status);
    }
    echo(&mut client, &mut service, "still here").await;
}

#[tokio::test]
async fn a_token_that_names_nobody_renews_no_stream_but_its_own() {
    let (gateway, mut backend) = start("").await;
    let nobody = |sub: &Value, life: Duration| {
        let mut all = claims(life);
        all["sub"] = sub.clone();
        mint(&all)
    };
    for sub in [Value::Null, "".into()] {
        let own = nobody(&sub, MINUTE);
        let (_client, _service, handle) = open(&gateway, &mut backend, &own).await;
        let reply = renew(&gateway, &handle, &nobody(&sub, MINUTE * 2)).await;
        assert_eq!((reply.status, reason(&reply).as_str()), (403, "forbidden"));
        assert_eq!(renew(&gateway, &handle, &own).await.status, 200);
    }
}

#[tokio::test]
async fn an_old_token_that_is_replayed_does_not_move_the_deadline_back() {
    let (gateway, mut backend) = start("").await;
    let first = token(MINUTE);
    let (_client, _service, handle) = open(&gateway, &mut backend, &first).await;
    let second = token(MINUTE * 2);
    assert_eq!(renew(&gateway, &handle, &second).await.status, 200);
    let reply = renew(&gateway, &handle, &first).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (409, "expiry_shorter"));
    assert!(expires_in(&renew(&gateway, &handle, &second).await) > 60, "the same again is no harm");
}

#[tokio::test]
async fn a_stream_whose_client_has_closed_is_gone() {
    let (gateway, mut backend) = start("").await;
    let (mut client, mut service, handle) = open(&gateway, &mut backend, &token(MINUTE)).await;
    client.close(1000, "").await;
    assert_eq!(service.frame().await.close_code().0, 1000);
    // The service has not answered: the stream is closing, not closed.
    let reply = renew(&gateway, &handle, &token(MINUTE * 2)).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (410, "stream_gone"));
}

#[tokio::test]
async fn a_gateway_that_leaves_renews_no_stream_that_it_has_told() {
    let (gateway, mut backend) = start("").await;
    let (mut client, _service, handle) = open(&gateway, &mut backend, &token(MINUTE)).await;
    // The connection is there, and the request under way, before the gateway is told to leave.
    let mut post = gateway.connect().await;
    let head = format!(
        "POST /.portcullis/renew HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 0\r\nPortcullis-Stream: {handle}\r\nAuthorization: Bearer {}\r\n",
        gateway.address().port(),
        token(MINUTE * 2)
    );
    post.raw(head.as_bytes()).await;
    gateway.signal(common::Signal::TERM);
    assert_eq!(client.frame().await.close_code().0, 1012);
    // The connection may be closed by then: that is no 200 either.
    if post.try_raw(b"\r\n").await.is_ok()
        && let Ok(reply) = post.reply().await
    {
        assert_eq!(reply.status, 410);
    }
}

#[tokio::test]
async fn the_owners_attempts_are_paced_good_or_bad_and_nobody_elses_use_them_up() {
    let (gateway, mut backend) = start("renewal_interval = \"10s\"").await;
    let (_client, _service, handle) = open(&gateway, &mut backend, &token(MINUTE)).await;
    let mut other = claims(MINUTE * 2);
    other["sub"] = "another".into();
    for _ in 0..10 {
        // Who has the handle only, from somebody's log.
        assert_eq!(renew(&gateway, &handle, "nonsense").await.status, 401);
        assert_eq!(renew(&gateway, &handle, &mint(&other)).await.status, 403);
    }
    for attempt in 0..5 {
        let (token, status) = if attempt < 3 { (token(MINUTE / 2), 409) } else { (token(MINUTE * 2), 200) };
        assert_eq!(renew(&gateway, &handle, &token).await.status, status, "{attempt}");
    }
    let reply = renew(&gateway, &handle, &token(MINUTE * 2)).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (429, "rate_limited"));
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test]
async fn max_stream_ends_a_stream_however_often_it_is_renewed() {
    let (gateway, mut backend) = start("max_stream = \"2s\"").await;
    let begun = instant();
    let (mut client, _service, handle) = open(&gateway, &mut backend, &token(Duration::from_secs(1))).await;
    assert!(expires_in(&renew(&gateway, &handle, &token(MINUTE)).await) <= 2, "capped");
    assert_eq!(client.frame().await.close_code(), (3000, "stream limit"));
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn an_earlier_expiry_counts_where_the_route_allows_it() {
    let (gateway, mut backend) = start("allow_shorter = true").await;
    let (mut client, _service, handle) = open(&gateway, &mut backend, &token(MINUTE)).await;
    assert!(expires_in(&renew(&gateway, &handle, &token(Duration::from_secs(1))).await) <= 1);
    let close = within(Duration::from_secs(3), "the earlier end", client.frame()).await;
    assert_eq!(close.close_code(), (3000, "token expired"));
}

#[tokio::test]
async fn a_page_of_the_list_may_renew_and_read_every_answer_and_no_other_page() {
    let page = "https://app.example";
    let (gateway, mut backend) =
        start(&format!("origins = [\"{page}\"]\ncarriers = [\"query:access_token\", \"cookie:session\"]")).await;
    let target = format!("/room/1?access_token={}", token(MINUTE));
    let origin = format!("Origin: {page}\r\n");
    let (opened, _service) = tokio::join!(gateway.ask(&target, &origin), backend.accept());
    let handle = opened.0.header("portcullis-stream").expect("a handle").to_owned();
    let path = "/room/1/.portcullis/renew";

    let preflight = format!(
        "{origin}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,portcullis-stream\r\n"
    );
    let reply = ask(&gateway, "OPTIONS", path, &preflight).await;
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-headers"), Some("authorization, portcullis-stream"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("POST"));

    // An HttpOnly cookie can renew.
    let cookie = format!("Portcullis-Stream: {handle}\r\nCookie: session={}\r\n", token(MINUTE * 2));
    let good = post(&gateway, path, &format!("{origin}{cookie}")).await;
    assert!(expires_in(&good) > 60);
    let gone = post(&gateway, path, &format!("{origin}Portcullis-Stream: a-handle-that-is-nobody-s\r\n")).await;
    assert_eq!(gone.status, 410);
    for reply in [&reply, &good, &gone] {
        assert_eq!(reply.header("access-control-allow-origin"), Some(page));
        assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(reply.header("vary"), Some("Origin"));
    }
    for foreign in ["Origin: https://evil.example\r\n", ""] {
        for method in ["POST", "OPTIONS"] {
            let reply = ask(&gateway, method, path, &format!("{foreign}{cookie}")).await;
            assert_eq!((reply.status, reason(&reply).as_str()), (403, "forbidden"), "{method} {foreign}");
            assert_eq!(reply.header("access-control-allow-origin"), None);
        }
    }
}

#[tokio::test]
async fn nothing_is_served_there_on_a_route_without_renewal() {
    let (gateway, mut backend) = start("renew = false").await;
    let target = format!("/?access_token={}&portcullis_stream=0123456789012345678901234", token(MINUTE));
    let (opened, asked) = tokio::join!(gateway.ask(&target, ""), async {
        let asked = backend.asked().await;
        assert_eq!(asked.target(), "/?portcullis_stream=0123456789012345678901234", "not ours");
        asked.agree("").await
    });
    assert_eq!(opened.0.status, 101);
    assert_eq!(opened.0.header("portcullis-stream"), None);
    let _ = asked;
    let reply = renew(&gateway, "0123456789012345678901234", &token(MINUTE)).await;
    assert_eq!(reply.status, 426, "as on any path of the route");
}

#[tokio::test]
async fn a_handle_counts_on_its_own_route_only() {
    let mut backend = Backend::start().await;
    let second = format!("[[route]]\nname = \"second\"\npath = \"/second\"\nupstream = \"{}\"", backend.url());
    let gateway = Gateway::start(&config(&backend.url(), &second)).await;
    let (_client, _service, handle) = open(&gateway, &mut backend, &token(MINUTE)).await;
    let headers = format!("Portcullis-Stream: {handle}\r\nAuthorization: Bearer {}\r\n", token(MINUTE * 2));
    assert_eq!(post(&gateway, "/second/.portcullis/renew", &headers).await.status, 410);
    assert_eq!(post(&gateway, "/any/where/.portcullis/renew", &headers).await.status, 200);
}

#[tokio::test]
async fn the_notice_comes_between_two_messages_and_once_for_each_token() {
    let (gateway, mut backend) = start("expiry_notice = \"1s\"").await;
    let (mut client, mut service, handle) = open(&gateway, &mut backend, &token(Duration::from_millis(1_500))).await;
    // The service is in the middle of a message when it is due.
    let first = Frame { fin: false, ..Frame::new(op::TEXT, "one ") };
    service.send(&first).await;
    assert_eq!(client.frame().await.text(), "one ");
    tokio::time::sleep(Duration::from_millis(800)).await;
    service.send(&Frame::new(op::CONTINUATION, "message")).await;
    assert_eq!(client.frame().await.text(), "message");
    let notice: Value = serde_json::from_str(client.frame().await.text()).expect("JSON");
    assert_eq!(notice, json!({"portcullis": "expiring", "expires_in": 0}));
    assert!(expires_in(&renew(&gateway, &handle, &token(Duration::from_millis(2_500))).await) <= 2);
    let notice: Value = serde_json::from_str(client.frame().await.text()).expect("JSON");
    assert_eq!(notice["portcullis"], "expiring");
    assert_eq!(client.frame().await.close_code(), (3000, "token expired"), "nothing more");
}

#[tokio::test]
async fn handles_and_tokens_of_renewals_reach_no_log() {
    let (gateway, mut backend) = start("").await;
    let (_client, _service, handle) = open(&gateway, &mut backend, &token(MINUTE)).await;
    let fresh = token(MINUTE * 2);
    assert_eq!(renew(&gateway, &handle, &fresh).await.status, 200);
    assert_eq!(renew(&gateway, &handle, "nonsense-that-is-no-token").await.status, 401);
    gateway.logged("the refusal", |line| field(line, "cause") == Some(&json!("token_malformed"))).await;
    let log = gateway.log();
    for secret in [&*handle, &*fresh, "nonsense-that-is-no-token"] {
        assert!(!log.contains(secret), "{log}");
    }
}
