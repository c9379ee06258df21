//! One TLS session without its transport: records in, plaintext and answers out; plaintext in, records out.

use std::io;
use std::mem;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    AppDataRecord, ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};

use crate::tls::{RECORD, SEAL};

/// How the peer's side has ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// With `close_notify`.
    Closed,
    /// The transport ended without one.
    Cut,
    /// By an error; the alert is among the answers.
    Failed(Box<Error>),
}

/// See the module.
pub(super) struct Session {
    tls: UnbufferedServerConnection,
    /// What rustls could not use yet. It must see these bytes again, in front of what follows and also when it only
    /// writes: it may have noted where in them a handshake message lies.
    kept: Vec<u8>,
    end: Option<End>,
}

impl Session {
    pub(super) const fn new(tls: UnbufferedServerConnection) -> Self {
        Self { tls, kept: Vec::new(), end: None }
    }

    pub(super) fn state(&self) -> &CommonState {
        &self.tls
    }

    pub(super) const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// How many bytes must stand in front of what is read next: [`Session::kept`], at most [`RECORD`].
    pub(super) const fn kept(&self) -> usize {
        self.kept.len()
    }

    /// What [`Session::kept`] takes in memory.
    pub(super) const fn capacity(&self) -> usize {
        self.kept.capacity()
    }

    /// The transport has ended.
    pub(super) fn cut(&mut self) {
        self.end.get_or_insert(End::Cut);
    }

    /// Opens `incoming`, of which the first [`Session::kept`] bytes are free and the others were read. Plaintext goes to
    /// `plain`, what rustls answers to `answers`.
    pub(super) fn open(&mut self, incoming: &mut [u8], mut plain: impl FnMut(&[u8]), answers: &mut Vec<u8>) {
        let Some((front, _)) = incoming.split_at_mut_checked(self.kept.len()) else { return };
        if self.end.is_some() {
            return;
        }
        front.copy_from_slice(&self.kept);
        let mut used = 0;
        let end = loop {
            let rest = incoming.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(rest);
            used += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(Ok(AppDataRecord { discard, payload })) = records.next_record() {
                        plain(payload);
                        used += discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, answers),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => break Some(End::Closed),
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => break None,
                Ok(other) => break Some(failed(Error::General(format!("no use for {other:?}")))),
                Err(error) => break Some(failed(error)),
            }
        };
        let rest = incoming.get(used..).unwrap_or_default();
        match end {
            None if rest.len() <= RECORD => self.kept = rest.to_vec(),
            None => self.fail(Error::General("a handshake message is too long".into()), answers),
            Some(End::Failed(error)) => self.fail(*error, answers),
            // rustls ignores what follows `close_notify`, and so does everybody.
            Some(end) => {
                self.kept = Vec::new();
                self.end = Some(end);
            }
        }
    }

    /// Seals the start of `bytes`, at most [`SEAL`], into `outgoing`, behind `answers`, which it takes; how many bytes it
    /// sealed, and how many there are to send.
    pub(super) fn seal(
        &mut self,
        bytes: &[u8],
        outgoing: &mut [u8],
        answers: &mut Vec<u8>,
    ) -> io::Result<(usize, usize)> {
        let sealed = self.write(answers, |mut traffic, answers| {
            let room = outgoing.split_at_mut_checked(answers.len());
            let (front, room) = room.ok_or_else(|| io::Error::other("no room for what must go first"))?;
            let (taken, made) = encrypt(&mut traffic, bytes, room)?;
            front.copy_from_slice(answers);
            Ok((taken, mem::take(answers).len() + made))
        });
        if sealed.is_err() {
            self.settle(answers);
        }
        sealed
    }

    /// Seals `close_notify`, once, unless an alert has ended the session.
    pub(super) fn close(&mut self, answers: &mut Vec<u8>) {
        let mut alert = [0; 512];
        let made =
            self.write(answers, |mut traffic, _| traffic.queue_close_notify(&mut alert).map_err(io::Error::other));
        answers.reserve_exact(alert.len());
        answers.extend_from_slice(alert.get(..made.unwrap_or_default()).unwrap_or_default());
        self.settle(answers);
    }

    /// Has `work` write, once what must be sent before that is among the answers: nothing new, as a rule.
    fn write<R>(
        &mut self,
        answers: &mut Vec<u8>,
        work: impl FnOnce(WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> io::Result<R>,
    ) -> io::Result<R> {
        if let Some(End::Failed(_)) = self.end {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.kept);
            debug_assert_eq!(discard, 0, "what is kept was of no use before");
            match state {
                Ok(ConnectionState::WriteTraffic(traffic)) => return work(traffic, answers),
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, answers),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                // Said once, and maybe not before now; what ends the loop follows.
                Ok(ConnectionState::PeerClosed) => {}
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn fail(&mut self, error: Error, answers: &mut Vec<u8>) {
        self.kept = Vec::new();
        self.end = Some(failed(error));
        self.settle(answers);
    }

    /// Moves what rustls has in line to `answers`. It hands that out before it looks at input, so there is none.
    fn settle(&mut self, answers: &mut Vec<u8>) {
        while self.tls.wants_write() {
            match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, answers),
                _ => return,
            }
        }
    }
}

fn failed(error: Error) -> End {
    End::Failed(Box::new(error))
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, to: &mut Vec<u8>) {
    let start = to.len();
    // The only way to learn the size.
    if let Err(EncodeError::InsufficientSize(short)) = data.encode(&mut []) {
        // No more than that: `to` may be large, and wait long.
        to.reserve_exact(short.required_size);
        to.resize(start + short.required_size, 0);
        let made = data.encode(to.get_mut(start..).unwrap_or_default()).unwrap_or_default();
        to.truncate(start + made);
    }
}

/// Seals as much of `bytes` as fits: all of it, but where a config asks for very small records.
fn encrypt(
    traffic: &mut WriteTraffic<'_, ServerConnectionData>,
    bytes: &[u8],
    room: &mut [u8],
) -> io::Result<(usize, usize)> {
    let mut take = bytes.len().min(SEAL);
    loop {
        match traffic.encrypt(bytes.get(..take).unwrap_or_default(), room) {
            Ok(made) => return Ok((take, made)),
            Err(EncryptError::InsufficientSize(_)) if take > 1 => take /= 2,
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

    use super::*;

    #[test]
    fn what_must_go_first_is_not_lost_when_nothing_can_be_written() {
        let mut session = greeted();
        let mut answers = b"before".to_vec();
        assert!(session.seal(b"x", &mut [0; 100], &mut answers).is_err());
        assert!(answers.starts_with(b"before") && answers.len() > 100 && !session.tls.wants_write());

        let mut session = greeted();
        let mut answers = Vec::new();
        session.close(&mut answers);
        assert!(answers.len() > 100 && !session.tls.wants_write());
    }

    /// In the middle of a handshake, with a part of the server's answer still in line.
    fn greeted() -> Session {
        let provider = Arc::new(default_provider());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], made.signing_key.into())
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut session = Session::new(UnbufferedServerConnection::new(Arc::new(server)).unwrap());
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        assert!(matches!(session.tls.process_tls_records(&mut hello).state, Ok(ConnectionState::EncodeTlsData(_))));
        assert!(session.tls.wants_write());
        session
    }
}
