//! How a stream ended: who ended it, why, and what each side was told.

use std::fmt;
use std::time::Duration;

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The client.
    Client,
    /// The service behind.
    Upstream,
    /// The gateway.
    Gateway,
}

impl By {
    /// The name in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

/// Why a stream ended. Gives the close codes, the log line and the metric label from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client sent a Close.
    ClientClosed,
    /// The client's connection ended without a Close.
    ClientLost,
    /// The gateway is leaving.
    Drain,
    /// The route is gone after a reload.
    RouteGone,
    /// An operator has ended it.
    EndedByOperator,
    /// The token has expired.
    Expired,
    /// The key that has signed the token is no longer its issuer's.
    KeyRemoved,
    /// A frame of the client breaks RFC 6455.
    ClientProtocol,
    /// A frame of the service breaks RFC 6455.
    UpstreamProtocol,
    /// A frame or message is larger than the route allows.
    TooBig,
    /// More messages or bytes than the route allows.
    RateLimited,
    /// A newer stream of the same principal has its place.
    Replaced,
    /// The token was revoked.
    Revoked,
    /// The stream has lived as long as the route allows.
    StreamLimit,
    /// Nothing was heard for too long.
    Idle,
    /// The service sent a Close.
    UpstreamClosed,
    /// The service's connection ended without a Close.
    UpstreamLost,
}

impl CloseReason {
    /// The name in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientLost => "client_lost",
            Self::Drain => "drain",
            Self::RouteGone => "route_gone",
            Self::EndedByOperator => "ended_by_operator",
            Self::Expired => "token_expired",
            Self::KeyRemoved => "key_removed",
            Self::ClientProtocol => "client_protocol_error",
            Self::UpstreamProtocol => "upstream_protocol_error",
            Self::TooBig => "too_big",
            Self::RateLimited => "rate_limited",
            Self::Replaced => "replaced",
            Self::Revoked => "token_revoked",
            Self::StreamLimit => "stream_limit",
            Self::Idle => "idle",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamLost => "upstream_lost",
        }
    }

    /// Who ended the stream.
    pub const fn by(self) -> By {
        match self {
            Self::ClientClosed | Self::ClientLost | Self::ClientProtocol => By::Client,
            Self::UpstreamClosed | Self::UpstreamLost | Self::UpstreamProtocol => By::Upstream,
            Self::Drain
            | Self::RouteGone
            | Self::EndedByOperator
            | Self::Expired
            | Self::TooBig
            | Self::RateLimited
            | Self::Replaced
            | Self::Revoked
            | Self::KeyRemoved
            | Self::StreamLimit
            | Self::Idle => By::Gateway,
        }
    }

    /// Whether answers already on their way are let through before the client gets its Close. Never for a cause that
    /// is about the right to be here.
    pub const fn settles(self) -> bool {
        matches!(
            self,
            Self::ClientProtocol | Self::TooBig | Self::RateLimited | Self::Drain | Self::RouteGone | Self::Idle
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a stream when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub reason: CloseReason,
    /// The code of the Close that ended it: the one that the gateway sent to the client, or the one that a side sent.
    /// `None` if there was none (or an empty one).
    pub code: Option<u16>,
    /// Whether the client's side had to be reset.
    pub downstream_reset: bool,
    /// Whether the upstream side had to be reset.
    pub upstream_reset: bool,
    /// Frames and bytes that went on from the client to the service.
    pub upward: Traffic,
    /// Frames and bytes that went on from the service to the client.
    pub downward: Traffic,
    /// How long after the token's expiry the client's Close was handed to the kernel, by the monotonic clock; `None` if
    /// that was not what ended the stream, or if a step of the wall clock made it so.
    pub late: Option<Duration>,
}

/// What went on in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames whose head went on, control frames included.
    pub frames: u64,
    /// Bytes, heads included.
    pub bytes: u64,
}

impl Traffic {
    /// Adds what went on elsewhere.
    pub fn add(&mut self, other: Self) {
        self.frames = self.frames.saturating_add(other.frames);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
