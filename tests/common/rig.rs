//! The relay over wires in memory, which block as a test likes.
#![allow(clippy::unwrap_used, clippy::struct_excessive_bools, clippy::needless_pass_by_value)] // a test fails by panicking

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use portcullis::clock::{Clock, ManualClock};
use portcullis::registry::{Caps, Entry, Guard, Registry, Standing};
use portcullis::relay::in_band::InBand;
use portcullis::relay::{self, Early, Settings};
use portcullis::secret::Opaque;
use portcullis::stream::{Deadline, Limits, Outcome, Policies};
use portcullis::token::Principal;
use portcullis::wire::{Scratch, Wire};
use portcullis::ws::Extensions;
use tokio::time::timeout;

/// What a peer of the relay sees and does.
#[derive(Clone)]
pub struct Peer(pub Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    pub to_gateway: VecDeque<u8>,
    pub ended: bool,
    pub from_gateway: Vec<u8>,
    pub finished: bool,
    pub aborted: bool,
    pub broken: bool,
    pub dropped: bool,
    /// Bytes that the gateway may still write.
    pub window: usize,
    /// Every second poll blocks, and each read and write moves one byte.
    pub stutter: bool,
    /// For reads and for writes: whether the last poll blocked.
    pub blocked: [bool; 2],
    /// A read takes an hour of this clock.
    pub slow: Option<ManualClock>,
    pub waker: Option<Waker>,
}

pub struct TestWire(Arc<Mutex<State>>);

pub const READ: usize = 0;
pub const WRITE: usize = 1;

impl Drop for TestWire {
    fn drop(&mut self) {
        self.0.lock().unwrap().dropped = true;
    }
}

impl State {
    fn blocks(&mut self, half: usize, cx: &Context<'_>) -> bool {
        self.waker = Some(cx.waker().clone());
        self.blocked[half] = !self.blocked[half];
        if self.stutter && self.blocked[half] {
            cx.waker().wake_by_ref();
            return true;
        }
        false
    }
}

impl Wire for TestWire {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().unwrap();
        if state.blocks(READ, cx) || (state.to_gateway.is_empty() && !state.ended) {
            return Poll::Pending;
        }
        let most = if state.stutter { 1 } else { usize::MAX };
        let chunk = scratch.chunk();
        let read = chunk.len().min(state.to_gateway.len()).min(most);
        for (to, from) in chunk.iter_mut().zip(state.to_gateway.drain(..read)) {
            *to = from;
        }
        if let Some(clock) = &state.slow {
            clock.step_wall(3600);
        }
        Poll::Ready(Ok(read))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().unwrap();
        assert!(!state.finished, "written after the end");
        if state.blocks(WRITE, cx) || state.window == 0 {
            return Poll::Pending;
        }
        let most = if state.stutter { 1 } else { state.window };
        let written = bytes.len().min(most);
        state.window -= written;
        state.from_gateway.extend_from_slice(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn unsent(&self) -> bool {
        false
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        if state.blocks(WRITE, cx) {
            return Poll::Pending;
        }
        state.finished = true;
        Poll::Ready(Ok(()))
    }

    fn is_broken(&self) -> bool {
        self.0.lock().unwrap().broken
    }

    fn abort(self) {
        self.0.lock().unwrap().aborted = true;
    }
}

impl Peer {
    pub fn new(stutter: bool) -> (Self, TestWire) {
        let state = Arc::new(Mutex::new(State { stutter, window: usize::MAX / 2, ..State::default() }));
        (Self(state.clone()), TestWire(state))
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn send(&self, bytes: &[u8]) {
        self.change(|state| state.to_gateway.extend(bytes));
    }

    pub fn end(&self) {
        self.change(|state| state.ended = true);
    }

    pub fn window(&self, bytes: usize) {
        self.change(|state| state.window = bytes);
    }

    pub fn received(&self) -> Vec<u8> {
        self.0.lock().unwrap().from_gateway.clone()
    }

    pub fn is(&self, what: impl Fn(&State) -> bool) -> bool {
        what(&self.0.lock().unwrap())
    }

    pub async fn until(&self, what: impl Fn(&State) -> bool) {
        let seen = async {
            while !self.is(&what) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(Duration::from_secs(7), seen).await.is_err() {
            let state = self.0.lock().unwrap();
            panic!(
                "what was waited for never came: {} received, {} unread",
                state.from_gateway.len(),
                state.to_gateway.len()
            );
        }
    }

    pub async fn receives(&self, bytes: &[u8]) {
        self.until(|state| state.from_gateway.len() >= bytes.len()).await;
        assert_eq!(self.received(), bytes);
    }
}

/// A place in a registry of its own.
pub fn place(clock: &Clock) -> (Registry, Guard) {
    let registry = Registry::new(clock);
    let entry = Entry {
        route: "test".into(),
        peer: ([192, 0, 2, 1], 1).into(),
        principal: Principal::new(&[]),
        handle: Opaque::parse(HANDLE).map(|handle| handle.hash()),
        since: portcullis::clock::Wall::default(),
        standing: Standing {
            jti: None,
            marks: portcullis::token::Marks::default(),
            token: portcullis::secret::fingerprint(b""),
            expiry: None,
            renewals: 0,
        },
    };
    let guard = registry.reserve(entry, Caps::default()).unwrap();
    (registry, guard)
}

pub struct Rig {
    pub client: Peer,
    pub service: Peer,
    pub registry: Registry,
    pub relay: tokio::task::JoinHandle<Outcome>,
}

impl Rig {
    pub fn start(stutter: bool, life: Duration, early: Early, limits: Limits) -> Self {
        Self::with_clock(stutter, life, early, limits, Clock::system())
    }

    pub fn with_clock(stutter: bool, life: Duration, early: Early, limits: Limits, clock: Clock) -> Self {
        Self::with(stutter, life, early, limits, clock, None)
    }

    pub fn with(
        stutter: bool,
        life: Duration,
        early: Early,
        limits: Limits,
        clock: Clock,
        in_band: Option<InBand>,
    ) -> Self {
        Self::with_policies(stutter, life, early, limits, clock, (in_band, Policies::default()))
    }

    pub fn with_policies(
        stutter: bool,
        life: Duration,
        early: Early,
        limits: Limits,
        clock: Clock,
        (in_band, policies): (Option<InBand>, Policies),
    ) -> Self {
        let (client, downstream) = Peer::new(stutter);
        let (service, upstream) = Peer::new(stutter);
        let (registry, guard) = place(&clock);
        let now = clock.now();
        let deadline = Deadline::new(Some(now.wall.saturating_add(life)), None, now);
        let (limits, codes, extensions) = (limits.into(), Arc::default(), Extensions::None);
        let settings = Settings { limits, codes, extensions, deadline, in_band, policies };
        let relay = tokio::spawn(relay::run(downstream, upstream, &early, settings, guard, clock));
        Self { client, service, registry, relay }
    }

    pub async fn ends(self) -> Outcome {
        let outcome = timeout(Duration::from_secs(8), self.relay).await.expect("the stream never ended").unwrap();
        assert!(self.registry.is_empty(), "the place was given back");
        assert!(self.client.is(|state| state.dropped) && self.service.is(|state| state.dropped));
        outcome
    }
}

/// The handle of the stream.
pub const HANDLE: &[u8] = b"the-handle-of-this-stream";
pub const LONG: Duration = Duration::from_secs(3600);

pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [9, 8, 7, 6];
    let mut frame = head(first, payload.len(), 0x80);
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

pub fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len(), 0);
    frame.extend(payload);
    frame
}

pub fn head(first: u8, length: usize, mask: u8) -> Vec<u8> {
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => vec![first, mask | short],
        (_, Ok(length)) => [vec![first, mask | 126], length.to_be_bytes().to_vec()].concat(),
        _ => [vec![first, mask | 127], (length as u64).to_be_bytes().to_vec()].concat(),
    }
}

pub fn close_code(frame: &[u8]) -> u16 {
    assert_eq!(frame[0], 0x88, "{frame:02x?}");
    if frame[1] & 0x80 == 0 {
        u16::from_be_bytes([frame[2], frame[3]])
    } else {
        u16::from_be_bytes([frame[6] ^ frame[2], frame[7] ^ frame[3]])
    }
}
