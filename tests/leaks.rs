//! Whatever way streams end, nothing of them is left behind; whoever does not read costs little.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, Role, config, echo, eventually, field, op, token};
use portcullis::clock::ManualClock;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_random_disconnects_leave_nothing_behind() {
    let backend = leaving().await;
    let gateway = Gateway::start(&config(&backend.url(), "close_timeout = \"1s\"")).await;
    // One stream of each kind first: what is allocated once stays.
    for kind in 0..KINDS {
        disconnect(&gateway, kind).await;
    }
    eventually("all streams end", || backend.live() == 0).await;
    let before = settled_descriptors(&gateway).await;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..40 {
        let kinds: Vec<u64> = (0..25).map(|_| random.below(KINDS)).collect();
        let gateway = &gateway;
        futures_util::future::join_all(kinds.into_iter().map(|kind| disconnect(gateway, kind))).await;
    }
    eventually("all upstream connections end", || backend.live() == 0).await;
    eventually("all descriptors are closed", || gateway.descriptors() <= before).await;
    let count = |message: &str| {
        gateway.log_lines().iter().filter(|line| field(line, "message") == Some(&message.into())).count()
    };
    eventually("each stream that was opened has ended", || count("stream opened") == count("stream ended")).await;
    assert!(count("stream ended") > 500, "only {} streams", count("stream ended"));
    let mut client = gateway.open(&token(MINUTE)).await;
    client.text("still here").await;
    assert_eq!(client.frame().await.text(), "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_have_ended_leave_no_task_and_no_place_behind() {
    let backend = leaving().await;
    let gateway = Gateway::inside(&config(&backend.url(), "close_timeout = \"1s\""), &ManualClock::new());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..10 {
        let kinds: Vec<u64> = (0..20).map(|_| random.below(KINDS)).collect();
        let gateway = &gateway;
        futures_util::future::join_all(kinds.into_iter().map(|kind| disconnect(gateway, kind))).await;
    }
    eventually("all streams leave the registry", || gateway.streams() == 0).await;
    eventually("all tasks end", || tasks() <= before).await;
}

/// The ways to leave.
const KINDS: u64 = 10;

async fn disconnect(gateway: &Gateway, kind: u64) {
    let target = format!("/?access_token={}", token(MINUTE));
    match kind {
        0 => Link::connect(gateway.address(), None).await.abort(),
        1 => gateway.connect().await.abort(),
        2 => {
            let mut half = gateway.connect().await;
            half.raw(&gateway.upgrade(&target, "").as_bytes()[..40]).await;
            half.abort();
        }
        3 => {
            let mut hasty = gateway.connect().await;
            hasty.raw(gateway.upgrade(&target, "").as_bytes()).await;
            hasty.abort();
        }
        4 => gateway.open(&token(MINUTE)).await.abort(),
        5 => {
            let mut torn = gateway.open(&token(MINUTE)).await;
            torn.raw(&Frame::head(true, 0, op::BINARY, Role::Client, 70_000)).await;
            torn.raw(&[1; 9000]).await;
            torn.abort();
        }
        6 => {
            let mut clean = gateway.open(&token(MINUTE)).await;
            clean.close(1000, "bye").await;
            assert_eq!(clean.frame().await.close_code(), (1000, "bye"));
        }
        7 => {
            let mut half = gateway.open(&token(MINUTE)).await;
            half.text("x").await;
            half.half_close().await;
            half.rest().await;
        }
        8 => {
            let (_, mut left) = gateway.ask(&format!("/leaves?access_token={}", token(MINUTE)), "").await;
            left.text("go").await;
            left.rest().await;
        }
        _ => drop(gateway.open(&token(MINUTE)).await),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_stalled_readers_cost_bounded_memory() {
    let backend = Backend::serve(|asked| async move {
        let mut link = asked.agree("").await;
        let frame = Frame::new(op::BINARY, vec![9; 1 << 20]).encode(Role::Server);
        // Sends for as long as it is taken.
        while link.flood(&frame, MINUTE).await == frame.len() {}
    })
    .await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let mut stalled = Vec::new();
    let before = gateway.memory();
    for _ in 0..64 {
        let mut link = gateway.connect_with(Some(4096)).await;
        link.raw(gateway.upgrade(&format!("/?access_token={}", token(MINUTE)), "").as_bytes()).await;
        link.read_head().await.expect("an answer");
        stalled.push(link);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 64 * (256 << 10), "{} KiB per stalled reader", grown / 64 / 1024);
    // They are alive, only slow: one that reads again gets on.
    let first = stalled.first_mut().expect("64");
    assert_eq!(first.frame().await.payload.len(), 1 << 20);
}

/// An echo whose path `/leaves` goes away in the middle of a frame.
async fn leaving() -> Backend {
    Backend::serve(|asked| async move {
        let leaves = asked.target().starts_with("/leaves");
        let mut link = asked.agree("").await;
        if leaves {
            let _ = link.next_or_error().await;
            let _ = link.try_raw(&Frame::head(true, 0, op::BINARY, Role::Server, 5000)).await;
            link.abort();
        } else {
            echo(link).await;
        }
    })
    .await
}

/// The number of descriptors once it no longer falls.
async fn settled_descriptors(gateway: &Gateway) -> usize {
    let mut last = gateway.descriptors();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = gateway.descriptors();
        if now >= last {
            return now;
        }
        last = now;
    }
}

/// A small generator (xorshift64*): the same run each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}
