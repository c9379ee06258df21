//! Who is connected to a listener, and who gives up a place when they are all taken.
//!
//! Anyone who reaches the listener can connect and ask for nothing. So the next one who comes takes the place of the
//! connection that has gone longest without a request being answered; one whose request is being answered keeps its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The places of a listener.
pub(super) struct Crowd(Arc<Shared>);

struct Shared {
    places: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

/// Connections that wait for nothing of ours, since longest first.
#[derive(Default)]
struct Idle {
    next: u64,
    leave: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection, until it is dropped.
pub(super) struct Seat {
    shared: Arc<Shared>,
    /// Cancelled when somebody else needs the place.
    leave: CancellationToken,
    /// Its turn among those that wait.
    turn: Mutex<u64>,
    _place: OwnedSemaphorePermit,
}

impl Crowd {
    pub(super) fn new(places: usize) -> Self {
        Self(Arc::new(Shared { places: Arc::new(Semaphore::new(places)), idle: Mutex::default() }))
    }

    /// A place, as soon as one of those that wait has left; `None` if there are none at all.
    pub(super) async fn admit(&self) -> Option<Seat> {
        let place = loop {
            if let Ok(place) = self.0.places.clone().try_acquire_owned() {
                break place;
            }
            if let Some((_, oldest)) = self.0.idle().leave.pop_first() {
                oldest.cancel();
            }
            // If requests of all are being answered, one of them will soon be.
            if let Ok(place) = tokio::time::timeout(SOON, self.0.places.clone().acquire_owned()).await {
                break place.ok()?;
            }
        };
        let leave = CancellationToken::new();
        let turn = Mutex::new(self.0.queue(&leave));
        Some(Seat { shared: self.0.clone(), leave, turn, _place: place })
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, leave: &CancellationToken) -> u64 {
        let mut idle = self.idle();
        let turn = idle.next;
        idle.next = turn.wrapping_add(1);
        idle.leave.insert(turn, leave.clone());
        turn
    }
}

impl Seat {
    /// Its request is let in: the place is its own until the answer is there.
    pub(super) fn keep(&self) {
        let turn = *self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.idle().leave.remove(&turn);
    }

    /// Its request is answered.
    pub(super) fn answered(&self) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was not let in keeps its turn.
        if !self.shared.idle().leave.contains_key(&turn) && !self.leave.is_cancelled() {
            *turn = self.shared.queue(&self.leave);
        }
    }

    /// Serves the connection until it has ended or must leave.
    pub(super) async fn serve(&self, connection: impl Future<Output = ()>) {
        self.leave.run_until_cancelled(connection).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.keep();
    }
}

const SOON: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_asked_for_nothing_for_longest_makes_room_and_who_is_answered_does_not() {
        let crowd = Crowd::new(3);
        let admit = async || crowd.admit().await.unwrap();
        let replaced = async |seat: Seat| {
            let leave = async {
                seat.leave.cancelled().await;
                drop(seat);
            };
            tokio::join!(admit(), leave).0
        };
        let (asks, waits, later) = (admit().await, admit().await, admit().await);
        asks.keep();
        let fourth = replaced(waits).await;
        asks.answered();
        assert!([&asks, &later, &fourth].iter().all(|seat| !seat.leave.is_cancelled()));
        let _fifth = replaced(later).await;
        assert!([&asks, &fourth].iter().all(|seat| !seat.leave.is_cancelled()));
        let _sixth = replaced(fourth).await;
        assert!(!asks.leave.is_cancelled());
        let _seventh = replaced(asks).await;
    }

    #[tokio::test]
    async fn while_all_are_answered_the_next_waits_until_one_has_left() {
        let crowd = Crowd::new(1);
        let only = crowd.admit().await.unwrap();
        only.keep();
        let leave = only.leave.clone();
        let answered = async {
            tokio::time::sleep(SOON * 3).await;
            assert!(!only.leave.is_cancelled());
            drop(only);
        };
        let (next, ()) = tokio::join!(crowd.admit(), answered);
        assert!(next.is_some() && !leave.is_cancelled());
    }
}
