//! A client of HTTP/2 that writes and reads frames one by one, as wrong as a test likes (RFC 9113, section 4).

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::http2::tls;
use super::{Gateway, PATIENCE, within};

/// Types of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Error codes (section 7).
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL: u32 = 1;
    pub const FLOW_CONTROL: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// What a client sends first (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A whole frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A HEADERS frame that holds the whole of a header block.
pub fn headers(stream: u32, flags: u8, block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

/// A SETTINGS frame with these parameters.
pub fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let one = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(kind::SETTINGS, 0, 0, parameters.iter().flat_map(one).collect::<Vec<u8>>())
}

/// A RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, code.to_be_bytes())
}

/// A WINDOW_UPDATE.
pub fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, more.to_be_bytes())
}

/// A GOAWAY.
pub fn goaway(code: u32) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, [0u32.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A field of a header block, literal and not indexed (RFC 7541, section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

/// Fields of a header block.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A string literal, not Huffman-encoded (RFC 7541, section 5.2).
pub fn string(text: &str) -> Vec<u8> {
    [&integer(text.len(), 0x7f)[..], text.as_bytes()].concat()
}

/// An integer whose first byte has room up to `most` (RFC 7541, section 5.1).
pub fn integer(value: usize, most: u8) -> Vec<u8> {
    let Some(mut rest) = value.checked_sub(usize::from(most)) else { return vec![u8::try_from(value).expect("small")] };
    let mut out = vec![most];
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).expect("7 bits") | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).expect("7 bits"));
    out
}

/// The fields of a GET of `/`.
pub fn get() -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "localhost")])
}

/// The fields of an extended CONNECT for a WebSocket at `target`.
pub fn connect(target: &str) -> Vec<u8> {
    block(&[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", target),
        (":authority", "localhost"),
        ("sec-websocket-version", "13"),
    ])
}

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Received {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Received {
    /// The error code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("a code"))
    }

    /// Whether its stream ends with it.
    pub fn ends(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }

    /// The status that an answer's head begins with. Only of a connection's first answer, which knows no dynamic table.
    pub fn status(&self) -> u16 {
        assert_eq!(self.kind, kind::HEADERS);
        match *self.payload.as_slice() {
            [0x88, ..] => 200,
            [0x89, ..] => 204,
            [0x8c, ..] => 400,
            [0x8d, ..] => 404,
            [0x8e, ..] => 500,
            [0x48, 3, a, b, c, ..] => [a, b, c].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')),
            [0x48, length, ref rest @ ..] if length & 0x80 != 0 => digits(&rest[..usize::from(length & 0x7f)]),
            _ => panic!("no status: {:02x?}", self.payload),
        }
    }
}

/// Three digits in Huffman code (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0u16, |number, bit| number << 1 | u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let short = number(&bits[at..at + 5]);
        let (digit, length) = if short < 3 { (short, 5) } else { (number(&bits[at..at + 6]) - 0x16, 6) };
        status = status * 10 + digit;
        at += length;
    }
    status
}

/// One connection.
pub struct Frames {
    io: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl Frames {
    /// TLS, and nothing sent.
    pub async fn bare(gateway: &Gateway) -> Self {
        Self { io: tls(gateway).await, read: Vec::new() }
    }

    /// With preface and settings.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::connect_with(gateway, &[]).await
    }

    /// Likewise, with these settings of the client.
    pub async fn connect_with(gateway: &Gateway, parameters: &[(u16, u32)]) -> Self {
        let mut frames = Self::bare(gateway).await;
        frames.send([PREFACE, &settings(parameters), &frame(kind::SETTINGS, flag::ACK, 0, [])].concat()).await;
        let first = frames.frame().await;
        assert_eq!((first.kind, first.flags), (kind::SETTINGS, 0), "the gateway begins with its settings");
        frames
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("send");
    }

    /// Likewise; the gateway may have gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within(PATIENCE, "send", async {
            self.io.write_all(bytes.as_ref()).await?;
            self.io.flush().await
        })
        .await
    }

    /// The next frame; fails when the connection ends first.
    pub async fn frame(&mut self) -> Received {
        self.next().await.expect("a frame, not the end of the connection")
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Received> {
        within(PATIENCE, "a frame", self.wait()).await
    }

    /// Likewise, without a deadline.
    pub async fn wait(&mut self) -> Option<Received> {
        loop {
            if let Some(frame) = take(&mut self.read) {
                return Some(frame);
            }
            match self.io.read_buf(&mut self.read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// The next frame that `wanted` takes; others are passed over.
    pub async fn until(&mut self, what: &str, mut wanted: impl FnMut(&Received) -> bool) -> Received {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("{what}: the connection ended"));
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Sends a PING and reads up to its answer: whatever was sent before has been seen then.
    pub async fn round_trip(&mut self) -> Vec<Received> {
        let mark = *b"around..";
        self.send(frame(kind::PING, 0, 0, mark)).await;
        let mut seen = Vec::new();
        loop {
            let Some(frame) = self.next().await else { panic!("the connection ended after {:?}", seen.last()) };
            if frame.kind == kind::PING && frame.flags == flag::ACK && frame.payload == mark {
                return seen;
            }
            seen.push(frame);
        }
    }

    /// Sends all of `bytes`, or as much as the gateway takes, and reads meanwhile; what came, up to the end of the connection
    /// or, if it stands, of the sending.
    pub async fn pour(&mut self, bytes: &[u8]) -> (Vec<Received>, bool) {
        let (mut reader, mut writer) = split(&mut self.io);
        let (read, mut seen, mut ended) = (&mut self.read, Vec::new(), false);
        let reading = async {
            loop {
                match reader.read_buf(read).await {
                    Ok(1..) => seen.extend(std::iter::from_fn(|| take(read))),
                    Ok(0) | Err(_) => return true,
                }
            }
        };
        let sending = async {
            for chunk in bytes.chunks(64 * 1024) {
                if writer.write_all(chunk).await.is_err() {
                    // What the gateway had to say comes by the other way.
                    return std::future::pending().await;
                }
            }
            let _ = writer.flush().await;
            false
        };
        within(super::PATIENCE * 4, "a flood", async {
            tokio::select! {
                end = reading => ended = end,
                end = sending => ended = end,
            }
        })
        .await;
        (seen, ended)
    }

    /// Reads until the connection ends.
    pub async fn rest(&mut self) -> Vec<Received> {
        let mut seen = Vec::new();
        while let Some(frame) = self.next().await {
            seen.push(frame);
        }
        seen
    }
}

fn take(read: &mut Vec<u8>) -> Option<Received> {
    let &[high, middle, low, kind, flags, ..] = read.as_slice() else { return None };
    let stream = u32::from_be_bytes(read.get(5..9)?.try_into().expect("four bytes")) & 0x7fff_ffff;
    let end = 9 + usize::try_from(u32::from_be_bytes([0, high, middle, low])).expect("a length");
    let payload = read.get(9..end)?.to_vec();
    read.drain(..end);
    Some(Received { kind, flags, stream, payload })
}
