//! Streams whose tokens are renewed out of band, again and again: nobody may be closed, memory must stay what it was, and
//! each ends when its last token does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use portcullis::clock::{Clock, Mono, Now, Wall};
use portcullis::issuer::mint::Mint;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoint::{Endpoint, Link};
use crate::expiry::quantiles;
use crate::frame;
use crate::histogram::Histogram;
use crate::idle::kib_each;
use crate::peer::{Peer, header};
use crate::run::{Plan, rounded};
use crate::usage;

/// How many streams, how often, and how they end.
pub struct Renewals {
    pub streams: u32,
    /// From one renewal of a stream to the next.
    pub every: Duration,
    /// Streams that expire in each second at the end.
    pub ends: u32,
}

/// What all streams share.
struct Crowd {
    endpoint: Endpoint,
    mint: Mint,
    clock: Clock,
    every: Duration,
    posts: mpsc::Sender<Post>,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    /// From when a renewal brings a stream's last token: when the first of those expires.
    last: Option<Wall>,
    open: u32,
    renewals: u64,
    took: Histogram,
    late: Histogram,
    errors: u64,
    first_error: Option<String>,
}

/// A renewal to be posted, and whom to tell what was answered.
struct Post {
    handle: String,
    token: String,
    status: oneshot::Sender<u16>,
}

pub async fn renew(endpoint: Endpoint, mint: Mint, plan: &Plan, how: Renewals) -> anyhow::Result<(Value, u64)> {
    if let Some(pid) = usage::missing(&plan.processes) {
        bail!("there is no process {pid}");
    }
    let base = usage::pss(&plan.processes);
    let (posts, queue) = mpsc::channel(how.streams as usize);
    let (clock, seen) = (Clock::system(), RefCell::default());
    let crowd = Rc::new(Crowd { endpoint, mint, clock, every: how.every, posts, seen });
    let queue = Rc::new(tokio::sync::Mutex::new(queue));
    let mut posters = JoinSet::new();
    for _ in 0..POSTERS {
        posters.spawn_local(post(crowd.clone(), queue.clone()));
    }
    let mut streams = JoinSet::new();
    let openers = Rc::new(tokio::sync::Semaphore::new(OPENERS));
    for number in 0..how.streams {
        let (crowd, openers) = (crowd.clone(), openers.clone());
        streams.spawn_local(async move {
            if let Err(error) = live(&crowd, number, how.ends, &openers).await {
                let mut seen = crowd.seen.borrow_mut();
                seen.errors += 1;
                seen.first_error.get_or_insert_with(|| format!("stream {number}: {error:#}"));
            }
        });
    }
    let opened = timeout(OPENING, async {
        while crowd.seen.borrow().open < how.streams && crowd.seen.borrow().errors == 0 {
            sleep(Duration::from_millis(50)).await;
        }
    });
    opened.await.context("no streams in time")?;
    sleep(how.every * 2).await;

    let (full, cpu) = (usage::pss(&plan.processes), usage::cpu(&plan.processes));
    let renewals = crowd.seen.borrow().renewals;
    crowd.seen.borrow_mut().took = Histogram::new();
    sleep(plan.window).await;
    let cpu = usage::cpu(&plan.processes).since(cpu);
    let renewals = crowd.seen.borrow().renewals - renewals;
    let later = usage::pss(&plan.processes);
    let closed = crowd.seen.borrow().errors;

    // Later than any token that is out now, and than the next renewal of each stream.
    let first_end = crowd.clock.now().wall.saturating_add(how.every * 4);
    crowd.seen.borrow_mut().last = Some(first_end);
    let ending = how.every * 4 + Duration::from_secs(u64::from(how.streams / how.ends)) + ENDING;
    let all = timeout(ending, async { while streams.join_next().await.is_some() {} }).await;
    let seen = crowd.seen.borrow();
    let errors = seen.errors + u64::from(all.is_err());
    let report = json!({
        "verb": "renew",
        "streams": how.streams,
        "errors": errors,
        "closed_while_renewed": closed,
        "first_error": seen.first_error,
        "renewals": renewals,
        "seconds": rounded(plan.window.as_secs_f64()),
        "answered_ms": quantiles(&seen.took),
        "late_ms": quantiles(&seen.late),
        "base_pss_kib": base,
        "full_pss_kib": full,
        "later_pss_kib": later,
        "kib_each": rounded(kib_each(base, full, how.streams)),
        "cpu_user_s": rounded(cpu.user),
        "cpu_system_s": rounded(cpu.system),
    });
    Ok((report, errors))
}

impl Crowd {
    fn renewed(&self, took: Duration) {
        let mut seen = self.seen.borrow_mut();
        seen.renewals += 1;
        seen.took.record(micros(took));
    }
}

/// One stream from its upgrade to the end of its last token.
async fn live(crowd: &Crowd, number: u32, ends: u32, openers: &tokio::sync::Semaphore) -> anyhow::Result<()> {
    let sign = |expiry: Wall, now: Now| {
        let expiry = expiry.since_epoch().as_secs_f64();
        let claims = json!({ "sub": format!("user-{number}"), "exp": expiry });
        let claims = claims.as_object().context("claims")?;
        anyhow::Ok(crowd.mint.sign(claims, now)?.token.expose().to_owned())
    };
    let (mut peer, handle) = {
        let _one_of_few = openers.acquire().await?;
        let now = crowd.clock.now();
        let token = sign(now.wall.saturating_add(crowd.every * 3), now)?;
        let (peer, head) = crowd.endpoint.open_with("/", &token, READ).await?;
        (peer, header(&head, "portcullis-stream").context("the 101 has no handle")?.to_owned())
    };
    crowd.seen.borrow_mut().open += 1;
    // Spread over the interval, and then one each.
    let mut next = crowd.every.mul_f64(f64::from(number % 1000) / 1000.0);
    loop {
        tokio::select! {
            closed = peer.receive_close() => bail!("closed with {:?} while its token was renewed", closed?),
            () = sleep(next) => {}
        }
        next = crowd.every;
        let now = crowd.clock.now();
        let last = crowd
            .seen
            .borrow()
            .last
            .map(|first| first.saturating_add(Duration::from_secs(1).mul_f64(f64::from(number) / f64::from(ends))));
        let expiry = last.unwrap_or(now.wall.saturating_add(crowd.every * 3));
        let (status, told) = oneshot::channel();
        let token = sign(expiry, now)?;
        crowd.posts.send(Post { handle: handle.clone(), token, status }).await.ok().context("nobody posts")?;
        let status = timeout(PATIENCE, told).await.context("no answer in time")??;
        let after = crowd.clock.now().mono;
        ensure!(status == 200, "a renewal was answered with {status}");
        crowd.renewed(after.saturating_since(now.mono));
        if last.is_some() {
            let deadline = now.mono.saturating_add(expiry.saturating_since(now.wall));
            return end(crowd, peer, deadline).await;
        }
    }
}

/// Waits for the Close, answers it, and notes how late it was.
async fn end(crowd: &Crowd, mut peer: Peer<Link>, deadline: Mono) -> anyhow::Result<()> {
    let (code, reason) = peer.receive_close().await?;
    let at = crowd.clock.now().mono;
    ensure!((code, reason.as_str()) == (3000, "token expired"), "a Close with {code} {reason:?}");
    ensure!(at.saturating_add(Duration::from_micros(50)) >= deadline, "a Close before the last token's end");
    crowd.seen.borrow_mut().late.record(micros(at.saturating_since(deadline)));
    peer.send(&frame::CLOSE).await?;
    peer.receive_end().await;
    // Whether the other end still hears this is its affair.
    let _ = peer.into_stream().shutdown().await;
    Ok(())
}

/// Posts one renewal after the other over a connection of its own, which is opened anew when the gateway has ended it.
async fn post(crowd: Rc<Crowd>, queue: Rc<tokio::sync::Mutex<mpsc::Receiver<Post>>>) {
    let mut peer = None;
    loop {
        let Some(post) = queue.lock().await.recv().await else { return };
        for _ in 0..2 {
            match post_over(&crowd, &mut peer, &post).await {
                Ok(status) => {
                    // Whoever asked may have given up.
                    let _ = post.status.send(status);
                    break;
                }
                Err(_) => peer = None,
            }
        }
    }
}

async fn post_over(crowd: &Crowd, peer: &mut Option<Peer<Link>>, post: &Post) -> anyhow::Result<u16> {
    if peer.is_none() {
        *peer = Some(crowd.endpoint.reach(READ).await?);
    }
    let peer = peer.as_mut().context("no connection")?;
    let Post { handle, token, .. } = post;
    let head = format!(
        "POST /.portcullis/renew HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nPortcullis-Stream: {handle}\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    peer.send(head.as_bytes()).await?;
    let (status, ..) = timeout(PATIENCE, peer.receive_answer()).await??;
    Ok(status)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Connections over which renewals are posted.
const POSTERS: usize = 16;
/// Streams that are being opened at a time.
const OPENERS: usize = 32;
/// Bytes of one read: small, since this process has all the streams too.
const READ: usize = 4096;
/// How long all streams may take to open.
const OPENING: Duration = Duration::from_secs(120);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after the last expiry all may take to end.
const ENDING: Duration = Duration::from_secs(20);
