//! The work that the micro-benches time and that `instructions` counts: the same for both.
#![allow(dead_code)] // each bench uses its part
#![allow(clippy::unwrap_used, clippy::expect_used)] // a bench that cannot go on fails, and says why

pub mod relay;
pub mod scan;
pub mod verify;

/// A binary frame; its payload is zeros.
pub fn frame(payload: usize, masked: bool) -> Vec<u8> {
    let mut frame = head(payload, masked);
    frame.resize(frame.len() + payload, 0);
    frame
}

/// The head of a binary frame, masked (with the key 0, which is four bytes like any other) or not.
#[allow(clippy::cast_possible_truncation)] // each arm holds what fits
pub fn head(payload: usize, masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut head = match payload {
        0..126 => vec![0x82, bit | payload as u8],
        126..0x1_0000 => [&[0x82, bit | 126][..], &(payload as u16).to_be_bytes()].concat(),
        _ => [&[0x82, bit | 127][..], &(payload as u64).to_be_bytes()].concat(),
    };
    head.resize(head.len() + if masked { 4 } else { 0 }, 0);
    head
}
