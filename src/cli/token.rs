//! `portcullis token mint` and `portcullis token inspect`.
//!
//! A token never comes from an argument, where every user of the machine could read it, and is never repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::client::duration;
use super::key::{KeyArguments, read, read_bounded};
use super::{ConfigFile, Failure};
use crate::backend::printable;
use crate::clock::{Clock, Wall, humane};
use crate::config::Config;
use crate::jwks::{self, Missing};
use crate::secret::Token;
use crate::token::claims::json::{self, Dates};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print a new token, signed with an issuer's secret of the config or with a key of your own
    Mint(MintArguments),
    /// Show what is in a token and which rule of which route it passes or fails
    Inspect(InspectArguments),
}

/// Arguments of `token mint`.
#[derive(Debug, Args)]
pub(super) struct MintArguments {
    /// The subject
    #[arg(long)]
    sub: Option<String>,
    /// How long the token is good for
    #[arg(long, default_value = "10m", value_parser = duration)]
    ttl: Duration,
    #[command(flatten)]
    key: KeyArguments,
}

/// Arguments of `token inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArguments {
    /// Read the token from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only the rules of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    #[command(flatten)]
    config: ConfigFile,
}

/// Does what the verb says.
pub(super) fn token(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Mint(arguments) => mint(&arguments),
        Verb::Inspect(arguments) => inspect(&arguments),
    }
}

fn mint(arguments: &MintArguments) -> Result<(), Failure> {
    let mut claims = Map::new();
    if let Some(sub) = &arguments.sub {
        claims.insert("sub".to_owned(), sub.clone().into());
    }
    let minted = arguments.key.mint(arguments.ttl)?.sign(&claims, Clock::system().now());
    anstream::println!("{}", minted.context("the token cannot be signed")?.token.expose());
    Ok(())
}

fn inspect(arguments: &InspectArguments) -> Result<(), Failure> {
    let config = arguments.config.load()?;
    let text = match &arguments.file {
        Some(file) => read(file),
        None => read_bounded(&mut std::io::stdin(), "standard input"),
    };
    let text = String::from_utf8(text?);
    let text = text.map_err(|_| anyhow!("that is no token: it is not even text"))?;
    if text.trim().is_empty() {
        return Err(anyhow!("there is no token: pipe one in, or name a file with --file").into());
    }
    if text.trim().get(..BEARER.len()).is_some_and(|start| start.eq_ignore_ascii_case(BEARER)) {
        return Err(anyhow!("that is the value of a header, not a token: leave out `Bearer `").into());
    }
    let token = Token::new(text.trim().to_owned());
    let clock = Clock::system();
    let missing = fetch(&config, arguments.route.as_deref(), &clock)?;
    let now = clock.now();
    show_parts(&token, now.wall);
    for missing in missing {
        anstream::println!("{BAD}{}{BAD:#}", printable(&missing.to_string(), 400));
    }
    let mut accepted = false;
    let mut seen = false;
    for (name, verifier) in &config.verifiers {
        if arguments.route.as_deref().is_some_and(|route| *route != **name) {
            continue;
        }
        seen = true;
        let verdict = verifier.verify(&token, now);
        accepted |= verdict.is_ok();
        match verdict {
            Ok(grant) => anstream::println!("\nroute {name}: {GOOD}accepted{GOOD:#}, as issuer {}", grant.issuer),
            Err(denial) => {
                let why = printable(&denial.to_string(), 400);
                anstream::println!("\nroute {name}: {BAD}refused{BAD:#} ({}), {why}", denial.public.as_str());
            }
        }
        for outcome in verifier.explain(&token, now) {
            let (style, word) = match outcome.passed {
                Some(true) => (GOOD, "pass"),
                Some(false) => (BAD, "FAIL"),
                None => (DIM, "  - "),
            };
            let whose = outcome.issuer.map(|name| format!(" ({name})")).unwrap_or_default();
            let detail = printable(&outcome.detail, 400);
            anstream::println!("  {style}{word}{style:#}  {:<16} {detail}{whose}", outcome.rule);
        }
    }
    if !seen {
        let known: Vec<&str> = config.verifiers.iter().map(|(name, _)| &**name).collect();
        return Err(anyhow!("no route has that name; the config has: {}", known.join(", ")).into());
    }
    if accepted { Ok(()) } else { Err(Failure::Said) }
}

/// Fetches the key sets by which the routes in question judge; what cannot be had is told.
fn fetch(config: &Config, route: Option<&str>, clock: &Clock) -> Result<Vec<Missing>, Failure> {
    let judging = config.verifiers.iter().filter(|(name, _)| route.is_none_or(|route| *route == **name));
    let issuers: BTreeSet<&str> =
        judging.flat_map(|(_, verifier)| &verifier.issuers).map(|issuer| &*issuer.name).collect();
    let sources = config.sources.iter().filter(|source| issuers.contains(&**source.issuer()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let missing = runtime.block_on(jwks::fetch(sources, clock));
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(missing)
}

/// Header and claims as they stand, with times for people; nothing here was verified.
fn show_parts(token: &Token, now: Wall) {
    let mut parts = token.expose().split('.');
    for what in ["header", "claims"] {
        let text = parts.next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let Some(text) = text.and_then(|bytes| String::from_utf8(bytes).ok()) else {
            anstream::println!(
                "{what}: {BAD}not readable{BAD:#}: base64url of UTF-8 is wanted (RFC 7515, section 3.1)"
            );
            continue;
        };
        // As the rules read it: another reader might show members that were not judged.
        let json = match json::object(&text, Dates::Plain) {
            Ok(object) => Value::Object(object.members),
            Err(error) => {
                anstream::println!("{what}: {BAD}not readable{BAD:#}: {error}");
                anstream::println!("  {}", printable(&text, 4000));
                continue;
            }
        };
        anstream::println!("{what} (as they stand, not verified):");
        // A JSON value that was just parsed can be written.
        let text = serde_json::to_string_pretty(&json).unwrap_or_default();
        let times: BTreeMap<&str, String> =
            TIMES.into_iter().filter_map(|name| Some((name, when(json.get(name)?.as_f64()?, now)?))).collect();
        for line in text.lines() {
            let line = printable(line, 400);
            let name = line.trim_start().strip_prefix('"').and_then(|line| line.split('"').next());
            match name.filter(|_| what == "claims").and_then(|name| times.get(name)) {
                Some(time) => anstream::println!("  {line}  {DIM}{time}{DIM:#}"),
                None => anstream::println!("  {line}"),
            }
        }
    }
}

/// A NumericDate for people: when, and how long from now.
fn when(seconds: f64, now: Wall) -> Option<String> {
    let at = Duration::try_from_secs_f64(seconds).ok().filter(|at| *at < YEAR_9999)?;
    let date = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(at.as_secs()));
    let whole = |distance: Duration| humane(Duration::from_secs(distance.as_secs()));
    let now = now.since_epoch();
    Some(match at.checked_sub(now) {
        Some(ahead) => format!("{date}, in {}", whole(ahead)),
        None => format!("{date}, {} ago", whole(now.saturating_sub(at))),
    })
}

const GOOD: anstyle::Style = anstyle::AnsiColor::Green.on_default().bold();
const BAD: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
const DIM: anstyle::Style = anstyle::Style::new().dimmed();
/// What stands before a token in `Authorization` (RFC 6750, section 2.1).
const BEARER: &str = "Bearer ";
const TIMES: [&str; 3] = ["exp", "iat", "nbf"];
/// The last second that RFC 3339 can write.
const YEAR_9999: Duration = Duration::from_secs(253_402_300_800);
