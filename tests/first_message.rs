//! Streams whose token is in their first message: answered at once, let in later.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::{
    ADMIN, Admin, Backend, Frame, Gateway, Link, PATIENCE, Reply, Role, Signal, ban, claims, config, eventually, field,
    instant, mint, now, op, sign, token, within,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const GRAPHQL: &str = r#"carriers = ["message"]
subprotocols = ["graphql-transport-ws"]
first_message = { pointer = "/payload/Authorization", type = "connection_init", forward = true }"#;
const RAW: &str = r#"carriers = ["message"]"#;
const OFFER: &str =
    "Sec-WebSocket-Protocol: other, graphql-transport-ws\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
const ANSWER: &str = "Sec-WebSocket-Protocol: graphql-transport-ws\r\n";

fn init(token: &str) -> String {
    json!({"type": "connection_init", "payload": {"Authorization": format!("Bearer {token}")}}).to_string()
}

/// A stream that has its `101` and waits.
async fn waiting(gateway: &Gateway) -> Link {
    let (reply, link) = gateway.ask("/", "").await;
    assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
    link
}

/// The Close that comes, and nothing after the answer to it.
async fn closed(client: &mut Link) -> (u16, String) {
    let close = client.frame().await;
    let (code, reason) = close.close_code();
    let told = (code, reason.to_owned());
    client.send(&Frame::new(op::CLOSE, close.payload.clone())).await;
    let (rest, reset) = client.rest().await;
    assert!(rest.is_empty() && !reset, "{told:?}, then {rest:?}, reset: {reset}");
    told
}

/// The line in the log of a client that was not let in for this cause.
async fn refused(gateway: &Gateway, cause: &str) -> Value {
    let is_it = |line: &Value| field(line, "cause") == Some(&cause.into());
    gateway.logged(cause, is_it).await
}

#[tokio::test]
async fn the_answer_comes_at_once_and_the_service_is_dialled_for_a_good_token_only() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), &format!("{GRAPHQL}\nrenew = false"))).await;
    let (reply, mut client) = gateway.ask("/graphql?a=1", OFFER).await;
    assert_eq!(reply.status, 101);
    assert_eq!(reply.header("sec-websocket-protocol"), Some("graphql-transport-ws"), "{}", reply.head);
    assert_eq!(reply.header("sec-websocket-extensions"), None, "{}", reply.head);
    assert_eq!(reply.header("portcullis-expires-in"), None, "{}", reply.head);
    client.send(&Frame::new(op::PING, "there?")).await;
    assert_eq!(client.frame().await, Frame::new(op::PONG, "there?"));
    assert_eq!(backend.dialled(), 0, "no service for a stream that waits");

    let message = init(&token(MINUTE));
    client.text(&message).await;
    let asked = backend.asked().await;
    assert_eq!(asked.target(), "/graphql?a=1");
    assert_eq!(asked.header("sec-websocket-protocol"), Some("graphql-transport-ws"));
    assert_eq!(asked.header("sec-websocket-extensions"), None);
    let mut service = asked.agree(ANSWER).await;
    assert_eq!(service.frame().await.text(), message, "the message goes on as it came");
    service.text("ack").await;
    assert_eq!(client.frame().await.text(), "ack");
    client.text("more").await;
    assert_eq!(service.frame().await.text(), "more");
}

#[tokio::test]
async fn a_consumed_token_stays_here_and_what_follows_arrives_in_order_once() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), RAW)).await;
    let mut client = waiting(&gateway).await;
    let mut bytes = Frame::new(op::TEXT, token(MINUTE)).encode(Role::Client);
    for number in 0..200 {
        bytes.extend(Frame::new(op::TEXT, format!("message {number}")).encode(Role::Client));
    }
    bytes.extend(Frame::new(op::PING, "last").encode(Role::Client));
    // The first of them come in one piece with the token, the others while the service is dialled.
    let (with_token, later) = bytes.split_at(1000);
    client.raw(with_token).await;
    let asked = backend.asked().await;
    client.raw(later).await;
    let mut service = asked.agree("").await;
    for number in 0..200 {
        assert_eq!(service.frame().await.text(), format!("message {number}"));
    }
    assert_eq!(service.frame().await.payload, b"last");
    assert_eq!(backend.dialled(), 1);
}

#[tokio::test]
async fn a_first_message_that_goes_on_is_no_renewal_and_the_token_after_it_is_one() {
    let mut backend = Backend::start().await;
    let more = "renew_in_band = \"forward\"\nmax_renewals = 1\nrenewal_interval = \"1h\"";
    let route = format!("{RAW}\nfirst_message = {{ forward = true }}\n{more}");
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    let mut client = waiting(&gateway).await;
    let life = Duration::from_millis(1_500);
    let (first, next) = (token(life), token(MINUTE));
    let (start, rest) = first.split_at(30);
    let fragments = [
        Frame { fin: false, ..Frame::new(op::TEXT, start) },
        Frame::new(op::CONTINUATION, rest),
        Frame::new(op::TEXT, &*next),
    ];
    client.raw(&fragments.iter().flat_map(|frame| frame.encode(Role::Client)).collect::<Vec<_>>()).await;
    let mut service = backend.asked().await.agree("").await;
    for part in [start, rest, &next] {
        assert_eq!(service.frame().await.payload, part.as_bytes());
    }
    tokio::time::sleep(life).await;
    client.text("past the first deadline").await;
    assert_eq!(service.frame().await.text(), "past the first deadline");
}

#[tokio::test]
async fn a_token_in_fragments_with_pings_between_byte_by_byte_is_one_token() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), GRAPHQL)).await;
    let (reply, mut client) = gateway.ask("/", OFFER).await;
    assert_eq!(reply.status, 101);
    let message = init(&token(MINUTE));
    let (start, rest) = message.split_at(100);
    let fragments = [
        Frame { fin: false, ..Frame::new(op::TEXT, start) },
        Frame { fin: false, ..Frame::new(op::CONTINUATION, "") },
        Frame::new(op::CONTINUATION, rest),
    ];
    for fragment in &fragments {
        for byte in fragment.encode(Role::Client) {
            client.raw(&[byte]).await;
        }
        if !fragment.fin {
            client.send(&Frame::new(op::PING, "between")).await;
            client.send(&Frame::new(op::PONG, "unasked")).await;
            assert_eq!(client.frame().await, Frame::new(op::PONG, "between"));
        }
    }
    let mut service = backend.asked().await.agree(ANSWER).await;
    for fragment in &fragments {
        let frame = service.frame().await;
        assert_eq!((frame.fin, frame.opcode, &frame.payload), (fragment.fin, fragment.opcode, &fragment.payload));
    }
}

#[tokio::test]
async fn each_first_message_that_is_none_has_its_code_and_dials_nothing() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), &format!("{GRAPHQL}\nclose_timeout = \"500ms\""))).await;
    let expired = mint(&json!({"iss": common::ISSUER, "sub": "x", "exp": 1_000_000_000}));
    let forged = sign(&json!({"alg": "HS256"}), &claims(MINUTE), b"another secret, also longer than 32 bytes");
    let text = |text: String| Frame::new(op::TEXT, text).encode(Role::Client);
    let good = token(MINUTE);
    let table: [(Vec<u8>, u16, &str); 14] = [
        (text(init(&expired)), 3000, "token_expired"),
        (text(init(&forged)), 3000, "token_invalid"),
        (text(init("")), 3000, "token_missing"),
        (text(r#"{"type":"connection_init"}"#.into()), 3000, "token_missing"),
        (text(init(&good).replace("connection_init", "ping")), 1008, "first_message"),
        (text(init(&good).replace("{\"payload", "{\"type\":\"x\",\"payload")), 1008, "first_message"),
        (text(good), 1008, "first_message"),
        (text("{".into()), 1008, "first_message"),
        (Frame::new(op::TEXT, b"\xff\xfe".to_vec()).encode(Role::Client), 1008, "first_message"),
        (Frame::new(op::BINARY, "x").encode(Role::Client), 1008, "first_message"),
        (text("x".repeat(9_000)), 1009, "too big"),
        (Frame::new(op::CONTINUATION, "x").encode(Role::Client), 1002, "protocol error"),
        (Frame { rsv: 4, ..Frame::new(op::TEXT, "x") }.encode(Role::Client), 1002, "protocol error"),
        (Frame::new(op::TEXT, "x").encode(Role::Server), 1002, "protocol error"),
    ];
    for (bytes, code, reason) in table {
        let mut client = waiting(&gateway).await;
        client.raw(&bytes).await;
        assert_eq!(closed(&mut client).await, (code, reason.to_owned()));
    }
    assert_eq!(backend.dialled(), 0);
    let line = refused(&gateway, "expired").await;
    assert_eq!((field(&line, "status"), field(&line, "code")), (Some(&json!(101)), Some(&json!(3000))), "{line}");
}

#[tokio::test]
async fn a_close_is_echoed_and_silence_ends_in_time() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), &format!("{RAW}\nauth_timeout = \"500ms\""))).await;
    let mut client = waiting(&gateway).await;
    client.close(4321, "bye").await;
    assert_eq!(client.frame().await.close_code(), (4321, ""));
    assert_eq!(client.rest().await, (Vec::new(), false));
    refused(&gateway, "client_closed").await;

    let start = instant();
    let mut silent = waiting(&gateway).await;
    assert_eq!(closed(&mut silent).await, (3008, "no first message".to_owned()));
    assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < Duration::from_secs(5));
    // Pings are no first message, and neither is the start of one.
    let mut busy = waiting(&gateway).await;
    let start = instant();
    busy.raw(&Frame::head(true, 0, op::TEXT, Role::Client, 200)).await;
    let mut told = None;
    while told.is_none() {
        assert!(start.elapsed() < PATIENCE, "the slow one is still there");
        let _ = busy.try_raw(b"x").await;
        told = tokio::time::timeout(Duration::from_millis(50), busy.next()).await.ok().flatten();
    }
    assert_eq!(told.expect("a Close").close_code(), (3008, "no first message"));
    refused(&gateway, "auth_timeout").await;
}

#[tokio::test]
async fn a_client_that_pings_and_never_reads_makes_nothing_grow_and_is_gone_in_time() {
    let backend = Backend::start().await;
    let route = format!("{RAW}\nauth_timeout = \"2s\"\nclose_timeout = \"500ms\"");
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    drop(waiting(&gateway).await);
    let before = gateway.memory();
    let pings = Frame::new(op::PING, vec![7; 125]).encode(Role::Client).repeat(20_000);
    let mut floods = Vec::new();
    for _ in 0..20 {
        let mut link = gateway.connect_with(Some(4096)).await;
        assert_eq!(link.request(&gateway.upgrade("/", "")).await.status, 101);
        let pings = pings.clone();
        floods.push(tokio::spawn(async move {
            link.flood(&pings, Duration::from_secs(2)).await;
            link
        }));
    }
    let mut sent = Vec::new();
    for flood in floods {
        sent.push(flood.await.expect("a flood"));
    }
    let after = gateway.memory();
    // Pongs of 2.5 MB of pings for each of them would be 50 MB.
    assert!(after < before + 12 * 1024 * 1024, "{before} -> {after} bytes");
    let descriptors = gateway.descriptors();
    eventually("they are gone", || gateway.descriptors() + 15 < descriptors || descriptors < 30).await;
}

#[tokio::test]
async fn a_huge_frame_is_refused_at_its_head_and_a_client_that_sends_it_still_reads_the_close() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), RAW)).await;
    let mut client = waiting(&gateway).await;
    client.raw(&Frame::head(true, 0, op::TEXT, Role::Client, 1 << 40)).await;
    client.raw(&vec![b'x'; 100_000]).await;
    assert_eq!(client.frame().await.close_code(), (1009, "too big"));
    // One of 10,000 bytes, and then the answer to the Close: heads are followed.
    let mut client = waiting(&gateway).await;
    client.raw(&Frame::head(true, 0, op::TEXT, Role::Client, 10_000)).await;
    client.raw(&vec![b'x'; 10_000]).await;
    assert_eq!(closed(&mut client).await.0, 1009);
    // The same, all in one piece, and a Close at its end that is an answer to nothing yet.
    let mut client = waiting(&gateway).await;
    let start = instant();
    let bytes = [Frame::new(op::BINARY, vec![7; 100]), Frame::new(op::TEXT, "more"), Frame::close(1000, "")];
    client.raw(&bytes.iter().flat_map(|frame| frame.encode(Role::Client)).collect::<Vec<_>>()).await;
    assert_eq!(client.frame().await.close_code(), (1008, "first_message"));
    assert_eq!(client.rest().await, (Vec::new(), false));
    assert!(start.elapsed() < Duration::from_secs(3), "its Close was not seen: {:?}", start.elapsed());
}

#[tokio::test]
async fn what_came_in_one_piece_with_a_refused_message_is_understood() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), RAW)).await;
    let text = |text: String| Frame::new(op::TEXT, text).encode(Role::Client);
    let (refused, next) = (text("no.token.this".into()), text("x".repeat(300)));
    let close = Frame::close(1000, "").encode(Role::Client);
    // The Close; a message and the Close; part of a message, the Close after the rest of it.
    for (piece, later) in [
        ([&refused[..], &close].concat(), vec![]),
        ([&refused[..], &next, &close].concat(), vec![]),
        ([&refused[..], &next[..50]].concat(), [&next[50..], &close].concat()),
    ] {
        let mut client = waiting(&gateway).await;
        let start = instant();
        client.raw(&piece).await;
        assert_eq!(client.frame().await.close_code(), (3000, "token_invalid"));
        client.raw(&later).await;
        assert_eq!(client.rest().await, (Vec::new(), false));
        assert!(start.elapsed() < Duration::from_secs(3), "its Close was not seen: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_service_that_does_not_choose_what_the_client_has_ends_the_stream() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), GRAPHQL)).await;
    for answer in ["", "Sec-WebSocket-Protocol: other\r\n"] {
        let (_, mut client) = gateway.ask("/", OFFER).await;
        client.text(&init(&token(MINUTE))).await;
        let _service = backend.asked().await.agree(answer).await;
        assert_eq!(closed(&mut client).await, (1013, "upstream_subprotocol".to_owned()));
    }
    // None offered, none chosen: that is an agreement.
    let mut client = waiting(&gateway).await;
    client.text(&init(&token(MINUTE))).await;
    let asked = backend.asked().await;
    assert_eq!(asked.header("sec-websocket-protocol"), None);
    assert!(asked.agree("").await.frame().await.text().contains("connection_init"));
}

#[tokio::test]
async fn a_service_that_is_not_there_or_refuses_is_told_by_a_close() {
    let mut backend = Backend::start().await;
    let nowhere =
        "[[route]]\nname = \"nowhere\"\npath = \"/nowhere\"\nupstream = \"ws://127.0.0.1:9\"\ncarriers = [\"message\"]";
    let route = format!("{RAW}\nresponse_timeout = \"300ms\"\n{nowhere}");
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    let (_, mut client) = gateway.ask("/nowhere", "").await;
    client.text(&token(MINUTE)).await;
    assert_eq!(closed(&mut client).await, (1013, "upstream_refused".to_owned()));
    let answers =
        ["HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"];
    for (answer, reason) in answers.into_iter().zip(["upstream_refused", "upstream_invalid"]) {
        let mut client = waiting(&gateway).await;
        client.text(&token(MINUTE)).await;
        let _service = backend.asked().await.answer(answer).await;
        assert_eq!(closed(&mut client).await, (1013, reason.to_owned()));
    }
    let mut client = waiting(&gateway).await;
    client.text(&token(MINUTE)).await;
    let _silent = backend.asked().await;
    assert_eq!(closed(&mut client).await, (1013, "upstream_timeout".to_owned()));
}

#[tokio::test]
async fn a_token_that_dies_while_the_service_is_dialled_opens_no_stream() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), RAW)).await;
    let mut client = waiting(&gateway).await;
    let mut dies = claims(MINUTE);
    let end = now() + Duration::from_millis(1_200);
    dies["exp"] = end.as_secs_f64().into();
    client.text(&mint(&dies)).await;
    let mut service = backend.asked().await.unanswered();
    // The service never answers, and its answer is not waited for.
    assert_eq!(client.frame().await.close_code(), (3000, "token_expired"));
    let told = now();
    assert!(told >= end && told < end + Duration::from_millis(500), "{told:?} for {end:?}");
    assert_eq!(service.next().await, None, "the service got no frame, and is let go of");
}

#[tokio::test]
async fn what_ends_streams_is_heard_while_the_service_is_dialled() {
    let mut backend = Backend::start().await;
    let route = format!("{RAW}\nresponse_timeout = \"1m\"");
    let second = format!("[[route]]\nname = \"second\"\npath = \"/second\"\nupstream = \"{}\"", backend.url());
    let text = |more: &str| format!("{ADMIN}{}", config(&backend.url(), &format!("{route}\n{more}")));
    let (both, one) = (text(&format!("{second}\n{route}")), text(""));
    let gateway = Gateway::start(&both).await;
    let admin = Admin::of(&gateway).await;
    for cause in ["ended", "route gone", "drain"] {
        let (reply, mut client) = gateway.ask(if cause == "route gone" { "/second" } else { "/" }, "").await;
        assert_eq!(reply.status, 101);
        client.text(&token(MINUTE)).await;
        let mut service = backend.asked().await.unanswered();
        let start = instant();
        match cause {
            "ended" => {
                let streams = admin.streams().await;
                let (status, answer) = admin.ask("DELETE", &format!("/streams/{}", streams[0]["id"]), None).await;
                assert_eq!(status, 202, "{answer}");
            }
            "route gone" => {
                std::fs::write(gateway.path("config.toml"), &one).expect("the config");
                gateway.signal(Signal::HUP);
            }
            _ => gateway.signal(Signal::TERM),
        }
        assert_eq!(closed(&mut client).await, (1012, "service restart".to_owned()), "{cause}");
        assert!(start.elapsed() < Duration::from_secs(1), "{cause}: {:?}", start.elapsed());
        assert_eq!(service.next().await, None, "{cause}: the service got no frame, and is let go of");
    }
}

#[tokio::test]
async fn a_revoked_token_gets_in_neither_before_nor_while_the_service_is_dialled() {
    let mut backend = Backend::start().await;
    let second = format!(
        "[[route]]\nname = \"refuse\"\npath = \"/refuse\"\nupstream = \"{}\"\nreject = \"close\"",
        backend.url()
    );
    let gateway = Gateway::start(&format!("{ADMIN}{}", config(&backend.url(), &format!("{RAW}\n{second}")))).await;
    let admin = Admin::of(&gateway).await;
    let named = |jti: &str| {
        let mut claims = claims(MINUTE);
        claims["jti"] = jti.into();
        mint(&claims)
    };
    admin.revoke(ban("jti", "banned")).await;
    let mut client = waiting(&gateway).await;
    client.text(&named("banned")).await;
    assert_eq!(closed(&mut client).await, (3003, "token_revoked".to_owned()));
    let (_, mut client) = gateway.ask(&format!("/refuse?access_token={}", named("banned")), "").await;
    assert_eq!(closed(&mut client).await, (3003, "token_revoked".to_owned()));
    assert_eq!(backend.dialled(), 0);
    // The ban lands while the service thinks.
    let mut client = waiting(&gateway).await;
    client.text(&named("slow")).await;
    let _service = backend.asked().await.unanswered();
    let start = instant();
    admin.revoke(ban("jti", "slow")).await;
    assert_eq!(closed(&mut client).await, (3003, "token_revoked".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_is_counted_once_when_it_is_known_what_becomes_of_it() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&format!("{ADMIN}{}", config(&backend.url(), RAW))).await;
    let admin = Admin::of(&gateway).await;
    let count = |result: &str, reason: &str| {
        format!("portcullis_upgrades_total{{route=\"default\",result=\"{result}\",reason=\"{reason}\"}}")
    };
    let mut client = waiting(&gateway).await;
    assert!((admin.metric(&count("accepted", "none")).await - 0.0).abs() < f64::EPSILON, "it waits");
    client.text(&token(MINUTE)).await;
    admin.metric_becomes(&count("accepted", "none"), 1.0).await;
    for message in ["one", "two"] {
        let mut client = waiting(&gateway).await;
        client.text(message).await;
        assert_eq!(closed(&mut client).await.0, 3000);
    }
    admin.metric_becomes(&count("refused", "token_invalid"), 2.0).await;
    let mut client = waiting(&gateway).await;
    client.close(1000, "").await;
    admin.metric_becomes(&count("refused", "client_closed"), 1.0).await;
    admin.metric_becomes(&count("accepted", "none"), 1.0).await;
}

#[tokio::test]
async fn a_stream_that_was_let_in_ends_with_its_token() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), &format!("{RAW}\nclose.preset = \"graphql-ws\""))).await;
    let mut client = waiting(&gateway).await;
    client.text(&token(Duration::from_secs(1))).await;
    client.text("hello").await;
    assert_eq!(client.frame().await.text(), "hello");
    assert_eq!(closed(&mut client).await, (4403, "token expired".to_owned()));
    let line = gateway.logged("its end", |line| field(line, "frames_up").is_some()).await;
    assert_eq!(field(&line, "cause"), Some(&json!("token_expired")), "{line}");
}

#[tokio::test]
async fn a_flood_from_one_address_pushes_out_its_own_oldest_and_nobody_elses() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), RAW).replace(
        "[log]",
        "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\nmax_waiting = 6\nmax_waiting_per_address = 5\n[log]",
    );
    let gateway = Gateway::start(&text).await;
    let from = |address: &str| format!("X-Forwarded-For: 192.0.2.1, {address}\r\n");
    let open = async |address: &str| -> Link {
        let (reply, link): (Reply, Link) = gateway.ask("/", &from(address)).await;
        assert_eq!(reply.status, 101);
        link
    };
    let mut quiet = [open("198.51.100.1").await, open("198.51.100.2").await];
    let mut flood = Vec::new();
    for _ in 0..10 {
        flood.push(open("203.0.113.9").await);
    }
    for oldest in flood.iter_mut().take(6) {
        assert_eq!(closed(oldest).await, (1013, "rate_limited".to_owned()));
    }
    for alive in quiet.iter_mut().chain(flood.iter_mut().skip(6)) {
        alive.text(&token(MINUTE)).await;
        alive.text("in").await;
        assert_eq!(alive.frame().await.text(), "in");
    }
    refused(&gateway, "crowded").await;
}

#[tokio::test]
async fn those_who_were_let_in_or_have_gone_make_room() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), RAW).replace("[log]", "[server]\nmax_waiting = 2\n[log]");
    let gateway = Gateway::start(&text).await;
    let mut first = waiting(&gateway).await;
    let mut inside = Vec::new();
    for _ in 0..5 {
        let mut client = waiting(&gateway).await;
        client.text(&token(MINUTE)).await;
        client.text("in").await;
        assert_eq!(client.frame().await.text(), "in");
        inside.push(client);
    }
    for _ in 0..5 {
        let mut client = waiting(&gateway).await;
        client.close(1000, "").await;
        assert_eq!(client.frame().await.opcode, op::CLOSE);
        assert_eq!(client.rest().await, (Vec::new(), false));
    }
    first.text(&token(MINUTE)).await;
    first.text("still here").await;
    assert_eq!(first.frame().await.text(), "still here");
}

#[tokio::test]
async fn one_whose_service_is_dialled_is_none_of_those_who_wait() {
    let mut backend = Backend::start().await;
    let text = config(&backend.url(), RAW).replace("[log]", "[server]\nmax_waiting = 2\n[log]");
    let gateway = Gateway::start(&text).await;
    let mut first = waiting(&gateway).await;
    let mut dialling = waiting(&gateway).await;
    dialling.text(&token(MINUTE)).await;
    let asked = backend.asked().await;
    let _third = waiting(&gateway).await;
    first.text(&token(MINUTE)).await;
    first.text("still here").await;
    assert_eq!(backend.accept().await.frame().await.text(), "still here");
    asked.agree("").await.text("and you").await;
    assert_eq!(dialling.frame().await.text(), "and you");
}

#[tokio::test]
async fn leaving_closes_those_who_wait_and_waits_for_them() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), &format!("{RAW}\nauth_timeout = \"1m\""))
        .replace("[log]", "[server]\ndrain_window = \"100ms\"\n[log]");
    let mut gateway = Gateway::start(&text).await;
    let mut clients = [waiting(&gateway).await, waiting(&gateway).await];
    gateway.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.frame().await.close_code(), (1012, "service restart"));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for client in &mut clients {
        client.close(1012, "").await;
        assert_eq!(client.rest().await, (Vec::new(), false));
    }
    assert!(gateway.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn those_who_wait_are_heard_until_their_turn_to_go() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), &format!("{RAW}\nauth_timeout = \"2s\""))
        .replace("[log]", "[server]\ndrain_window = \"24h\"\ndrain_timeout = \"25h\"\n[log]");
    let gateway = Gateway::start(&text).await;
    let (mut pings, mut closes) = (waiting(&gateway).await, waiting(&gateway).await);
    let (mut comes, mut silent) = (waiting(&gateway).await, waiting(&gateway).await);
    gateway.signal(Signal::TERM);
    gateway.logged("the drain", |line| field(line, "message") == Some(&json!("draining"))).await;
    pings.send(&Frame::new(op::PING, "there?")).await;
    assert_eq!(pings.frame().await, Frame::new(op::PONG, "there?"));
    closes.close(4321, "bye").await;
    assert_eq!(closes.frame().await.close_code(), (4321, ""));
    comes.text(&token(MINUTE)).await;
    assert_eq!(closed(&mut comes).await, (1012, "service restart".to_owned()));
    assert_eq!(closed(&mut silent).await, (3008, "no first message".to_owned()));
    assert_eq!(backend.dialled(), 0);
}

#[tokio::test]
async fn a_route_that_is_gone_closes_those_who_wait_on_it() {
    let backend = Backend::echo().await;
    let second = format!("[[route]]\nname = \"second\"\npath = \"/second\"\nupstream = \"{}\"\n{RAW}", backend.url());
    let gateway = Gateway::start(&config(&backend.url(), &format!("{RAW}\n{second}"))).await;
    let mut stays = waiting(&gateway).await;
    let (_, mut goes) = gateway.ask("/second", "").await;
    std::fs::write(gateway.path("config.toml"), config(&backend.url(), RAW)).expect("the config");
    gateway.signal(Signal::HUP);
    assert_eq!(closed(&mut goes).await, (1012, "service restart".to_owned()));
    stays.text(&token(MINUTE)).await;
    stays.text("in").await;
    assert_eq!(stays.frame().await.text(), "in");
}

#[tokio::test]
async fn a_stream_that_waits_counts_as_a_connection() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), RAW).replace("[log]", "[server]\nmax_connections = 1\n[log]");
    let gateway = Gateway::start(&text).await;
    let first = waiting(&gateway).await;
    let second = async {
        let mut link = gateway.connect().await;
        link.request(&gateway.upgrade("/", "")).await.status
    };
    let mut second = std::pin::pin!(second);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut second).await.is_err(), "there is one permit");
    drop(first);
    assert_eq!(within(PATIENCE, "the permit", second).await, 101);
}

#[tokio::test]
async fn a_stream_that_waits_is_cheap() {
    const STREAMS: usize = 400;
    let backend = Backend::start().await;
    let route = format!("{RAW}\nauth_timeout = \"1m\"");
    let text = config(&backend.url(), &route)
        .replace("[log]", "[server]\nmax_waiting = 1000\nmax_waiting_per_address = 1000\n[log]");
    let gateway = Gateway::start(&text).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(waiting(&gateway).await);
    }
    let before = gateway.memory();
    for _ in 0..STREAMS {
        clients.push(waiting(&gateway).await);
    }
    let each = gateway.memory().saturating_sub(before) / STREAMS;
    println!("{each} bytes for each stream that waits");
    assert!(each < 18 * 1024, "{each} bytes for each stream that waits");
}

#[tokio::test]
async fn no_token_of_a_first_message_stands_in_the_log() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), RAW)).await;
    let good = token(Duration::from_secs(1));
    let forged = sign(&json!({"alg": "HS256"}), &claims(MINUTE), b"another secret, also longer than 32 bytes");
    for token in [&good, &forged] {
        let mut client = waiting(&gateway).await;
        client.text(token).await;
        closed(&mut client).await;
    }
    gateway.logged("the end", |line| field(line, "frames_up").is_some()).await;
    for token in [good, forged] {
        let signature = token.rsplit('.').next().expect("a signature").to_owned();
        assert!(!gateway.log().contains(&signature), "{}", gateway.log());
    }
}
