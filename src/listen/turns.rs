//! Handshakes take turns, so that a burst of them does not stand between the streams and their worker.
//!
//! A step of a handshake is the dearest thing that a worker does, and clients that reconnect come by the thousand. In the
//! runtime's queue their steps would all be done before a stream that was woken after them.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// As many turns as handshakes may make a step before the streams are looked at again.
pub(super) fn turns() -> Semaphore {
    Semaphore::new(tokio::runtime::Handle::current().metrics().num_workers() * STEPS)
}

/// Does each step of `handshake` in its turn. One that waits for its client has no turn.
pub(super) async fn in_turn<F: Future>(turns: &Semaphore, handshake: F) -> F::Output {
    let mut handshake = pin!(handshake);
    loop {
        // On a worker that streams keep busy turns come slowly: nobody is kept from his for long.
        let turn = timeout(AT_MOST, turns.acquire()).await;
        // Whatever is ready, and what the kernel has, goes first.
        tokio::task::yield_now().await;
        let step = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
        drop(turn);
        match step {
            Poll::Ready(done) => return done,
            Poll::Pending => woken().await,
        }
    }
}

/// Ends when the task is polled again.
async fn woken() {
    let mut polled = false;
    poll_fn(|_| if mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Steps for each worker.
const STEPS: usize = 4;
/// How long a step waits for its turn.
const AT_MOST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::UnixStream;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_kept_from_his_turn_for_long() {
        let turns = turns();
        let _all = turns.acquire_many(u32::try_from(turns.available_permits()).unwrap()).await.unwrap();
        let limit = 2 * AT_MOST;
        timeout(limit, in_turn(&turns, async {})).await.expect("a step");
    }

    #[tokio::test]
    async fn a_burst_of_handshakes_lets_a_stream_be_heard_after_a_few_steps() {
        let (turns, steps) = (Arc::new(turns()), Arc::new(AtomicUsize::new(0)));
        let (near, far) = UnixStream::pair().unwrap();
        near.writable().await.unwrap();
        assert_eq!(far.try_read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let silent = turns.clone();
        for _ in 0..2 * STEPS {
            let silent = silent.clone();
            tokio::spawn(async move { in_turn(&silent, std::future::pending::<()>()).await });
        }
        let burst: Vec<_> = (0..1000)
            .map(|_| {
                let (turns, steps) = (turns.clone(), steps.clone());
                tokio::spawn(async move { in_turn(&turns, async { steps.fetch_add(1, Ordering::Relaxed) }).await })
            })
            .collect();
        near.try_write(b"x").unwrap();
        far.readable().await.unwrap();
        let before = steps.load(Ordering::Relaxed);
        assert!(before <= 3 * STEPS, "{before} steps before the stream was heard");
        for one in burst {
            let limit = std::time::Duration::from_secs(10);
            tokio::time::timeout(limit, one).await.expect("who waits for its client has no turn").unwrap();
        }
    }
}
