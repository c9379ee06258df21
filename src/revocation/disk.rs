//! The file of bans: a log of what was banned and lifted, one line each, of which every start leaves a fresh copy.
//!
//! Each line has a checksum over itself and all lines before it, so that no line can be changed, lost or moved without
//! being seen. A line is written in one go and flushed to the disk before anyone is told that it is there. The copy, which
//! says how many lines it has, takes the old file's place by its name: a crash leaves one or the other, whole. What a
//! crash can leave behind the copy is the start of a line that nobody was told of; it is dropped.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Ban, Id};
use crate::clock::Wall;
use crate::secret;
use crate::token::marks::Kind;

/// Why the file cannot be used. Nobody is let in before somebody has looked at it: an empty list in place of a damaged
/// one would let in everyone who was banned.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something in it is not what was written.
    #[error(
        "the revocation file {path} is damaged: {detail}. Put a copy of it back; or remove it, and whoever was banned is \
         let in again until banned anew",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another process has it open.
    #[error(
        "another process holds the revocation file {path}: end it, or give this one a [revocation] file of its own",
        path = path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error(
        "the revocation file {path} cannot be used: {error}. Its folder must be there, and the gateway's user must be \
         able to write to both",
        path = path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    /// Holds the lock; its writes go to its end.
    file: File,
    chain: Chain,
    /// Bytes of whole lines.
    length: u64,
    /// Lines since the last copy.
    lines: usize,
    /// A failed write has left something behind that could not be taken back.
    broken: bool,
}

/// One change.
pub(super) enum Change {
    Ban(Ban),
    Lift(Id),
}

impl Disk {
    /// Opens the file, or makes it; and the bans in it.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Ban>), OpenError> {
        // A link to another place stays one.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let unusable = |error| OpenError::Unusable { path: path.to_owned(), error };
        let old = locked(path)?;
        let bans = old.as_ref().map(|file| read(file, path)).transpose()?.unwrap_or_default();
        let disk = Self::copy(path, bans.iter().cloned()).map_err(unusable)?;
        Ok((disk, bans))
    }

    /// Writes changes, and returns when they are on the disk.
    pub(super) fn write(&mut self, changes: &[Change]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write has failed and could not be taken back: restart"));
        }
        let mut chain = self.chain;
        let mut lines = Vec::new();
        for change in changes {
            let record = match change {
                Change::Ban(ban) => json!({ "ban": members(ban) }),
                Change::Lift(id) => json!({ "lift": id.to_string() }),
            };
            chain.line(&record, &mut lines)?;
        }
        if let Err(error) = self.file.write_all(&lines).and_then(|()| self.file.sync_data()) {
            self.broken = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.chain = chain;
        self.length = self.length.saturating_add(lines.len() as u64);
        self.lines = self.lines.saturating_add(changes.len());
        Ok(())
    }

    /// Whether a fresh copy of `bans` bans is worth its while.
    pub(super) fn is_long(&self, bans: usize) -> bool {
        self.lines > bans.saturating_add(LONG)
    }

    /// Leaves only these bans in the file.
    pub(super) fn compact(&mut self, bans: impl Iterator<Item = Ban>) -> io::Result<()> {
        match Self::copy(&self.path, bans) {
            Ok(copy) => *self = copy,
            Err(error) => {
                // What would be written to a file that has lost its name would be lost too.
                self.broken |= !is_at(&self.file, &self.path);
                return Err(error);
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn pretend_long(&mut self) {
        self.lines = usize::MAX;
    }

    #[cfg(test)]
    pub(super) fn pretend_read_only(&mut self) {
        if let Ok(file) = File::open(&self.path) {
            self.file = file;
        }
    }

    /// Makes a copy under another name, complete, locked and on the disk, before it gets its name.
    fn copy(path: &Path, bans: impl Iterator<Item = Ban>) -> io::Result<Self> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Subjects stand in it: they are the gateway's business alone.
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)?;
        file.try_lock()?;
        let (mut out, mut chain, mut length) = (BufWriter::new(&file), Chain::START, HEADER.len() as u64);
        out.write_all(HEADER.as_bytes())?;
        let mut add = |record: &Value| {
            let mut line = Vec::new();
            chain.line(record, &mut line)?;
            length = length.saturating_add(line.len() as u64);
            out.write_all(&line)
        };
        let mut count = 0_usize;
        for ban in bans {
            add(&json!({ "ban": members(&ban) }))?;
            count = count.saturating_add(1);
        }
        add(&json!({ "copied": count }))?;
        out.flush()?;
        drop(out);
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        if !is_at(&file, path) {
            return Err(io::Error::other("another process has put a file of its own there"));
        }
        Ok(Self { path: path.to_owned(), file, chain, length, lines: 0, broken: false })
    }
}

/// The file, if there is one, held by nobody else.
fn locked(path: &Path) -> Result<Option<File>, OpenError> {
    for _ in 0..ATTEMPTS {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::Unusable { path: path.to_owned(), error }),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(OpenError::Unusable { path: path.to_owned(), error }),
        }
        // A copy may have taken its place meanwhile.
        if is_at(&file, path) {
            return Ok(Some(file));
        }
    }
    Err(OpenError::InUse { path: path.to_owned() })
}

/// Whether this open file is the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |there: &std::fs::Metadata| (there.dev(), there.ino());
    matches!((file.metadata(), std::fs::metadata(path)), (Ok(open), Ok(there)) if inode(&open) == inode(&there))
}

/// The bans that the lines leave.
fn read(file: &File, path: &Path) -> Result<Vec<Ban>, OpenError> {
    let damaged = |detail: String| OpenError::Damaged { path: path.to_owned(), detail };
    let unusable = |error| OpenError::Unusable { path: path.to_owned(), error };
    let mut input = BufReader::new(file);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        input.by_ref().take(LONGEST).read_until(b'\n', line).map_err(unusable)
    };
    next(&mut line)?;
    if line != HEADER.as_bytes() {
        return Err(damaged("it does not begin like one".to_owned()));
    }
    let (mut chain, mut bans, mut copied) = (Chain::START, BTreeMap::new(), false);
    for number in 2.. {
        if next(&mut line)? == 0 {
            break;
        }
        let Some(whole) = line.strip_suffix(b"\n") else {
            if copied && line.len() < usize::try_from(LONGEST).unwrap_or(usize::MAX) {
                tracing::warn!(file = %path.display(), line = number, "a change that was never confirmed is dropped");
                break;
            }
            return Err(damaged(format!("line {number} is cut off")));
        };
        let record = chain.check(whole).ok_or_else(|| damaged(format!("line {number} is not what was written")))?;
        let understood = match (record.get("ban"), record.get("lift"), record.get("copied")) {
            (Some(members), ..) => ban(members).map(|ban| drop(bans.insert(ban.id(), ban))),
            (_, Some(id), _) => id.as_str().and_then(Id::parse).map(|id| drop(bans.remove(&id))),
            (.., Some(count)) => (count.as_u64() == u64::try_from(bans.len()).ok()).then(|| copied = true),
            _ => None,
        };
        understood.ok_or_else(|| damaged(format!("line {number} makes no sense")))?;
    }
    if copied { Ok(bans.into_values().collect()) } else { Err(damaged("its end is missing".to_owned())) }
}

/// The checksum over all lines so far.
#[derive(Clone, Copy, Debug)]
struct Chain([u8; 16]);

impl Chain {
    const START: Self = Self([0; 16]);

    fn step(&mut self, text: &[u8]) -> String {
        let hash = secret::sha256(&[self.0.as_slice(), text].concat());
        self.0 = hash.first_chunk().copied().unwrap_or_default();
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// Adds a line with this record.
    fn line(&mut self, record: &Value, out: &mut Vec<u8>) -> io::Result<()> {
        let text = record.to_string();
        let sum = self.step(text.as_bytes());
        writeln!(out, "{sum} {text}")
    }

    /// The record in a line, if it is the one that comes next.
    fn check(&mut self, line: &[u8]) -> Option<Value> {
        let (sum, rest) = line.split_at_checked(32)?;
        let text = rest.strip_prefix(b" ")?;
        (self.step(text).as_bytes() == sum).then(|| serde_json::from_slice(text).ok()).flatten()
    }
}

fn members(ban: &Ban) -> Value {
    json!({
        "iss": ban.iss,
        "kind": ban.kind.as_str(),
        "value": ban.value,
        "issued_before": ban.issued_before,
        "until": ban.until.map(Wall::as_secs),
    })
}

fn ban(members: &Value) -> Option<Ban> {
    let text = |name: &str| members.get(name)?.as_str();
    let seconds = |name: &str| match members.get(name)? {
        Value::Null => Some(None),
        number => number.as_u64().map(Some),
    };
    Some(Ban {
        iss: text("iss")?.into(),
        kind: Kind::from_name(text("kind")?)?,
        value: text("value")?.into(),
        issued_before: seconds("issued_before")?,
        until: seconds("until")?.map(|seconds| Wall::from_epoch(Duration::from_secs(seconds))),
    })
}

const HEADER: &str = "portcullis revocations 1\n";
/// Bytes of a line that are read: more than the longest that is ever written.
const LONGEST: u64 = 1024 * 1024;
/// Lines that may be there beside those of a fresh copy.
const LONG: usize = 10_000;
const ATTEMPTS: u32 = 10;
