//! `portcullis keys`: what each issuer has, of a running gateway or as the config would have it now.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::Failure;
use super::admin::{Where, ask::Operator, line, print, shown, table, time};
use crate::admin::keys::shown as keys_of;
use crate::backend::printable;
use crate::clock::{Clock, humane};
use crate::config::Config;
use crate::jwks;

/// Arguments of `portcullis keys`.
#[derive(Debug, Args)]
pub(super) struct KeysArguments {
    #[command(flatten)]
    place: Where,
    /// Ask no gateway: fetch the key sets of the config now, from here
    #[arg(long, conflicts_with_all = ["admin", "secret_file"])]
    fetch: bool,
    /// One JSON object for each issuer
    #[arg(long)]
    json: bool,
}

/// Shows the keys. Fails if an issuer has none.
pub(super) fn keys(arguments: &KeysArguments) -> Result<(), Failure> {
    let issuers = if arguments.fetch {
        fetched(&arguments.place.file.load()?)?
    } else {
        let mut answer = Operator::find(&arguments.place)?.ask(&Method::GET, "/keys", None)?;
        match answer["keys"].take() {
            Value::Array(issuers) => issuers,
            _ => return Err(anyhow!("the listener answers nothing that is a list").into()),
        }
    };
    let text = if arguments.json {
        issuers.iter().map(|issuer| line(issuer) + "\n").collect()
    } else {
        let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
        rows.extend(issuers.iter().flat_map(rows_of));
        table(&rows) + &issuers.iter().flat_map(notes_of).collect::<String>()
    };
    print(&text)?;
    if issuers.iter().all(|issuer| issuer["usable"] == true) { Ok(()) } else { Err(Failure::Said) }
}

/// The same, without a gateway.
fn fetched(config: &Config) -> Result<Vec<Value>, Failure> {
    let clock = Clock::system();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // What is missing is told with its reason in the list.
    runtime.block_on(jwks::fetch(&config.sources, &clock));
    runtime.shutdown_timeout(Duration::from_millis(100));
    let now = clock.now();
    Ok(config.issuers.iter().map(|issuer| keys_of(issuer, &config.sources, now)).collect())
}

/// A row for each key; one without, for an issuer that has none.
fn rows_of(issuer: &Value) -> Vec<Vec<String>> {
    let name = shown(&issuer["issuer"]);
    let row = |key: &Value, from: String, seen: String, counts: String| {
        let kid = if key["kid"].is_null() { "-".to_owned() } else { shown(&key["kid"]) };
        vec![name.clone(), shown(&key["algorithm"]), kid, from, seen, counts]
    };
    let keys = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rows: Vec<_> = keys(&issuer["keys"])
        .iter()
        .map(|key| row(key, "config".to_owned(), "-".to_owned(), "until a reload".to_owned()))
        .collect();
    let set = &issuer["set"];
    let counts = match set["counts_for"].as_u64() {
        Some(0) => "too old".to_owned(),
        Some(seconds) => humane(Duration::from_secs(seconds)),
        None => "until it changes".to_owned(),
    };
    rows.extend(
        keys(&set["keys"])
            .iter()
            .map(|key| row(key, shown(&set["origin"]), time(&set["seen"], "start"), counts.clone())),
    );
    if rows.is_empty() {
        rows.push(vec![
            name,
            "none".to_owned(),
            "-".to_owned(),
            shown(&set["origin"]),
            "never".to_owned(),
            "-".to_owned(),
        ]);
    }
    rows
}

/// What else is to be known of an issuer's set.
fn notes_of(issuer: &Value) -> Vec<String> {
    let (name, set) = (shown(&issuer["issuer"]), &issuer["set"]);
    let mut notes = Vec::new();
    if let Some(error) = set["error"].as_str() {
        notes.push(format!("{name}: the last fetch failed: {}\n", printable(error, 400)));
    }
    for member in set["not_used"].as_array().into_iter().flatten() {
        let kid = if member["kid"].is_null() { "without kid".to_owned() } else { shown(&member["kid"]) };
        let reason = printable(member["reason"].as_str().unwrap_or_default(), 400);
        notes.push(format!("{name}: a key is not used ({kid}): {reason}\n"));
    }
    notes
}

const HEAD: [&str; 6] = ["ISSUER", "ALGORITHM", "KID", "FROM", "LAST SEEN", "COUNTS FOR"];
