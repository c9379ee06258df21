//! The probes and the admin listener: what they tell, what they change, and whom they turn away.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::{
    ADMIN, Admin, Backend, Gateway, ISSUER, Link, Role, Signal, ban, claims, config, folder, instant, mint, token,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const MINUTE: Duration = Duration::from_secs(60);
const SECRET: &str = "an-admin-secret-of-more-than-32-bytes";

async fn start(backend: &Backend, more: &str) -> (Gateway, Admin) {
    let gateway = Gateway::start(&config(&backend.url(), more)).await;
    let admin = Admin::of(&gateway).await;
    (gateway, admin)
}

/// Runs a verb of the program against the config in this folder.
fn verb(folder: &Path, arguments: &[&str]) -> Output {
    let (verb, rest) = arguments.split_first().expect("a verb");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg(verb).arg("--config").arg(folder.join("config.toml")).args(rest);
    command.output().expect("the program")
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn probes_tell_health_and_metrics_and_nothing_else() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), &format!("{ADMIN}[probes]\naddress = \"127.0.0.1:0\""));
    let gateway = Gateway::start(&text).await;
    let probes = Admin { address: gateway.listener("probes").await };
    for probe in [probes, Admin::of(&gateway).await] {
        assert_eq!(probe.read("/livez").await, "live\n");
        assert_eq!(probe.read("/readyz").await, "ready\n");
        assert!(probe.read("/metrics").await.ends_with("# EOF\n"));
    }
    // A monitor may call it by any name or address.
    assert_eq!(probes.raw("GET", "/livez", "Host: 10.1.2.3:9090\r\n", "").await.status, 200);
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/streams", 404),
        ("GET", "/revocations", 404),
        ("GET", "/livez/", 404),
        ("POST", "/livez", 405),
        ("POST", "/drain", 405),
        ("DELETE", "/streams/1", 405),
    ] {
        assert_eq!(probes.ask(method, path, None).await.0, status, "{method} {path}");
    }
}

#[tokio::test]
async fn while_it_leaves_it_lives_but_is_not_ready() {
    let mut backend = Backend::start().await;
    let more = "close_timeout = \"3s\"\n[server]\ndrain_window = \"0s\"\n[probes]\naddress = \"127.0.0.1:0\"";
    let mut gateway = Gateway::start(&config(&backend.url(), more)).await;
    let probes = Admin { address: gateway.listener("probes").await };
    // A client that does not answer its Close holds the gateway for a while.
    let (_client, _service) = gateway.open_with(&token(MINUTE), &mut backend).await;
    gateway.signal(Signal::TERM);
    gateway.logged("draining", |line| line.to_string().contains("draining")).await;
    let reply = probes.raw("GET", "/readyz", "Host: x\r\n", "").await;
    assert_eq!((reply.status, reply.body_text()), (503, "draining\n"));
    assert_eq!(probes.read("/livez").await, "live\n");
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn live_streams_are_listed_with_what_they_have_carried_and_in_pages() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, ADMIN).await;
    let mut first = claims(MINUTE);
    first["jti"] = "number one".into();
    let mut links = vec![gateway.open(&mint(&first)).await];
    for _ in 0..4 {
        links.push(gateway.open(&token(Duration::from_secs(30))).await);
    }
    links[0].text("hello").await;
    assert_eq!(links[0].frame().await.text(), "hello");
    // Told at the end of the turn in which the frame went down.
    admin.metric_becomes("portcullis_bytes_total{direction=\"downstream\"}", 7.0).await;
    let streams = admin.streams().await;
    let ids: Vec<u64> = streams.iter().map(|stream| stream["id"].as_u64().expect("a number")).collect();
    assert_eq!(ids.len(), 5);
    assert!(ids.is_sorted());
    let one = &streams[0];
    for (name, expected) in [
        ("route", json!("default")),
        ("jti", json!("number one")),
        ("renewals", json!(0)),
        ("frames_up", json!(1)),
        ("bytes_up", json!(11)),
        ("frames_down", json!(1)),
        ("bytes_down", json!(7)),
    ] {
        assert_eq!(one[name], expected, "{name} in {one}");
    }
    assert!(one["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{one}");
    let principal = one["principal"].as_str().expect("a hash");
    assert!(principal.len() == 16 && principal.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
    assert!(one["expires_in"].as_f64().is_some_and(|left| left > 50.0 && left <= 60.0), "{one}");
    assert!(one["since"].as_u64().is_some_and(|since| since.abs_diff(common::now().as_secs()) < 30), "{one}");
    assert!(!one.to_string().contains("someone"), "a subject is never told: {one}");

    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = admin.ask("GET", &format!("/streams?limit=2{after}"), None).await;
        assert_eq!(page["total"], 5);
        let some = page["streams"].as_array().expect("a list");
        assert!(some.len() <= 2);
        seen.extend(some.iter().map(|stream| stream["id"].as_u64().expect("a number")));
        match page["next"].as_u64() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    for query in ["limit=0", "limit=1001", "limit=x", "after=x", "x=1", "after"] {
        assert_eq!(admin.ask("GET", &format!("/streams?{query}"), None).await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn an_operator_ends_one_stream_and_its_client_may_come_back() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, ADMIN).await;
    let (mut ends, mut stays) = (gateway.open(&token(MINUTE)).await, gateway.open(&token(MINUTE)).await);
    let id = admin.streams().await[0]["id"].clone();
    let (status, answer) = admin.ask("DELETE", &format!("/streams/{id}"), None).await;
    assert_eq!((status, &answer["ended"]), (202, &id), "{answer}");
    assert_eq!(ends.frame().await.close_code(), (1012, "service restart"));
    ends.close(1012, "").await;
    drop(ends);
    stays.text("still here").await;
    assert_eq!(stays.frame().await.text(), "still here");
    gateway.logged("the end", |line| common::field(line, "cause") == Some(&json!("ended_by_operator"))).await;
    admin.metric_becomes("portcullis_streams{route=\"default\"}", 1.0).await;
    for gone in [id.to_string(), "12345".into(), "x".into(), "-1".into()] {
        let (status, answer) = admin.ask("DELETE", &format!("/streams/{gone}"), None).await;
        assert_eq!((status, answer["reason"].as_str()), (404, Some("stream_gone")), "{gone}");
    }
}

#[tokio::test]
async fn an_operator_has_the_gateway_leave_in_order() {
    let backend = Backend::echo().await;
    let (mut gateway, admin) = start(&backend, &format!("[server]\ndrain_window = \"0s\"\n{ADMIN}")).await;
    let mut client = gateway.open(&token(MINUTE)).await;
    let (status, answer) = admin.ask("POST", "/drain", Some(json!({}))).await;
    assert_eq!((status, &answer["draining"]), (202, &json!(true)));
    assert_eq!(client.frame().await.close_code(), (1012, "service restart"));
    client.close(1012, "").await;
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn a_name_that_was_made_to_lead_here_opens_nothing() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, &format!("{ADMIN}hosts = [\"ops.example\"]")).await;
    let _live = gateway.open(&token(MINUTE)).await;
    for path in ["/", "/page.js", "/livez", "/metrics", "/streams", "/revocations"] {
        for host in ["evil.example", "localhost.evil.example", "ops.example.evil.example", ""] {
            let reply = admin.raw("GET", path, &format!("Host: {host}\r\n"), "").await;
            assert_eq!(reply.status, 421, "{path} as {host:?}");
        }
        for host in ["localhost:9443", "127.0.0.1", "[::1]:1", "OPS.example:9443"] {
            let reply = admin.raw("GET", path, &format!("Host: {host}\r\n"), "").await;
            assert_eq!(reply.status, 200, "{path} as {host:?}");
        }
    }
    let json = "Host: evil.example\r\nContent-Type: application/json\r\n";
    assert_eq!(admin.raw("POST", "/drain", json, "{}").await.status, 421);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_the_operators_browser() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, ADMIN).await;
    let mut live = gateway.open(&token(MINUTE)).await;
    let id = admin.streams().await[0]["id"].clone();
    let wish = ban("sub", "someone").to_string();
    let host = format!("Host: localhost:{}\r\n", admin.address.port());
    let changes =
        [("POST", "/revocations".to_owned()), ("POST", "/drain".into()), ("DELETE", format!("/streams/{id}"))];
    for (method, path) in &changes {
        for (lines, status) in [
            // What a form or a link of another site can send.
            ("Content-Type: text/plain\r\n", 415),
            ("Content-Type: application/x-www-form-urlencoded\r\n", 415),
            ("", 415),
            // What a script of another site would send if it were let.
            ("Content-Type: application/json\r\nOrigin: https://evil.example\r\n", 403),
            ("Content-Type: application/json\r\nOrigin: null\r\n", 403),
            ("Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n", 403),
            ("Content-Type: application/json\r\nSec-Fetch-Site: same-site\r\n", 403),
        ] {
            let reply = admin.raw(method, path, &format!("{host}{lines}"), &wish).await;
            assert_eq!(reply.status, status, "{method} {path} with {lines:?}");
            assert!(reply.header("access-control-allow-origin").is_none(), "{}", reply.head);
        }
        let preflight = "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
        let reply = admin.raw("OPTIONS", path, &format!("{host}{preflight}"), "").await;
        assert!(reply.status >= 400 && reply.header("access-control-allow-origin").is_none(), "{}", reply.head);
    }
    let reply = admin.raw("GET", "/streams", &format!("{host}Sec-Fetch-Site: cross-site\r\n"), "").await;
    assert_eq!(reply.status, 403);
    live.text("nothing has happened").await;
    assert_eq!(live.frame().await.text(), "nothing has happened");
    assert_eq!(admin.ask("GET", "/revocations", None).await.1["total"], 0);
    // Its own page may.
    let own = format!(
        "{host}Origin: http://localhost:{}\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/json\r\n",
        admin.address.port()
    );
    assert_eq!(admin.raw("POST", "/revocations", &own, &wish).await.status, 201);
}

#[tokio::test]
async fn with_a_secret_nothing_is_told_or_changed_without_it() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), &format!("{ADMIN}secret_env = \"ADMIN_SECRET\""));
    let gateway = Gateway::start_with(&text, |command| {
        command.env("ADMIN_SECRET", SECRET);
    })
    .await;
    let admin = Admin::of(&gateway).await;
    let _live = gateway.open(&token(MINUTE)).await;
    let host = "Host: localhost\r\nContent-Type: application/json\r\n";
    for (method, path) in [
        ("GET", "/streams"),
        ("GET", "/revocations"),
        ("GET", "/metrics"),
        ("POST", "/revocations"),
        ("POST", "/drain"),
        ("DELETE", "/streams/1"),
        ("DELETE", "/revocations/1"),
        ("GET", "/nothing"),
    ] {
        let other = format!("Authorization: Bearer {}\r\n", SECRET.replace("32", "33"));
        for lines in ["", "Authorization: Bearer \r\n", &other] {
            let reply = admin.raw(method, path, &format!("{host}{lines}"), "").await;
            assert_eq!(reply.status, 401, "{method} {path} {lines:?}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    let known = format!("{host}Authorization: Bearer {SECRET}\r\n");
    assert_eq!(admin.raw("GET", "/streams", &known, "").await.status, 200);
    assert_eq!(admin.raw("GET", "/metrics", &known, "").await.status, 200);
    assert_eq!(admin.raw("POST", "/revocations", &known, &ban("sub", "x").to_string()).await.status, 201);
    for open in ["/", "/page.js", "/page.css", "/livez", "/readyz"] {
        assert_eq!(admin.raw("GET", open, host, "").await.status, 200, "{open}");
    }
    let file = gateway.path("admin.secret");
    std::fs::write(&file, format!("{SECRET}\n")).expect("write");
    let place = ["--admin", &admin.address.to_string(), "--secret-file", file.to_str().expect("text")];
    let folder = file.parent().expect("a folder");
    let streams = [["streams", "--json"].as_slice(), &place].concat();
    assert_eq!(out(&verb(folder, &streams)).lines().count(), 1);
    std::fs::write(&file, "another secret, which is as long as that\n").expect("write");
    assert!(complaint(&verb(folder, &streams), 1).contains("refuses (401)"));
    assert!(!gateway.log().contains(SECRET));
}

#[test]
fn the_secret_of_the_config_goes_to_the_listener_of_the_config_alone_and_never_in_clear_to_another_machine() {
    let (files, _) = folder("");
    let heard = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = heard.local_addr().expect("its address").to_string();
    let hear = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = heard.accept().expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a head");
                head.extend_from_slice(&byte);
            }
            heads.push(String::from_utf8(head).expect("text"));
            let body = json!({"detail": "look: \u{1b}[2J"}).to_string();
            let length = body.len();
            write!(stream, "HTTP/1.1 401 Unauthorized\r\nContent-Length: {length}\r\n\r\n{body}").expect("an answer");
        }
        heads
    });
    let set = |address: &str| {
        let section = format!("[admin]\naddress = \"{address}\"\nsecret_file = \"admin.secret\"");
        std::fs::write(files.path().join("config.toml"), config("ws://127.0.0.1:1", &section)).expect("write");
    };
    let file = files.path().join("admin.secret");
    std::fs::write(&file, SECRET).expect("write");
    let file = file.to_str().expect("text");

    set("127.0.0.1:9443");
    let said = complaint(&verb(files.path(), &["streams", "--admin", &address]), 1);
    assert!(said.contains("say --secret-file FILE"), "{said}");
    assert!(said.contains("look: \\u{1b}[2J") && !said.contains('\u{1b}'), "{said:?}");
    complaint(&verb(files.path(), &["streams", "--admin", &address, "--secret-file", file]), 1);
    set(&address);
    let said = complaint(&verb(files.path(), &["streams", "--admin", &address]), 1);
    assert!(said.contains("the secret is that of [admin]"), "{said}");
    let sent: Vec<bool> = hear.join().expect("heads").iter().map(|head| head.contains(SECRET)).collect();
    assert_eq!(sent, [false, true, true]);

    for place in ["192.0.2.1:9443", "http://192.0.2.1:9443", "[2001:db8::1]:9443", "gateway.invalid:9443"] {
        let said = complaint(&verb(files.path(), &["streams", "--admin", place, "--secret-file", file]), 64);
        assert!(said.contains("would travel in clear"), "{place}: {said}");
    }
    set("192.0.2.1:9443");
    assert!(complaint(&verb(files.path(), &["streams"]), 64).contains("would travel in clear"));
}

#[tokio::test]
async fn a_unix_socket_is_the_gateways_users_alone_and_the_verbs_find_it() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), "[admin]\naddress = \"unix:admin.sock\"");
    let gateway = Gateway::start(&text).await;
    let socket = gateway.path("admin.sock");
    let folder = socket.parent().expect("a folder").to_owned();
    assert_eq!(std::fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777, 0o600);
    let mut first = claims(MINUTE);
    first["jti"] = "named".into();
    let (mut one, mut two) = (gateway.open(&mint(&first)).await, gateway.open(&token(MINUTE)).await);

    let listed = out(&verb(&folder, &["streams"]));
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.starts_with("STREAM  ROUTE    ADDRESS"), "{listed}");
    let lines = out(&verb(&folder, &["streams", "--json"]));
    let streams: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let number = streams.iter().find(|stream| stream["jti"].is_null()).expect("a stream")["id"].to_string();
    assert!(out(&verb(&folder, &["end", &number])).contains("was told to end"));
    assert_eq!(two.frame().await.close_code().0, 1012);
    let said = out(&verb(&folder, &["revoke", "--iss", ISSUER, "--jti", "named", "--for", "1h"]));
    assert!(said.contains("1 live stream was told to end"), "{said}");
    assert_eq!(one.frame().await.close_code().0, 3003);
    out(&verb(&folder, &["revoke", "--iss", ISSUER, "--sub", "x\u{1b}[2J", "--issued-before", "now"]));
    let bans = out(&verb(&folder, &["revocations"]));
    assert_eq!(bans.lines().count(), 3, "{bans}");
    assert!(bans.contains("jti named") && bans.contains("sub x\\u{1b}[2J"), "{bans}");
    for line in out(&verb(&folder, &["revocations", "--json"])).lines() {
        let ban: Value = serde_json::from_str(line).expect("JSON");
        out(&verb(&folder, &["revocations", "--lift", ban["id"].as_str().expect("an id")]));
    }
    assert_eq!(out(&verb(&folder, &["revocations"])).lines().count(), 1);

    for (arguments, code, words) in [
        (["end", "99"].as_slice(), 1, "no live stream"),
        (&["end", "x"], 64, "invalid value"),
        (&["revoke", "--iss", "nobody", "--sub", "x"], 1, "known are: https://issuer.test"),
        (&["revoke", "--iss", ISSUER], 64, "--jti"),
        (&["revoke", "--iss", ISSUER, "--sub", "x", "--sid", "y"], 64, "cannot be used with"),
        (&["revoke", "--iss", ISSUER, "--jti", "x", "--issued-before", "now"], 64, "cannot be used with"),
        (&["revoke", "--iss", ISSUER, "--sub", "x", "--issued-before", "yesterday"], 64, "--issued-before takes"),
        (&["revocations", "--lift", "../streams"], 64, "--lift takes"),
        (&["revocations", "--lift", "00000000000000000000000000000000"], 1, "no revocation of this name"),
        (&["streams", "--admin", "nowhere"], 64, "--admin takes"),
        (&["streams", "--admin", "unix:/nowhere/x"], 1, "is the gateway running?"),
    ] {
        let said = complaint(&verb(&folder, arguments), code);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }

    // The same socket for a second gateway: refused while it is in use, taken over when it was left behind.
    let second = Gateway::command(&folder).output().expect("the program");
    assert!(complaint(&second, 1).contains("another process listens there"), "{second:?}");
    assert!(socket.exists(), "it was not taken away");
    gateway.signal(Signal::KILL);
    let mut gateway = gateway;
    gateway.exit(Duration::from_secs(10)).await;
    assert!(socket.exists(), "killed, it leaves its socket behind");
    assert!(complaint(&verb(&folder, &["streams"]), 1).contains("is the gateway running?"));
    let mut again = Gateway::command(&folder).spawn().expect("the program");
    let begun = instant();
    while !verb(&folder, &["streams"]).status.success() {
        assert!(begun.elapsed() < common::PATIENCE, "the socket was not taken over");
    }
    let pid = i32::try_from(again.id()).ok().and_then(rustix::process::Pid::from_raw).expect("pid");
    rustix::process::kill_process(pid, Signal::TERM).expect("signal");
    assert!(again.wait().expect("wait").success());
    assert!(!socket.exists(), "one that leaves takes its socket along");
}

#[tokio::test]
async fn with_a_client_ca_only_its_certificates_come_in() {
    let backend = Backend::echo().await;
    let tls = "certificate = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"ca.pem\"";
    let (gateway, admin) = start(&backend, &format!("{ADMIN}{tls}")).await;
    let (certificate, key) = gateway.authority().leaf(&["operator"]);
    let (stranger, strange_key) = common::Authority::new().leaf(&["operator"]);
    for (name, text) in
        [("op.pem", certificate), ("op-key.pem", key), ("other.pem", stranger), ("other-key.pem", strange_key)]
    {
        std::fs::write(gateway.path(name), text).expect("write");
    }
    let path = |name: &str| gateway.path(name).to_str().expect("text").to_owned();
    let (place, ca) = (format!("https://localhost:{}", admin.address.port()), path("ca.pem"));
    let asked = |more: &[&str]| {
        let arguments = [["streams", "--admin", &place, "--ca", &ca].as_slice(), more].concat();
        verb(gateway.path("x").parent().expect("a folder"), &arguments)
    };
    out(&asked(&["--certificate", &path("op.pem"), "--key", &path("op-key.pem")]));
    complaint(&asked(&[]), 1);
    complaint(&asked(&["--certificate", &path("other.pem"), "--key", &path("other-key.pem")]), 1);
    let plain = TcpStream::connect(admin.address).await.expect("connect");
    let mut plain = Link::over_tcp(plain, Role::Client);
    plain.raw(b"GET /streams HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(plain.read_head().await.is_err(), "nothing is told without TLS");
}

#[tokio::test]
async fn outside_loopback_it_must_ask_who_comes() {
    let backend = Backend::echo().await;
    let tls = "certificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    for (section, good, words) in [
        ("address = \"0.0.0.0:0\"".to_owned(), false, "anyone who reaches 0.0.0.0:0 could end every stream"),
        (format!("address = \"[::]:0\"\n{tls}"), false, "not loopback"),
        ("address = \"0.0.0.0:0\"\nsecret_file = \"token.secret\"".into(), false, "cannot stand in a header"),
        ("address = \"0.0.0.0:0\"\nsecret_file = \"key.pem\"".into(), false, "it is PEM"),
        ("address = \"0.0.0.0:0\"\nsecret_file = \"short\"".into(), false, "it is shorter than 32 bytes"),
        ("address = \"0.0.0.0:0\"\nclient_ca = \"ca.pem\"".into(), false, "[admin] has no `certificate`"),
        (format!("address = \"0.0.0.0:0\"\nclient_ca = \"token.secret\"\n{tls}"), false, "no certificate in it"),
        (format!("address = \"unix:a.sock\"\n{tls}"), false, "a Unix socket has no use for TLS"),
        ("hosts = [\"x\"]".into(), false, "[admin] has no `address`"),
        ("address = \"127.0.0.1:0\"\nhosts = [\"http://x\", \"*.x\"]".into(), false, "is no host name"),
        ("address = \"localhost:1\"".into(), false, "is no address to listen on"),
        (format!("address = \"127.0.0.1:0\"\nsecret = \"{SECRET}\""), false, "unknown key `secret`"),
        (format!("address = \"127.0.0.1:0\"\nsecret_env = \"{SECRET}\""), false, "the environment variable is not set"),
        ("address = \"0.0.0.0:0\"\nsecret_file = \"admin.secret\"".into(), true, "travels in clear"),
        (format!("address = \"0.0.0.0:0\"\nsecret_file = \"admin.secret\"\n{tls}"), true, "good"),
        (format!("address = \"0.0.0.0:0\"\nclient_ca = \"ca.pem\"\n{tls}"), true, "good"),
        ("address = \"[::1]:0\"".into(), true, "good"),
    ] {
        let (files, _) = folder(&config(&backend.url(), &format!("[admin]\n{section}")));
        std::fs::write(files.path().join("admin.secret"), SECRET).expect("write");
        std::fs::write(files.path().join("short"), "short").expect("write");
        let checked = verb(files.path(), &["check"]);
        let said = if good { out(&checked) } else { complaint(&checked, 64) };
        assert!(said.contains(words), "{section}: {said}");
        assert!(!said.contains(SECRET), "{said}");
    }
}

#[tokio::test]
async fn what_is_asked_of_it_has_bounds() {
    let backend = Backend::echo().await;
    let (_gateway, admin) = start(&backend, ADMIN).await;
    let json = "Host: localhost\r\nContent-Type: application/json\r\n";
    let long = json!({"iss": ISSUER, "sub": "x".repeat(20_000)}).to_string();
    assert_eq!(admin.raw("POST", "/revocations", json, &long).await.status, 413);
    let filler = format!("{json}X-Filler: {}\r\n", "x".repeat(40_000));
    assert!(admin.raw("GET", "/streams", &filler, "").await.status >= 400);
    // Slow ones are let go, and meanwhile others are served.
    let mut slow = Vec::new();
    for start in [
        "GET /streams HT",
        "",
        "POST /revocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ] {
        for _ in 0..30 {
            let mut link = Link::over_tcp(TcpStream::connect(admin.address).await.expect("connect"), Role::Client);
            link.raw(start.as_bytes()).await;
            slow.push(link);
        }
    }
    assert_eq!(admin.read("/livez").await, "live\n");
    let begun = instant();
    for mut link in slow {
        while link.fill().await.is_ok_and(|more| more) {}
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn connections_that_ask_for_nothing_keep_nobody_out() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, &format!("{ADMIN}[probes]\naddress = \"127.0.0.1:0\"")).await;
    let probes = Admin { address: gateway.listener("probes").await };
    for place in [probes, admin] {
        let mut idle = Vec::new();
        for round in 0..3 {
            let begun = instant();
            for number in 0..150 {
                let mut link = Link::over_tcp(TcpStream::connect(place.address).await.expect("connect"), Role::Client);
                if number % 2 == 0 {
                    let _ = link.try_raw(b"GET /livez HT").await;
                }
                idle.push(link);
            }
            assert_eq!(place.read("/livez").await, "live\n");
            assert!(begun.elapsed() < Duration::from_millis(1500), "round {round}: {:?}", begun.elapsed());
        }
        let begun = instant();
        for mut link in idle {
            while link.fill().await.is_ok_and(|more| more) {}
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_runs_nothing_inline() {
    let backend = Backend::echo().await;
    let (_gateway, admin) = start(&backend, ADMIN).await;
    for path in ["/", "/page.css", "/page.js"] {
        let reply = admin.raw("GET", path, "Host: localhost\r\n", "").await;
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let text = reply.body_text();
        for word in ["http://", "https://", "//cdn", "style=", "onclick", "innerHTML", "javascript:", "<style"] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
    let page = admin.read("/").await;
    let scripts: Vec<&str> = page.split("<script").skip(1).collect();
    assert!(!scripts.is_empty() && scripts.iter().all(|script| script.starts_with(" src=")), "{page}");
}
