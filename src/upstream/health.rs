//! What is known of an endpoint's health, from dials and from checks. Pure.
//!
//! Failed dials in a row pause an endpoint for a while. A pause ends by itself, by a dial that stands, or by a good check.
//! When it has run out, the first who comes tries the endpoint, and the others see it paused once more until that is
//! decided. Checks, where a service has them, say up or down: the first one at once, later ones when they agree often
//! enough. Before the first check an endpoint counts as up.

use std::time::Duration;

use crate::clock::Mono;

/// When failed dials pause an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// After so many in a row; `None`: never.
    pub fail_after: Option<u32>,
    /// For how long.
    pub fail_pause: Duration,
}

/// How often checks must agree to turn what is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Good ones in a row, for one that is down.
    pub rise: u32,
    /// Bad ones in a row, for one that is up.
    pub fall: u32,
}

/// What has just become known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is down.
    Down,
    /// It is paused.
    Paused,
    /// It is well again.
    Well,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Failed dials in a row.
    failed: u32,
    paused_until: Option<Mono>,
    /// What the checks say; `None`: there was none.
    up: Option<bool>,
    /// Checks in a row that say otherwise.
    against: u32,
    /// What the last dial or check that failed has said, until one is good.
    error: Option<String>,
}

impl Health {
    /// Whether nothing is known against it.
    pub fn is_well(&self, now: Mono) -> bool {
        !self.is_down() && self.paused_until.is_none_or(|until| until <= now)
    }

    /// Whether its checks say that it is down.
    pub fn is_down(&self) -> bool {
        self.up == Some(false)
    }

    /// What is wrong with it, as far as that is known.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Somebody is about to use it: to try it, if it gives until when others are kept away.
    pub fn enter(&mut self, rules: Passive, now: Mono) -> Option<Mono> {
        self.paused_until.filter(|until| *until <= now)?;
        self.paused_until = Some(now.saturating_add(rules.fail_pause));
        self.paused_until
    }

    /// Who was to try it, with the others kept away until `end`, is gone. If nothing has come of it, the next one tries.
    pub fn untried(&mut self, end: Mono) {
        if self.paused_until == Some(end) {
            self.paused_until = Some(Mono::default());
        }
    }

    /// A dial has come to its end: a connection, or what was wrong.
    pub fn dialled(&mut self, result: Result<(), String>, rules: Passive, now: Mono) -> Option<News> {
        let Err(error) = result else {
            let paused = self.paused_until.is_some();
            self.end_pause();
            return (paused && !self.is_down()).then_some(News::Well);
        };
        self.error = Some(error);
        self.failed = self.failed.saturating_add(1);
        let after = rules.fail_after.filter(|after| self.failed >= *after)?;
        self.paused_until = Some(now.saturating_add(rules.fail_pause));
        (self.failed == after && !self.is_down()).then_some(News::Paused)
    }

    /// A check has come to its end: it is well, or what was wrong.
    pub fn checked(&mut self, result: Result<(), String>, turns: Turns) -> Option<News> {
        let good = result.is_ok();
        let before = self.up;
        self.against = if before == Some(good) { 0 } else { self.against.saturating_add(1) };
        let enough = if good { turns.rise } else { turns.fall };
        if before.is_none() || self.against >= enough {
            self.up = Some(good);
            self.against = 0;
        }
        let paused = self.paused_until.is_some();
        match result {
            // It was reached.
            Ok(()) => self.end_pause(),
            Err(error) => self.error = Some(error),
        }
        match (before.unwrap_or(true), self.up.unwrap_or(true)) {
            (true, false) => Some(News::Down),
            (false, true) => Some(News::Well),
            (true, true) if good && paused => Some(News::Well),
            _ => None,
        }
    }

    /// Checks that are others, or gone, have said nothing yet.
    pub fn forget_checks(&mut self) {
        (self.up, self.against) = (None, 0);
    }

    fn end_pause(&mut self) {
        self.failed = 0;
        self.paused_until = None;
        self.error = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Passive = Passive { fail_after: Some(3), fail_pause: Duration::from_secs(10) };
    const TURNS: Turns = Turns { rise: 2, fall: 3 };

    fn at(seconds: u64) -> Mono {
        Mono::from_origin(Duration::from_secs(seconds))
    }

    fn bad() -> Result<(), String> {
        Err("refused".into())
    }

    #[test]
    fn failed_dials_in_a_row_pause_it_and_one_that_stands_starts_anew() {
        let mut health = Health::default();
        for result in [bad(), bad(), Ok(()), bad(), bad()] {
            assert_eq!(health.dialled(result, RULES, at(0)), None);
            assert!(health.is_well(at(0)));
        }
        assert_eq!(health.dialled(bad(), RULES, at(0)), Some(News::Paused));
        assert!(!health.is_well(at(9)) && health.is_well(at(10)) && !health.is_down());
        assert_eq!(health.error(), Some("refused"));
        assert_eq!(health.dialled(Ok(()), RULES, at(1)), Some(News::Well), "tried as the last resort");
        assert!(health.is_well(at(1)) && health.error().is_none());
        let never = Passive { fail_after: None, ..RULES };
        assert!((0..9).all(|_| health.dialled(bad(), never, at(1)).is_none()) && health.is_well(at(1)));
    }

    #[test]
    fn after_a_pause_one_tries_and_the_others_wait_for_what_becomes_of_it() {
        let mut health = Health::default();
        for _ in 0..3 {
            health.dialled(bad(), RULES, at(0));
        }
        assert!(health.is_well(at(10)));
        assert_eq!(health.enter(RULES, at(10)), Some(at(20)));
        assert_eq!(health.enter(RULES, at(11)), None);
        assert!(!health.is_well(at(11)));
        let mut failed = health.clone();
        assert_eq!(failed.dialled(bad(), RULES, at(12)), None, "it was told before");
        assert!(!failed.is_well(at(21)) && failed.is_well(at(22)));
        assert_eq!(health.dialled(Ok(()), RULES, at(12)), Some(News::Well));
        assert!(health.is_well(at(12)));
    }

    #[test]
    fn the_first_check_counts_at_once_and_later_ones_when_they_agree() {
        let mut health = Health::default();
        assert!(health.is_well(at(0)), "before it was checked");
        assert_eq!(health.checked(bad(), TURNS), Some(News::Down));
        assert!(health.is_down() && !health.is_well(at(0)));
        assert_eq!(health.checked(Ok(()), TURNS), None);
        assert_eq!(health.checked(bad(), TURNS), None);
        assert_eq!(health.checked(Ok(()), TURNS), None);
        assert!(health.is_down(), "they were not in a row");
        assert_eq!(health.checked(Ok(()), TURNS), Some(News::Well));
        for result in [bad(), bad(), Ok(()), bad(), bad()] {
            assert_eq!(health.checked(result, TURNS), None);
            assert!(health.is_well(at(0)));
        }
        assert_eq!(health.checked(bad(), TURNS), Some(News::Down));
        health.forget_checks();
        assert!(health.is_well(at(0)));
    }

    #[test]
    fn a_good_check_ends_a_pause_and_a_good_dial_overrules_no_check() {
        let mut health = Health::default();
        for _ in 0..3 {
            health.dialled(bad(), RULES, at(0));
        }
        assert_eq!(health.checked(Ok(()), TURNS), Some(News::Well));
        assert!(health.is_well(at(0)));
        let mut health = Health::default();
        health.checked(bad(), TURNS);
        assert_eq!(health.dialled(Ok(()), RULES, at(0)), None);
        assert!(health.is_down(), "it can be reached, and is not well");
    }
}
