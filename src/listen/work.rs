//! Whether a connection's requests are under way, and whose turn it is: the service's, or the client's who takes an answer.
//!
//! Owns the marks that the connection's bounds go by. An answer that a service streams may take as long as it likes while
//! the service is waited for; a client that does not take what is there is given [`stuck`]'s time for it.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gateway::{Body, BoxError};

/// The marks of one connection. Clones are the same.
#[derive(Clone)]
pub(super) struct Work(Arc<Marks>);

struct Marks {
    /// Whether a request is being answered, and not the client waited for.
    busy: watch::Sender<bool>,
    /// By which the answer under way may be cut.
    cut: watch::Sender<Option<CancellationToken>>,
    /// Counts the bits of streamed answers.
    bits: AtomicU64,
    /// Whether a request was passed on since this was last asked, or one that was is still being answered.
    passed: AtomicBool,
}

impl Work {
    pub(super) fn new() -> Self {
        let (busy, cut) = (watch::Sender::new(false), watch::Sender::new(None));
        Self(Arc::new(Marks { busy, cut, bits: AtomicU64::new(0), passed: AtomicBool::new(false) }))
    }

    /// A request is being answered, until what this gives is dropped.
    pub(super) fn begin(&self) -> Working {
        self.0.busy.send_replace(true);
        Working { work: self.clone(), passed: false }
    }

    /// Whether the connection was of use for plain requests since this was last asked.
    pub(super) fn was_of_use(&self) -> bool {
        self.0.passed.swap(false, Ordering::Relaxed)
    }

    /// Ends when the answer under way is cut.
    pub(super) async fn cut(self) {
        let mut cut = self.0.cut.subscribe();
        loop {
            let token = cut.borrow_and_update().clone();
            let cancelled = async {
                match &token {
                    Some(token) => token.cancelled().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = cancelled => return,
                changed = cut.changed() => if changed.is_err() { pending().await },
            }
        }
    }

    /// Ends when for `limit` nothing was being answered and the client has taken nothing. The header timeout ends a connection
    /// that waits for a request before that, so this one is still writing a reply that its client does not read.
    pub(super) async fn stuck(self, limit: Duration) {
        let mut busy = self.0.busy.subscribe();
        loop {
            let bits = self.0.bits.load(Ordering::Relaxed);
            let limit = if *busy.borrow_and_update() { Duration::MAX } else { limit };
            match tokio::time::timeout(limit, busy.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => pending().await,
                Err(_) if self.0.bits.load(Ordering::Relaxed) != bits => {}
                Err(_) => return,
            }
        }
    }

    fn turn(&self, ours: bool) {
        self.0.busy.send_if_modified(|busy| std::mem::replace(busy, ours) != ours);
    }
}

/// Says that a request is being answered, until it is dropped.
pub(super) struct Working {
    work: Work,
    passed: bool,
}

impl Working {
    /// The answer, which is being given until its body is dropped.
    pub(super) fn through(mut self, body: Body) -> Answering {
        self.passed = body.is_passed();
        if self.passed {
            self.work.0.cut.send_replace(body.cut());
            self.work.0.passed.store(true, Ordering::Relaxed);
        }
        // From here on it is the client's turn, until the body is waited for.
        self.work.turn(false);
        Answering { body, working: self }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.passed {
            self.work.0.cut.send_replace(None);
            self.work.0.passed.store(true, Ordering::Relaxed);
        }
        self.work.turn(false);
    }
}

/// The body of an answer, which says whose turn it is.
pub(super) struct Answering {
    body: Body,
    working: Working,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let work = &self.working.work;
        work.0.bits.fetch_add(1, Ordering::Relaxed);
        work.turn(frame.is_pending());
        if frame.is_pending() {
            work.0.passed.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_stuck_only_while_nothing_is_being_answered() {
        let work = Work::new();
        let limit = Duration::from_secs(20);
        let mut stuck = tokio::spawn(work.clone().stuck(limit));
        let busy = work.begin();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, &mut stuck).await.is_err(), "a slow service is no stuck client");
        drop(busy);
        assert!(tokio::time::timeout(Duration::from_secs(19), &mut stuck).await.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(2), &mut stuck).await.is_ok());
    }
}
