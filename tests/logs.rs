//! What becomes of the gateway when nobody takes its log.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::io::{BufReader, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

use common::{Backend, Gateway, Link, PATIENCE, Signal, config, field, folder, instant, op, token};
use rustix::process::{Pid, kill_process};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nothing_up_and_what_was_lost_is_told() {
    let backend = Backend::echo().await;
    let (folder, authority) = folder(&config(&backend.url(), ""));
    let mut child = Gateway::command(folder.path()).spawn().expect("the program");
    let pid = Pid::from_child(&child);
    let mut log = BufReader::new(child.stderr.take().expect("its log"));
    let address = address(&mut log);
    let connect = async || {
        let link = Link::connect(address, None).await;
        link.tls("localhost", authority.client()).await.expect("TLS")
    };
    let upgrade = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut stream = connect().await;
    let target = format!("/?access_token={}", token(Duration::from_secs(4)));
    let begun = instant();
    assert_eq!(stream.request(&upgrade(&target)).await.status, 101);

    // More lines than pipe and queue hold together.
    let refused = async |count: usize| {
        let mut link = connect().await;
        for _ in 0..count {
            assert_eq!(link.request(&upgrade("/")).await.status, 401);
        }
    };
    refused(500).await;
    let closed = stream.frame().await;
    assert_eq!((closed.opcode, closed.close_code().0), (op::CLOSE, 3000));
    let lasted = begun.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_millis(4800)).contains(&lasted), "closed after {lasted:?}");
    let rounds = futures_util::future::join_all((0..8).map(|_| refused(1250)));
    common::within(PATIENCE * 3, "ten thousand refusals", rounds).await;

    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).map(|_| text).expect("text")
    });
    refused(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill_process(pid, Signal::TERM).expect("signal");
    assert!(child.wait().expect("its end").success());
    let text = reading.join().expect("the log");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let lost: u64 = lines.iter().filter_map(|line| field(line, "lost")?.as_u64()).sum();
    let told = lines.iter().filter(|line| field(line, "cause") == Some(&"token_missing".into())).count() as u64;
    assert!(lost > 0 && told + lost >= 10_501, "{told} refusals told, {lost} lines lost");
    assert_eq!(lines.last().and_then(|line| field(line, "message")), Some(&"drained".into()), "the last line is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_does_not_keep_the_process_from_leaving() {
    let backend = Backend::echo().await;
    let (folder, authority) = folder(&config(&backend.url(), ""));
    let mut child = Gateway::command(folder.path()).spawn().expect("the program");
    let pid = Pid::from_child(&child);
    let mut log = BufReader::new(child.stderr.take().expect("its log"));
    let link = Link::connect(address(&mut log), None).await;
    let mut link = link.tls("localhost", authority.client()).await.expect("TLS");
    for _ in 0..500 {
        assert_eq!(link.request("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 426);
    }
    kill_process(pid, Signal::TERM).expect("signal");
    let begun = instant();
    while child.try_wait().expect("wait").is_none() {
        assert!(begun.elapsed() < PATIENCE, "it does not leave");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(log);
}

/// Where the gateway listens; its log is read that far and no further.
fn address(log: &mut impl std::io::BufRead) -> SocketAddr {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "the gateway left");
        let parsed: Option<Value> = serde_json::from_str(&line).ok();
        let found = parsed.as_ref().and_then(|line| field(line, "address")?.as_str()?.parse().ok());
        if let Some(address) = found {
            return address;
        }
    }
}
