//! A plain WebSocket service that costs as little as it can, so that the proxy in front of it is what is measured. It
//! answers plain requests too.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::ws::handshake::Key;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::frame::{self, Message};
use crate::peer::{Peer, header};

/// Serves for `life`.
pub async fn serve(port: u16, life: Duration) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into()).with_context(|| format!("port {port}"))?;
    let listener = socket.listen(4096)?;
    // The end of its life is no error.
    timeout(life, accept(&listener)).await.unwrap_or(Ok(()))
}

async fn accept(listener: &TcpListener) -> anyhow::Result<()> {
    loop {
        let (tcp, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            // How a stream ends is the other end's affair.
            let _ = stream(tcp).await;
        });
    }
}

async fn stream(tcp: TcpStream) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let mut peer = Peer::new(tcp, 16 * 1024);
    let request = loop {
        let request = timeout(PATIENCE, peer.receive_http()).await??;
        if header(&request, "sec-websocket-key").is_some() {
            break request;
        }
        answer_get(&mut peer, &request).await?;
    };
    let target = request.split_ascii_whitespace().nth(1).context("no path")?;
    let size = target.starts_with("/flood?").then(|| size(target)).flatten();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_of(&request)?
    );
    peer.send(answer.as_bytes()).await?;
    let (tcp, early) = peer.into_parts();
    match size {
        Some(size) => flood(tcp, size).await,
        None => echo(tcp, early).await,
    }
}

/// Answers a GET with the message whose size and number its query names.
async fn answer_get(peer: &mut Peer<TcpStream>, request: &str) -> anyhow::Result<()> {
    let target = request.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).context("no GET")?;
    let size = size(target).context("no size")?;
    let mut message = Message::from_service(size, 0);
    message.set_number(parameter(target, "number").and_then(|number| number.parse().ok()).unwrap_or_default());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n");
    peer.send(&[head.as_bytes(), message.payload()].concat()).await
}

/// The size that a target asks for.
fn size(target: &str) -> Option<usize> {
    parameter(target, "size")?.parse().ok().filter(|size| (1..=LARGEST).contains(size))
}

fn parameter<'t>(target: &'t str, name: &str) -> Option<&'t str> {
    let pairs = target.split_once('?')?.1.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find_map(|(own, value)| (own == name).then_some(value))
}

fn accept_of(request: &str) -> anyhow::Result<String> {
    let key = header(request, "sec-websocket-key").context("no Sec-WebSocket-Key")?;
    let Ok(random) = <[u8; 16]>::try_from(STANDARD.decode(key)?) else { bail!("a key of another length") };
    Ok(Key::new(random).accept().to_str()?.to_owned())
}

/// Echoes frame by frame; all that one read completed leaves in one write.
async fn echo(mut tcp: TcpStream, early: Vec<u8>) -> anyhow::Result<()> {
    let mut unread = early;
    let mut answers = Vec::new();
    loop {
        let mut used = 0;
        let mut over = false;
        while let Some(length) = answer(unread.get_mut(used..).unwrap_or_default(), &mut answers, &mut over)? {
            used += length;
        }
        unread.drain(..used);
        if !answers.is_empty() {
            tcp.write_all(&answers).await?;
            answers.clear();
        }
        if over {
            tcp.shutdown().await?;
            return Ok(());
        }
        // A silent stream keeps no buffer.
        if unread.is_empty() {
            unread = Vec::new();
            answers = Vec::new();
            tcp.readable().await?;
        }
        unread.reserve(READ);
        if tcp.read_buf(&mut unread).await? == 0 {
            return Ok(());
        }
    }
}

/// Puts the echo of the frame at the start of `bytes` behind `answers`; its length, or `None` if it is not all there.
fn answer(bytes: &mut [u8], answers: &mut Vec<u8>, over: &mut bool) -> anyhow::Result<Option<usize>> {
    let Some((first, payload, head)) = frame::parse(bytes) else { return Ok(None) };
    let payload = usize::try_from(payload)?;
    ensure!(payload <= LARGEST, "a frame of {payload} bytes");
    let Some((key, rest)) = bytes.get_mut(head..).and_then(|rest| rest.split_first_chunk_mut::<4>()) else {
        return Ok(None);
    };
    let Some(payload) = rest.get_mut(..payload) else { return Ok(None) };
    unmask(payload, *key);
    let length = head + 4 + payload.len();
    let mut head = frame::head(payload.len(), false);
    if let Some(byte) = head.first_mut() {
        // A ping is answered with a pong, everything else with itself.
        *byte = if first & 0x0f == 9 { first + 1 } else { first };
    }
    *over |= first & 0x0f == 8;
    answers.extend_from_slice(&head);
    answers.extend_from_slice(payload);
    Ok(Some(length))
}

/// In blocks that the compiler turns into vector instructions.
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let mut wide = [0; 32];
    wide.iter_mut().zip(key.iter().cycle()).for_each(|(wide, key)| *wide = *key);
    let (blocks, rest) = payload.as_chunks_mut::<32>();
    for block in blocks {
        block.iter_mut().zip(&wide).for_each(|(byte, key)| *byte ^= key);
    }
    rest.iter_mut().zip(&wide).for_each(|(byte, key)| *byte ^= key);
}

/// Sends messages with ascending numbers until the other end has gone.
async fn flood(mut tcp: TcpStream, size: usize) -> anyhow::Result<()> {
    let mut message = Message::from_service(size, 0);
    let mut batch = Vec::new();
    let mut number = 0;
    loop {
        batch.clear();
        while batch.is_empty() || batch.len() + message.frame().len() <= READ {
            message.set_number(number);
            number += 1;
            batch.extend_from_slice(message.frame());
        }
        tcp.write_all(&batch).await?;
    }
}

/// How long a proxy may keep a connection without asking for anything: longer than it does.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of one read, and of one write of a flood.
const READ: usize = 64 * 1024;
/// The largest message.
const LARGEST: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_echoed_whole_and_unmasked() {
        for size in [1, 31, 33, 125, 126, 70_000] {
            let (sent, expected) = (Message::from_client(size, 5), Message::from_service(size, 5));
            let (mut answers, mut over) = (Vec::new(), false);
            let mut part = sent.frame()[..sent.frame().len() - 1].to_vec();
            assert_eq!(answer(&mut part, &mut answers, &mut over).unwrap(), None);
            let mut bytes = [sent.frame(), &frame::CLOSE].concat();
            let length = answer(&mut bytes, &mut answers, &mut over).unwrap().unwrap();
            assert_eq!((length, &answers[..], over), (sent.frame().len(), expected.frame(), false));
            answers.clear();
            answer(&mut bytes[length..], &mut answers, &mut over).unwrap().unwrap();
            assert_eq!((&answers[..], over), (&[0x88, 2, 0x03, 0xe8][..], true));
        }
    }
}
