//! The frame scanner: however a stream is cut into chunks, and however short its writes are, the same bytes go on, the
//! same verdicts fall, and what goes on before a cut ends on a frame boundary.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use portcullis::ws::{Extensions, Head, Ruling, Scanner, Sender, Step, Violation};
use proptest::prelude::*;
use websocket_sans_io::{WebsocketFrameDecoder, WebsocketFrameEvent};

#[derive(Clone, Debug)]
struct Frame {
    first: u8,
    payload: Vec<u8>,
    /// Bytes of extended length to use: the minimal ones, unless a rule is to be broken.
    wide: bool,
}

impl Frame {
    fn encode(&self, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        let length = self.payload.len();
        if self.wide {
            bytes.push(bit | 127);
            bytes.extend((length as u64).to_be_bytes());
        } else if length < 126 {
            bytes.push(bit | u8::try_from(length).unwrap());
        } else if let Ok(length) = u16::try_from(length) {
            bytes.push(bit | 126);
            bytes.extend(length.to_be_bytes());
        } else {
            bytes.push(bit | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
        if masked {
            bytes.extend([0x37, 0xfa, 0x21, 0x3d]);
            bytes
                .extend(self.payload.iter().zip([0x37, 0xfa, 0x21, 0x3d].iter().cycle()).map(|(byte, key)| byte ^ key));
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        2 => prop::collection::vec(any::<u8>(), 120..130),
        1 => prop::collection::vec(any::<u8>(), 300..400),
        1 => (65_530_usize..65_545).prop_map(|length| vec![0xab; length]),
    ]
}

/// A message: one frame or fragments with control frames between them.
fn message() -> impl Strategy<Value = Vec<Frame>> {
    let control = (prop_oneof![Just(0x89_u8), Just(0x8a)], prop::collection::vec(any::<u8>(), 0..126));
    let fragments = prop::collection::vec((payload(), prop::option::of(control)), 1..5);
    (prop_oneof![Just(1_u8), Just(2)], fragments).prop_map(|(opcode, fragments)| {
        let last = fragments.len() - 1;
        let mut frames = Vec::new();
        for (index, (payload, control)) in fragments.into_iter().enumerate() {
            if let Some((first, payload)) = control {
                frames.push(Frame { first, payload, wide: false });
            }
            let fin = if index == last { 0x80 } else { 0 };
            let opcode = if index == 0 { opcode } else { 0 };
            frames.push(Frame { first: fin | opcode, payload, wide: false });
        }
        frames
    })
}

/// How a stream may end: running on, with a proper Close, or with something that breaks a rule.
fn ending() -> impl Strategy<Value = Option<Frame>> {
    let frame = |first: u8, payload: &[u8], wide| Some(Frame { first, payload: payload.to_vec(), wide });
    prop_oneof![
        Just(None),
        Just(frame(0x88, &[0x0f, 0xa1, b'b', b'y', b'e'], false)),
        Just(frame(0x88, &[], false)),
        Just(frame(0x88, &[3], false)),
        Just(frame(0x88, &[0x03, 0xed], false)),
        Just(frame(0xc1, b"rsv", false)),
        Just(frame(0x83, b"opcode", false)),
        Just(frame(0x80, b"no message to continue", false)),
        Just(frame(0x09, b"fragmented ping", false)),
        Just(frame(0x81, b"length", true)),
    ]
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Closed(Option<u16>),
    Cut,
    Broken(Violation),
}

/// Feeds `bytes` in chunks of the given sizes, with writes that take at most `writes` bytes at a time; frames from
/// number `cut_at` on are refused.
fn drive(bytes: &[u8], sender: Sender, chunks: &[usize], writes: &[usize], cut_at: usize) -> (Vec<u8>, u64, End) {
    let mut scanner = Scanner::new(sender, Extensions::None);
    let (mut output, mut frames, mut waiting) = (Vec::new(), 0, Vec::new());
    let (mut chunks, mut writes) = (chunks.iter().cycle(), writes.iter().cycle());
    let mut input = bytes;
    while !input.is_empty() {
        let size = (*chunks.next().unwrap()).clamp(1, input.len());
        waiting.extend_from_slice(&input[..size]);
        input = &input[size..];
        while !waiting.is_empty() {
            let start = scanner;
            let mut seen = frames;
            let step = scanner.step(&waiting, |_| {
                seen += 1;
                if seen > cut_at as u64 { Ruling::Cut(()) } else { Ruling::Pass }
            });
            match step {
                Step::Pass { bytes, frames: heads } => {
                    let written = (*writes.next().unwrap()).clamp(1, bytes);
                    if written == bytes {
                        frames += heads;
                        output.extend(waiting.drain(..bytes));
                    } else {
                        scanner = start;
                        let mut counted = 0;
                        let (committed, heads) = scanner.advance(&waiting[..bytes], written, |_| counted += 1);
                        assert_eq!(counted, heads);
                        assert!(committed >= written && committed < written + Head::MAX);
                        frames += heads;
                        output.extend(waiting.drain(..committed));
                    }
                }
                Step::Close { bytes, frame } => {
                    output.extend(waiting.drain(..bytes));
                    return (output, frames + 1, End::Closed(frame.code));
                }
                Step::Hold => {
                    assert!(waiting.len() <= Scanner::MAX_HELD, "held {}", waiting.len());
                    break;
                }
                Step::Cut(()) => return (output, frames, End::Cut),
                Step::Violation(violation) => return (output, frames, End::Broken(violation)),
            }
        }
    }
    (output, frames, End::Open)
}

fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut decoder = WebsocketFrameDecoder::new();
    let (mut copy, mut at, mut found) = (bytes.to_vec(), 0, vec![0]);
    loop {
        let result = decoder.add_data(&mut copy[at..]).unwrap();
        at += result.consumed_bytes;
        match result.event {
            Some(WebsocketFrameEvent::End { .. }) => found.push(at),
            Some(_) => {}
            None if result.consumed_bytes == 0 => return found,
            None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_and_any_short_writes_give_the_same_bytes_and_verdicts(
        messages in prop::collection::vec(message(), 0..5),
        ending in ending(),
        masked in any::<bool>(),
        chunks in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..70_000], 1..20),
        writes in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..70_000], 1..20),
        cut_at in prop_oneof![Just(usize::MAX), 0_usize..12],
    ) {
        let sender = if masked { Sender::Client } else { Sender::Upstream };
        let frames: Vec<_> = messages.into_iter().flatten().chain(ending).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode(masked)).collect();
        let whole = drive(&bytes, sender, &[usize::MAX], &[usize::MAX], cut_at);
        let cut_up = drive(&bytes, sender, &chunks, &writes, cut_at);
        prop_assert_eq!(&whole, &cut_up);
        let (output, _, end) = whole;
        prop_assert!(bytes.starts_with(&output), "bytes go on unchanged and in order");
        // An independent parser finds the same frames.
        let independent = boundaries(&bytes);
        prop_assert!(independent.contains(&output.len()), "what goes on ends on a boundary");
        if end == End::Open {
            prop_assert_eq!(output.len(), bytes.len());
        }
    }

    #[test]
    fn any_bytes_at_all_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        chunks in prop::collection::vec(1_usize..30, 1..10),
        masked in any::<bool>(),
    ) {
        let sender = if masked { Sender::Client } else { Sender::Upstream };
        let whole = drive(&bytes, sender, &[usize::MAX], &[usize::MAX], usize::MAX);
        let cut_up = drive(&bytes, sender, &chunks, &[1, 3], usize::MAX);
        prop_assert_eq!(whole.2, cut_up.2);
        prop_assert!(bytes.starts_with(&whole.0));
    }
}

#[test]
fn a_frame_of_a_gibibyte_needs_no_more_room_than_a_small_one() {
    let mut scanner = Scanner::new(Sender::Upstream, Extensions::None);
    let mut head = vec![0x82, 127];
    head.extend((1_u64 << 30).to_be_bytes());
    let pass = |_: &Head| Ruling::<()>::Pass;
    assert_eq!(scanner.step(&head, pass), Step::Pass { bytes: 10, frames: 1 });
    let chunk = vec![0; 64 * 1024];
    for _ in 0..(1 << 30) / chunk.len() {
        assert_eq!(scanner.step(&chunk, pass), Step::Pass { bytes: chunk.len(), frames: 0 });
    }
    assert!(scanner.on_boundary());
    assert!(size_of::<Scanner>() <= 32, "{}", size_of::<Scanner>());
}
