//! The pipeline and the listener as a library, over real sockets: what reaches the service, what the client is answered,
//! and that nothing stays behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderName, HeaderValue};
use portcullis::clock::{Clock, Now, Wall};
use portcullis::gateway::identity::{Encoding, Form, Identity, Introduction};
use portcullis::gateway::route::{Crowds, Http, Origins, Reject, Renewal, Rewrite, Route};
use portcullis::gateway::{Config, Gateway};
use portcullis::listen::{self, CertificateFiles, Listener};
use portcullis::registry::Registry;
use portcullis::secret::Token;
use portcullis::stream::{Limits, Policies};
use portcullis::telemetry::Metrics;
use portcullis::token::claims::named::Claim;
use portcullis::token::{Answer, Carrier, Denial, Grant, Judge, Marks, Principal, Public, Purpose};
use portcullis::upstream::{self, Service};
use portcullis::ws::handshake::Key;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// `good` is a good token for a minute, `brief` for 300 ms; all others are bad.
struct ByName;

impl Judge for ByName {
    fn judge<'a>(&'a self, token: &'a Token, _: Purpose, now: Now) -> Answer<'a> {
        let life = match token.expose() {
            "good" => Duration::from_secs(60),
            "brief" => Duration::from_millis(300),
            _ => return Answer::Ready(Err(Denial::new(Public::TokenInvalid, "unknown", "not in the table"))),
        };
        let claims = serde_json::json!({ "sub": "Zoë" }).as_object().unwrap().clone();
        Answer::Ready(Ok(Grant {
            principal: Principal::new(&["x".into()]),
            expiry: Some(now.wall.saturating_add(life)),
            issuer: "test".into(),
            jti: Some("j1".into()),
            marks: Marks::default(),
            fingerprint: token.fingerprint(),
            claims: Arc::new(claims),
        }))
    }
}

fn subject() -> Identity {
    Identity {
        header: HeaderName::from_static("x-user"),
        claim: Claim::parse("sub").unwrap(),
        form: Form::Join { separator: ",".into(), single: false },
        encoding: Encoding::Percent,
    }
}

fn reached(service: SocketAddr) -> upstream::Config {
    upstream::Config {
        url: format!("ws://{service}"),
        host: service.ip().to_string(),
        port: service.port(),
        tls: None,
        connect_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(5),
    }
}

fn route(service: SocketAddr) -> Route {
    Route {
        name: "default".into(),
        hosts: vec!["*".into()],
        path: "/".into(),
        strict_path: true,
        carriers: vec![Carrier::Query("access_token".into()), Carrier::SubprotocolPair, Carrier::Header],
        first_message: None,
        reject: Reject::Http,
        judge: Arc::new(ByName),
        origins: Origins::Only(vec!["https://app.example".into()]),
        upstream: Arc::new(Service::single(reached(service))),
        host: Rewrite::Preserve,
        origin: Rewrite::Preserve,
        forwarded: true,
        strip_prefix: false,
        http: Http::default(),
        introduction: Introduction { identity: vec![subject()], ..Introduction::default() },
        limits: Limits { close_timeout: Duration::from_millis(200), ..Limits::default() }.into(),
        policies: Policies::default(),
        codes: Arc::default(),
        renewal: Renewal::default(),
        ticket_lifetime: Duration::from_secs(30),
        crowds: Crowds::default(),
        max_streams: Some(2),
    }
}

struct Gate {
    address: SocketAddr,
    gateway: Gateway,
    registry: Registry,
    permits: Arc<Semaphore>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

const PERMITS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

fn gate(route: Route, certificates: Option<Vec<CertificateFiles>>) -> Gate {
    let config = listen::Config { name: "test".into(), address: ([127, 0, 0, 1], 0).into(), certificates, http2: true };
    let listener = Listener::bind(&config).unwrap();
    let clock = Clock::system();
    let (registry, tracker, shutdown) = (Registry::new(&clock), TaskTracker::new(), CancellationToken::new());
    let gateway = Gateway::new(
        Config::default(),
        vec![Arc::new(route)],
        clock,
        registry.clone(),
        tracker.clone(),
        Metrics::new(Wall::default()),
    );
    let permits = Arc::new(Semaphore::new(PERMITS));
    let settings = listen::Settings {
        handshake_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(1),
        max_request_head: 16 * 1024,
    };
    let address = listener.address();
    tokio::spawn(listener.run(gateway.clone(), settings, permits.clone(), shutdown.clone(), tracker.clone()));
    Gate { address, gateway, registry, permits, tracker, shutdown }
}

impl Gate {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, target: &str, more: &str) -> (String, TcpStream) {
        let mut client = self.connect().await;
        client.write_all(upgrade(target, more).as_bytes()).await.unwrap();
        (reply(&mut client).await, client)
    }

    /// Waits until no stream, no task and no connection is left.
    async fn empty(&self) {
        let clean = async {
            while !(self.registry.is_empty()
                && self.tracker.is_empty()
                && self.permits.available_permits() >= PERMITS - 1)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let state = || format!("{} streams, {} tasks", self.registry.len(), self.tracker.len());
        tokio::time::timeout(PATIENCE, clean).await.unwrap_or_else(|_| panic!("left behind: {}", state()));
    }
}

fn upgrade(target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: gate\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A head, and the body that its Content-Length tells.
async fn reply(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = async {
        while !text.ends_with(b"\r\n\r\n") {
            text.push(stream.read_u8().await.expect("a reply"));
        }
        let head = String::from_utf8(text).unwrap();
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.unwrap();
        head + std::str::from_utf8(&body).unwrap()
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a reply in time")
}

/// A self-signed certificate for `localhost`: its files, who trusts it, and who serves it.
fn certificate() -> (tempfile::TempDir, CertificateFiles, Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = CertificateFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider.clone());
    let client = client.with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    (folder, files, client.into(), server.into())
}

async fn service() -> (TcpListener, SocketAddr) {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = service.local_addr().unwrap();
    (service, address)
}

/// What a service answers to the key that `upgrade` sends.
fn switching(more: &str) -> String {
    let accept = Key::new(*b"the sample nonce").accept();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n{more}\r\n",
        accept.to_str().unwrap()
    )
}

/// Takes one connection, reads the request, answers, and gives both.
async fn serve(service: &TcpListener, answer: &str) -> (String, TcpStream) {
    let (mut stream, _) = tokio::time::timeout(PATIENCE, service.accept()).await.expect("a dial in time").unwrap();
    let request = reply(&mut stream).await;
    stream.write_all(answer.as_bytes()).await.unwrap();
    (request, stream)
}

#[tokio::test]
async fn an_echo_goes_through_tls_and_nothing_stays_behind() {
    let (service, address) = service().await;
    tokio::spawn(async move {
        let (tcp, _) = service.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let (_folder, files, client, _) = certificate();
    let gate = gate(route(address), Some(vec![files]));
    let connector = tokio_rustls::TlsConnector::from(client);
    let tls = connector.connect("localhost".try_into().unwrap(), gate.connect().await).await.unwrap();
    let url = "wss://localhost/room?access_token=good";
    let (mut socket, answer) = tokio_tungstenite::client_async(url, tls).await.unwrap();
    let left: u64 = answer.headers()["portcullis-expires-in"].to_str().unwrap().parse().unwrap();
    assert!((50..=60).contains(&left), "{left}");
    for text in ["one", "two", &"x".repeat(300_000)] {
        socket.send(text.into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    drop(socket);
    gate.empty().await;
}

#[tokio::test]
async fn the_service_sees_the_request_without_the_token_and_with_who_it_is() {
    let (service, address) = service().await;
    let gate = gate(route(address), None);
    let more =
        "X-User: root\r\nx_user: root\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: a=1\r\nOrigin: https://app.example\r\n";
    let answer = switching("Set-Cookie: s=1\r\nPortcullis-Stream: fake\r\n");
    let ((head, _client), (request, _stream)) =
        tokio::join!(gate.ask("/room/%41?a=1&access_token=good&b=%20", more), serve(&service, &answer));
    assert!(request.starts_with("GET /room/%41?a=1&b=%20 HTTP/1.1\r\n"), "{request}");
    let lower = request.to_ascii_lowercase();
    for line in [
        "host: gate\r\n",
        "x-user: zo%c3%ab\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: gate\r\n",
        "cookie: a=1\r\n",
        "origin: https://app.example\r\n",
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "sec-websocket-version: 13\r\n",
    ] {
        assert!(lower.contains(line), "{line:?} in {request}");
    }
    for gone in ["good", "root", "1.1.1.1", "x_user"] {
        assert!(!lower.contains(gone), "{gone} in {request}");
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") && head.contains("set-cookie: s=1"), "{head}");
    assert!(!head.contains("fake"), "{head}");
}

#[tokio::test]
async fn nothing_is_dialled_for_a_refused_request_and_the_connection_stays() {
    let (service, address) = service().await;
    let gate = gate(route(address), None);
    let mut client = gate.connect().await;
    let table = [
        (upgrade("/", ""), "401", "token_missing"),
        (upgrade("/?access_token=bad", ""), "401", "token_invalid"),
        (upgrade("/?access_token=good&access_token=other", ""), "400", "bad_request"),
        (upgrade("/a/../b?access_token=good", ""), "400", "bad_request"),
        (upgrade("/?access_token=good", "Origin: https://evil.example\r\n"), "403", "forbidden"),
        (upgrade("/?access_token=good", "Upgrade: websocket\r\nHost: other\r\n"), "400", "bad_request"),
        ("GET /?access_token=good HTTP/1.1\r\nHost: gate\r\n\r\n".into(), "426", "upgrade_required"),
        (upgrade("/?access_token=good", "").replace(": 13", ": 12"), "426", "version"),
    ];
    for (request, status, reason) in table {
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = reply(&mut client).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}{answer}");
        assert!(answer.contains(&format!("\"reason\":\"{reason}\"")), "{request}{answer}");
        assert!(answer.contains("cache-control: no-store"), "{answer}");
    }
    gate.gateway.begin_drain(Duration::ZERO);
    client.write_all(upgrade("/?access_token=good", "").as_bytes()).await.unwrap();
    let answer = reply(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after"), "{answer}");
    let dialled = tokio::time::timeout(Duration::from_millis(50), service.accept()).await;
    assert!(dialled.is_err(), "nothing is dialled");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_dial_and_its_place() {
    let (service, address) = service().await;
    let gate = gate(route(address), None);
    let mut client = gate.connect().await;
    client.write_all(upgrade("/?access_token=good", "").as_bytes()).await.unwrap();
    let (_, mut stream) = serve(&service, "").await;
    assert_eq!(gate.registry.len(), 1);
    drop(client);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "the service's connection ends");
    gate.empty().await;
}

#[tokio::test]
async fn a_token_that_dies_while_the_service_is_dialled_is_refused() {
    let (service, address) = service().await;
    let gate = gate(route(address), None);
    let late = async {
        let (mut stream, _) = service.accept().await.unwrap();
        reply(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(350)).await;
        stream.write_all(switching("").as_bytes()).await.unwrap();
        stream
    };
    let ((answer, client), _stream) = tokio::join!(gate.ask("/?access_token=brief", ""), late);
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("token_expired"), "{answer}");
    drop(client);
    gate.empty().await;
}

#[tokio::test]
async fn a_services_own_refusal_passes_and_nonsense_does_not() {
    let (service, address) = service().await;
    let gate = gate(route(address), None);
    let offered = "Sec-WebSocket-Protocol: bearer, good, chat\r\n";
    let large = format!("HTTP/1.1 500 Oh\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let table = [
        (
            "HTTP/1.1 403 No\r\nX-Why: because\r\nKeep-Alive: 5\r\nContent-Length: 4\r\n\r\nnope".to_owned(),
            "403",
            "nope",
        ),
        ("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n".into(), "302", "location: /login"),
        (large, "500", "content-length: 0"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".into(), "502", "upstream_invalid"),
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n".into(),
            "502",
            "upstream_invalid",
        ),
        (switching("Sec-WebSocket-Protocol: bearer\r\n"), "502", "upstream_invalid"),
        (switching("Sec-WebSocket-Protocol: good\r\n"), "502", "upstream_invalid"),
        (switching("Sec-WebSocket-Extensions: permessage-deflate\r\n"), "502", "upstream_invalid"),
        ("SSH-2.0-OpenSSH\r\n\r\n".into(), "502", "upstream_invalid"),
        (switching("Sec-WebSocket-Protocol: chat\r\n"), "101", "sec-websocket-protocol: chat\r\n"),
        (switching(""), "101", "sec-websocket-protocol: bearer\r\n"),
    ];
    for (sent, status, expected) in table {
        let ((answer, client), (request, stream)) = tokio::join!(gate.ask("/", offered), serve(&service, &sent));
        assert!(request.contains("sec-websocket-protocol: chat\r\n"), "{request}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{sent:.300} gave {answer}");
        assert!(answer.contains(expected), "{sent:.300} gave {answer}");
        assert!(!answer.contains("keep-alive"), "{answer}");
        drop((client, stream));
        gate.empty().await;
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_or_silent_is_told() {
    let (listener, address) = service().await;
    drop(listener);
    let gone = gate(route(address), None);
    let (answer, _) = gone.ask("/?access_token=good", "").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("upstream_refused"), "{answer}");
    let (_silent, address) = service().await;
    let mut rules = route(address);
    let hasty = upstream::Config { response_timeout: Duration::from_millis(50), ..reached(address) };
    rules.upstream = Arc::new(Service::single(hasty));
    let silent = gate(rules, None);
    let (answer, _) = silent.ask("/?access_token=good", "").await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("upstream_timeout"), "{answer}");
}

#[tokio::test]
async fn bytes_that_come_with_the_handshake_are_not_lost() {
    let (service, address) = service().await;
    let gate = gate(route(address), None);
    let early = async {
        let mut client = gate.connect().await;
        let ping = [0x89, 0x81, 0, 0, 0, 0, b'c'];
        let both = [upgrade("/?access_token=good", "").as_bytes(), &ping].concat();
        client.write_all(&both).await.unwrap();
        let head = reply(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut frame = [0; 3];
        client.read_exact(&mut frame).await.unwrap();
        (frame, client)
    };
    let answer = switching("") + "\u{1}\u{1}u";
    let ((frame, _client), (_, mut stream)) = tokio::join!(early, serve(&service, &answer));
    assert_eq!(frame, [0x01, 0x01, b'u']);
    let mut ping = [0; 7];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut ping)).await.unwrap().unwrap();
    assert_eq!(ping, [0x89, 0x81, 0, 0, 0, 0, b'c']);
}

#[tokio::test]
async fn a_full_route_is_a_429_until_a_stream_ends() {
    let (service, address) = service().await;
    let gate = gate(route(address), None);
    let target = "/?access_token=good";
    let answer = switching("");
    let (first, _a) = tokio::join!(gate.ask(target, ""), serve(&service, &answer));
    let (_second, _b) = tokio::join!(gate.ask(target, ""), serve(&service, &answer));
    let (refused, _) = gate.ask(target, "").await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after"), "{refused}");
    drop(first);
    while gate.registry.len() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ((answer, _client), _c) = tokio::join!(gate.ask(target, ""), serve(&service, &answer));
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
}

#[tokio::test]
async fn a_wss_service_must_show_the_right_certificate() {
    let (service, address) = service().await;
    let (_folder, _, client, server) = certificate();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = service.accept().await.unwrap();
            let Ok(tls) = tokio_rustls::TlsAcceptor::from(server.clone()).accept(tcp).await else { continue };
            let mut socket = tokio_tungstenite::accept_async(tls).await.unwrap();
            let message = socket.next().await.unwrap().unwrap();
            socket.send(message).await.unwrap();
        }
    });
    let mut rules = route(address);
    let service = |name: &'static str| {
        let tls = Some(upstream::Tls { config: client.clone(), server_name: name.try_into().unwrap() });
        Arc::new(Service::single(upstream::Config { tls, ..reached(address) }))
    };
    rules.upstream = service("other.example");
    let wrong = gate(rules, None);
    let (answer, _) = wrong.ask("/?access_token=good", "").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("upstream_refused"), "{answer}");
    let mut rules = route(address);
    rules.upstream = service("localhost");
    let right = gate(rules, None);
    let url = "ws://gate/?access_token=good";
    let (mut socket, _) = tokio_tungstenite::client_async(url, right.connect().await).await.unwrap();
    socket.send("hello".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "hello");
}

#[tokio::test]
async fn a_silent_tls_client_is_let_go_and_its_place_is_free_again() {
    let (_service, address) = service().await;
    let (_folder, files, _, _) = certificate();
    let gate = gate(route(address), Some(vec![files]));
    let mut silent = gate.connect().await;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "the handshake is waited for 1 s");
    gate.empty().await;
}

#[tokio::test]
async fn more_connections_than_permits_wait_and_are_served_when_one_ends() {
    let (_service, address) = service().await;
    let gate = gate(route(address), None);
    let mut held = Vec::new();
    for _ in 0..PERMITS {
        held.push(gate.ask("/", "").await);
    }
    let mut waiting = gate.connect().await;
    waiting.write_all(upgrade("/", "").as_bytes()).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(50), waiting.read(&mut byte)).await;
    assert!(early.is_err(), "it is not served yet");
    drop(held);
    assert!(reply(&mut waiting).await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (_taken, address) = service().await;
    let error = Listener::bind(&listen::Config { name: "public".into(), address, certificates: None, http2: true })
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(text.contains("`public`") && text.contains(&address.to_string()), "{text}");
    assert!(text.contains("another program listens"), "{text}");
}

#[tokio::test]
async fn slow_heads_end_and_shutdown_leaves_no_connection() {
    let (_service, address) = service().await;
    let gate = gate(route(address), None);
    let mut slow = gate.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("the head is waited for 1 s").unwrap();
    let mut idle = gate.connect().await;
    idle.write_all(upgrade("/", "").as_bytes()).await.unwrap();
    reply(&mut idle).await;
    gate.shutdown.cancel();
    gate.tracker.close();
    tokio::time::timeout(PATIENCE, gate.tracker.wait()).await.expect("idle connections end at once");
}

#[tokio::test]
async fn rules_are_replaced_as_a_whole() {
    let (_service, address) = service().await;
    let gate = gate(route(address), None);
    let mut other = route(address);
    other.hosts = vec!["other.example".into()];
    other.host = Rewrite::Fixed(HeaderValue::from_static("x"));
    other.name = "other".into();
    gate.gateway.replace(Config::default(), vec![Arc::new(other)]);
    assert_eq!(gate.gateway.route_names(), ["other".into()]);
    let (answer, _) = gate.ask("/?access_token=good", "").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no_route"), "{answer}");
}
