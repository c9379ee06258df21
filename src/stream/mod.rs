//! The state machine of one stream, pure: its deadlines, its end, who ended it and why.

pub mod bounds;
pub mod codes;
pub mod deadlines;
pub mod machine;
pub mod outcome;
pub mod renewal;
pub mod silence;

use std::time::Duration;

pub use bounds::Bounds;
pub use codes::{CloseCodes, Preset, Refusal};
pub use deadlines::Deadline;
pub use machine::{Due, Farewell, Flow, Passage, Stream};
pub use outcome::{By, CloseReason, Outcome, Traffic};
pub use renewal::{RenewalError, Terms};
pub use silence::Silence;

/// What a stream can be told from outside, through the registry; the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The token was revoked.
    Revoke,
    /// The key that has signed the token is no longer its issuer's.
    KeyRemoved,
    /// An operator ends it.
    End,
    /// The route is gone after a reload.
    RouteGone,
    /// A newer stream of the same principal has its place.
    Replace,
    /// The gateway is leaving.
    Drain,
    /// A fresh token waits to be applied.
    Renew,
    /// The stream's alarm has rung, or a clock was stepped: look at the deadline again.
    Recheck,
}

impl Signal {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Revoke,
        Self::KeyRemoved,
        Self::End,
        Self::RouteGone,
        Self::Replace,
        Self::Drain,
        Self::Renew,
        Self::Recheck,
    ];
}

/// One of the two sides of a stream. The one pair of words for them, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's side.
    Downstream,
    /// The service's side.
    Upstream,
}

impl Side {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Downstream, Self::Upstream];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }

    const fn finish_timer(self) -> deadlines::Timer {
        match self {
            Self::Downstream => deadlines::Timer::FinishDownstream,
            Self::Upstream => deadlines::Timer::FinishUpstream,
        }
    }
}

/// The bounds within which a stream ends. Settable per route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a side that is in the middle of a frame may take to finish it before it is reset. Default 1 s.
    pub finish_frame: Duration,
    /// How many bytes of such a frame may still be written. Default 64 KiB; 0 = none.
    pub finish_bytes: u64,
    /// How long the answer to a Close is waited for. Default 5 s.
    pub close_timeout: Duration,
    /// How long answers that are on their way are let through before the client gets its Close, for causes that are
    /// not about the right to be here. Default 250 ms.
    pub settle: Duration,
    /// The longest a stream may live, however often its token is renewed; `None` for no limit.
    pub max_stream: Option<Duration>,
    /// How long before its token expires a client is told so; zero = it is not.
    pub expiry_notice: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            finish_frame: Duration::from_secs(1),
            finish_bytes: 64 * 1024,
            close_timeout: Duration::from_secs(5),
            settle: Duration::from_millis(250),
            max_stream: None,
            expiry_notice: Duration::ZERO,
        }
    }
}

/// What a route asks of its streams beyond a good token; by default nothing. Settable per route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// What a client may send.
    pub bounds: Bounds,
    /// How long it may be silent.
    pub silence: silence::Rules,
}
