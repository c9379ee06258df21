//! The relay over a wire that blocks at every byte: the same bytes arrive, judged, in order, and every end is clean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::struct_excessive_bools, clippy::needless_pass_by_value)] // a test fails by panicking

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use common::rig::{LONG, Rig, close_code, head, masked, place, plain};
use portcullis::clock::{Clock, ManualClock};
use portcullis::relay::{self, Early, Settings};
use portcullis::stream::{CloseReason, Deadline, Limits, Policies, Signal};
use portcullis::wire::{Scratch, Wire};
use portcullis::ws::Extensions;

#[tokio::test]
async fn frames_pass_unchanged_over_a_wire_that_blocks_at_every_byte() {
    for stutter in [false, true] {
        let early = Early {
            from_client: masked(0x81, b"sent with the handshake").into(),
            from_upstream: plain(0x82, b"came with the 101").into(),
            judged: false,
        };
        let (mut up, mut down) = (early.from_client.to_vec(), early.from_upstream.to_vec());
        let rig = Rig::start(stutter, LONG, early, Limits::default());
        let sizes = if stutter { [0, 1, 125, 126, 300] } else { [0, 125, 126, 70_000, 300_000] };
        for size in sizes {
            let (more_up, more_down) = (masked(0x02, &vec![7; size]), plain(0x01, &vec![8; size]));
            rig.client.send(&more_up);
            rig.service.send(&more_down);
            rig.client.send(&masked(0x89, b"ping"));
            rig.client.send(&masked(0x80, b"end"));
            rig.service.send(&plain(0x80, b"end"));
            up.extend([more_up, masked(0x89, b"ping"), masked(0x80, b"end")].concat());
            down.extend([more_down, plain(0x80, b"end")].concat());
        }
        rig.service.receives(&up).await;
        rig.client.receives(&down).await;
        let bye = masked(0x88, &[0x0f, 0xa1, b'b', b'y', b'e']);
        let answer = plain(0x88, &[0x0f, 0xa1]);
        rig.client.send(&bye);
        up.extend(&bye);
        rig.service.receives(&up).await;
        rig.service.send(&answer);
        down.extend(&answer);
        rig.client.receives(&down).await;
        let outcome = rig.ends().await;
        assert_eq!((outcome.reason, outcome.code), (CloseReason::ClientClosed, Some(4001)));
        assert_eq!((outcome.upward.bytes, outcome.downward.bytes), (up.len() as u64, down.len() as u64));
        assert_eq!((outcome.upward.frames, outcome.downward.frames), (17, 12));
    }
}

#[tokio::test]
async fn a_silent_stream_ends_on_time_with_a_close_to_both_sides() {
    for stutter in [false, true] {
        let life = Duration::from_millis(300);
        let started = Clock::system();
        let rig = Rig::start(stutter, life, Early::default(), Limits::default());
        rig.client.until(|state| !state.from_gateway.is_empty()).await;
        let took = started.now().mono.since_origin();
        assert!(took >= life && took < life + Duration::from_millis(100), "{took:?}");
        rig.client.until(|state| state.from_gateway.len() == 17).await;
        rig.service.until(|state| state.from_gateway.len() == 8).await;
        assert_eq!(&rig.client.received()[..], [&[0x88, 15, 0x0b, 0xb8], &b"token expired"[..]].concat());
        assert_eq!(close_code(&rig.service.received()), 1001);
        assert!(!rig.client.is(|state| state.finished), "TCP ends only after the echo");
        rig.client.send(&masked(0x88, &[0x0b, 0xb8]));
        rig.client.until(|state| state.finished).await;
        rig.service.send(&plain(0x88, &[0x03, 0xe9]));
        let outcome = rig.ends().await;
        assert_eq!((outcome.reason, outcome.code), (CloseReason::Expired, Some(3000)));
    }
}

#[tokio::test]
async fn no_frame_starts_after_the_deadline_and_what_was_begun_is_finished() {
    let rig = Rig::start(false, Duration::from_millis(200), Early::default(), Limits::default());
    let begun = masked(0x82, &[1; 1000]);
    rig.client.send(&begun[..500]);
    rig.service.receives(&begun[..500]).await;
    rig.client.until(|state| !state.from_gateway.is_empty()).await;
    assert_eq!(close_code(&rig.client.received()), 3000, "the side between frames gets its Close at once");
    assert_eq!(rig.service.received().len(), 500, "no Close inside a frame");
    rig.client.send(&begun[500..]);
    rig.client.send(&masked(0x82, b"too late"));
    rig.service.until(|state| state.from_gateway.len() == begun.len() + 8).await;
    let received = rig.service.received();
    assert_eq!(received[..begun.len()], begun);
    assert_eq!(close_code(&received[begun.len()..]), 1001);
    rig.client.send(&masked(0x88, &[0x0b, 0xb8]));
    rig.service.end();
    let outcome = rig.ends().await;
    assert_eq!(outcome.reason, CloseReason::Expired);
    assert!(!outcome.upstream_reset && !outcome.downstream_reset);
    assert_eq!(outcome.upward.frames, 1);
}

#[tokio::test]
async fn a_side_that_cannot_finish_its_frame_within_the_bounds_is_reset() {
    // Too much is missing: at once.
    let rig = Rig::start(false, Duration::from_millis(200), Early::default(), Limits::default());
    rig.client.send(&masked(0x82, &vec![1; 200_000])[..500]);
    rig.service.until(|state| state.aborted).await;
    rig.client.until(|state| !state.from_gateway.is_empty()).await;
    assert_eq!(close_code(&rig.client.received()), 3000);
    rig.client.send(&vec![1; 200_000 + 14 - 500]);
    rig.client.send(&masked(0x88, &[0x0b, 0xb8]));
    assert!(rig.ends().await.upstream_reset);
    // Little is missing, but it does not come: after `finish_frame`.
    let limits = Limits { finish_frame: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::start(false, Duration::from_millis(100), Early::default(), limits);
    rig.service.send(&plain(0x82, &[1; 100])[..50]);
    let clock = Clock::system();
    rig.client.until(|state| state.aborted).await;
    let took = clock.now().mono.since_origin();
    assert!(took >= Duration::from_millis(390) && took < Duration::from_millis(500), "{took:?}");
    assert_eq!(rig.client.received().len(), 50);
    rig.service.end();
    assert!(rig.ends().await.downstream_reset);
}

#[tokio::test]
async fn what_waits_for_a_blocked_reader_is_judged_again_when_the_wait_ends() {
    let rig = Rig::start(false, Duration::from_millis(300), Early::default(), Limits::default());
    let frame = plain(0x82, &[5; 100]);
    rig.client.window(frame.len() * 3 + 40);
    let many: Vec<u8> = frame.repeat(50);
    rig.service.send(&many);
    rig.client.until(|state| state.from_gateway.len() == 3 * 102 + 40).await;
    rig.service.until(|state| state.to_gateway.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    rig.client.window(usize::MAX / 2);
    rig.client.until(|state| state.from_gateway.len() >= 4 * 102 + 17).await;
    let received = rig.client.received();
    assert_eq!(received[..4 * 102], many[..4 * 102], "the frame that had begun is finished");
    assert_eq!(close_code(&received[4 * 102..]), 3000, "then comes the Close, and no frame that waited");
    rig.client.send(&masked(0x88, &[0x0b, 0xb8]));
    rig.service.end();
    assert_eq!(rig.ends().await.downward.frames, 4);
}

#[tokio::test]
async fn a_reader_that_has_stopped_is_reset_in_time_and_sees_nothing_after_the_deadline() {
    let limits = Limits { finish_frame: Duration::from_millis(200), ..Limits::default() };
    let rig = Rig::start(false, Duration::from_millis(200), Early::default(), limits);
    rig.client.window(500);
    rig.service.send(&plain(0x82, &[5; 100]).repeat(50));
    let clock = Clock::system();
    rig.client.until(|state| state.aborted).await;
    let took = clock.now().mono.since_origin();
    assert!(took >= Duration::from_millis(350) && took < Duration::from_millis(500), "{took:?}");
    assert_eq!(rig.client.received().len(), 500);
    rig.service.until(|state| state.from_gateway.len() == 8).await;
    rig.service.end();
    assert!(rig.ends().await.downstream_reset);
}

#[tokio::test]
async fn a_frame_that_breaks_the_rules_settles_and_then_ends_with_1002() {
    let rig = Rig::start(false, LONG, Early::default(), Limits::default());
    let good = masked(0x81, b"hello");
    rig.client.send(&good);
    rig.client.send(&masked(0xc1, b"reserved bit"));
    rig.service.until(|state| state.from_gateway.len() == good.len() + 8).await;
    assert_eq!(close_code(&rig.service.received()[good.len()..]), 1001);
    rig.service.send(&plain(0x81, b"answer"));
    rig.client.receives(&plain(0x81, b"answer")).await;
    rig.service.send(&plain(0x88, &[0x03, 0xe9]));
    rig.client.until(|state| state.finished).await;
    assert_eq!(close_code(&rig.client.received()[8..]), 1002);
    rig.client.end();
    let outcome = rig.ends().await;
    assert_eq!((outcome.reason, outcome.code), (CloseReason::ClientProtocol, Some(1002)));
}

#[tokio::test]
async fn a_service_that_breaks_the_rules_or_is_lost_is_told_to_the_client() {
    let rig = Rig::start(false, LONG, Early::default(), Limits::default());
    rig.service.send(&masked(0x81, b"services do not mask"));
    rig.client.until(|state| !state.from_gateway.is_empty()).await;
    assert_eq!(close_code(&rig.client.received()), 1002);
    rig.client.send(&masked(0x88, &[0x03, 0xea]));
    rig.service.end();
    assert_eq!(rig.ends().await.reason, CloseReason::UpstreamProtocol);

    let rig = Rig::start(false, LONG, Early::default(), Limits::default());
    rig.service.send(&plain(0x81, b"last words"));
    rig.service.end();
    rig.client.until(|state| state.from_gateway.len() > 12).await;
    assert_eq!(close_code(&rig.client.received()[12..]), 1013);
    rig.client.send(&masked(0x88, &[0x03, 0xf5]));
    let outcome = rig.ends().await;
    assert_eq!((outcome.reason, outcome.code), (CloseReason::UpstreamLost, Some(1013)));
}

#[tokio::test]
async fn both_closes_crossing_end_the_stream_once() {
    let rig = Rig::start(false, LONG, Early::default(), Limits::default());
    let (from_client, from_service) = (masked(0x88, &[0x0f, 0xa0]), plain(0x88, &[0x0f, 0xa5]));
    rig.client.send(&from_client);
    rig.service.send(&from_service);
    let (client, service) = (rig.client.clone(), rig.service.clone());
    let outcome = rig.ends().await;
    assert_eq!(service.received(), from_client);
    assert_eq!(client.received(), from_service);
    assert_eq!((outcome.reason, outcome.code), (CloseReason::ClientClosed, Some(4000)));
}

#[tokio::test]
async fn a_half_closed_client_still_gets_answers_and_its_close_at_the_deadline() {
    let rig = Rig::start(false, Duration::from_millis(300), Early::default(), Limits::default());
    rig.client.send(&masked(0x81, b"question"));
    rig.client.end();
    rig.service.until(|state| state.finished).await;
    rig.service.send(&plain(0x81, b"answer"));
    rig.client.until(|state| state.from_gateway.len() > 8).await;
    assert_eq!(close_code(&rig.client.received()[8..]), 3000);
    rig.service.end();
    assert_eq!(rig.ends().await.reason, CloseReason::ClientLost);
}

#[tokio::test]
async fn a_drain_closes_with_1012_after_what_was_on_its_way() {
    let rig = Rig::start(true, LONG, Early::default(), Limits::default());
    rig.registry.signal_all(Signal::Drain);
    rig.service.until(|state| state.from_gateway.len() == 8).await;
    rig.service.send(&plain(0x81, b"answer"));
    rig.client.until(|state| state.from_gateway.len() > 8 + 17).await;
    assert_eq!(close_code(&rig.client.received()[8..]), 1012);
    rig.client.send(&masked(0x88, &[0x03, 0xf4]));
    rig.service.send(&plain(0x88, &[0x03, 0xe9]));
    let outcome = rig.ends().await;
    assert_eq!((outcome.reason, outcome.code), (CloseReason::Drain, Some(1012)));
}

#[tokio::test]
async fn a_stepped_clock_is_noticed_on_the_next_frame_and_at_a_recheck() {
    for by_frame in [true, false] {
        let clock = ManualClock::new();
        let rig = Rig::with_clock(false, LONG, Early::default(), Limits::default(), clock.clock());
        rig.client.send(&masked(0x81, b"before"));
        rig.service.receives(&masked(0x81, b"before")).await;
        clock.step_wall(3601);
        if by_frame {
            rig.client.send(&masked(0x81, b"after"));
        } else {
            rig.registry.signal_all(Signal::Recheck);
        }
        rig.client.until(|state| !state.from_gateway.is_empty()).await;
        assert_eq!(close_code(&rig.client.received()), 3000);
        assert_eq!(rig.service.received().len(), masked(0x81, b"before").len() + 8, "the late frame did not pass");
        rig.client.end();
        rig.service.end();
        assert_eq!(rig.ends().await.reason, CloseReason::Expired);
    }
}

#[tokio::test]
async fn a_frame_is_judged_by_the_time_at_which_it_is_there() {
    for up in [true, false] {
        let clock = ManualClock::new();
        let rig = Rig::with_clock(false, Duration::from_secs(1800), Early::default(), Limits::default(), clock.clock());
        rig.client.send(&masked(0x81, b"before"));
        rig.service.receives(&masked(0x81, b"before")).await;
        let (from, frame) =
            if up { (&rig.client, masked(0x81, b"late")) } else { (&rig.service, plain(0x81, b"late")) };
        from.change(|state| {
            state.slow = Some(clock.clone());
            state.to_gateway.extend(frame);
        });
        rig.client.until(|state| !state.from_gateway.is_empty()).await;
        assert_eq!(close_code(&rig.client.received()), 3000, "the late frame is not what came first");
        assert_eq!(rig.service.received().len(), masked(0x81, b"before").len() + 8, "the late frame did not pass");
        rig.client.end();
        rig.service.end();
        assert_eq!(rig.ends().await.reason, CloseReason::Expired);
    }
}

#[tokio::test]
async fn a_client_that_answers_no_close_is_let_go_after_close_timeout() {
    let limits = Limits { close_timeout: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::start(false, Duration::from_millis(50), Early::default(), limits);
    let clock = Clock::system();
    let outcome = rig.ends().await;
    let took = clock.now().mono.since_origin();
    assert!(took >= Duration::from_millis(340) && took < Duration::from_millis(500), "{took:?}");
    assert_eq!(outcome.reason, CloseReason::Expired);
}

#[tokio::test]
async fn the_service_takes_no_answer_to_a_clients_close_for_its_own_end() {
    let limits = Limits { close_timeout: Duration::from_millis(200), ..Limits::default() };
    let rig = Rig::start(false, LONG, Early::default(), limits);
    rig.client.send(&masked(0x88, &[0x0f, 0xa0]));
    rig.client.until(|state| state.finished).await;
    assert_eq!(close_code(&rig.client.received()), 4000, "a service that never answers leaves the echo to the gateway");
    rig.client.end();
    let outcome = rig.ends().await;
    assert_eq!((outcome.reason, outcome.code), (CloseReason::ClientClosed, Some(4000)));
    assert!(outcome.upstream_reset);
}

#[tokio::test]
async fn without_time_to_finish_a_frame_a_side_between_frames_still_gets_its_close() {
    let limits = Limits { finish_frame: Duration::ZERO, ..Limits::default() };
    let rig = Rig::start(false, Duration::from_millis(100), Early::default(), limits);
    rig.client.until(|state| state.from_gateway.len() == 17 || state.aborted).await;
    assert_eq!(close_code(&rig.client.received()), 3000);
    rig.service.until(|state| state.from_gateway.len() == 8).await;
    rig.client.end();
    rig.service.end();
    let outcome = rig.ends().await;
    assert!(!outcome.downstream_reset && !outcome.upstream_reset);
}

#[tokio::test]
async fn a_small_frame_is_finished_although_the_other_side_must_be_reset() {
    let rig = Rig::start(false, Duration::from_millis(200), Early::default(), Limits::default());
    rig.client.send(&[head(0x82, 16 << 20, 0x80), vec![1; 1_000 - 10]].concat());
    let down = plain(0x82, &[5; 1000]);
    rig.service.send(&down[..500]);
    rig.client.receives(&down[..500]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let reached = rig.service.received().len();
    rig.client.send(&[1; 5_000]);
    rig.service.send(&down[500..]);
    rig.client.until(|state| state.from_gateway.len() == down.len() + 17).await;
    assert_eq!(close_code(&rig.client.received()[down.len()..]), 3000);
    rig.service.until(|state| state.aborted).await;
    assert_eq!(rig.service.received().len(), reached, "nothing of the upload went on after the deadline");
    rig.client.end();
    let outcome = rig.ends().await;
    assert!(outcome.upstream_reset && !outcome.downstream_reset);
}

#[tokio::test]
async fn a_drain_in_the_middle_of_an_upload_still_lets_answers_through() {
    let rig = Rig::start(false, LONG, Early::default(), Limits::default());
    rig.client.send(&[head(0x82, 16 << 20, 0x80), vec![1; 1_000 - 10]].concat());
    rig.service.until(|state| state.from_gateway.len() == 1_000).await;
    rig.registry.signal_all(Signal::Drain);
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.service.send(&plain(0x81, b"answer"));
    rig.client.until(|state| state.from_gateway.len() > 8).await;
    assert_eq!(rig.client.received()[..8], plain(0x81, b"answer"));
    rig.client.until(|state| state.from_gateway.len() > 8 + 17).await;
    assert_eq!(close_code(&rig.client.received()[8..]), 1012);
    rig.client.end();
    assert!(rig.ends().await.upstream_reset);
}

#[tokio::test]
async fn revocation_is_told_even_while_a_drain_settles() {
    let rig = Rig::start(false, LONG, Early::default(), Limits::default());
    rig.registry.signal_all(Signal::Drain);
    rig.service.until(|state| state.from_gateway.len() == 8).await;
    rig.registry.signal_all(Signal::Revoke);
    rig.client.until(|state| !state.from_gateway.is_empty()).await;
    assert_eq!(close_code(&rig.client.received()), 3003);
    rig.client.end();
    rig.service.end();
    assert_eq!(rig.ends().await.reason, CloseReason::Drain, "the first cause is logged");
}

#[tokio::test]
async fn a_code_that_is_never_sent_is_not_echoed() {
    let limits = Limits { close_timeout: Duration::from_millis(200), ..Limits::default() };
    let rig = Rig::start(false, LONG, Early::default(), limits);
    rig.client.send(&masked(0x88, &1014_u16.to_be_bytes()));
    rig.client.until(|state| state.finished).await;
    assert_eq!(rig.client.received(), [0x88, 0]);
    rig.client.end();
    rig.ends().await;
}

#[tokio::test]
async fn a_client_that_is_gone_is_noticed_although_the_service_takes_nothing() {
    let rig = Rig::start(false, LONG, Early::default(), Limits::default());
    rig.service.window(100);
    rig.client.send(&masked(0x82, &[1; 1000]));
    rig.service.until(|state| state.from_gateway.len() == 100).await;
    rig.client.change(|state| state.broken = true);
    rig.service.until(|state| state.finished).await;
    rig.service.end();
    assert_eq!(rig.ends().await.reason, CloseReason::ClientLost);
}

/// A side that takes everything at once; a service that sends a frame without end, as fast as it is read.
struct Endless {
    taken: Arc<AtomicU64>,
    sends: bool,
    begun: bool,
}

impl Wire for Endless {
    fn poll_chunk(&mut self, _cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        if !self.sends {
            return Poll::Pending;
        }
        let chunk = &mut scratch.chunk()[..64 << 10];
        if !std::mem::replace(&mut self.begun, true) {
            chunk[..10].copy_from_slice(&head(0x82, usize::MAX >> 1, 0));
        }
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_send(&mut self, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
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

#[test]
fn a_stream_that_never_has_to_wait_gives_way_to_what_the_kernel_has_for_others() {
    let (done, told) = std::sync::mpsc::channel();
    // In a thread of its own: a relay that gave no way would not give it to a timeout either.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let taken = Arc::new(AtomicU64::new(0));
            let side = |sends| Endless { taken: taken.clone(), sends, begun: false };
            let clock = Clock::system();
            let (_registry, guard) = place(&clock);
            let deadline = Deadline::new(None, None, clock.now());
            let settings = Settings {
                limits: Arc::default(),
                codes: Arc::default(),
                extensions: Extensions::None,
                deadline,
                policies: Policies::default(),
                in_band: None,
            };
            tokio::spawn(relay::run(side(false), side(true), &Early::default(), settings, guard, clock));
            let (near, far) = tokio::net::UnixStream::pair().unwrap();
            near.writable().await.unwrap();
            for _ in 0..50 {
                // There is nothing: what comes next is news that only the kernel can tell.
                assert_eq!(far.try_read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
                let before = taken.load(Ordering::Relaxed);
                assert_eq!(near.try_write(b"x").unwrap(), 1);
                far.readable().await.unwrap();
                assert_eq!(far.try_read(&mut [0; 8]).unwrap(), 1);
                done.send(taken.load(Ordering::Relaxed) - before).unwrap();
            }
        });
    });
    for _ in 0..50 {
        let moved = told.recv_timeout(Duration::from_secs(10)).expect("others are heard");
        assert!(moved <= 4 << 20, "{} KiB moved before another one was heard", moved >> 10);
    }
}
