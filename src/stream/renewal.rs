//! Renewal: a fresh token moves the deadline of a live stream; and the notice that it is time for one.

use std::time::Duration;

use crate::clock::{Mono, Now, Wall};
use crate::stream::Stream;

/// What a fresh token brings, and the rules of the route that it is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When it expires; `None` if it does not.
    pub expiry: Option<Wall>,
    /// Whether it may expire earlier than the present one.
    pub allow_shorter: bool,
    /// How often a stream may be renewed; `None` for no limit.
    pub max_renewals: Option<u32>,
}

/// Why a live stream keeps its old token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewalError {
    /// There is no such stream, its deadline has passed, or it is ending.
    #[error("there is no such live stream")]
    Gone,
    /// The token speaks for somebody else.
    #[error("the token has another principal than the stream")]
    OtherPrincipal,
    /// The token expires before the present one.
    #[error("the token expires before the present one (allow_shorter is off)")]
    Shorter,
    /// Renewals follow each other too fast.
    #[error("renewals follow each other faster than renewal_interval allows")]
    TooOften,
    /// The stream has been renewed as often as the route allows.
    #[error("the stream has been renewed max_renewals times")]
    UsedUp,
}

impl RenewalError {
    /// The public reason, in an answer's body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "stream_gone",
            Self::OtherPrincipal => "forbidden",
            Self::Shorter => "expiry_shorter",
            Self::TooOften => "rate_limited",
            Self::UsedUp => "renewals_used_up",
        }
    }
}

impl Stream {
    /// Applies a fresh token, and answers how long the stream may go on now; `None` = without end. Time is read, the old
    /// deadline tested, and only then does the new one count: a token that comes after the old deadline comes too late.
    /// Refused, everything stays as it was.
    pub fn renew(&mut self, terms: Terms, now: Now) -> Result<Option<Duration>, RenewalError> {
        if self.reason.is_some() || self.deadline.passed(now).is_some() {
            return Err(RenewalError::Gone);
        }
        if terms.max_renewals.is_some_and(|most| self.renewals >= most) {
            return Err(RenewalError::UsedUp);
        }
        // No expiry is the latest of all.
        let later = match (self.deadline.expiry(), terms.expiry) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(present), Some(fresh)) => fresh >= present,
        };
        if !later && !terms.allow_shorter {
            return Err(RenewalError::Shorter);
        }
        let deadline = self.deadline.renewed(terms.expiry, now);
        if deadline.passed(now).is_some() {
            return Err(RenewalError::Gone);
        }
        self.deadline = deadline;
        self.renewals = self.renewals.saturating_add(1);
        self.noticed = false;
        Ok(self.expires_in(now))
    }

    /// How long the stream may go on; `None` = without end.
    pub fn expires_in(&self, now: Now) -> Option<Duration> {
        self.deadline.next(now).map(|end| end.saturating_since(now.mono))
    }

    /// How often the token was renewed.
    pub const fn renewals(&self) -> u32 {
        self.renewals
    }

    /// If it is time to tell the client that the token is about to expire: how long it still counts. Said once for each
    /// token.
    pub fn take_notice(&mut self, now: Now) -> Option<Duration> {
        if self.reason.is_some() || self.next_notice(now).is_none_or(|at| now.mono < at) {
            return None;
        }
        self.noticed = true;
        self.deadline.ahead(Duration::ZERO, now).map(|end| end.saturating_since(now.mono))
    }

    /// When the client is to be told that the token is about to expire, if the route asks for it.
    pub(super) fn next_notice(&self, now: Now) -> Option<Mono> {
        let wanted = !self.noticed && !self.limits.expiry_notice.is_zero();
        wanted.then(|| self.deadline.ahead(self.limits.expiry_notice, now)).flatten()
    }
}
