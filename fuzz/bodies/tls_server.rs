//! A connection under a script: the server's end of TLS, what a peer says to it, and every byte between them. The fuzz
//! target and `tests/fuzz_corpus.rs` share this.
//!
//! Whatever the script says: what is opened is a prefix of what the peer sealed, and what the peer opens is a prefix of
//! what was sealed for it; nobody waits without being woken; what is held is bounded, and nothing when nothing is
//! unfinished; after an error come only errors. rustls' buffered server, told the same, says the same in the end.
//!
//! Keys and randoms differ from run to run, and no verdict depends on them.

#[path = "../../tests/tls_wire/pair.rs"]
#[allow(dead_code)] // other tests use the rest
mod pair;

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use pair::{Forger, Heard, Io, Pair, Pipe, Start, TLS12, TLS13, Version, now, pattern};
use portcullis::tls::{RECORD, SEAL, TlsStream};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

/// Plays one script.
pub fn run(script: &[u8]) {
    let mut script = Script(script);
    let kind = script.byte();
    let version = if kind & 1 == 0 { TLS13 } else { TLS12 };
    let (forged, resumed, rough, small) = (kind & 2 != 0, kind & 4 != 0, kind & 8 != 0, kind & 16 != 0);
    let server = server(small);
    let config = if forged { pair::forgeable(version) } else { pair::client_config(version) };
    let mut config = ClientConfig::clone(&config);
    if resumed {
        Start::with(Arc::new(config.clone()), server.clone()).shake().unwrap().echo();
    } else {
        config.resumption = Resumption::disabled();
    }
    let config = Arc::new(config);
    let mut start = Start::with(config.clone(), server.clone());
    let said = if rough { script.number(9000) } else { 0 };
    let early = pair::seal(&mut start.client, &pattern(UP, 0, said));
    let Some((pair, altered)) = shake(&mut script, rough, start, early, &server) else { return };
    let (client, theirs) = pair::buffered(config, server.clone());
    let mut talk = Talk {
        pair,
        peers: None,
        other: client,
        theirs: (!altered).then_some(theirs),
        way: [Vec::new(), Vec::new()],
        input: Vec::new(),
        faulty: altered,
        said: 0,
        heard: 0,
        end: Heard::Waits,
        taken: 0,
        told: 0,
        alerted: false,
        closing: false,
        renewals: 0,
    };
    // What went along with the handshake; the buffered server gets it now.
    let late = pair::seal(&mut talk.other, &pattern(UP, 0, said));
    talk.input.extend(late);
    talk.said = said;
    if forged && !altered {
        talk.forge(version);
    }
    talk.play(&mut script);
    talk.finish();
}

/// The handshake. `None` if there is none in the end; else whether the peer's part in it was changed.
fn shake(
    script: &mut Script<'_>,
    rough: bool,
    mut start: Start,
    early: Vec<u8>,
    server: &Arc<ServerConfig>,
) -> Option<(Pair, bool)> {
    // Until the server has answered, its verdict depends on nothing but these bytes.
    let (mut way, mut spoken, mut faulty, mut unanswered) = ([early], Vec::new(), false, true);
    for round in 0..ROUNDS {
        let under_script = rough && round < 20 && !script.is_done();
        way[0].extend(pair::seal(&mut start.client, b""));
        let mut most = way[0].len();
        if under_script {
            match script.below(4) {
                0 => faulty |= tamper(script, &mut way),
                1 => weather(script, &mut start.pipe()),
                2 => most = script.number(most),
                _ => {}
            }
            most = most.min(way[0].len());
        } else {
            fair(&mut start.pipe());
            start.pipe().ended |= round > ROUNDS / 2;
        }
        let next: Vec<u8> = way[0].drain(..most).collect();
        start.deliver(&next);
        spoken.extend(next);
        let waits = start.pipe().waits;
        let done = start.step();
        let consumed = spoken.len() - start.pipe().to_server.len();
        match done {
            Poll::Ready(Ok(accepted)) => {
                let mut pair = start.pair(accepted);
                let told = pair.hear();
                let shaken = told.alert.is_none() && !pair.client.is_handshaking();
                assert!(shaken || faulty, "{:?}", told.alert);
                if shaken {
                    way[0].extend(pair.seal(b""));
                    pair.deliver(&way[0]);
                }
                return shaken.then_some((pair, faulty));
            }
            Poll::Ready(Err(error)) => {
                check_refusal(&error, &start, faulty);
                if unanswered && error.kind() == ErrorKind::InvalidData && consumed <= RECORD {
                    assert_eq!(Heard::Failed(cause(error)), first_words(server, &spoken[..consumed]));
                }
                return None;
            }
            Poll::Pending => assert!(start.pipe().waits > waits, "waits for nothing"),
        }
        let sent = std::mem::take(&mut start.pipe().to_client);
        if unanswered && !sent.is_empty() {
            assert_eq!(first_words(server, &spoken[..consumed]), Heard::Waits);
            unanswered = false;
        }
        let told = pair::hear(&mut start.client, &sent);
        assert!(faulty || told.alert.is_none(), "{:?}", told.alert);
    }
    panic!("a handshake without end");
}

/// What the buffered server says to the first bytes of a connection.
fn first_words(server: &Arc<ServerConfig>, spoken: &[u8]) -> Heard {
    pair::hear_buffered(&mut ServerConnection::new(server.clone()).unwrap(), spoken).1
}

fn check_refusal(error: &io::Error, start: &Start, faulty: bool) {
    let pipe = start.pipe();
    match error.kind() {
        ErrorKind::InvalidData => assert!(faulty, "{error}"),
        ErrorKind::UnexpectedEof => assert!(pipe.ended),
        kind => assert!(pipe.read_fails == Some(kind) || pipe.write_fails == Some(kind), "{error}"),
    }
}

/// Both servers, and what was said to them.
struct Talk {
    pair: Pair,
    /// Who speaks to either server in place of the clients.
    peers: Option<[Forger; 2]>,
    /// The client of the buffered server.
    other: ClientConnection,
    /// Not if the handshake was changed, so that both were not told the same.
    theirs: Option<ServerConnection>,
    /// What was said and is not yet delivered: to ours, and to the buffered one.
    way: [Vec<u8>; 2],
    /// All that was delivered to the buffered one.
    input: Vec<u8>,
    /// Something was changed, lost or put in between.
    faulty: bool,
    /// Bytes said to our server and heard by it; how that direction stands.
    said: usize,
    heard: usize,
    end: Heard,
    /// Bytes that our server took, and that its client was told.
    taken: usize,
    told: usize,
    /// Our server's client was told of an error.
    alerted: bool,
    /// Our server has begun to close.
    closing: bool,
    /// How often the peers renewed their keys.
    renewals: usize,
}

impl Talk {
    /// From here on the peers say what no client says.
    fn forge(&mut self, version: Version) {
        fair(&mut self.pair.pipe());
        self.seal(1);
        self.drain();
        self.hear();
        if self.taken == 0 || self.alerted || self.end != Heard::Waits {
            return;
        }
        let spare = || ClientConnection::new(pair::client_config(version), "localhost".try_into().unwrap()).unwrap();
        let clients = [&mut self.pair.client, &mut self.other].map(|client| std::mem::replace(client, spare()));
        self.peers = Some(clients.map(|client| Forger::new(version, client)));
    }

    fn play(&mut self, script: &mut Script<'_>) {
        for _ in 0..MOST_STEPS {
            if script.is_done() {
                return;
            }
            match script.below(24) {
                0..3 => self.say(script.number(300)),
                3 => self.say(script.number(40_000)),
                4 => (0..script.below(64)).for_each(|_| self.say(1)),
                5 => self.renew_keys(script),
                6 => self.leave(),
                7 => self.faulty |= tamper(script, &mut self.way),
                8 => self.forge_record(script),
                9 => self.say_handshake(script),
                10..13 => self.deliver(script.number(RECORD)),
                13 => self.deliver(usize::MAX),
                14 => weather(script, &mut self.pair.pipe()),
                15 => fair(&mut self.pair.pipe()),
                16 => self.open(script.number(90_000)),
                17 => self.open(ROOM),
                18 => self.read(1 + script.number(8000)),
                19 => self.read(1 + script.below(64)),
                20 => self.seal(script.number(100_000 - 1)),
                21 => self.seal(script.below(200)),
                22 => self.drain(),
                _ => match script.below(5) {
                    0 => self.close(),
                    1 => self.flush(),
                    2 => self.seal_along(script.number(1_200)),
                    _ => self.hear(),
                },
            }
            self.check_held();
        }
    }

    /// Both peers seal the same; but rustls' client says no more when it has heard an alert.
    fn speak(
        &mut self,
        by_client: impl Fn(&mut ClientConnection) -> Vec<u8>,
        by_forger: impl Fn(&mut Forger) -> Vec<u8>,
    ) {
        if self.alerted {
            return;
        }
        let sealed = match &mut self.peers {
            Some([ours, theirs]) => [by_forger(ours), by_forger(theirs)],
            None => [by_client(&mut self.pair.client), by_client(&mut self.other)],
        };
        assert_eq!(sealed[0].len(), sealed[1].len(), "the peers do not say the same");
        self.way.iter_mut().zip(sealed).for_each(|(way, more)| way.extend(more));
    }

    fn say(&mut self, length: usize) {
        if self.alerted {
            return;
        }
        let words = pattern(UP, self.said, length);
        self.said += length;
        let records = |forger: &mut Forger| words.chunks(FRAGMENT).flat_map(|part| forger.data(part)).collect();
        self.speak(|client| pair::seal(client, &words), records);
    }

    fn renew_keys(&mut self, script: &mut Script<'_>) {
        let body = [24, 0, 0, 1, script.byte()];
        self.renewals += 1;
        self.faulty |= self.renewals > RENEWALS;
        self.speak(
            |client| {
                let _ = client.refresh_traffic_keys();
                pair::seal(client, b"")
            },
            |forger| forger.handshake(&body),
        );
    }

    fn leave(&mut self) {
        self.speak(
            |client| {
                client.send_close_notify();
                pair::seal(client, b"")
            },
            |forger| forger.record(21, &[1, 0]),
        );
    }

    /// A record of any kind; data would be no pattern.
    fn forge_record(&mut self, script: &mut Script<'_>) {
        let kind = [20, 21, 22, 24, script.byte()][script.below(5)];
        let mut bytes = script.take(40);
        if kind == 0 {
            // That is padding in TLS 1.3, and the kind is the last byte before it: nothing but padding, then.
            bytes.fill(0);
        }
        if kind != 23 {
            self.speak(|_| Vec::new(), |forger| forger.record(kind, &bytes));
        }
    }

    /// Handshake messages that came too late: empty, a hello, the start of one, in as many records as one likes.
    fn say_handshake(&mut self, script: &mut Script<'_>) {
        let mut hello = pair::seal(&mut Start::new(TLS13).client, b"").split_off(5);
        hello.truncate(script.number(600));
        let piece = 1 + script.number(600);
        let pieces = |forger: &mut Forger| hello.chunks(piece).flat_map(|part| forger.handshake(part)).collect();
        if hello.is_empty() {
            self.speak(|_| Vec::new(), |forger| forger.handshake(b""));
        } else {
            // The hellos' randoms differ, but not what is said to them.
            self.speak(|_| Vec::new(), pieces);
        }
    }

    fn deliver(&mut self, length: usize) {
        if self.pair.pipe().ended {
            return;
        }
        let length = length.min(self.way[0].len());
        let [ours, theirs] = self.way.each_mut().map(|way| way.drain(..length).collect::<Vec<u8>>());
        self.pair.deliver(&ours);
        self.input.extend(theirs);
    }

    /// One poll. Whoever is told to wait is woken.
    fn poll<R>(&mut self, poll: impl FnOnce(&mut TlsStream<Io>, &mut Context<'_>) -> Poll<R>) -> Poll<R> {
        let before = self.pair.pipe().waits;
        let polled = now(|cx| poll(&mut self.pair.server, cx));
        assert!(polled.is_ready() || self.pair.pipe().waits > before, "waits for nothing");
        polled
    }

    fn open(&mut self, room: usize) {
        let mut plain = vec![0; room];
        let opened = self.poll(|server, cx| server.poll_open(cx, &mut plain));
        if room == 0 {
            return assert!(!matches!(opened, Poll::Ready(Ok(1..))));
        }
        self.opened(opened, &plain);
    }

    fn read(&mut self, room: usize) {
        let mut plain = vec![0; room];
        let read = self.poll(|server, cx| {
            let mut buffer = ReadBuf::new(&mut plain);
            Pin::new(server).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
        });
        self.opened(read, &plain);
    }

    fn opened(&mut self, opened: Poll<io::Result<usize>>, plain: &[u8]) {
        let end = match opened {
            Poll::Pending => Heard::Waits,
            Poll::Ready(Ok(0)) => Heard::Ended,
            Poll::Ready(Ok(read)) => {
                assert!(self.heard + read <= self.said, "more than was said");
                assert!(plain[..read] == pattern(UP, self.heard, read), "other bytes, from {}", self.heard);
                self.heard += read;
                Heard::Waits
            }
            Poll::Ready(Err(error)) => match error.kind() {
                ErrorKind::InvalidData => Heard::Failed(cause(error)),
                ErrorKind::UnexpectedEof => Heard::Ended,
                kind => return assert_eq!(self.pair.pipe().read_fails, Some(kind)),
            },
        };
        assert!(self.end == Heard::Waits || self.end == end, "{:?}, then {end:?}", self.end);
        self.end = end;
    }

    fn seal(&mut self, length: usize) {
        let bytes = pattern(DOWN, self.taken, length);
        let sealed = self.poll(|server, cx| server.poll_seal(cx, &bytes));
        match sealed {
            Poll::Ready(Ok(taken)) => {
                assert!(length == 0 || !self.unwritable(), "nothing can be written now");
                assert!(!self.closing && !self.failed(), "nothing may be written now");
                assert!(taken <= length.min(SEAL) && (taken > 0 || length == 0), "{taken} of {length}");
                self.taken += taken;
            }
            Poll::Ready(Err(error)) => self.check_write(&error),
            Poll::Pending => {}
        }
    }

    fn seal_along(&mut self, length: usize) {
        let taken = self.pair.server.seal_along(&pattern(DOWN, self.taken, length));
        assert!(taken <= length && (taken == 0 || !self.closing && !self.failed()), "{taken} of {length}");
        self.taken += taken;
    }

    fn drain(&mut self) {
        if let Poll::Ready(drained) = self.poll(TlsStream::poll_drain) {
            match drained {
                Ok(()) => assert!(!self.pair.server.has_unsent()),
                Err(error) => self.check_write(&error),
            }
        }
    }

    fn flush(&mut self) {
        if let Poll::Ready(Err(error)) = self.poll(|server, cx| Pin::new(server).poll_flush(cx)) {
            self.check_write(&error);
        }
    }

    fn close(&mut self) {
        self.closing = true;
        match self.poll(TlsStream::poll_close) {
            Poll::Ready(Ok(())) => assert!(!self.pair.server.has_unsent() && self.pair.pipe().finished),
            Poll::Ready(Err(error)) => self.check_write(&error),
            Poll::Pending => {}
        }
    }

    fn check_write(&mut self, error: &io::Error) {
        // Reading may have failed in a poll that was not asked for it.
        let known = self.closing || self.unwritable() || self.failed() || self.faulty || self.peers.is_some();
        assert!(known, "a write that fails: {error}");
    }

    /// What the client hears. A forger does not listen.
    fn hear(&mut self) {
        let sent = std::mem::take(&mut self.pair.pipe().to_client);
        if self.peers.is_some() || self.alerted {
            return;
        }
        let told = pair::hear(&mut self.pair.client, &sent);
        assert!(self.told + told.bytes.len() <= self.taken, "more than was sealed");
        assert!(told.bytes == pattern(DOWN, self.told, told.bytes.len()), "other bytes, from {}", self.told);
        self.told += told.bytes.len();
        assert!(self.closing || !told.closed, "nobody has closed");
        if let Some(error) = told.alert {
            assert!(self.faulty, "{error}");
            assert!(matches!(error, Error::AlertReceived(_)), "{error}");
            self.alerted = true;
        }
    }

    fn failed(&self) -> bool {
        matches!(self.end, Heard::Failed(_))
    }

    fn unwritable(&self) -> bool {
        self.pair.pipe().write_fails.is_some()
    }

    fn check_held(&self) {
        let server = &self.pair.server;
        let (kept, ahead) = (RECORD, 2 * (RECORD + 4096));
        let unsent = if server.has_unsent() { SEAL + 4096 + ALERTS } else { 0 };
        assert!(server.held() <= kept + ahead + unsent, "{} bytes held", server.held());
    }

    /// All that was said arrives, and both servers say the same.
    fn finish(mut self) {
        self.deliver(usize::MAX);
        fair(&mut self.pair.pipe());
        let unreadable = self.pair.pipe().read_fails.is_some();
        for round in 0.. {
            let (heard, reads) = (self.heard, self.pair.pipe().reads);
            self.open(ROOM);
            if self.end != Heard::Waits || (heard, reads) == (self.heard, self.pair.pipe().reads) {
                break;
            }
            assert!(round < 1000, "reads without end");
        }
        self.drain();
        self.hear();
        self.check_held();
        if !self.unwritable() {
            assert!(!self.pair.server.has_unsent());
            assert!(self.peers.is_some() || self.alerted || self.told == self.taken, "not all that was taken");
            let whole = !self.faulty && self.peers.is_none() && !self.pair.pipe().ended;
            let over = self.failed() || whole;
            assert!(!over || unreadable || self.pair.server.held() == 0, "{} held", self.pair.server.held());
        }
        if let Some(theirs) = &mut self.theirs {
            let (heard, end) = pair::hear_buffered(theirs, &self.input);
            let alert = theirs.wants_write();
            self.compare(heard.len(), &end, unreadable);
            if self.failed() && self.end == end && !self.closing && !self.unwritable() && self.peers.is_none() {
                assert_eq!(self.alerted, alert, "an alert that only one of both sends");
            }
        }
    }

    fn compare(&self, heard: usize, end: &Heard, unreadable: bool) {
        let too_long = |end: &Heard| *end == Heard::Failed(Error::General(pair::TOO_LONG.into()));
        if unreadable || too_long(end) || too_long(&self.end) {
            return assert!(self.heard <= heard || too_long(end), "more than the buffered server hears");
        }
        assert_eq!(self.heard, heard, "another length than the buffered server hears");
        let cut = self.pair.pipe().ended && self.end == Heard::Ended && *end == Heard::Waits;
        // Changed into a ChangeCipherSpec, which nothing authenticates, or read from its middle on, what was sealed is wrong
        // in one way or another: each of both was sealed with keys of its own.
        let ends = [&self.end, end];
        let unsealed = ends.iter().any(|end| matches!(end, Heard::Failed(Error::InvalidMessage(_))))
            && ends.iter().all(|end| matches!(end, Heard::Failed(_)));
        assert!(cut || unsealed || self.end == *end, "{:?}, but {end:?} by the buffered server", self.end);
    }
}

/// Changes, cuts or adds to what is under way, everywhere in the same place; whether it did.
fn tamper(script: &mut Script<'_>, ways: &mut [Vec<u8>]) -> bool {
    let length = ways.first().map_or(0, Vec::len);
    let (what, at) = (script.below(5), script.number(length));
    match what {
        0 | 1 => {
            let at = if what == 0 { at } else { at.min(4) };
            let flip = script.byte();
            for way in ways {
                if let Some(byte) = way.get_mut(at) {
                    *byte ^= flip;
                }
            }
            flip != 0 && at < length
        }
        2 => {
            for way in ways {
                way.truncate(at);
            }
            at < length
        }
        3 => {
            let garbage = script.take(60);
            for way in ways {
                drop(way.splice(at..at, garbage.iter().copied()));
            }
            !garbage.is_empty()
        }
        // A head of any record, with something behind it.
        _ => {
            let [high, low] = u16::try_from(script.number(usize::from(u16::MAX))).unwrap().to_be_bytes();
            let record = [&[script.byte(), 3, 3, high, low], &script.take(20)[..]].concat();
            for way in ways {
                way.extend(&record);
            }
            true
        }
    }
}

/// How the transport cuts, blocks and breaks from here on.
fn weather(script: &mut Script<'_>, pipe: &mut Pipe) {
    match script.below(16) {
        0..4 => pipe.read_most = script.number(RECORD),
        4..7 => pipe.write_most = script.number(RECORD),
        7..11 => pipe.window = script.number(30_000),
        11 => pipe.read_most = 1 + script.below(4),
        12 => pipe.write_most = 1 + script.below(4),
        13 => pipe.ended = true,
        14 => pipe.read_fails = Some(ErrorKind::ConnectionReset),
        _ => pipe.write_fails = Some(ErrorKind::ConnectionAborted),
    }
    // An end comes behind what is under way.
    if pipe.ended {
        pipe.read_most = pipe.read_most.max(1);
    }
}

/// Everything goes, but for what has ended or failed.
fn fair(pipe: &mut Pipe) {
    (pipe.read_most, pipe.write_most, pipe.window) = (usize::MAX, usize::MAX, usize::MAX);
}

fn cause(error: io::Error) -> Error {
    *error.into_inner().unwrap().downcast().unwrap()
}

/// What is left of a script; all zeros when nothing is.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Less than `end`, which is at most 256.
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// At most `most`.
    fn number(&mut self, most: usize) -> usize {
        let number = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
        if most > usize::from(u16::MAX) { number * 2 % (most + 1) } else { number % (most + 1) }
    }

    fn take(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken.to_vec()
    }
}

/// One config for all runs: what it remembers of clients changes nothing for others. Or one that makes small records.
fn server(small: bool) -> Arc<ServerConfig> {
    static MADE: OnceLock<[Arc<ServerConfig>; 2]> = OnceLock::new();
    let [usual, smaller] = MADE.get_or_init(|| {
        let usual = pair::server_config();
        let mut smaller = ServerConfig::clone(&usual);
        smaller.max_fragment_size = Some(100);
        [usual, Arc::new(smaller)]
    });
    if small { smaller.clone() } else { usual.clone() }
}

/// The streams of bytes, as [`pattern`] numbers them.
const UP: u8 = 1;
const DOWN: u8 = 129;
/// The most that one record carries.
const FRAGMENT: usize = 16 * 1024;
/// Room for all that one read can open.
const ROOM: usize = 84 * 1024;
/// What may come to a chunk that waits.
const ALERTS: usize = 1024;
/// More than a handshake ever needs.
const ROUNDS: usize = 60;
/// So many KeyUpdates without data between them are allowed.
const RENEWALS: usize = 32;
/// The most steps of a script.
const MOST_STEPS: usize = 200;
