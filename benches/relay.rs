//! The relay between wires in memory: both directions of a stream, without TLS and without the kernel.

mod work;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

fn main() {
    divan::main();
}

/// Payload of a frame and frames of a read.
#[divan::bench(args = [(64, 1), (1024, 1), (1024, 63), (65_000, 1)])]
fn messages(bencher: Bencher<'_, '_>, (payload, frames): (usize, usize)) {
    let total = READS * frames as u64 * 2;
    bencher
        .counter(BytesCount::new(total * payload as u64))
        .counter(ItemsCount::new(total))
        .bench(|| work::relay::relay(payload, frames, READS));
}

/// Reads of each direction, enough that the stream's start and end do not count.
const READS: u64 = 1000;
