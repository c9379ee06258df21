//! HTTP/2 clients that want to harm: floods, bombs, and connections that nobody is to hold for nothing. Whatever they do, memory
//! and time are bounded, their place comes back, and a neighbour is served meanwhile.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::frames::{
    Frames, PREFACE, Received, block, code, connect, field, flag, frame, get, goaway, headers, integer, kind, reset,
    settings, string, window_update,
};
use common::{Backend, Frame, Gateway, Link, Role, config, echo, eventually, instant, op, token};
use tokio::task::JoinHandle;

const HOUR: Duration = Duration::from_secs(3600);
const MIB: usize = 1 << 20;
const END: u8 = flag::END_STREAM;

/// One place for the attacker, one for a neighbour.
const TWO: &str = "[server]\nmax_connections = 2\n";
/// Likewise, with deadlines short enough to wait for.
const IMPATIENT: &str = "[server]\nmax_connections = 2\nhandshake_timeout = \"1s\"\nrequest_timeout = \"1s\"\n";
/// How long a connection without a stream may last then: handshake and three requests.
const LONGEST: Duration = Duration::from_secs(4);
/// And what it must be given of that.
const ALMOST: Duration = Duration::from_secs(3);
/// How long it may take to let go of a connection that is told to end.
const LETTING_GO: Duration = Duration::from_secs(10);
/// What a machine that is busy with other tests adds.
const BUSY: Duration = Duration::from_secs(3);

/// A gateway with a neighbour who must not notice anything.
struct Siege {
    gateway: Gateway,
    backend: Backend,
    neighbour: JoinHandle<(Link, Duration)>,
    over: Arc<AtomicBool>,
    memory: usize,
}

impl Siege {
    /// `more` as in [`config`].
    async fn begin(more: &str) -> Self {
        let backend = service().await;
        let quiet = config(&backend.url(), more).replace("level = \"debug\"", "level = \"info\"");
        let gateway = Gateway::start(&quiet).await;
        let mut link = gateway.open(&token(HOUR)).await;
        // Warm: what the gateway takes anyway is no fault of an attacker.
        exchange(&mut link, 64 * 1024).await;
        let memory = gateway.memory();
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let neighbour = tokio::spawn(async move {
            let mut worst = Duration::ZERO;
            while !stop.load(Ordering::SeqCst) {
                let start = instant();
                exchange(&mut link, 16).await;
                worst = worst.max(start.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (link, worst)
        });
        Self { gateway, backend, neighbour, over, memory }
    }

    /// Waits until the gateway has next to nothing to do, but for the neighbour.
    async fn rests(&self) {
        let (start, mut before) = (instant(), self.ticks());
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.ticks();
            if now - before < 50 {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{} ms of work in a second", (now - before) * 10);
            before = now;
        }
    }

    /// What the process has taken of the processors, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.gateway.pid())).expect("stat");
        let (_, fields) = stat.rsplit_once(')').expect("its name");
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    }

    /// The attack is over: what it has cost is within `memory` bytes, the neighbour was served all the time, and the
    /// attacker's place is free.
    async fn end(self, what: &str, memory: usize) {
        let grown = self.gateway.memory().saturating_sub(self.memory);
        self.over.store(true, Ordering::SeqCst);
        let (link, worst) = self.neighbour.await.expect("the neighbour was served");
        println!("{what}: {} KiB more, the neighbour waited {worst:?} at most", grown / 1024);
        assert!(grown < memory, "{what}: {} KiB more", grown / 1024);
        assert!(worst < BUSY, "{what}: the neighbour waited {worst:?}");
        let mut second = self.gateway.open(&token(HOUR)).await;
        exchange(&mut second, 16).await;
        drop((link, second));
        eventually("no stream is left at the service", || self.backend.live() == 0).await;
    }
}

/// Echoes; but at /slow it never answers, and at /pour it sends without end.
async fn service() -> Backend {
    Backend::serve(|asked| async move {
        let path = asked.target().to_owned();
        match path.as_str() {
            "/slow" => {
                let mut link = asked.unanswered();
                while link.fill().await.unwrap_or(false) {}
            }
            "/pour" => {
                let mut link = asked.agree("").await;
                link.raw(&Frame::head(true, 0, op::BINARY, Role::Server, 1 << 40)).await;
                while link.try_raw(&[0; 16 * 1024]).await.is_ok() {}
            }
            _ => echo(asked.agree("").await).await,
        }
    })
    .await
}

async fn exchange(link: &mut Link, size: usize) {
    let frame = Frame::new(op::BINARY, vec![7; size]);
    link.send(&frame).await;
    assert_eq!(link.frame().await.payload, frame.payload);
}

/// A CONNECT with a good token.
fn good(path: &str) -> Vec<u8> {
    connect(&format!("{path}?access_token={}", token(HOUR)))
}

/// The error that a connection was ended with.
fn told(seen: &[Received]) -> Option<u32> {
    seen.iter().filter(|frame| frame.kind == kind::GOAWAY).map(Received::code).find(|code| *code != code::NO_ERROR)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_are_ended_or_cost_nothing() {
    let many = |count: usize, frame: &dyn Fn(usize) -> Vec<u8>| (0..count).flat_map(frame).collect::<Vec<u8>>();
    let id = |at: usize| u32::try_from(2 * at + 1).expect("an id");
    let opening = [headers(1, 0, good("/"))].concat();
    // A block that begins and never ends.
    let begun = frame(kind::HEADERS, END, 1, &get()[..4]);
    let table: Vec<(&str, Vec<u8>, bool)> = vec![
        ("SETTINGS", many(30_000, &|at| settings(&[(4, 65_535 + u32::from(at % 2 == 0))])), false),
        (
            "SETTINGS that change 200 windows",
            [
                many(200, &|at| headers(id(at), 0, good("/slow"))),
                many(30_000, &|at| settings(&[(4, 65_535 + u32::from(at % 2 == 0))])),
            ]
            .concat(),
            false,
        ),
        ("PING", many(50_000, &|_| frame(kind::PING, 0, 0, [7; 8])), false),
        ("PRIORITY", many(50_000, &|at| frame(kind::PRIORITY, 0, id(at), [0, 0, 0, 0, 9])), false),
        ("unknown frames", many(50_000, &|_| frame(0x77, 0xff, 1, [])), false),
        ("tiny WINDOW_UPDATEs", many(50_000, &|_| window_update(0, 1)), false),
        ("tiny WINDOW_UPDATEs of a stream", [opening.clone(), many(50_000, &|_| window_update(1, 1))].concat(), false),
        ("empty DATA", [opening.clone(), many(50_000, &|_| frame(kind::DATA, 0, 1, []))].concat(), true),
        ("DATA that is padding", [opening, many(50_000, &|_| frame(kind::DATA, flag::PADDED, 1, [0]))].concat(), true),
        ("empty CONTINUATIONs", [begun.clone(), many(50_000, &|_| frame(kind::CONTINUATION, 0, 1, []))].concat(), true),
        (
            "large CONTINUATIONs",
            [begun, many(500, &|_| frame(kind::CONTINUATION, 0, 1, field("x", &"y".repeat(16_000))))].concat(),
            true,
        ),
        (
            "HEADERS with RST_STREAM",
            many(10_000, &|at| [headers(id(at), END, get()), reset(id(at), code::CANCEL)].concat()),
            true,
        ),
        ("malformed HEADERS", many(10_000, &|at| headers(id(at), END, field("x", "y"))), true),
        ("HEADERS too many at a time", many(10_000, &|at| headers(id(at), 0, good("/slow"))), true),
    ];
    let siege = Siege::begin(TWO).await;
    for (what, bytes, ended) in table {
        let mut frames = Frames::connect(&siege.gateway).await;
        let start = instant();
        let (mut seen, mut over) = frames.pour(&bytes).await;
        if !over && frames.try_send(frame(kind::PING, 0, 0, *b"the last")).await.is_ok() {
            over = loop {
                match frames.next().await {
                    Some(frame) if frame.payload == b"the last" => break false,
                    Some(frame) => seen.push(frame),
                    None => break true,
                }
            };
        }
        println!("{what}: {} bytes in {:?}, told {:?}", bytes.len(), start.elapsed(), told(&seen));
        assert_eq!(over, ended, "{what}: told {:?}", told(&seen));
        let resets = seen.iter().filter(|frame| frame.kind == kind::RST_STREAM).count();
        assert!(resets <= 2_000, "{what}: {resets} resets");
    }
    siege.end("floods", 24 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_that_are_reset_at_once_leave_nothing_behind() {
    for (what, rounds, head) in [
        ("resets of refused requests", 100, get()),
        ("resets while the service is slow", 100, good("/slow")),
        ("resets of streams", 20, good("/")),
    ] {
        let siege = Siege::begin(TWO).await;
        let mut frames = Frames::connect(&siege.gateway).await;
        let (start, mut next, own) = (instant(), 1, siege.backend.dialled());
        for round in 1..=rounds {
            let ids: Vec<u32> = (0..100).map(|at| next + 2 * at).collect();
            next += 200;
            frames.send(ids.iter().flat_map(|id| headers(*id, 0, &head)).collect::<Vec<u8>>()).await;
            // All are taken up before they are reset: the library counts only those that are not.
            if what.ends_with("slow") {
                eventually("the dials", || siege.backend.dialled() >= own + 100 * round).await;
            } else {
                for _ in &ids {
                    frames.until("an answer", |frame| frame.kind == kind::HEADERS).await;
                }
            }
            frames.send(ids.iter().flat_map(|id| reset(*id, code::CANCEL)).collect::<Vec<u8>>()).await;
            frames.round_trip().await;
        }
        println!("{what}: {} in {:?}, {} dials", rounds * 100, start.elapsed(), siege.backend.dialled());
        // The neighbour's alone.
        eventually("the dials are given up", || siege.backend.live() <= 1).await;
        drop(frames);
        siege.end(what, 24 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_header_block_that_unfolds_is_not_held() {
    let siege = Siege::begin(TWO).await;
    // 4,000 bytes that stay in the dynamic table, and a byte for each time that they are meant.
    let entry = [&[0x40][..], &string("x"), &string(&"y".repeat(3_900))].concat();
    let bomb = [entry, vec![0xbe; 12_000]].concat();
    let cookies = [&[0x40][..], &string("cookie"), &string("a=b")].concat();
    let crumbs = [cookies, vec![0xbe; 16_000]].concat();
    // Strings of a MiB by their length, in pieces.
    let long = [&[0][..], &string("x"), &integer(MIB, 0x7f)].concat();
    for (what, blocks) in [("a bomb", &bomb), ("crumbs", &crumbs), ("a long string", &long)] {
        for _ in 0..20 {
            let mut frames = Frames::connect(&siege.gateway).await;
            let block = [get(), blocks.clone()].concat();
            let bytes: Vec<u8> = match what {
                "a long string" => {
                    let pieces = (0..64).flat_map(|_| frame(kind::CONTINUATION, 0, 1, [b'y'; 16_000]));
                    frame(kind::HEADERS, END, 1, block).into_iter().chain(pieces).collect()
                }
                _ => headers(1, END, block),
            };
            let (mut seen, over) = frames.pour(&bytes).await;
            if !over {
                let last = |frame: &Received| matches!(frame.kind, kind::HEADERS | kind::RST_STREAM | kind::GOAWAY);
                seen.push(frames.until("an answer", last).await);
            }
            let status = seen.iter().find(|frame| frame.kind == kind::HEADERS).map(Received::status);
            assert!(status.is_none_or(|status| status == 431), "{what}: {status:?}");
        }
    }
    siege.end("header bombs", 16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_streams_at_once_are_256_and_44_that_may_be_tried_again() {
    let siege = Siege::begin(TWO).await;
    let mut frames = Frames::connect(&siege.gateway).await;
    let head = good("/");
    frames.send((0..300).flat_map(|at| headers(2 * at + 1, 0, &head)).collect::<Vec<u8>>()).await;
    let (mut opened, mut refused) = (0, 0);
    while opened + refused < 300 {
        let frame = frames.frame().await;
        match frame.kind {
            kind::HEADERS => opened += 1,
            kind::RST_STREAM => {
                assert_eq!(frame.code(), code::REFUSED_STREAM);
                refused += 1;
            }
            kind::GOAWAY => panic!("the connection ends: {}", frame.code()),
            _ => {}
        }
    }
    assert_eq!((opened, refused), (256, 44));
    // Each of them carries messages.
    let hello = Frame::new(op::TEXT, "hello").encode(Role::Client);
    frames.send((0..256).flat_map(|at| frame(kind::DATA, 0, 2 * at + 1, &hello)).collect::<Vec<u8>>()).await;
    for _ in 0..256 {
        let echo = frames.until("an echo", |frame| frame.kind == kind::DATA).await;
        assert_eq!(echo.payload, Frame::new(op::TEXT, "hello").encode(Role::Server));
    }
    drop(frames);
    siege.end("300 streams", 48 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_opens_its_windows_makes_nothing_pile_up() {
    let siege = Siege::begin(TWO).await;
    let mut frames = Frames::connect_with(&siege.gateway, &[(4, 0)]).await;
    let (pouring, refused) = (good("/pour"), get());
    let asking = (0..64).flat_map(|at| headers(2 * at + 1, 0, if at % 2 == 0 { &pouring } else { &refused }));
    frames.send(asking.collect::<Vec<u8>>()).await;
    let mut answered = 0;
    while answered < 64 {
        let frame = frames.frame().await;
        answered += usize::from(frame.kind == kind::HEADERS);
        assert!(frame.kind != kind::DATA || frame.payload.is_empty(), "the window is 0");
    }
    // As many services as that half pour meanwhile.
    siege.rests().await;
    frames.round_trip().await;
    drop(frames);
    siege.end("windows of 0", 16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_at_all_makes_nothing_pile_up() {
    let siege = Siege::begin(TWO).await;
    let mut frames = Frames::connect_with(&siege.gateway, &[(4, 0x7fff_ffff)]).await;
    frames.send(window_update(0, 0x7000_0000)).await;
    let pouring = good("/pour");
    frames.send((0..32).flat_map(|at| headers(2 * at + 1, 0, &pouring)).collect::<Vec<u8>>()).await;
    let pings: Vec<u8> = (0..1000).flat_map(|_| frame(kind::PING, 0, 0, [7; 8])).collect();
    let start = instant();
    // Until the gateway takes no more either.
    while tokio::time::timeout(Duration::from_secs(1), frames.try_send(&pings)).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(30), "the gateway takes PINGs and gets no answer away");
    }
    siege.rests().await;
    drop(frames);
    siege.end("a client that reads nothing", 16 * MIB).await;
}

#[tokio::test]
async fn expiry_ends_a_stream_whose_client_never_opens_its_window() {
    let backend = service().await;
    let gateway = Gateway::start(&config(&backend.url(), "close_timeout = \"500ms\"")).await;
    let mut frames = Frames::connect_with(&gateway, &[(4, 0)]).await;
    let head = connect(&format!("/pour?access_token={}", token(Duration::from_secs(2))));
    frames.send(headers(1, 0, head)).await;
    assert_eq!(frames.until("an answer", |frame| frame.kind == kind::HEADERS).await.status(), 200);
    let end = |frame: &Received| frame.stream == 1 && (frame.kind == kind::RST_STREAM || frame.ends());
    frames.until("the end of the stream", end).await;
    eventually("the service's connection has ended", || backend.live() == 0).await;
}

#[tokio::test]
async fn a_goaway_of_the_client_leaves_its_streams_alone() {
    let siege = Siege::begin(TWO).await;
    let mut frames = Frames::connect(&siege.gateway).await;
    frames.send(headers(1, 0, good("/"))).await;
    assert_eq!(frames.until("an answer", |frame| frame.kind == kind::HEADERS).await.status(), 200);
    frames.send(goaway(code::NO_ERROR)).await;
    for text in ["one", "two"] {
        frames.send(frame(kind::DATA, 0, 1, Frame::new(op::TEXT, text).encode(Role::Client))).await;
        let echo = frames.until("an echo", |frame| frame.kind == kind::DATA).await;
        assert_eq!(echo.payload, Frame::new(op::TEXT, text).encode(Role::Server));
    }
    frames.send(frame(kind::DATA, 0, 1, Frame::close(1000, "").encode(Role::Client))).await;
    frames.until("the end of the stream", Received::ends).await;
    // And then there is nothing left to be done.
    frames.rest().await;
    siege.end("GOAWAY", 8 * MIB).await;
}

#[tokio::test]
async fn the_last_stream_of_a_connection_works_and_there_is_none_after_it() {
    let siege = Siege::begin(TWO).await;
    let mut frames = Frames::connect(&siege.gateway).await;
    let last = 0x7fff_ffff;
    frames.send(headers(last, 0, good("/"))).await;
    assert_eq!(frames.until("an answer", |frame| frame.kind == kind::HEADERS).await.status(), 200);
    frames.send(frame(kind::DATA, 0, last, Frame::new(op::TEXT, "x").encode(Role::Client))).await;
    frames.until("an echo", |frame| frame.kind == kind::DATA && frame.stream == last).await;
    frames.send(headers(1, END, get())).await;
    assert_eq!(told(&frames.rest().await), Some(code::PROTOCOL));
    siege.end("the last stream", 8 * MIB).await;
}

/// Sends `each`, given a stream of its own, every 300 ms until the connection ends; how long it lasted from its first byte
/// on. A `polite` client answers PINGs.
async fn lasts(gateway: &Gateway, polite: bool, each: impl Fn(u32) -> Vec<u8>) -> Duration {
    let start = instant();
    let mut frames = Frames::connect(gateway).await;
    let mut stream = 1;
    while start.elapsed() < LONGEST + LETTING_GO + 2 * BUSY {
        if frames.try_send(each(stream)).await.is_err() {
            break;
        }
        stream += 2;
        let pause = tokio::time::sleep(Duration::from_millis(300));
        tokio::pin!(pause);
        loop {
            let frame = tokio::select! {
                () = &mut pause => break,
                frame = frames.wait() => frame,
            };
            let Some(frame) = frame else { return start.elapsed() };
            if polite && frame.kind == kind::PING && frame.flags & flag::ACK == 0 {
                let _ = frames.try_send(common::frames::frame(kind::PING, flag::ACK, 0, frame.payload)).await;
            }
        }
    }
    start.elapsed()
}

/// A connection that asks for this, and whether its client answers PINGs, is let go of in time, and not before it must.
async fn is_let_go(what: &str, route: &str, polite: bool, least: Duration, each: impl Fn(u32) -> Vec<u8>) {
    let siege = Siege::begin(&format!("{route}\n{IMPATIENT}")).await;
    let lasted = lasts(&siege.gateway, polite, each).await;
    println!("{what}, PINGs answered: {polite}: {lasted:?}");
    assert!(lasted >= least, "{what}: only {lasted:?}");
    let most = if polite { LONGEST } else { LONGEST + LETTING_GO };
    assert!(lasted <= most + BUSY, "{what}: {lasted:?}");
    siege.end(what, 8 * MIB).await;
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_let_go() {
    is_let_go("nothing", "", true, Duration::from_millis(900), |_| Vec::new()).await;
}

#[tokio::test]
async fn a_connection_that_only_pings_and_does_not_let_go_is_cut() {
    is_let_go("PINGs", "", false, Duration::from_millis(900), |_| frame(kind::PING, 0, 0, [7; 8])).await;
}

#[tokio::test]
async fn a_connection_whose_header_block_never_ends_is_let_go() {
    is_let_go("half a head", "", true, Duration::from_millis(900), |stream| match stream {
        1 => frame(kind::HEADERS, END, 1, &get()[..4]),
        _ => Vec::new(),
    })
    .await;
}

#[tokio::test]
async fn a_connection_whose_requests_are_all_refused_is_let_go() {
    is_let_go("refused requests", "", true, ALMOST, |stream| headers(stream, END, get())).await;
}

#[tokio::test]
async fn a_connection_whose_requests_are_all_refused_is_cut_if_its_client_does_not_let_go() {
    is_let_go("refused requests", "", false, ALMOST, |stream| headers(stream, END, get())).await;
}

#[tokio::test]
async fn a_connection_whose_streams_are_all_refused_by_a_close_is_let_go() {
    let route = "reject = \"close\"\nclose_timeout = \"100ms\"";
    is_let_go("refusals by a Close", route, true, ALMOST, |stream| headers(stream, 0, connect("/"))).await;
}

#[tokio::test]
async fn a_connection_whose_streams_never_show_a_token_is_let_go() {
    // The neighbour has one in its query.
    let route = "path = \"/\"\n[[route]]\nname = \"message\"\npath = \"/message\"\nupstream = \"ws://127.0.0.1:1\"\n\
                 carriers = [\"message\"]\nauth_timeout = \"1s\"\nclose_timeout = \"100ms\"";
    is_let_go("no first message", route, true, ALMOST, |stream| headers(stream, 0, connect("/message"))).await;
}

#[tokio::test]
async fn a_connection_with_nothing_but_preflights_is_let_go() {
    let path = (":path", "/.portcullis/renew");
    let preflight = block(&[(":method", "OPTIONS"), (":scheme", "https"), path, (":authority", "localhost")]);
    is_let_go("preflights", "", true, ALMOST, |stream| headers(stream, END, &preflight)).await;
}

#[tokio::test]
async fn a_preface_that_is_none_or_never_comes_ends_the_connection_in_time() {
    let siege = Siege::begin(IMPATIENT).await;
    for (what, bytes, waits) in [
        ("none", &[][..], true),
        ("half", &PREFACE[..12], true),
        ("whole, and garbage", &[PREFACE, &[0xff; 64]].concat(), false),
        ("garbage", &[0xff; 64], false),
    ] {
        let start = instant();
        let mut frames = Frames::bare(&siege.gateway).await;
        frames.send(bytes).await;
        frames.rest().await;
        let lasted = start.elapsed();
        let bounds = if waits { Duration::from_millis(900)..LONGEST + BUSY } else { Duration::ZERO..BUSY };
        assert!(bounds.contains(&lasted), "{what}: {lasted:?}");
    }
    siege.end("prefaces", 8 * MIB).await;
}
