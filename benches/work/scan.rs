//! The scanner over frames of one size.

use portcullis::ws::{Extensions, Head, Ruling, Scanner, Sender, Step};

/// About this many bytes of frames, at least one frame.
pub fn frames(payload: usize, bytes: usize) -> Vec<u8> {
    let frame = super::frame(payload, true);
    frame.repeat((bytes / frame.len()).max(1))
}

/// Scans `bytes` as the relay does, in reads of `chunk` bytes; the number of frames.
pub fn scan(bytes: &[u8], chunk: usize) -> u64 {
    let mut scanner = Scanner::new(Sender::Client, Extensions::None);
    let (mut from, mut to, mut total) = (0, 0, 0);
    while from < bytes.len() {
        to = (to + chunk).min(bytes.len());
        while from < to {
            match scanner.step(&bytes[from..to], |_: &Head| Ruling::<()>::Pass) {
                Step::Pass { bytes, frames } => {
                    from += bytes;
                    total += frames;
                }
                Step::Hold => break,
                other => panic!("{other:?}"),
            }
        }
    }
    total
}
