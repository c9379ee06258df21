//! The table of races, one row a test: what a fresh token meets at a stream that is about to end, is ending, or belongs to
//! somebody else; on wires in memory and under a clock whose wall time the test steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::unchecked_time_subtraction)] // a test fails by panicking

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::rig::{HANDLE, Rig, masked, plain};
use common::{claims, mint};
use portcullis::clock::{Clock, ManualClock, Now, Wall};
use portcullis::registry::Renewal;
use portcullis::relay::Early;
use portcullis::relay::in_band::{InBand, Mode, Renewer, Verdict};
use portcullis::revocation::Ban;
use portcullis::secret::{Opaque, Token, fingerprint};
use portcullis::stream::{CloseReason, Limits, RenewalError, Signal, Terms};
use portcullis::token::keys::store::Change;
use portcullis::token::keys::{KeyRing, KeyStore, SetRules};
use portcullis::token::marks::Kind;
use portcullis::token::{Denial, Grant, Marks, Principal, Public};
use tokio::sync::oneshot;

const LIFE: Duration = Duration::from_secs(100);
/// A part of a life that is long enough for any test to run in.
const MARGIN: Duration = Duration::from_secs(20);

type Answer = oneshot::Receiver<Result<Option<Duration>, RenewalError>>;

/// Steps the wall clock.
fn advance(clock: &ManualClock, by: Duration) {
    clock.step_wall(i64::try_from(by.as_secs()).unwrap());
}

fn rig(clock: &Clock) -> Rig {
    Rig::with_clock(false, LIFE, Early::default(), Limits::default(), clock.clone())
}

fn grant(values: &[String], expiry: Option<Wall>) -> Grant {
    Grant {
        principal: Principal::new(values),
        expiry,
        issuer: "issuer".into(),
        jti: Some("fresh".into()),
        marks: portcullis::token::Marks::default(),
        fingerprint: fingerprint(b"fresh"),
        claims: Arc::default(),
    }
}

/// Hands the stream a fresh token of its own principal that lives for `life` from `now`.
fn renew(rig: &Rig, now: Now, life: Duration) -> Answer {
    renew_as(rig, &[], now, life)
}

fn renew_as(rig: &Rig, values: &[String], now: Now, life: Duration) -> Answer {
    present(rig, grant(values, Some(now.wall.saturating_add(life))))
}

fn present(rig: &Rig, grant: Grant) -> Answer {
    let (answer, told) = oneshot::channel();
    let terms = Terms { expiry: grant.expiry, allow_shorter: false, max_renewals: None };
    let handle = Opaque::parse(HANDLE).unwrap().hash();
    if let Some(stream) = rig.registry.find(handle, "test") {
        stream.renew(Renewal { grant, terms, answer });
    }
    told
}

/// What the stream says; a stream that has ended says nothing, which is a no.
async fn answer(told: Answer) -> Result<Option<Duration>, RenewalError> {
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("an answer").unwrap_or(Err(RenewalError::Gone))
}

/// The stream may go on for so long, but for what the test has taken.
fn lasts(answer: Result<Option<Duration>, RenewalError>, life: Duration) {
    let left = answer.expect("renewed").expect("an end");
    assert!(left <= life && left > life - MARGIN, "{left:?}");
}

async fn closed(rig: Rig) -> CloseReason {
    rig.client.until(|state| state.from_gateway.first() == Some(&0x88)).await;
    rig.client.send(&masked(0x88, &[0x0b, 0xb8]));
    rig.service.send(&plain(0x88, &[0x03, 0xe9]));
    rig.ends().await.reason
}

#[tokio::test]
async fn before_the_deadline_a_renewal_wins_and_counts_for_the_next_frame() {
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    advance(&clock, LIFE - MARGIN);
    let told = renew(&rig, clock.clock().now(), LIFE);
    lasts(answer(told).await, LIFE);
    advance(&clock, LIFE - MARGIN);
    rig.client.send(&masked(0x81, b"past the old deadline"));
    rig.service.receives(&masked(0x81, b"past the old deadline")).await;
    advance(&clock, MARGIN);
    rig.client.send(&masked(0x81, b"past the new one"));
    assert_eq!(closed(rig).await, CloseReason::Expired);
}

#[tokio::test]
async fn after_the_deadline_a_renewal_loses_even_if_nothing_else_has_noticed_it() {
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    let fresh = clock.clock().now();
    advance(&clock, LIFE);
    let told = renew(&rig, fresh, LIFE * 3);
    assert_eq!(answer(told).await, Err(RenewalError::Gone));
    assert_eq!(closed(rig).await, CloseReason::Expired);
}

#[tokio::test]
async fn a_token_whose_key_was_taken_back_on_its_way_is_told_so_and_not_that_it_is_revoked() {
    let jwk = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let store = KeyStore::with_set("i".into(), KeyRing::default(), false);
    let (ring, report) = KeyRing::from_jwk_set(jwk.as_bytes(), &SetRules::default()).unwrap();
    let key = store.install(ring, report, None).added.first().copied();
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    // The change has looked through the streams already, and has not seen the token.
    let change = Change { removed: key.into_iter().collect(), ..Change::default() };
    assert_eq!((change.removed.len(), rig.registry.keys_changed(&change)), (1, 0));
    let expiry = Some(clock.clock().now().wall.saturating_add(LIFE * 2));
    let told = present(&rig, Grant { marks: Marks::default().signed_with(key), ..grant(&[], expiry) });
    let error = answer(told).await.unwrap_err();
    assert_eq!((error, error.as_str()), (RenewalError::KeyRemoved, "token_invalid"));
    rig.client.send(&masked(0x81, b"still here"));
    rig.service.receives(&masked(0x81, b"still here")).await;
}

#[tokio::test]
async fn of_two_renewals_at_once_both_are_answered_and_the_later_deadline_stays() {
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    let now = clock.clock().now();
    let told = [renew(&rig, now, LIFE * 3), renew(&rig, now, LIFE * 2), renew(&rig, now, LIFE * 3)];
    let [first, second, third] = told.map(answer);
    lasts(first.await, LIFE * 3);
    assert_eq!(second.await, Err(RenewalError::Shorter), "it never moves back");
    // Replayed, it moves nothing.
    lasts(third.await, LIFE * 3);
    advance(&clock, LIFE * 3 - MARGIN);
    rig.client.send(&masked(0x81, b"still here"));
    rig.service.receives(&masked(0x81, b"still here")).await;
}

#[tokio::test]
async fn a_token_that_was_banned_on_its_way_is_refused_and_the_stream_keeps_its_own() {
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    let now = clock.clock().now();
    // The ban has looked through the streams already, and has not seen the token.
    let ban = Ban { iss: "i".into(), kind: Kind::Jti, value: "fresh".into(), issued_before: None, until: None };
    rig.registry.revocations().insert(ban.clone(), now.wall).unwrap();
    assert_eq!(rig.registry.revoke(&ban), 0);
    let expiry = Some(now.wall.saturating_add(LIFE * 2));
    let marks = Marks::new("i", serde_json::json!({"jti": "fresh"}).as_object().unwrap(), None);
    let told = present(&rig, Grant { marks, ..grant(&[], expiry) });
    assert_eq!(answer(told).await, Err(RenewalError::Revoked));
    rig.client.send(&masked(0x81, b"still here"));
    rig.service.receives(&masked(0x81, b"still here")).await;
    advance(&clock, LIFE);
    rig.client.send(&masked(0x81, b"late"));
    assert_eq!(closed(rig).await, CloseReason::Expired);
}

#[tokio::test]
async fn against_revocation_and_drain_a_renewal_loses() {
    for (signal, reason) in [
        (Signal::Revoke, CloseReason::Revoked),
        (Signal::Drain, CloseReason::Drain),
        (Signal::RouteGone, CloseReason::RouteGone),
    ] {
        for signal_first in [true, false] {
            let clock = ManualClock::new();
            let rig = rig(&clock.clock());
            let mut told = None;
            // Both are there before the stream has its next turn.
            if !signal_first {
                told = Some(renew(&rig, clock.clock().now(), LIFE * 2));
            }
            rig.registry.signal_all(signal);
            let told = told.unwrap_or_else(|| renew(&rig, clock.clock().now(), LIFE * 2));
            assert_eq!(answer(told).await, Err(RenewalError::Gone), "{signal:?}");
            assert_eq!(closed(rig).await, reason);
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_closing_is_not_renewed() {
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    rig.client.send(&masked(0x88, &[0x03, 0xe8]));
    rig.service.until(|state| !state.from_gateway.is_empty()).await;
    let told = renew(&rig, clock.clock().now(), LIFE * 2);
    assert_eq!(answer(told).await, Err(RenewalError::Gone));
    rig.service.send(&plain(0x88, &[0x03, 0xe8]));
    assert_eq!(rig.ends().await.reason, CloseReason::ClientClosed);
}

#[tokio::test]
async fn a_token_of_somebody_else_moves_nothing() {
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    let told = renew_as(&rig, &["\"somebody\"".to_owned()], clock.clock().now(), LIFE * 2);
    assert_eq!(answer(told).await, Err(RenewalError::OtherPrincipal));
    advance(&clock, LIFE);
    rig.client.send(&masked(0x81, b"late"));
    assert_eq!(closed(rig).await, CloseReason::Expired);
}

#[tokio::test]
async fn a_stream_that_ends_answers_whoever_waits() {
    let clock = ManualClock::new();
    let rig = rig(&clock.clock());
    rig.relay.abort();
    let told = renew(&rig, clock.clock().now(), LIFE * 2);
    assert_eq!(answer(told).await, Err(RenewalError::Gone));
    while !rig.registry.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(rig.registry.find(Opaque::parse(HANDLE).unwrap().hash(), "test").is_none(), "its handle is free again");
}

/// Says yes to every token, after a while.
struct Later(Clock);

impl Renewer for Later {
    fn judge(&self, token: Token) -> Verdict {
        let now = self.0.now();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            if token.expose().ends_with('x') {
                return Err(Denial::new(Public::TokenInvalid, "no", "no"));
            }
            let expiry = Some(now.wall.saturating_add(LIFE * 3));
            Ok((grant(&[], expiry), Terms { expiry, allow_shorter: false, max_renewals: None }))
        })
    }
}

/// The same bytes arrive whatever blocks, a token is judged before anything behind it goes on, and a verdict may take its
/// time.
#[tokio::test]
async fn tokens_among_messages_over_a_wire_that_blocks_at_every_byte() {
    let good = mint(&claims(Duration::from_secs(60)));
    let bad = format!("{good}x");
    for (mode, stutter) in
        [(Mode::Consume, false), (Mode::Consume, true), (Mode::Forward, false), (Mode::Forward, true)]
    {
        let clock = ManualClock::new();
        let rules =
            InBand { mode, prefix: "".into(), interval: Duration::ZERO, renewer: Arc::new(Later(clock.clock())) };
        let limits = Limits::default();
        let rig = Rig::with(stutter, LIFE, Early::default(), limits, clock.clock(), Some(rules));
        let (start, end) = good.split_at(20);
        let pieces = [
            (masked(0x81, b"ordinary"), true),
            (masked(0x81, b"eyJhbGciOiJIUzI1NiJ9"), true),
            (masked(0x81, bad.as_bytes()), mode == Mode::Forward),
            (masked(0x01, start.as_bytes()), mode == Mode::Forward),
            (masked(0x89, b"between"), true),
            (masked(0x80, end.as_bytes()), mode == Mode::Forward),
            (masked(0x82, good.as_bytes()), true),
            (masked(0x01, b"two "), true),
            (masked(0x80, b"fragments"), true),
        ];
        let mut expected = Vec::new();
        for (bytes, passes) in &pieces {
            rig.client.send(bytes);
            if *passes {
                expected.extend(bytes);
            }
        }
        rig.service.receives(&expected).await;
        if mode == Mode::Consume {
            let refused = plain(0x81, br#"{"portcullis":"refused","reason":"token_invalid"}"#);
            rig.client.until(|state| state.from_gateway.ends_with(br#""portcullis":"renewed"}"#)).await;
            let received = rig.client.received();
            assert!(received.starts_with(&refused) && received.len() < refused.len() + 60, "two answers");
        }
        advance(&clock, LIFE * 3 - MARGIN);
        rig.client.send(&masked(0x81, b"past the old deadline"));
        expected.extend(masked(0x81, b"past the old deadline"));
        rig.service.receives(&expected).await;
        advance(&clock, MARGIN);
        rig.client.send(&masked(0x81, b"past the new one"));
        rig.service.until(|state| state.from_gateway.len() > expected.len()).await;
        assert_eq!(rig.service.received()[expected.len()], 0x88, "{mode:?} {stutter}");
    }
}

/// The token that is on its way when the deadline comes is late, and so is everything behind it.
#[tokio::test]
async fn a_verdict_that_comes_after_the_deadline_comes_too_late() {
    for mode in [Mode::Consume, Mode::Forward] {
        let clock = ManualClock::new();
        let rules =
            InBand { mode, prefix: "".into(), interval: Duration::ZERO, renewer: Arc::new(Later(clock.clock())) };
        let rig = Rig::with(false, LIFE, Early::default(), Limits::default(), clock.clock(), Some(rules));
        advance(&clock, LIFE - MARGIN);
        rig.client.send(&masked(0x81, mint(&claims(Duration::from_secs(60))).as_bytes()));
        rig.client.until(|state| state.to_gateway.is_empty()).await;
        advance(&clock, MARGIN);
        rig.client.until(|state| state.from_gateway.first() == Some(&0x88)).await;
        rig.service.until(|state| state.from_gateway.first() == Some(&0x88)).await;
        assert_eq!(closed(rig).await, CloseReason::Expired);
    }
}

/// Says this to every token, at once.
#[derive(Clone)]
struct AtOnce(Clock, Option<Duration>);

impl Renewer for AtOnce {
    fn judge(&self, _: Token) -> Verdict {
        let expiry = self.1.map(|life| self.0.now().wall.saturating_add(life));
        let verdict = match expiry {
            Some(_) => Ok((grant(&[], expiry), Terms { expiry, allow_shorter: true, max_renewals: None })),
            None => Err(Denial::new(Public::TokenInvalid, "no", "no")),
        };
        Box::pin(std::future::ready(verdict))
    }
}

fn in_band(mode: Mode, life: Duration, verdict: AtOnce) -> Rig {
    let clock = verdict.0.clone();
    let rules = InBand { mode, prefix: "".into(), interval: Duration::ZERO, renewer: Arc::new(verdict) };
    Rig::with(false, life, Early::default(), Limits::default(), clock, Some(rules))
}

fn candidate() -> Vec<u8> {
    masked(0x81, mint(&claims(Duration::from_secs(60))).as_bytes())
}

#[tokio::test]
async fn a_silent_stream_ends_at_the_earlier_deadline_that_a_message_has_brought() {
    for mode in [Mode::Forward, Mode::Consume] {
        let clock = Clock::system();
        let rig = in_band(mode, Duration::from_secs(5), AtOnce(clock.clone(), Some(Duration::from_millis(300))));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let sent = clock.now().mono;
        rig.client.send(&candidate());
        rig.client.until(|state| state.from_gateway.windows(2).any(|two| two == [0x88, 15])).await;
        let took = clock.now().mono.saturating_since(sent);
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(2), "{mode:?}: {took:?}");
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answers_has_no_more_than_a_few_held_for_it() {
    let rig = in_band(Mode::Consume, LIFE, AtOnce(Clock::system(), None));
    rig.client.window(0);
    let candidates = candidate().repeat(50);
    let mut sent = 0;
    while sent < 10_000 && rig.client.is(|state| state.to_gateway.len() < 300 * candidates.len()) {
        rig.client.send(&candidates);
        sent += 50;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    rig.client.window(4096);
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.client.window(0);
    let answers = rig.client.received().len();
    assert!((1_000..=6 * 1024).contains(&answers), "{answers} bytes for {sent} candidates");
    // Once they are taken, everything goes on by itself.
    rig.client.window(usize::MAX / 2);
    rig.client.send(&masked(0x81, b"behind them all"));
    rig.service.receives(&masked(0x81, b"behind them all")).await;
}

#[tokio::test]
async fn what_stands_behind_a_hundred_tokens_need_not_wait() {
    let clock = Clock::system();
    let rig = in_band(Mode::Consume, LIFE, AtOnce(clock.clone(), None));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let begun = clock.now().mono;
    rig.client.send(&[candidate().repeat(100), masked(0x81, b"behind them")].concat());
    rig.service.receives(&masked(0x81, b"behind them")).await;
    assert!(clock.now().mono.saturating_since(begun) < Duration::from_secs(2), "nobody had to look for it");
}

#[tokio::test]
async fn pings_between_the_fragments_of_a_token_are_judged_like_all_frames() {
    let clock = ManualClock::new();
    let rig = in_band(Mode::Consume, LIFE, AtOnce(clock.clock(), None));
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.service.window(0);
    let token = mint(&claims(Duration::from_secs(60)));
    let (start, end) = token.split_at(20);
    let pings = masked(0x89, b"between").repeat(200);
    rig.client.send(&[masked(0x01, start.as_bytes()), pings, masked(0x80, end.as_bytes())].concat());
    // The answer is there, so the token was taken.
    rig.client.until(|state| !state.from_gateway.is_empty()).await;
    advance(&clock, LIFE);
    rig.registry.signal_all(Signal::Recheck);
    rig.client.until(|state| state.from_gateway.windows(2).any(|two| two == [0x88, 15])).await;
    rig.service.window(usize::MAX / 2);
    rig.service.until(|state| !state.from_gateway.is_empty()).await;
    assert_eq!(rig.service.received().first(), Some(&0x88), "no frame starts after the deadline");
}

#[tokio::test]
async fn tokens_with_pings_between_are_read_no_faster_than_they_are_done_with() {
    const COUNT: usize = 8_000;
    let rig = in_band(Mode::Consume, LIFE, AtOnce(Clock::system(), Some(LIFE)));
    let token = mint(&claims(Duration::from_secs(60)));
    let (start, end) = token.split_at(20);
    let ping = masked(0x89, b"between");
    let one = [masked(0x01, start.as_bytes()), ping.clone(), masked(0x80, end.as_bytes())].concat();
    rig.client.send(&one.repeat(COUNT));
    let mut most = 0;
    loop {
        let taken = COUNT * one.len() - rig.client.0.lock().unwrap().to_gateway.len();
        let done = rig.service.received().len() / ping.len() * one.len();
        most = most.max(taken.saturating_sub(done));
        if done == COUNT * one.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(most < 400 * 1024, "{most} bytes were held at a time");
}
