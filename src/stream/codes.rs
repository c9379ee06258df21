//! What a side is told when a stream ends: code and reason per cause, settable per route.

use crate::stream::CloseReason;
use crate::ws::CloseText;

/// The Close that the client gets, per cause. The default is the preset `generic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseCodes {
    /// The token has expired.
    pub expired: CloseText,
    /// The token was revoked.
    pub revoked: CloseText,
    /// The stream has lived as long as the route allows.
    pub stream_limit: CloseText,
    /// Nothing was heard for too long.
    pub idle: CloseText,
    /// The gateway is leaving, the route went away, or an operator has ended the stream.
    pub drain: CloseText,
    /// A frame or message is too large.
    pub too_big: CloseText,
    /// Too many messages or bytes.
    pub rate_limited: CloseText,
    /// A frame breaks RFC 6455.
    pub protocol: CloseText,
    /// The service's connection ended without a Close.
    pub upstream_lost: CloseText,
}

impl Default for CloseCodes {
    fn default() -> Self {
        Self {
            expired: CloseText::known(3000, "token expired"),
            revoked: CloseText::known(3003, "token revoked"),
            stream_limit: CloseText::known(3000, "stream limit"),
            idle: CloseText::known(3008, "idle"),
            drain: CloseText::known(1012, "service restart"),
            too_big: CloseText::known(1009, "too big"),
            rate_limited: CloseText::known(1008, "rate limited"),
            protocol: CloseText::known(1002, "protocol error"),
            upstream_lost: CloseText::known(1013, "upstream lost"),
        }
    }
}

impl CloseCodes {
    /// What the client is told when the stream ends for `reason`. For a cause in which the client has closed or is
    /// gone, nothing of ours is sent first; the text then only serves as an answer.
    pub fn downstream(&self, reason: CloseReason) -> &CloseText {
        match reason {
            CloseReason::Expired => &self.expired,
            CloseReason::Revoked => &self.revoked,
            CloseReason::StreamLimit => &self.stream_limit,
            CloseReason::Idle => &self.idle,
            CloseReason::Drain | CloseReason::RouteGone | CloseReason::EndedByOperator => &self.drain,
            CloseReason::TooBig => &self.too_big,
            CloseReason::RateLimited => &self.rate_limited,
            CloseReason::ClientProtocol | CloseReason::UpstreamProtocol => &self.protocol,
            CloseReason::UpstreamLost
            | CloseReason::UpstreamClosed
            | CloseReason::ClientClosed
            | CloseReason::ClientLost => &self.upstream_lost,
        }
    }
}

/// What the service is told whenever the gateway ends a stream: the client is going away (RFC 6455, section 7.4.1).
pub const UPSTREAM: CloseText = CloseText::known(1001, "");
