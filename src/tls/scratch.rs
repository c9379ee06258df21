//! Buffers that all streams of a thread share.

use std::cell::Cell;

use zeroize::Zeroize as _;

use crate::tls::{READ, RECORD, SEAL};

/// See the module. Whoever has it has it alone, and only for the length of a closure.
pub(super) struct Scratch {
    /// The start of a record that was kept, then what was read; opened in place.
    pub(super) incoming: Box<[u8]>,
    /// Records on their way out.
    pub(super) outgoing: Box<[u8]>,
}

/// What becomes of what was in `incoming`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It may stay until the next use.
    Leave,
    /// It is overwritten: it may have held credentials.
    Wipe,
}

impl Scratch {
    fn new() -> Self {
        Self {
            incoming: vec![0; RECORD + READ].into_boxed_slice(),
            // Room for the framing of every record of 16 KiB, and for a KeyUpdate in front of them.
            outgoing: vec![0; SEAL + 4096].into_boxed_slice(),
        }
    }

    /// Runs `work` with the thread's buffers. Within `work`, a further call gets fresh ones.
    pub(super) fn with<R>(work: impl FnOnce(&mut Self) -> R) -> R {
        SCRATCH.with(|shared| {
            let mut scratch = shared.take().unwrap_or_else(Self::new);
            let result = work(&mut scratch);
            if cfg!(debug_assertions) {
                scratch.incoming.fill(POISON);
                scratch.outgoing.fill(POISON);
            }
            shared.set(Some(scratch));
            result
        })
    }

    /// Forgets the first `used` bytes of `incoming`.
    pub(super) fn wipe(&mut self, used: usize) {
        self.incoming.get_mut(..used).unwrap_or_default().zeroize();
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

/// What debug builds write over everything after each use.
const POISON: u8 = 0xa5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_found_in_scratch_that_another_left_there() {
        Scratch::with(|scratch| {
            scratch.incoming.fill(1);
            scratch.outgoing.fill(1);
        });
        Scratch::with(|scratch| {
            assert!(scratch.incoming.iter().chain(&scratch.outgoing).all(|byte| *byte == POISON));
            scratch.incoming.fill(1);
            scratch.wipe(10);
            assert_eq!(scratch.incoming.get(..11), Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..]));
        });
    }

    #[test]
    fn a_stream_within_a_stream_has_scratch_of_its_own() {
        Scratch::with(|outer| {
            outer.incoming.fill(1);
            Scratch::with(|inner| inner.incoming.fill(2));
            assert!(outer.incoming.iter().all(|byte| *byte == 1));
        });
    }
}
