//! The pure state machine of a stream: every interleaving of what can happen to it, to a depth of six, keeps the
//! promises and comes to an end.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{Mono, Now, Wall};
use portcullis::stream::{CloseReason, Deadline, Due, Flow, Passage, Side, Signal, Stream, Terms};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Renew,
    PassDeadline,
    Revoke,
    Drain,
    RouteGone,
    CloseByClient,
    CloseByUpstream,
    ClientEnds,
    UpstreamEnds,
    ClientBreaksRules,
    ClientSendsTooMuch,
    UpstreamBreaksRules,
    ClientUnwritable,
    UpstreamUnwritable,
    MidFrameDown,
    ABitLater,
}

use Event::*;

const ALL: [Event; 16] = [
    Renew,
    PassDeadline,
    Revoke,
    Drain,
    RouteGone,
    CloseByClient,
    CloseByUpstream,
    ClientEnds,
    UpstreamEnds,
    ClientBreaksRules,
    ClientSendsTooMuch,
    UpstreamBreaksRules,
    ClientUnwritable,
    UpstreamUnwritable,
    MidFrameDown,
    ABitLater,
];

/// What a relay with two obedient sockets would do, and what it may never see.
#[derive(Clone)]
struct World {
    stream: Stream,
    now: Now,
    expiry: Wall,
    /// Whether the side has been told: a Close went out to it.
    told: [bool; 2],
    /// Bytes that the client still misses of a frame.
    rest_down: u64,
    passed_deadline: bool,
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Upstream)
}

impl World {
    fn new() -> Self {
        let now = Now { wall: Wall::from_epoch(Duration::from_secs(1_000_000)), mono: Mono::default() };
        let expiry = now.wall.saturating_add(Duration::from_secs(10));
        let stream = Stream::new(Deadline::new(Some(expiry), None, now), Arc::default());
        Self { stream, now, expiry, told: [false; 2], rest_down: 0, passed_deadline: false }
    }

    fn apply(&mut self, event: Event, trail: &[Event]) {
        let now = self.now;
        match event {
            Renew => {
                let expiry = self.expiry.saturating_add(Duration::from_secs(10));
                let terms = Terms { expiry: Some(expiry), allow_shorter: false, max_renewals: None };
                let renewed = self.stream.renew(terms, now).is_ok();
                assert!(!(renewed && self.passed_deadline), "a renewal after the deadline loses: {trail:?}");
                if renewed {
                    self.expiry = expiry;
                }
            }
            PassDeadline => {
                while self.now.wall < self.expiry {
                    self.now = self.now.after(Duration::from_secs(1));
                }
                self.passed_deadline = true;
                self.stream.on_time(self.now);
            }
            Revoke => self.stream.on_signal(Signal::Revoke, now),
            Drain => self.stream.on_signal(Signal::Drain, now),
            RouteGone => self.stream.on_signal(Signal::RouteGone, now),
            CloseByClient => self.close(Side::Downstream, trail),
            CloseByUpstream => self.close(Side::Upstream, trail),
            ClientEnds => self.end(Side::Downstream),
            UpstreamEnds => self.end(Side::Upstream),
            ClientBreaksRules => self.breaks(Side::Downstream),
            ClientSendsTooMuch => {
                // Only what would pass is held to a bound.
                if self.stream.flow(Side::Downstream) == Flow::Pass {
                    self.stream.on_cut(CloseReason::TooBig, now);
                }
            }
            UpstreamBreaksRules => self.breaks(Side::Upstream),
            ClientUnwritable => self.stream.on_unwritable(Side::Downstream, now),
            UpstreamUnwritable => self.stream.on_unwritable(Side::Upstream, now),
            MidFrameDown => {
                if self.stream.flow(Side::Upstream) == Flow::Pass {
                    self.rest_down = 1000;
                }
            }
            ABitLater => {
                self.now = self.now.after(Duration::from_millis(400));
                if self.now.wall >= self.expiry {
                    self.passed_deadline = true;
                }
                self.stream.on_time(self.now);
            }
        }
        self.deliver(trail);
        self.check(trail);
    }

    fn reads_frames(&self, side: Side) -> bool {
        matches!(self.stream.flow(side), Flow::Pass | Flow::Finish | Flow::Discard)
            && !(side == Side::Upstream && self.rest_down > 0)
    }

    fn close(&mut self, from: Side, trail: &[Event]) {
        if self.reads_frames(from) {
            let flow = self.stream.flow(from);
            if self.stream.on_close(from, Some(4001), self.now) == Passage::Forward {
                assert_eq!(flow, Flow::Pass, "a Close only follows passing frames: {trail:?}");
                self.tell(from.other(), trail);
            }
        }
    }

    fn breaks(&mut self, from: Side) {
        if self.reads_frames(from) {
            self.stream.on_violation(from, self.now);
        }
    }

    fn end(&mut self, side: Side) {
        if self.stream.flow(side) != Flow::Ended {
            self.stream.on_end(side, self.now);
        }
    }

    fn tell(&mut self, side: Side, trail: &[Event]) {
        assert!(!self.told[index(side)], "two Closes to one side: {trail:?}");
        self.told[index(side)] = true;
    }

    fn deliver(&mut self, trail: &[Event]) {
        for side in Side::BOTH {
            for _ in 0..4 {
                let rest = if side == Side::Downstream { self.rest_down } else { 0 };
                match self.stream.due(side, rest, 0, true) {
                    Due::Nothing => break,
                    Due::Wait => self.stream.doomed(side),
                    Due::Close(_) => {
                        assert_eq!(rest, 0, "a Close inside a frame: {trail:?}");
                        self.tell(side, trail);
                        self.stream.close_sent(side);
                        self.stream.on_flushed(side);
                    }
                    Due::Finish => self.stream.finished(side),
                    Due::Reset => self.stream.reset(side),
                }
            }
        }
    }

    fn check(&self, trail: &[Event]) {
        for side in Side::BOTH {
            let flow = self.stream.flow(side.other());
            assert!(
                !(self.told[index(side)] && matches!(flow, Flow::Pass | Flow::Finish)),
                "data after the Close to {side:?}: {trail:?}"
            );
        }
        if self.passed_deadline && self.stream.judge(self.now).is_some() {
            for side in Side::BOTH {
                // What still passes is judged frame by frame, and nothing gets by.
                assert!(self.stream.flow(side) != Flow::Pass || self.stream.judge(self.now).is_some());
            }
            assert!(self.stream.reason().is_some(), "the deadline has passed and nothing happened: {trail:?}");
            assert_ne!(
                self.stream.flow(Side::Upstream),
                Flow::Pass,
                "frames to the client after the deadline: {trail:?}"
            );
            assert_ne!(
                self.stream.flow(Side::Downstream),
                Flow::Pass,
                "frames to the service after the deadline: {trail:?}"
            );
        }
    }

    /// Nobody answers anything any more: the stream comes to its end by its own timers.
    fn runs_out(mut self, trail: &[Event]) {
        let started = self.now.mono;
        self.apply(PassDeadline, trail);
        let began = self.now.mono;
        while !self.stream.is_over() {
            let next = self.stream.next_deadline(self.now);
            let next = next.unwrap_or_else(|| panic!("a stream that never ends: {trail:?} {:?}", self.stream));
            let step = next.saturating_since(self.now.mono).max(Duration::from_millis(1));
            self.now = self.now.after(step);
            self.stream.on_time(self.now);
            self.deliver(trail);
            self.check(trail);
            let took = self.now.mono.saturating_since(began);
            assert!(took <= Duration::from_secs(11), "it took {took:?} after the deadline: {trail:?} from {started:?}");
        }
    }
}

fn explore(world: &World, trail: &mut Vec<Event>, depth: usize, seen: &mut u64) {
    *seen += 1;
    world.clone().runs_out(trail);
    if depth == 0 || world.stream.is_over() {
        return;
    }
    for event in ALL {
        let mut next = world.clone();
        trail.push(event);
        next.apply(event, trail);
        // An event that changes nothing needs no exploring of its own.
        if next.stream != world.stream || next.now != world.now || next.rest_down != world.rest_down {
            explore(&next, trail, depth - 1, seen);
        }
        trail.pop();
    }
}

#[test]
fn every_interleaving_of_six_events_keeps_the_promises_and_ends() {
    let mut seen = 0;
    explore(&World::new(), &mut Vec::new(), 6, &mut seen);
    assert!(seen > 10_000, "only {seen} states were looked at");
    println!("{seen} histories");
}

#[test]
fn the_client_is_told_why_and_the_first_cause_is_logged() {
    let mut world = World::new();
    world.apply(CloseByClient, &[]);
    world.apply(PassDeadline, &[]);
    assert_eq!(world.stream.reason(), Some(CloseReason::ClientClosed));
    let mut world = World::new();
    world.apply(Drain, &[]);
    assert!(!world.told[0], "answers that are on their way come first");
    assert!(world.told[1]);
    world.apply(CloseByUpstream, &[]);
    assert!(world.told[0]);
    assert_eq!(world.stream.reason(), Some(CloseReason::Drain));
}

#[test]
fn expiry_and_revocation_never_settle() {
    for (event, reason) in [(PassDeadline, CloseReason::Expired), (Revoke, CloseReason::Revoked)] {
        let mut world = World::new();
        world.apply(event, &[event]);
        assert_eq!(world.told, [true; 2]);
        assert_eq!(world.stream.reason(), Some(reason));
    }
}

#[test]
fn a_stepped_wall_clock_never_lengthens_a_stream() {
    let world = World::new();
    let mut back = world.now.after(Duration::from_secs(10));
    back.wall = Wall::from_epoch(back.wall.since_epoch().saturating_sub(Duration::from_secs(3600)));
    assert_eq!(world.stream.judge(back), Some(CloseReason::Expired), "the monotonic clock has got there");
    let mut ahead = world.now;
    ahead.wall = ahead.wall.saturating_add(Duration::from_secs(3600));
    assert_eq!(world.stream.judge(ahead), Some(CloseReason::Expired), "the wall clock has got there");
    let just_before = world.now.after(Duration::from_nanos(9_999_999_999));
    assert_eq!(world.stream.judge(just_before), None, "never before the deadline");
}
