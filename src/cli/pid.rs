//! The file with the process id, and the one way in which a running gateway is told to reload.
//!
//! SIGHUP ends a process that does not expect it, and process ids are used again. So the gateway holds a lock on its
//! file for life, and a process is signalled only when it has been shown to be a gateway.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::config::said;

/// The file with the process id: locked while the process lives, removed when it leaves.
pub(super) struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

impl PidFile {
    /// Locks the file and writes the id of this process. Fails if another gateway holds it.
    pub(super) async fn write(path: PathBuf) -> anyhow::Result<Self> {
        let failed = |error: &std::io::Error| anyhow!("cannot write the pid_file {}: {}", path.display(), said(error));
        for _ in 0..ATTEMPTS {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = opened.map_err(|error| failed(&error))?;
            match file.try_lock() {
                // The one who held it may have removed it meanwhile: then this is not the file that others see.
                Ok(()) if is_at(&file, &path) => {
                    let text = format!("{}\n", std::process::id());
                    let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
                    written.and_then(|()| file.flush()).map_err(|error| failed(&error))?;
                    return Ok(Self { path, file });
                }
                Ok(()) => {}
                // A `portcullis reload` that looks at the lock holds it for a moment.
                Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
        }
        let name = path.display();
        let whose = read_pid(&path).map_or_else(String::new, |pid| format!(" (process {pid})"));
        Err(anyhow!("another gateway{whose} holds the pid_file {name}: end it, or give this one a pid_file of its own"))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // If the file was replaced, it is not ours to remove.
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Tells the gateway that holds this file to reload; its process id.
pub(super) fn reload_by_file(path: &Path) -> anyhow::Result<i32> {
    let name = path.display();
    let mut file = File::open(path)
        .map_err(|error| anyhow!("cannot read the pid_file {name}: {}; is `portcullis run` running?", said(&error)))?;
    let pid = pid_in(&mut file).ok_or_else(|| anyhow!("the pid_file {name} holds no process id"))?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) => {
            return Err(anyhow!("process {pid} is not a portcullis gateway; the pid file {name} is stale: remove it"));
        }
        Err(TryLockError::Error(error)) => return Err(anyhow!("cannot look at the lock of {name}: {}", said(&error))),
    }
    reload(pid, Known::ByLock)?;
    Ok(pid)
}

/// Tells this process to reload.
pub(super) fn reload_by_pid(pid: i32) -> anyhow::Result<()> {
    reload(pid, Known::ByNumber)
}

/// How the process was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It holds the lock of the pid file.
    ByLock,
    /// Somebody gave its number.
    ByNumber,
}

/// What can be told of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traits {
    /// Whether it runs the same program as this process; `None` if that may not be seen.
    same_program: Option<bool>,
    /// Whether it handles SIGHUP: of all verbs only `run` does, and what does not is ended by it.
    handles_hangup: bool,
}

impl Traits {
    fn of(pid: i32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        Self { same_program: same_program(pid), handles_hangup: handles_hangup(&status) }
    }

    /// Whether that is a gateway. The first process of a machine or container may be one, but only if it surely is.
    fn is_gateway(self, pid: i32, known: Known) -> bool {
        let same = match self.same_program {
            Some(same) => same,
            // A process with more rights than its user's hides its program, but not its lock.
            None => known == Known::ByLock && pid != 1,
        };
        pid > 0 && same && self.handles_hangup
    }
}

fn reload(pid: i32, known: Known) -> anyhow::Result<()> {
    let failed = |error: Errno| {
        let error = std::io::Error::from(error);
        anyhow!("cannot signal process {pid}: {}; is `portcullis run` running, and yours?", said(&error))
    };
    let target = Pid::from_raw(pid).ok_or_else(|| anyhow!("{pid} is no process id"))?;
    // The descriptor stays with this process: should it end while it is looked at, no other one is signalled.
    let handle = match pidfd_open(target, PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(Errno::NOSYS) => None,
        Err(error) => return Err(failed(error)),
    };
    if !Traits::of(pid).is_gateway(pid, known) {
        return Err(anyhow!("process {pid} is not a portcullis gateway that runs this program: it was not signalled"));
    }
    match handle {
        Some(handle) => pidfd_send_signal(handle, Signal::HUP),
        None => kill_process(target, Signal::HUP),
    }
    .map_err(failed)
}

/// Whether the process runs the file that this one runs, or did until an update replaced that file.
fn same_program(pid: i32) -> Option<bool> {
    let (theirs, ours) = (PathBuf::from(format!("/proc/{pid}/exe")), Path::new("/proc/self/exe"));
    let same_file = is_same(&std::fs::metadata(&theirs).ok()?, &std::fs::metadata(ours).ok()?);
    let path =
        |link: &Path| std::fs::read_link(link).ok().map(|path| without_deleted(&path.to_string_lossy()).to_owned());
    Some(same_file || path(&theirs)? == path(ours)?)
}

/// The kernel's mark on the path of a program whose file is gone.
fn without_deleted(path: &str) -> &str {
    path.strip_suffix(" (deleted)").unwrap_or(path)
}

/// Whether `/proc/PID/status` says that SIGHUP, the first of the signals, is caught.
fn handles_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn is_at(file: &File, path: &Path) -> bool {
    matches!((file.metadata(), std::fs::metadata(path)), (Ok(open), Ok(there)) if is_same(&open, &there))
}

fn is_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn read_pid(path: &Path) -> Option<i32> {
    pid_in(&mut File::open(path).ok()?)
}

/// The process id in the file; it is a line of a few digits.
fn pid_in(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    text.trim().parse::<i32>().ok().filter(|pid| *pid > 0)
}

/// How often the lock is tried for, and how long to wait in between: in all about a second.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a pid file that are read.
const LONGEST: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_a_gateway_is_signalled() {
        let table = [
            (Some(true), true, [true, true]),
            (Some(true), false, [false, false]),
            (Some(false), true, [false, false]),
            (Some(false), false, [false, false]),
            (None, true, [true, false]),
            (None, false, [false, false]),
        ];
        for (same_program, handles_hangup, [by_lock, by_number]) in table {
            let traits = Traits { same_program, handles_hangup };
            assert_eq!(traits.is_gateway(4711, Known::ByLock), by_lock, "{traits:?}");
            assert_eq!(traits.is_gateway(4711, Known::ByNumber), by_number, "{traits:?}");
            // The first process must show what it is.
            let sure = same_program == Some(true) && handles_hangup;
            assert_eq!(traits.is_gateway(1, Known::ByLock), sure, "{traits:?}");
            assert_eq!(traits.is_gateway(1, Known::ByNumber), sure, "{traits:?}");
        }
    }

    #[test]
    fn what_the_kernel_says_of_a_process_is_read() {
        assert!(handles_hangup("Name:\tx\nSigCgt:\t0000000000004001\nx"));
        assert!(!handles_hangup("Name:\tx\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000004002\n"));
        assert!(!handles_hangup("") && !handles_hangup("SigCgt:\tzz"));
        assert_eq!(without_deleted("/usr/bin/portcullis (deleted)"), "/usr/bin/portcullis");
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(same_program(own), Some(true));
    }

    #[tokio::test]
    async fn the_file_is_locked_while_the_process_lives_and_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        std::fs::write(&path, "4194304999\nleft behind").unwrap();
        let held = PidFile::write(path.clone()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let error = PidFile::write(path.clone()).await.err().unwrap().to_string();
        assert!(error.contains("another gateway") && error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        assert!(!path.exists());
    }
}
