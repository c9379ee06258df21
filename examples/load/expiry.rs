//! Streams whose tokens all expire at the same instant: when each of them is told, and with what.
//!
//! This process has all the clients, so reading nine thousand Closes takes it a while. A thread that does nothing else
//! notes when bytes arrive in the kernel for each of them: that is the gateway's part, what comes after is ours.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use portcullis::clock::{Clock, Mono, Wall};
use rustix::event::{Timespec, epoll};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoint::{Endpoint, Link};
use crate::frame;
use crate::histogram::Histogram;
use crate::idle::{kib_each, open_all};
use crate::peer::Peer;
use crate::run::{Plan, rounded};
use crate::usage;

/// What the streams are to expire at, and what they are told.
pub struct Expiry {
    pub at: Wall,
    pub streams: u32,
    pub code: u16,
    pub reason: String,
}

pub async fn expiry(endpoint: Endpoint, plan: &Plan, expiry: Expiry) -> anyhow::Result<(Value, u64)> {
    if let Some(pid) = usage::missing(&plan.processes) {
        bail!("there is no process {pid}");
    }
    let clock = Clock::system();
    let base = usage::pss(&plan.processes);
    let began = clock.now();
    let endpoint = Rc::new(endpoint);
    let peers = timeout(expiry.at.saturating_since(began.wall), open_all(&endpoint, PATH, expiry.streams, 0)).await;
    let peers = peers.context("the tokens expire before all streams are open")??;
    let opened = clock.now();
    sleep(SETTLING).await;
    let full = usage::pss(&plan.processes);
    let idle = usage::cpu(&plan.processes);
    sleep(plan.window).await;
    let idle = usage::cpu(&plan.processes).since(idle);

    let now = clock.now();
    let left = expiry.at.saturating_since(now.wall);
    ensure!(left > BEFORE, "the tokens expire before all was looked at: give them a longer life");
    let deadline = now.mono.saturating_add(left);
    let watch = Watch::start(&clock, deadline, &peers)?;
    sleep(left.saturating_sub(BEFORE)).await;
    let (before, own) = (usage::cpu(&plan.processes), usage::cpu(&[std::process::id()]));
    let told = Rc::new((clock.clone(), deadline, expiry));
    let mut tasks: JoinSet<_> = peers.into_iter().map(|peer| leave(peer, told.clone())).collect_local();
    let (mut read, mut errors, mut first_error) = (Histogram::new(), 0_u64, None);
    let ended = timeout(BEFORE + ENDING, async {
        while let Some(end) = tasks.join_next().await {
            match end.map_err(anyhow::Error::from).and_then(|end| end) {
                Ok(at) => read.record(micros(at.saturating_since(deadline))),
                Err(error) => {
                    errors += 1;
                    first_error.get_or_insert_with(|| format!("{error:#}"));
                }
            }
        }
    });
    if ended.await.is_err() {
        errors += tasks.len() as u64;
        first_error.get_or_insert_with(|| "no end in time".to_owned());
    }
    let over = clock.now().mono.saturating_since(deadline);
    let cpu = usage::cpu(&plan.processes).since(before);
    let own = usage::cpu(&[std::process::id()]).since(own);
    let arrived = watch.stop()?;
    sleep(SETTLING).await;
    let report = json!({
        "verb": "expiry",
        "streams": told.2.streams,
        "errors": errors,
        "first_error": first_error,
        "opening_s": rounded(opened.mono.saturating_since(began.mono).as_secs_f64()),
        "base_pss_kib": base,
        "full_pss_kib": full,
        "after_pss_kib": usage::pss(&plan.processes),
        "kib_each": rounded(kib_each(base, full, told.2.streams)),
        "idle_cpu_s": rounded(idle.total()),
        "idle_s": rounded(plan.window.as_secs_f64()),
        "arrived_ms": quantiles(&arrived),
        "read_ms": quantiles(&read),
        "over_ms": rounded(over.as_secs_f64() * 1e3),
        "cpu_user_s": rounded(cpu.user),
        "cpu_system_s": rounded(cpu.system),
        "own_cpu_s": rounded(own.total()),
    });
    Ok((report, errors))
}

/// Reads up to the Close, answers it as a browser does, and waits for the end; when the Close was read.
async fn leave(mut peer: Peer<Link>, told: Rc<(Clock, Mono, Expiry)>) -> anyhow::Result<Mono> {
    let (code, reason) = peer.receive_close().await?;
    let at = told.0.now().mono;
    let Expiry { code: wanted, reason: because, .. } = &told.2;
    ensure!(at >= told.1, "a Close before the deadline");
    ensure!((code, &reason) == (*wanted, because), "a Close with {code:?} {reason:?}");
    peer.send(&frame::CLOSE).await?;
    peer.receive_end().await;
    // Whether the other end still hears this is its affair.
    let _ = peer.into_stream().shutdown().await;
    Ok(at)
}

/// Notes when each connection first has something to read after the deadline.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Histogram>>,
}

impl Watch {
    fn start(clock: &Clock, deadline: Mono, peers: &[Peer<Link>]) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, peer) in (0..).zip(peers) {
            let tcp = peer.stream().tcp().context("a stream without a connection of its own")?;
            epoll::add(&epoll, tcp, epoll::EventData::new_u64(number), EDGES)?;
        }
        let (clock, stop) = (clock.clone(), Arc::new(AtomicBool::new(false)));
        let (stopped, streams) = (stop.clone(), peers.len());
        let thread = std::thread::spawn(move || {
            let (mut seen, mut times) = (vec![false; streams], Histogram::new());
            let mut events = Vec::with_capacity(1024);
            loop {
                let last = stopped.load(Ordering::Relaxed);
                events.clear();
                epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&TICK))?;
                if last && events.is_empty() {
                    return Ok(times);
                }
                let now = clock.now().mono;
                for event in events.iter().filter(|_| now >= deadline) {
                    let seen = usize::try_from(event.data.u64()).ok().and_then(|at| seen.get_mut(at));
                    if seen.is_some_and(|seen| !std::mem::replace(seen, true)) {
                        times.record(micros(now.saturating_since(deadline)));
                    }
                }
            }
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> anyhow::Result<Histogram> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that watches has panicked"))?
    }
}

/// Spawns futures that stay on this thread.
trait CollectLocal<T> {
    fn collect_local(self) -> JoinSet<T>;
}

impl<T: 'static, F: Future<Output = T> + 'static, I: Iterator<Item = F>> CollectLocal<T> for I {
    fn collect_local(self) -> JoinSet<T> {
        let mut tasks = JoinSet::new();
        self.for_each(|task| drop(tasks.spawn_local(task)));
        tasks
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss)] // seconds
pub fn quantiles(times: &Histogram) -> Value {
    let at = |share| rounded(times.quantile(share) as f64 / 1e3);
    json!({"count": times.count(), "p50": at(0.5), "p99": at(0.99), "last": at(1.0)})
}

/// Where the streams are opened, so that a proxy can tell them from others.
const PATH: &str = "/crowd";
/// How long before the deadline everybody begins to listen, and costs are counted from.
const BEFORE: Duration = Duration::from_millis(1_500);
/// How long after it all may take to end.
const ENDING: Duration = Duration::from_secs(20);
/// How long memory that is not needed any more may take to be given back.
const SETTLING: Duration = Duration::from_secs(2);
/// How often the thread that watches looks whether it should stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Told once about whatever arrives, whether it is read or not.
const EDGES: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);
