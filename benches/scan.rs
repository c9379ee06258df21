//! The frame scanner: bytes a second for frames of one size, read whole or in pieces.

mod work;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// What one read brings at most.
const READ: usize = 64 * 1024;

/// Payload of a frame and bytes of a read.
#[divan::bench(args = [(0, READ), (16, READ), (1024, READ), (1024, 1460), (1024, 100), (16 << 20, READ)])]
fn frames(bencher: Bencher<'_, '_>, (payload, chunk): (usize, usize)) {
    let frames = work::scan::frames(payload, 1 << 20);
    bencher
        .counter(BytesCount::new(frames.len()))
        .counter(ItemsCount::new(work::scan::scan(&frames, chunk)))
        .bench(|| work::scan::scan(black_box(&frames), chunk));
}
