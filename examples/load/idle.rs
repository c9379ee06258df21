//! Streams that say nothing: what each of them keeps in the proxy's memory.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoint::{Endpoint, Link};
use crate::frame::Message;
use crate::peer::Peer;
use crate::run::{Plan, rounded};
use crate::usage;
use crate::verbs::close;

pub async fn idle(endpoint: Endpoint, plan: &Plan, streams: u32, touch: usize) -> anyhow::Result<(Value, u64)> {
    if plan.processes.is_empty() {
        bail!("name the proxy's process with --pid");
    }
    if let Some(pid) = usage::missing(&plan.processes) {
        bail!("there is no process {pid}");
    }
    // What the proxy keeps for all streams is there before the first one counts.
    close(open(&endpoint, "/", touch).await?).await?;
    endpoint.turn_over();
    sleep(SETTLING).await;
    let base = usage::pss(&plan.processes);

    let endpoint = Rc::new(endpoint);
    let mut peers =
        timeout(OPENING, open_all(&endpoint, "/", streams, touch)).await.context("no streams in time")??;
    sleep(SETTLING).await;
    let full = usage::pss(&plan.processes);
    let before = usage::cpu(&plan.processes);
    sleep(plan.window).await;
    let cpu = usage::cpu(&plan.processes).since(before);

    let mut dead = 0;
    for peer in &mut peers {
        dead += u64::from(echo(peer, 64).await.is_err());
    }
    let report = json!({
        "verb": "idle",
        "streams": streams,
        "touch": touch,
        "errors": dead,
        "base_pss_kib": base,
        "full_pss_kib": full,
        "kib_each": rounded(kib_each(base, full, streams)),
        "idle_cpu_s": rounded(cpu.total()),
        "seconds": rounded(plan.window.as_secs_f64()),
    });
    Ok((report, dead))
}

/// Opens all streams, a few at a time.
pub async fn open_all(
    endpoint: &Rc<Endpoint>,
    path: &'static str,
    streams: u32,
    touch: usize,
) -> anyhow::Result<Vec<Peer<Link>>> {
    let mut openers = JoinSet::new();
    for opener in 0..OPENERS {
        let endpoint = endpoint.clone();
        let mine = streams / OPENERS + u32::from(opener < streams % OPENERS);
        openers.spawn_local(async move {
            let mut peers = Vec::new();
            for _ in 0..mine {
                peers.push(open(&endpoint, path, touch).await?);
            }
            anyhow::Ok(peers)
        });
    }
    let mut all = Vec::new();
    while let Some(peers) = openers.join_next().await {
        all.extend(peers??);
    }
    Ok(all)
}

async fn open(endpoint: &Endpoint, path: &str, touch: usize) -> anyhow::Result<Peer<Link>> {
    let mut peer = endpoint.open(path, READ).await?;
    if touch > 0 {
        echo(&mut peer, touch).await?;
    }
    Ok(peer)
}

async fn echo(peer: &mut Peer<Link>, size: usize) -> anyhow::Result<()> {
    let message = Message::from_client(size, 1);
    let echoed = async {
        peer.send(message.frame()).await?;
        peer.receive(message.payload()).await
    };
    timeout(PATIENCE, echoed).await.context("no echo in time")?
}

#[allow(clippy::cast_precision_loss)] // KiB of one machine
pub fn kib_each(base: u64, full: u64, streams: u32) -> f64 {
    full.saturating_sub(base) as f64 / f64::from(streams)
}

/// Streams that are being opened at a time.
const OPENERS: u32 = 32;
/// Bytes of one read: small, since this process has all the streams too.
const READ: usize = 4096;
/// How long all streams may take to open.
const OPENING: Duration = Duration::from_secs(120);
/// How long one echo may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long memory that is not needed any more may take to be given back.
const SETTLING: Duration = Duration::from_secs(1);
