//! The way to the proxy: TCP, TLS 1.3 if it is asked for, and the upgrade with a token in the query; or a stream of an
//! HTTP/2 connection that others are on as well.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, mem};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use portcullis::clock::{Clock, Wall};
use portcullis::issuer::mint::{Mint, MintKey};
use portcullis::secret::Secret;
use portcullis::token::keys::Algorithm;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http2::{self, Sharing, Tunnel};
use crate::peer::Peer;

/// How long a connection may take to be upgraded.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tokens that are made before a run and used in turn.
const TOKENS: usize = 500;

/// Where connections go.
pub struct Endpoint {
    port: u16,
    tls: Option<TlsConnector>,
    name: ServerName<'static>,
    tokens: Vec<String>,
    next: Cell<usize>,
    /// HTTP/2, and which connection the next stream is on.
    sharing: Option<Sharing>,
}

impl Endpoint {
    /// The proxy on 127.0.0.1:`port`; with TLS if there is a CA (PEM) to trust.
    ///
    /// TLS is 1.3 with one suite and one key exchange, so that all proxies do the same work. `http2`: how many streams
    /// share a connection of HTTP/2.
    pub fn new(
        port: u16,
        ca: Option<&[u8]>,
        resume: bool,
        tokens: Vec<String>,
        http2: Option<u32>,
    ) -> anyhow::Result<Self> {
        let name = ServerName::try_from("localhost")?;
        let protocol: &[u8] = if http2.is_some() { b"h2" } else { b"http/1.1" };
        let tls = ca.map(|pem| tls(pem, resume, protocol)).transpose()?;
        Ok(Self { port, tls, name, tokens, next: Cell::new(0), sharing: http2.map(Sharing::new) })
    }

    /// A stream that has been upgraded at `path` (which may hold a query), read `capacity` bytes at a time.
    pub async fn open(&self, path: &str, capacity: usize) -> anyhow::Result<Peer<Link>> {
        tokio::time::timeout(PATIENCE, self.connect(path, capacity)).await.context("no upgrade in time")?
    }

    async fn connect(&self, path: &str, capacity: usize) -> anyhow::Result<Peer<Link>> {
        let token = self.next_token();
        let Some(requests) = self.share().await? else {
            return Ok(self.upgrade(path, token, capacity).await?.0);
        };
        let tunnel = http2::open(requests, &self.uri(path, token)).await?;
        Ok(Peer::new(Link::Http2(Box::new(tunnel)), capacity))
    }

    /// The HTTP/2 connection that the next stream is on; `None` if this is HTTP/1.1.
    pub async fn share(&self) -> anyhow::Result<Option<SendRequest<Bytes>>> {
        let Some(sharing) = &self.sharing else { return Ok(None) };
        let connect = async { http2::start(self.reach(0).await?.into_stream()).await };
        let shared = sharing.next();
        Ok(Some(shared.get_or_try_init(|| connect).await?.clone()))
    }

    /// Streams that follow go over other connections than those before.
    pub fn turn_over(&self) {
        if let Some(sharing) = &self.sharing {
            sharing.turn_over();
        }
    }

    /// The token whose turn it is.
    pub fn next_token(&self) -> Option<&str> {
        let at = self.next.get();
        self.next.set(at.wrapping_add(1));
        self.tokens.get(at.checked_rem(self.tokens.len())?).map(String::as_str)
    }

    /// A path with a token, as the target of a request.
    pub fn target(path: &str, token: Option<&str>) -> String {
        let joint = if path.contains('?') { '&' } else { '?' };
        let token = token.map(|token| format!("{joint}access_token={token}")).unwrap_or_default();
        format!("{path}{token}")
    }

    /// The same as HTTP/2 has it.
    pub fn uri(&self, path: &str, token: Option<&str>) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), Self::target(path, token))
    }

    /// The proxy, as requests name it.
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// A stream that has been upgraded with this token, and the head of the answer.
    pub async fn open_with(&self, path: &str, token: &str, capacity: usize) -> anyhow::Result<(Peer<Link>, String)> {
        let upgraded = self.upgrade(path, Some(token), capacity);
        tokio::time::timeout(PATIENCE, upgraded).await.context("no upgrade in time")?
    }

    /// The status that a new connection's upgrade with this token is answered with. It has no patience of its own.
    pub async fn status(&self, path: &str, token: &str) -> anyhow::Result<u16> {
        let mut peer = self.reach(0).await?;
        peer.send(self.request(path, Some(token)).as_bytes()).await.context("request")?;
        let (status, ..) = peer.receive_answer().await.context("answer")?;
        Ok(status)
    }

    /// The tokens that are used in turn.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// A connection that has not been upgraded.
    pub async fn reach(&self, capacity: usize) -> anyhow::Result<Peer<Link>> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.context("connect")?;
        tcp.set_nodelay(true)?;
        let link = match &self.tls {
            None => Link::Tcp(tcp),
            Some(tls) => Link::Tls(Box::new(tls.connect(self.name.clone(), tcp).await.context("TLS")?)),
        };
        Ok(Peer::new(link, capacity.max(4096)))
    }

    async fn upgrade(&self, path: &str, token: Option<&str>, capacity: usize) -> anyhow::Result<(Peer<Link>, String)> {
        let mut peer = self.reach(capacity).await?;
        peer.send(self.request(path, token).as_bytes()).await.context("upgrade")?;
        let answer = peer.receive_http().await.context("upgrade")?;
        let status = answer.lines().next().unwrap_or_default();
        ensure!(status.starts_with("HTTP/1.1 101 "), "the upgrade was answered with {status:?}");
        let accept = answer.lines().any(|line| {
            line.split_once(':').is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
            })
        });
        ensure!(accept, "the upgrade was answered with another Sec-WebSocket-Accept");
        Ok((peer, answer))
    }

    fn request(&self, path: &str, token: Option<&str>) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            Self::target(path, token),
            self.authority()
        )
    }
}

/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What it is answered with.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn tls(ca: &[u8], resume: bool, protocol: &[u8]) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Tokens for one run, which expire at `expiry` (or after an hour).
pub fn tokens(algorithm: &str, kid: Option<String>, key: Vec<u8>, expiry: Option<Wall>) -> anyhow::Result<Vec<String>> {
    let mut claims = serde_json::Map::new();
    if let Some(expiry) = expiry {
        claims.insert("exp".into(), expiry.as_secs().into());
    }
    let mint = mint(algorithm, kid, key, claims)?;
    let now = Clock::system().now();
    (0..TOKENS)
        .map(|at| Ok(mint.sign_subject(&format!("user-{at}"), now)?.token.expose().to_owned()))
        .collect::<anyhow::Result<_>>()
}

/// What signs tokens with these claims: from a shared secret (a newline at its end is not part of it) or a private key in
/// PEM. `kid`: how tokens name the key.
pub fn mint(
    algorithm: &str,
    kid: Option<String>,
    mut key: Vec<u8>,
    mut claims: serde_json::Map<String, serde_json::Value>,
) -> anyhow::Result<Mint> {
    let algorithm = Algorithm::from_name(algorithm).with_context(|| format!("{algorithm} is no algorithm"))?;
    let key = if key.starts_with(b"-----BEGIN") {
        MintKey::from_pem(algorithm, kid, &key)?
    } else {
        key.truncate(key.trim_ascii_end().len());
        MintKey::from_secret(algorithm, kid, &Secret::new(mem::take(&mut key)))?
    };
    claims.insert("iss".into(), ISSUER.into());
    claims.insert("aud".into(), "ws".into());
    Ok(Mint::new(key, claims, Duration::from_secs(3600)))
}

/// The `iss` of every token.
pub const ISSUER: &str = "https://issuer.test";

/// TLS or not, or a stream of an HTTP/2 connection.
pub enum Link {
    Http2(Box<Tunnel>),
    Tls(Box<TlsStream<TcpStream>>),
    Tcp(TcpStream),
}

impl Link {
    /// The connection, if it is this stream's alone.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Http2(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Tcp(stream) => Some(stream),
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Http2(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Http2(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Http2(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    // The head of an HTTP/2 frame and its payload are one write, and one record of TLS.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Http2(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
