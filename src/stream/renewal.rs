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
    /// The token has expired on its way.
    #[error("the token expired before it was applied")]
    Expired,
    /// There is no such stream, its deadline has passed, or it is ending.
    #[error("there is no such live stream")]
    Gone,
    /// The key that has signed the token was taken back while it was applied.
    #[error("the key that has signed the token was taken back by its issuer")]
    KeyRemoved,
    /// The token speaks for somebody else.
    #[error("the token has another principal than the stream")]
    OtherPrincipal,
    /// The token was revoked while it was applied.
    #[error("the token is revoked")]
    Revoked,
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
            Self::Expired => "token_expired",
            Self::Gone => "stream_gone",
            Self::KeyRemoved => "token_invalid",
            Self::OtherPrincipal => "forbidden",
            Self::Revoked => "token_revoked",
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
            return Err(RenewalError::Expired);
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
        if self.next_notice(now).is_none_or(|at| now.mono < at) {
            return None;
        }
        self.noticed = true;
        self.deadline.ahead(Duration::ZERO, now).map(|end| end.saturating_since(now.mono))
    }

    /// When the client is to be told that the token is about to expire, if the route asks for it.
    pub(super) fn next_notice(&self, now: Now) -> Option<Mono> {
        let wanted = self.reason.is_none() && !self.noticed && !self.limits.expiry_notice.is_zero();
        wanted.then(|| self.deadline.ahead(self.limits.expiry_notice, now)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stream::{CloseReason, Deadline, Limits, Signal};

    const LIFE: Duration = Duration::from_secs(10);
    const NANOSECOND: Duration = Duration::from_nanos(1);

    fn now() -> Now {
        Now { wall: Wall::from_epoch(Duration::from_secs(1_000_000)), mono: Mono::default() }
    }

    fn stream(limits: Limits) -> Stream {
        let deadline = Deadline::new(Some(now().wall.saturating_add(LIFE)), limits.max_stream, now());
        Stream::new(deadline, Arc::new(limits))
    }

    fn until(life: Duration) -> Terms {
        Terms { expiry: Some(now().wall.saturating_add(life)), allow_shorter: false, max_renewals: None }
    }

    #[test]
    fn one_nanosecond_before_the_deadline_a_renewal_wins_and_at_the_deadline_it_loses() {
        let mut early = stream(Limits::default());
        let before = now().after(LIFE.saturating_sub(NANOSECOND));
        assert_eq!(early.renew(until(LIFE * 2), before), Ok(Some(LIFE + NANOSECOND)));
        assert_eq!(early.judge(now().after(LIFE)), None, "the very next frame");
        assert_eq!(early.judge(now().after(LIFE * 2)), Some(CloseReason::Expired));

        let mut late = stream(Limits::default());
        assert_eq!(late.renew(until(LIFE * 2), now().after(LIFE)), Err(RenewalError::Gone));
        // Either clock is enough.
        for one in [Now { wall: now().after(LIFE).wall, ..now() }, Now { mono: now().after(LIFE).mono, ..now() }] {
            assert_eq!(late.renew(until(LIFE * 2), one), Err(RenewalError::Gone));
        }
        assert_eq!(late.judge(now().after(LIFE)), Some(CloseReason::Expired), "the old deadline stands");
        assert_eq!(late.renewals(), 0);
    }

    #[test]
    fn an_earlier_expiry_counts_only_where_it_is_allowed_and_no_expiry_is_the_latest() {
        let mut stream = stream(Limits::default());
        assert_eq!(stream.renew(until(LIFE / 2), now()), Err(RenewalError::Shorter));
        assert_eq!(stream.renew(Terms { allow_shorter: true, ..until(LIFE / 2) }, now()), Ok(Some(LIFE / 2)));
        assert_eq!(stream.renew(Terms { expiry: None, ..until(LIFE) }, now()), Ok(None));
        assert_eq!(stream.renew(until(LIFE * 100), now()), Err(RenewalError::Shorter), "it had no end");
        assert_eq!(stream.renewals(), 2);
    }

    #[test]
    fn a_token_that_dies_on_its_way_leaves_the_stream_as_it_was() {
        let mut stream = stream(Limits::default());
        let dead = Terms { allow_shorter: true, ..until(Duration::ZERO) };
        assert_eq!(stream.renew(dead, now()), Err(RenewalError::Expired));
        assert_eq!(stream.judge(now()), None);
    }

    #[test]
    fn renewals_are_counted_and_end_at_the_longest_life_of_the_stream() {
        let mut stream = stream(Limits { max_stream: Some(LIFE * 2), ..Limits::default() });
        let terms = Terms { max_renewals: Some(2), ..until(LIFE * 5) };
        assert_eq!(stream.renew(terms, now()), Ok(Some(LIFE * 2)), "capped");
        assert_eq!(stream.renew(terms, now()), Ok(Some(LIFE * 2)));
        assert_eq!(stream.renew(terms, now()), Err(RenewalError::UsedUp));
        assert_eq!(stream.judge(now().after(LIFE * 2)), Some(CloseReason::StreamLimit));
    }

    #[test]
    fn a_stream_that_is_ending_is_not_renewed() {
        for signal in [Signal::Drain, Signal::RouteGone, Signal::Revoke] {
            let mut stream = stream(Limits::default());
            stream.on_signal(signal, now());
            assert_eq!(stream.renew(until(LIFE * 2), now()), Err(RenewalError::Gone), "{signal:?}");
        }
    }

    #[test]
    fn the_notice_is_due_once_for_each_token() {
        let ahead = Duration::from_secs(3);
        let mut stream = stream(Limits { expiry_notice: ahead, ..Limits::default() });
        assert_eq!(stream.next_deadline(now()), Some(now().after(LIFE.saturating_sub(ahead)).mono));
        assert_eq!(stream.take_notice(now()), None);
        assert_eq!(stream.take_notice(now().after(LIFE.saturating_sub(ahead))), Some(ahead));
        assert_eq!(stream.take_notice(now().after(LIFE.saturating_sub(ahead))), None);
        assert_eq!(stream.next_deadline(now()), Some(now().after(LIFE).mono));
        assert!(stream.renew(until(LIFE * 2), now()).is_ok());
        assert_eq!(stream.take_notice(now().after(LIFE)), None);
        let (mut leaving, due) = (stream.clone(), now().after((LIFE * 2).saturating_sub(ahead)));
        leaving.on_close(crate::stream::Side::Downstream, None, due);
        assert!(
            leaving.take_notice(due).is_none() && leaving.next_deadline(due) > Some(due.mono),
            "not while it closes"
        );
        assert!(stream.take_notice(due).is_some());
    }
}
