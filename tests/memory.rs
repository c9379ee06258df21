//! The most memory that the program takes, held against the bounds in docs/performance.md ("Peak memory").
//!
//! Each test has a gateway process of its own and warms it up first: what counts is how far its peak (`VmHWM`) rises above
//! what it takes then.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, Role, config, echo, instant, op, token, within};
use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

const LONG: Duration = Duration::from_secs(3600);
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a stream or connection takes apart from buffers.
const STATE: usize = 8 * KIB;
/// A read, and a record that had begun before it: what one direction may hold that the other side has not taken.
const CHUNK: usize = (64 + 18) * KIB;
/// The start of a record that is not whole.
const RECORD: usize = 18 * KIB;
/// Scratch of each thread, and what the allocator keeps: in all, once.
const ONCE: usize = 2 * MIB;

/// What /proc says of a process, in bytes.
fn proc(gateway: &Gateway, file: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", gateway.pid())).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the line");
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).expect("KiB") * KIB
}

fn peak(gateway: &Gateway) -> usize {
    proc(gateway, "status", "VmHWM:")
}

fn pss(gateway: &Gateway) -> usize {
    proc(gateway, "smaps_rollup", "Pss:")
}

/// A gateway that has served a stream with large messages, and what it takes then.
async fn warm(backend: &Backend) -> (Gateway, usize) {
    let config = format!("[server]\nhandshake_timeout = \"60s\"\n{}", config(&backend.url(), ""));
    let gateway = Gateway::start(&config.replace("level = \"debug\"", "level = \"info\"")).await;
    let mut streams = join_all((0..8).map(|_| open(&gateway, "/echo", None))).await;
    join_all(streams.iter_mut().map(|stream| exchange(stream, 256 * KIB))).await;
    drop(streams);
    let base = proc(&gateway, "status", "VmRSS:");
    (gateway, base)
}

async fn open(gateway: &Gateway, path: &str, receive_buffer: Option<u32>) -> Link {
    let mut link = gateway.connect_with(receive_buffer).await;
    let reply = link.request(&gateway.upgrade(&format!("{path}?access_token={}", token(LONG)), "")).await;
    assert_eq!(reply.status, 101);
    link
}

async fn exchange(link: &mut Link, size: usize) {
    let frame = Frame::new(op::BINARY, vec![7; size]);
    link.send(&frame).await;
    assert_eq!(link.frame().await.payload, frame.payload);
}

/// Holds the peak against `bound`, and says what it is.
fn hold(gateway: &Gateway, base: usize, bound: usize, what: &str) {
    let grown = peak(gateway).saturating_sub(base);
    println!("{what}: {} KiB over {} KiB; the bound is {} KiB", grown / KIB, base / KIB, bound / KIB);
    assert!(grown <= bound, "{what}: {} KiB, the bound is {} KiB", grown / KIB, bound / KIB);
}

/// Sends the head of an endless frame and zeros, as long as they are taken; counts them.
async fn pour(link: &mut Link, role: Role, poured: &AtomicUsize) {
    link.raw(&Frame::head(true, 0, op::BINARY, role, 1 << 40)).await;
    let zeros = vec![0; 256 * KIB];
    loop {
        let taken = link.flood(&zeros, Duration::from_millis(200)).await;
        poured.fetch_add(taken, Ordering::Relaxed);
    }
}

/// Waits until nothing more is taken.
async fn until_stuck(poured: &AtomicUsize) {
    let (start, mut before) = (instant(), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let now = poured.load(Ordering::Relaxed);
        if now > MIB && now == before {
            return;
        }
        before = now;
        assert!(start.elapsed() < Duration::from_secs(60), "no back-pressure after {} MiB", now / MIB);
    }
}

/// A service that pours at /pour, takes nothing at /stuck, and echoes elsewhere.
async fn service(poured: Arc<AtomicUsize>) -> Backend {
    Backend::serve(move |asked| {
        let poured = poured.clone();
        async move {
            let path = asked.target().to_owned();
            let mut link = asked.agree("").await;
            match path.split('?').next() {
                Some("/pour") => pour(&mut link, Role::Server, &poured).await,
                Some("/stuck") => std::future::pending().await,
                _ => echo(link).await,
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_that_do_not_read_cost_two_chunks_each() {
    let poured = Arc::new(AtomicUsize::new(0));
    let backend = service(poured.clone()).await;
    let (gateway, base) = warm(&backend).await;
    let _streams = join_all((0..64).map(|_| open(&gateway, "/pour", Some(64 * 1024)))).await;
    until_stuck(&poured).await;
    // One chunk that was sealed and is not the kernel's, one that was read behind it.
    hold(&gateway, base, ONCE + 64 * (STATE + 2 * CHUNK), "64 clients that do not read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_services_that_do_not_read_cost_a_chunk_and_a_record_each() {
    let poured = Arc::new(AtomicUsize::new(0));
    let backend = service(poured.clone()).await;
    let (gateway, base) = warm(&backend).await;
    let streams = join_all((0..64).map(|_| open(&gateway, "/stuck", None))).await;
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            let poured = poured.clone();
            tokio::spawn(async move { pour(&mut stream, Role::Client, &poured).await })
        })
        .collect();
    until_stuck(&poured).await;
    hold(&gateway, base, ONCE + 64 * (STATE + CHUNK + RECORD), "64 services that do not read");
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[cfg_attr(feature = "buffered-tls", ignore = "rustls' buffered API keeps buffers of its own")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_half_open_handshakes_cost_their_state_and_a_record_at_most() {
    let backend = Backend::echo().await;
    let hello = |gateway: &Gateway| client_hello(gateway.authority().client());
    // A record that is announced as the longest there is, and lacks its last byte.
    let endless = [&[0x16, 3, 1, 0x40, 0][..], &[1, 0, 0x3f, 0xfc], &[0; 16 * KIB - 5]].concat();
    for (what, kept) in
        [("nothing", 0), ("half a hello", RECORD / 8), ("a whole hello", 0), ("an endless hello", RECORD)]
    {
        let (gateway, base) = warm(&backend).await;
        let bytes = match what {
            "nothing" => Vec::new(),
            "half a hello" => hello(&gateway).split_at(hello(&gateway).len() / 2).0.to_vec(),
            "a whole hello" => hello(&gateway),
            _ => endless.clone(),
        };
        let mut links = Vec::new();
        for _ in 0..1000 {
            let mut link = Link::connect(gateway.address(), None).await;
            link.raw(&bytes).await;
            links.push(link);
        }
        if what == "a whole hello" {
            for link in &mut links {
                assert!(within(LONG, "an answer", link.fill()).await.expect("an answer"), "no answer");
            }
        }
        // Whatever was sent has been read once a stream that came later is served.
        exchange(&mut open(&gateway, "/", None).await, 1).await;
        assert!(gateway.descriptors() >= 1000, "all are still open");
        hold(&gateway, base, ONCE + 1000 * (STATE + kept), &format!("1,000 handshakes, {what}"));
    }
}

fn client_hello(config: Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut hello = Vec::new();
    ClientConnection::new(config, name).expect("a client").write_tls(&mut hello).expect("a hello");
    hello
}

/// A payload that is made piece by piece and checked piece by piece: no two pieces are alike, and their length is a
/// multiple of the mask's.
struct Pieces {
    piece: Vec<u8>,
    number: u64,
    at: usize,
}

impl Pieces {
    /// As they stand on the wire when `role` sends them; the mask is the one of every frame here.
    fn new(role: Role) -> Self {
        let mut piece: Vec<u8> = (0..PIECE).map(|at| u8::try_from(at * 7 % 251).expect("a byte")).collect();
        if role == Role::Client {
            let head = Frame::head(true, 0, op::BINARY, role, 0);
            let mask = head.split_at(2).1;
            piece.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        Self { piece, number: 0, at: 0 }
    }

    /// What comes next, up to the end of a piece.
    fn next(&mut self) -> &[u8] {
        if self.at == PIECE {
            self.at = 0;
            self.number += 1;
        }
        self.piece.split_at_mut(8).0.copy_from_slice(&self.number.to_le_bytes());
        self.piece.split_at(self.at).1
    }

    fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.next();
            let length = expected.len().min(bytes.len());
            let (now, later) = bytes.split_at(length);
            assert!(now == expected.split_at(length).0, "other bytes in piece {}", self.number);
            self.at += length;
            bytes = later;
        }
    }
}

async fn send_large(link: &mut Link, role: Role) {
    link.raw(&Frame::head(true, 0, op::BINARY, role, LARGE)).await;
    let mut pieces = Pieces::new(role);
    let mut left = usize::try_from(LARGE).expect("a length");
    while left > 0 {
        let piece = pieces.next();
        let length = piece.len().min(left);
        link.raw(piece.split_at(length).0).await;
        pieces.at += length;
        left -= length;
    }
}

async fn receive_large(link: &mut Link, sender: Role) {
    let head = Frame::head(true, 0, op::BINARY, sender, LARGE);
    while link.unread().len() < head.len() {
        assert!(link.fill().await.expect("bytes"), "the end");
    }
    let (start, rest) = link.unread().split_at(head.len());
    assert_eq!(start, head);
    let mut pieces = Pieces::new(sender);
    pieces.check(rest);
    let mut got = link.discard() - head.len();
    while (got as u64) < LARGE {
        assert!(link.fill().await.expect("bytes"), "the end");
        pieces.check(link.unread());
        got += link.discard();
    }
    assert_eq!(got as u64, LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_a_gibibyte_passes_either_way_through_two_chunks() {
    let backend = Backend::serve(|asked| async move {
        let path = asked.target().to_owned();
        let mut link = asked.agree("").await;
        match path.split('?').next() {
            Some("/up") => {
                receive_large(&mut link, Role::Client).await;
                link.text("all of it").await;
                let _ = link.next_or_error().await;
            }
            Some("/down") => {
                send_large(&mut link, Role::Server).await;
                let _ = link.next_or_error().await;
            }
            _ => echo(link).await,
        }
    })
    .await;
    let (gateway, base) = warm(&backend).await;
    let start = instant();
    let up = async {
        let mut link = open(&gateway, "/up", None).await;
        send_large(&mut link, Role::Client).await;
        assert_eq!(link.frame().await.text(), "all of it");
    };
    let down = async {
        let mut link = open(&gateway, "/down", None).await;
        receive_large(&mut link, Role::Server).await;
    };
    within(LIMIT, "1 GiB either way", async { tokio::join!(up, down) }).await;
    println!("2 GiB in {:?}", start.elapsed());
    hold(&gateway, base, ONCE + 2 * (STATE + 2 * CHUNK + RECORD), "a frame of 1 GiB either way");
}

#[cfg_attr(feature = "buffered-tls", ignore = "rustls' buffered API keeps buffers of its own")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_has_moved_large_messages_keeps_nothing_of_them() {
    let backend = Backend::echo().await;
    let (gateway, _) = warm(&backend).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.extend(join_all((0..25).map(|_| open(&gateway, "/", None))).await);
    }
    for some in streams.chunks_mut(25) {
        join_all(some.iter_mut().map(|stream| exchange(stream, 64))).await;
    }
    let before = pss(&gateway);
    for some in streams.chunks_mut(25) {
        join_all(some.iter_mut().map(|stream| exchange(stream, 256 * KIB))).await;
    }
    let after = pss(&gateway);
    let grown = after.saturating_sub(before);
    println!("500 streams: {} KiB before, {} KiB after 256 KiB each way", before / KIB, after / KIB);
    // What the allocator keeps for all of them together, once: far below a chunk for each, which would be 32 MiB.
    assert!(grown <= 500 * KIB + ONCE, "{grown} bytes more than before");
}

/// The payload of a large frame.
const LARGE: u64 = 1 << 30;
/// How long it may take to pass, in a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);
/// The length of a piece.
const PIECE: usize = 4 * 16_381;
