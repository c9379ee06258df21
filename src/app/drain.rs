//! The orderly end of all streams: Closes spread over a window, in random order, then a bounded wait.

use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Mono};
use crate::registry::Registry;
use crate::stream::Signal;

/// Tells every stream to end, spread over `window` so that its clients do not all come back at once, and waits until
/// the tracker is empty, but never longer than `limit` from now.
pub(super) async fn drain(
    registry: &Registry,
    tracker: &TaskTracker,
    clock: &Clock,
    window: Duration,
    limit: Duration,
) {
    let start = clock.now().mono;
    let end = instant(clock, start.saturating_add(limit));
    // When the limit is over, it is over: whatever is left is cut off by the caller.
    let _ = timeout_at(end, async {
        tell(registry, tracker, clock, start, window).await;
        // A stream that was on its way in when the drain began has heard nothing yet.
        loop {
            registry.signal_all(Signal::Drain);
            if timeout(AGAIN, tracker.wait()).await.is_ok() {
                return;
            }
        }
    })
    .await;
}

/// Signals the streams one by one; returns early if all tasks are done.
async fn tell(registry: &Registry, tracker: &TaskTracker, clock: &Clock, start: Mono, window: Duration) {
    let mut ids = registry.ids();
    ids.shuffle(&mut rand::rng());
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX).max(1);
    let told = async {
        for (index, id) in (0u32..).zip(ids) {
            let at = window.saturating_mul(index) / count;
            sleep_until(instant(clock, start.saturating_add(at))).await;
            registry.signal(id, Signal::Drain);
        }
    };
    tokio::select! {
        () = told => {}
        () = tracker.wait() => {}
    }
}

fn instant(clock: &Clock, at: Mono) -> tokio::time::Instant {
    tokio::time::Instant::from_std(clock.instant(at))
}

/// How often those that came late are told.
const AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::clock::Wall;
    use crate::registry::{Caps, Entry, Standing};
    use crate::token::Principal;

    /// A stream that lives until it is told to end, and says when that was.
    fn stream(registry: &Registry, tracker: &TaskTracker, clock: &Clock) -> tokio::task::JoinHandle<Mono> {
        let entry = Entry {
            route: "r".into(),
            peer: ([192, 0, 2, 1], 1).into(),
            principal: Principal::new(&["x".into()]),
            handle: None,
            since: Wall::default(),
            standing: Standing {
                jti: None,
                marks: crate::token::Marks::default(),
                token: crate::secret::fingerprint(b"x"),
                expiry: None,
                renewals: 0,
            },
        };
        let guard = registry.reserve(entry, Caps::default()).unwrap();
        let clock = clock.clone();
        tracker.spawn(async move {
            poll_fn(|cx| if guard.poll_signals(cx).contains(Signal::Drain) { Poll::Ready(()) } else { Poll::Pending })
                .await;
            clock.now().mono
        })
    }

    #[tokio::test]
    async fn closes_are_spread_over_the_window_and_every_stream_is_told() {
        let clock = Clock::system();
        let (registry, tracker) = (Registry::new(&clock), TaskTracker::new());
        let streams: Vec<_> = (0..20).map(|_| stream(&registry, &tracker, &clock)).collect();
        tracker.close();
        let start = clock.now().mono;
        drain(&registry, &tracker, &clock, Duration::from_millis(400), Duration::from_secs(10)).await;
        let mut told = Vec::new();
        for stream in streams {
            told.push(stream.await.unwrap().saturating_since(start));
        }
        told.sort();
        assert!(told[0] < Duration::from_millis(200), "the first one waits for nothing: {told:?}");
        assert!(told[19] >= Duration::from_millis(380), "the last one comes at the end of the window: {told:?}");
        assert!(told[10] >= Duration::from_millis(200), "they do not come in one heap: {told:?}");
        assert!(registry.is_empty());
    }

    #[tokio::test]
    async fn the_wait_ends_with_the_limit() {
        let clock = Clock::system();
        let (registry, tracker) = (Registry::new(&clock), TaskTracker::new());
        tracker.spawn(std::future::pending::<()>());
        tracker.close();
        let start = clock.now().mono;
        drain(&registry, &tracker, &clock, Duration::ZERO, Duration::from_millis(200)).await;
        let took = clock.now().mono.saturating_since(start);
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    }
}
