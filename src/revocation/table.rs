//! The bans in memory, found by what a token has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use super::{Ban, Id};
use crate::clock::Wall;
use crate::token::Marks;
use crate::token::marks::{Kind, Mark};

/// When a ban ends, if it does.
type Until = Option<Wall>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    bans: BTreeMap<Id, Ban>,
    /// Bans of all tokens with this mark.
    whole: HashMap<Mark, Until>,
    /// Bans of those issued before a time.
    older: HashMap<Mark, BTreeMap<u64, Until>>,
    /// The ends, the earliest first.
    pub(super) ends: BTreeSet<(Wall, Id)>,
    /// Taken out, but still in the file.
    pub(super) gone: Vec<Id>,
}

impl Table {
    /// How many there are, with those that have ended.
    pub(super) fn len(&self) -> usize {
        self.bans.len()
    }

    /// How many have not ended.
    pub(super) fn in_force(&self, now: Wall) -> usize {
        self.bans.len().saturating_sub(self.ended(now).count())
    }

    pub(super) fn contains(&self, id: Id) -> bool {
        self.bans.contains_key(&id)
    }

    pub(super) fn get(&self, id: Id) -> Option<&Ban> {
        self.bans.get(&id)
    }

    /// The kind of the first ban that names the marks and has not ended.
    pub(super) fn find(&self, marks: &Marks, now: Wall) -> Option<Kind> {
        let counts = |until: &Until| until.is_none_or(|until| now < until);
        Kind::ALL.into_iter().find(|kind| {
            let Some(mark) = marks.of(*kind) else { return false };
            self.whole.get(&mark).is_some_and(counts)
                || self.older.get(&mark).is_some_and(|older| {
                    let mut later = older.iter().rev().take_while(|(before, _)| marks.issued_before(**before));
                    later.any(|(_, until)| counts(until))
                })
        })
    }

    /// Puts the ban in; one that is there already gets the later of both ends. What stands there now.
    pub(super) fn insert(&mut self, mut ban: Ban) -> Ban {
        let id = ban.id();
        if let Some(present) = self.bans.get(&id) {
            ban.until = ban.until.zip(present.until).map(|(one, other)| one.max(other));
            self.remove(id);
        }
        let mark = ban.mark();
        match ban.issued_before {
            None => {
                self.whole.insert(mark, ban.until);
            }
            Some(before) => {
                self.older.entry(mark).or_default().insert(before, ban.until);
            }
        }
        if let Some(until) = ban.until {
            self.ends.insert((until, id));
        }
        self.bans.insert(id, ban.clone());
        ban
    }

    /// Takes the ban out; false if there is none.
    pub(super) fn remove(&mut self, id: Id) -> bool {
        let Some(ban) = self.bans.remove(&id) else { return false };
        let mark = ban.mark();
        match ban.issued_before {
            None => {
                self.whole.remove(&mark);
            }
            Some(before) => {
                if let Some(older) = self.older.get_mut(&mark) {
                    older.remove(&before);
                    if older.is_empty() {
                        self.older.remove(&mark);
                    }
                }
            }
        }
        if let Some(until) = ban.until {
            self.ends.remove(&(until, id));
        }
        true
    }

    /// Takes out the one that ended first, if one has by `time`; whether one had.
    pub(super) fn expire_one(&mut self, time: Wall) -> bool {
        let Some((_, id)) = self.ended(time).next() else { return false };
        self.gone.push(id);
        self.remove(id)
    }

    /// Those that have ended by `time`.
    pub(super) fn ended(&self, time: Wall) -> impl Iterator<Item = (Wall, Id)> {
        self.ends.iter().copied().take_while(move |(until, _)| *until <= time)
    }

    /// Those that have not ended, or with `now` unknown all.
    pub(super) fn list(&self, after: Option<Id>, most: usize, now: Option<Wall>) -> Vec<Ban> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let bans = self.bans.range((from, Bound::Unbounded)).map(|(_, ban)| ban);
        let bans = bans.filter(|ban| ban.until.zip(now).is_none_or(|(until, now)| now < until));
        bans.take(most).cloned().collect()
    }
}
