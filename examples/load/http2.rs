//! HTTP/2 towards the proxy: WebSockets by extended CONNECT (RFC 8441) and plain requests, many to a connection.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, Bytes};
use h2::client::{Builder, SendRequest};
use h2::ext::Protocol;
use h2::{Ping, RecvStream, SendStream};
use http::header::SEC_WEBSOCKET_VERSION;
use http::{Method, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OnceCell;

use crate::endpoint::Link;

/// Connections that are shared by so many streams each, one connection after the other.
pub struct Sharing {
    streams: u32,
    /// The connection that is being filled, and how many streams it has been given.
    filling: RefCell<(Shared, u32)>,
}

/// A connection, once somebody has opened it.
type Shared = Rc<OnceCell<SendRequest<Bytes>>>;

impl Sharing {
    /// `streams` to a connection.
    pub fn new(streams: u32) -> Self {
        Self { streams, filling: RefCell::default() }
    }

    /// The connection of the next stream.
    pub fn next(&self) -> Shared {
        let mut filling = self.filling.borrow_mut();
        if filling.1 == self.streams {
            *filling = Default::default();
        }
        filling.1 += 1;
        filling.0.clone()
    }

    /// Streams that follow go over other connections than those before.
    pub fn turn_over(&self) {
        *self.filling.borrow_mut() = Default::default();
    }
}

/// Speaks HTTP/2 on a connection, until everything on it has been dropped. Returns when the proxy's settings are known.
pub async fn start(link: Link) -> anyhow::Result<SendRequest<Bytes>> {
    let mut builder = Builder::new();
    builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW).enable_push(false);
    let (requests, mut connection) = builder.handshake(link).await.context("HTTP/2")?;
    let mut pings = connection.ping_pong().context("a connection without pings")?;
    tokio::task::spawn_local(async move {
        // What its streams make of it is what counts.
        let _ = connection.await;
    });
    // Its settings are the first that the proxy sends, so they come before the answer to a ping.
    pings.ping(Ping::opaque()).await.context("HTTP/2")?;
    Ok(requests)
}

/// Opens a WebSocket.
pub async fn open(requests: SendRequest<Bytes>, uri: &str) -> anyhow::Result<Tunnel> {
    ensure!(requests.is_extended_connect_protocol_enabled(), "no WebSockets over HTTP/2 (RFC 8441) here");
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(uri)
        .version(Version::HTTP_2)
        .header(SEC_WEBSOCKET_VERSION, 13)
        .extension(Protocol::from_static("websocket"))
        .body(())?;
    let mut requests = requests.ready().await.context("CONNECT")?;
    let (answer, send) = requests.send_request(request, false).context("CONNECT")?;
    let answer = answer.await.context("CONNECT")?;
    ensure!(answer.status() == StatusCode::OK, "the CONNECT was answered with {}", answer.status());
    Ok(Tunnel { send, recv: answer.into_body(), unread: Bytes::new() })
}

/// Asks for something, and compares the body with what it must be.
pub async fn get(requests: SendRequest<Bytes>, uri: &str, expected: &[u8]) -> anyhow::Result<()> {
    let request = Request::get(uri).version(Version::HTTP_2).body(())?;
    let mut requests = requests.ready().await.context("GET")?;
    let (answer, _) = requests.send_request(request, true).context("GET")?;
    let answer = answer.await.context("GET")?;
    ensure!(answer.status() == StatusCode::OK, "the GET was answered with {}", answer.status());
    let mut body = answer.into_body();
    let mut rest = expected;
    while let Some(bytes) = body.data().await {
        let bytes = bytes.context("body")?;
        rest = rest.strip_prefix(&bytes[..]).context("another body than was asked for")?;
        let _ = body.flow_control().release_capacity(bytes.len());
    }
    ensure!(rest.is_empty(), "a body that is {} bytes short", rest.len());
    Ok(())
}

/// The bytes of one stream.
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// What came and was not read.
    unread: Bytes,
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(bytes)) => self.unread = bytes,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let now = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..now).unwrap_or_default());
        self.unread.advance(now);
        // It fails once the stream has ended, which the next read tells.
        let _ = self.recv.flow_control().release_capacity(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let now = self.send.capacity().min(bytes.len());
        let piece = Bytes::copy_from_slice(bytes.get(..now).unwrap_or_default());
        let sent = self.send.send_data(piece, false);
        Poll::Ready(sent.map(|()| now).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task does, as soon as it runs.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}

/// What a stream may send ahead, and all of a connection's together, bytes: as Chromium has it.
const STREAM_WINDOW: u32 = if cfg!(test) { 65_535 } else { 6 * 1024 * 1024 };
const CONNECTION_WINDOW: u32 = 15 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;

    /// A connection to a service that answers each request with `body`, and echoes what a WebSocket sends.
    async fn connection(body: &'static [u8], websockets: bool) -> SendRequest<Bytes> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        tokio::task::spawn_local(async move {
            let mut builder = h2::server::Builder::new();
            if websockets {
                builder.enable_connect_protocol();
            }
            let mut connection = builder.handshake::<_, Bytes>(tcp).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                if request.extensions().get::<Protocol>().is_none() {
                    send.send_data(Bytes::from_static(body), true).unwrap();
                    continue;
                }
                let mut recv = request.into_body();
                tokio::task::spawn_local(async move {
                    while let Some(Ok(bytes)) = recv.data().await {
                        recv.flow_control().release_capacity(bytes.len()).unwrap();
                        send.send_data(bytes, false).unwrap();
                    }
                });
            }
        });
        start(Link::Tcp(client)).await.unwrap()
    }

    #[tokio::test]
    async fn a_body_counts_to_its_last_byte() {
        let asked = async {
            let requests = connection(b"body", true).await;
            get(requests.clone(), "http://a/", b"body").await.unwrap();
            for other in [&b"bodi"[..], b"bod", b"bodys"] {
                assert!(get(requests.clone(), "http://a/", other).await.is_err(), "{other:?}");
            }
        };
        LocalSet::new().run_until(asked).await;
    }

    #[tokio::test]
    async fn a_stream_carries_more_than_its_window_both_ways() {
        let carried = async {
            let mut tunnel = open(connection(b"", true).await, "http://a/").await.unwrap();
            let sent: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
            let mut came = vec![0; sent.len()];
            for _ in 0..2 {
                for (sent, came) in sent.chunks(50_000).zip(came.chunks_mut(50_000)) {
                    tunnel.write_all(sent).await.unwrap();
                    tunnel.read_exact(came).await.unwrap();
                }
                assert_eq!(sent, came);
            }
        };
        let carried = tokio::time::timeout(Duration::from_secs(20), carried);
        LocalSet::new().run_until(carried).await.unwrap();
    }

    #[tokio::test]
    async fn a_proxy_without_websockets_over_http2_is_named_as_such() {
        let refused = async { open(connection(b"", false).await, "http://a/").await.err().unwrap().to_string() };
        assert!(LocalSet::new().run_until(refused).await.contains("RFC 8441"));
    }

    #[test]
    fn so_many_streams_share_a_connection() {
        let sharing = Sharing::new(2);
        let connections: Vec<_> = (0..5).map(|_| sharing.next()).collect();
        let same = |one: usize, two: usize| Rc::ptr_eq(&connections[one], &connections[two]);
        assert!(same(0, 1) && !same(1, 2) && same(2, 3) && !same(3, 4));
        sharing.turn_over();
        assert!(!Rc::ptr_eq(&connections[4], &sharing.next()));
    }
}
