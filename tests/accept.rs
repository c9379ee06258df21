//! Accepting: who is slow, and who asks for much, delays nobody else.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, Role, config, echo, eventually, instant, op, token, within};
use futures_util::future::join_all;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MINUTE: Duration = Duration::from_secs(60);

/// The hello of a client that the gateway would serve.
fn hello(gateway: &Gateway) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(gateway.authority().client(), name).expect("a client");
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).expect("a record");
    }
    hello
}

/// Connects, upgrades, echoes; how long that took.
async fn come_and_go(gateway: &Gateway) -> Duration {
    let begun = instant();
    let mut client = gateway.open(&token(MINUTE)).await;
    client.text("hello").await;
    assert_eq!(client.frame().await.text(), "hello");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_delays_nobody_else() {
    const SLOW: usize = 1000;
    let limit = Duration::from_secs(10);
    let backend = Backend::echo().await;
    let server = "[server]\nworkers = 2\nmax_connections = 1200\nhandshake_timeout = \"10s\"\n";
    let gateway = Gateway::start(&format!("{server}{}", config(&backend.url(), ""))).await;
    let before = gateway.descriptors();
    let hello = hello(&gateway);
    let slow = (0..SLOW).map(|at| {
        // Nothing, half a hello, or all of it and no answer to what comes back.
        let bytes = [0, hello.len() / 2, hello.len()].map(|length| hello[..length].to_vec())[at % 3].clone();
        let address = gateway.address();
        tokio::spawn(async move {
            let begun = instant();
            let mut link = Link::connect(address, None).await;
            link.raw(&bytes).await;
            while let Ok(true) = link.fill().await {}
            begun.elapsed()
        })
    });
    let slow: Vec<_> = slow.collect();
    eventually("all slow ones are accepted", || gateway.descriptors() >= before + SLOW).await;

    let good = join_all((0..100).map(|_| come_and_go(&gateway)));
    let good = within(Duration::from_secs(5), "a hundred good clients", good).await;
    let slowest = good.iter().max().expect("a hundred");
    assert!(slow.iter().all(|slow| !slow.is_finished()), "the slow ones were there all the time");
    println!("the slowest good client took {slowest:?}");

    for slow in slow {
        let lasted = within(limit * 2, "the end of a slow handshake", slow).await.expect("no panic");
        assert!((limit..limit * 2).contains(&(lasted + Duration::from_millis(10))), "ended after {lasted:?}");
    }
    eventually("nothing is left of them", || gateway.descriptors() <= before + 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_are_made_on_all_cores() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&format!("[server]\nworkers = 2\n{}", config(&backend.url(), ""))).await;
    let (hello, address) = (Arc::new(hello(&gateway)), gateway.address());
    // The client's half is left out, so that the gateway has more to do than the test.
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let hello = hello.clone();
            tokio::spawn(async move {
                loop {
                    let mut link = Link::connect(address, None).await;
                    link.raw(&hello).await;
                    assert!(link.fill().await.expect("the gateway's half"));
                    link.abort();
                }
            })
        })
        .collect();
    // Both workers must take part, and have work at the same time: one task that made all handshakes would go from one
    // to the other. A thread that waits for a core counts as working, so other programs do not matter; a stretch in
    // which they do all the same is followed by another one.
    let begun = instant();
    loop {
        let stretch = within(Duration::from_secs(20), "half a second of work", stretch(gateway.pid())).await;
        println!("{stretch:?}");
        if stretch.share >= 0.2 && stretch.together >= 0.2 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "one worker makes the handshakes: {stretch:?}");
    }
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

/// What the workers of a process did for a while.
#[derive(Debug)]
struct Stretch {
    /// The part of their CPU time that the second busiest had.
    share: f64,
    /// The part of all looks that saw two of them at work.
    together: f64,
}

/// Looks at the workers until they have taken half a second of CPU time.
#[allow(clippy::cast_precision_loss)] // small numbers
async fn stretch(pid: u32) -> Stretch {
    let before = workers(pid);
    let (mut looks, mut together) = (0_u32, 0_u32);
    loop {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let now = workers(pid);
        looks += 1;
        together += u32::from(now.values().filter(|worker| worker.works).count() >= 2);
        let taken = |(id, worker): (&u32, &Worker)| worker.ticks - before.get(id).map_or(0, |before| before.ticks);
        let mut taken: Vec<u64> = now.iter().map(taken).collect();
        taken.sort_unstable();
        let all: u64 = taken.iter().sum();
        if all >= 50 {
            let second = taken.iter().rev().nth(1).copied().unwrap_or(0);
            let part = |part: f64, whole: f64| part / whole;
            return Stretch {
                share: part(second as f64, all as f64),
                together: part(f64::from(together), f64::from(looks)),
            };
        }
    }
}

/// A worker thread of the runtime.
struct Worker {
    /// User and system time, in ticks of 10 ms.
    ticks: u64,
    /// It runs, or could run if it had a core.
    works: bool,
}

/// The worker threads of a process by their ids.
fn workers(pid: u32) -> BTreeMap<u32, Worker> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let worker = |stat: String| {
        let (head, tail) = stat.rsplit_once(") ")?;
        let (id, name) = head.split_once(" (")?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let ticks = fields.get(11..13)?.iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        let works = fields.first() == Some(&"R");
        name.starts_with("tokio-").then(|| (id.parse().expect("an id"), Worker { ticks, works }))
    };
    stats.filter_map(worker).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_one_stream_starves_nobody_on_the_same_worker() {
    let frame = |role| Frame::new(op::BINARY, vec![7; 64 << 10]).encode(role);
    let down = Arc::new(frame(Role::Server));
    let backend = Backend::serve(move |asked| {
        let down = down.clone();
        async move {
            let floods = asked.target().starts_with("/flood");
            let link = asked.agree("").await;
            if floods {
                flood(link, &down, &AtomicU64::new(0)).await;
            } else {
                echo(link).await;
            }
        }
    })
    .await;
    let plain = "[[listener]]\nname = \"inside\"\naddress = \"127.0.0.1:0\"\nplaintext = true\n";
    let gateway = Gateway::start(&format!("[server]\nworkers = 1\n{}{plain}", config(&backend.url(), ""))).await;
    let head = gateway.upgrade(&format!("/flood?access_token={}", token(MINUTE)), "");
    // One in plaintext too: its client needs less time for a byte than the gateway, which has two sides.
    let links = [gateway.connect().await, Link::connect(gateway.listener("inside").await, None).await];
    let (moved, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut floods = Vec::new();
    for mut link in links {
        let reply = link.request(&head).await;
        assert_eq!(reply.status, 101, "{}", reply.head);
        let (moved, over, up) = (moved.clone(), over.clone(), frame(Role::Client));
        floods.push(tokio::spawn(async move {
            flood(link, &up, &moved).await;
            over.store(true, Ordering::SeqCst);
        }));
    }
    eventually("the flood runs", || moved.load(Ordering::SeqCst) > 4 << 20).await;
    let (begun, before) = (instant(), moved.load(Ordering::SeqCst));
    let others = join_all((0..50).map(|_| come_and_go(&gateway)));
    let others = within(Duration::from_secs(10), "fifty other clients", others).await;
    let (lasted, moved) = (begun.elapsed(), moved.load(Ordering::SeqCst) - before);
    println!("the slowest took {:?}; the flood moved {} KiB in {lasted:?}", others.iter().max(), moved >> 10);
    assert!(!over.load(Ordering::SeqCst), "the flood goes on");
    assert!(moved > 1 << 20, "and is not starved either: {moved} bytes in {lasted:?}");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Sends `frame` over and over, and reads whatever comes, until the other side ends it; `moved` counts bytes of both
/// directions.
async fn flood(link: Link, frame: &[u8], moved: &AtomicU64) {
    let (mut read, mut write) = tokio::io::split(link.into_stream());
    let sending = async {
        while write.write_all(frame).await.is_ok() {
            moved.fetch_add(frame.len() as u64, Ordering::SeqCst);
        }
    };
    let receiving = async {
        let mut room = vec![0; 64 << 10];
        while let Ok(read @ 1..) = read.read(&mut room).await {
            moved.fetch_add(read as u64, Ordering::SeqCst);
        }
    };
    tokio::join!(sending, receiving);
}
