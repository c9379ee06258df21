//! `portcullis cert`: a CA of one's own, a certificate that it has signed, and a secret for tokens.
//!
//! For a first try and for networks of one's own. The key of the CA is thrown away at once, so that the CA can never
//! sign anything else; a new certificate comes with a new CA.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;
use crate::clock::Clock;
use crate::listen::selfsigned::self_signed;
use crate::names::CERTS_DIR;
use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use rustls::pki_types::DnsName;

/// Arguments of `portcullis cert`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder that the files go to
    #[arg(long, value_name = "FOLDER", default_value = CERTS_DIR)]
    dir: PathBuf,
    /// A host name or address that the certificate covers; may be given several times
    #[arg(long = "name", value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"], value_parser = name)]
    names: Vec<String>,
    /// For how many days
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
    /// Write over a certificate that is there; a token secret is kept even so
    #[arg(long)]
    force: bool,
}

/// A name that a certificate can cover; `*.` may stand in front of it.
fn name(text: &str) -> Result<String, &'static str> {
    let whole = text.strip_prefix("*.").unwrap_or(text);
    let address = text.parse::<std::net::IpAddr>().is_ok();
    // The root's own dot at the end of a name is never written in a certificate (RFC 5280, section 4.2.1.6).
    let host = DnsName::try_from(whole).is_ok() && !whole.ends_with('.');
    if address || host { Ok(text.to_owned()) } else { Err(NAMES) }
}

/// Makes the files and says what they are.
pub(super) fn cert(arguments: &Arguments) -> Result<(), Failure> {
    let dir = &arguments.dir;
    let path = |name: &str| dir.join(name);
    let (ca, chain, key, secret) = (path("ca.pem"), path("cert.pem"), path("key.pem"), path("token.secret"));
    let existing: Vec<String> =
        [&ca, &chain, &key].into_iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    if !existing.is_empty() && !arguments.force {
        let what = existing.join(", ");
        return Err(anyhow!("{what} would be overwritten: say --force, or another folder with --dir").into());
    }
    let days = Duration::from_secs(u64::from(arguments.days) * 24 * 3600);
    let made = self_signed(&arguments.names, days, Clock::system().now().wall).context(NAMES)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| format!("cannot make the folder {}", dir.display()))?;
    // The key goes first: should the rest fail, no certificate stands beside another one's key unseen.
    write(&key, made.key.as_bytes(), 0o600)?;
    write(&chain, made.chain.as_bytes(), 0o644)?;
    write(&ca, made.ca.as_bytes(), 0o644)?;
    let fresh = !secret.exists();
    if fresh {
        let random: [u8; 48] = rand::random();
        write(&secret, format!("{}\n", URL_SAFE_NO_PAD.encode(random)).as_bytes(), 0o600)?;
    }
    let names = arguments.names.join(", ");
    anstream::println!(
        "{}  certificate for {names}, good for {} days, and the CA that signed it",
        chain.display(),
        arguments.days
    );
    anstream::println!("{}   its key", key.display());
    anstream::println!("{}    the CA: give this one to clients, such as curl --cacert", ca.display());
    let state = if fresh { "a new random secret for HS256 tokens" } else { "was there already and is kept" };
    anstream::println!("{}  {state}", secret.display());
    Ok(())
}

/// Writes the file under another name first, so that a reader never sees half of it.
fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // Best effort: the failure itself is reported below.
        let _ = std::fs::remove_file(&new);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

const NAMES: &str = "neither a host name nor an address: for example --name chat.example.com --name 10.0.0.7";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn arguments(dir: &Path, force: bool) -> Arguments {
        Arguments { dir: dir.to_owned(), names: vec!["localhost".into(), "::1".into()], days: 1, force }
    }

    #[test]
    fn only_names_that_a_certificate_can_cover_are_taken() {
        for good in ["localhost", "chat.example.com", "*.example.com", "10.0.0.7", "::1", "xn--bcher-kva.example"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["bad name", "", "*", "*.", "a..b", "https://a", "a:8443", "[::1]", "b\u{fc}cher.example", "a."] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn key_and_secret_are_for_their_owner_only_and_nothing_is_overwritten_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("certs");
        cert(&arguments(&dir, false)).unwrap();
        for name in ["key.pem", "token.secret"] {
            let mode = std::fs::metadata(dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let (key, secret) = (read("key.pem"), read("token.secret"));
        assert!(secret.len() > 32);
        assert!(cert(&arguments(&dir, false)).is_err());
        assert_eq!(read("key.pem"), key);
        cert(&arguments(&dir, true)).unwrap();
        assert_ne!(read("key.pem"), key);
        assert_eq!(read("token.secret"), secret, "tokens that were handed out stay good");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4, "nothing else is left behind");
    }
}
