//! `portcullis streams`, `end`, `revoke` and `revocations`: the admin listener of a running gateway, from a shell.
//!
//! The listener is found in the config, with its secret, or named by `--admin`. Nothing secret is ever an argument.

pub(super) mod ask;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{ConfigFile, Failure};
use crate::backend::moves;
use crate::clock::{Clock, humane};
use ask::Operator;
use hyper::Method;

/// Where the admin listener is.
#[derive(Debug, Args)]
pub(super) struct Where {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// The admin listener: 127.0.0.1:9443, unix:/path or https://name:port [default: the one in the config]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// A file with the listener's secret [default: the one in the config, if the listener is that of the config]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The CA that has signed the listener's certificate, PEM [default: the system's roots]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate, PEM, where the listener asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// Arguments of `portcullis streams`.
#[derive(Debug, Args)]
pub(super) struct StreamsArguments {
    #[command(flatten)]
    place: Where,
    /// One JSON object a line, with all that is known
    #[arg(long)]
    json: bool,
}

/// Arguments of `portcullis end`.
#[derive(Debug, Args)]
pub(super) struct EndArguments {
    /// The stream's number, as `portcullis streams` and the log show it
    #[arg(value_name = "ID")]
    id: u64,
    #[command(flatten)]
    place: Where,
}

/// Arguments of `portcullis revoke`.
#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    /// The issuer: its `iss`, or its name in the config where `iss` is not checked
    #[arg(long, value_name = "ISS")]
    iss: String,
    #[command(flatten)]
    what: What,
    /// Only tokens issued before: "now", seconds since 1970, or 2026-11-22T10:00:00Z; with --sub
    #[arg(long, value_name = "TIME", conflicts_with_all = ["jti", "sid"])]
    issued_before: Option<String>,
    /// For how long, such as 1h [default: as long as a token of the issuer may live]
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    life: Option<Duration>,
    #[command(flatten)]
    place: Where,
}

/// Which tokens.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The one token with this `jti`
    #[arg(long)]
    jti: Option<String>,
    /// All tokens of this subject
    #[arg(long)]
    sub: Option<String>,
    /// All tokens of this session
    #[arg(long)]
    sid: Option<String>,
}

/// Arguments of `portcullis revocations`.
#[derive(Debug, Args)]
pub(super) struct RevocationsArguments {
    /// Lift this one, instead of listing them
    #[arg(long, value_name = "ID")]
    lift: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

/// Lists live streams.
pub(super) fn streams(arguments: &StreamsArguments) -> Result<(), Failure> {
    let head = ["STREAM", "ROUTE", "ADDRESS", "PRINCIPAL", "OPEN FOR", "EXPIRES IN", "RENEWALS", "UP", "DOWN"];
    let now = Clock::system().now().wall.as_secs();
    let row = |stream: &Value| {
        let number = |name: &str| stream[name].as_u64().unwrap_or_default();
        let span = |seconds| humane(Duration::from_secs(seconds));
        let left = stream["expires_in"].as_f64().and_then(|left| Duration::try_from_secs_f64(left).ok());
        let passed =
            |way: &str| format!("{} ({} B)", number(&format!("frames_{way}")), number(&format!("bytes_{way}")));
        vec![
            number("id").to_string(),
            shown(&stream["route"]),
            shown(&stream["address"]),
            shown(&stream["principal"]),
            span(now.saturating_sub(number("since"))),
            left.map_or_else(|| "never".to_owned(), |left| span(left.as_secs())),
            number("renewals").to_string(),
            passed("up"),
            passed("down"),
        ]
    };
    list(&arguments.place, "streams", arguments.json, &head, row)
}

/// Ends one stream.
pub(super) fn end(arguments: &EndArguments) -> Result<(), Failure> {
    let operator = Operator::find(&arguments.place)?;
    operator.ask(&Method::DELETE, &format!("/streams/{}", arguments.id), None)?;
    anstream::println!("stream {} was told to end", arguments.id);
    Ok(())
}

/// Bans tokens.
pub(super) fn revoke(arguments: &RevokeArguments) -> Result<(), Failure> {
    let now = Clock::system().now().wall;
    let mut wish = Map::new();
    wish.insert("iss".to_owned(), arguments.iss.clone().into());
    let What { jti, sub, sid } = &arguments.what;
    for (name, value) in [("jti", jti), ("sub", sub), ("sid", sid)] {
        wish.extend(value.as_ref().map(|value| (name.to_owned(), value.clone().into())));
    }
    if let Some(text) = &arguments.issued_before {
        let time = seconds(text, now.since_epoch().as_secs_f64()).ok_or_else(|| {
            Failure::Usage("--issued-before takes \"now\", seconds since 1970, or 2026-11-22T10:00:00Z".to_owned())
        })?;
        wish.insert("issued_before".to_owned(), json!(time));
    }
    if let Some(life) = arguments.life {
        wish.insert("until".to_owned(), json!(now.saturating_add(life).since_epoch().as_secs_f64()));
    }
    let answer = Operator::find(&arguments.place)?.ask(&Method::POST, "/revocations", Some(&Value::Object(wish)))?;
    let ended = match answer["ended"].as_u64().unwrap_or_default() {
        1 => "1 live stream was told to end".to_owned(),
        ended => format!("{ended} live streams were told to end"),
    };
    anstream::println!("revoked until {}: {}; {ended}", time(&answer["until"], "it is lifted"), shown(&answer["id"]));
    Ok(())
}

/// Lists bans, or lifts one.
pub(super) fn revocations(arguments: &RevocationsArguments) -> Result<(), Failure> {
    if let Some(id) = &arguments.lift {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Failure::Usage("--lift takes an ID as `portcullis revocations` shows it".to_owned()));
        }
        Operator::find(&arguments.place)?.ask(&Method::DELETE, &format!("/revocations/{id}"), None)?;
        anstream::println!("lifted");
        return Ok(());
    }
    let head = ["ID", "ISSUER", "WHAT", "ISSUED BEFORE", "UNTIL"];
    let row = |ban: &Value| {
        let kind = ["jti", "sid", "sub"].into_iter().find(|kind| ban.get(kind).is_some()).unwrap_or_default();
        let what = format!("{kind} {}", shown(&ban[kind]));
        vec![
            shown(&ban["id"]),
            shown(&ban["iss"]),
            what,
            time(&ban["issued_before"], "-"),
            time(&ban["until"], "no end"),
        ]
    };
    list(&arguments.place, "revocations", arguments.json, &head, row)
}

/// Prints a whole list, page by page.
fn list(
    place: &Where,
    name: &str,
    json: bool,
    head: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<(), Failure> {
    let operator = Operator::find(place)?;
    let (mut rows, mut query) = (vec![head.iter().map(ToString::to_string).collect::<Vec<_>>()], String::new());
    loop {
        let page = operator.ask(&Method::GET, &format!("/{name}{query}"), None)?;
        let entries = page[name].as_array().ok_or_else(|| anyhow!("the listener answers nothing that is a list"))?;
        if json {
            let lines: Vec<String> = entries.iter().map(line).collect();
            if !lines.is_empty() && !print(&(lines.join("\n") + "\n"))? {
                return Ok(());
            }
        } else {
            rows.extend(entries.iter().map(&row));
        }
        match &page["next"] {
            Value::Null => break,
            Value::String(next) => query = format!("?after={next}"),
            next => query = format!("?after={next}"),
        }
    }
    if !json {
        print(&table(&rows))?;
    }
    Ok(())
}

/// Columns as wide as they must be.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// False if whoever read it has had enough.
pub(super) fn print(text: &str) -> Result<bool, Failure> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A string of the answer, without what would do something to a terminal.
pub(super) fn shown(value: &Value) -> String {
    value.as_str().unwrap_or_default().escape_debug().to_string()
}

/// JSON on one line; what would do something to a terminal is escaped, which only strings can hold.
pub(super) fn line(value: &Value) -> String {
    let mut line = String::new();
    for character in value.to_string().chars() {
        if moves(character) {
            line.extend(character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            line.push(character);
        }
    }
    line
}

/// Seconds since the epoch, as a date.
pub(super) fn time(seconds: &Value, absent: &str) -> String {
    let time = seconds.as_u64().and_then(|seconds| std::time::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    time.map_or_else(|| absent.to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// A time as it is typed, in seconds since the epoch.
fn seconds(text: &str, now: f64) -> Option<f64> {
    if text == "now" {
        return Some(now);
    }
    let date = || {
        let since = humantime::parse_rfc3339_weak(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    };
    text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0).or_else(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("now", Some(7.5)),
            ("100", Some(100.0)),
            ("1970-01-01T00:01:40Z", Some(100.0)),
            ("1970-01-01 00:01:40", Some(100.0)),
            ("-1", None),
            ("NaN", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(seconds(text, 7.5), expected, "{text}");
        }
    }

    #[test]
    fn a_table_has_straight_columns_and_nothing_that_moves_a_terminal() {
        let cell = |text: &str| shown(&json!(text));
        let rows = [vec!["A".into(), "B".into()], vec![cell("\u{1b}[2J"), cell("é")]];
        assert_eq!(table(&rows), "A          B\n\\u{1b}[2J  é\n");
    }
    #[test]
    fn json_moves_no_terminal_and_says_the_same() {
        let value = json!({ "kid": "\u{1b}]0;pwn\u{7}\u{9b}2J\u{7f}\u{202e}\u{61c}\n\"é" });
        let text = line(&value);
        assert!(!text.contains(moves), "{text:?}");
        assert_eq!(text, r#"{"kid":"\u001b]0;pwn\u0007\u009b2J\u007f\u202e\u061c\n\"é"}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
