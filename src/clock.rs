//! Wall and monotonic time as one value, and the only reader of the system clock.
//!
//! A token's `exp` is wall time (RFC 7519, section 2, NumericDate); timers are monotonic. A stream is judged by both
//! and the earlier one ends it, so a step of the wall clock or a suspend never lengthens a stream. Everything below the
//! runtime takes a [`Now`] as an argument; nothing else may call `Instant::now` or `SystemTime::now`.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A span of time for people, such as `24h`, `1h 30m` or `9.5s`: to the millisecond, rounded down; long ones to the year.
pub fn humane(span: Duration) -> String {
    const DAY: u64 = 86_400;
    let (seconds, millis) = (span.as_secs(), span.subsec_millis());
    let (days, years) = (seconds / DAY, seconds / (DAY * 1461 / 4));
    if years >= 2 {
        return format!("{years} years");
    }
    let mut parts = Vec::new();
    let mut rest = seconds;
    // Many say 24 hours for a day.
    if days >= 2 {
        parts.push(format!("{days}d"));
        rest %= DAY;
    }
    for (unit, length) in [("h", 3600), ("m", 60)] {
        if rest >= length {
            parts.push(format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    match (rest, millis) {
        (0, 0) if !parts.is_empty() => {}
        (0, millis @ 1..) if parts.is_empty() => parts.push(format!("{millis}ms")),
        (rest, 0) => parts.push(format!("{rest}s")),
        (rest, millis) => parts.push(format!("{rest}.{}s", format!("{millis:03}").trim_end_matches('0'))),
    }
    parts.join(" ")
}

/// A point of wall time: the time since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(Duration);

impl Wall {
    /// The point `since_epoch` after 1970-01-01T00:00:00Z.
    pub const fn from_epoch(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// Time since 1970-01-01T00:00:00Z.
    pub const fn since_epoch(self) -> Duration {
        self.0
    }

    /// Whole seconds since the epoch, as JWT claims count them.
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// `self + by`, at most the largest value: never wraps, never panics.
    #[must_use]
    pub const fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// How long from `earlier` to `self`; zero if `earlier` is the later one.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A point of monotonic time: the time since the clock was made, to the nanosecond, up to 584 years. It stands still
/// while the machine is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(
    /// One more than the nanoseconds since the origin, so that an `Option<Mono>`, of which a stream has many, is no larger.
    NonZeroU64,
);

impl Mono {
    /// The point `since_origin` after the clock was made.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos(since_origin)))
    }

    /// Time since the clock was made.
    pub const fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0.get() - 1)
    }

    /// `self + by`, at most the largest value: never wraps, never panics.
    #[must_use]
    pub const fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }

    /// The point `by` before; the clock's own beginning if that is later.
    #[must_use]
    pub const fn saturating_sub(self, by: Duration) -> Self {
        match NonZeroU64::new(self.0.get().saturating_sub(nanos(by))) {
            Some(at) => Self(at),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// How long from `earlier` to `self`; zero if `earlier` is the later one.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Mono {
    fn default() -> Self {
        Self(NonZeroU64::MIN)
    }
}

/// The whole of `span` in nanoseconds, at most the largest number.
const fn nanos(span: Duration) -> u64 {
    span.as_secs().saturating_mul(NANOS).saturating_add(span.subsec_nanos() as u64)
}

/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Wall time: what `exp`, `nbf` and `iat` are compared with.
    pub wall: Wall,
    /// Monotonic time: what timers run on.
    pub mono: Mono,
}

impl Now {
    /// Both clocks moved on by `by`; for tests and for planning ahead.
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        Self { wall: self.wall.saturating_add(by), mono: self.mono.saturating_add(by) }
    }
}

/// The reader of the system clock. Clones read the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
struct Source {
    origin: Instant,
    /// Nanoseconds added to the wall clock; only a [`ManualClock`] moves it.
    wall_shift: AtomicI64,
}

impl Clock {
    /// The system's clocks.
    #[allow(clippy::disallowed_methods)] // the one place that reads the monotonic clock's origin
    pub fn system() -> Self {
        Self(Arc::new(Source { origin: Instant::now(), wall_shift: AtomicI64::new(0) }))
    }

    /// Reads both clocks.
    #[allow(clippy::disallowed_methods)] // the one place that reads the clocks
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shift = self.0.wall_shift.load(Ordering::Relaxed);
        let by = Duration::from_nanos(shift.unsigned_abs());
        let wall = if shift < 0 { wall.saturating_sub(by) } else { wall.saturating_add(by) };
        Now { wall: Wall(wall), mono: Mono::from_origin(self.0.origin.elapsed()) }
    }

    /// The runtime's instant for a monotonic point, for arming timers. Points further than ten years away are moved
    /// there: `Instant + Duration` panics on overflow.
    pub fn instant(&self, at: Mono) -> Instant {
        self.0.origin + at.since_origin().min(FAR)
    }
}

/// A clock whose wall time can be stepped, for tests; its monotonic time is the real one.
#[derive(Clone, Debug)]
pub struct ManualClock(Clock);

impl ManualClock {
    /// A clock that shows the system's time until it is stepped.
    pub fn new() -> Self {
        Self(Clock::system())
    }

    /// The clock to hand to the code under test.
    pub fn clock(&self) -> Clock {
        self.0.clone()
    }

    /// Steps the wall clock by `seconds`, either way.
    pub fn step_wall(&self, seconds: i64) {
        self.0.0.wall_shift.fetch_add(seconds.saturating_mul(1_000_000_000), Ordering::Relaxed);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Sees when wall and monotonic time part: a step by NTP or by hand, or a suspend.
///
/// Fed once a second by one ticker of the process. Slewing moves both clocks alike and is no step.
#[derive(Debug)]
pub struct StepDetector {
    /// When the clocks were last seen to agree with each other.
    anchor: Now,
}

impl StepDetector {
    /// Starts from `now`.
    pub const fn new(now: Now) -> Self {
        Self { anchor: now }
    }

    /// True if the clocks have parted by more than 20 ms since the beginning, or since this was last true: many small
    /// steps are one large one.
    pub fn stepped(&mut self, now: Now) -> bool {
        let mono = now.mono.saturating_since(self.anchor.mono);
        let expected = self.anchor.wall.saturating_add(mono);
        let apart = now.wall.saturating_since(expected).max(expected.saturating_since(now.wall));
        let stepped = apart > STEP;
        if stepped {
            self.anchor = now;
        }
        stepped
    }
}

/// Two clocks that are read one after the other differ by the time between the reads; a step is more than this.
const STEP: Duration = Duration::from_millis(20);
/// Ten years: further than any stream lives, near enough that no runtime overflows.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_the_units_that_people_use() {
        for (millis, text) in [
            (0, "0s"),
            (7, "7ms"),
            (1_000, "1s"),
            (9_500, "9.5s"),
            (59_999, "59.999s"),
            (60_500, "1m 0.5s"),
            (3_600_000, "1h"),
            (5_400_000, "1h 30m"),
            (3_661_000, "1h 1m 1s"),
            (3_605_000, "1h 5s"),
            (86_401_000, "24h 1s"),
            (86_400_000, "24h"),
            (172_800_000, "2d"),
            (277_200_000, "3d 5h"),
            (8_199_000_000_000, "259 years"),
        ] {
            assert_eq!(humane(Duration::from_millis(millis)), text, "{millis}");
        }
        assert!(humane(Duration::MAX).ends_with(" years"));
    }

    #[test]
    fn a_step_either_way_is_seen_and_slewing_is_not() {
        let start = Now {
            wall: Wall::from_epoch(Duration::from_secs(1_000_000)),
            mono: Mono::from_origin(Duration::from_secs(5)),
        };
        let mut steps = StepDetector::new(start);
        let second = start.after(Duration::from_secs(1));
        assert!(!steps.stepped(second));
        let mut slewed = second.after(Duration::from_secs(1));
        slewed.wall = slewed.wall.saturating_add(Duration::from_micros(500));
        assert!(!steps.stepped(slewed));
        let mut ahead = slewed.after(Duration::from_secs(1));
        ahead.wall = ahead.wall.saturating_add(Duration::from_secs(3600));
        assert!(steps.stepped(ahead));
        let mut back = ahead.after(Duration::from_secs(1));
        back.wall = Wall::from_epoch(back.wall.since_epoch().saturating_sub(Duration::from_secs(3600)));
        assert!(steps.stepped(back));
        assert!(!steps.stepped(back.after(Duration::from_secs(1))));
    }

    #[test]
    fn many_small_steps_are_seen_as_one() {
        let mut now = Now { wall: Wall::from_epoch(Duration::from_secs(1_000_000)), mono: Mono::default() };
        let mut steps = StepDetector::new(now);
        let seen = (0..10).filter(|_| {
            now = now.after(Duration::from_secs(1));
            now.wall = now.wall.saturating_add(Duration::from_millis(15));
            steps.stepped(now)
        });
        assert_eq!(seen.count(), 5);
    }

    #[test]
    fn no_point_of_monotonic_time_is_too_far_away() {
        let longest = Duration::from_nanos(u64::MAX);
        assert_eq!(Mono::from_origin(Duration::MAX).saturating_add(Duration::MAX), Mono::from_origin(longest));
        assert_eq!(Mono::default().saturating_since(Mono::from_origin(longest)), Duration::ZERO);
        let exact = Duration::new(1_763_799_000, 123_456_789);
        assert_eq!(Mono::from_origin(exact).since_origin(), exact);
        assert_eq!(Mono::default().since_origin(), Duration::ZERO);
        assert_eq!(size_of::<Option<Mono>>(), size_of::<u64>());
    }

    #[test]
    fn far_deadlines_do_not_overflow_the_runtime_clock() {
        let clock = Clock::system();
        let far = clock.instant(Mono::from_origin(Duration::MAX));
        assert!(far > clock.instant(Mono::from_origin(Duration::from_secs(1))));
    }
}
