//! The harness keeps its word: what the other tests measure with is measured here.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use common::{Backend, Frame, Link, Role, op};

#[tokio::test]
async fn a_frame_of_any_length_arrives_as_it_was_sent() {
    let mut backend = Backend::start().await;
    let mut client = Link::connect(backend.address(), None).await;
    let head = "GET /a HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (reply, mut service) = tokio::join!(client.request(head), backend.accept());
    assert_eq!(reply.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for length in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let frame = Frame::new(op::BINARY, vec![7; length]);
        let ((), up) = tokio::join!(client.send(&frame), service.frame());
        assert_eq!((up.payload.len(), up.masked), (length, true));
        let ((), down) = tokio::join!(service.send(&frame), client.frame());
        assert_eq!(down, frame);
    }
    client.half_close().await;
    assert_eq!(service.next().await, None);
    assert_eq!(Frame::close(1000, "x").encode(Role::Server), [0x88, 3, 0x03, 0xe8, b'x']);
}

#[tokio::test]
async fn the_echo_answers_and_counts_what_is_open() {
    let backend = Backend::echo().await;
    let mut client = Link::connect(backend.address(), None).await;
    client.request("GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await;
    client.text("hello").await;
    assert_eq!(client.frame().await.text(), "hello");
    assert_eq!((backend.dialled(), backend.live()), (1, 1));
    client.close(4001, "done").await;
    assert_eq!(client.frame().await.close_code(), (4001, "done"));
    drop(client);
    common::eventually("the echo lets go", || backend.live() == 0).await;
}

#[test]
fn clients_are_served_by_the_implementation_that_was_asked_for() {
    let stream = std::any::type_name::<portcullis::wire::server::Stream>();
    let buffered = stream.starts_with("tokio_rustls::");
    assert_eq!(buffered, cfg!(feature = "buffered-tls"), "{stream}");
}
