//! Connections to a service that wait for their next plain request.
//!
//! Owns those that wait, no others: bounded in number and in time. Most services close a connection that waits after a few
//! seconds, some after two; a request that cannot be sent twice takes only one that has hardly waited.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::clock::Mono;
use crate::upstream::exchange::Line;

/// The connections to one service that wait. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Since longest first.
    lines: Vec<Idle>,
    /// Whether a task looks for those that have waited too long.
    watched: bool,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Mono,
    /// How often it was looked at.
    looks: u8,
}

impl Pool {
    /// Keeps a line whose answer is read to its end. Needs a runtime.
    pub fn put(&self, line: Line, now: Mono) {
        if line.sender.is_closed() {
            return;
        }
        let mut kept = self.lock();
        kept.lines.push(Idle { line, since: now, looks: 0 });
        let many = kept.lines.len().saturating_sub(MOST);
        kept.lines.drain(..many);
        if !std::mem::replace(&mut kept.watched, true) {
            tokio::spawn(watch(Arc::downgrade(&self.0)));
        }
    }

    /// A line that takes a request; one that has just been used if the request cannot be sent twice.
    pub(super) async fn take(&self, twice: bool, now: Mono) -> Option<Line> {
        loop {
            let mut line = self.last(twice, now)?;
            // One that was just put back may have its last step to do.
            if let Ok(Ok(())) = timeout(READY, line.sender.ready()).await {
                return Some(line);
            }
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lock().lines.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn last(&self, twice: bool, now: Mono) -> Option<Line> {
        let mut kept = self.lock();
        let idle = kept.lines.pop_if(|idle| twice || now.saturating_since(idle.since) < FRESH)?;
        Some(idle.line)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }
}

/// Closes those that have waited too long, until none is left.
async fn watch(pool: Weak<Mutex<Kept>>) {
    loop {
        sleep(LOOK).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut kept = lock(&pool);
        kept.lines.retain_mut(|idle| {
            idle.looks += 1;
            idle.looks <= LOOKS && !idle.line.sender.is_closed()
        });
        if kept.lines.is_empty() {
            kept.watched = false;
            return;
        }
    }
}

/// Every change under this lock is complete before anything could panic.
fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most that wait for one service.
const MOST: usize = 256;
/// How long one may have waited that takes a request which cannot be sent twice.
const FRESH: Duration = Duration::from_secs(1);
/// How often those that wait are looked at, and how many looks one of them outlasts: it is closed after 20 to 30 seconds.
const LOOK: Duration = Duration::from_secs(10);
const LOOKS: u8 = 2;
/// How long a line may take to be ready for its next request.
const READY: Duration = Duration::from_millis(50);
