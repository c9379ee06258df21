//! Plain requests with a token are held to it for as long as their answer lasts.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{
    ADMIN, Admin, Backend, Gateway, Http2, Link, PATIENCE, Signal, ban, claims, config, instant, mint, token, within,
};
use http::Request;
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const LAST: &str = "0\r\n\r\n";
const CUT: &str = "portcullis_http_requests_total{route=\"default\",result=\"cut\"}";

fn require(backend: &Backend, more: &str) -> String {
    format!("{ADMIN}{}", config(&backend.url(), &format!("http = \"require\"\n{more}")))
}

fn get(target: &str, token: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
}

/// An answer that has begun: both ends.
async fn begin(gateway: &Gateway, backend: &mut Backend, token: &str) -> (Link, Link) {
    let mut client = gateway.connect().await;
    client.raw(get("/events", token).as_bytes()).await;
    let mut service = backend.connection().await;
    service.read_head().await.expect("a request");
    service.raw(format!("{EVENTS}5\r\nfirst\r\n").as_bytes()).await;
    client.read_head().await.expect("an answer");
    while !client.unread().ends_with(b"first\r\n") {
        assert!(client.fill().await.expect("bytes"), "the end");
    }
    (client, service)
}

/// The client is cut off, and cannot take what it has for the whole; the service sees that it is gone.
async fn cut(client: &mut Link, service: &mut Link) {
    let (rest, _) = client.rest().await;
    assert!(!String::from_utf8_lossy(&rest).ends_with(LAST), "{}", String::from_utf8_lossy(&rest));
    service.rest().await;
}

#[tokio::test]
async fn an_answer_that_lasts_is_cut_when_its_token_expires_and_not_before() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let begun = instant();
    let life = Duration::from_millis(2500);
    let (mut client, mut service) = begin(&gateway, &mut backend, &token(life)).await;
    while begun.elapsed() < Duration::from_secs(2) {
        service.raw(b"4\r\nmore\r\n").await;
        assert!(client.fill().await.expect("bytes"), "cut after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cut(&mut client, &mut service).await;
    let lasted = begun.elapsed();
    assert!((life..life + Duration::from_secs(2)).contains(&(lasted + Duration::from_millis(50))), "{lasted:?}");
    let line = gateway.logged("the cut", |line| line.to_string().contains("answer cut")).await;
    assert!(line.to_string().contains("token_expired"), "{line}");
}

#[tokio::test]
async fn each_answer_that_is_cut_is_told_once_however_busy_its_service_is() {
    const ANSWERS: usize = 20;
    let backend = Backend::serve(|asked| async move {
        let mut service = asked.unanswered();
        service.raw(EVENTS.as_bytes()).await;
        while service.try_raw(b"4\r\nmore\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let token = token(Duration::from_secs(3));
    let mut clients = Vec::new();
    for _ in 0..ANSWERS {
        let mut client = gateway.connect().await;
        client.raw(get("/events", &token).as_bytes()).await;
        assert!(client.read_head().await.expect("an answer").starts_with("HTTP/1.1 200 "));
        clients.push(tokio::spawn(async move { client.rest().await }));
    }
    for client in clients {
        let (rest, _) = client.await.expect("no panic");
        assert!(!rest.ends_with(LAST.as_bytes()));
    }
    let told = || gateway.log_lines().iter().filter(|line| line.to_string().contains("answer cut")).count();
    let until = instant() + PATIENCE;
    while told() < ANSWERS && instant() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told(), ANSWERS);
    Admin::of(&gateway).await.metric_becomes(CUT, 20.0).await;
}

#[tokio::test]
async fn an_answer_ends_with_a_ban_and_by_an_operators_hand() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "max_streams = 1\n")).await;
    let admin = Admin::of(&gateway).await;
    let mut claims = claims(MINUTE);
    claims["jti"] = json!("one");
    let (mut banned, mut service) = begin(&gateway, &mut backend, &mint(&claims)).await;
    let (mut ended, mut other) = begin(&gateway, &mut backend, &token(MINUTE)).await;
    let (mut stays, mut third) = begin(&gateway, &mut backend, &token(MINUTE)).await;
    // Beside a stream: answers take no stream's place.
    let (_stream, _) = gateway.open_with(&token(MINUTE), &mut backend).await;
    let mut shown = admin.streams().await;
    shown.sort_by_key(|one| one["id"].as_u64());
    let kinds: Vec<_> = shown.iter().map(|one| one["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["http", "http", "http", "stream"]);
    assert_eq!(shown[0]["bytes_down"], 5, "{shown:?}");
    admin.revoke(ban("jti", "one")).await;
    cut(&mut banned, &mut service).await;
    let (status, _) = admin.ask("DELETE", &format!("/streams/{}", shown[1]["id"]), None).await;
    assert_eq!(status, 202);
    cut(&mut ended, &mut other).await;
    third.raw(format!("4\r\nmore\r\n{LAST}").as_bytes()).await;
    while !stays.unread().ends_with(LAST.as_bytes()) {
        assert!(stays.fill().await.expect("bytes"), "the end of another one");
    }
    stays.discard();
    let reply = stays.request(&get("/again", &mint(&claims))).await;
    assert_eq!(reply.status, 401, "a banned token: {}", reply.head);
}

#[tokio::test]
async fn who_waits_for_an_answer_is_told_when_its_token_ends() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let begun = instant();
    let mut client = gateway.connect().await;
    client.raw(get("/poll", &token(Duration::from_millis(1500))).as_bytes()).await;
    let mut service = backend.connection().await;
    service.read_head().await.expect("a request");
    let reply = client.reply().await.expect("an answer");
    assert_eq!(reply.status, 401, "{}", reply.head);
    assert!(reply.body_text().contains("token_expired"), "{}", reply.body_text());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    service.rest().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_in_time_and_holds_its_service_back() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let begun = instant();
    let life = Duration::from_secs(4);
    let mut client = gateway.connect_with(Some(16 * 1024)).await;
    client.raw(get("/events", &token(life)).as_bytes()).await;
    let mut service = backend.connection().await;
    service.read_head().await.expect("a request");
    service.raw(EVENTS.as_bytes()).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(512);
    let taken = service.flood(chunk.as_bytes(), Duration::from_secs(2)).await;
    assert!(taken < 16 << 20, "{taken} bytes were taken for a client that reads nothing");
    service.rest().await;
    let lasted = begun.elapsed();
    assert!(lasted > Duration::from_secs(3) && lasted < Duration::from_secs(6), "{lasted:?}");
    let (rest, _) = client.rest().await;
    assert!(!rest.ends_with(LAST.as_bytes()));
}

#[tokio::test]
async fn a_gateway_that_leaves_waits_for_answers_but_not_for_ever() {
    let mut backend = Backend::start().await;
    let server = "[server]\ndrain_window = \"100ms\"\ndrain_timeout = \"2s\"\n";
    let mut gateway = Gateway::start(&format!("{server}{}", require(&backend, ""))).await;
    let (mut client, mut service) = begin(&gateway, &mut backend, &token(MINUTE)).await;
    let (mut whole, mut other) = begin(&gateway, &mut backend, &token(MINUTE)).await;
    let begun = instant();
    gateway.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    other.raw(format!("4\r\nmore\r\n{LAST}").as_bytes()).await;
    let (rest, _) = whole.rest().await;
    assert!(rest.ends_with(LAST.as_bytes()), "an answer may come to its end: {}", String::from_utf8_lossy(&rest));
    cut(&mut client, &mut service).await;
    gateway.exit(Duration::from_secs(5)).await;
    let lasted = begun.elapsed();
    assert!(lasted > Duration::from_millis(1500) && lasted < Duration::from_secs(5), "{lasted:?}");
}

#[tokio::test]
async fn a_connection_that_is_of_use_outlives_the_time_of_one_that_is_not() {
    let mut backend = Backend::start().await;
    let short = "[server]\nhandshake_timeout = \"1s\"\nrequest_timeout = \"1s\"\n";
    let gateway = Gateway::start(&format!("{short}{}", require(&backend, ""))).await;
    let (mut client, mut service) = begin(&gateway, &mut backend, &token(MINUTE)).await;
    // Longer than a connection without any use, its client's last respite included, would last.
    let begun = instant();
    while begun.elapsed() < Duration::from_secs(16) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        service.raw(b"4\r\nmore\r\n").await;
        assert!(client.fill().await.expect("bytes"), "the end after {:?}", begun.elapsed());
    }
    service.raw(LAST.as_bytes()).await;
    while !client.unread().ends_with(LAST.as_bytes()) {
        assert!(client.fill().await.expect("bytes"), "the end");
    }
    // And one that asks again and again.
    let mut client = gateway.connect().await;
    for _ in 0..12 {
        client.raw(get("/", &token(MINUTE)).as_bytes()).await;
        service.read_head().await.expect("a request");
        service.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.reply().await.expect("an answer").status, 200);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn over_http2_an_answer_is_reset_and_its_neighbours_go_on() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let http2 = Http2::connect(&gateway).await;
    let ask = |token: String| {
        let request = Request::get(format!("https://{}/events", http2.authority()));
        let request = request.header("authorization", format!("Bearer {token}")).header("te", "trailers");
        http2.send(request.body(()).expect("a request"), true)
    };
    let life = Duration::from_secs(3);
    let begun = instant();
    let (brief, long) = (ask(token(life)), ask(token(MINUTE)));
    let serve = async |backend: &mut Backend| {
        let mut service = backend.connection().await;
        let head = service.read_head().await.expect("a request");
        assert!(head.contains("te: trailers"), "{head}");
        service.raw(EVENTS.replace("\r\n\r\n", "\r\nTrailer: X-Mark\r\n\r\n").as_bytes()).await;
        service.raw(b"5\r\nfirst\r\n").await;
        service
    };
    let (mut brief, mut service) = {
        let (answer, service) = tokio::join!(brief, serve(&mut backend));
        (answer.expect("an answer").0, service)
    };
    let (mut long, mut other) = {
        let (answer, service) = tokio::join!(long, serve(&mut backend));
        (answer.expect("an answer").0, service)
    };
    for answer in [&brief, &long] {
        for name in ["connection", "transfer-encoding", "keep-alive"] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
    }
    assert_eq!(brief.body_mut().data().await.expect("data").expect("data"), "first");
    assert_eq!(long.body_mut().data().await.expect("data").expect("data"), "first");
    let ended = within(PATIENCE, "a reset", brief.body_mut().data()).await;
    assert!(ended.is_some_and(|data| data.is_err_and(|error| error.is_reset())), "not the end of a whole answer");
    let lasted = begun.elapsed();
    assert!((life..life + Duration::from_secs(2)).contains(&(lasted + Duration::from_millis(50))), "{lasted:?}");
    service.rest().await;
    other.raw(b"4\r\nmore\r\n0\r\nX-Mark: 9\r\n\r\n").await;
    assert_eq!(within(PATIENCE, "data", long.body_mut().data()).await.expect("data").expect("data"), "more");
    assert!(within(PATIENCE, "the end", long.body_mut().data()).await.is_none());
    let trailers = long.body_mut().trailers().await.expect("an end").expect("trailers");
    assert_eq!(trailers["x-mark"], "9");
}

#[tokio::test]
async fn over_http2_a_client_that_does_not_read_is_reset_in_time() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let http2 = Http2::connect(&gateway).await;
    let life = Duration::from_secs(3);
    let begun = instant();
    let request = Request::get(format!("https://{}/events?access_token={}", http2.authority(), token(life)));
    let serve = async {
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        service.raw(EVENTS.as_bytes()).await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(512);
        let taken = service.flood(chunk.as_bytes(), Duration::from_secs(2)).await;
        assert!(taken < 16 << 20, "{taken} bytes were taken for a client that reads nothing");
        service.rest().await;
    };
    let (answer, ()) = tokio::join!(http2.send(request.body(()).expect("a request"), true), serve);
    let lasted = begun.elapsed();
    assert!((life..life + Duration::from_secs(2)).contains(&(lasted + Duration::from_millis(50))), "{lasted:?}");
    let mut body = answer.expect("an answer").0.into_body();
    let mut ended = None;
    while let Some(data) = within(PATIENCE, "the end", body.data()).await {
        ended = data.err();
        if ended.is_some() {
            break;
        }
    }
    assert!(ended.is_some_and(|error| error.is_reset()), "not the end of a whole answer");
}
