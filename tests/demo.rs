//! The demo, run as a newcomer would: it tells the whole story, and its exit code says how it went.
#![allow(clippy::unwrap_used)] // a test that cannot go on fails

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn demo(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("demo").args(arguments).current_dir(folder.path()).output().unwrap()
}

#[test]
fn without_a_terminal_it_plays_the_whole_exchange_and_ends_with_0() {
    let output = demo(&["--ttl", "2s"]);
    let told = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}\n{complained}");
    let mut rest = told.as_str();
    for expected in [
        "One stream, three tokens of 2 s",
        "+ 0.000 s  issuer    token for 2 s, message \"Good morning\"",
        "opens /verifier, token in the query: 101",
        "decodes it: \"Good morning\"",
        "confirmed",
        "opens /echo, token as a subprotocol: 101 bearer",
        "sees X-Subject: Good morning, and no token",
        "forged token: token_invalid; it moves nothing",
        "another session: 403  forbidden; it moves nothing",
        "issuer    token for 2 s, message \"Still me\"",
        "sends it on the same stream, which renews",
        "decodes it: \"Still me\"",
        "confirmed",
        "gateway   the deadline is that token's now, ",
        "unrenewed stream: 3000 \"token expired\"",
        "the first token: token_expired; the stream goes on",
        "issuer    token for 2 s, message \"And once more\"",
        "posts it with the stream's handle, which renews too",
        "gateway   200, at least 1 s left",
        "gateway   the deadline is that token's now, ",
        "decodes it: \"And once more\"",
        "the second token: token_expired; the stream goes on",
        "the third token expires",
        "renewed stream: 3000 \"token expired\"",
        "a ticket for 30 s, for one stream",
        "opens /echo, ticket in the query: 101",
        "sees X-Subject: Hello, and no token",
        "the same ticket once more: 401  token_invalid",
        "opens /first, without a token: 101",
        "sends {\"type\":\"connection_init\", ...} with it",
        "sees X-Subject: Hello, and no token",
        "a forged one: closed with 3000 \"token_invalid\"",
        "operator  revoked: ends 1 stream",
        "closed with 3003 \"token revoked\"",
        "the same session once more: 401  token_revoked",
        "forged signature   401  token_invalid",
        "expired            401  token_expired",
        "wrong audience     401  token_invalid",
        "no token           401  token_missing",
        "steps came out as expected",
    ] {
        let at = rest.find(expected).unwrap_or_else(|| panic!("not in its place: {expected}\n{told}"));
        rest = &rest[at + expected.len()..];
    }
    assert!(!told.contains("eyJ") && !complained.contains("eyJ"), "a token was printed");
    assert!(!told.contains('\u{1b}'), "colour without a terminal");
    assert!(told.lines().all(|line| line.chars().count() < 80), "{told}");
}

#[test]
fn two_demos_in_one_folder_have_a_ca_each_that_is_there_until_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut demos = [start(folder.path()), start(folder.path())];
    let files = demos.each_mut().map(|demo| {
        let out = BufReader::new(demo.stdout.take().unwrap());
        let (mut file, mut rest) = (None, out.lines());
        for line in rest.by_ref() {
            let line = line.unwrap();
            if let Some((_, path)) = line.split_once("browsers: ") {
                file = Some(folder.path().join(path));
            }
            if line.contains("opens /verifier") {
                break;
            }
        }
        (file.unwrap(), rest)
    });
    let [(first, mut first_rest), (second, mut second_rest)] = files;
    assert_ne!(first, second);
    let (one, two) = (std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    assert!(!one.is_empty() && one != two);
    while first_rest.next().is_some() {}
    while second_rest.next().is_some() {}
    for demo in &mut demos {
        assert!(demo.wait().unwrap().success());
    }
    assert!(!first.exists() && !second.exists(), "a CA that nothing is signed by any more is left behind");
}

fn start(folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["demo", "--once", "--ttl", "3s"]).current_dir(folder).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_time_without_sense_is_answered_with_what_a_time_looks_like() {
    for arguments in [["demo", "--ttl", "banana"], ["client", "--ttl", "banana"], ["client", "--leave-after", "5"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let complained = String::from_utf8(output.stderr).unwrap();
        assert!(complained.contains("a time with its unit, such as 10s"), "{complained}");
    }
}

#[test]
fn an_interrupt_ends_the_story_with_a_line_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start(folder.path());
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let opened = lines.by_ref().map(Result::unwrap).any(|line| line.contains("opens /verifier"));
    assert!(opened);
    let pid = rustix::process::Pid::from_raw(demo.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(!demo.wait().unwrap().success());
    assert_eq!(rest[rest.len() - 2..], ["", "Interrupted: the exchange was not played to its end."], "{rest:?}");
}

#[test]
fn a_lifetime_that_cannot_be_shown_is_refused_before_anything_starts() {
    for ttl in ["1s", "2500ms", "2h", "soon"] {
        let output = demo(&["--once", "--ttl", ttl]);
        assert_eq!(output.status.code(), Some(64), "{ttl}");
        assert!(output.stdout.is_empty());
    }
}
