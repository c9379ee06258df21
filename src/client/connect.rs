//! One attempt to open a stream: connect, TLS, upgrade; and the stream that comes of it.
//!
//! The upgrade goes through hyper and not through the WebSocket library, because a refusal's body (RFC 9457) must be
//! read to its end to know whether it is worth coming back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS};
use http::header::{SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use crate::client::target::{Target, TargetError};
use crate::names::{EXPIRES_IN, STREAM_HANDLE};
use crate::secret::{Opaque, Token};
use crate::token::Carrier;

/// What one attempt needs.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// Where to.
    pub target: &'a Target,
    /// Whom to trust, for `wss://`.
    pub tls: Option<&'a Arc<ClientConfig>>,
    /// What to open the stream with, if with anything.
    pub token: Option<&'a Token>,
    /// Where the token stands in the request.
    pub carrier: &'a Carrier,
    /// Subprotocols to offer besides.
    pub subprotocols: &'a [String],
    /// What `Origin` says; clients that are no browsers send none.
    pub origin: Option<&'a str>,
    /// How long the whole attempt may take.
    pub timeout: Duration,
}

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The other side answered, and said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The request cannot be made.
    #[error(transparent)]
    Request(#[from] TargetError),
    /// `wss://` without a TLS config, or a host name that no certificate can cover.
    #[error("{0}")]
    Setup(&'static str),
    /// The certificate is not to be trusted, or TLS failed otherwise.
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    /// Nobody there, or gone in between.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The answer is no HTTP, or no proper `101` (RFC 6455, section 4.1).
    #[error("the answer to the upgrade cannot be used: {0}")]
    Answer(String),
    /// Not in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// An answer other than `101`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The public reason of the problem document (RFC 9457), such as `token_expired`.
    pub reason: Option<String>,
    /// `Retry-After`, as it came.
    pub retry_after: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused with {}", self.status)?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, " {reason}"))
    }
}

/// Opens a stream.
pub async fn open(attempt: Attempt<'_>) -> Result<Stream, OpenError> {
    let timeout = attempt.timeout;
    tokio::time::timeout(timeout, open_unbounded(attempt)).await.unwrap_or(Err(OpenError::Timeout(timeout)))
}

async fn open_unbounded(attempt: Attempt<'_>) -> Result<Stream, OpenError> {
    let socket = dial(attempt.target, attempt.tls).await?;
    let key = generate_key();
    let request = attempt.target.request(attempt.token, attempt.carrier, attempt.subprotocols, attempt.origin, &key)?;
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL).cloned();
    let (mut sender, connection) = speak(socket).await?;
    // Ends with the sender below, or with the upgraded stream.
    let connection = tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(request.map(|()| Empty::new())).await.map_err(|error| {
        let no_http = error.is_parse() && !attempt.target.tls;
        if no_http { OpenError::Answer(format!("{error}; try wss://")) } else { unusable(error) }
    })?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let refusal = refusal(answer).await;
        connection.abort();
        return Err(OpenError::Refused(refusal));
    }
    check(answer.headers(), &key, offered.as_ref().and_then(|offered| offered.to_str().ok()))
        .map_err(|wrong| OpenError::Answer(wrong.to_owned()))?;
    let mut headers = answer.headers().clone();
    let handle = headers.remove(STREAM_HANDLE).and_then(|value| Opaque::parse(value.as_bytes()));
    let upgraded = hyper::upgrade::on(answer).await.map_err(unusable)?;
    let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
    Ok(Stream { socket, headers, handle })
}

/// A connection to `target`, with TLS if its URL says so.
pub(super) async fn dial(target: &Target, tls: Option<&Arc<ClientConfig>>) -> Result<Socket, OpenError> {
    let socket = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(OpenError::Connect)?;
    let _ = socket.set_nodelay(true);
    if !target.tls {
        return Ok(Box::new(socket));
    }
    let config = tls.ok_or(OpenError::Setup("wss:// needs certificates to trust"))?;
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| OpenError::Setup("the host is no name that a certificate can cover"))?;
    let socket = TlsConnector::from(Arc::clone(config)).connect(name, socket).await.map_err(OpenError::Tls)?;
    Ok(Box::new(socket))
}

/// HTTP/1.1 on a connection: for one request and its answer, with a bound on the head of the answer.
pub(super) async fn speak(socket: Socket) -> Result<(Sender, Connection), OpenError> {
    hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(unusable)
}

/// TLS or TCP.
pub(super) type Socket = Box<dyn Io>;
/// Where the request goes in.
type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;
/// What must be polled meanwhile.
type Connection = hyper::client::conn::http1::Connection<TokioIo<Socket>, Empty<Bytes>>;

/// A byte stream in both directions.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[allow(clippy::needless_pass_by_value)] // as `map_err` gives it
pub(super) fn unusable(error: hyper::Error) -> OpenError {
    OpenError::Answer(error.to_string())
}

/// Checks a `101` (RFC 6455, section 4.1).
fn check(headers: &HeaderMap, key: &str, offered: Option<&str>) -> Result<(), &'static str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !text(UPGRADE).eq_ignore_ascii_case("websocket") {
        return Err("Upgrade is not websocket");
    }
    if !text(CONNECTION).split(',').any(|entry| entry.trim().eq_ignore_ascii_case("upgrade")) {
        return Err("Connection does not say Upgrade");
    }
    if text(SEC_WEBSOCKET_ACCEPT) != derive_accept_key(key.as_bytes()) {
        return Err("Sec-WebSocket-Accept does not answer the key");
    }
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err("an extension that was not offered");
    }
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        let chosen = text(SEC_WEBSOCKET_PROTOCOL);
        if !offered.unwrap_or_default().split(", ").any(|entry| entry == chosen) {
            return Err("a subprotocol that was not offered");
        }
    }
    Ok(())
}

/// Reads the problem document of a refusal, if there is one and it is small.
pub(super) async fn refusal(answer: Response<Incoming>) -> Refusal {
    let (parts, body) = answer.into_parts();
    let retry_after = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Refusal { status: parts.status.as_u16(), reason: public_reason(&small(body).await), retry_after }
}

/// A body that is small and comes soon; else nothing.
pub(super) async fn small(body: Incoming) -> Bytes {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    }
}

/// The public reason: the member `reason`, else the last part of `type` (RFC 9457, section 3.1.1). Only words of
/// small letters and `_` are believed.
pub(super) fn public_reason(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    let member = |name| problem.get(name).and_then(serde_json::Value::as_str);
    let reason = member("reason").or_else(|| member("type").and_then(|kind| kind.rsplit(['/', ':', '#']).next()))?;
    let word = (1..=64).contains(&reason.len()) && reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    word.then(|| reason.to_owned())
}

/// An open stream.
pub struct Stream {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    headers: HeaderMap,
    handle: Option<Opaque>,
}

/// What comes from the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// The stream has ended.
    Closed(Closed),
}

/// How a stream ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The code of the peer's Close; `None` if it had none, or if there was no Close.
    pub code: Option<u16>,
    /// Its reason.
    pub reason: String,
    /// Whether there was a Close at all.
    pub clean: bool,
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.clean, self.code) {
            (false, _) => f.write_str("lost without a Close (1006)"),
            (true, None) => f.write_str("closed without a code (1005)"),
            (true, Some(code)) => {
                write!(f, "closed with {code}")?;
                if self.reason.is_empty() {
                    Ok(())
                } else {
                    write!(f, " \"{}\"", crate::backend::printable(&self.reason, 123))
                }
            }
        }
    }
}

impl Stream {
    /// The headers of the `101`, but the handle.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What renews this stream out of band; `None` if its route does not renew.
    pub fn handle(&self) -> Option<&Opaque> {
        self.handle.as_ref()
    }

    /// How long the gateway says that the token is good for: whole seconds, rounded down.
    pub fn expires_in(&self) -> Option<Duration> {
        let seconds = self.headers.get(EXPIRES_IN)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// The subprotocol that was chosen.
    pub fn subprotocol(&self) -> Option<&str> {
        self.headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()
    }

    /// Sends a text message; `Err` if the stream has ended: then [`Stream::next`] says how.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<(), Gone> {
        self.socket.send(Message::text(text.into())).await.map_err(|_| Gone)
    }

    /// The next message, or the end. Pings are answered on the way. May be dropped and called again.
    pub async fn next(&mut self) -> Received {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Received::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(bytes))) => return Received::Binary(bytes),
                Some(Ok(Message::Close(frame))) => return Received::Closed(closed(frame)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(_)) | None => return Received::Closed(Closed::default()),
            }
        }
    }

    /// After the peer's Close: sends the answer and waits for the end of the connection, at most two seconds.
    pub async fn finish(mut self) {
        let rest = async { while let Some(Ok(_)) = self.socket.next().await {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, rest).await;
    }

    /// Closes with 1000 and waits for the answer, at most two seconds; messages that still come are dropped.
    pub async fn close(mut self) -> Closed {
        let frame = CloseFrame { code: 1000.into(), reason: "".into() };
        let shake = async {
            // An error here means that the peer's Close is there already: it is read below.
            let _ = self.socket.close(Some(frame)).await;
            loop {
                if let Received::Closed(closed) = self.next().await {
                    break closed;
                }
            }
        };
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, shake).await.unwrap_or_default();
        self.finish().await;
        closed
    }
}

fn closed(frame: Option<CloseFrame>) -> Closed {
    match frame {
        Some(frame) => Closed { code: Some(frame.code.into()), reason: frame.reason.as_str().to_owned(), clean: true },
        None => Closed { clean: true, ..Closed::default() },
    }
}

/// The stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Gone;

/// Bytes of each direction's buffer.
const BUFFER: usize = 8 * 1024;
/// Bytes of a response head.
const MAX_HEAD: usize = 64 * 1024;
/// Bytes of a problem document.
const MAX_BODY: usize = 16 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
