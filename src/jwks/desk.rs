//! Whether a key that is asked for is worth a fetch. Pure.
//!
//! Anybody can send tokens that name keys which do not exist. So a fetch on demand comes at most once in the cool-down,
//! whoever asks; a name that was looked for in vain is remembered for a while and causes none; and while one is under way
//! all wait for the same.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Mono;
use crate::secret;

/// A `kid`, hashed: a client may send kilobytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name([u8; 16]);

impl Name {
    pub(super) fn new(kid: &str) -> Self {
        Self(secret::sha256(kid.as_bytes()).first_chunk().copied().unwrap_or_default())
    }
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A fetch begins for it.
    Fetch,
    /// One is about to begin, for somebody else.
    Join,
    /// One has begun before the question: what it brings may be older.
    JoinLate,
    /// Nothing is fetched now: it was looked for in vain a moment ago.
    Unknown,
    /// Nothing is fetched now: the last one on demand was a moment ago.
    NotNow,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    cooldown: Duration,
    /// When the last fetch on demand was granted.
    granted: Option<Mono>,
    /// One was granted and has not begun.
    waiting: bool,
    /// One is under way.
    fetching: bool,
    /// What the fetch was granted for, and what came before it began.
    wanted: Vec<Name>,
    /// Looked for in vain, until then; the oldest first.
    unknown: VecDeque<(Name, Mono)>,
}

impl Desk {
    pub(super) fn new(cooldown: Duration) -> Self {
        let (wanted, unknown) = (Vec::new(), VecDeque::new());
        Self { cooldown, granted: None, waiting: false, fetching: false, wanted, unknown }
    }

    /// Somebody needs the key of this name; `None` if any would do.
    pub(super) fn ask(&mut self, kid: Option<Name>, now: Mono) -> Verdict {
        while self.unknown.front().is_some_and(|(_, until)| *until <= now) {
            self.unknown.pop_front();
        }
        if kid.is_some_and(|kid| self.unknown.iter().any(|(unknown, _)| *unknown == kid)) {
            return Verdict::Unknown;
        }
        if self.fetching {
            return Verdict::JoinLate;
        }
        if !self.waiting {
            if self.granted.is_some_and(|granted| now < granted.saturating_add(self.cooldown)) {
                return Verdict::NotNow;
            }
            self.granted = Some(now);
        }
        // What finds no room here is looked for all the same, and may be asked for again.
        if let Some(kid) = kid.filter(|kid| self.wanted.len() < MOST_WANTED && !self.wanted.contains(kid)) {
            self.wanted.push(kid);
        }
        if std::mem::replace(&mut self.waiting, true) { Verdict::Join } else { Verdict::Fetch }
    }

    /// A fetch begins, granted or by the clock: it serves all who have asked.
    pub(super) fn begin(&mut self) {
        self.waiting = false;
        self.fetching = true;
    }

    /// Whether one was granted and has not begun.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// It has failed.
    pub(super) fn failed(&mut self) {
        self.fetching = false;
        self.wanted.clear();
    }

    /// It was good, and `found` says which names are known now; `news`: the set is another one than before. Whether
    /// something was looked for in vain.
    pub(super) fn done(&mut self, found: impl Fn(Name) -> bool, news: bool, now: Mono) -> bool {
        self.fetching = false;
        if news {
            // Its issuer is at work on it.
            self.unknown.clear();
        }
        let until = now.saturating_add(self.cooldown.saturating_mul(3).min(REMEMBERED));
        let wanted = std::mem::take(&mut self.wanted);
        let vain: Vec<Name> = wanted.into_iter().filter(|kid| !found(*kid)).collect();
        self.unknown.extend(vain.iter().map(|kid| (*kid, until)));
        let excess = self.unknown.len().saturating_sub(MOST_UNKNOWN);
        self.unknown.drain(..excess);
        !vain.is_empty()
    }
}

/// Names that one fetch may find to be unknown.
const MOST_WANTED: usize = 64;
/// Names that are remembered to be unknown.
const MOST_UNKNOWN: usize = 1_024;
/// For how long, at most: an issuer may show a key here a moment later than there.
const REMEMBERED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_origin(Duration::from_secs(seconds))
    }

    fn desk() -> Desk {
        Desk::new(Duration::from_secs(10))
    }

    #[allow(clippy::unnecessary_wraps)] // what is asked for may have no name
    fn name(kid: impl AsRef<str>) -> Option<Name> {
        Some(Name::new(kid.as_ref()))
    }

    #[test]
    fn all_who_ask_while_a_fetch_is_under_way_wait_for_the_same() {
        let mut desk = desk();
        assert_eq!(desk.ask(name("a"), at(0)), Verdict::Fetch);
        assert_eq!(desk.ask(name("a"), at(0)), Verdict::Join);
        desk.begin();
        assert_eq!(desk.ask(name("b"), at(1)), Verdict::JoinLate);
        assert_eq!(desk.ask(None, at(1)), Verdict::JoinLate);
    }

    #[test]
    fn names_without_end_cause_one_fetch_in_the_cool_down() {
        let mut desk = desk();
        let mut fetches = 0;
        for tenth in 0..1_000_u64 {
            let now = Mono::from_origin(Duration::from_millis(tenth * 100));
            if desk.ask(name(tenth.to_string()), now) == Verdict::Fetch {
                fetches += 1;
                desk.begin();
                desk.done(|_| false, false, now);
            }
        }
        assert_eq!(fetches, 10, "in a hundred seconds");
        assert!(desk.unknown.len() <= MOST_UNKNOWN && desk.wanted.is_empty());
    }

    #[test]
    fn a_name_that_was_looked_for_in_vain_is_not_looked_for_again_for_a_while() {
        let mut desk = desk();
        for kid in ["a", "b", "good"] {
            desk.ask(name(kid), at(0));
        }
        desk.begin();
        desk.ask(name("late"), at(0));
        assert!(desk.done(|kid| Some(kid) == name("good"), false, at(1)));
        assert_eq!(desk.ask(name("a"), at(30)), Verdict::Unknown);
        assert_eq!(desk.ask(name("b"), at(30)), Verdict::Unknown);
        assert_eq!(desk.ask(name("late"), at(30)), Verdict::Fetch, "its key may have come after the fetch began");
        assert_eq!(desk.ask(name("a"), at(31)), Verdict::Join, "half a minute later");
    }

    #[test]
    fn a_set_that_has_changed_is_a_reason_to_look_again() {
        let mut desk = desk();
        desk.ask(name("a"), at(0));
        desk.begin();
        desk.done(|_| false, false, at(1));
        desk.begin();
        assert!(!desk.done(|_| false, true, at(2)), "nothing was asked for");
        assert_eq!(desk.ask(name("a"), at(10)), Verdict::Fetch);
    }

    #[test]
    fn a_fetch_that_failed_makes_nothing_unknown_and_the_cool_down_counts_all_the_same() {
        let mut desk = desk();
        assert_eq!(desk.ask(name("a"), at(0)), Verdict::Fetch);
        desk.begin();
        desk.failed();
        assert_eq!(desk.ask(name("a"), at(9)), Verdict::NotNow);
        assert_eq!(desk.ask(name("a"), at(10)), Verdict::Fetch);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut desk = Desk::new(Duration::from_millis(1_500));
        let mut asked = 0;
        for round in 0..100 {
            for _ in 0..100 {
                asked += 1;
                desk.ask(name(asked.to_string()), at(round * 2));
            }
            assert!(desk.wanted.len() <= MOST_WANTED);
            desk.begin();
            desk.done(|_| false, false, at(round * 2));
        }
        assert!(desk.unknown.len() <= MOST_UNKNOWN);
        assert_eq!(desk.ask(name("9901"), at(199)), Verdict::Unknown, "the latest is remembered");
        assert_eq!(desk.ask(name("1"), at(200)), Verdict::Fetch, "the oldest is not");
    }
}
