//! A token is renewed by a message on the stream itself, on routes that ask for it: the message is consumed, or goes on
//! once the deadline has moved; whatever is no token passes untouched.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, Role, SECRET, claims, config, mint, now, op, sign, token, within};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(1_500);

struct Live {
    client: Link,
    service: Link,
    #[allow(dead_code)] // it runs as long as this lives
    gateway: Gateway,
}

impl Live {
    async fn open(route: &str, life: Duration) -> Self {
        let mut backend = Backend::start().await;
        let gateway = Gateway::start(&config(&backend.url(), route)).await;
        let token = token(life);
        let (client, service) = gateway.open_with(&token, &mut backend).await;
        Self { client, service, gateway }
    }

    /// What the gateway itself answers.
    async fn answer(&mut self) -> Value {
        serde_json::from_str(self.client.frame().await.text()).expect("JSON")
    }

    /// The service hears this next, and the client the service's own word after it.
    async fn hears(&mut self, text: &str) {
        let frame = within(Duration::from_secs(5), text, self.service.frame()).await;
        assert_eq!(frame.text(), text);
    }
}

fn fragments(text: &str) -> Vec<Frame> {
    let (a, rest) = text.split_at(10);
    let (b, c) = rest.split_at(30);
    vec![
        Frame { fin: false, ..Frame::new(op::TEXT, a) },
        Frame::new(op::PING, "between"),
        Frame { fin: false, ..Frame::new(op::CONTINUATION, b) },
        Frame::new(op::CONTINUATION, c),
    ]
}

#[tokio::test]
async fn a_consumed_token_never_passes_and_is_answered_with_one_message() {
    let mut live = Live::open("renew_in_band = \"consume\"", SHORT).await;
    live.client.text("before").await;
    live.client.text(&token(MINUTE)).await;
    live.client.text("after").await;
    live.hears("before").await;
    live.hears("after").await;
    let answer = live.answer().await;
    assert_eq!(answer["portcullis"], "renewed");
    assert!(answer["expires_in"].as_u64().expect("seconds") >= 58);
    tokio::time::sleep(SHORT).await;
    live.client.text("past the old deadline").await;
    live.hears("past the old deadline").await;
}

#[tokio::test]
async fn a_refused_token_is_consumed_too_and_moves_nothing() {
    let mut live = Live::open("renew_in_band = \"consume\"\nrenewal_interval = \"0s\"", SHORT).await;
    let begun = now();
    let with = |changes: Value| {
        let mut all = claims(MINUTE);
        all.as_object_mut().expect("claims").extend(changes.as_object().expect("claims").clone());
        all
    };
    let header = json!({"alg": "HS256"});
    let table = [
        (sign(&header, &claims(MINUTE), b"a secret of somebody else, also long enough"), "token_invalid"),
        (sign(&json!({"alg": "none"}), &claims(MINUTE), SECRET.as_bytes()), "token_invalid"),
        (mint(&with(json!({"sub": "another"}))), "forbidden"),
        (mint(&with(json!({"exp": now().as_secs() - 5}))), "token_expired"),
        (mint(&with(json!({"exp": now().as_secs_f64() + 0.5}))), "expiry_shorter"),
    ];
    for (token, reason) in table {
        live.client.text(&token).await;
        assert_eq!(live.answer().await, json!({"portcullis": "refused", "reason": reason}));
    }
    assert_eq!(live.client.frame().await.close_code(), (3000, "token expired"));
    assert!(now().saturating_sub(begun) < SHORT * 2);
    assert_eq!(live.service.frame().await.close_code().0, 1001, "nothing of it reached the service");
}

#[tokio::test]
async fn a_token_in_three_fragments_with_a_ping_between_is_consumed_and_the_ping_passes() {
    let mut live = Live::open("renew_in_band = \"consume\"", SHORT).await;
    let frames = fragments(&token(MINUTE));
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode(Role::Client)).collect();
    // Byte by byte, as a slow client would send it.
    for byte in bytes {
        live.client.raw(&[byte]).await;
    }
    let ping = live.service.frame().await;
    assert_eq!((ping.opcode, ping.text()), (op::PING, "between"));
    assert_eq!(live.answer().await["portcullis"], "renewed");
    live.client.text("after").await;
    live.hears("after").await;
}

#[tokio::test]
async fn a_forwarded_token_passes_unchanged_good_or_bad_and_nothing_is_answered() {
    let mut live = Live::open("renew_in_band = \"forward\"", SHORT).await;
    let good = token(MINUTE);
    let forged = sign(&json!({"alg": "HS256"}), &claims(MINUTE * 2), b"a secret of somebody else, also long enough");
    for frame in fragments(&good) {
        live.client.send(&frame).await;
    }
    let mut heard = Vec::new();
    for sent in fragments(&good) {
        let frame = live.service.frame().await;
        assert_eq!((frame.fin, frame.opcode), (sent.fin, sent.opcode));
        if frame.opcode != op::PING {
            heard.extend(frame.payload);
        }
    }
    assert_eq!(heard, good.as_bytes());
    live.client.text(&forged).await;
    live.hears(&forged).await;
    tokio::time::sleep(SHORT).await;
    live.client.text("past the old deadline").await;
    live.hears("past the old deadline").await;
    live.service.text("the service's word").await;
    assert_eq!(live.client.frame().await.text(), "the service's word", "the first that the client hears");
}

#[tokio::test]
async fn a_forged_token_that_is_forwarded_moves_nothing() {
    let mut live = Live::open("renew_in_band = \"forward\"", SHORT).await;
    let forged = sign(&json!({"alg": "HS256"}), &claims(MINUTE), b"a secret of somebody else, also long enough");
    live.client.text(&forged).await;
    live.hears(&forged).await;
    let close = within(SHORT * 2, "the end", live.client.frame()).await;
    assert_eq!(close.close_code(), (3000, "token expired"));
}

#[tokio::test]
async fn what_only_resembles_a_token_passes_untouched_and_at_once() {
    for mode in ["consume", "forward"] {
        let mut live = Live::open(&format!("renew_in_band = \"{mode}\"\nrenewal_prefix = \"renew:\""), MINUTE).await;
        let long = format!("renew:{}", "x".repeat(100_000));
        let bare = token(MINUTE);
        let messages = ["renew:", "renew:1.2.3", "hello", "renew: ", "", &long, &bare, "renew:eyJhbGciOiJIUzI1NiJ9.x"];
        for text in messages {
            live.client.text(text).await;
            live.hears(text).await;
        }
        // The start of an ordinary message does not wait for its end.
        let head = Frame::head(true, 0, op::TEXT, Role::Client, 1 << 30);
        live.client.raw(&head).await;
        live.client.raw(b"a first few bytes of it").await;
        assert!(within(Duration::from_secs(5), "the first bytes", live.service.fill()).await.expect("bytes"));
        assert_eq!(live.service.unread().first(), Some(&0x81), "{mode}");
    }
}

#[tokio::test]
async fn with_a_prefix_only_what_bears_it_is_a_candidate() {
    let mut live = Live::open("renew_in_band = \"consume\"\nrenewal_prefix = \"renew:\"", SHORT).await;
    live.client.text(&format!("renew:{}", token(MINUTE))).await;
    assert_eq!(live.answer().await["portcullis"], "renewed");
    live.client.text("after").await;
    live.hears("after").await;
}

#[tokio::test]
async fn answers_go_between_two_messages_of_the_service() {
    let mut live = Live::open("renew_in_band = \"consume\"", MINUTE).await;
    live.service.send(&Frame { fin: false, ..Frame::new(op::TEXT, "first half, ") }).await;
    assert_eq!(live.client.frame().await.text(), "first half, ");
    live.client.text(&token(MINUTE * 2)).await;
    live.client.text("behind the token").await;
    live.hears("behind the token").await;
    let rest = [Frame::new(op::PING, ""), Frame::new(op::CONTINUATION, "second half"), Frame::new(op::TEXT, "next")];
    let bytes: Vec<u8> = rest.iter().flat_map(|frame| frame.encode(Role::Server)).collect();
    live.service.raw(&bytes).await;
    assert_eq!(live.client.frame().await.opcode, op::PING, "not between two fragments");
    assert_eq!(live.client.frame().await.text(), "second half");
    assert_eq!(live.answer().await["portcullis"], "renewed");
    assert_eq!(live.client.frame().await.text(), "next");
}

#[tokio::test]
async fn tokens_on_the_stream_are_paced_too() {
    let mut live = Live::open("renew_in_band = \"consume\"\nrenewal_interval = \"10s\"", MINUTE).await;
    for _ in 0..5 {
        live.client.text(&token(MINUTE * 2)).await;
        assert_eq!(live.answer().await["portcullis"], "renewed");
    }
    live.client.text(&token(MINUTE * 3)).await;
    assert_eq!(live.answer().await, json!({"portcullis": "refused", "reason": "rate_limited"}));
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_gets_no_more_of_them() {
    let mut live = Live::open("renew_in_band = \"consume\"\nrenewal_interval = \"0s\"", MINUTE).await;
    // The service is in the middle of a message, so no answer can go.
    live.service.send(&Frame { fin: false, ..Frame::new(op::TEXT, "never ends") }).await;
    assert_eq!(live.client.frame().await.text(), "never ends");
    let flood = Frame::new(op::TEXT, token(MINUTE * 2)).encode(Role::Client).repeat(50);
    let taken = live.client.flood(&flood, Duration::from_secs(2)).await;
    assert!(taken < 64 * 1024 * 1024, "{taken} bytes were taken");
    live.service.send(&Frame::new(op::CONTINUATION, "after all")).await;
    assert_eq!(live.client.frame().await.text(), "after all");
    assert_eq!(live.answer().await["portcullis"], "renewed", "and then it goes on");
}

#[tokio::test]
async fn compression_is_declined_on_such_a_route() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "renew_in_band = \"forward\"")).await;
    let target = format!("/?access_token={}", token(MINUTE));
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let (opened, _service) = tokio::join!(gateway.ask(&target, offer), async {
        let asked = backend.asked().await;
        assert_eq!(asked.header("sec-websocket-extensions"), None);
        asked.agree("").await
    });
    assert_eq!((opened.0.status, opened.0.header("sec-websocket-extensions")), (101, None));
}
