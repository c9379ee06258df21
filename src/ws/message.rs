//! One text message out of raw frames: bounded, and with what stands between its fragments.
//!
//! The scanner leaves payload alone; this is for the few places that must read a message. The frames are kept as they
//! came, so that they can go on unchanged, and are unmasked only when the message is whole. No extension is known here:
//! a reserved bit is a violation.

use zeroize::Zeroizing;

use crate::ws::{CloseFrame, Extensions, Head, Opcode, Sender, Violation};

/// Something that has come whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A Close.
    Close(CloseFrame),
    /// The last frame of a text message: see [`Assembler::take`].
    Message,
    /// A ping, and what its pong must say.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
}

/// Why there will be no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message is binary.
    Binary,
    /// The message is larger than the cap.
    TooBig,
    /// A frame breaks RFC 6455.
    Violation(Violation),
}

/// Follows the frames of one side up to the end of each text message, and holds those of the message under way.
#[derive(Debug)]
pub struct Assembler {
    sender: Sender,
    cap: usize,
    /// The frames of the message under way, heads included. They may hold a token.
    held: Zeroizing<Vec<u8>>,
    /// The start of a head, or of a control frame; looked at when it has `wanted` bytes.
    partial: Vec<u8>,
    wanted: usize,
    /// Bytes of payload that the data frame under way still misses.
    rest: u64,
    /// Whether that frame ends its message.
    last: bool,
    in_message: bool,
    /// Whether messages are only followed, not held.
    discarding: bool,
}

impl Assembler {
    /// An assembler at the start of a frame, for messages whose frames take at most `cap` bytes, the longest head not
    /// counted.
    pub fn new(sender: Sender, cap: usize) -> Self {
        let (held, partial) = (Zeroizing::default(), Vec::new());
        let wanted = LEAST_HEAD;
        Self { sender, cap, held, partial, wanted, rest: 0, last: false, in_message: false, discarding: false }
    }

    /// From now on messages, whatever they are, are followed and not held: only control frames are told.
    pub fn discard(&mut self) {
        (self.discarding, self.last) = (true, false);
        self.held = Zeroizing::default();
    }

    /// Reads `bytes` up to the first event. Answers how many it has read: all of them if there is no event. A message
    /// that is larger than the cap is found as soon as a head says so. After a violation, or a Close, nothing more can
    /// be read; after another fault messages are [discarded](Self::discard).
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Result<Option<Event>, Fault>) {
        let mut at = 0;
        loop {
            at += self.read_payload(bytes.get(at..).unwrap_or_default());
            if self.rest == 0 && self.last {
                self.last = false;
                return (at, Ok(Some(Event::Message)));
            }
            let tail = bytes.get(at..).unwrap_or_default();
            let missing = self.wanted.saturating_sub(self.partial.len());
            let (more, _) = tail.split_at_checked(missing).unwrap_or((tail, &[]));
            self.partial.extend_from_slice(more);
            at += more.len();
            if more.len() < missing {
                return (at, Ok(None));
            }
            match self.read_partial() {
                Ok(None) => {}
                event => return (at, event),
            }
        }
    }

    /// The frames of the message that has just ended, as they came.
    pub fn take(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.held)
    }

    fn read_payload(&mut self, bytes: &[u8]) -> usize {
        let length = usize::try_from(self.rest).unwrap_or(usize::MAX).min(bytes.len());
        if !self.discarding {
            self.hold(bytes.get(..length).unwrap_or_default());
        }
        self.rest -= length as u64;
        length
    }

    /// Reads the head, or the control frame, once it is whole.
    fn read_partial(&mut self) -> Result<Option<Event>, Fault> {
        let head = Head::parse(&self.partial, self.sender, Extensions::None).map_err(Fault::Violation)?;
        let Some(head) = head else {
            self.wanted = self.partial.len() + 1;
            return Ok(None);
        };
        match (head.opcode, self.in_message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return self.read_control(&head),
            (Opcode::Continuation, false) => return Err(Fault::Violation(Violation::Continuation)),
            (Opcode::Text | Opcode::Binary, true) => return Err(Fault::Violation(Violation::Interleaved)),
            (Opcode::Text | Opcode::Binary, false) | (Opcode::Continuation, true) => {}
        }
        (self.rest, self.last, self.in_message) = (head.payload, head.fin && !self.discarding, !head.fin);
        let partial = self.take_partial();
        if self.discarding {
            return Ok(None);
        }
        let held = (self.held.len() as u64).saturating_add(u64::from(head.length)).saturating_add(head.payload);
        let fault = match head.opcode {
            Opcode::Binary => Fault::Binary,
            _ if held > (self.cap as u64).saturating_add(Head::MAX as u64) => Fault::TooBig,
            _ => {
                self.hold(&partial);
                return Ok(None);
            }
        };
        self.discard();
        Err(fault)
    }

    fn read_control(&mut self, head: &Head) -> Result<Option<Event>, Fault> {
        // At most 125.
        self.wanted = usize::from(head.length) + usize::try_from(head.payload).unwrap_or(MAX_CONTROL);
        if self.partial.len() < self.wanted {
            return Ok(None);
        }
        let frame = self.take_partial();
        let payload = frame.get(usize::from(head.length)..).unwrap_or_default();
        let event = match head.opcode {
            Opcode::Close => {
                let close = CloseFrame::parse(payload, head.mask);
                Event::Close(close.map_err(|_| Fault::Violation(Violation::Close))?)
            }
            Opcode::Ping => Event::Ping(unmasked(payload, head).collect()),
            _ => Event::Pong,
        };
        Ok(Some(event))
    }

    /// The head or frame that has come whole; what is between two frames holds nothing.
    fn take_partial(&mut self) -> Vec<u8> {
        self.wanted = LEAST_HEAD;
        std::mem::take(&mut self.partial)
    }

    /// Keeps bytes of the message; what it is moved out of when it grows is wiped.
    fn hold(&mut self, bytes: &[u8]) {
        let length = self.held.len() + bytes.len();
        if length > self.held.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
            larger.extend_from_slice(&self.held);
            self.held = larger;
        }
        self.held.extend_from_slice(bytes);
    }
}

/// The payload of a message, out of its whole frames.
pub fn payload(mut frames: &[u8], sender: Sender) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(frames.len()));
    while let Ok(Some(head)) = Head::parse(frames, sender, Extensions::None) {
        let rest = frames.get(usize::from(head.length)..).unwrap_or_default();
        let length = usize::try_from(head.payload).unwrap_or(usize::MAX).min(rest.len());
        let (payload, rest) = rest.split_at_checked(length).unwrap_or_default();
        plain.extend(unmasked(payload, &head));
        frames = rest;
    }
    plain
}

/// The pong that answers a ping with this payload, from the gateway to a client (RFC 6455, section 5.5.3).
pub fn pong(payload: &[u8]) -> Vec<u8> {
    let length = payload.len().min(MAX_CONTROL);
    // At most 125.
    let mut frame = vec![0x8a, u8::try_from(length).unwrap_or_default()];
    frame.extend_from_slice(payload.get(..length).unwrap_or_default());
    frame
}

fn unmasked(payload: &[u8], head: &Head) -> impl Iterator<Item = u8> {
    payload.iter().zip(head.mask.unwrap_or_default().into_iter().cycle()).map(|(byte, mask)| byte ^ mask)
}

/// Bytes that every head has.
const LEAST_HEAD: usize = 2;
/// The most bytes of payload in a control frame (RFC 6455, section 5.5).
const MAX_CONTROL: usize = 125;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | u8::try_from(short).unwrap()),
            long => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
        }
        frame.extend(KEY);
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Event(Event),
        Message(Vec<u8>, Vec<u8>),
        Fault(Fault),
    }

    /// Everything that is seen in `bytes` when they come in pieces of these lengths, over and over.
    fn seen(bytes: &[u8], pieces: &[usize], cap: usize) -> (Vec<Seen>, usize) {
        let mut assembler = Assembler::new(Sender::Client, cap);
        let (mut seen, mut at, mut most) = (Vec::new(), 0, 0);
        for length in pieces.iter().cycle() {
            let mut piece = &bytes[at..(at + length).min(bytes.len())];
            at += piece.len();
            while !piece.is_empty() {
                let (read, event) = assembler.feed(piece);
                most = most.max(assembler.held.len() + assembler.partial.len());
                match event {
                    Ok(None) => assert_eq!(read, piece.len(), "without an event everything is read"),
                    Ok(Some(Event::Message)) => {
                        let frames = assembler.take();
                        seen.push(Seen::Message(frames.to_vec(), payload(&frames, Sender::Client).to_vec()));
                    }
                    Ok(Some(event)) => {
                        let closed = matches!(event, Event::Close(_));
                        seen.push(Seen::Event(event));
                        if closed {
                            return (seen, most);
                        }
                    }
                    Err(fault) => {
                        seen.push(Seen::Fault(fault));
                        return (seen, most);
                    }
                }
                piece = &piece[read..];
            }
            if at == bytes.len() {
                return (seen, most);
            }
        }
        unreachable!("the pieces never end")
    }

    #[test]
    fn a_fragmented_message_comes_whole_and_its_frames_as_they_were() {
        let fragments = [frame(0x01, b"hel"), frame(0x00, b""), frame(0x80, b"lo")];
        let (ping, pong) = (frame(0x89, b"are you there"), frame(0x8a, b"x"));
        let close = frame(0x88, &[0x03, 0xe8]);
        let bytes = [&fragments[0], &ping, &fragments[1], &pong, &fragments[2], &close].map(Vec::as_slice);
        let (seen, _) = seen(&bytes.concat(), &[usize::MAX / 2], 100);
        let expected = [
            Seen::Event(Event::Ping(b"are you there".to_vec())),
            Seen::Event(Event::Pong),
            Seen::Message(fragments.concat(), b"hello".to_vec()),
            Seen::Event(Event::Close(CloseFrame { code: Some(1000) })),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_breaks_a_rule_or_the_cap_is_found_at_its_head() {
        let head = |bytes: &[u8]| bytes.to_vec();
        let rows: [(Vec<u8>, Fault); 9] = [
            (frame(0x82, b"x"), Fault::Binary),
            (frame(0x02, b"x"), Fault::Binary),
            (frame(0x80, b"x"), Fault::Violation(Violation::Continuation)),
            ([frame(0x01, b"x"), frame(0x81, b"x")].concat(), Fault::Violation(Violation::Interleaved)),
            ([frame(0x01, b"x"), frame(0x82, b"x")].concat(), Fault::Violation(Violation::Interleaved)),
            (frame(0xc1, b"x"), Fault::Violation(Violation::ReservedBits)),
            (frame(0x88, b"x"), Fault::Violation(Violation::Close)),
            (head(&[0x81, 0x05]), Fault::Violation(Violation::Unmasked)),
            (head(&[0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), Fault::TooBig),
        ];
        for (bytes, fault) in rows {
            assert_eq!(seen(&bytes, &[1], 100).0, [Seen::Fault(fault)], "{bytes:02x?}");
        }
    }

    #[test]
    fn the_cap_counts_what_is_held_in_however_many_frames() {
        let whole = frame(0x81, &[b'x'; 100]);
        assert!(matches!(seen(&whole, &[7], 100).0[..], [Seen::Message(..)]));
        assert_eq!(seen(&frame(0x81, &[b'x'; 109]), &[7], 100).0, [Seen::Fault(Fault::TooBig)]);
        let endless = [frame(0x01, b""), frame(0x00, b"").repeat(100)].concat();
        let (seen, most) = seen(&endless, &[7], 100);
        assert_eq!(seen, [Seen::Fault(Fault::TooBig)]);
        assert!(most <= 100 + 2 * Head::MAX, "{most} bytes were held");
    }

    #[test]
    fn after_a_message_that_cannot_be_read_control_frames_are_still_found() {
        let close = frame(0x88, &[0x03, 0xe8]);
        for first in [frame(0x82, b"binary"), frame(0x81, &[b'x'; 200]), frame(0x01, &[b'x'; 200])] {
            let mut assembler = Assembler::new(Sender::Client, 100);
            let mut bytes = [&first, &frame(0x89, b"p")[..]].concat();
            bytes.extend(if first[0] == 0x01 { frame(0x80, b"end") } else { frame(0x81, &[b'y'; 500]) });
            bytes.extend_from_slice(&close);
            let (read, fault) = assembler.feed(&bytes);
            assert!(fault.is_err(), "{fault:?}");
            let (more, ping) = assembler.feed(&bytes[read..]);
            assert_eq!(ping, Ok(Some(Event::Ping(b"p".to_vec()))));
            let (rest, end) = assembler.feed(&bytes[read + more..]);
            assert_eq!(
                (end, read + more + rest),
                (Ok(Some(Event::Close(CloseFrame { code: Some(1000) }))), bytes.len())
            );
            assert!(assembler.held.is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_result(
            frames in proptest::collection::vec(
                (
                    prop_oneof![
                        5 => proptest::sample::select(vec![0x81u8, 0x01, 0x00, 0x80, 0x89, 0x8a]),
                        1 => any::<u8>(),
                    ],
                    proptest::collection::vec(any::<u8>(), 0..140),
                ),
                1..8,
            ),
            pieces in proptest::collection::vec(1usize..50, 1..5),
            cut in 0usize..20,
        ) {
            let mut bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
            bytes.truncate(bytes.len().saturating_sub(cut));
            let cap = 200;
            let (whole, _) = seen(&bytes, &[usize::MAX / 2], cap);
            let (chunked, most) = seen(&bytes, &pieces, cap);
            prop_assert_eq!(&whole, &chunked);
            prop_assert!(most <= cap + Head::MAX + 6 + 125, "{} bytes were held", most);
        }

        #[test]
        fn what_was_split_at_random_is_put_together_again(
            text in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut bytes, mut from, last) = (Vec::new(), 0, cuts.len() - 1);
            for (index, to) in cuts.into_iter().enumerate() {
                let first = u8::from(index == 0) | if index == last { 0x80 } else { 0 };
                bytes.extend(frame(first, &text[from..to]));
                bytes.extend(if index == last { Vec::new() } else { frame(0x89, b"p") });
                from = to;
            }
            let (seen, _) = seen(&bytes, &[3], 1000);
            let Some(Seen::Message(_, plain)) = seen.last() else { panic!("no message in {seen:?}") };
            prop_assert_eq!(plain, &text);
        }
    }
}
