//! Start, reload and leave: what the operator sees, and what live streams notice of it.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::{Backend, Gateway, Signal, claims, config, eventually, field, folder, instant, sign, token};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
const OTHER_SECRET: &str = "another secret, also longer than 32 bytes";

#[tokio::test]
async fn sighup_brings_new_keys_and_leaves_live_streams_alone() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let mut old = gateway.open(&token(MINUTE)).await;
    std::fs::write(gateway.path("token.secret"), OTHER_SECRET).expect("the secret");
    gateway.signal(Signal::HUP);
    let fresh = sign(&json!({"alg": "HS256"}), &claims(MINUTE), OTHER_SECRET.as_bytes());
    until_status(&gateway, &fresh, 101).await;
    until_status(&gateway, &token(MINUTE), 401).await;
    old.text("still here").await;
    assert_eq!(old.frame().await.text(), "still here");
}

#[tokio::test]
async fn sighup_with_a_bad_file_says_so_and_changes_nothing() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let mut old = gateway.open(&token(MINUTE)).await;
    for bad in ["[[route]\n".to_owned(), config(&backend.url(), "carrots = [\"header\"]"), config("http://nowhere", "")]
    {
        let before = gateway.log().len();
        std::fs::write(gateway.path("config.toml"), bad).expect("the config");
        gateway.signal(Signal::HUP);
        eventually("a complaint in the log", || gateway.log()[before..].contains("\"ERROR\"")).await;
        old.text("still here").await;
        assert_eq!(old.frame().await.text(), "still here");
        gateway.open(&token(MINUTE)).await;
    }
    // A good one counts again.
    std::fs::write(gateway.path("config.toml"), config(&backend.url(), "path = \"/new\"")).expect("the config");
    gateway.signal(Signal::HUP);
    until_status(&gateway, &token(MINUTE), 404).await;
}

#[tokio::test]
async fn a_route_that_is_gone_ends_its_streams_and_no_others() {
    let backend = Backend::echo().await;
    let both = format!("[[route]]\nname = \"second\"\npath = \"/second\"\nupstream = \"{}\"", backend.url());
    let gateway = Gateway::start(&config(&backend.url(), &both)).await;
    let mut stays = gateway.open(&token(MINUTE)).await;
    let (reply, mut goes) = gateway.ask(&format!("/second?access_token={}", token(MINUTE)), "").await;
    assert_eq!(reply.status, 101);
    std::fs::write(gateway.path("config.toml"), config(&backend.url(), "")).expect("the config");
    gateway.signal(Signal::HUP);
    assert_eq!(goes.frame().await.close_code(), (1012, "service restart"));
    goes.close(1012, "").await;
    stays.text("still here").await;
    assert_eq!(stays.frame().await.text(), "still here");
    // The log tells it from a gateway that leaves.
    let end = gateway.logged("the end of the stream", |line| field(line, "by").is_some()).await;
    assert_eq!(field(&end, "cause"), Some(&json!("route_gone")), "{end}");
    assert_eq!(field(&end, "code"), Some(&json!(1012)), "{end}");
}

#[tokio::test]
async fn live_streams_keep_the_rules_they_began_with() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let mut old = gateway.open(&token(Duration::from_secs(4))).await;
    let other = "close.expired = { code = 4401, reason = \"come back\" }\npath = \"/new\"";
    std::fs::write(gateway.path("config.toml"), config(&backend.url(), other)).expect("the config");
    gateway.signal(Signal::HUP);
    until_status(&gateway, &token(MINUTE), 404).await;
    let (reply, mut new) = gateway.ask(&format!("/new?access_token={}", token(Duration::from_secs(1))), "").await;
    assert_eq!(reply.status, 101);
    assert_eq!(new.frame().await.close_code(), (4401, "come back"));
    assert_eq!(old.frame().await.close_code(), (3000, "token expired"));
}

#[tokio::test]
async fn sighup_brings_a_new_certificate() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let mut old = gateway.open(&token(MINUTE)).await;
    let before = gateway.connect().await.certificate();
    let (certificate, key) = gateway.authority().leaf(&["localhost", "new.test"]);
    std::fs::write(gateway.path("cert.pem"), certificate).expect("cert.pem");
    // Between the two writes certificate and key do not match: a reload now must change nothing.
    gateway.signal(Signal::HUP);
    eventually("a complaint in the log", || gateway.log().contains("\"ERROR\"")).await;
    assert_eq!(gateway.connect().await.certificate(), before);
    std::fs::write(gateway.path("key.pem"), key).expect("key.pem");
    gateway.signal(Signal::HUP);
    let start = instant();
    while gateway.connect().await.certificate() == before {
        assert!(start.elapsed() < common::PATIENCE, "the old certificate is still served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    old.text("still here").await;
    assert_eq!(old.frame().await.text(), "still here");
}

#[tokio::test]
async fn portcullis_reload_does_what_sighup_does() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), "[server]\npid_file = \"gateway.pid\"");
    let gateway = Gateway::start(&text).await;
    std::fs::write(gateway.path("token.secret"), OTHER_SECRET).expect("the secret");
    let mut reload = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    reload.arg("reload").arg("--config").arg(gateway.path("config.toml"));
    let done = reload.output().expect("reload");
    assert!(done.status.success(), "{}", said(&done));
    until_status(&gateway, &token(MINUTE), 401).await;
}

#[tokio::test]
async fn portcullis_reload_signals_nothing_but_a_gateway() {
    let text = config("ws://127.0.0.1:9", "[server]\npid_file = \"gateway.pid\"");
    let (files, _) = folder(&text);
    let reload = |more: &[&str]| {
        let mut reload = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        reload.arg("reload").arg("--config").arg(files.path().join("config.toml")).args(more);
        reload.output().expect("reload")
    };
    // One that is no portcullis, and one that is, but no gateway.
    let sleeper = Command::new("sleep").arg("300").spawn();
    let verifier = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["backend", "echo", "--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::null())
        .spawn();
    for child in [sleeper, verifier] {
        let mut child = child.expect("a process");
        let pid = child.id().to_string();
        write(files.path(), "gateway.pid", &pid);
        let by_file = reload(&[]);
        let by_number = reload(&["--pid", &pid]);
        let ended = child.try_wait().expect("its state");
        let _ = child.kill();
        let _ = child.wait();
        assert!(ended.is_none(), "it was ended by a signal: {ended:?}");
        assert_eq!(by_file.status.code(), Some(1), "{}", said(&by_file));
        assert!(said(&by_file).contains(&format!("process {pid} is not a portcullis gateway")), "{}", said(&by_file));
        assert!(said(&by_file).contains("gateway.pid is stale: remove it"), "{}", said(&by_file));
        assert_eq!(by_number.status.code(), Some(1), "{}", said(&by_number));
        assert!(
            said(&by_number).contains(&format!("process {pid} is not a portcullis gateway")),
            "{}",
            said(&by_number)
        );
    }
}

#[tokio::test]
async fn portcullis_reload_finds_the_gateway_by_its_number_too() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let mut reload = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    reload.arg("reload").arg("--config").arg(gateway.path("config.toml")).arg("--pid").arg(gateway.pid().to_string());
    let done = reload.output().expect("reload");
    assert!(done.status.success(), "{}", said(&done));
    gateway.logged("the reload", |line| field(line, "message") == Some(&json!("reloaded"))).await;
}

#[tokio::test]
async fn two_gateways_cannot_share_a_pid_file() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "[server]\npid_file = \"gateway.pid\"")).await;
    eventually("the pid file", || gateway.path("gateway.pid").exists()).await;
    let second =
        Gateway::command(gateway.path("config.toml").parent().expect("its folder")).output().expect("a second");
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("gateway.pid"), "{}", said(&second));
    let written = std::fs::read_to_string(gateway.path("gateway.pid")).expect("the pid file");
    assert_eq!(written.trim(), gateway.pid().to_string());
}

#[tokio::test]
async fn the_first_line_says_what_is_started() {
    let gateway = Gateway::start(&config("ws://127.0.0.1:9", "")).await;
    let line = gateway.logged("the start", |line| field(line, "message") == Some(&json!("starting"))).await;
    assert_eq!(field(&line, "version"), Some(&json!(env!("CARGO_PKG_VERSION"))), "{line}");
    assert_eq!(field(&line, "pid"), Some(&json!(gateway.pid())), "{line}");
    assert_eq!(field(&line, "config"), Some(&json!(gateway.path("config.toml").display().to_string())), "{line}");
    assert_eq!((field(&line, "routes"), field(&line, "issuers")), (Some(&json!(1)), Some(&json!(1))), "{line}");
    let files = gateway.logged("open files", |line| field(line, "message") == Some(&json!("open files"))).await;
    assert!(field(&files, "was").is_none_or(serde_json::Value::is_u64), "{files}");
    assert!(field(&files, "limit").is_none_or(serde_json::Value::is_u64), "{files}");
}

#[tokio::test]
async fn a_limit_on_open_files_that_is_too_low_is_told_with_its_remedy() {
    let gateway = Gateway::start(&config("ws://127.0.0.1:9", "[server]\nmax_connections = 10000000")).await;
    let files = gateway.logged("open files", |line| field(line, "message") == Some(&json!("open files"))).await;
    // Few machines let a process open 20 million files.
    if field(&files, "limit").and_then(serde_json::Value::as_u64).is_none_or(|limit| limit >= 20_000_064) {
        return;
    }
    let told = gateway.logged("a warning", |line| field(line, "needed") == Some(&json!(20_000_064))).await;
    let text = field(&told, "message").and_then(serde_json::Value::as_str).unwrap_or_default();
    assert!(text.starts_with("10000000 connections (max_connections) and as many to services need 20000064"), "{text}");
    assert!(text.contains("; the hard limit is ") && text.ends_with("or lower max_connections"), "{text}");
}

#[tokio::test]
async fn a_service_that_is_down_is_a_warning_and_a_bad_token_is_not() {
    let gateway = Gateway::start(&config("ws://127.0.0.1:9", "")).await;
    until_status(&gateway, &token(MINUTE), 502).await;
    until_status(&gateway, "x", 401).await;
    let down = gateway.logged("the 502", |line| field(line, "status") == Some(&json!(502))).await;
    let bad = gateway.logged("the 401", |line| field(line, "status") == Some(&json!(401))).await;
    assert_eq!((&down["level"], &bad["level"]), (&json!("WARN"), &json!("INFO")), "{down}\n{bad}");
}

#[tokio::test]
async fn sigterm_and_sigint_end_live_streams_with_1012_and_leave_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut backend = Backend::start().await;
        let mut gateway = Gateway::start(&config(&backend.url(), "")).await;
        let (mut client, mut service) = gateway.open_with(&token(MINUTE), &mut backend).await;
        gateway.signal(signal);
        assert_eq!(service.frame().await.close_code().0, 1001);
        // An answer that is on its way still arrives, then the Close.
        service.text("last answer").await;
        service.close(1001, "").await;
        assert_eq!(client.frame().await.text(), "last answer");
        assert_eq!(client.frame().await.close_code(), (1012, "service restart"));
        client.close(1012, "").await;
        assert!(gateway.exit(Duration::from_secs(10)).await.success());
        let end = gateway.logged("the stream's end", |line| field(line, "cause") == Some(&json!("drain"))).await;
        assert_eq!(field(&end, "code"), Some(&json!(1012)), "{end}");
    }
}

#[tokio::test]
async fn while_it_drains_new_streams_are_refused() {
    let mut backend = Backend::start().await;
    let mut gateway = Gateway::start(&config(&backend.url(), "[server]\ndrain_window = \"1s\"")).await;
    let (mut client, _service) = gateway.open_with(&token(MINUTE), &mut backend).await;
    let mut waiting = gateway.connect().await;
    // An answered request, so that the connection is surely accepted.
    waiting.request(&gateway.upgrade("/", "").replace("Upgrade: websocket\r\n", "")).await;
    gateway.signal(Signal::TERM);
    gateway.logged("drain begins", |line| line.to_string().contains("drain")).await;
    let sent = waiting.try_raw(gateway.upgrade(&format!("/?access_token={}", token(MINUTE)), "").as_bytes()).await;
    if let (Ok(()), Ok(reply)) = (sent, waiting.reply().await) {
        assert_eq!(reply.status, 503, "{}", reply.head);
        assert!(reply.header("retry-after").is_some(), "{}", reply.head);
    }
    assert_eq!(client.frame().await.close_code(), (1012, "service restart"));
    drop(client);
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
    assert_eq!(backend.dialled(), 1);
}

#[tokio::test]
async fn a_second_signal_leaves_at_once() {
    let mut backend = Backend::start().await;
    let mut gateway = Gateway::start(&config(&backend.url(), "close_timeout = \"14s\"")).await;
    let (mut client, _service) = gateway.open_with(&token(MINUTE), &mut backend).await;
    gateway.signal(Signal::TERM);
    assert_eq!(client.frame().await.close_code().0, 1012);
    // Nobody answers the Close, so the first signal alone would wait.
    gateway.signal(Signal::TERM);
    gateway.exit(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn leaving_takes_no_longer_than_the_drain_timeout() {
    let mut backend = Backend::start().await;
    let server = "close_timeout = \"14s\"\n[server]\ndrain_window = \"0s\"\ndrain_timeout = \"1s\"";
    let mut gateway = Gateway::start(&config(&backend.url(), server)).await;
    let (_client, _service) = gateway.open_with(&token(MINUTE), &mut backend).await;
    let begun = instant();
    gateway.signal(Signal::TERM);
    assert!(gateway.exit(Duration::from_secs(5)).await.success());
    assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_with_an_exit_code() {
    let backend = Backend::echo().await;
    let url = backend.url();
    let good = config(&url, "");
    let in_use = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = in_use.local_addr().expect("address").to_string();
    let nothing: Spoil = |_| {};
    let table: Vec<(&str, String, Spoil, i32, Vec<String>)> = vec![
        ("port in use", good.replace("127.0.0.1:0", &taken), nothing, 1, vec![taken.clone(), "in use".into()]),
        ("no config", good.clone(), |at| remove(at, "config.toml"), 64, vec!["config.toml".into()]),
        ("no certificate", good.clone(), |at| remove(at, "cert.pem"), 64, vec!["cert.pem".into()]),
        ("no key", good.clone(), |at| remove(at, "key.pem"), 64, vec!["key.pem".into()]),
        ("no secret", good.clone(), |at| remove(at, "token.secret"), 64, vec!["token.secret".into()]),
        (
            "a short secret",
            good.clone(),
            |at| write(at, "token.secret", "short"),
            64,
            vec!["token.secret".into(), "at least 32".into()],
        ),
        ("another key", good.clone(), other_key, 64, vec!["key.pem is not the key of".into(), "cert.pem".into()]),
        ("no certificate in it", good.clone(), |at| write(at, "cert.pem", "hello"), 64, vec!["cert.pem".into()]),
        (
            "a wrong key type",
            good.replace("HS256", "RS256").replace("secret_file", "pem_file"),
            nothing,
            64,
            vec!["token.secret".into()],
        ),
        (
            "three mistakes at once",
            config("http://x", "carriars = []\nclose_timeout = \"5 parsecs\""),
            nothing,
            64,
            vec!["carriars".into(), "carriers".into(), "parsecs".into(), "http://x".into(), "config.toml:".into()],
        ),
    ];
    for (what, text, spoil, code, words) in table {
        let (files, _) = folder(&text);
        spoil(files.path());
        let output = Gateway::command(files.path()).output().expect("the program");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{what}: {said}");
        for word in words {
            assert!(said.contains(&word), "{what}: nothing of {word:?} in\n{said}");
        }
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert!(!said.contains(common::SECRET), "{what}: {said}");
    }
}

/// Makes a folder unfit for a start.
type Spoil = fn(&Path);

fn remove(folder: &Path, name: &str) {
    std::fs::remove_file(folder.join(name)).expect("remove");
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("write");
}

fn other_key(folder: &Path) {
    let (_, key) = common::Authority::new().leaf(&["localhost"]);
    write(folder, "key.pem", &key);
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asks with `token` until the answer has this status.
async fn until_status(gateway: &Gateway, token: &str, status: u16) {
    let start = instant();
    loop {
        let (reply, _link) = gateway.ask(&format!("/?access_token={token}"), "").await;
        if reply.status == status {
            return;
        }
        assert!(start.elapsed() < common::PATIENCE, "still {} and not {status}\n{}", reply.status, gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
