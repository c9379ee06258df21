//! What the README tells people to type and to write works as it stands there.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{Authority, SECRET};
use rustix::process::{Pid, Signal, kill_process_group};

#[test]
fn every_config_in_the_readme_and_the_docs_is_a_good_one() {
    let mut seen = 0;
    for (file, block) in blocks("toml") {
        let folder = tempfile::tempdir().expect("a folder");
        common::doc::write(&block, folder.path());
        let check = portcullis(&["check", "--config"]).arg(folder.path().join("config.toml")).output().expect("check");
        let said = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{file}:\n{block}\n{}{said}", String::from_utf8_lossy(&check.stdout));
        seen += 1;
    }
    assert!(seen >= 1, "no config seen");
}

#[test]
fn every_verb_in_the_readme_and_the_docs_is_there() {
    let mut seen = 0;
    for (file, block) in blocks("sh").into_iter().chain(blocks("console")) {
        for line in block.lines() {
            let line = line.trim_start_matches("$ ").trim();
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "portcullis" || word.ends_with("/portcullis"));
            let at =
                at.or_else(|| words.iter().position(|word| *word == "--").filter(|_| line.starts_with("cargo run")));
            let Some(at) = at else { continue };
            let is_verb = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase());
            let verbs: Vec<&str> = words[at + 1..].iter().take_while(is_verb).copied().collect();
            if line.starts_with('#') || verbs.is_empty() {
                continue;
            }
            let flags =
                words[at + 1 + verbs.len()..].iter().take_while(|word| !matches!(**word, "|" | "&" | "#" | ">"));
            let help = portcullis(&verbs).arg("--help").output().expect("help");
            let text = String::from_utf8_lossy(&help.stdout);
            assert!(help.status.success(), "{file}: {line}\n{}", String::from_utf8_lossy(&help.stderr));
            for flag in flags.filter(|word| word.starts_with("--")) {
                let name = flag.split('=').next().expect("a name");
                assert!(text.contains(name), "{file}: {line}\n{name} is not in\n{text}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} commands seen");
}

#[test]
fn every_file_that_the_readme_and_the_docs_link_to_is_there() {
    let mut seen = 0;
    for (file, text) in texts() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().expect("a path");
            if path.is_empty() || path.contains("://") || path.contains(char::is_whitespace) {
                continue;
            }
            let target = root().join(&file).parent().expect("a folder").join(path);
            assert!(target.exists(), "{file} links to {path}");
            seen += 1;
        }
    }
    assert!(seen >= 3, "only {seen} links seen");
}

#[test]
fn the_default_config_passes_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let certs = folder.path().join("certs");
    std::fs::create_dir(&certs).expect("certs");
    Authority::new().write(&certs);
    std::fs::write(certs.join("token.secret"), SECRET).expect("token.secret");
    std::fs::copy(root().join("config.toml"), folder.path().join("config.toml")).expect("config.toml");
    let check = portcullis(&["check", "--config"]).arg(folder.path().join("config.toml")).output().expect("check");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

/// The commands of the README from a clone to a live stream, in one shell and in one go; only the ports are the system's,
/// and the program is the one that is tested.
#[test]
fn the_commands_of_the_readme_lead_to_a_live_stream() {
    let (_, block) = blocks("sh").into_iter().find(|(_, block)| block.contains(" client ")).expect("the commands");
    let folder = tempfile::tempdir().expect("a folder");
    let config = std::fs::read_to_string(root().join("config.toml")).expect("config.toml");
    let [public, service] = free_ports();
    let here = |text: &str| text.replace("8443", &public.to_string()).replace("9001", &service.to_string());
    std::fs::write(folder.path().join("config.toml"), here(&config)).expect("config.toml");
    assert!(block.contains("cargo build --release\n"), "{block}");
    let commands = here(&block)
        .replace("cargo build --release\n", "set -e\n")
        .replace("target/release/portcullis", env!("CARGO_BIN_EXE_portcullis"));

    let mut shell = Command::new("sh")
        .args(["-c", &commands])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh");
    let group = Pid::from_raw(shell.id().try_into().expect("an id")).expect("an id");
    let (sender, lines) = mpsc::channel();
    let out = BufReader::new(shell.stdout.take().expect("its output"));
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut told = String::new();
    let mut answered = false;
    // Until long after the first token has expired.
    while told.matches("\nrenewed ").count() < 2
        && let Ok(line) = lines.recv_timeout(Duration::from_secs(30))
    {
        answered |= line == "received  hello";
        told.push_str(&line);
        told.push('\n');
        if told.matches("\nopen\n").count() > 1 {
            break;
        }
    }
    // The shell and the services have a group of their own, so that this ends them and nothing else.
    kill_process_group(group, Signal::TERM).expect("a signal");
    shell.wait().expect("the shell");
    assert!(answered, "{told}");
    assert_eq!(told.matches("\nrenewed   on the same stream, at least ").count(), 2, "{told}");
    assert_eq!(told.matches("\nopen\n").count(), 1, "{told}");
    assert!(!told.contains("closed"), "{told}");
}

/// Two ports of this machine that nobody listens on.
fn free_ports() -> [u16; 2] {
    let listeners = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// The fenced blocks of one language, each with the file it stands in.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    for (file, text) in texts() {
        let mut block: Option<String> = None;
        for line in text.lines() {
            match (&mut block, line.trim().strip_prefix("```")) {
                (None, Some(info)) => block = Some(if info == language { String::new() } else { SKIP.into() }),
                (Some(text), Some(_)) => {
                    if !text.starts_with(SKIP) {
                        blocks.push((file.clone(), std::mem::take(text)));
                    }
                    block = None;
                }
                (Some(text), None) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (None, None) => {}
            }
        }
    }
    blocks
}

/// Marks a block of another language.
const SKIP: &str = "\0";

/// README.md and docs/*.md.
fn texts() -> Vec<(String, String)> {
    let mut files = vec!["README.md".to_owned()];
    for folder in ["docs", "docs/recipes"] {
        for entry in std::fs::read_dir(root().join(folder)).expect(folder) {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                files.push(format!("{folder}/{name}"));
            }
        }
    }
    let read = |file: String| (std::fs::read_to_string(root().join(&file)).expect("text"), file);
    files.into_iter().map(read).map(|(text, file)| (file, text)).collect()
}

fn portcullis(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments);
    command
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut seen = 0;
    for file in ["docs/security.md", "docs/architecture.md", "README.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file);
        for word in text.split('`') {
            let Some((place, name)) = word.rsplit_once("::").filter(|(_, name)| name.matches('_').count() > 2) else {
                continue;
            };
            let tests =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(place.replace("::", "/")).with_extension("rs");
            let source = std::fs::read_to_string(&tests).unwrap_or_default();
            assert!(source.contains(&format!("fn {name}(")), "{file} names {place}::{name}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} tests are named");
}
