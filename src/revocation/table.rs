//! The bans in memory, found by what a token has.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Where a token's mark leads: to those that ban what was issued before a time, or at any ([`ALWAYS`]).
    index: BTreeMap<(Mark, u64, Id), Until>,
    /// Names and `iss` of issuers that go by both.
    names: Vec<(Box<str>, Box<str>)>,
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
            let bans = self.index.range((mark, 0, Id::FIRST)..=(mark, ALWAYS, Id::LAST)).rev();
            let mut named = bans.take_while(|((_, before, _), _)| marks.issued_before(*before));
            named.any(|(_, until)| counts(until))
        })
    }

    /// The marks of the tokens that the ban names. One that names an issuer by its name in the config also finds tokens that
    /// go by its `iss`, and the other way round: an issuer may have been given an `iss` since either was made.
    pub(super) fn marks(&self, ban: &Ban) -> Vec<Mark> {
        let others = self.names.iter().filter_map(|(name, iss)| match () {
            () if *name == ban.iss => Some(iss),
            () if *iss == ban.iss => Some(name),
            () => None,
        });
        others.chain([&ban.iss]).map(|iss| Mark::new(ban.kind, iss, &ban.value)).collect()
    }

    /// Has these names and `iss` mean the same issuers.
    pub(super) fn identify(&mut self, names: Vec<(Box<str>, Box<str>)>) {
        // Only a config that gives an issuer another `iss` costs the time that this takes.
        if names == self.names {
            return;
        }
        self.names = names;
        self.index.clear();
        for ban in std::mem::take(&mut self.bans).into_values() {
            self.insert(ban);
        }
    }

    /// Puts the ban in; one that is there already gets the later of both ends. What stands there now.
    pub(super) fn insert(&mut self, mut ban: Ban) -> Ban {
        let id = ban.id();
        if let Some(present) = self.bans.get(&id) {
            ban.until = ban.until.zip(present.until).map(|(one, other)| one.max(other));
            self.remove(id);
        }
        for mark in self.marks(&ban) {
            self.index.insert((mark, ban.issued_before.unwrap_or(ALWAYS), id), ban.until);
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
        for mark in self.marks(&ban) {
            self.index.remove(&(mark, ban.issued_before.unwrap_or(ALWAYS), id));
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

/// Later than any token was issued.
const ALWAYS: u64 = u64::MAX;
