//! HTTP/2 in front: WebSockets as streams of one connection (RFC 8441), and requests beside them.

mod common;

use std::time::Duration;

use common::{Backend, Frame, Gateway, Http2, PATIENCE, config, op, token, within};

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
    let ((reply, client), mut service) = tokio::join!(asking, serving);
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
    let mut client = client.unwrap();
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
