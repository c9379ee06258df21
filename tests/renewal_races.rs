//! A renewal races with the end of its stream: whoever is first wins, and the answer says who that was. A `200` is never
//! followed by a Close for the old deadline, and a refusal never by a stream that lives on.
//!
//! Ten thousand races over real sockets, aimed at the deadline to the millisecond. A seed replays them as far as a real
//! clock can be replayed: `RACE_SEED=7 RACES=1000 cargo test --test renewal_races`.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, Role, claims, config, mint, now, op, within};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

const AT_A_TIME: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(20);

/// How a fresh token is brought.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Posted.
    Posted,
    /// Posted twice at once, as two tabs would.
    Twice,
    /// Posted while the client sends without a pause.
    Busy,
    /// As a message on the stream.
    Message,
}

#[derive(Default)]
struct Count {
    won: AtomicU32,
    lost: AtomicU32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_was_granted_holds_and_one_that_was_refused_moved_nothing() {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    // How a client's TLS is served makes no difference to these.
    let races = from_env("RACES").unwrap_or(if cfg!(feature = "buffered-tls") { 500 } else { 10_000 });
    let seed = from_env("RACE_SEED").unwrap_or(1);
    println!("RACE_SEED={seed} RACES={races}");
    let backend = Backend::echo().await;
    let route = format!(
        "renewal_interval = \"0s\"\n[[route]]\nname = \"message\"\npath = \"/message\"\nupstream = \"{}\"\n\
         renew_in_band = \"consume\"\nrenewal_interval = \"0s\"",
        backend.url()
    );
    let config = config(&backend.url(), &route)
        .replace("certificate = \"cert.pem\"\nkey = \"key.pem\"", "plaintext = true")
        .replace("level = \"debug\"", "level = \"info\"");
    let gateway = Arc::new(Gateway::start(&config).await);
    let (count, next) = (Arc::new(Count::default()), Arc::new(AtomicU32::new(0)));
    let workers: Vec<_> = (0..AT_A_TIME)
        .map(|_| {
            let (gateway, count, next) = (gateway.clone(), count.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= races {
                        return;
                    }
                    let random = StdRng::seed_from_u64((u64::from(seed) << 32) | u64::from(number));
                    let mut race = Race { address: gateway.address(), number, random };
                    let what = format!("race {number}");
                    let won = within(PATIENCE, &what, async {
                        let mut life = 300;
                        loop {
                            match race.run(Duration::from_millis(life)).await {
                                Some(won) => return won,
                                // The machine was too busy to open the stream and make ready before its token expired.
                                None => life *= 2,
                            }
                        }
                    });
                    let won = won.await;
                    if won { &count.won } else { &count.lost }.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("a race");
    }
    let (won, lost) = (count.won.load(Ordering::Relaxed), count.lost.load(Ordering::Relaxed));
    println!("{won} renewals won, {lost} lost");
    assert_eq!(won + lost, races);
    assert!(won.min(lost) > races / 20, "a race that one side always wins is none: {won} won, {lost} lost");
}

struct Race {
    address: SocketAddr,
    number: u32,
    random: StdRng,
}

impl Race {
    /// One stream, whose token is renewed at about the time when it expires; whether the renewal won. `None` if the stream
    /// was not there in time.
    async fn run(&mut self, life: Duration) -> Option<bool> {
        let way = [Way::Posted, Way::Twice, Way::Busy, Way::Message][self.random.random_range(0..4)];
        let life = life + Duration::from_micros(self.random.random_range(0..100_000));
        // When the fresh token goes off, against the deadline.
        let early = Duration::from_micros(self.random.random_range(0..6_000));
        let old = claims(life);
        let deadline = Duration::from_secs_f64(old["exp"].as_f64().expect("exp"));
        let (mut client, handle) = self.open(way, &mint(&old)).await?;
        // Most fresh tokens live long; some are short, to see the new deadline come.
        let short = self.random.random_range(0..20) == 0;
        let mut fresh = claims(if short { life + Duration::from_millis(400) } else { Duration::from_secs(60) });
        fresh["jti"] = self.number.into();
        let token = mint(&fresh);
        let mut posts = Vec::new();
        for _ in 0..match way {
            Way::Posted | Way::Busy => 1,
            Way::Twice => 2,
            Way::Message => 0,
        } {
            let mut post = Link::connect(self.address, None).await;
            let head = format!(
                "POST /.portcullis/renew HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nPortcullis-Stream: {handle}\r\nAuthorization: Bearer {token}\r\n"
            );
            post.raw(head.as_bytes()).await;
            posts.push(post);
        }
        let start = deadline.saturating_sub(early);
        if now() > start {
            return None;
        }
        if way == Way::Busy {
            let mut number = 0;
            while now() < start {
                client.text(&format!("busy {number}")).await;
                number += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } else {
            tokio::time::sleep(start.saturating_sub(now())).await;
        }
        let won = if way == Way::Message {
            client.raw(&Frame::new(op::TEXT, token.as_str()).encode(Role::Client)).await;
            None
        } else {
            for post in &mut posts {
                post.raw(b"\r\n").await;
            }
            let mut statuses = Vec::new();
            for mut post in posts {
                statuses.push(post.reply().await.expect("an answer").status);
            }
            assert!(statuses.iter().all(|status| [200, 410].contains(status)), "race {}: {statuses:?}", self.number);
            Some(statuses.contains(&200))
        };
        let expiry = short.then(|| Duration::from_secs_f64(fresh["exp"].as_f64().expect("exp")));
        Some(self.judge(client, way, won, expiry).await)
    }

    /// What became of the stream agrees with the answer (`won`; `None` if it is still to come, as a message).
    async fn judge(&self, mut client: Link, way: Way, mut won: Option<bool>, expiry: Option<Duration>) -> bool {
        // After a reset nothing more can be sent, and the Close tells.
        let _ = client.try_raw(&Frame::new(op::TEXT, "probe").encode(Role::Client)).await;
        let race = self.number;
        let mut echoed = false;
        loop {
            let Some(frame) = client.next().await else { panic!("race {race} {way:?} {won:?}: no Close") };
            if frame.opcode == op::CLOSE {
                assert_eq!(frame.close_code(), (3000, "token expired"), "race {race}");
                match (won, expiry) {
                    (Some(true), Some(expiry)) => {
                        assert!(now() >= expiry, "race {race} {way:?}: granted, and closed before the new deadline");
                    }
                    (Some(true), None) => panic!("race {race} {way:?}: granted, and closed for the old deadline"),
                    (Some(false) | None, _) => assert!(!echoed, "race {race} {way:?}: refused, and it lived on"),
                }
                client.close(3000, "").await;
                return won == Some(true);
            }
            match frame.text() {
                "probe" => {
                    echoed = true;
                    assert_eq!(won, Some(true), "race {race} {way:?}: refused, and it lived on");
                    if expiry.is_none() {
                        client.close(1000, "").await;
                        return true;
                    }
                }
                text if text.starts_with("busy ") => {}
                answer => {
                    let answer: Value = serde_json::from_str(answer).expect("an answer");
                    // A message that comes too late is answered by the Close.
                    assert_eq!(answer["portcullis"], "renewed", "race {race}: {answer}");
                    won = Some(true);
                }
            }
        }
    }

    async fn open(&self, way: Way, token: &str) -> Option<(Link, String)> {
        let path = if way == Way::Message { "/message" } else { "/" };
        let mut link = Link::connect(self.address, None).await;
        let head = format!(
            "GET {path}?access_token={token} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let reply = link.request(&head).await;
        if reply.status == 401 && reply.body_text().contains("token_expired") {
            return None;
        }
        assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
        let handle = reply.header("portcullis-stream").expect("a handle").to_owned();
        Some((link, handle))
    }
}
