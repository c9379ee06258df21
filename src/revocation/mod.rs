//! Revocations: which tokens no longer count, as a local copy that is asked without waiting.
//!
//! Owns the bans, their ends and, if a file is configured, their place on disk. Knows no stream: whoever bans tells the
//! [registry](crate::registry) afterwards. A ban is in force from [`Revocations::insert`] on; [`Revocations::keep`] makes
//! it last. Called by admission and renewal (to ask), by the admin listener (to ban and lift), by the app (to expire).

mod disk;
mod table;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

pub use disk::OpenError;
use disk::{Change, Disk};
use table::Table;

use crate::clock::Wall;
use crate::secret;
use crate::token::Marks;
use crate::token::keys::KeyId;
use crate::token::keys::store;
use crate::token::marks::{Kind, Mark};
use crate::token::verify::Issuer;

/// Where bans are kept and how many there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file; `None`: bans end with the process.
    pub file: Option<PathBuf>,
    /// How many there may be at a time.
    pub max_entries: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { file: None, max_entries: 100_000 }
    }
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The issuer: its `iss`, or its name in the config where `iss` is not checked.
    pub iss: Box<str>,
    /// Which claim is named.
    pub kind: Kind,
    /// The claim's value.
    pub value: Box<str>,
    /// Only tokens issued before this time are meant, seconds since the epoch; `None`: all.
    pub issued_before: Option<u64>,
    /// From when it no longer counts; `None`: it has no end.
    pub until: Option<Wall>,
}

impl Ban {
    /// What is looked for in a token.
    pub fn mark(&self) -> Mark {
        Mark::new(self.kind, &self.iss, &self.value)
    }

    /// Names the ban: the same claim banned twice is one ban.
    pub fn id(&self) -> Id {
        let before = self.issued_before.map(u64::to_be_bytes);
        let before = before.as_ref().map_or([].as_slice(), <[u8; 8]>::as_slice);
        let hash = secret::sha256(&[self.mark().to_bytes().as_slice(), before].concat());
        Id(hash.first_chunk().copied().unwrap_or_default())
    }
}

/// What a ban looks for.
#[derive(Clone, Debug)]
pub struct Target {
    kind: Kind,
    marks: Vec<Mark>,
    issued_before: Option<u64>,
}

impl Target {
    /// Whether a token with these marks is meant.
    pub fn names(&self, marks: &Marks) -> bool {
        let named = marks.of(self.kind).is_some_and(|mark| self.marks.contains(&mark));
        named && self.issued_before.is_none_or(|seconds| marks.issued_before(seconds))
    }
}

/// The name of a ban: 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 16]);

impl Id {
    const FIRST: Self = Self([0; 16]);
    const LAST: Self = Self([0xff; 16]);

    /// Reads one as it is shown.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| hex).map(|number| Self(number.to_be_bytes()))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Why a token that was verified no longer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A ban names this claim of it.
    Claim(Kind),
    /// The key that has signed it is no longer its issuer's.
    Key,
}

/// There is no room for another ban; none is ever taken out to make some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many revocations as [revocation] max_entries allows")]
pub struct Full;

/// A change did not reach the disk; what is in memory counts until the process ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revocation file cannot be written: {0}")]
pub struct KeepError(String);

/// The bans in force. Clones are the same bans.
#[derive(Clone, Debug)]
pub struct Revocations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: RwLock<Table>,
    most: usize,
    /// Keys that their issuers have taken back of late, the latest last.
    keys: RwLock<VecDeque<KeyId>>,
    /// Bans for which there was no room.
    refused: AtomicU64,
    disk: Option<Arc<Mutex<Disk>>>,
    /// Held while the disk is changed, so that it changes in the order in which memory does.
    writing: tokio::sync::Mutex<()>,
}

impl Revocations {
    /// No bans, and none that outlives the process.
    pub fn in_memory(max_entries: usize) -> Self {
        Self::with(Table::default(), None, max_entries)
    }

    /// Those in the file, if there is one.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let Some(file) = &config.file else { return Ok(Self::in_memory(config.max_entries)) };
        let (disk, bans) = Disk::open(file)?;
        let mut table = Table::default();
        for ban in bans {
            table.insert(ban);
        }
        // What has ended is left out of the file too, by the first expiry.
        Ok(Self::with(table, Some(disk), config.max_entries))
    }

    fn with(table: Table, disk: Option<Disk>, most: usize) -> Self {
        let disk = disk.map(|disk| Arc::new(Mutex::new(disk)));
        let (table, writing) = (RwLock::new(table), tokio::sync::Mutex::default());
        Self(Arc::new(Shared { table, most, keys: RwLock::default(), refused: AtomicU64::new(0), disk, writing }))
    }

    /// Why a token with these marks does not count at `now`, if it does not.
    pub fn find(&self, marks: &Marks, now: Wall) -> Option<Cause> {
        if let Some(kind) = self.read().find(marks, now) {
            return Some(Cause::Claim(kind));
        }
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        marks.key().filter(|key| keys.contains(key)).map(|_| Cause::Key)
    }

    /// Has tokens of these keys count no longer, or again. Only the latest few are remembered: no new token of such a key is
    /// found good, so only those count that were verified just before, and do not live yet.
    pub fn keys_changed(&self, change: &store::Change) {
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|key| !change.added.contains(key) && !change.removed.contains(key));
        keys.extend(&change.removed);
        let excess = keys.len().saturating_sub(KEYS);
        keys.drain(..excess);
    }

    /// Puts a ban in force. One that is there already gets the later of both ends: a ban is never shortened by another.
    pub fn insert(&self, ban: Ban, now: Wall) -> Result<Ban, Full> {
        let mut table = self.write();
        while table.len() >= self.0.most && !table.contains(ban.id()) {
            // One that has ended is no reason to refuse; in need of room it is not kept for a clock that steps back.
            if !table.expire_one(now) {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Full);
            }
        }
        Ok(table.insert(ban))
    }

    /// For looking at many tokens.
    pub fn target(&self, ban: &Ban) -> Target {
        Target { kind: ban.kind, marks: self.read().marks(ban), issued_before: ban.issued_before }
    }

    /// Has the bans follow the issuers of a config: what names an issuer by its name there counts for its `iss` too, and the
    /// other way round. How many bans are left that name no issuer at all, and the first few names that they have.
    pub fn identify(&self, issuers: &[Arc<Issuer>], now: Wall) -> (usize, BTreeSet<Box<str>>) {
        let main: BTreeSet<&str> = issuers.iter().map(|issuer| issuer.revoked_as()).collect();
        // A name that is another issuer's `iss` is that one's.
        let also = issuers.iter().filter(|issuer| !main.contains(&*issuer.name));
        let names: Vec<(Box<str>, Box<str>)> =
            also.map(|issuer| (issuer.name.as_ref().into(), issuer.revoked_as().into())).collect();
        let (mut lost, mut first) = (0, BTreeSet::new());
        for ban in self.pages().filter(|ban| ban.until.is_none_or(|until| now < until)) {
            if !main.contains(&*ban.iss) && !names.iter().any(|(name, _)| *name == ban.iss) {
                lost += 1;
                if first.len() < NAMES {
                    first.insert(ban.iss);
                }
            }
        }
        self.write().identify(names);
        (lost, first)
    }

    /// Makes a ban last, if there is a file. One that was lifted meanwhile is left alone.
    pub async fn keep(&self, id: Id) -> Result<(), KeepError> {
        let _turn = self.0.writing.lock().await;
        let Some(ban) = self.read().get(id).cloned() else { return Ok(()) };
        self.write_to_disk(Some(Change::Ban(ban))).await
    }

    /// Lifts a ban; false if there is none. The disk goes first: if it fails, the ban stands.
    pub async fn lift(&self, id: Id) -> Result<bool, KeepError> {
        let _turn = self.0.writing.lock().await;
        if !self.read().contains(id) {
            return Ok(false);
        }
        self.write_to_disk(Some(Change::Lift(id))).await?;
        Ok(self.write().remove(id))
    }

    /// Takes out what has ended an hour ago: a clock that was stepped ahead by mistake, and is stepped back within that
    /// hour of its own time, finds it again. To be called about once a second.
    pub async fn expire(&self, now: Wall) -> Result<(), KeepError> {
        let time = Wall::from_epoch(now.since_epoch().saturating_sub(GRACE));
        {
            let table = self.read();
            if table.ended(time).next().is_none() && table.gone.is_empty() {
                return Ok(());
            }
        }
        let _turn = self.0.writing.lock().await;
        while self.write().expire_one(time) {}
        self.write_to_disk(None).await
    }

    /// Changes the file, if there is one, where nobody waits for the disk but the caller. Only within the turn.
    async fn write_to_disk(&self, change: Option<Change>) -> Result<(), KeepError> {
        let gone = std::mem::take(&mut self.write().gone);
        let Some(disk) = self.0.disk.clone() else { return Ok(()) };
        let bans = self.clone();
        let work = move || {
            let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            // Before the change: what is to be lifted still stands in memory.
            let count = bans.read().len();
            if disk.is_long(count)
                && let Err(error) = disk.compact(bans.pages())
            {
                tracing::warn!(%error, "the revocation file could not be written anew; it grows");
            }
            // First what was taken out: it may have been banned anew since.
            let changes: Vec<Change> = gone.into_iter().map(Change::Lift).chain(change).collect();
            disk.write(&changes)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|error: io::Error| KeepError(error.to_string())),
            Err(error) => Err(KeepError(error.to_string())),
        }
    }

    /// All bans, in the order of their names. The lock is held for a page at a time: whoever waits to write has those who
    /// ask wait behind it.
    fn pages(&self) -> impl Iterator<Item = Ban> {
        let mut after = None;
        let pages = std::iter::from_fn(move || {
            let page = self.read().list(after, PAGE, None);
            after = Some(page.last()?.id());
            Some(page)
        });
        pages.flatten()
    }

    /// Bans in force, in the order of their names, at most `most`, those after `after`.
    pub fn list(&self, after: Option<Id>, most: usize, now: Wall) -> Vec<Ban> {
        self.read().list(after, most, Some(now))
    }

    /// How many are in force.
    pub fn count(&self, now: Wall) -> usize {
        self.read().in_force(now)
    }

    /// How many there may be.
    pub fn capacity(&self) -> usize {
        self.0.most
    }

    /// How many were refused for want of room.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Whether bans outlive the process.
    pub fn is_kept(&self) -> bool {
        self.0.disk.is_some()
    }

    /// A poisoned lock only says that a thread panicked while it held it; each change is complete before that could be.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long after its end a ban is kept.
const GRACE: Duration = Duration::from_secs(3600);
/// Keys that were taken back, of which is known.
const KEYS: usize = 1_000;
/// Bans that are copied under one hold of the lock.
const PAGE: usize = 1000;
/// Names of issuers that are told.
const NAMES: usize = 5;

#[cfg(test)]
mod tests;
