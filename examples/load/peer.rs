//! A WebSocket after its upgrade: sends frames, and holds what comes back against what it must be.

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::frame;

/// One end of a stream, and what has been read of it but not looked at.
pub struct Peer<S> {
    stream: S,
    buffer: Vec<u8>,
    /// The part of `buffer` that is filled and not used up.
    from: usize,
    to: usize,
}

impl<S> Peer<S> {
    /// A peer that reads up to `capacity` bytes at a time.
    pub fn new(stream: S, capacity: usize) -> Self {
        Self { stream, buffer: vec![0; capacity.max(16)], from: 0, to: 0 }
    }

    pub const fn stream(&self) -> &S {
        &self.stream
    }

    pub fn into_stream(self) -> S {
        self.stream
    }

    /// The stream, and what has been read of it but not looked at.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        let unread = self.unread().to_vec();
        (self.stream, unread)
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }
}

impl<S: AsyncWrite + Unpin> Peer<S> {
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> Peer<S> {
    /// Reads one message and compares it, byte by byte.
    pub async fn receive(&mut self, expected: &[u8]) -> anyhow::Result<()> {
        let (first, length) = self.head().await?;
        ensure!(first == 0x82, "a frame that starts with {first:#04x} instead of a binary message");
        ensure!(length == expected.len() as u64, "a message of {length} bytes instead of {}", expected.len());
        self.compare(expected).await
    }

    /// Reads as many bytes as are expected, and compares them.
    pub async fn compare(&mut self, expected: &[u8]) -> anyhow::Result<()> {
        let mut rest = expected;
        while !rest.is_empty() {
            if self.unread().is_empty() {
                self.fill().await?;
            }
            let unread = self.unread();
            let now = unread.len().min(rest.len());
            let (same, later) = rest.split_at(now);
            ensure!(unread.get(..now) == Some(same), "other bytes came back than were sent");
            self.from += now;
            rest = later;
        }
        Ok(())
    }

    /// Reads up to a Close; its code (1005: it has none) and reason. Data that is still on its way is dropped.
    pub async fn receive_close(&mut self) -> anyhow::Result<(u16, String)> {
        let mut close = Vec::new();
        loop {
            let (first, mut length) = self.head().await?;
            while length > 0 {
                if self.unread().is_empty() {
                    self.fill().await?;
                }
                let now = self.unread().len().min(usize::try_from(length).unwrap_or(usize::MAX));
                if first == 0x88 {
                    close.extend_from_slice(self.unread().get(..now).unwrap_or_default());
                }
                self.from += now;
                length -= now as u64;
            }
            if first == 0x88 {
                break;
            }
        }
        Ok(match close.split_first_chunk() {
            Some((code, reason)) => (u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned()),
            None => (1005, String::new()),
        })
    }

    /// Reads to the end of the stream, whatever ends it: some peers leave without a close_notify.
    pub async fn receive_end(&mut self) {
        while matches!(self.stream.read(&mut self.buffer).await, Ok(1..)) {}
    }

    /// Reads a request's or an answer's head, up to its empty line.
    pub async fn receive_http(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.unread().windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(self.unread().get(..end).unwrap_or_default()).into_owned();
                self.from += end + 4;
                return Ok(head);
            }
            self.fill().await?;
        }
    }

    /// Reads an answer: its status, its head and its body, whose length the head must tell.
    pub async fn receive_answer(&mut self) -> anyhow::Result<(u16, String, Vec<u8>)> {
        let head = self.receive_http().await?;
        let status =
            head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("an answer without a status")?;
        let length = header(&head, "content-length").unwrap_or("0").parse::<usize>().context("content-length")?;
        ensure!(length <= 64 * 1024, "an answer of {length} bytes");
        let mut body = Vec::new();
        while body.len() < length {
            if self.unread().is_empty() {
                self.fill().await?;
            }
            let now = self.unread().len().min(length - body.len());
            body.extend_from_slice(self.unread().get(..now).unwrap_or_default());
            self.from += now;
        }
        Ok((status, head, body))
    }

    async fn head(&mut self) -> anyhow::Result<(u8, u64)> {
        loop {
            if let Some((first, payload, length)) = frame::parse(self.unread()) {
                self.from += length;
                return Ok((first, payload));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        let room = self.buffer.get_mut(self.to..).filter(|room| !room.is_empty()).context("an endless head")?;
        match self.stream.read(room).await? {
            0 => bail!("the connection ended"),
            read => self.to += read,
        }
        Ok(())
    }
}

/// The value of a header in a head.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Message;

    async fn answer(sent: Vec<u8>, expected: &[u8]) -> anyhow::Result<()> {
        let (near, mut far) = tokio::io::duplex(64);
        let peer = async { Peer::new(near, 50).receive(expected).await };
        let writer = async move {
            let _ = far.write_all(&sent).await; // the peer may have seen enough
        };
        tokio::join!(peer, writer).0
    }

    #[tokio::test]
    async fn every_byte_counts() {
        let message = Message::from_service(300, 3);
        answer(message.frame().to_vec(), message.payload()).await.unwrap();
        for at in 0..message.frame().len() {
            let mut changed = message.frame().to_vec();
            changed[at] ^= 1;
            assert!(answer(changed, message.payload()).await.is_err(), "byte {at}");
        }
        assert!(answer(message.frame()[..200].to_vec(), message.payload()).await.is_err());
    }
}
