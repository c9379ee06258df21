//! Raw bytes from both sides that no honest peer sends.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, Role, config, eventually, field, instant, op, token};

const MINUTE: Duration = Duration::from_secs(60);

/// Deadlines short enough to wait for.
const IMPATIENT: &str =
    "[server]\nhandshake_timeout = \"1s\"\nrequest_timeout = \"1s\"\nmax_request_head = \"16KiB\"\n";

/// A ClientHello's first bytes: a record of 512 bytes that never comes.
const HALF_HELLO: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];

#[tokio::test]
async fn a_handshake_that_never_ends_is_dropped_in_time() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), IMPATIENT)).await;
    for bytes in [&[][..], &HALF_HELLO] {
        let mut silent = Link::connect(gateway.address(), None).await;
        silent.raw(bytes).await;
        let begun = instant();
        silent.rest().await;
        let lasted = begun.elapsed();
        assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&lasted), "{lasted:?}");
    }
    still_serves(&gateway).await;
}

#[tokio::test]
async fn a_request_head_that_comes_drop_by_drop_is_dropped_in_time() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), IMPATIENT)).await;
    let mut slow = gateway.connect().await;
    let head = gateway.upgrade("/", "");
    let begun = instant();
    for byte in head.as_bytes() {
        if slow.try_raw(&[*byte]).await.is_err() || begun.elapsed() > Duration::from_secs(4) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "the head was still awaited after {:?}", begun.elapsed());
    still_serves(&gateway).await;
}

#[tokio::test]
async fn garbage_on_the_tls_port_ends_only_its_own_connection() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), IMPATIENT)).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        &[0; 4096],
        &[0x16, 3, 1, 0xff, 0xff, 0xff],
        b"\x80\x2e\x01",
    ] {
        let mut garbage = Link::connect(gateway.address(), None).await;
        let _ = garbage.try_raw(bytes).await;
        garbage.rest().await;
    }
    for _ in 0..50 {
        Link::connect(gateway.address(), None).await.abort();
        gateway.connect().await.abort();
    }
    still_serves(&gateway).await;
}

#[tokio::test]
async fn an_oversized_head_is_refused_and_not_held() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), IMPATIENT)).await;
    let before = gateway.memory();
    let mut huge = gateway.connect().await;
    let line = format!("X-Long: {}\r\n", "a".repeat(4000));
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}", line.repeat(8000));
    let sent = huge.flood(head.as_bytes(), Duration::from_secs(5)).await;
    let (answer, _) = huge.rest().await;
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).map(str::to_owned);
    assert!(status.is_none_or(|status| status == "431" || status == "400"), "{:?}", String::from_utf8_lossy(&answer));
    assert!(gateway.memory() < before + (8 << 20), "{sent} bytes sent, memory {before} -> {}", gateway.memory());
    assert_eq!(backend.dialled(), 0);
    still_serves(&gateway).await;
}

#[tokio::test]
async fn requests_one_after_the_other_hold_a_connection_for_a_bounded_time() {
    let backend = Backend::echo().await;
    let one = format!("{IMPATIENT}max_connections = 1\n");
    let gateway = Gateway::start(&config(&backend.url(), &one)).await;
    let mut greedy = gateway.connect().await;
    let begun = instant();
    let head = gateway.upgrade("/", "");
    let mut answers = 0;
    loop {
        let lasted = begun.elapsed();
        assert!(lasted < Duration::from_secs(8), "{answers} refusals, and the connection still stands");
        if greedy.try_raw(head.as_bytes()).await.is_err() {
            break;
        }
        match greedy.reply().await {
            Ok(reply) => assert_eq!(reply.status, 401, "{}", reply.head),
            Err(_) => break,
        }
        answers += 1;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let lasted = begun.elapsed();
    assert!(lasted > Duration::from_secs(3), "ended after {lasted:?}");
    assert!(answers > 3, "{answers} refusals");
    drop(greedy);
    still_serves(&gateway).await;
}

#[tokio::test]
async fn a_service_that_takes_its_time_is_awaited_also_when_the_connections_time_is_over() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), IMPATIENT)).await;
    let upstream = async {
        let asked = backend.asked().await;
        tokio::time::sleep(Duration::from_millis(4600)).await;
        asked.agree("").await
    };
    let token = token(MINUTE);
    let (mut service, mut client) = tokio::join!(upstream, gateway.open(&token));
    client.text("after all").await;
    assert_eq!(service.frame().await.text(), "after all");
}

#[tokio::test]
async fn every_connection_that_is_allowed_can_be_used_on_any_listener() {
    let backend = Backend::echo().await;
    let plain = "[[listener]]\nname = \"inside\"\naddress = \"127.0.0.1:0\"\nplaintext = true\n";
    let one = "[server]\nmax_connections = 1\n";
    let gateway = Gateway::start(&format!("{plain}{}", config(&backend.url(), one))).await;
    let (inside, public) = (gateway.listener("inside").await, gateway.listener("public").await);
    let head = gateway.upgrade("/", "Connection: close\r\n");
    // Twice each: the place that one listener's connection leaves must not wait in another one.
    for secure in [false, false, true, true, false] {
        let mut link = if secure {
            let link = Link::connect(public, None).await;
            link.tls("localhost", gateway.authority().client()).await.expect("TLS")
        } else {
            Link::connect(inside, None).await
        };
        assert_eq!(link.request(&head).await.status, 401);
        link.rest().await;
    }
}

#[tokio::test]
async fn a_head_a_little_too_large_is_refused_too() {
    let backend = Backend::echo().await;
    let plain = "[[listener]]\nname = \"inside\"\naddress = \"127.0.0.1:0\"\nplaintext = true\n";
    let gateway = Gateway::start(&format!("{plain}{}", config(&backend.url(), ""))).await;
    let inside = gateway.listener("inside").await;
    let with = |bytes: usize| {
        let bare = gateway.upgrade(&format!("/?access_token={}", token(MINUTE)), "X-Long: \r\n").len();
        gateway.upgrade(
            &format!("/?access_token={}", token(MINUTE)),
            &format!("X-Long: {}\r\n", "a".repeat(bytes.saturating_sub(bare))),
        )
    };
    for (bytes, fits) in [(32 * 1024 - 64, true), (32 * 1024 + 64, false), (40 * 1024, false), (48 * 1024, false)] {
        // Without TLS, which hands over small pieces: one read goes beyond hyper's own bound.
        let mut link = Link::connect(inside, None).await;
        let sent = link.try_raw(with(bytes).as_bytes()).await;
        // A head that is not read to its end may be answered by a reset.
        let status = if sent.is_ok() { link.reply().await.ok().map(|reply| reply.status) } else { None };
        if fits {
            assert_eq!(status, Some(101), "{bytes} bytes");
        } else {
            assert!(status.is_none_or(|status| [400, 431].contains(&status)), "{bytes} bytes: {status:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_head_that_is_too_large_is_no_answer() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    for (bytes, status) in [(60 * 1024, 101), (66 * 1024, 502)] {
        let upstream = async {
            let asked = backend.asked().await;
            asked.agree(&format!("X-Long: {}\r\n", "a".repeat(bytes))).await
        };
        let target = format!("/?access_token={}", token(MINUTE));
        let (_service, (reply, _client)) = tokio::join!(upstream, gateway.ask(&target, ""));
        assert_eq!(reply.status, status, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_request_that_is_no_http_stands_in_the_log() {
    let backend = Backend::echo().await;
    let quiet = config(&backend.url(), "").replace("level = \"debug\"", "level = \"info\"");
    let gateway = Gateway::start(&quiet).await;
    for head in ["GET / HTTP/1.1\r\nHo st: localhost\r\n\r\n", "GET /\u{1} HTTP/1.1\r\n\r\n"] {
        let mut link = gateway.connect().await;
        assert_eq!(link.request(head).await.status, 400);
    }
    eventually("both are logged", || {
        gateway.log_lines().iter().filter(|line| field(line, "cause") == Some(&"bad_request".into())).count() == 2
    })
    .await;
}

#[tokio::test]
async fn a_frame_of_the_client_that_breaks_rfc_6455_ends_the_stream_and_stays_here() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    for (what, bytes) in broken(Role::Client) {
        let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
        client.text("before").await;
        assert_eq!(service.frame().await.text(), "before", "{what}");
        client.raw(&bytes).await;
        let mut passed = Vec::new();
        let upstream = loop {
            let frame = service.frame().await;
            match frame.opcode {
                op::CLOSE => break frame,
                _ => passed.push(frame),
            }
        };
        assert_eq!(upstream.close_code().0, 1001, "{what}");
        assert!(passed.iter().all(|frame| !frame.fin), "{what}: {passed:?} went on");
        service.send(&Frame::close(1001, "")).await;
        assert_eq!(client.frame().await.close_code(), (1002, "protocol error"), "{what}");
    }
}

#[tokio::test]
async fn a_frame_of_the_service_that_breaks_rfc_6455_ends_the_stream_and_stays_here() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    for (what, bytes) in broken(Role::Server) {
        let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
        service.text("before").await;
        assert_eq!(client.frame().await.text(), "before", "{what}");
        service.raw(&bytes).await;
        let mut frame = client.frame().await;
        while frame.opcode != op::CLOSE {
            assert!(!frame.fin, "{what}: {frame:?} went on");
            frame = client.frame().await;
        }
        assert_eq!(frame.close_code(), (1002, "protocol error"), "{what}");
        assert_eq!(service.frame().await.close_code().0, 1001, "{what}");
    }
}

/// Frames that break RFC 6455, as the side `role` would send them.
fn broken(role: Role) -> Vec<(String, Vec<u8>)> {
    let other = if role == Role::Client { Role::Server } else { Role::Client };
    let masked = u8::from(role == Role::Client) << 7;
    let key: &[u8] = if role == Role::Client { &[1, 2, 3, 4] } else { &[] };
    let frame = |fin, rsv, opcode, payload: &[u8]| {
        Frame { fin, rsv, opcode, masked: false, payload: payload.to_vec() }.encode(role)
    };
    let mut table: Vec<(String, Vec<u8>)> = vec![
        ("masked by the wrong side".into(), Frame::new(op::TEXT, "x").encode(other)),
        ("a long control frame".into(), frame(true, 0, op::PING, &[0; 126])),
        ("a fragmented control frame".into(), frame(false, 0, op::PING, b"x")),
        ("a continuation of nothing".into(), frame(true, 0, op::CONTINUATION, b"x")),
        (
            "a message inside a message".into(),
            [frame(false, 0, op::TEXT, b"x"), frame(true, 0, op::TEXT, b"y")].concat(),
        ),
        ("the top bit of a length".into(), [&[0x82, masked | 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 1], key].concat()),
        ("a 16 bit length below 126".into(), [&[0x82, masked | 0x7e, 0, 125], key, &[0; 125]].concat()),
        ("a 64 bit length below 65536".into(), [&[0x82, masked | 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff], key].concat()),
        ("a Close of one byte".into(), frame(true, 0, op::CLOSE, &[3])),
        ("a Close whose reason is not UTF-8".into(), frame(true, 0, op::CLOSE, &[3, 0xe8, 0xed, 0xa0, 0x80])),
    ];
    table.extend([3, 7, 11, 15].map(|opcode| (format!("opcode {opcode}"), frame(true, 0, opcode, b""))));
    table.extend([1, 2, 4].map(|rsv| (format!("reserved bits {rsv}"), frame(true, rsv, op::TEXT, b"x"))));
    let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535];
    table.extend(codes.map(|code| (format!("close code {code}"), Frame::close(code, "x").encode(role))));
    table
}

#[tokio::test]
async fn bytes_that_come_with_a_head_pass_through_the_gate_like_all_others() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let mut client = gateway.connect().await;
    let head = gateway.upgrade(&format!("/?access_token={}", token(MINUTE)), "");
    let first = Frame::new(op::TEXT, "early from the client").encode(Role::Client);
    client.raw(&[head.as_bytes(), &first].concat()).await;
    let asked = backend.asked().await;
    let accept = common::accept_key(asked.header("sec-websocket-key").expect("a key"));
    let early = Frame::new(op::TEXT, "early from the service").encode(Role::Server);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let mut service = asked.answer([answer.as_bytes(), &early].concat()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 101);
    assert_eq!(client.frame().await.text(), "early from the service");
    assert_eq!(service.frame().await.text(), "early from the client");
}

/// A frame of 1 GiB passes in bounded memory; here as much of it as a test has time for.
#[tokio::test]
async fn a_giant_frame_passes_without_being_held() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
    let before = gateway.memory();
    client.raw(&Frame::head(true, 0, op::BINARY, Role::Client, 1 << 30)).await;
    let (chunk, total) = (vec![5; 1 << 20], 64 << 20);
    let sending = async {
        for _ in 0..64 {
            client.raw(&chunk).await;
        }
    };
    let receiving = async {
        let mut received = 0;
        while received < total && service.fill().await.expect("open") {
            received += service.discard();
        }
    };
    tokio::join!(sending, receiving);
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more for 64 MiB of a frame");
}

async fn still_serves(gateway: &Gateway) {
    let mut client = gateway.open(&token(MINUTE)).await;
    client.text("still here").await;
    assert_eq!(client.frame().await.text(), "still here");
}
