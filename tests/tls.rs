//! TLS as it is offered: both versions, resumption, a key exchange that outlives quantum computers, and plaintext only
//! where it was asked for.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use common::{Backend, Frame, Gateway, Link, PATIENCE, Role, config, field, op, token, within};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const MINUTE: Duration = Duration::from_secs(60);

fn client(gateway: &Gateway, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(gateway.path("ca.pem")).expect("ca.pem")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// Opens a stream and echoes a message, so that session tickets have arrived too.
async fn echo(gateway: &Gateway, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(gateway.address()).await.expect("TCP");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = TlsConnector::from(config).connect(name, tcp).await.expect("TLS");
    let request = gateway.upgrade(&format!("/?access_token={}", token(MINUTE)), "");
    tls.write_all(request.as_bytes()).await.expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    tls.write_all(&Frame::new(op::TEXT, "hello").encode(Role::Client)).await.expect("a frame");
    let mut answer = [0; 7];
    tls.read_exact(&mut answer).await.expect("the echo");
    assert_eq!(&answer, b"\x81\x05hello");
    tls
}

#[tokio::test]
async fn tls_1_2_and_1_3_carry_streams_and_sessions_are_resumed() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    for (version, number) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let config = client(&gateway, &[version]);
        let first = within(PATIENCE, "an echo", echo(&gateway, config.clone())).await;
        assert_eq!(first.get_ref().1.protocol_version(), Some(number));
        assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let second = within(PATIENCE, "an echo", echo(&gateway, config)).await;
        assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "{number:?}");
    }
}

#[tokio::test]
async fn the_post_quantum_hybrid_is_what_both_sides_settle_on() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let stream = echo(&gateway, client(&gateway, &[&rustls::version::TLS13])).await;
    let group = stream.get_ref().1.negotiated_key_exchange_group().expect("a group");
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_plaintext_listener_serves_behind_another_tls_end_and_a_tls_listener_no_plaintext() {
    let backend = Backend::echo().await;
    let plain = "[[listener]]\nname = \"inside\"\naddress = \"127.0.0.1:0\"\nplaintext = true\n";
    let gateway = Gateway::start(&format!("{plain}{}", config(&backend.url(), ""))).await;
    let mut link = Link::connect(gateway.listener("inside").await, None).await;
    let reply = link.request(&gateway.upgrade("/", &format!("Authorization: Bearer {}\r\n", token(MINUTE)))).await;
    assert_eq!(reply.status, 101, "{}", reply.head);
    link.text("hello").await;
    assert_eq!(link.frame().await.text(), "hello");
    link.close(1000, "").await;
    assert_eq!(link.frame().await.close_code().0, 1000);

    let secure = Gateway::start(&config(&backend.url(), "")).await;
    let mut link = Link::connect(secure.address(), None).await;
    link.raw(secure.upgrade("/", &format!("Authorization: Bearer {}\r\n", token(MINUTE))).as_bytes()).await;
    let (answer, _) = link.rest().await;
    assert!(!answer.starts_with(b"HTTP/"), "no plaintext answer on a TLS port");
}

/// A client whose TLS records the test writes itself.
struct Records {
    tcp: TcpStream,
    tls: rustls::ClientConnection,
}

impl Records {
    /// Opens a stream; gives its service's end too.
    async fn open(gateway: &Gateway, backend: &mut Backend) -> (Self, Link) {
        Self::open_with(gateway, backend, &rustls::version::TLS13).await
    }

    async fn open_with(
        gateway: &Gateway,
        backend: &mut Backend,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> (Self, Link) {
        let tcp = TcpStream::connect(gateway.address()).await.expect("TCP");
        tcp.set_nodelay(true).expect("nodelay");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = rustls::ClientConnection::new(client(gateway, &[version]), name).expect("a client");
        let mut client = Self { tcp, tls };
        client.tls.set_buffer_limit(None);
        while client.tls.is_handshaking() {
            client.flush().await;
            if client.tls.is_handshaking() {
                client.read().await;
            }
        }
        let request = gateway.upgrade(&format!("/?access_token={}", token(MINUTE)), "");
        client.send(request.as_bytes()).await;
        let answer = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.extend(client.read().await);
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "));
        };
        let ((), service) = tokio::join!(answer, backend.accept());
        (client, service)
    }

    /// `bytes` as records, not yet sent.
    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).expect("room");
        let mut sealed = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed).expect("a record");
        }
        sealed
    }

    async fn flush(&mut self) {
        let sealed = self.seal(b"");
        self.tcp.write_all(&sealed).await.expect("send");
    }

    async fn send(&mut self, bytes: &[u8]) {
        let sealed = self.seal(bytes);
        self.tcp.write_all(&sealed).await.expect("send");
    }

    /// What one read brings, opened.
    async fn read(&mut self) -> Vec<u8> {
        let mut sealed = vec![0; 16 * 1024];
        let read = within(PATIENCE, "an answer", self.tcp.read(&mut sealed)).await.expect("no reset");
        assert_ne!(read, 0, "no end");
        let (mut sealed, mut opened) = (&sealed[..read], Vec::new());
        while !sealed.is_empty() {
            self.tls.read_tls(&mut sealed).expect("room");
            self.tls.process_new_packets().expect("good records");
            let mut chunk = vec![0; 64 * 1024];
            if let Ok(read) = self.tls.reader().read(&mut chunk) {
                opened.extend_from_slice(&chunk[..read]);
            }
        }
        opened
    }
}

/// User and system time of a process, in ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().expect("ticks")).sum()
}

#[tokio::test]
async fn a_close_notify_behind_a_full_chunk_stops_nobody() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&format!("[server]\nworkers = 1\n{}", config(&backend.url(), ""))).await;
    let (mut client, mut service) = Records::open(&gateway, &mut backend).await;
    tokio::spawn(async move {
        while let Ok(true) = service.fill().await {
            service.discard();
        }
    });
    client.send(&Frame::head(true, 0, op::BINARY, Role::Client, 1 << 30)).await;
    // A record but for its last byte; then that byte, more records, the end, and bytes that nobody may look at.
    let first = client.seal(&[7; 16_384]);
    let (begun, last) = first.split_at(first.len() - 1);
    let mut rest = last.to_vec();
    for _ in 0..3 {
        rest.extend(client.seal(&[7; 16_384]));
    }
    client.tls.send_close_notify();
    rest.extend(client.seal(b""));
    rest.extend([0; 10_000]);
    client.tcp.write_all(begun).await.expect("send");
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.tcp.write_all(&rest).await.expect("send");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = ticks(gateway.pid());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ticks(gateway.pid()) - before < 30, "the only worker spins");
    within(PATIENCE, "another client", gateway.connect()).await;
}

#[tokio::test]
async fn frames_before_a_broken_record_are_not_lost() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let (mut client, mut service) = Records::open(&gateway, &mut backend).await;
    let mut bytes = client.seal(&Frame::new(op::TEXT, "last words").encode(Role::Client));
    bytes.extend([23, 3, 3, 0, 30]);
    bytes.extend([0; 30]);
    client.tcp.write_all(&bytes).await.expect("send");
    assert_eq!(service.frame().await.text(), "last words");
    assert!(service.next().await.is_none(), "and then the end");
}

#[tokio::test]
async fn traffic_keys_may_change_on_the_way() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), "")).await;
    let (mut client, mut service) = Records::open(&gateway, &mut backend).await;
    for round in 0..20_u8 {
        client.tls.refresh_traffic_keys().expect("TLS 1.3");
        client.send(&Frame::new(op::BINARY, [round; 100]).encode(Role::Client)).await;
        assert_eq!(service.frame().await.payload, [round; 100]);
        service.send(&Frame::new(op::BINARY, [round; 50])).await;
        let mut answer = Vec::new();
        while answer.len() < 52 {
            answer.extend(client.read().await);
        }
        assert_eq!(answer[2..], [round; 50]);
    }
}

/// The ways in which a client's TLS ends.
const ENDS: [&str; 8] = [
    "close_notify and FIN",
    "close_notify",
    "FIN",
    "FIN in the middle of a record",
    "reset",
    "a record that does not decrypt",
    "a record longer than any may be",
    "a record of a kind that there is none of",
];

impl Records {
    /// Ends in one of [`ENDS`]; the kinds of the records that still come back.
    async fn end(mut self, how: &str) -> Vec<u8> {
        let last = match how {
            "FIN in the middle of a record" => {
                let mut record = self.seal(&Frame::new(op::TEXT, "torn").encode(Role::Client));
                record.pop();
                record
            }
            "a record that does not decrypt" => [&[23, 3, 3, 0, 40][..], &[0; 40]].concat(),
            "a record longer than any may be" => vec![23, 3, 3, 0xff, 0xff, 0, 0],
            "a record of a kind that there is none of" => vec![99, 3, 3, 0, 1, 0],
            how if how.starts_with("close_notify") => {
                self.tls.send_close_notify();
                self.seal(b"")
            }
            _ => Vec::new(),
        };
        self.tcp.write_all(&last).await.expect("send");
        if how == "reset" {
            socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)).expect("linger");
            return Vec::new();
        }
        if how.contains("FIN") {
            self.tcp.shutdown().await.expect("FIN");
        }
        let (mut sealed, mut kinds) = (Vec::new(), Vec::new());
        within(PATIENCE, "the end", self.tcp.read_to_end(&mut sealed)).await.expect("no reset");
        let mut rest = &sealed[..];
        while let [kind, _, _, high, low, more @ ..] = rest {
            kinds.push(*kind);
            rest = more.get(usize::from(u16::from_be_bytes([*high, *low]))..).expect("whole records");
        }
        kinds
    }
}

#[tokio::test]
async fn however_a_clients_tls_ends_the_service_sees_an_end_and_the_client_one_alert() {
    // An alert is told from data only before TLS 1.3 (RFC 8446, section 5.2).
    for (version, alert) in [(&rustls::version::TLS12, 21), (&rustls::version::TLS13, 23)] {
        for how in ENDS {
            let mut backend = Backend::start().await;
            let gateway = Gateway::start(&config(&backend.url(), "close_timeout = \"200ms\"")).await;
            let (mut client, mut service) = Records::open_with(&gateway, &mut backend, version).await;
            client.send(&Frame::new(op::TEXT, "last words").encode(Role::Client)).await;
            assert_eq!(service.frame().await.text(), "last words");
            let told = client.end(how).await;
            let alerts: &[u8] = if how == "reset" { &[] } else { &[alert] };
            assert_eq!(told, alerts, "{how}");
            assert_eq!(service.rest().await, (Vec::new(), false), "{how}: no byte more, and no reset");
            let line = gateway.logged("the end", |line| field(line, "message") == Some(&"stream ended".into())).await;
            let said = ["cause", "reset", "bytes_up"].map(|name| field(&line, name).expect("a field").to_string());
            assert_eq!(said, ["\"client_lost\"", "\"none\"", "16"], "{how}");
        }
    }
}
