//! The verbs that move messages, and the one that opens streams over and over.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use portcullis::clock::{Clock, Mono};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::frame::{self, Message};
use crate::peer::Peer;
use crate::run::{Plan, Run, measure};

/// What a verb has to say, and its number of errors.
pub type Report = anyhow::Result<(Value, u64)>;

/// Bytes of one read.
const READ: usize = 64 * 1024;
/// How long one message may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn echo(endpoint: Endpoint, plan: &Plan, size: usize, streams: u32) -> Report {
    let (run, endpoint) = (Run::new(), Rc::new(endpoint));
    let worker = |seed: u32| {
        let (run, endpoint) = (run.clone(), endpoint.clone());
        async move {
            let mut peer = endpoint.open("/", READ).await?;
            run.ready();
            let mut message = Message::from_client(size, u64::from(seed));
            let mut number = 0;
            while run.goes_on() {
                message.set_number(number);
                number += 1;
                let due = run.now();
                peer.send(message.frame()).await?;
                timeout(PATIENCE, peer.receive(message.payload())).await.context("no echo in time")??;
                run.done(size, due);
            }
            close(peer).await
        }
    };
    measure(&run, plan, "echo", (0..streams).map(worker).collect()).await
}

/// `samples`: a file that gets each message's due time and latency.
pub async fn rate(
    endpoint: Endpoint,
    plan: &Plan,
    size: usize,
    rate: u32,
    streams: u32,
    samples: Option<&Path>,
) -> Report {
    let (run, endpoint) = (Run::new(), Rc::new(endpoint));
    run.keep_samples(samples.is_some());
    let streams = streams.min(rate);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..streams).map(|_| mpsc::channel(QUEUE)).unzip();
    let pacer = Pacer::start(run.clock().clone(), rate, senders);
    let worker = |(seed, due): (u64, mpsc::Receiver<Mono>)| {
        let (run, endpoint) = (run.clone(), endpoint.clone());
        async move { echo_when_due(&endpoint, &run, size, seed, due).await }
    };
    let report = measure(&run, plan, "rate", (0..).zip(receivers).map(worker).collect()).await;
    drop(pacer);
    let (mut report, errors) = report?;
    if let Some(path) = samples {
        std::fs::write(path, run.samples()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if errors == 0 && plan.most > run.messages() && run.messages() < asked(rate, plan.window) {
        report["errors"] = 1.into();
        report["first_error"] = "the rate was not reached: what was due and not sent is in no quantile".into();
        return Ok((report, 1));
    }
    Ok((report, errors))
}

/// One stream of an open loop. `seed` sets the bytes of its messages.
pub async fn echo_when_due(
    endpoint: &Endpoint,
    run: &Run,
    size: usize,
    seed: u64,
    due: mpsc::Receiver<Mono>,
) -> anyhow::Result<()> {
    let peer = endpoint.open("/", READ).await?;
    run.ready();
    let (reader, writer) = tokio::io::split(peer.into_stream());
    let under_way = Rc::new(RefCell::new(VecDeque::new()));
    let message = || Message::from_client(size, seed);
    tokio::try_join!(
        send_when_due(Peer::new(writer, 0), message(), due, &under_way, run),
        receive_in_order(Peer::new(reader, READ), message(), size, &under_way, run),
    )?;
    Ok(())
}

/// The least number of messages that counts as the asked rate: nine in ten.
pub fn asked(rate: u32, window: Duration) -> u64 {
    u64::try_from(u128::from(rate) * window.as_millis() * 9 / 10_000).unwrap_or(u64::MAX)
}

/// Messages that may be due on one connection and not sent: then the pacer waits, and the wait counts as latency.
pub const QUEUE: usize = 1024;

/// Says when messages are due, on a thread of its own: the runtime's timers count in whole milliseconds.
pub struct Pacer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pacer {
    pub fn start(clock: Clock, rate: u32, senders: Vec<mpsc::Sender<Mono>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let start = clock.now().mono;
            for (number, sender) in (0_u64..).zip(senders.iter().cycle()) {
                let due = start.saturating_add(Duration::from_nanos(number * 1_000_000_000 / u64::from(rate)));
                std::thread::sleep(due.saturating_since(clock.now().mono));
                if stopped.load(Ordering::Relaxed) || sender.blocking_send(due).is_err() {
                    return;
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its receivers are gone by now, so it does not wait for them; and it does not panic.
            let _ = thread.join();
        }
    }
}

type UnderWay = Rc<RefCell<VecDeque<Mono>>>;

async fn send_when_due<S: AsyncWrite + Unpin>(
    mut peer: Peer<S>,
    mut message: Message,
    mut due: mpsc::Receiver<Mono>,
    under_way: &UnderWay,
    run: &Run,
) -> anyhow::Result<()> {
    let mut number = 0;
    while let (Some(due), true) = (due.recv().await, run.goes_on()) {
        message.set_number(number);
        number += 1;
        under_way.borrow_mut().push_back(due);
        peer.send(message.frame()).await?;
    }
    peer.send(&frame::CLOSE).await
}

async fn receive_in_order<S: AsyncRead + Unpin>(
    mut peer: Peer<S>,
    mut message: Message,
    size: usize,
    under_way: &UnderWay,
    run: &Run,
) -> anyhow::Result<()> {
    let mut number = 0;
    loop {
        message.set_number(number);
        number += 1;
        let received = peer.receive(message.payload()).await;
        let due = under_way.borrow_mut().pop_front();
        match (received, due) {
            (Ok(()), Some(due)) => run.done(size, due),
            // The answer to our Close: everything that was sent has come back.
            (Err(_), None) if !run.goes_on() => return Ok(()),
            (received, _) => return received.and(Err(anyhow::anyhow!("an echo of nothing"))),
        }
    }
}

pub async fn flood(endpoint: Endpoint, plan: &Plan, size: usize, streams: u32) -> Report {
    let (run, endpoint) = (Run::new(), Rc::new(endpoint));
    let worker = |_| {
        let (run, endpoint) = (run.clone(), endpoint.clone());
        async move {
            let mut peer = endpoint.open(&format!("/flood?size={size}"), READ).await?;
            run.ready();
            let mut message = Message::from_service(size, 0);
            let mut number = 0;
            while run.goes_on() {
                message.set_number(number);
                number += 1;
                let since = run.now();
                timeout(PATIENCE, peer.receive(message.payload())).await.context("no message in time")??;
                run.done(size, since);
            }
            Ok(())
        }
    };
    measure(&run, plan, "flood", (0..streams).map(worker).collect()).await
}

pub async fn handshake(endpoint: Endpoint, plan: &Plan, streams: u32) -> Report {
    let (run, endpoint) = (Run::new(), Rc::new(endpoint));
    let worker = |_| {
        let (run, endpoint) = (run.clone(), endpoint.clone());
        async move {
            let mut first = true;
            while run.goes_on() {
                let since = run.now();
                let peer = endpoint.open("/", 4096).await?;
                run.done(0, since);
                if std::mem::take(&mut first) {
                    run.ready();
                }
                close(peer).await?;
            }
            Ok(())
        }
    };
    measure(&run, plan, "handshake", (0..streams).map(worker).collect()).await
}

/// The closing handshake, and the end of the connection.
pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut peer: Peer<S>) -> anyhow::Result<()> {
    let leaving = async {
        peer.send(&frame::CLOSE).await?;
        peer.receive_close().await?;
        peer.receive_end().await;
        Ok(())
    };
    timeout(Duration::from_secs(3), leaving).await.context("no Close in time")?
}
