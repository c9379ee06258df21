//! What a route asks of its streams beyond a good token, on wires in memory which block as a test likes: bounds on what a
//! client sends, silence, and the gateway's own pings.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::rig::{LONG, Peer, Rig, close_code, masked, plain};
use common::{claims, instant, mint};
use portcullis::clock::Clock;
use portcullis::relay::Early;
use portcullis::relay::in_band::{InBand, Mode, Renewer, Verdict};
use portcullis::secret::Token;
use portcullis::stream::bounds::Rate;
use portcullis::stream::silence::{Ping, Rules};
use portcullis::stream::{Bounds, CloseReason, Limits, Policies};
use portcullis::token::{Denial, Public};

const INTERVAL: Duration = Duration::from_millis(150);
const TIMEOUT: Duration = Duration::from_millis(600);
const PINGS: Rules = Rules { idle: None, ping: Some(Ping { interval: INTERVAL, timeout: TIMEOUT }) };

fn rig(stutter: bool, policies: Policies) -> Rig {
    rig_with(stutter, policies, None)
}

fn rig_with(stutter: bool, policies: Policies, in_band: Option<InBand>) -> Rig {
    let limits = Limits { close_timeout: Duration::from_secs(3), ..Limits::default() };
    Rig::with_policies(stutter, LONG, Early::default(), limits, Clock::system(), (in_band, policies))
}

fn bounded(bounds: Bounds) -> Policies {
    Policies { bounds, ..Policies::default() }
}

fn pinged() -> Policies {
    Policies { silence: PINGS, ..Policies::default() }
}

/// Whether what the client has got begins with a ping of the gateway's, `at` bytes from its begin.
fn ping_at(client: &Peer, at: usize) -> Option<[u8; 8]> {
    let received = client.received();
    assert!(received.get(at).is_none_or(|first| *first == 0x89), "{:02x?}", &received[at..]);
    received.get(at..at + 10).map(|ping| ping[2..].try_into().unwrap())
}

async fn next_ping(client: &Peer, at: usize) -> [u8; 8] {
    client.until(|state| state.from_gateway.len() >= at + 10).await;
    ping_at(client, at).unwrap()
}

/// The gateway's Close among what a client got, once it is there whole. All frames are short.
fn farewell(mut received: &[u8]) -> Option<&[u8]> {
    loop {
        let [first, length, rest @ ..] = received else { return None };
        let length = usize::from(*length);
        match (*first, rest.len() >= length) {
            (_, false) => return None,
            (0x88, true) => return Some(received),
            _ => received = &rest[length..],
        }
    }
}

/// Both sides answer the gateway's Closes: the code of the client's, and why it all was.
async fn ends(rig: Rig) -> (u16, CloseReason) {
    rig.service.until(|state| state.from_gateway.windows(2).any(|two| two == [0x88, 0x82])).await;
    rig.service.send(&plain(0x88, &[0x03, 0xe9]));
    rig.client.until(|state| farewell(&state.from_gateway).is_some()).await;
    let code = close_code(farewell(&rig.client.received()).unwrap());
    rig.client.send(&masked(0x88, &code.to_be_bytes()));
    (code, rig.ends().await.reason)
}

#[tokio::test]
async fn no_byte_of_a_frame_or_message_that_is_too_big_goes_on_and_answers_on_their_way_do() {
    let frame = Bounds { max_frame: Some(20), ..Bounds::default() };
    let message = Bounds { max_message: Some(40), ..Bounds::default() };
    let fits =
        [masked(0x01, &[7; 20]), masked(0x89, &[1; 100]), masked(0x80, &[7; 20]), masked(0x82, &[7; 20])].concat();
    let cases = [
        (frame, masked(0x82, &[7; 21])),
        (frame, [masked(0x02, &[7; 20]), masked(0x00, &[7; 21])].concat()),
        (message, masked(0x82, &[7; 41])),
        (message, [masked(0x02, &[7; 20]), masked(0x00, &[7; 20]), masked(0x80, &[7; 1])].concat()),
    ];
    for (bounds, breaks) in cases {
        for stutter in [false, true] {
            let rig = rig(stutter, bounded(bounds));
            rig.client.send(&fits);
            rig.client.send(&breaks);
            rig.client.send(&masked(0x81, b"behind it"));
            rig.service.until(|state| state.from_gateway.windows(2).any(|two| two == [0x88, 0x82])).await;
            let received = rig.service.received();
            let passed = received.len() - 8;
            assert!(
                received.starts_with(&fits)
                    && passed < fits.len() + breaks.len()
                    && breaks.starts_with(&received[fits.len()..passed])
            );
            rig.service.send(&plain(0x82, b"an answer"));
            assert_eq!(ends(rig).await, (1009, CloseReason::TooBig), "{bounds:?}");
        }
    }
}

#[tokio::test]
async fn a_message_counts_once_however_short_the_writes_are() {
    let rate = Some(Rate { per_second: 1, burst: 30 });
    let one = [masked(0x01, b"in "), masked(0x00, b"three "), masked(0x80, b"fragments")].concat();
    let bytes = Some(Rate { per_second: 1, burst: 30 * one.len() as u64 });
    for bounds in [Bounds { messages: rate, ..Bounds::default() }, Bounds { bytes, ..Bounds::default() }] {
        for stutter in [false, true] {
            let rig = rig(stutter, bounded(bounds));
            let begun = instant();
            rig.client.send(&one.repeat(60));
            rig.service.until(|state| state.from_gateway.windows(2).any(|two| two == [0x88, 0x82])).await;
            let passed = rig.service.received().len() - 8;
            // As many as the burst, and one for each second that this took.
            let most = 31 + usize::try_from(begun.elapsed().as_secs()).unwrap();
            assert!(passed >= 30 * one.len() && passed <= most * one.len(), "{passed} {bounds:?}");
            assert_eq!(ends(rig).await, (1008, CloseReason::RateLimited));
        }
    }
}

#[tokio::test]
async fn a_service_that_takes_nothing_for_a_while_makes_no_flood_of_what_its_client_sent_meanwhile() {
    let messages = Some(Rate { per_second: 20, burst: 5 });
    for waits in [true, false] {
        let rig = rig(false, bounded(Bounds { messages, ..Bounds::default() }));
        let one = masked(0x82, b"x");
        if waits {
            rig.service.window(0);
        }
        // The first one waits for the service, and those behind it for the first one.
        rig.client.send(&one);
        rig.client.until(|state| state.to_gateway.is_empty()).await;
        rig.client.send(&one.repeat(14));
        if waits {
            tokio::time::sleep(Duration::from_secs(1)).await;
            rig.service.window(usize::MAX / 2);
            rig.service.receives(&one.repeat(15)).await;
        } else {
            assert_eq!(ends(rig).await, (1008, CloseReason::RateLimited));
        }
    }
}

#[tokio::test]
async fn the_answer_to_a_ping_of_the_gateways_stays_here_and_every_other_pong_passes() {
    for stutter in [false, true] {
        let rig = rig(stutter, pinged());
        let mark = next_ping(&rig.client, 0).await;
        let foreign =
            [masked(0x8a, &[0; 8]), masked(0x8a, b""), masked(0x8a, &[mark.as_slice(), &[0]].concat())].concat();
        rig.client.send(&foreign);
        rig.client.send(&masked(0x8a, &mark));
        // Nobody has asked for this one.
        rig.client.send(&masked(0x8a, &mark));
        rig.client.send(&masked(0x81, b"and on"));
        rig.service.receives(&[foreign, masked(0x8a, &mark), masked(0x81, b"and on")].concat()).await;
        assert_eq!(next_ping(&rig.client, 10).await, mark, "the next one comes by itself");
        assert_eq!(ends(rig).await, (3008, CloseReason::Idle));
    }
}

#[tokio::test]
async fn a_client_that_answers_or_says_anything_else_lives_and_one_that_does_not_ends() {
    for word in [None, Some(masked(0x82, b"busy"))] {
        let rig = rig(false, pinged());
        let mut words = Vec::new();
        let begun = instant();
        let mut at = 0;
        while begun.elapsed() < TIMEOUT * 3 {
            let mark = next_ping(&rig.client, at).await;
            at += 10;
            rig.client.send(word.as_ref().unwrap_or(&masked(0x8a, &mark)));
            words.extend(word.iter().flatten());
        }
        rig.service.receives(&words).await;
        let silent = instant();
        assert_eq!(ends(rig).await, (3008, CloseReason::Idle));
        assert!(silent.elapsed() >= TIMEOUT, "it has time to answer");
    }
}

#[tokio::test]
async fn a_ping_goes_between_frames_and_between_fragments_and_never_inside_one() {
    let rig = rig(false, pinged());
    let first = plain(0x01, &[b'x'; 100]);
    rig.service.send(&first[..60]);
    tokio::time::sleep(INTERVAL + TIMEOUT + TIMEOUT).await;
    assert_eq!(rig.client.received(), &first[..60], "the client is not asked inside a frame, and not blamed for that");
    rig.service.send(&first[60..]);
    let mark = next_ping(&rig.client, first.len()).await;
    rig.client.send(&masked(0x8a, &mark));
    rig.service.send(&plain(0x80, b"the end"));
    rig.client.until(|state| state.from_gateway.ends_with(b"the end")).await;
    let expected = [first.as_slice(), &plain(0x89, &mark), &plain(0x80, b"the end")].concat();
    assert_eq!(rig.client.received(), expected);
}

#[tokio::test]
async fn a_stream_that_is_closing_sends_no_pings() {
    let rig = rig(false, pinged());
    rig.client.send(&masked(0x88, &[0x03, 0xe8]));
    rig.service.receives(&masked(0x88, &[0x03, 0xe8])).await;
    tokio::time::sleep(INTERVAL * 4).await;
    assert_eq!(rig.client.received(), b"");
    rig.service.send(&plain(0x88, &[0x03, 0xe8]));
    assert_eq!(rig.ends().await.reason, CloseReason::ClientClosed);

    // One that waited for the end of a frame when the client closed does not go either, whatever comes behind the frame.
    for behind in [Vec::new(), plain(0x82, b"behind it")] {
        let rig = self::rig(false, pinged());
        let first = plain(0x82, &[b'x'; 100]);
        rig.service.send(&first[..60]);
        tokio::time::sleep(INTERVAL * 2).await;
        // Both are there when the relay looks.
        rig.client.send(&masked(0x88, &[0x03, 0xe8]));
        let rest = [&first[60..], &behind].concat();
        rig.service.send(&rest);
        rig.service.receives(&masked(0x88, &[0x03, 0xe8])).await;
        tokio::time::sleep(INTERVAL * 2).await;
        rig.service.send(&plain(0x88, &[0x03, 0xe8]));
        rig.client.receives(&[first, behind, plain(0x88, &[0x03, 0xe8])].concat()).await;
        assert_eq!(rig.ends().await.reason, CloseReason::ClientClosed);
    }
}

#[tokio::test]
async fn a_client_that_is_not_read_because_of_its_service_is_not_missed() {
    let rig = rig(false, pinged());
    let mark = next_ping(&rig.client, 0).await;
    rig.service.window(0);
    let upload = masked(0x82, &[1; 1000]);
    rig.client.send(&upload);
    rig.client.until(|state| state.to_gateway.is_empty()).await;
    rig.client.send(&masked(0x8a, &mark));
    tokio::time::sleep((INTERVAL + TIMEOUT) * 2).await;
    assert_eq!(rig.client.received().len(), 10, "one ping, and nothing else");
    rig.service.window(usize::MAX / 2);
    rig.service.receives(&upload).await;
    rig.client.send(&masked(0x81, b"still here"));
    rig.service.receives(&[upload, masked(0x81, b"still here")].concat()).await;
}

#[tokio::test]
async fn any_frame_of_either_side_keeps_a_stream_from_being_idle() {
    let idle = Duration::from_millis(600);
    let policies = Policies { silence: Rules { idle: Some(idle), ping: None }, ..Policies::default() };
    let rig = rig(false, policies);
    let mut expected = (Vec::new(), Vec::new());
    for _ in 0..3 {
        tokio::time::sleep(idle / 2).await;
        expected.0.extend(plain(0x8a, b""));
        rig.service.send(&plain(0x8a, b""));
        tokio::time::sleep(idle / 2).await;
        expected.1.extend(masked(0x89, b"?"));
        rig.client.send(&masked(0x89, b"?"));
    }
    rig.client.receives(&expected.0).await;
    rig.service.receives(&expected.1).await;
    let silent = instant();
    assert_eq!(ends(rig).await, (3008, CloseReason::Idle));
    assert!(silent.elapsed() >= idle / 2);
}

struct No;

impl Renewer for No {
    fn judge(&self, _: Token) -> Verdict {
        Box::pin(std::future::ready(Err(Denial::new(Public::TokenInvalid, "no", "no"))))
    }
}

/// Tokens are read past an answer between their fragments, and what is taken out is no message of the client's.
#[tokio::test]
async fn tokens_among_the_messages_are_not_disturbed_by_pings_or_bounds() {
    let bounds =
        Bounds { max_message: Some(50), messages: Some(Rate { per_second: 1, burst: 2 }), ..Bounds::default() };
    let policies = Policies { bounds, silence: PINGS };
    let rules = InBand { mode: Mode::Consume, prefix: "".into(), interval: Duration::ZERO, renewer: Arc::new(No) };
    let rig = rig_with(false, policies, Some(rules));
    let mark = next_ping(&rig.client, 0).await;
    let token = mint(&claims(Duration::from_secs(60)));
    let (start, end) = token.split_at(20);
    let pieces = [masked(0x01, start.as_bytes()), masked(0x8a, &mark), masked(0x80, end.as_bytes())];
    rig.client.send(&pieces.concat());
    rig.client.until(|state| state.from_gateway.ends_with(b"\"token_invalid\"}")).await;
    rig.client.send(&masked(0x81, token.as_bytes()).repeat(3));
    rig.client.send(&masked(0x82, &[1; 50]).repeat(2));
    rig.service.receives(&masked(0x82, &[1; 50]).repeat(2)).await;
    rig.client.send(&masked(0x82, &[1; 51]));
    assert_eq!(ends(rig).await, (1009, CloseReason::TooBig));
}
