//! Tokens among a client's messages: on routes that ask for it, a text message that is a fresh token renews the stream.
//!
//! Owns the reading of what may be such a message, which stands at the scanner's position until it is known what it is:
//! as soon as one byte of it could not be part of a token it is an ordinary message, and passes untouched. At most
//! `MOST_HELD` bytes wait so, heads and control frames between fragments included. Does not write; the pump calls it.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::secret::Token;
use crate::stream::Terms;
use crate::token::carrier::MAX_TOKEN;
use crate::token::claims::Parts;
use crate::token::{Denial, Grant};
use crate::ws::{Extensions, Head, Opcode, Sender};

/// How a route takes tokens among messages.
#[derive(Clone)]
pub struct InBand {
    /// What becomes of such a message.
    pub mode: Mode,
    /// What stands before the token in the message; may be empty.
    pub prefix: Arc<str>,
    /// One attempt each such time in the long run; more are not looked at.
    pub interval: Duration,
    /// Who says whether a token is good.
    pub renewer: Arc<dyn Renewer>,
}

/// What becomes of a message that is a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It never goes on; the answer is one text message.
    Consume,
    /// It goes on unchanged, good or bad, once the deadline has moved; nothing is answered.
    Forward,
}

/// Judges a token for the renewal of one stream, by the rules that its route has now; and says how it is applied.
pub trait Renewer: Send + Sync {
    /// The verdict, within a bounded time.
    fn judge(&self, token: Token) -> Verdict;
}

/// A verdict that may have to be waited for.
pub type Verdict = Pin<Box<dyn Future<Output = Result<(Grant, Terms), Denial>> + Send>>;

/// Reads what may be a token, from the first byte of the message on.
pub(super) struct Reader {
    pub(super) rules: InBand,
    /// The message that begins at the scanner's position is an ordinary one, or may go on.
    pub(super) free: bool,
    seen: Seen,
    verdict: Option<Verdict>,
}

/// What was read so far of the message at the scanner's position.
#[derive(Default)]
struct Seen {
    /// Where the frame that is being read begins.
    at: usize,
    /// Bytes of its payload that were read.
    read: u64,
    /// Whether a frame of the message is behind.
    begun: bool,
    text: Zeroizing<Vec<u8>>,
    /// The control frames between its fragments.
    between: Vec<Range<usize>>,
    /// Where it ends, once that is known.
    whole: Option<usize>,
}

/// What the message at the scanner's position is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It may be a token; more must come.
    More,
    /// It is none.
    Ordinary,
    /// It is one, in this many bytes of whole frames.
    Token(usize),
}

impl Reader {
    pub(super) fn new(rules: InBand) -> Self {
        Self { rules, free: false, seen: Seen::default(), verdict: None }
    }

    /// Looks at the message that begins `bytes`. Asked again with more bytes, it goes on where it was.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Look {
        let look = self.seen.read_on(bytes, self.rules.prefix.as_bytes());
        match look {
            Look::More if bytes.len() <= MOST_HELD => return look,
            Look::Token(_) if self.token().is_some() => return look,
            _ => {}
        }
        self.seen = Seen::default();
        Look::Ordinary
    }

    /// Whether the verdict on the token that was found is under way.
    pub(super) const fn is_judging(&self) -> bool {
        self.verdict.is_some()
    }

    /// Has the token judged that was found.
    pub(super) fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Grant, Terms), Denial>> {
        if self.verdict.is_none() {
            self.verdict = self.token().map(|token| self.rules.renewer.judge(token));
        }
        let Some(verdict) = &mut self.verdict else { return Poll::Pending };
        let judged = verdict.as_mut().poll(cx);
        if judged.is_ready() {
            self.verdict = None;
        }
        judged
    }

    /// The message is done with: answers the control frames that stood between its fragments.
    pub(super) fn finish(&mut self) -> Vec<Range<usize>> {
        std::mem::take(&mut self.seen).between
    }

    /// The message as a token, if its form is that of one (RFC 7519, section 7.2, steps 1 to 5).
    fn token(&self) -> Option<Token> {
        let text = self.seen.text.get(self.rules.prefix.len()..)?;
        let text = std::str::from_utf8(text).ok()?;
        let header = Parts::split(text).and_then(|parts| parts.read_header());
        header.is_ok().then(|| Token::new(text.to_owned()))
    }
}

impl Seen {
    fn read_on(&mut self, bytes: &[u8], prefix: &[u8]) -> Look {
        if let Some(length) = self.whole {
            return Look::Token(length);
        }
        loop {
            let tail = bytes.get(self.at..).unwrap_or_default();
            let head = match Head::parse(tail, Sender::Client, Extensions::None) {
                Ok(Some(head)) => head,
                Ok(None) => return Look::More,
                // For the scanner to find.
                Err(_) => return Look::Ordinary,
            };
            let payload = tail.get(usize::from(head.length)..).unwrap_or_default();
            let look = match head.opcode {
                Opcode::Ping | Opcode::Pong => self.step_over(&head, payload),
                Opcode::Text if !self.begun => self.read_payload(&head, payload, prefix),
                Opcode::Continuation if self.begun => self.read_payload(&head, payload, prefix),
                _ => Some(Look::Ordinary),
            };
            if let Some(look) = look {
                return look;
            }
        }
    }

    fn step_over(&mut self, head: &Head, payload: &[u8]) -> Option<Look> {
        let length = usize::try_from(head.payload).unwrap_or(usize::MAX);
        if payload.len() < length {
            return Some(Look::More);
        }
        let end = self.at + usize::from(head.length) + length;
        self.between.push(self.at..end);
        self.at = end;
        None
    }

    fn read_payload(&mut self, head: &Head, payload: &[u8], prefix: &[u8]) -> Option<Look> {
        let most = prefix.len() + MAX_TOKEN;
        let missing = head.payload.saturating_sub(self.read);
        if missing > most.saturating_sub(self.text.len()) as u64 {
            return Some(Look::Ordinary);
        }
        // All at once: what a buffer that grows leaves behind is not wiped.
        let room = most.saturating_sub(self.text.len());
        self.text.reserve_exact(if head.fin { usize::try_from(missing).unwrap_or(room) } else { room });
        let from = usize::try_from(self.read).unwrap_or(usize::MAX);
        let length = usize::try_from(head.payload).unwrap_or(usize::MAX);
        let key = head.mask.unwrap_or_default();
        let masked = payload.iter().zip(key.into_iter().cycle()).take(length).skip(from);
        for (byte, key) in masked {
            let byte = byte ^ key;
            let fits = match prefix.get(self.text.len()) {
                Some(wanted) => byte == *wanted,
                // The header is a JSON object, maybe with white space before it: so begins its base64url.
                None if self.text.len() == prefix.len() => matches!(byte, b'e' | b'I' | b'C' | b'D'),
                None => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
            };
            if !fits {
                return Some(Look::Ordinary);
            }
            self.text.push(byte);
            self.read += 1;
        }
        if self.read < head.payload {
            return Some(Look::More);
        }
        self.at += usize::from(head.length) + length;
        (self.read, self.begun) = (0, true);
        self.whole = head.fin.then_some(self.at);
        self.whole.map(Look::Token)
    }
}

/// The most bytes that wait until it is known what they are: a token in fragments of a few bytes each.
pub(super) const MOST_HELD: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    struct Nobody;

    impl Renewer for Nobody {
        fn judge(&self, _: Token) -> Verdict {
            Box::pin(std::future::pending())
        }
    }

    fn reader(prefix: &str) -> Reader {
        let rules =
            InBand { mode: Mode::Consume, prefix: prefix.into(), interval: Duration::ZERO, renewer: Arc::new(Nobody) };
        Reader::new(rules)
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [7, 130, 9, 255];
        let mut frame = vec![first];
        match u16::try_from(payload.len()).unwrap() {
            length @ ..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                frame.push(0xfe);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(key);
        frame.extend(payload.iter().zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    fn jwt() -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{\"alg\":\"HS256\"}"), part("{\"exp\":1}"), part("signature"))
    }

    fn fragments(text: &str) -> Vec<Vec<u8>> {
        let (a, b) = text.split_at(9);
        let (b, c) = b.split_at(20);
        vec![
            frame(0x01, a.as_bytes()),
            frame(0x89, b"ping"),
            frame(0x00, b.as_bytes()),
            frame(0x8a, b""),
            frame(0x80, c.as_bytes()),
        ]
    }

    #[test]
    fn a_token_is_found_however_it_is_cut_and_only_when_it_is_whole() {
        for (prefix, frames) in [
            ("", vec![frame(0x81, jwt().as_bytes())]),
            ("", fragments(&jwt())),
            ("renew:", fragments(&format!("renew:{}", jwt()))),
        ] {
            let bytes = frames.concat();
            for step in [1, 2, 3, 7, bytes.len()] {
                let mut reader = reader(prefix);
                let mut at = 0;
                while at + step < bytes.len() {
                    at += step;
                    assert_eq!(reader.look(&bytes[..at]), Look::More, "{prefix} {step} {at}");
                }
                let mut more = bytes.clone();
                more.extend([frame(0x89, b""), frame(0x81, b"next")].concat());
                for _ in 0..2 {
                    assert_eq!(reader.look(&more), Look::Token(bytes.len()), "{prefix} {step}");
                }
                assert_eq!(reader.token().unwrap().expose(), jwt());
                let between: Vec<&[u8]> = reader.finish().into_iter().map(|range| &bytes[range]).collect();
                let controls: Vec<&[u8]> =
                    frames.iter().filter(|frame| frame[0] & 0x08 != 0).map(Vec::as_slice).collect();
                assert_eq!(between, controls);
            }
        }
    }

    #[test]
    fn what_only_resembles_a_token_is_an_ordinary_message_as_soon_as_that_shows() {
        let header = URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\"}");
        let long = format!("{}.{}", jwt(), "x".repeat(9000));
        let table = [
            ("", frame(0x81, b"hello world")),
            ("", frame(0x81, b"1.2.3")),
            ("", frame(0x81, b"file.tar.gz")),
            ("", frame(0x81, b"")),
            ("", frame(0x81, header.as_bytes())),
            ("", frame(0x81, format!("{header}.{header}").as_bytes())),
            ("", frame(0x81, format!("{}=", jwt()).as_bytes())),
            ("", frame(0x81, format!("{}.x.y", jwt()).as_bytes())),
            ("", frame(0x81, long.as_bytes())),
            ("renew:", frame(0x81, jwt().as_bytes())),
            ("renew:", frame(0x81, b"renew:")),
            ("", frame(0x01, b"hello")),
            ("renew:", frame(0x01, b"renew:hello")),
            ("", [frame(0x01, b"eyJ"), frame(0x88, b"")].concat()),
            ("", [frame(0x01, b"eyJ"), frame(0x82, b"")].concat()),
            ("", [frame(0x01, b"eyJ"), frame(0x81, b"")].concat()),
        ];
        for (prefix, bytes) in table {
            let mut reader = reader(prefix);
            assert_eq!(reader.look(&bytes), Look::Ordinary, "{prefix} {}", String::from_utf8_lossy(&bytes));
        }
        let mut early = reader("");
        assert_eq!(early.look(&frame(0x81, b"{\"a\":1}")[..7]), Look::Ordinary, "one byte of payload is enough");
        let mut announced = reader("");
        assert_eq!(announced.look(&frame(0x81, long.as_bytes())[..8]), Look::Ordinary, "its length is enough");
    }

    #[test]
    fn what_waits_is_bounded_however_little_each_frame_brings() {
        let mut reader = reader("");
        let mut bytes = frame(0x01, b"e");
        let ping = frame(0x89, &[0; 125]);
        while bytes.len() + ping.len() <= MOST_HELD {
            bytes.extend(&ping);
            assert_eq!(reader.look(&bytes), Look::More);
        }
        bytes.extend(&ping);
        assert_eq!(reader.look(&bytes), Look::Ordinary);
    }
}
