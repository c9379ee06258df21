//! What a route asks of its streams beyond a good token, through the program itself: how large and how many a client's
//! frames are, how long it is silent, how many streams belong together.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{
    Backend, Frame, Gateway, Link, PATIENCE, Role, claims, config, echo, field, instant, mint, op, token, within,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A token of somebody.
fn of(who: &str) -> String {
    let mut claims = claims(MINUTE);
    claims["sub"] = who.into();
    mint(&claims)
}

fn fragment(fin: bool, opcode: u8, payload: &[u8]) -> Frame {
    Frame { fin, ..Frame::new(opcode, payload) }
}

/// The next frame that is a Close; what stands before it.
async fn until_close(link: &mut Link) -> (Vec<Frame>, Frame) {
    let mut before = Vec::new();
    loop {
        match link.frame().await {
            close if close.opcode == op::CLOSE => return (before, close),
            frame => before.push(frame),
        }
    }
}

/// The gateway closes the stream with this; both sides answer, and the connections end.
async fn ends(client: &mut Link, service: &mut Link, code: u16, reason: &str) {
    let (_, close) = until_close(service).await;
    assert_eq!(close.close_code().0, 1001);
    service.send(&close).await;
    let (_, close) = until_close(client).await;
    assert_eq!(close.close_code(), (code, reason));
    client.send(&close).await;
    assert!(client.next().await.is_none() && service.next().await.is_none());
}

async fn reason_in_the_log(gateway: &Gateway, reason: &str) {
    gateway.logged(reason, |line| field(line, "cause").is_some_and(|told| *told == reason)).await;
}

#[tokio::test]
async fn a_message_that_is_too_big_ends_the_stream_with_1009_and_reaches_no_service() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "max_frame = \"1KiB\"\nmax_message = \"2KiB\"")).await;
    let fits = [fragment(false, op::TEXT, &[b'x'; 1024]), fragment(true, op::CONTINUATION, &[b'x'; 1024])];
    let too_big = [
        vec![Frame::new(op::BINARY, vec![1; 1025])],
        vec![fits[0].clone(), fragment(false, op::CONTINUATION, &[b'x'; 1024]), fragment(true, op::CONTINUATION, b"!")],
    ];
    for frames in too_big {
        let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
        // What the service sends is its own affair.
        service.send(&Frame::new(op::BINARY, vec![7; 5000])).await;
        assert_eq!(client.frame().await.payload.len(), 5000);
        for frame in fits.iter().chain(&frames) {
            client.send(frame).await;
        }
        for frame in fits.iter().chain(&frames[..frames.len() - 1]) {
            assert_eq!(service.frame().await.payload, frame.payload);
        }
        ends(&mut client, &mut service, 1009, "too big").await;
    }
    reason_in_the_log(&gateway, "too_big").await;
}

#[tokio::test]
async fn compressed_messages_count_as_they_are_on_the_wire() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "max_message = \"100B\"")).await;
    let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let target = format!("/?access_token={}", token(MINUTE));
    let asked = async { backend.asked().await.agree(extension).await };
    let ((reply, mut client), mut service) = tokio::join!(gateway.ask(&target, extension), asked);
    assert_eq!(reply.status, 101);
    let compressed = Frame { rsv: 4, ..Frame::new(op::TEXT, vec![0xaa; 100]) };
    client.send(&compressed).await;
    assert_eq!(service.frame().await.payload, compressed.payload, "whatever it may be when it is inflated");
    client.send(&Frame { payload: vec![0xaa; 101], ..compressed }).await;
    ends(&mut client, &mut service, 1009, "too big").await;
}

#[tokio::test]
async fn too_many_messages_or_bytes_end_the_stream_with_1008_and_its_neighbour_does_not_notice() {
    for rates in ["messages_per_second = 5\nmessages_burst = 10", "bytes_per_second = \"500B\"\nbytes_burst = \"1KB\""]
    {
        let mut backend = Backend::start().await;
        let gateway = Gateway::start(&config(&backend.url(), rates)).await;
        let (mut calm, mut other) = gateway.open_with(&token(MINUTE), &mut backend).await;
        let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
        let begun = instant();
        for _ in 0..100 {
            client.send(&Frame::new(op::BINARY, vec![1; 94])).await;
        }
        let (passed, close) = until_close(&mut service).await;
        let most = 11 + 5 * usize::try_from(begun.elapsed().as_secs()).expect("seconds");
        assert!((10..=most).contains(&passed.len()), "{} {rates}", passed.len());
        service.send(&close).await;
        let (_, close) = until_close(&mut client).await;
        assert_eq!(close.close_code(), (1008, "rate limited"));
        calm.text("hello").await;
        assert_eq!(other.frame().await.text(), "hello");
        reason_in_the_log(&gateway, "rate_limited").await;
    }
}

/// Sends fragments of one byte each, without end, and says how it ended.
async fn fragments(mut link: Link, payload: &'static [u8]) -> Frame {
    let first = fragment(false, op::BINARY, payload).encode(Role::Client);
    let more = fragment(false, op::CONTINUATION, payload).encode(Role::Client).repeat(8 << 10);
    link.raw(&first).await;
    loop {
        link.flood(&more, Duration::from_millis(100)).await;
        if !link.unread().is_empty() {
            return until_close(&mut link).await.1;
        }
        let _read = tokio::time::timeout(Duration::from_millis(1), link.fill()).await;
    }
}

#[tokio::test]
async fn tiny_fragments_without_end_cost_bounded_memory_and_leave_a_neighbour_quick() {
    let backend = Backend::serve(|asked| async move {
        let floods = asked.target().starts_with("/flood");
        let mut link = asked.agree("").await;
        if floods {
            while link.fill().await.unwrap_or(false) {
                link.discard();
            }
        } else {
            echo(link).await;
        }
    })
    .await;
    let bounded = "[[route]]\nname = \"bounded\"\npath = \"/flood/bounded\"\nmax_message = \"100KiB\"";
    let routes = format!("{bounded}\nupstream = \"{}\"", backend.url());
    let gateway = Gateway::start(&format!("[server]\nworkers = 1\n{}", config(&backend.url(), &routes))).await;
    let (_, mut neighbour) = gateway.ask(&format!("/echo?access_token={}", token(MINUTE)), "").await;
    let before = gateway.memory();
    let mut floods = Vec::new();
    for payload in [&b"x"[..], b""] {
        let (reply, link) = gateway.ask(&format!("/flood?access_token={}", token(MINUTE)), "").await;
        assert_eq!(reply.status, 101);
        floods.push(tokio::spawn(fragments(link, payload)));
    }
    let (mut slowest, begun) = (Duration::ZERO, instant());
    let mut grown = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = instant();
        neighbour.text("quick").await;
        assert_eq!(neighbour.frame().await.text(), "quick");
        slowest = slowest.max(asked.elapsed());
        grown = grown.max(gateway.memory().saturating_sub(before));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("the slowest echo took {slowest:?}; memory grew by {} KiB", grown >> 10);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(grown < 8 << 20, "{grown}");
    assert!(floods.iter().all(|flood| !flood.is_finished()), "nothing forbids them there");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    // Where a message has a bound its fragments have one too, also the empty ones.
    for payload in [&b"x"[..], b""] {
        let (_, link) = gateway.ask(&format!("/flood/bounded?access_token={}", token(MINUTE)), "").await;
        let close = within(PATIENCE, "the end of the flood", fragments(link, payload)).await;
        assert_eq!(close.close_code(), (1009, "too big"));
    }
}

#[tokio::test]
async fn an_idle_stream_ends_with_3008_and_one_that_pings_does_not() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "idle_timeout = \"1s\"")).await;
    let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send(&Frame::new(op::PING, "")).await;
        assert_eq!(service.frame().await.opcode, op::PING);
    }
    let silent = instant();
    ends(&mut client, &mut service, 3008, "idle").await;
    assert!(silent.elapsed() >= Duration::from_millis(900), "{:?}", silent.elapsed());
    reason_in_the_log(&gateway, "idle").await;
}

#[tokio::test]
async fn a_client_that_answers_pings_lives_unseen_by_its_service_and_a_dead_one_ends() {
    let mut backend = Backend::start().await;
    let pings = "ping_interval = \"300ms\"\nping_timeout = \"1s\"\nclose_timeout = \"500ms\"";
    let gateway = Gateway::start(&config(&backend.url(), pings)).await;
    let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
    let mut marks = Vec::new();
    for _ in 0..6 {
        let ping = client.frame().await;
        assert_eq!((ping.opcode, ping.payload.len(), ping.masked), (op::PING, 8, false));
        client.send(&Frame::new(op::PONG, ping.payload.clone())).await;
        marks.push(ping.payload);
    }
    client.send(&Frame::new(op::PONG, "mine")).await;
    client.text("and on").await;
    assert_eq!(service.frame().await.payload, b"mine", "the first that the service gets");
    assert_eq!(service.frame().await.text(), "and on");
    // Nothing is answered any more, and the connection stays as it is.
    let dead = instant();
    let (_, close) = until_close(&mut service).await;
    assert_eq!(close.close_code().0, 1001);
    assert!(dead.elapsed() >= Duration::from_secs(1), "{:?}", dead.elapsed());
    service.send(&close).await;
    assert!(service.next().await.is_none());
    reason_in_the_log(&gateway, "idle").await;
}

#[tokio::test]
async fn a_principal_has_so_many_streams_and_another_one_has_its_own() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "max_streams_per_principal = 2")).await;
    let first = gateway.open(&of("a")).await;
    let _second = gateway.open(&of("a")).await;
    let (reply, _) = gateway.ask(&format!("/?access_token={}", of("a")), "").await;
    assert_eq!((reply.status, reply.header("retry-after").is_some()), (429, true));
    assert!(reply.body_text().contains("rate_limited"), "{}", reply.body_text());
    gateway
        .logged("why", |line| {
            field(line, "detail").is_some_and(|told| told == "as many streams of this principal as allowed")
        })
        .await;
    let mut other = gateway.open(&of("b")).await;
    other.text("hello").await;
    assert_eq!(other.frame().await.text(), "hello");
    drop(first);
    within(PATIENCE, "a place", async {
        while gateway.ask(&format!("/?access_token={}", of("a")), "").await.0.status != 101 {}
    })
    .await;
}

#[tokio::test]
async fn the_newest_takes_the_place_of_its_principals_oldest_once_it_has_a_service() {
    let mut backend = Backend::start().await;
    let route = "max_streams_per_principal = 1\nwhen_full = \"close_oldest\"";
    let gateway = Gateway::start(&config(&backend.url(), route)).await;
    let (mut old, mut olds_service) = gateway.open_with(&of("a"), &mut backend).await;
    let (mut other, mut others_service) = gateway.open_with(&of("b"), &mut backend).await;
    // One whose service refuses takes nobody's place.
    let target = format!("/?access_token={}", of("a"));
    let refused = async { backend.asked().await.answer("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await };
    let ((reply, _), _) = tokio::join!(gateway.ask(&target, ""), refused);
    assert_eq!(reply.status, 503);
    old.text("still here").await;
    assert_eq!(olds_service.frame().await.text(), "still here");

    let (mut new, mut news_service) = gateway.open_with(&of("a"), &mut backend).await;
    ends(&mut old, &mut olds_service, 1008, "replaced").await;
    reason_in_the_log(&gateway, "replaced").await;
    for (client, service) in [(&mut new, &mut news_service), (&mut other, &mut others_service)] {
        client.text("hello").await;
        assert_eq!(service.frame().await.text(), "hello");
    }
}

#[tokio::test]
async fn an_address_has_so_many_streams_and_nobody_pushes_out_somebody_elses() {
    let mut backend = Backend::start().await;
    let route = "max_streams_per_address = 2\nwhen_full = \"close_oldest\"";
    let trusted = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let gateway = Gateway::start(&format!("{trusted}{}", config(&backend.url(), route))).await;
    let from =
        |who: &str, address: &str| (format!("/?access_token={}", of(who)), format!("X-Forwarded-For: {address}\r\n"));
    let mut streams = Vec::new();
    for (who, address) in [("a", "192.0.2.1"), ("b", "192.0.2.1"), ("c", "192.0.2.2")] {
        let (target, more) = from(who, address);
        let ((reply, client), service) = tokio::join!(gateway.ask(&target, &more), backend.accept());
        assert_eq!(reply.status, 101, "{who}");
        streams.push((client, service));
    }
    let (target, more) = from("d", "192.0.2.1");
    let (reply, _) = gateway.ask(&target, &more).await;
    assert_eq!(reply.status, 429, "it has no stream of its own there");
    let (target, more) = from("b", "192.0.2.1");
    let ((reply, client), service) = tokio::join!(gateway.ask(&target, &more), backend.accept());
    assert_eq!(reply.status, 101);
    let (mut old, mut olds_service) = streams.remove(1);
    ends(&mut old, &mut olds_service, 1008, "replaced").await;
    streams.push((client, service));
    for (client, service) in &mut streams {
        client.text("hello").await;
        assert_eq!(service.frame().await.text(), "hello");
    }
}
