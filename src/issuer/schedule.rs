//! When to renew on a live stream, when to come back, and whether with a new token. Pure: times, codes and random
//! numbers come in as arguments.
//!
//! Owns the back-off and the reading of what a refusal or a Close means for a client. It opens nothing and waits for
//! nothing; `client` does.

use std::time::Duration;

use crate::clock::Wall;

/// What the end of an attempt means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Come back with a new token.
    NewToken,
    /// Come back after a while; the token, if it is still good, was not the cause.
    Later,
    /// Do not come back: nothing that a client can do by itself would change the answer.
    Stop,
}

/// What a client knows of its token when a stream or an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenState {
    /// By the client's own clock it has expired.
    pub expired: bool,
    /// It was made for this attempt, and no stream has been opened with it before. A refusal of such a token would
    /// meet the next one too.
    pub fresh: bool,
}

/// What the end of a stream means: `code` is that of the peer's Close, `None` if there was none (1005, 1006).
///
/// The gateway says "with a new token" with 3000 (IANA: Unauthorized) and "no" with 3003 (Forbidden).
pub fn after_close(code: Option<u16>, reason: &str, token: TokenState) -> Advice {
    match code {
        // Gone without a word, going away, internal error, restart, try again later, bad gateway, timeout.
        None | Some(1001 | 1005 | 1006 | 1011..=1014 | 3008) => Advice::Later,
        // A closed handshake that was refused with a Close (`reject = "close"`) has the same code, but other words.
        Some(3000) if token.fresh && !token.expired && REFUSED_FOR_GOOD.contains(&reason) => Advice::Stop,
        Some(3000) => Advice::NewToken,
        Some(1008) if reason == "rate limited" => Advice::Later,
        // Private codes mean what their service says; if the token has just run out, that is the likely meaning.
        Some(3001.. | 1008) if token.expired && code != Some(3003) => Advice::NewToken,
        Some(_) => Advice::Stop,
    }
}

/// What a refusal over HTTP means: `reason` is the public reason of its problem document, if it had one.
pub fn after_refusal(status: u16, reason: Option<&str>, token: TokenState) -> Advice {
    match (status, reason) {
        (401, Some("token_revoked" | "token_missing")) => Advice::Stop,
        (401, Some("token_not_yet_valid")) => Advice::Later,
        // A fresh token that has expired on arrival: the clocks disagree, or the way was slow. That may pass.
        (401, Some("token_expired")) if token.fresh => Advice::Later,
        (401, Some("token_expired")) => Advice::NewToken,
        (401, _) if token.fresh => Advice::Stop,
        (401, _) => Advice::NewToken,
        (408 | 425 | 429 | 500 | 502..=504, _) => Advice::Later,
        _ => Advice::Stop,
    }
}

/// What a refused renewal means for the stream, which goes on with its old token until that expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalAdvice {
    /// Once more with another token: this one would not have lengthened the stream.
    Another,
    /// This stream has ended, or its end is on its way.
    Gone,
    /// Once more with the same token: it was not the cause.
    Retry,
    /// No more renewals on this stream.
    Stop,
    /// Nobody renews there: no more renewals on any stream.
    Unserved,
}

/// What the refusal of a renewal out of band means.
pub fn after_renewal(status: u16) -> RenewalAdvice {
    match status {
        404 | 405 | 501 => RenewalAdvice::Unserved,
        408 | 425 | 429 | 500 | 502..=504 => RenewalAdvice::Retry,
        409 => RenewalAdvice::Another,
        410 => RenewalAdvice::Gone,
        _ => RenewalAdvice::Stop,
    }
}

/// Likewise for a renewal in band, where the public reason is all there is.
pub fn after_renewal_in_band(reason: &str) -> RenewalAdvice {
    match reason {
        "expiry_shorter" => RenewalAdvice::Another,
        "rate_limited" | "draining" | "issuer_unavailable" => RenewalAdvice::Retry,
        _ => RenewalAdvice::Stop,
    }
}

/// How long a token still has: by its holder's clock, and by what the gateway said, which counts whole seconds, rounded
/// down. A holder's clock that is off by more than that is not believed. `None` = no end.
pub fn time_left(own: Option<Duration>, told: Option<Duration>) -> Option<Duration> {
    match (own, told) {
        (Some(own), Some(told)) => Some(own.clamp(told, told.saturating_add(Duration::from_secs(1)))),
        (own, told) => told.or(own),
    }
}

/// When a live stream's token is renewed: well before its end, and not by all clients at once; and when a renewal that
/// came to nothing is tried again, so that several attempts fit before the end.
#[derive(Clone, Debug)]
pub struct Renewals {
    backoff: Backoff,
}

impl Renewals {
    /// Retries after at most `base`, then twice that, up to `cap`; sooner when little is left.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { backoff: Backoff::new(base, cap) }
    }

    /// How long to wait before a token that was just taken, with `left` to live, is renewed: 60 to 80 per cent of
    /// that. `random` is a fresh random number in 0..1.
    pub fn first(&mut self, left: Duration, random: f64) -> Duration {
        self.backoff.failures = 0;
        left.mul_f64(0.6 + 0.2 * random.clamp(0.0, 1.0)).max(SHORTEST_RETRY)
    }

    /// How long to wait before the next attempt, with `left` to live; `None` if that would come too late. A wait that
    /// the other side asked for is kept in full, with the jitter on top.
    pub fn again(&mut self, left: Duration, asked: Option<Duration>, random: f64) -> Option<Duration> {
        let part = Duration::max(left / 3, SHORTEST_RETRY);
        // Between a half and the whole: an attempt that failed is not repeated at once.
        let wait = self.backoff.next(Advice::Later, None, 0.5 + 0.5 * random.clamp(0.0, 1.0)).min(part);
        let wait = asked.unwrap_or_default().saturating_add(wait);
        (wait < left).then_some(wait)
    }
}

/// The value of `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date that is compared with `now`. `None` if it
/// is neither. At most a day: whoever asks for more is not worth waiting for, but worth asking again.
pub fn retry_after(value: &str, now: Wall) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        let since = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Wall::from_epoch(since).saturating_since(now)
    };
    Some(wait.min(DAY))
}

/// Exponential back-off with full jitter: the n-th wait is a random part of `base * 2^n`, at most `cap`.
///
/// It is reset by a stream that [`Backoff::worked`], not by an open one: a gateway that closes right after the `101`
/// would otherwise be asked in a tight loop.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of up to `base`, then twice that, up to `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// How long to wait before the next attempt. `random` is a fresh random number in 0..1. A wait that the other side
    /// asked for is kept in full, with the jitter on top, so that many clients do not come back at once.
    ///
    /// A first return with a new token is at once: until then all was well.
    pub fn next(&mut self, advice: Advice, asked: Option<Duration>, random: f64) -> Duration {
        let at_once = advice == Advice::NewToken && self.failures == 0 && asked.is_none();
        let ceiling =
            self.base.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.cap).min(DAY);
        self.failures = self.failures.saturating_add(1);
        if at_once {
            return Duration::ZERO;
        }
        asked.unwrap_or_default().saturating_add(ceiling.mul_f64(random.clamp(0.0, 1.0)))
    }

    /// The same waits, for asking a source that will have a new token sooner or later: at most 5 s.
    #[must_use]
    pub fn polling(&self) -> Self {
        Self { base: self.base, cap: self.cap.min(LONGEST_POLL), failures: 0 }
    }

    /// How long to wait before the source is asked again: at least the base, so that a program which is run for each
    /// token is never run in a tight loop.
    pub fn poll(&mut self, random: f64) -> Duration {
        self.next(Advice::Later, Some(self.base), random)
    }

    /// A stream has ended that brought data: the next failure is a first one again if the stream `lived` for at least
    /// the base, or its token has expired by the client's own clock. Otherwise the other side could, with one message
    /// before each Close, have the client come back in a tight loop.
    pub fn worked(&mut self, lived: Duration, expired: bool) {
        if expired || lived >= self.base {
            self.failures = 0;
        }
    }

    /// Failures since a stream worked last.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

/// Public reasons that a new token of the same making would meet again.
const REFUSED_FOR_GOOD: [&str; 2] = ["token_invalid", "token_missing"];
/// Between two attempts to renew, when next to nothing is left.
const SHORTEST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_POLL: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: TokenState = TokenState { expired: false, fresh: true };
    const USED: TokenState = TokenState { expired: false, fresh: false };
    const EXPIRED: TokenState = TokenState { expired: true, fresh: false };

    #[test]
    fn the_close_code_says_whether_to_come_back() {
        use Advice::{Later, NewToken, Stop};
        let table: &[(Option<u16>, &str, TokenState, Advice)] = &[
            (Some(3000), "token expired", EXPIRED, NewToken),
            (Some(3000), "token expired", USED, NewToken),
            (Some(3000), "stream limit", USED, NewToken),
            (Some(3000), "token_expired", FRESH, NewToken),
            (Some(3000), "token_invalid", FRESH, Stop),
            (Some(3000), "token_invalid", USED, NewToken),
            (Some(3003), "token revoked", USED, Stop),
            (Some(3003), "token revoked", EXPIRED, Stop),
            (Some(3008), "idle", USED, Later),
            (Some(1012), "service restart", USED, Later),
            (Some(1013), "upstream lost", USED, Later),
            (Some(1014), "", USED, Later),
            (Some(1011), "", USED, Later),
            (Some(1001), "", USED, Later),
            (Some(1006), "", USED, Later),
            (None, "", USED, Later),
            (None, "", EXPIRED, Later),
            (Some(1000), "", USED, Stop),
            (Some(1002), "protocol error", USED, Stop),
            (Some(1003), "", USED, Stop),
            (Some(1007), "", USED, Stop),
            (Some(1008), "rate limited", USED, Later),
            (Some(1008), "first_message", USED, Stop),
            (Some(1009), "too big", USED, Stop),
            (Some(4403), "token expired", EXPIRED, NewToken),
            (Some(4403), "not for you", USED, Stop),
            (Some(4999), "", USED, Stop),
        ];
        for (code, reason, token, advice) in table {
            assert_eq!(after_close(*code, reason, *token), *advice, "{code:?} {reason:?} {token:?}");
        }
    }

    #[test]
    fn the_refusal_says_whether_to_come_back() {
        use Advice::{Later, NewToken, Stop};
        let table: &[(u16, Option<&str>, TokenState, Advice)] = &[
            (401, Some("token_expired"), USED, NewToken),
            (401, Some("token_expired"), EXPIRED, NewToken),
            (401, Some("token_expired"), FRESH, Later),
            (401, Some("token_not_yet_valid"), FRESH, Later),
            (401, Some("token_invalid"), FRESH, Stop),
            (401, Some("token_invalid"), USED, NewToken),
            (401, Some("token_revoked"), USED, Stop),
            (401, Some("token_missing"), FRESH, Stop),
            (401, None, FRESH, Stop),
            (401, None, USED, NewToken),
            (400, Some("bad_request"), FRESH, Stop),
            (403, Some("forbidden"), USED, Stop),
            (404, Some("no_route"), USED, Stop),
            (426, Some("version"), USED, Stop),
            (429, Some("rate_limited"), USED, Later),
            (502, Some("upstream_refused"), USED, Later),
            (503, Some("draining"), USED, Later),
            (504, Some("upstream_timeout"), USED, Later),
            (501, None, USED, Stop),
            (200, None, USED, Stop),
            (302, None, USED, Stop),
        ];
        for (status, reason, token, advice) in table {
            assert_eq!(after_refusal(*status, *reason, *token), *advice, "{status} {reason:?} {token:?}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_its_forms() {
        // 1994-11-06T08:49:37Z, the example date of RFC 9110, less 30 seconds.
        let now = Wall::from_epoch(Duration::from_secs(784_111_777 - 30));
        let table = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(24 * 3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ];
        for (value, seconds) in table {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn waits_grow_to_the_cap_and_a_stream_that_worked_resets_them() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        let full: Vec<Duration> = (0..6).map(|_| backoff.next(Advice::Later, None, 1.0)).collect();
        assert_eq!(full, [ms(100), ms(200), ms(400), ms(800), ms(1000), ms(1000)]);
        for _ in 0..100 {
            assert!(backoff.next(Advice::Later, None, 0.999) <= ms(1000), "no wait wraps");
        }
        assert_eq!(backoff.next(Advice::Later, None, 0.0), Duration::ZERO, "full jitter starts at nothing");
        backoff.worked(ms(99), false);
        assert_eq!(backoff.next(Advice::Later, None, 0.5), ms(500), "a stream that ends at once has not worked");
        backoff.worked(ms(100), false);
        assert_eq!(backoff.next(Advice::Later, None, 0.5), ms(50));
        backoff.worked(ms(1), true);
        assert_eq!(backoff.next(Advice::Later, None, 0.5), ms(50), "a token may be short-lived");
    }

    #[test]
    fn a_first_return_with_a_new_token_is_at_once_and_a_second_is_not() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(backoff.next(Advice::NewToken, None, 1.0), Duration::ZERO);
        assert_eq!(backoff.next(Advice::NewToken, None, 1.0), Duration::from_millis(200));
        backoff.worked(Duration::from_secs(1), false);
        assert_eq!(backoff.next(Advice::NewToken, None, 1.0), Duration::ZERO);
    }

    #[test]
    fn a_source_is_asked_neither_in_a_tight_loop_nor_too_seldom() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        backoff.next(Advice::Later, None, 1.0);
        let mut polling = backoff.polling();
        assert_eq!(polling.poll(0.0), Duration::from_millis(500));
        for _ in 0..100 {
            assert!(polling.poll(0.0) >= Duration::from_millis(500));
            assert!(polling.poll(1.0) <= Duration::from_millis(5500));
        }
    }

    #[test]
    fn a_wait_that_was_asked_for_is_never_cut_short() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let asked = Duration::from_secs(7);
        for random in [0.0, 0.3, 1.0, 2.0, -1.0] {
            assert!(backoff.next(Advice::NewToken, Some(asked), random) >= asked);
        }
        assert!(backoff.next(Advice::Later, Some(Duration::MAX), 1.0) >= asked);
    }

    #[test]
    fn a_token_is_renewed_well_before_its_end_and_not_by_all_clients_at_once() {
        let mut renewals = Renewals::new(Duration::from_millis(500), Duration::from_secs(30));
        for left in [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(300), Duration::MAX] {
            let [early, middle, late] = [0.0, 0.5, 1.0].map(|random| renewals.first(left, random));
            assert!(early < middle && middle < late, "{left:?}");
            assert!(early >= left.mul_f64(0.59) && late <= left.mul_f64(0.81), "{left:?}");
        }
        let ten = Duration::from_secs(10);
        assert_eq!(renewals.first(ten, 7.0), renewals.first(ten, 1.0), "a random number out of range");
        assert_eq!(renewals.first(Duration::ZERO, 0.5), SHORTEST_RETRY, "never in a tight loop");
    }

    #[test]
    fn a_renewal_that_failed_is_tried_several_times_before_the_end_and_never_after() {
        for (left, random) in [(3, 0.0), (3, 1.0), (60, 0.5), (3600, 1.0)] {
            let mut renewals = Renewals::new(Duration::from_millis(500), Duration::from_secs(30));
            let (mut left, mut tries) = (Duration::from_secs(left), 0);
            while let Some(wait) = renewals.again(left, None, random) {
                assert!(wait < left, "after the end");
                assert!(wait >= SHORTEST_RETRY / 2, "in a tight loop: {wait:?}");
                left -= wait;
                tries += 1;
            }
            assert!((3..=300).contains(&tries), "{tries}");
            assert!(left < Duration::from_millis(500), "{left:?} was left unused");
        }
    }

    #[test]
    fn a_renewal_waits_as_long_as_it_was_asked_to_or_not_at_all() {
        let mut renewals = Renewals::new(Duration::from_millis(500), Duration::from_secs(30));
        let second = Duration::from_secs(1);
        for random in [0.0, 0.5, 1.0] {
            assert!(renewals.again(10 * second, Some(2 * second), random).unwrap() >= 2 * second);
        }
        assert_eq!(renewals.again(2 * second, Some(2 * second), 0.0), None);
        assert_eq!(renewals.again(2 * second, Some(Duration::MAX), 0.0), None);
        assert_eq!(renewals.again(Duration::ZERO, None, 0.0), None);
    }

    #[test]
    fn retries_of_a_renewal_begin_anew_once_one_was_taken() {
        let mut renewals = Renewals::new(Duration::from_millis(500), Duration::from_secs(30));
        let hour = Duration::from_secs(3600);
        let waits: Vec<_> = (0..4).map(|_| renewals.again(hour, None, 1.0).unwrap().as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
        renewals.first(hour, 0.5);
        assert_eq!(renewals.again(hour, None, 1.0), Some(Duration::from_millis(500)));
    }

    #[test]
    fn the_gateways_word_on_the_time_left_counts_to_the_second() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let table = [
            (ms(9_400), ms(9_000), ms(9_400)),
            (ms(8_900), ms(9_000), ms(9_000)),
            (ms(3_600_000), ms(9_000), ms(10_000)),
            (ms(0), ms(9_000), ms(9_000)),
            (None, ms(9_000), ms(9_000)),
            (ms(9_400), None, ms(9_400)),
            (None, None, None),
        ];
        for (own, told, left) in table {
            assert_eq!(time_left(own, told), left, "{own:?} {told:?}");
        }
        assert_eq!(time_left(Some(Duration::MAX), Some(Duration::MAX)), Some(Duration::MAX));
    }

    #[test]
    fn the_refusal_of_a_renewal_says_whether_to_try_again() {
        use RenewalAdvice::{Another, Gone, Retry, Stop, Unserved};
        let table = [
            (400, Stop),
            (401, Stop),
            (403, Stop),
            (404, Unserved),
            (405, Unserved),
            (409, Another),
            (410, Gone),
            (429, Retry),
            (500, Retry),
            (502, Retry),
            (503, Retry),
            (504, Retry),
            (302, Stop),
        ];
        for (status, advice) in table {
            assert_eq!(after_renewal(status), advice, "{status}");
        }
        for (reason, advice) in [
            ("token_expired", Stop),
            ("forbidden", Stop),
            ("renewals_used_up", Stop),
            ("expiry_shorter", Another),
            ("rate_limited", Retry),
            ("draining", Retry),
            ("issuer_unavailable", Retry),
            ("", Stop),
        ] {
            assert_eq!(after_renewal_in_band(reason), advice, "{reason}");
        }
    }
}
