//! A CA and a certificate made on the spot, and the private folder in which the demo keeps what the gateway reads.
//!
//! The CA's key is dropped as soon as it has signed, so that trusting the CA trusts this one certificate only.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Wall;
use crate::listen::selfsigned::{SelfSigned, self_signed};

/// A CA and a certificate that covers this machine's own names, good for a week.
pub(super) fn make(now: Wall) -> Result<SelfSigned, rcgen::Error> {
    self_signed(&NAMES.map(str::to_owned), WEEK, now)
}

/// A folder that only this user can read, and that goes away with this value.
pub(super) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// Makes it, under a name that nobody can foresee.
    pub(super) fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("portcullis-demo-{:016x}", rand::random::<u64>()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only this user can read.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        write_new(&self.0.join(name), content, 0o600)
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the folder is readable by its owner only.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The CA where curl and browsers can be pointed to, until this value is gone: nothing is signed by it any more then.
pub(super) struct PublishedCa(PathBuf);

impl PublishedCa {
    /// Puts it there; never half of it.
    pub(super) fn new(folder: &Path, name: &str, pem: &str) -> io::Result<Self> {
        publish(folder, name, pem).map(Self)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PublishedCa {
    fn drop(&mut self) {
        // A CA that is left behind is public, and its key is gone.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn publish(folder: &Path, name: &str, pem: &str) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(name);
    let draft = folder.join(format!("{name}.{:016x}", rand::random::<u64>()));
    let written = write_new(&draft, pem.as_bytes(), 0o644).and_then(|()| std::fs::rename(&draft, &path));
    if written.is_err() {
        // The failure that matters is the one that is reported.
        let _ = std::fs::remove_file(&draft);
    }
    written.map(|()| path)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(content)
}

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_the_demo_keeps_is_private_and_goes_away() {
        let folder = PrivateFolder::new().unwrap();
        let path = folder.path().to_owned();
        folder.write("key.pem", b"x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(path.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn the_published_ca_replaces_an_older_one_and_goes_away_with_the_demo() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(Wall::from_epoch(Duration::from_secs(1_800_000_000))).unwrap();
        std::fs::write(folder.path().join("ca.pem"), "old").unwrap();
        let ca = PublishedCa::new(folder.path(), "ca.pem", &made.ca).unwrap();
        assert_eq!(std::fs::read_to_string(ca.path()).unwrap(), made.ca);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(ca);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(crate::client::trust(Some(made.ca.as_bytes())).is_ok());
    }
}
