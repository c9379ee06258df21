//! One future per stream: signals, deadline, both pumps, the closing handshake.
//!
//! The relay owns the stream's state machine, both wires and one alarm, all in one task: no lock stands on the data
//! path, and nothing is shared with other streams but the thread's scratch. It is spawned by the gateway's last stage
//! and ends with the [`Outcome`]; what to log and to count is the spawner's part.

mod asked;
pub mod in_band;
mod notice;
mod pump;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
pub use in_band::InBand;

use crate::clock::{Clock, Mono, Now};
use crate::registry::{Alarm, Guard, Standing};
use crate::revocation::Cause;
use crate::stream::silence::{Life, Wanted};
use crate::stream::{
    CloseCodes, CloseReason, Deadline, Due, Farewell, Flow, Limits, Outcome, Policies, RenewalError, Side, Signal,
    Silence, Stream, Terms, codes,
};
use crate::token::Grant;
use crate::wire::{Scratch, Wire, with_scratch};
use crate::ws::{Extensions, Sender, close};
use asked::{Own, Pings};
use pump::Leg;

/// What the stream is held to.
#[derive(Clone)]
pub struct Settings {
    /// The bounds within which it ends.
    pub limits: Arc<Limits>,
    /// What the client is told.
    pub codes: Arc<CloseCodes>,
    /// The extensions that the two sides have agreed on.
    pub extensions: Extensions,
    /// From when no new frame may start.
    pub deadline: Deadline,
    /// Whether and how the client may renew its token by a message.
    pub in_band: Option<InBand>,
    /// What the route asks of it besides.
    pub policies: Policies,
}

/// Bytes that were read together with the handshake, on either side. They go through the scanner first.
#[derive(Clone, Debug, Default)]
pub struct Early {
    /// Sent by the client.
    pub from_client: Bytes,
    /// Sent by the service.
    pub from_upstream: Bytes,
    /// The client's begin with a message that was judged before: whatever it looks like, it renews nothing.
    pub judged: bool,
}

/// The stream of one client, from the `101` to its end.
pub struct Relay<D, U> {
    stream: Stream,
    codes: Arc<CloseCodes>,
    downstream: Leg<D>,
    upstream: Leg<U>,
    guard: Guard,
    clock: Clock,
    /// Where the route asks for it.
    silence: Option<Box<Silence>>,
    /// The code of the Close that we sent to the client.
    told_client: Option<u16>,
    /// When the kernel had it.
    told_at: Option<Mono>,
}

impl<D, U> Relay<D, U> {
    /// The stream's place in the registry.
    pub const fn guard(&self) -> &Guard {
        &self.guard
    }
}

/// Runs the stream to its end.
pub fn run<D: Wire, U: Wire>(
    mut downstream: D,
    upstream: U,
    early: &Early,
    settings: Settings,
    guard: Guard,
    clock: Clock,
) -> Relay<D, U> {
    let Settings { limits, codes, extensions, deadline, in_band, policies } = settings;
    downstream.let_in();
    let mut downstream = Leg::new(Side::Downstream, downstream, Sender::Client, extensions, &early.from_client);
    if let Some(rules) = in_band {
        downstream.read_in_band(rules, early.judged);
    }
    downstream.hold_to(policies.bounds);
    if policies.silence.ping.is_some() {
        downstream.ask_by(rand::random());
    }
    Relay {
        stream: Stream::new(deadline, limits),
        codes,
        downstream,
        upstream: Leg::new(Side::Upstream, upstream, Sender::Upstream, extensions, &early.from_upstream),
        guard,
        silence: Silence::new(policies.silence, || clock.now().mono).map(Box::new),
        clock,
        told_client: None,
        told_at: None,
    }
}

impl<D: Wire + Unpin, U: Wire + Unpin> Future for Relay<D, U> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        with_scratch(|scratch| self.turn(cx, scratch))
    }
}

impl<D: Wire, U: Wire> Relay<D, U> {
    /// One poll. Most have only frames to pass; the others take time, signals, both directions and what is due to either
    /// side, again while that changed anything.
    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Outcome> {
        let signals = self.guard.poll_signals(cx);
        if signals.is_empty() && self.is_quiet() {
            let renewals = self.stream.renewals();
            self.pump(cx, scratch);
            // A renewal by a message may have moved the deadline forward, and the alarm with it.
            if self.is_quiet() && self.stream.renewals() == renewals {
                self.meter();
                return Poll::Pending;
            }
        }
        // Read after the signals: an alarm that has rung is seen to be due.
        let mut now = self.clock.now();
        self.stream.on_time(now);
        for signal in signals.iter() {
            self.stream.on_signal(signal, now);
        }
        if signals.contains(Signal::Renew) {
            self.renew(now);
        }
        self.mind_silence(now);
        if self.told_client.is_some() && !signals.contains(Signal::Recheck) && !self.owes() {
            self.wait_for_turn(now);
            return Poll::Pending;
        }
        for _ in 0..ROUNDS {
            let before = self.stream.clone();
            self.deliver(cx, now);
            self.pump(cx, scratch);
            now = self.clock.now();
            self.deliver(cx, now);
            if self.stream.is_over() {
                return Poll::Ready(self.leave(cx));
            }
            if self.poll_alarm(now) {
                self.stream.on_time(now);
                self.mind_silence(now);
                self.look_at_blocked(now);
            } else if self.stream == before && !self.downstream.may_go_on() {
                self.meter();
                return Poll::Pending;
            }
        }
        self.meter();
        give_way(cx);
        Poll::Pending
    }

    /// Applies the fresh tokens that have come out of band. Whoever sent one is answered from here only.
    fn renew(&mut self, now: Now) {
        for renewal in self.guard.take_renewals() {
            let renewed = renew(&mut self.stream, &self.guard, &renewal.grant, renewal.terms, now);
            // Whoever asked may be gone.
            let _ = renewal.answer.send(renewed);
        }
    }

    /// Tells what has passed, once a poll.
    fn meter(&self) {
        self.guard.meter(self.downstream.traffic, self.upstream.traffic);
    }

    /// Both directions.
    fn pump(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) {
        let Self { stream, clock, downstream, upstream, guard, .. } = self;
        downstream.pump(upstream, (stream, clock, guard), cx, scratch);
        upstream.pump(downstream, (stream, clock, guard), cx, scratch);
    }

    /// Whether there is nothing but frames to pass: the alarm is set, nothing is due to either side, nothing waits. Each
    /// frame is judged by the clock all the same.
    fn is_quiet(&self) -> bool {
        self.stream.is_calm()
            && self.guard.alarm().is_some()
            && !self.has_unsent()
            && self.downstream.own() == Own::Nothing
            && !self.downstream.is_blocked()
            && !self.upstream.is_blocked()
    }

    /// Whether something for either side is on its way: bytes taken, or the rest of a frame that may be finished.
    fn owes(&self) -> bool {
        self.has_unsent() || Side::BOTH.into_iter().any(|side| self.stream.flow(side) == Flow::Finish)
    }

    fn has_unsent(&self) -> bool {
        self.downstream.has_unsent() || self.upstream.has_unsent()
    }

    /// Sends what is due to either side: a Close, the FIN, a reset; and whatever is still on its way.
    fn deliver(&mut self, cx: &mut Context<'_>, now: Now) {
        let Self { stream, downstream, upstream, codes, told_client, .. } = self;
        if let Some(left) = stream.take_notice(now) {
            downstream.notify(&notice::expiring(left));
        }
        if !stream.is_calm() {
            downstream.pings().into_iter().for_each(Pings::stop);
        }
        if stream.flow(Side::Upstream) == Flow::Pass {
            downstream.enqueue_own(upstream, now);
        }
        deliver_to(downstream, upstream, stream, now, cx, |farewell| match farewell {
            Farewell::Cause(reason) => {
                let text = codes.downstream(reason);
                *told_client = Some(text.code());
                text.frame(None)
            }
            Farewell::Echo(code) => close::echo(code, None),
        });
        deliver_to(upstream, downstream, stream, now, cx, |farewell| {
            let key = Some(rand::random());
            match farewell {
                Farewell::Cause(_) => codes::UPSTREAM.frame(key),
                Farewell::Echo(code) => close::echo(code, key),
            }
        });
        if self.told_client.is_some() && self.told_at.is_none() && !self.downstream.has_unsent() {
            self.told_at = Some(self.clock.now().mono);
        }
    }

    /// Asks a client that has been silent whether it is there, and ends a stream that has been silent for too long. What ends
    /// already does so by its own deadlines.
    fn mind_silence(&mut self, now: Now) {
        let Self { silence: Some(silence), downstream, upstream, stream, .. } = self else { return };
        if !stream.is_calm() {
            self.silence = None;
            return;
        }
        let life = Life {
            downstream: downstream.heard,
            upstream: upstream.heard,
            pinged: downstream.pings().and_then(|pings| pings.sent()),
            unread: downstream.is_blocked(),
            untaken: upstream.is_blocked(),
            passed: downstream.traffic.bytes.saturating_add(upstream.traffic.bytes),
        };
        match silence.look(&life, now.mono) {
            Wanted::Nothing => {}
            Wanted::Ping => downstream.pings().into_iter().for_each(Pings::ask),
            Wanted::End => stream.on_cut(CloseReason::Idle, now),
        }
    }

    /// Has the task woken at the next deadline; true if the one that it waited for has come.
    fn poll_alarm(&mut self, now: Now) -> bool {
        let come = self.guard.alarm().is_some_and(|alarm| alarm.at() <= now.mono);
        if come {
            self.guard.wake_at(None);
        }
        let blocked = self.downstream.is_blocked() || self.upstream.is_blocked();
        let look = blocked.then(|| now.mono.saturating_add(LOOK));
        let silence = self.silence.as_ref().map(|silence| silence.next());
        let next = [self.stream.next_deadline(now), look, silence].into_iter().flatten().min();
        // The two clocks' ideas of one deadline differ by microseconds from poll to poll; only a real change is worth
        // moving the alarm for. One that rings early is set again.
        let later = |next: &Mono| self.guard.alarm().is_none_or(|alarm| next.saturating_add(SLACK) < alarm.at());
        if let Some(next) = next.filter(later) {
            self.guard.wake_at(Some(Alarm::At(next)));
        }
        come
    }

    /// What comes back after our Close is nobody's message: those that live go first, however many streams end at once.
    fn wait_for_turn(&mut self, now: Now) {
        if self.guard.alarm().is_none_or(|alarm| alarm.at() > now.mono) {
            self.guard.wake_at(Some(Alarm::Turn(now.mono)));
        }
    }

    /// A side that is not read, because the other one is blocked, may be gone without the relay being woken.
    fn look_at_blocked(&mut self, now: Now) {
        let Self { downstream, upstream, stream, .. } = self;
        for (side, gone) in [(Side::Downstream, downstream.is_broken()), (Side::Upstream, upstream.is_broken())] {
            if gone {
                match side {
                    Side::Downstream => downstream.forget(),
                    Side::Upstream => upstream.forget(),
                }
                stream.on_end(side, now);
                stream.on_unwritable(side, now);
            }
        }
    }

    /// Both sides are done with: lets go of what is left and tells how it was.
    fn leave(&mut self, cx: &mut Context<'_>) -> Outcome {
        self.downstream.let_go(cx);
        self.upstream.let_go(cx);
        self.meter();
        let reason = self.stream.reason().unwrap_or(CloseReason::UpstreamLost);
        let code = match reason {
            CloseReason::ClientClosed => self.stream.closed_with(Side::Downstream).flatten(),
            CloseReason::UpstreamClosed => self.stream.closed_with(Side::Upstream).flatten(),
            _ => self.told_client,
        };
        Outcome {
            reason,
            code,
            downstream_reset: self.stream.was_reset(Side::Downstream),
            upstream_reset: self.stream.was_reset(Side::Upstream),
            upward: self.downstream.traffic,
            downward: self.upstream.traffic,
            late: self.told_at.and_then(|at| self.stream.late(at)),
        }
    }
}

/// Applies a fresh token to the stream that it is for. The same for one that came out of band and one that came on the
/// stream itself.
fn renew(
    stream: &mut Stream,
    guard: &Guard,
    grant: &Grant,
    terms: Terms,
    now: Now,
) -> Result<Option<Duration>, RenewalError> {
    if grant.principal != guard.principal() {
        return Err(RenewalError::OtherPrincipal);
    }
    guard.stand(
        || {
            // A ban that is not in force here yet looks for streams after this, and finds the fresh token.
            match guard.bans(&grant.marks, now) {
                None => {}
                Some(Cause::Key) => return Err(RenewalError::KeyRemoved),
                Some(Cause::Claim(_)) => return Err(RenewalError::Revoked),
            }
            let expires_in = stream.renew(terms, now)?;
            Ok((Standing::new(grant, stream.renewals()), expires_in))
        },
        RenewalError::Gone,
    )
}

/// Sends what is due to `leg`, whose frames come from `source`.
fn deliver_to<A: Wire, B: Wire>(
    leg: &mut Leg<A>,
    source: &Leg<B>,
    stream: &mut Stream,
    now: Now,
    cx: &mut Context<'_>,
    mut frame: impl FnMut(Farewell) -> Vec<u8>,
) {
    loop {
        match stream.due(leg.side, source.rest(), leg.rest(), source.is_drained()) {
            Due::Nothing => break,
            Due::Close(farewell) => {
                leg.enqueue(&frame(farewell));
                stream.close_sent(leg.side);
            }
            Due::Wait => stream.doomed(leg.side),
            Due::Reset => {
                leg.abort();
                stream.reset(leg.side);
            }
            Due::Finish => match leg.poll_finish(cx) {
                Poll::Ready(Ok(())) => stream.finished(leg.side),
                Poll::Ready(Err(_)) => stream.on_unwritable(leg.side, now),
                Poll::Pending => break,
            },
        }
    }
    leg.flush(stream, now, cx);
    if stream.was_reset(leg.side) {
        leg.abort();
    } else if stream.is_side_over(leg.side) {
        leg.close();
    }
}

/// Has the task polled again after the others of its thread, and after the kernel was asked what is new: a task that only
/// wakes itself is polled 60 times before that, and every step of a new client's handshake would wait as long.
fn give_way(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

/// How often one poll looks again because something changed, before other tasks have their turn.
const ROUNDS: usize = 8;
/// How often a side that is not read is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// By how much earlier a deadline must be for the alarm to be moved.
const SLACK: Duration = Duration::from_millis(1);
