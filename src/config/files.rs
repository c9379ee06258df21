//! Files and variables that the config names, read under a bound, with a problem at the right place when they are not
//! what they should be.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::problem::{Placed, Problem, Report};
use crate::secret::Secret;

/// What the meaning of a config depends on beside its text.
pub(super) struct Context<'a> {
    /// The folder that relative paths are relative to.
    pub(super) base: &'a Path,
    /// The environment.
    pub(super) env: &'a BTreeMap<String, String>,
    /// Where mistakes go.
    pub(super) report: &'a Report,
}

impl Context<'_> {
    /// The path, relative to the folder of the config.
    pub(super) fn path(&self, typed: &str) -> PathBuf {
        self.base.join(typed)
    }

    /// Reports `problem`.
    pub(super) fn add(&self, problem: Problem) {
        self.report.add(problem);
    }

    /// The content of a file of at most 1 MiB.
    pub(super) fn read(&self, typed: &Placed<String>, what: &str, remedy: &str) -> Option<Vec<u8>> {
        let path = self.path(&typed.value);
        let mut bytes = Zeroizing::new(Vec::new());
        let read = std::fs::File::open(&path).and_then(|file| {
            // A buffer that need not grow: growing leaves copies of a secret behind that nobody wipes.
            let length = file.metadata()?.len().min(LARGEST);
            bytes.reserve_exact(usize::try_from(length).unwrap_or(0).saturating_add(1));
            file.take(LARGEST + 1).read_to_end(&mut bytes)
        });
        let shown = if self.report.masks(&typed.place) { String::new() } else { format!(" {}", path.display()) };
        let error = match read {
            Ok(0) => "it is empty".to_owned(),
            Ok(count) if count as u64 > LARGEST => "it is larger than 1 MiB".to_owned(),
            Ok(_) => return Some(std::mem::take(&mut *bytes)),
            Err(error) => said(&error),
        };
        let problem = Problem::new(&typed.place, format!("cannot read {what}{shown}: {error}"));
        self.add(problem.remedy(remedy));
        None
    }

    /// The content of a variable.
    pub(super) fn variable(&self, name: &Placed<String>) -> Option<&str> {
        match self.env.get(&name.value) {
            Some(value) if !value.is_empty() => Some(value),
            found => {
                let state = if found.is_some() { "empty" } else { "not set" };
                let problem = Problem::new(&name.place, format!("the environment variable is {state}"));
                self.add(problem.remedy("set it for this process, or name a file instead"));
                None
            }
        }
    }

    /// Keeps what was typed as the file or the variable of a secret out of all messages if there is no such thing and it
    /// does not look like one: it may be the secret itself.
    pub(super) fn mask_secret(&self, file: Option<&Placed<String>>, variable: Option<&Placed<String>>) {
        let hidden_file = |typed: &&Placed<String>| {
            let like_path = typed.value.contains(['/', '.']) && !typed.value.contains(['+', '=']);
            !like_path && !self.path(&typed.value).exists()
        };
        let hidden_variable = |typed: &&Placed<String>| {
            let capital = |byte: u8| byte == b'_' || byte.is_ascii_uppercase() || byte.is_ascii_digit();
            let like_name = typed.value.contains('_') && typed.value.bytes().all(capital);
            !like_name && !self.env.contains_key(&typed.value)
        };
        for hidden in file.filter(hidden_file).into_iter().chain(variable.filter(hidden_variable)) {
            self.report.mask(&hidden.place);
        }
    }

    /// A shared secret in a file; one newline at its end is not part of it.
    pub(super) fn secret_file(&self, typed: &Placed<String>) -> Option<Secret> {
        let remedy = "`portcullis cert` makes a secret for a first try in certs/token.secret";
        let mut bytes = self.read(typed, "the secret", remedy)?;
        trim_newline(&mut bytes);
        Some(Secret::new(bytes))
    }
}

/// Takes one newline off the end: editors and `echo` put it there, and it is not part of a secret.
pub(crate) fn trim_newline(bytes: &mut Vec<u8>) {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
}

/// What the system said, without its number.
pub(crate) fn said(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => error.kind().to_string(),
    }
}

/// Certificates, keys and secrets are small; whatever is larger is not what was meant.
const LARGEST: u64 = 1024 * 1024;
