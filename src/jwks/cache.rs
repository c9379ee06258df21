//! For how long an answer may be kept, and when to try again after a failure. Pure.

use std::time::Duration;

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL, DATE, EXPIRES};

use crate::clock::Wall;

/// For how long the issuer says that its answer stays fresh (RFC 9111, section 4.2), less what it has aged on its way;
/// `None` if it does not say.
pub(super) fn freshness(headers: &HeaderMap, now: Wall) -> Option<Duration> {
    let mut life = None;
    let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    for directive in lines.flat_map(|line| line.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            // Of two that differ, the shorter one.
            "max-age" => {
                let said = seconds(value.trim().trim_matches('"'));
                life = Some(life.map_or(said, |life: Duration| life.min(said)));
            }
            _ => {}
        }
    }
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()).map_or(Duration::ZERO, |age| seconds(age.trim()));
    if let Some(life) = life {
        return Some(life.saturating_sub(age));
    }
    let date = |name| {
        let text = headers.get(name)?.to_str().ok()?;
        let since = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok();
        Some(Wall::from_epoch(since.unwrap_or_default()))
    };
    // An Expires that is no date means that it has expired (RFC 9111, section 5.3).
    headers.get(EXPIRES)?;
    let Some(expires) = date(EXPIRES) else { return Some(Duration::ZERO) };
    Some(expires.saturating_since(date(DATE).unwrap_or(now)).saturating_sub(age))
}

/// Delta-seconds (RFC 9111, section 1.2.2); what is none counts as none left.
fn seconds(text: &str) -> Duration {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Digits that no number holds are a very long time.
    if digits { Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))) } else { Duration::ZERO }
}

/// When to fetch again: as long as the answer stays fresh, between the floor and the ceiling, and up to a tenth earlier, so
/// that a fleet does not come at once. `random` is from 0 to 1.
pub(super) fn next(fresh: Option<Duration>, least: Duration, most: Duration, random: f64) -> Duration {
    let life = fresh.unwrap_or(UNSAID).min(most).max(least);
    life.mul_f64(1.0 - random.clamp(0.0, 1.0) / 10.0)
}

/// When to try again after so many failures in a row: a second, twice as long each time, at most a minute or the ceiling.
pub(super) fn again(failures: u32, most: Duration, random: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LAST).min(most).mul_f64(1.0 - random.clamp(0.0, 1.0) / 4.0)
}

/// How long an answer without a word on it is kept.
const UNSAID: Duration = Duration::from_secs(300);
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn fresh(lines: &[(&'static str, &'static str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let now = Wall::from_epoch(Duration::from_secs(784_111_777));
        freshness(&headers, now).map(|life| life.as_secs())
    }

    #[test]
    fn the_issuers_word_on_freshness_is_read_as_caches_read_it() {
        for (lines, expected) in [
            (&[][..], None),
            (&[("cache-control", "public, max-age=600, must-revalidate")], Some(600)),
            (&[("cache-control", "MAX-AGE=600")], Some(600)),
            (&[("cache-control", "max-age=\"600\"")], Some(600)),
            (&[("cache-control", "max-age=600"), ("cache-control", "max-age=60")], Some(60)),
            (&[("cache-control", "max-age=600"), ("age", "100")], Some(500)),
            (&[("cache-control", "max-age=600"), ("age", "700")], Some(0)),
            (&[("cache-control", "max-age=600, no-store")], Some(0)),
            (&[("cache-control", "no-cache")], Some(0)),
            (&[("cache-control", "max-age=-1")], Some(0)),
            (&[("cache-control", "max-age=soon")], Some(0)),
            (&[("cache-control", "max-age=")], Some(0)),
            (&[("cache-control", "max-age=99999999999999999999999")], Some(u64::from(u32::MAX))),
            (&[("cache-control", "public")], None),
            (&[("expires", "Sun, 06 Nov 1994 08:59:37 GMT")], Some(600)),
            (&[("expires", "Sun, 06 Nov 1994 08:59:37 GMT"), ("date", "Sun, 06 Nov 1994 08:58:37 GMT")], Some(60)),
            (&[("expires", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(0)),
            (&[("expires", "0")], Some(0)),
            (&[("expires", "Sun, 06 Nov 1994 08:59:37 GMT"), ("cache-control", "max-age=5")], Some(5)),
        ] {
            assert_eq!(fresh(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_set_is_fetched_again_between_the_floor_and_the_ceiling_and_not_by_a_whole_fleet_at_once() {
        let (least, most) = (Duration::from_secs(60), Duration::from_secs(3600));
        for (said, expected) in [(None, 300), (Some(0), 60), (Some(600), 600), (Some(1_000_000), 3600)] {
            let said = said.map(Duration::from_secs);
            assert_eq!(next(said, least, most, 0.0), Duration::from_secs(expected));
            assert_eq!(next(said, least, most, 1.0), Duration::from_secs(expected).mul_f64(0.9));
        }
    }

    #[test]
    fn failures_are_tried_again_soon_and_then_less_and_less_often() {
        let most = Duration::from_secs(3600);
        let waits: Vec<u64> = (1..9).map(|failures| again(failures, most, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(again(u32::MAX, most, 0.0), LAST);
        assert_eq!(again(9, Duration::from_secs(5), 0.0), Duration::from_secs(5), "the ceiling counts here too");
        assert_eq!(again(1, most, 1.0), Duration::from_millis(750));
    }
}
