//! The relay between two wires that are memory: what a stream costs without TLS and the kernel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::registry::{Caps, Entry, Registry, Standing};
use portcullis::relay::{self, Early, Settings};
use portcullis::stream::{CloseReason, Deadline, Outcome};
use portcullis::token::Principal;
use portcullis::wire::{Scratch, Wire};
use portcullis::ws::Extensions;

/// Passes `reads` reads of `frames` frames of `payload` bytes in each direction, and a Close; the number of frames.
pub fn relay(payload: usize, frames: usize, reads: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let outcome = runtime.block_on(async { stream(payload, frames, reads).await });
    assert_eq!(outcome.reason, CloseReason::ClientClosed);
    outcome.upward.frames + outcome.downward.frames
}

fn stream(payload: usize, frames: usize, reads: u64) -> impl Future<Output = Outcome> {
    let running = Arc::new(AtomicU64::new(2));
    let wire = |masked| Memory {
        head: super::head(payload, masked),
        payload,
        frames,
        reads,
        last: Last::Data,
        masked,
        running: running.clone(),
    };
    let clock = Clock::system();
    let registry = Registry::new(&clock);
    let entry = Entry {
        route: "bench".into(),
        peer: ([192, 0, 2, 1], 1).into(),
        principal: Principal::new(&[]),
        handle: None,
        since: clock.now().wall,
        standing: Standing {
            jti: None,
            marks: portcullis::token::Marks::default(),
            token: portcullis::secret::fingerprint(b""),
            expiry: None,
            renewals: 0,
        },
    };
    let guard = registry.reserve(entry, Caps::default()).expect("a place");
    let now = clock.now();
    let deadline = Deadline::new(Some(now.wall.saturating_add(Duration::from_secs(3600))), None, now);
    let settings = Settings {
        limits: Arc::default(),
        codes: Arc::default(),
        extensions: Extensions::None,
        deadline,
        in_band: None,
        policies: portcullis::stream::Policies::default(),
    };
    relay::run(wire(true), wire(false), &Early::default(), settings, guard, clock)
}

/// A side that sends the same frames so many times, then a Close once the other side has sent its share; and that takes
/// whatever it is sent. Only heads are written, the payload is whatever stands there: a copy of it would be most of what
/// is measured.
struct Memory {
    head: Vec<u8>,
    payload: usize,
    /// Frames of one read.
    frames: usize,
    reads: u64,
    last: Last,
    masked: bool,
    /// Sides that still have data, or [`CLOSING`].
    running: Arc<AtomicU64>,
}

/// What was read last.
#[derive(PartialEq)]
enum Last {
    Data,
    EndOfData,
    Close,
}

impl Memory {
    fn give_frames(&self, scratch: &mut Scratch) -> usize {
        let frame = self.head.len() + self.payload;
        let chunk = scratch.chunk().get_mut(..frame * self.frames).expect("a chunk that fits");
        for to in chunk.chunks_exact_mut(frame) {
            to[..self.head.len()].copy_from_slice(&self.head);
        }
        chunk.len()
    }
}

impl Wire for Memory {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        if self.reads > 0 {
            self.reads -= 1;
            return Poll::Ready(Ok(self.give_frames(scratch)));
        }
        if self.last == Last::Data {
            self.last = Last::EndOfData;
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
        let turn = if self.masked { 0 } else { CLOSING };
        match self.last {
            Last::Close => Poll::Ready(Ok(0)),
            _ if self.running.load(Ordering::Relaxed) == turn => {
                self.last = Last::Close;
                self.running.store(CLOSING, Ordering::Relaxed);
                let close: &[u8] = if self.masked { &[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8] } else { &[0x88, 2, 3, 0xe8] };
                Poll::Ready(Ok(give(close, scratch)))
            }
            _ => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn poll_send(&mut self, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn unsent(&self) -> bool {
        false
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn abort(self) {}
}

/// The client has sent its Close.
const CLOSING: u64 = u64::MAX;

fn give(bytes: &[u8], scratch: &mut Scratch) -> usize {
    let to = scratch.chunk().get_mut(..bytes.len()).expect("a chunk that fits");
    to.copy_from_slice(bytes);
    bytes.len()
}
