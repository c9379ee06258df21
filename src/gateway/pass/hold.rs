//! What holds an answer to its token: a place among the live streams, where its end is heard, and the deadline.
//!
//! As for a stream, nothing is written after the deadline, however slowly the client reads. The answer's own body looks at the
//! deadline before each bit; beside it a task waits for the deadline and for what ends streams, and cuts the answer.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::CUT;
use super::plain::Plain;
use crate::admission::Admitted;
use crate::clock::Clock;
use crate::gateway::Shared;
use crate::gateway::forward::still_good;
use crate::gateway::rejection::Rejection;
use crate::registry::{Alarm, Entry, Gauge, Guard, Standing};
use crate::stream::{CloseReason, Deadline, Signal, Traffic};
use crate::telemetry::stream_line::Cut;
use crate::token::{Denial, Public};

/// A request with a good token, and what ends it.
pub(super) struct Hold {
    shared: Arc<Shared>,
    guard: Guard,
    deadline: Deadline,
}

/// What the body of an answer knows of its hold.
pub(super) struct Held {
    /// Cancelled when nothing more may be written.
    pub(super) cut: CancellationToken,
    deadline: Deadline,
    clock: Clock,
    gauge: Gauge,
    /// Told if the body comes upon the deadline itself; dropped at its end.
    alive: Option<oneshot::Sender<CloseReason>>,
}

impl Hold {
    /// A place, and the deadline of the token. A ban that is not seen here finds the place.
    pub(super) fn new(shared: &Arc<Shared>, admitted: &Admitted<Plain>) -> Result<Self, Rejection> {
        let Plain { visit, route, .. } = admitted.request();
        let deadline = Deadline::new(admitted.grant().expiry, route.limits.max_stream, admitted.at());
        let entry = Entry {
            route: route.name.clone(),
            peer: visit.peer.address,
            principal: admitted.grant().principal,
            handle: None,
            since: admitted.at().wall,
            standing: Standing::new(admitted.grant(), 0),
        };
        let hold = Self { shared: shared.clone(), guard: shared.registry.enter_http(entry), deadline };
        hold.still_good()?;
        Ok(hold)
    }

    /// Whether the answer may begin, or go on.
    pub(super) fn still_good(&self) -> Result<(), Rejection> {
        still_good(&self.guard, self.deadline, self.shared.clock.now())
    }

    /// Ends when the request may not go on.
    pub(super) async fn over(&mut self) -> CloseReason {
        loop {
            let now = self.shared.clock.now();
            if let Some(reason) = self.deadline.passed(now) {
                return reason;
            }
            self.guard.wake_at(self.deadline.next(now).map(Alarm::At));
            match self.guard.told(&ENDS).await {
                Signal::Revoke => return CloseReason::Revoked,
                Signal::KeyRemoved => return CloseReason::KeyRemoved,
                Signal::End => return CloseReason::EndedByOperator,
                Signal::RouteGone => return CloseReason::RouteGone,
                Signal::Drain | Signal::Renew | Signal::Recheck | Signal::Replace => {}
            }
        }
    }

    /// How a client is told that has no answer yet.
    pub(super) fn refused(&self, reason: CloseReason) -> Rejection {
        match self.still_good() {
            Err(rejection) => rejection,
            Ok(()) => match reason {
                CloseReason::Revoked => {
                    Denial::new(Public::TokenRevoked, "revoked", "the token was revoked meanwhile").into()
                }
                _ => Rejection::Draining,
            },
        }
    }

    /// Holds an answer that begins now, from a task of its own, until the body lets go.
    pub(super) fn keep(mut self) -> Held {
        let (alive, ended) = oneshot::channel();
        let cut = CancellationToken::new();
        let held = Held {
            cut: cut.clone(),
            deadline: self.deadline,
            clock: self.shared.clock.clone(),
            gauge: self.guard.gauge(),
            alive: Some(alive),
        };
        let shared = self.shared.clone();
        let began = shared.clock.now().mono;
        shared.tracker.clone().spawn(async move {
            let reason = tokio::select! {
                biased;
                found = ended => match found {
                    Ok(reason) => reason,
                    Err(_) => return,
                },
                reason = self.over() => reason,
            };
            cut.cancel();
            let lived = shared.clock.now().mono.saturating_since(began);
            let (upward, downward) = self.guard.gauge().read();
            self.guard.line().cut(&Cut { reason, lived, bytes_up: upward.bytes, bytes_down: downward.bytes });
            shared.metrics.http(self.guard.route(), CUT);
        });
        held
    }
}

impl Held {
    /// Whether nothing more may be written. Whoever sees the deadline first, the answer is cut, and told of, by its task.
    pub(super) fn is_over(&mut self) -> bool {
        let passed = self.deadline.passed(self.clock.now());
        if let Some((reason, alive)) = passed.and_then(|reason| Some((reason, self.alive.take()?))) {
            // The task has gone only if it has cut the answer already.
            let _ = alive.send(reason);
        }
        passed.is_some() || self.cut.is_cancelled()
    }

    /// Tells how much has passed.
    pub(super) fn meter(&self, up: u64, down: u64) {
        let bytes = |bytes| Traffic { frames: 0, bytes };
        self.gauge.set(bytes(up), bytes(down));
    }
}

/// What is heard. A gateway that leaves lets answers come to their end for as long as it waits for anything.
const ENDS: [Signal; 5] = [Signal::Revoke, Signal::KeyRemoved, Signal::End, Signal::RouteGone, Signal::Recheck];
