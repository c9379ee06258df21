//! A client's HTTP/2 connection, and streams on it (RFC 8441).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Request, Response};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Gateway, Link, PATIENCE, Reply, eventually, within};

/// One connection, which carries any number of requests and streams.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    authority: String,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// Connects.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::connect_with(gateway, &Builder::new()).await
    }

    /// Likewise, with windows and bounds of the test's own.
    pub async fn connect_with(gateway: &Gateway, builder: &Builder) -> Self {
        let io = tls(gateway).await;
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 was agreed on");
        let (sender, connection) = within(PATIENCE, "HTTP/2", builder.handshake(io)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let waiting = sender.clone();
        eventually("extended CONNECT", || waiting.is_extended_connect_protocol_enabled()).await;
        Self { sender, authority: format!("localhost:{}", gateway.address().port()), connection }
    }

    /// Asks for a WebSocket. `more`: further header lines, each ended by `\r\n`. The answer, whose `200` is told as `101`,
    /// and the stream.
    pub async fn ask(&self, target: &str, more: &str) -> (Reply, Link) {
        let (mut reply, send, mut recv) = self.connect_to(target, more).await;
        if reply.status != 101 {
            reply.body = body(&mut recv).await.expect("a body");
        }
        let stream = Http2Stream { send, recv, ahead: Bytes::new() };
        (reply.clone(), Link::over_http2(stream, reply.head))
    }

    /// Likewise, and gives both halves of the stream as they are.
    pub async fn connect_to(&self, target: &str, more: &str) -> (Reply, SendStream<Bytes>, RecvStream) {
        let (response, send) = self.send(self.websocket(target, more), false).await.expect("an answer");
        let mut reply = reply_head(&response);
        if reply.status == 200 {
            reply.status = 101;
        }
        (reply, send, response.into_body())
    }

    /// The request for a WebSocket.
    pub fn websocket(&self, target: &str, more: &str) -> Request<()> {
        let connect = Request::connect(format!("https://{}{target}", self.authority));
        let connect = fields(more)
            .fold(connect.header("sec-websocket-version", "13"), |connect, (name, value)| connect.header(name, value));
        let mut connect = connect.body(()).expect("a request");
        connect.extensions_mut().insert(Protocol::from_static("websocket"));
        connect
    }

    /// Opens a stream with `token` in the query.
    pub async fn open(&self, token: &str) -> Link {
        let (reply, link) = self.ask(&format!("/?access_token={token}"), "").await;
        assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
        link
    }

    /// Sends another request, without a body. `more` as in [`Http2::ask`].
    pub async fn request(&self, method: &str, target: &str, more: &str) -> Reply {
        self.try_request(method, target, more).await.expect("an answer")
    }

    /// Likewise; the stream may be reset, or the connection end.
    pub async fn try_request(&self, method: &str, target: &str, more: &str) -> Result<Reply, h2::Error> {
        let request = Request::builder().method(method).uri(format!("https://{}{target}", self.authority));
        let request = fields(more).fold(request, |request, (name, value)| request.header(name, value));
        let (response, _) = self.send(request.body(()).expect("a request"), true).await?;
        let mut reply = reply_head(&response);
        reply.body = body(&mut response.into_body()).await?;
        Ok(reply)
    }

    /// Sends a request whose body, if it does not `end` with its head, the caller sends.
    pub async fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), h2::Error> {
        within(PATIENCE, "an answer over HTTP/2", async {
            let mut sender = self.sender.clone().ready().await?;
            let (response, send) = sender.send_request(request, end)?;
            Ok((response.await?, send))
        })
        .await
    }

    /// What requests are named by.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// For more than one request at a time.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Waits for the end of the connection.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.sender);
        within(PATIENCE, "the end of the connection", self.connection).await.expect("no panic")
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }
}

/// Whether streams are opened over HTTP/2 in every test that does not say how: one connection for each.
pub fn everywhere() -> bool {
    std::env::var_os("TEST_HTTP2").is_some()
}

/// TLS with a gateway, HTTP/2 asked for; nothing sent.
pub async fn tls(gateway: &Gateway) -> TlsStream<TcpStream> {
    let tcp = within(PATIENCE, "connect", TcpStream::connect(gateway.address())).await.expect("connect");
    tcp.set_nodelay(true).expect("nodelay");
    let mut config = (*gateway.authority().client()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").expect("name");
    within(PATIENCE, "TLS", TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.expect("TLS")
}

fn fields(more: &str) -> impl Iterator<Item = (String, &str)> {
    more.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim()))
    })
}

/// The head in the form that it has in HTTP/1.1.
fn reply_head(response: &Response<RecvStream>) -> Reply {
    let status = response.status().as_u16();
    let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}\r\n", value.to_str().expect("text"));
    let head = format!("HTTP/2 {status}\r\n") + &response.headers().iter().map(line).collect::<String>();
    Reply { status, head, body: Vec::new() }
}

async fn body(recv: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = within(PATIENCE, "a body", recv.data()).await {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok(body)
}

/// A stream, as a transport.
pub struct Http2Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    ahead: Bytes,
}

impl Http2Stream {
    /// Resets it.
    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ahead.is_empty() {
            match ready!(this.recv.poll_data(cx)) {
                Some(data) => this.ahead = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let now = this.ahead.split_to(this.ahead.len().min(buf.remaining()));
        buf.put_slice(&now);
        this.recv.flow_control().release_capacity(now.len()).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.send.reserve_capacity(buf.len());
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(room) => drop(room.map_err(io::Error::other)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let now = this.send.capacity().min(buf.len());
        this.send.send_data(Bytes::copy_from_slice(&buf[..now]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(now))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}

/// Waits until the other side has reset the stream; why it did.
pub async fn reset_of(send: &mut SendStream<Bytes>) -> Reason {
    within(PATIENCE, "a reset", poll_fn(|cx| send.poll_reset(cx)))
        .await
        .expect("a reset, not the end of the connection")
}
