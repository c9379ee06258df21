//! HTTP/2 in front: WebSockets as streams of one connection (RFC 8441), and requests beside them.

mod common;

use std::time::Duration;

use common::http2::reset_of;
use common::{
    Backend, Frame, Gateway, Http2, PATIENCE, Role, Signal, claims, config, eventually, field, mint, op, token, within,
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_websocket_over_http2_reaches_a_service_over_http1() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let http2 = Http2::connect(&gateway).await;
    let token = token(HOUR);
    let target = format!("/room?a=1&access_token={token}&b=2");
    let asking =
        http2.ask(&target, "Origin: https://app.example\r\nSec-WebSocket-Protocol: chat, other\r\nX-Own: 1\r\n");
    let serving = async {
        let asked = backend.asked().await;
        assert_eq!(asked.target(), "/room?a=1&b=2");
        for (name, value) in [
            ("host", http2.authority()),
            ("origin", "https://app.example"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat, other"),
            ("x-own", "1"),
            ("x-forwarded-proto", "https"),
        ] {
            assert_eq!(asked.header(name), Some(value), "{name}");
        }
        asked.agree("Sec-WebSocket-Protocol: chat\r\nX-Answer: 2\r\n").await
    };
    let ((reply, mut client), mut service) = tokio::join!(asking, serving);
    assert_eq!(reply.status, 101, "{}", reply.body_text());
    for (name, value) in [("sec-websocket-protocol", Some("chat")), ("x-answer", Some("2"))] {
        assert_eq!(reply.header(name), value, "{name}");
    }
    for name in ["sec-websocket-accept", "upgrade", "connection"] {
        assert_eq!(reply.header(name), None, "{name} belongs to HTTP/1.1");
    }
    for name in ["date", "portcullis-expires-in", "portcullis-stream"] {
        assert!(reply.header(name).is_some(), "{name}");
    }
    client.text("up").await;
    assert_eq!(service.frame().await.text(), "up");
    service.text("down").await;
    assert_eq!(client.frame().await.text(), "down");
    client.close(4001, "bye").await;
    assert_eq!(service.frame().await.close_code(), (4001, "bye"));
    service.close(4001, "bye").await;
    assert_eq!(client.frame().await.close_code(), (4001, "bye"));
    assert_eq!(client.next_or_error().await.unwrap(), None, "the stream ends in order");
    assert!(!http2.has_ended());
}

#[tokio::test]
async fn expiry_ends_one_stream_with_a_close_and_leaves_its_neighbours() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let http2 = Http2::connect(&gateway).await;
    let mut short = http2.open(&token(Duration::from_secs(2))).await;
    let mut long = http2.open(&token(HOUR)).await;
    assert_eq!(short.frame().await.close_code(), (3000, "token expired"));
    short.close(3000, "").await;
    assert_eq!(short.next_or_error().await.unwrap(), None, "END_STREAM");
    long.text("still here").await;
    assert_eq!(long.frame().await.text(), "still here");
    assert_eq!(http2.request("GET", "/", "").await.status, 426, "the connection takes requests");
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_close_is_reset_and_nobody_else() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "close_timeout = \"300ms\"")).await;
    let http2 = Http2::connect(&gateway).await;
    let mut short = http2.open(&token(Duration::from_secs(1))).await;
    let mut long = http2.open(&token(HOUR)).await;
    assert_eq!(short.frame().await.opcode, op::CLOSE);
    within(PATIENCE, "the end", async { while !matches!(short.next_or_error().await, Ok(None) | Err(_)) {} }).await;
    long.send(&Frame::new(op::PING, "x")).await;
    assert_eq!(long.frame().await.opcode, op::PONG);
}

#[tokio::test]
async fn a_hundred_streams_live_on_one_connection_and_end_each_for_itself() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    // Answers wait on all streams while the test reads one.
    let mut windows = h2::client::Builder::new();
    let http2 = Http2::connect_with(&gateway, windows.initial_connection_window_size(1 << 20)).await;
    let mut streams = Vec::new();
    for at in 0..100 {
        let token = mint(&claims(if at % 10 == 0 { Duration::from_secs(12) } else { HOUR }));
        streams.push(http2.open(&token).await);
    }
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.text(&format!("{at} says {}", "x".repeat(at * 50))).await;
    }
    for (at, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.frame().await.text(), format!("{at} says {}", "x".repeat(at * 50)));
    }
    for (at, stream) in streams.iter_mut().enumerate() {
        if at % 10 == 0 {
            assert_eq!(stream.frame().await.close_code().0, 3000, "{at}");
        } else {
            stream.text("still here").await;
            assert_eq!(stream.frame().await.text(), "still here", "{at}");
        }
    }
    drop(streams);
    eventually("all services have been let go", || backend.live() == 0).await;
    assert!(!http2.has_ended());
}

#[tokio::test]
async fn a_stream_is_renewed_by_a_request_on_its_own_connection() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let http2 = Http2::connect(&gateway).await;
    let mut renewed = http2.open(&token(Duration::from_secs(3))).await;
    let mut other = http2.open(&token(Duration::from_secs(3))).await;
    let handle = common::header(&renewed.head, "portcullis-stream").expect("a handle").to_owned();
    let more = format!("Authorization: Bearer {}\r\nPortcullis-Stream: {handle}\r\n", token(HOUR));
    let reply = http2.request("POST", "/.portcullis/renew", &more).await;
    assert_eq!(reply.status, 200, "{}", reply.body_text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(other.frame().await.close_code().0, 3000);
    renewed.text("on and on").await;
    assert_eq!(renewed.frame().await.text(), "on and on");
}

#[tokio::test]
async fn refusals_are_the_same_as_over_http1() {
    let backend = Backend::echo().await;
    let route = "hosts = [\"localhost\"]\norigins = [\"https://app.example\"]";
    let gateway = Gateway::start(&config(&backend.url(), route)).await;
    let http2 = Http2::connect(&gateway).await;
    let good = format!("/?access_token={}", token(HOUR));
    let long = format!("/?access_token={}", "x".repeat(9000));
    let table: [(&str, &str, u16, &str); 6] = [
        ("/", "", 401, "token_missing"),
        ("/?access_token=x.y.z", "", 401, "token_invalid"),
        (&good, "Origin: https://other.example\r\n", 403, "forbidden"),
        (&long, "", 400, "bad_request"),
        ("/a/../b", "", 400, "bad_request"),
        (&good, "Authorization: Bearer a.b.c\r\n", 400, "bad_request"),
    ];
    for (target, more, status, reason) in table {
        let (reply, _) = http2.ask(target, more).await;
        assert_eq!(reply.status, status, "{target} {more}");
        let body: serde_json::Value = serde_json::from_str(reply.body_text()).expect("problem JSON");
        assert_eq!(body["reason"], reason, "{target} {more}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    let reply = http2.request("GET", "/", "").await;
    assert_eq!((reply.status, reply.header("upgrade")), (426, None), "Upgrade is none of HTTP/2's");
    for (method, uri, status, why) in [
        ("GET", "https://other.example/", 421, "the certificate does not cover it"),
        ("CONNECT", "other.example:443", 400, "the gateway is no forward proxy"),
    ] {
        let request = http::Request::builder().method(method).uri(uri).body(()).expect("a request");
        let (response, _) = http2.send(request, true).await.expect("an answer");
        assert_eq!(response.status(), status, "{why}");
    }
    assert_eq!(backend.dialled(), 0);
}

/// Small frames that wait in the library below are charged to the whole connection, which ends when they are many.
#[tokio::test]
async fn thousands_of_small_frames_for_services_that_stall_harm_no_other_stream() {
    const STALLED: usize = 30;
    let mut service = Backend::start().await;
    let echo = Backend::echo().await;
    let other = format!("\n[[route]]\nname = \"quiet\"\npath = \"/quiet\"\nupstream = \"{}\"\n", echo.url());
    let gateway = Gateway::start(&config(&service.url(), &other)).await;
    let http2 = Http2::connect(&gateway).await;
    let (_, mut quiet) = http2.ask(&format!("/quiet?access_token={}", token(HOUR)), "").await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let target = format!("/?access_token={}", token(HOUR));
        // The service agrees and never reads again.
        let ((_, send, recv), service) = tokio::join!(http2.connect_to(&target, ""), service.accept());
        stalled.push((send, recv, service));
    }
    // Half a window at a time, until it is not given back: the way to the service is full, and the other half is left.
    let half = Frame::new(op::BINARY, vec![7; 32_000]).encode(Role::Client);
    for (send, ..) in &mut stalled {
        while within(PATIENCE, "room", has_room(send, 65_000)).await {
            send.send_data(half.clone().into(), false).expect("a stream");
        }
    }
    let before = gateway.memory();
    let tiny = Frame::new(op::TEXT, "hello").encode(Role::Client);
    assert_eq!(tiny.len(), 11);
    for at in 0..3000 {
        for (send, ..) in &mut stalled {
            send.send_data(tiny.clone().into(), false).expect("a stream");
        }
        tokio::task::yield_now().await;
        if at % 100 == 0 {
            quiet.text("hello").await;
            assert_eq!(quiet.frame().await.text(), "hello", "after {at} rounds");
        }
    }
    quiet.text("hello").await;
    assert_eq!(quiet.frame().await.text(), "hello");
    assert!(!http2.has_ended(), "the connection lives");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < STALLED * 200 * 1024, "{grown} bytes for {STALLED} streams, a window each");
    // Whatever was held goes on when the service reads: 3,000 small messages, in order, after the large ones.
    let (_send, _recv, service) = stalled.first_mut().expect("a stream");
    let mut small = 0;
    while small < 3000 {
        let frame = service.frame().await;
        small += usize::from(frame.opcode == op::TEXT);
        assert!(frame.opcode == op::BINARY || frame.text() == "hello");
    }
}

/// Whether the window opens for so much within a moment.
async fn has_room(send: &mut h2::SendStream<bytes::Bytes>, wanted: usize) -> bool {
    send.reserve_capacity(wanted);
    for _ in 0..40 {
        if send.capacity() >= wanted {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

#[tokio::test]
async fn a_reader_that_is_too_slow_for_its_close_is_reset_and_leaves_the_connection_to_others() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "finish_frame = \"300ms\"")).await;
    let http2 = Http2::connect(&gateway).await;
    let slow = format!("/?access_token={}", token(Duration::from_secs(2)));
    let ((_, mut send, _recv), mut service) = tokio::join!(http2.connect_to(&slow, ""), backend.accept());
    let good = token(HOUR);
    let (mut other, mut echo) = tokio::join!(http2.open(&good), backend.accept());
    // Its window is never opened again, so its Close cannot go.
    let full = Frame::new(op::BINARY, vec![1; 1 << 20]).encode(Role::Server);
    service.flood(&full, Duration::from_millis(300)).await;
    let reason = reset_of(&mut send).await;
    assert_eq!(reason, h2::Reason::CANCEL);
    other.text("still here").await;
    assert_eq!(echo.frame().await.text(), "still here");
}

#[tokio::test]
async fn a_client_that_resets_its_stream_frees_everything_behind_it() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let http2 = Http2::connect(&gateway).await;
    let mut kept = http2.open(&token(HOUR)).await;
    let mut gone = http2.open(&token(HOUR)).await;
    gone.text("x").await;
    gone.frame().await;
    gone.abort();
    eventually("the service is let go", || backend.live() == 1).await;
    let ended = |line: &serde_json::Value| field(line, "cause") == Some(&"client_lost".into());
    gateway.logged("its end", ended).await;
    kept.text("y").await;
    assert_eq!(kept.frame().await.text(), "y");
}

#[tokio::test]
async fn a_request_that_is_reset_while_its_service_is_dialled_ends_there() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let http2 = Http2::connect(&gateway).await;
    let request = http2.websocket(&format!("/?access_token={}", token(HOUR)), "");
    let (response, mut send) = http2.sender().ready().await.expect("room").send_request(request, false).expect("sent");
    let mut asked = backend.asked().await.unanswered();
    send.send_reset(h2::Reason::CANCEL);
    assert!(response.await.is_err());
    assert_eq!(asked.next().await, None, "the gateway has hung up");
    assert_eq!(http2.request("GET", "/", "").await.status, 426);
}

#[tokio::test]
async fn a_drain_closes_the_streams_of_a_connection_and_then_the_connection() {
    let backend = Backend::echo().await;
    let server = "[server]\ndrain_window = \"100ms\"\n";
    let mut gateway = Gateway::start(&format!("{server}{}", config(&backend.url(), ""))).await;
    let http2 = Http2::connect(&gateway).await;
    let (mut one, mut two) = (http2.open(&token(HOUR)).await, http2.open(&token(HOUR)).await);
    gateway.signal(Signal::TERM);
    for stream in [&mut one, &mut two] {
        assert_eq!(stream.frame().await.close_code(), (1012, "service restart"));
        stream.close(1012, "").await;
    }
    drop((one, two));
    let _ = http2.ended().await;
    assert!(gateway.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn a_listener_without_http2_speaks_http1_to_clients_that_know_both() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), "").replace("key = \"key.pem\"", "key = \"key.pem\"\nhttp2 = false");
    let gateway = Gateway::start(&text).await;
    let mut client = (*gateway.authority().client()).clone();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let link = common::Link::connect(gateway.address(), None).await;
    let mut link = link.tls("localhost", client.into()).await.expect("TLS");
    let reply = link.request(&gateway.upgrade(&format!("/?access_token={}", token(HOUR)), "")).await;
    assert_eq!(reply.status, 101);
}

#[tokio::test]
async fn cookies_in_crumbs_are_one_cookie_to_the_gateway_and_to_the_service() {
    let mut backend = Backend::start().await;
    let route = "carriers = [\"cookie:session\"]\norigins = [\"https://app.example\"]";
    let gateway = Gateway::start(&config(&backend.url(), route)).await;
    let http2 = Http2::connect(&gateway).await;
    let more =
        format!("Origin: https://app.example\r\nCookie: a=1\r\nCookie: session={}\r\nCookie: b=2\r\n", token(HOUR));
    let (opened, asked) = tokio::join!(http2.ask("/", &more), async {
        let asked = backend.asked().await;
        assert_eq!(asked.header("cookie"), Some("a=1; b=2"));
        asked.agree("").await
    });
    assert_eq!(opened.0.status, 101);
    drop(asked);
}
