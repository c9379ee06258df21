//! Plain requests and answers of a gibibyte, through bounded memory.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Backend, Gateway, Http2, Link, config, instant, token, within};
use h2::SendStream;
use http::Request;

const HOUR: Duration = Duration::from_secs(3600);
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const LARGE: usize = 1024 * MIB;
/// What it may take beyond what the gateway takes when it has served a little.
const BOUND: usize = 4 * MIB;
/// In a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);
/// No power of two, so that no two buffers look alike.
const PIECE: usize = 65_521;

fn piece() -> Vec<u8> {
    (0..PIECE).map(|at| u8::try_from(at * 7 % 251).expect("a byte")).collect()
}

async fn send(link: &mut Link, size: usize) {
    let piece = piece();
    let mut left = size;
    while left > 0 {
        let length = left.min(PIECE);
        link.raw(&piece[..length]).await;
        left -= length;
    }
}

async fn receive(link: &mut Link, size: usize) {
    let (piece, mut got) = (piece(), 0);
    loop {
        let mut bytes = link.unread();
        assert!(got + bytes.len() <= size, "more than was sent");
        while !bytes.is_empty() {
            let at = got % PIECE;
            let length = bytes.len().min(PIECE - at);
            assert!(bytes[..length] == piece[at..at + length], "other bytes at {got}");
            got += length;
            bytes = &bytes[length..];
        }
        link.discard();
        if got == size {
            return;
        }
        assert!(link.fill().await.expect("bytes"), "the end after {got}");
    }
}

/// Takes an upload whole, then answers; or answers a download.
async fn serve(backend: &mut Backend, size: usize) {
    let mut service = backend.connection().await;
    let head = service.read_head().await.expect("a request");
    if head.starts_with("PUT") {
        receive(&mut service, size).await;
        service.raw(b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nall").await;
    } else {
        service.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await;
        send(&mut service, size).await;
    }
    // Kept, so that it does not end before what it sent is taken.
    let _ = service.fill().await;
}

async fn upload(gateway: &Gateway, backend: &mut Backend, size: usize) {
    let mut client = gateway.connect().await;
    let asked =
        format!("PUT /x?access_token={} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n", token(HOUR));
    let up = async {
        client.raw(asked.as_bytes()).await;
        send(&mut client, size).await;
        assert_eq!(client.reply().await.expect("an answer").body_text(), "all");
        drop(client);
    };
    tokio::join!(up, serve(backend, size));
}

async fn download(gateway: &Gateway, backend: &mut Backend, size: usize) {
    let mut client = gateway.connect().await;
    let asked = format!("GET /x?access_token={} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", token(HOUR));
    let down = async {
        client.raw(asked.as_bytes()).await;
        client.read_head().await.expect("an answer");
        receive(&mut client, size).await;
        drop(client);
    };
    tokio::join!(down, serve(backend, size));
}

/// What /proc says of the process, in bytes.
fn proc(gateway: &Gateway, name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the line");
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).expect("KiB") * KIB
}

async fn start(backend: &Backend) -> Gateway {
    let config = config(&backend.url(), "http = \"require\"\n");
    Gateway::start(&config.replace("level = \"debug\"", "level = \"info\"")).await
}

fn hold(gateway: &Gateway, base: usize, what: &str) {
    let grown = proc(gateway, "VmHWM:").saturating_sub(base);
    println!("{what}: {} KiB over {} KiB; the bound is {} KiB", grown / KIB, base / KIB, BOUND / KIB);
    assert!(grown <= BOUND, "{what}: {} KiB", grown / KIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_goes_up_and_one_comes_down_through_four_mebibytes() {
    let (mut ups, mut downs) = (Backend::start().await, Backend::start().await);
    let (up, down) = (start(&ups).await, start(&downs).await);
    upload(&up, &mut ups, 8 * MIB).await;
    download(&down, &mut downs, 8 * MIB).await;
    let bases = (proc(&up, "VmRSS:"), proc(&down, "VmRSS:"));
    let begun = instant();
    let both = async { tokio::join!(upload(&up, &mut ups, LARGE), download(&down, &mut downs, LARGE)) };
    within(LIMIT, "1 GiB either way", both).await;
    println!("2 GiB in {:?}", begun.elapsed());
    hold(&up, bases.0, "1 GiB up");
    hold(&down, bases.1, "1 GiB down");
}

async fn push(send: &mut SendStream<Bytes>, size: usize) {
    let piece = Bytes::from(piece());
    let mut left = size;
    while left > 0 {
        let mut part = piece.slice(..left.min(PIECE));
        left -= part.len();
        while !part.is_empty() {
            send.reserve_capacity(part.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.expect("a stream").expect("room");
            send.send_data(part.split_to(room.min(part.len())), false).expect("sent");
        }
    }
    send.send_data(Bytes::new(), true).expect("sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_and_a_large_download_over_http2_take_no_more() {
    const SIZE: usize = 64 * MIB;
    let (mut backend, mut other) = (Backend::start().await, Backend::start().await);
    let gateway = start(&backend).await;
    let down = start(&other).await;
    upload(&gateway, &mut backend, 8 * MIB).await;
    download(&down, &mut other, 8 * MIB).await;
    let bases = (proc(&gateway, "VmRSS:"), proc(&down, "VmRSS:"));
    let up = async {
        let http2 = Http2::connect(&gateway).await;
        let uri = format!("https://{}/x?access_token={}", http2.authority(), token(HOUR));
        let request = Request::put(uri).body(()).expect("a request");
        let mut sender = http2.sender().ready().await.expect("a connection");
        let (response, mut stream) = sender.send_request(request, false).expect("sent");
        let client = async {
            push(&mut stream, SIZE).await;
            assert_eq!(response.await.expect("an answer").status(), 201);
            drop(sender);
            drop(http2);
        };
        let service = async {
            let mut service = backend.connection().await;
            let head = service.read_head().await.expect("a request");
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            // The lines of the chunks are counted too: at least all of it has come.
            let (mut got, mut last) = (0, Vec::new());
            while last != b"0\r\n\r\n" {
                assert!(service.fill().await.expect("bytes"), "the end after {got}");
                last.extend_from_slice(service.unread());
                last.drain(..last.len().saturating_sub(5));
                got += service.discard();
            }
            assert!(got > SIZE, "{got}");
            service.raw(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
        };
        tokio::join!(client, service);
    };
    let falling = async {
        let http2 = Http2::connect(&down).await;
        let request = Request::get(format!("https://{}/x?access_token={}", http2.authority(), token(HOUR)));
        let asked = async {
            let (response, _) = http2.send(request.body(()).expect("a request"), true).await.expect("an answer");
            let (mut recv, piece, mut got) = (response.into_body(), piece(), 0);
            while let Some(data) = recv.data().await {
                let mut data = &data.expect("data")[..];
                recv.flow_control().release_capacity(data.len()).expect("room");
                while !data.is_empty() {
                    let at = got % PIECE;
                    let length = data.len().min(PIECE - at);
                    assert!(data[..length] == piece[at..at + length], "other bytes at {got}");
                    got += length;
                    data = &data[length..];
                }
            }
            assert_eq!(got, SIZE);
        };
        let service = async {
            let mut service = other.connection().await;
            service.read_head().await.expect("a request");
            service.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await;
            send(&mut service, SIZE).await;
            service
        };
        tokio::join!(asked, service).1
    };
    within(LIMIT, "both over HTTP/2", async { tokio::join!(up, falling) }).await;
    hold(&gateway, bases.0, "64 MiB up over HTTP/2");
    hold(&down, bases.1, "64 MiB down over HTTP/2");
}
