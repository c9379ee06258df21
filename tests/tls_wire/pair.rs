//! A server's stream and rustls' client, with every byte between them in a test's hands. No runtime: a test polls.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use portcullis::tls::{Accepted, TlsStream, accept};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS13_AES_128_GCM_SHA256};
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12 as V12, TLS13 as V13};
use rustls::{
    CipherSuiteCommon, ClientConfig, ClientConnection, ConnectionTrafficSecrets, Error, RootCertStore, ServerConfig,
    ServerConnection, SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite, Tls13CipherSuite,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub type Version = &'static SupportedProtocolVersion;
pub const TLS12: Version = &V12;
pub const TLS13: Version = &V13;
pub const VERSIONS: [Version; 2] = [TLS12, TLS13];

/// What is between the two.
pub struct Pipe {
    pub to_server: VecDeque<u8>,
    pub to_client: Vec<u8>,
    /// The client's sending has ended, behind what is on its way.
    pub ended: bool,
    /// The server's sending has ended.
    pub finished: bool,
    /// The most bytes of one read, and of one write.
    pub read_most: usize,
    pub write_most: usize,
    /// Bytes that the server may still write.
    pub window: usize,
    /// What reading, and writing, comes to from now on.
    pub read_fails: Option<io::ErrorKind>,
    pub write_fails: Option<io::ErrorKind>,
    pub reads: usize,
    pub writes: usize,
    /// How often the server was told to wait, and would be woken.
    pub waits: usize,
}

/// The server's end of the pipe.
pub struct Io(Arc<Mutex<Pipe>>);

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.lock().unwrap();
        if let Some(kind) = pipe.read_fails {
            return Poll::Ready(Err(kind.into()));
        }
        let most = pipe.to_server.len().min(buf.remaining()).min(pipe.read_most);
        if most == 0 && !pipe.ended {
            pipe.waits += 1;
            return Poll::Pending;
        }
        pipe.reads += 1;
        let bytes: Vec<u8> = pipe.to_server.drain(..most).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.lock().unwrap();
        if let Some(kind) = pipe.write_fails {
            return Poll::Ready(Err(kind.into()));
        }
        let most = buf.len().min(pipe.window).min(pipe.write_most);
        if most == 0 {
            pipe.waits += 1;
            return Poll::Pending;
        }
        pipe.writes += 1;
        pipe.window -= most;
        pipe.to_client.extend_from_slice(&buf[..most]);
        Poll::Ready(Ok(most))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().unwrap().finished = true;
        Poll::Ready(Ok(()))
    }
}

/// What a server says to a handshake message that is longer than it would hold; rustls has no name for it.
pub const TOO_LONG: &str = "a handshake message is too long";

/// How a direction ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It has not: more may come.
    Waits,
    /// In order, or with the transport.
    Ended,
    Failed(Error),
}

/// What the client heard.
pub struct Told {
    pub bytes: Vec<u8>,
    pub closed: bool,
    pub alert: Option<Error>,
}

type Accepting = Pin<Box<dyn Future<Output = io::Result<Accepted<Io>>>>>;

pub struct Pair {
    pub client: ClientConnection,
    pub server: TlsStream<Io>,
    pub server_name: Option<String>,
    pipe: Arc<Mutex<Pipe>>,
}

/// A pair that has not shaken hands.
pub struct Start {
    pub client: ClientConnection,
    accepting: Accepting,
    pipe: Arc<Mutex<Pipe>>,
}

impl Start {
    pub fn with(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Self {
        let pipe = Arc::new(Mutex::new(Pipe {
            to_server: VecDeque::new(),
            to_client: Vec::new(),
            ended: false,
            finished: false,
            read_most: usize::MAX,
            write_most: usize::MAX,
            window: usize::MAX,
            read_fails: None,
            write_fails: None,
            reads: 0,
            writes: 0,
            waits: 0,
        }));
        let client = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
        let accepting = Box::pin(accept(Io(pipe.clone()), server));
        Self { client, accepting, pipe }
    }

    pub fn new(version: Version) -> Self {
        Self::with(client_config(version), server_config())
    }

    pub fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap()
    }

    pub fn deliver(&self, bytes: &[u8]) {
        self.pipe().to_server.extend(bytes);
    }

    pub fn step(&mut self) -> Poll<io::Result<Accepted<Io>>> {
        now(|cx| self.accepting.as_mut().poll(cx))
    }

    /// The whole handshake; the client has then not yet heard what the server did not send.
    pub fn shake(mut self) -> io::Result<Pair> {
        let accepted = loop {
            let bytes = seal(&mut self.client, b"");
            self.deliver(&bytes);
            if let Poll::Ready(accepted) = self.step() {
                break accepted?;
            }
            let sent = std::mem::take(&mut self.pipe().to_client);
            assert!(!(bytes.is_empty() && sent.is_empty()), "neither side goes on");
            assert!(hear(&mut self.client, &sent).alert.is_none());
        };
        let mut pair = self.pair(accepted);
        assert!(pair.hear().alert.is_none());
        assert!(!pair.client.is_handshaking());
        Ok(pair)
    }

    pub fn pair(self, accepted: Accepted<Io>) -> Pair {
        let Accepted { stream: server, server_name } = accepted;
        Pair { client: self.client, server, server_name, pipe: self.pipe }
    }
}

impl Pair {
    pub fn new(version: Version) -> Self {
        Start::new(version).shake().unwrap()
    }

    pub fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap()
    }

    /// What the client would send for `bytes`, after what it has in line.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        seal(&mut self.client, bytes)
    }

    /// Puts records on their way to the server.
    pub fn deliver(&mut self, bytes: &[u8]) -> &mut Self {
        self.pipe().to_server.extend(bytes);
        self
    }

    /// Reads what there is; nothing may have ended.
    pub fn open(&mut self) -> Vec<u8> {
        let (bytes, end) = self.open_to_end();
        assert_eq!(end, Heard::Waits);
        bytes
    }

    pub fn open_to_end(&mut self) -> (Vec<u8>, Heard) {
        let (mut bytes, mut plain) = (Vec::new(), vec![0; 84 * 1024]);
        loop {
            match now(|cx| self.server.poll_open(cx, &mut plain)) {
                Poll::Pending => return (bytes, Heard::Waits),
                Poll::Ready(Ok(0)) => return (bytes, Heard::Ended),
                Poll::Ready(Ok(read)) => bytes.extend_from_slice(&plain[..read]),
                Poll::Ready(Err(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    let error = error.into_inner().unwrap().downcast::<Error>().unwrap();
                    return (bytes, Heard::Failed(*error));
                }
            }
        }
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        now(|cx| self.server.poll_seal(cx, bytes))
    }

    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let Poll::Ready(taken) = self.try_write(bytes) else { panic!("blocked") };
        taken.unwrap()
    }

    pub fn drain(&mut self) -> Poll<()> {
        now(|cx| self.server.poll_drain(cx)).map(Result::unwrap)
    }

    pub fn close(&mut self) -> Poll<()> {
        now(|cx| self.server.poll_close(cx)).map(Result::unwrap)
    }

    /// What the client hears of what the server has sent since.
    pub fn hear(&mut self) -> Told {
        let sent = std::mem::take(&mut self.pipe().to_client);
        hear(&mut self.client, &sent)
    }

    /// A message there and back.
    pub fn echo(&mut self) {
        let sealed = self.seal(b"hello");
        let heard = self.deliver(&sealed).open();
        assert_eq!(self.write(&heard), 5);
        assert!(self.drain().is_ready());
        assert_eq!(self.hear().bytes, b"hello");
    }
}

/// Seals what a correct client would not send.
pub struct Forger {
    version: Version,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    /// A pair, and a forger with the client's keys, once each.
    pub fn pair(version: Version) -> (Pair, Self) {
        let mut pair = Start::with(forgeable(version), server_config()).shake().unwrap();
        pair.write(b"x");
        pair.hear();
        let other = ClientConnection::new(client_config(version), "localhost".try_into().unwrap()).unwrap();
        let client = std::mem::replace(&mut pair.client, other);
        (pair, Self::new(version, client))
    }

    /// With the keys of `client`, whose config is [`forgeable`] and which has nothing in line.
    pub fn new(version: Version, client: ClientConnection) -> Self {
        let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another suite") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { version, key, iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    pub fn data(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.record(23, bytes)
    }

    pub fn handshake(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.record(22, bytes)
    }

    /// A record of TLS 1.3 (RFC 8446, section 5.2) or of TLS 1.2 with AES-GCM (RFC 5288, section 3).
    pub fn record(&mut self, kind: u8, bytes: &[u8]) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(sequence).for_each(|(byte, count)| *byte ^= count);
        let head = |kind: u8, length: usize| {
            let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
            [kind, 3, 3, high, low]
        };
        let (mut body, front, head, sealed_with) = if self.version == TLS13 {
            let head = head(23, bytes.len() + 1 + 16);
            ([bytes, &[kind]].concat(), &[][..], head, head.to_vec())
        } else {
            let with = [&sequence[..], &head(kind, bytes.len())].concat();
            (bytes.to_vec(), &nonce[4..], head(kind, 8 + bytes.len() + 16), with)
        };
        let once = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(once, Aad::from(sealed_with), &mut body).unwrap();
        [&head, front, &body].concat()
    }
}

/// rustls' buffered server and a client of it, the handshake done.
pub fn buffered(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (ClientConnection, ServerConnection) {
    let mut client = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let bytes = seal(&mut client, b"");
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        assert!(hear(&mut client, &sent).alert.is_none());
    }
    (client, server)
}

/// What the buffered server hears of `sealed`.
pub fn hear_buffered(server: &mut ServerConnection, mut sealed: &[u8]) -> (Vec<u8>, Heard) {
    let mut heard = Vec::new();
    while !sealed.is_empty() {
        match server.read_tls(&mut sealed) {
            Ok(0) => return (heard, Heard::Ended),
            Ok(_) => {}
            Err(_) => return (heard, Heard::Failed(Error::General(TOO_LONG.into()))),
        }
        let state = server.process_new_packets();
        let mut plain = [0; 16 * 1024];
        while let Ok(read @ 1..) = server.reader().read(&mut plain) {
            heard.extend_from_slice(&plain[..read]);
        }
        match state {
            Ok(state) if state.peer_has_closed() => return (heard, Heard::Ended),
            Ok(_) => {}
            Err(error) => return (heard, Heard::Failed(error)),
        }
    }
    (heard, Heard::Waits)
}

/// What `client` sends for `bytes`, after what it has in line.
pub fn seal(client: &mut ClientConnection, bytes: &[u8]) -> Vec<u8> {
    client.set_buffer_limit(None);
    client.writer().write_all(bytes).unwrap();
    let mut sealed = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sealed).unwrap();
    }
    sealed
}

pub fn hear(client: &mut ClientConnection, mut sent: &[u8]) -> Told {
    let mut told = Told { bytes: Vec::new(), closed: false, alert: None };
    while !sent.is_empty() && !told.closed && told.alert.is_none() {
        client.read_tls(&mut sent).unwrap();
        match client.process_new_packets() {
            Ok(state) => told.closed = state.peer_has_closed(),
            Err(error) => told.alert = Some(error),
        }
        let mut plain = [0; 16 * 1024];
        while let Ok(read @ 1..) = client.reader().read(&mut plain) {
            told.bytes.extend_from_slice(&plain[..read]);
        }
    }
    told
}

/// Polls once; whatever waits is polled again by the test.
pub fn now<R>(poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
    poll(&mut Context::from_waker(Waker::noop()))
}

/// The bytes `from..from + length` of the stream `number`: no other stream has the same at the same place.
pub fn pattern(number: u8, from: usize, length: usize) -> Vec<u8> {
    (from..from + length)
        .map(|at| number ^ u8::try_from((at.wrapping_mul(0x9e37_79b1) >> 24) & 0xff).unwrap())
        .collect()
}

/// One certificate for all tests.
fn certificate() -> &'static (CertificateDer<'static>, Vec<u8>) {
    static MADE: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.der().clone(), made.signing_key.serialize_der())
    })
}

pub fn server_config() -> Arc<ServerConfig> {
    server_with(default_provider())
}

/// A server whose keys seal eight records each.
pub fn short_lived_keys() -> Arc<ServerConfig> {
    let mut provider = default_provider();
    for suite in &mut provider.cipher_suites {
        *suite = match suite {
            SupportedCipherSuite::Tls12(suite) => {
                let common = CipherSuiteCommon { confidentiality_limit: 8, ..suite.common };
                SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite { common, ..**suite })))
            }
            SupportedCipherSuite::Tls13(suite) => {
                let common = CipherSuiteCommon { confidentiality_limit: 8, ..suite.common };
                SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite { common, ..**suite })))
            }
        };
    }
    server_with(provider)
}

fn server_with(provider: CryptoProvider) -> Arc<ServerConfig> {
    let (certificate, key) = certificate();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::try_from(key.clone()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new().unwrap();
    Arc::new(config)
}

pub fn client_config(version: Version) -> Arc<ClientConfig> {
    let mut provider = default_provider();
    // A hello of a few hundred bytes, so that tests can go through all of them.
    provider.kx_groups = vec![kx_group::X25519];
    Arc::new(client_with(provider, version))
}

/// For a client whose keys a [`Forger`] gets.
pub fn forgeable(version: Version) -> Arc<ClientConfig> {
    let mut provider = default_provider();
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let mut config = client_with(provider, version);
    config.enable_secret_extraction = true;
    Arc::new(config)
}

fn client_with(provider: CryptoProvider, version: Version) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate().0.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}
