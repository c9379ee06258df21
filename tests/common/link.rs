//! One end of a WebSocket over TLS or TCP, as raw as a test likes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http2::Http2Stream;
use super::{PATIENCE, within};

/// Opcodes (RFC 6455, section 11.8).
pub mod op {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Which side a [`Link`] plays: a client masks what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// A whole frame, its payload unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub rsv: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    /// An unfragmented frame.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, rsv: 0, opcode, masked: false, payload: payload.into() }
    }

    /// A Close with code and reason.
    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(op::CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("text")
    }

    /// Code and reason of a Close; `(1005, "")` for one without a code.
    pub fn close_code(&self) -> (u16, &str) {
        assert_eq!(self.opcode, op::CLOSE, "not a Close: {self:?}");
        match self.payload.as_slice() {
            [] => (1005, ""),
            [high, low, reason @ ..] => {
                (u16::from_be_bytes([*high, *low]), std::str::from_utf8(reason).expect("reason"))
            }
            [_] => panic!("a Close with one byte"),
        }
    }

    /// The frame as it stands on the wire, for the side `role`.
    pub fn encode(&self, role: Role) -> Vec<u8> {
        let mut out = Self::head(self.fin, self.rsv, self.opcode, role, self.payload.len() as u64);
        match role {
            Role::Client => out.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask)),
            Role::Server => out.extend_from_slice(&self.payload),
        }
        out
    }

    /// Only a head, for a frame of `length` bytes whose payload a test sends as it likes.
    pub fn head(fin: bool, rsv: u8, opcode: u8, role: Role, length: u64) -> Vec<u8> {
        let mut out = vec![u8::from(fin) << 7 | (rsv & 7) << 4 | opcode & 15];
        let mask = if role == Role::Client { 0x80 } else { 0 };
        match length {
            0..=125 => out.push(mask | u8::try_from(length).expect("small")),
            126..=0xffff => {
                out.push(mask | 0x7e);
                out.extend_from_slice(&u16::try_from(length).expect("16 bits").to_be_bytes());
            }
            _ => {
                out.push(mask | 0x7f);
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        if role == Role::Client {
            out.extend_from_slice(&MASK);
        }
        out
    }
}

/// The mask of every frame that a test's client sends.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An answer to a request.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of the first header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as text.
    pub fn body_text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

/// The value of the first header `name` in a head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// One end of a connection: raw bytes, heads and frames.
pub struct Link {
    stream: Stream,
    role: Role,
    read: Vec<u8>,
    /// The head with which the other side opened the stream.
    pub head: String,
}

impl Link {
    /// Over an accepted or connected TCP stream.
    pub fn over_tcp(stream: TcpStream, role: Role) -> Self {
        stream.set_nodelay(true).expect("nodelay");
        Self { stream: Stream::Tcp(stream), role, read: Vec::new(), head: String::new() }
    }

    /// Over a stream of an HTTP/2 connection, opened with this head.
    pub fn over_http2(stream: Http2Stream, head: String) -> Self {
        Self { stream: Stream::Http2(Box::new(stream)), role: Role::Client, read: Vec::new(), head }
    }

    /// Connects by TCP. `receive_buffer` makes the kernel hold little for a client that does not read.
    pub async fn connect(to: SocketAddr, receive_buffer: Option<u32>) -> Self {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("socket");
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).expect("receive buffer");
        }
        let stream = within(PATIENCE, "connect", socket.connect(to)).await.expect("connect");
        Self::over_tcp(stream, Role::Client)
    }

    /// TLS over a connected stream.
    pub async fn tls(self, name: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let Stream::Tcp(tcp) = self.stream else { panic!("TLS is already there") };
        let name = ServerName::try_from(name.to_owned()).expect("name");
        let tls = within(PATIENCE, "TLS handshake", TlsConnector::from(config).connect(name, tcp)).await?;
        Ok(Self { stream: Stream::Tls(Box::new(tls)), role: self.role, read: self.read, head: self.head })
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.try_raw(bytes).await.expect("send");
    }

    /// Sends bytes as they are; the other side may be gone.
    pub async fn try_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(PATIENCE, "send", async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Sends bytes as they are until `limit` is over; how many the other side took.
    pub async fn flood(&mut self, bytes: &[u8], limit: Duration) -> usize {
        let mut sent = 0;
        let sending = async {
            while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
                match self.stream.write(rest).await {
                    Ok(more) => sent += more,
                    Err(_) => break,
                }
            }
            let _ = self.stream.flush().await;
        };
        let _ = tokio::time::timeout(limit, sending).await;
        sent
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Frame) {
        let bytes = frame.encode(self.role);
        self.raw(&bytes).await;
    }

    /// Sends a text message in one frame.
    pub async fn text(&mut self, text: &str) {
        self.send(&Frame::new(op::TEXT, text)).await;
    }

    /// Sends a Close.
    pub async fn close(&mut self, code: u16, reason: &str) {
        self.send(&Frame::close(code, reason)).await;
    }

    /// The next frame; fails when the stream ends first.
    pub async fn frame(&mut self) -> Frame {
        self.next().await.expect("a frame, not the end of the stream")
    }

    /// The next frame; `None` at the end of the stream, orderly or by a reset.
    pub async fn next(&mut self) -> Option<Frame> {
        within(PATIENCE, "a frame", self.next_or_error()).await.ok().flatten()
    }

    /// The next frame, without a deadline. `Ok(None)`: the stream ended in order, between frames. An error: a reset,
    /// or the end in the middle of a frame.
    pub async fn next_or_error(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return if self.read.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads until the stream ends and gives all bytes; `true` if the end was a reset.
    pub async fn rest(&mut self) -> (Vec<u8>, bool) {
        let reset = within(PATIENCE, "the end of the stream", async {
            loop {
                match self.fill().await {
                    Ok(true) => {}
                    Ok(false) => return false,
                    Err(_) => return true,
                }
            }
        })
        .await;
        (std::mem::take(&mut self.read), reset)
    }

    /// Reads one head, up to its empty line.
    pub async fn read_head(&mut self) -> io::Result<String> {
        within(PATIENCE, "a head", async {
            loop {
                if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                    let head: Vec<u8> = self.read.drain(..end + 4).collect();
                    return Ok(String::from_utf8_lossy(&head).into_owned());
                }
                if !self.fill().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        })
        .await
    }

    /// Sends a request head and reads the answer: a `101`, or a refusal with its body.
    pub async fn request(&mut self, head: &str) -> Reply {
        self.raw(head.as_bytes()).await;
        self.reply().await.expect("an answer")
    }

    /// Reads an answer: a `101`, or another with its body.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        let head = self.read_head().await?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let length =
            if status == 101 { 0 } else { header(&head, "content-length").map_or(0, |n| n.parse().expect("n")) };
        within(PATIENCE, "a body", async {
            while self.read.len() < length {
                if !self.fill().await? {
                    return Err::<(), io::Error>(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(())
        })
        .await?;
        let body = self.read.drain(..length).collect();
        self.head.clone_from(&head);
        Ok(Reply { status, head, body })
    }

    /// The certificate that the other side showed, DER.
    pub fn certificate(&self) -> Vec<u8> {
        let Stream::Tls(tls) = &self.stream else { panic!("no TLS") };
        tls.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
    }

    /// Ends this side's sending (TLS `close_notify` and FIN); reading goes on.
    pub async fn half_close(&mut self) {
        within(PATIENCE, "shutdown", self.stream.shutdown()).await.expect("shutdown");
    }

    /// The bare connection; bytes that arrived and were not yet taken are lost.
    pub fn into_stream(self) -> impl AsyncRead + AsyncWrite + Send + 'static {
        self.stream
    }

    /// Resets the connection, or its stream.
    pub fn abort(mut self) {
        if let Stream::Http2(stream) = &mut self.stream {
            return stream.reset();
        }
        let _ = socket2::SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO));
    }

    /// The bytes that arrived and were not yet taken.
    pub fn unread(&self) -> &[u8] {
        &self.read
    }

    /// Forgets the bytes that arrived and were not yet taken; how many.
    pub fn discard(&mut self) -> usize {
        let bytes = self.read.len();
        self.read.clear();
        bytes
    }

    /// Reads once, without waiting for a whole frame; `false` at the end of the stream.
    pub async fn fill(&mut self) -> io::Result<bool> {
        self.read.reserve(16 * 1024);
        let n = match self.stream.read_buf(&mut self.read).await {
            // TLS without its farewell, after the last frame: the TCP end counts.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            other => other?,
        };
        Ok(n > 0)
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let [first, second, ..] = *self.read.as_slice() else { return None };
        let (length, mut at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(self.read.get(2..4)?.try_into().expect("2"))), 4),
            127 => (u64::from_be_bytes(self.read.get(2..10)?.try_into().expect("8")), 10),
            short => (u64::from(short), 2),
        };
        let masked = second & 0x80 != 0;
        let mask: Option<[u8; 4]> = if masked { Some(self.read.get(at..at + 4)?.try_into().expect("4")) } else { None };
        at += if masked { 4 } else { 0 };
        let end = at + usize::try_from(length).expect("length");
        let mut payload = self.read.get(at..end)?.to_vec();
        if let Some(mask) = mask {
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        self.read.drain(..end);
        Some(Frame { fin: first & 0x80 != 0, rsv: first >> 4 & 7, opcode: first & 15, masked, payload })
    }
}

/// TLS, TCP or a stream of HTTP/2 under one name.
enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Http2(Box<Http2Stream>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            Self::Http2(_) => panic!("a stream has no socket of its own"),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Http2(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Http2(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Http2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
