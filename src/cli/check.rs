//! `portcullis check`.

use super::{ConfigFile, Failure};
use crate::backend::printable;

/// Loads the config; good: one line.
pub(super) fn check(file: &ConfigFile) -> Result<(), Failure> {
    let config = file.load()?;
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    anstream::println!(
        "{}: good ({}, {}, {})",
        file.config.display(),
        count(config.listeners.len(), "listener"),
        count(config.issuers.len(), "issuer"),
        count(config.routes.len(), "route"),
    );
    for note in &config.notes {
        anstream::println!("note: {}", printable(note, 1000));
    }
    Ok(())
}
