//! The server's end of TLS against rustls' own client: whatever is cut, blocked, garbled or lost on the way, the same
//! bytes arrive as with rustls' buffered server, and nothing is held that need not be.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

#[path = "tls_wire/pair.rs"]
mod pair;

use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use pair::{Forger, Heard, Pair, Start, TLS12, TLS13, VERSIONS, client_config, now, pattern, server_config};
use portcullis::tls::{READ, RECORD, SEAL};
use proptest::prelude::*;
use rustls::{AlertDescription, Error, HandshakeKind, PeerMisbehaved, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead as _, ReadBuf};

#[test]
fn records_may_be_cut_at_every_byte() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        let mut cut = 0;
        loop {
            let said = [pattern(1, 0, 40), pattern(1, 40, 40), pattern(1, 80, 40)];
            let sealed: Vec<u8> = said.iter().flat_map(|part| pair.seal(part)).collect();
            if cut > sealed.len() {
                break;
            }
            let (first, second) = sealed.split_at(cut);
            let mut heard = pair.deliver(first).open();
            heard.extend(pair.deliver(second).open());
            assert_eq!(heard, said.concat(), "{version:?}, cut at {cut}");
            assert_eq!(pair.server.held(), 0);
            cut += 1;
        }
    }
}

#[test]
fn a_long_record_may_come_byte_by_byte_and_is_held_once() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        let said = pattern(2, 0, 16 * 1024);
        let sealed = pair.seal(&said);
        let (last, start) = sealed.split_last().unwrap();
        for byte in start {
            assert!(pair.deliver(&[*byte]).open().is_empty());
            assert!(pair.server.held() <= 2 * RECORD);
        }
        assert_eq!(pair.deliver(&[*last]).open(), said);
        assert_eq!(pair.server.held(), 0, "nothing unfinished, nothing held");
    }
}

#[test]
fn a_handshake_may_come_byte_by_byte_and_leave_byte_by_byte() {
    for version in VERSIONS {
        let start = Start::new(version);
        start.pipe().read_most = 1;
        start.pipe().write_most = 1;
        let mut pair = start.shake().unwrap();
        assert_eq!(pair.client.protocol_version(), Some(version.version));
        assert_eq!(pair.client.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(pair.server_name.as_deref(), Some("localhost"));
        assert_eq!(pair.server.state().alpn_protocol(), Some(&b"http/1.1"[..]));
        pair.echo();
    }
}

#[test]
fn sessions_are_resumed_with_tickets_in_both_versions() {
    for version in VERSIONS {
        let (client, server) = (client_config(version), server_config());
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut pair = Start::with(client.clone(), server.clone()).shake().unwrap();
            pair.echo();
            assert_eq!(pair.client.handshake_kind(), Some(expected), "{version:?}");
            assert_eq!(pair.server_name.as_deref(), Some("localhost"), "also when resumed");
        }
    }
}

#[test]
fn tickets_go_with_the_first_write_or_before_a_wait() {
    let mut pair = Pair::new(TLS13);
    let writes = pair.pipe().writes;
    assert!(pair.server.has_unsent());
    assert_eq!(pair.write(b"answer"), 6);
    assert_eq!(pair.pipe().writes, writes + 1, "one write for both");
    assert_eq!(pair.hear().bytes, b"answer");

    let mut pair = Pair::new(TLS13);
    let mut room = [0; 16];
    assert!(read(&mut pair, &mut room).is_pending());
    assert!(!pair.server.has_unsent(), "a client that says nothing has its tickets all the same");
}

#[test]
fn many_records_in_one_read_are_all_there() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        let said = pattern(3, 0, 3000);
        let sealed: Vec<u8> = said.iter().flat_map(|byte| pair.seal(&[*byte])).collect();
        assert!(sealed.len() > READ, "more than one read, and cut anywhere");
        assert_eq!(pair.deliver(&sealed).open(), said);
        let message = pattern(4, 0, 256 * 1024);
        let sealed = pair.seal(&message);
        let reads = pair.pipe().reads;
        assert_eq!(pair.deliver(&sealed).open(), message);
        assert!(pair.pipe().reads - reads <= 6, "64 KiB at a time");
        assert_eq!(pair.server.held(), 0, "nothing is held after a long message");
    }
}

#[test]
fn a_chunk_is_sealed_in_full_records_and_leaves_in_one_write() {
    for (version, overhead) in [(TLS12, 24), (TLS13, 17)] {
        let mut pair = Pair::new(version);
        pair.write(b"x");
        pair.pipe().to_client.clear();
        let writes = pair.pipe().writes;
        assert_eq!(pair.write(&pattern(5, 0, READ)), READ);
        assert_eq!(pair.pipe().writes, writes + 1);
        let sealed = pair.pipe().to_client.clone();
        let mut rest = &sealed[..];
        for _ in 0..4 {
            let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            assert_eq!(length, 16 * 1024 + overhead);
            rest = &rest[5 + length..];
        }
        assert!(rest.is_empty());
        assert_eq!(pair.server.held(), 0);
        assert_eq!(pair.write(&vec![0; SEAL + 9]), SEAL, "bounded, whatever is asked");
    }
}

#[test]
fn last_words_and_the_end_leave_in_one_write() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        let writes = pair.pipe().writes;
        let last = pattern(7, 0, 100);
        assert_eq!(pair.server.seal_along(&pattern(7, 0, READ)), 0, "much is not put off");
        assert_eq!(pair.server.seal_along(&last), last.len());
        assert_eq!(pair.pipe().writes, writes, "nothing is written yet");
        assert!(pair.server.has_unsent());
        assert!(pair.close().is_ready());
        assert_eq!(pair.pipe().writes, writes + 1);
        let told = pair.hear();
        assert_eq!(told.bytes, last);
        assert!(told.closed);
        assert_eq!(pair.server.seal_along(&last), 0, "nor after the end");
        assert_eq!(pair.server.held(), 0);
    }
}

#[test]
fn writes_may_block_at_every_point() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        pair.echo();
        let (first, second) = (pattern(6, 0, 100), pattern(6, 100, 3000));
        let mut window = 0;
        loop {
            pair.pipe().window = window;
            assert_eq!(pair.write(&first), first.len());
            let whole = !pair.server.has_unsent();
            let next = pair.try_write(&second);
            let taken = match next {
                Poll::Ready(taken) => taken.unwrap(),
                Poll::Pending => 0,
            };
            pair.pipe().window = usize::MAX;
            assert!(pair.drain().is_ready());
            assert_eq!(pair.hear().bytes, [&first[..], &second[..taken]].concat(), "{version:?}, window {window}");
            assert_eq!(pair.server.held(), 0);
            if whole {
                break;
            }
            window += 1;
        }
        assert!(window > 100);
    }
}

#[test]
fn a_reader_that_takes_nothing_is_held_one_chunk_and_no_more() {
    let mut pair = Pair::new(TLS13);
    pair.echo();
    pair.pipe().window = 10_000;
    assert_eq!(pair.write(&pattern(7, 0, SEAL)), SEAL);
    for _ in 0..100 {
        assert!(pair.try_write(b"more").is_pending());
    }
    assert!(pair.server.held() <= SEAL + 4096, "{}", pair.server.held());
    assert!(pair.close().is_pending());
    let garbage = [23, 3, 3, 0, 20].iter().chain(&[7; 20]).copied().collect::<Vec<u8>>();
    assert!(matches!(pair.deliver(&garbage).open_to_end().1, Heard::Failed(_)));
    assert!(pair.server.held() <= SEAL + 4096, "{}, with a farewell and an alert", pair.server.held());
    pair.pipe().window = usize::MAX;
    assert!(pair.drain().is_ready());
    assert_eq!(pair.hear().bytes, pattern(7, 0, SEAL));
    assert_eq!(pair.server.held(), 0);
}

#[test]
fn small_reads_lose_nothing_and_hold_a_bounded_rest() {
    for way in [read, |pair: &mut Pair, room: &mut [u8]| now(|cx| pair.server.poll_open(cx, room))] {
        let mut pair = Pair::new(TLS13);
        let said = pattern(8, 0, 150_000);
        let sealed = pair.seal(&said);
        pair.deliver(&sealed);
        let mut heard = Vec::new();
        let mut room = [0; 7];
        while let Poll::Ready(got) = way(&mut pair, &mut room) {
            heard.extend_from_slice(&room[..got.unwrap()]);
            assert!(pair.server.held() <= 3 * RECORD, "{}", pair.server.held());
        }
        assert_eq!(heard, said);
        assert_eq!(pair.server.held(), 0);
    }
}

#[test]
fn without_room_nothing_is_read() {
    let mut pair = Pair::new(TLS13);
    let sealed = pair.seal(b"said");
    pair.deliver(&sealed);
    let reads = pair.pipe().reads;
    assert_eq!(now(|cx| pair.server.poll_open(cx, &mut [])).map(Result::unwrap), Poll::Ready(0));
    assert_eq!(read(&mut pair, &mut []).map(Result::unwrap), Poll::Ready(0));
    assert_eq!(pair.pipe().reads, reads);
    assert_eq!(pair.open(), b"said");
}

#[test]
fn what_small_reads_left_comes_first_in_a_large_one() {
    let mut pair = Pair::new(TLS13);
    let said = pattern(12, 0, 9_000);
    let mut sealed = pair.seal(&said);
    sealed.extend(pair.seal(b"and more"));
    pair.deliver(&sealed[..sealed.len() - 3]);
    let mut room = [0; 100];
    assert_eq!(read(&mut pair, &mut room).map(Result::unwrap), Poll::Ready(100));
    assert_eq!(room, said[..100]);
    pair.deliver(&sealed[sealed.len() - 3..]);
    assert_eq!(pair.open(), [&said[100..], b"and more"].concat());
    assert_eq!(pair.server.held(), 0);
}

#[test]
fn what_came_before_garbage_arrives_and_the_client_is_told() {
    for version in VERSIONS {
        for at in 0..60 {
            if at == 2 && version == TLS13 {
                continue; // the record's minor version is ignored there
            }
            let mut pair = Pair::new(version);
            let (before, mut bad, after) = (pair.seal(b"before"), pair.seal(&pattern(9, 0, 50)), pair.seal(b"after"));
            bad[at] ^= 0x55;
            let sealed = [before, bad, after].concat();
            let (heard, end) = pair.deliver(&sealed).open_to_end();
            assert_eq!(heard, b"before", "{version:?}, byte {at}");
            match end {
                // A longer length: more of the record is awaited.
                Heard::Waits => assert!((3..5).contains(&at), "{version:?}, byte {at}"),
                Heard::Failed(_) => {
                    assert_eq!(pair.try_write(b"no more").map_err(drop), Poll::Ready(Err(())));
                    assert!(pair.hear().alert.is_some(), "{version:?}, byte {at}");
                    assert_eq!(pair.server.held(), 0);
                }
                Heard::Ended => panic!("{version:?}, byte {at}"),
            }
        }
    }
}

#[test]
fn a_garbled_hello_is_refused_with_an_alert_and_no_panic() {
    let (mut refused, mut told) = (0, 0);
    for at in 0..400 {
        let mut start = Start::new(TLS13);
        let mut hello = pair::seal(&mut start.client, b"");
        let Some(byte) = hello.get_mut(at) else { break };
        *byte ^= 0xff;
        start.deliver(&hello);
        if let Poll::Ready(Err(error)) = start.step() {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}: {error}");
            let cause: Error = *error.into_inner().unwrap().downcast().unwrap();
            refused += 1;
            let mut buffered = ServerConnection::new(server_config()).unwrap();
            buffered.read_tls(&mut &hello[..]).unwrap();
            assert_eq!(buffered.process_new_packets().map(drop), Err(cause), "byte {at}");
            assert_eq!(!start.pipe().to_client.is_empty(), buffered.wants_write(), "byte {at}: an alert");
            told += usize::from(buffered.wants_write());
        }
    }
    assert!(refused > 20 && told > 20, "{refused}, {told}");
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0x16, 3, 1, 0xff, 0xff, 0xff], b"\x80\x2e\x01\x00\x00"]
    {
        let mut start = Start::new(TLS13);
        start.deliver(garbage);
        assert!(matches!(start.step(), Poll::Ready(Err(_))), "{garbage:?}");
    }
}

#[test]
fn a_hello_without_end_is_refused_when_it_is_too_long() {
    let mut start = Start::new(TLS13);
    // A message of 60,000 bytes in records of 1,000.
    let mut fragment = vec![0x16, 3, 1, 0x03, 0xe8, 1, 0, 0xea, 0x60];
    fragment.resize(1005, 0);
    let mut sent = 0;
    loop {
        start.deliver(&fragment);
        match start.step() {
            Poll::Pending => sent += fragment.len(),
            Poll::Ready(end) => break assert!(end.is_err()),
        }
        assert!(sent <= RECORD, "{sent}");
        fragment = [&[0x16, 3, 1, 0x03, 0xe8][..], &[0; 1000]].concat();
    }
    assert!(sent > RECORD - 2 * fragment.len(), "a long one is awaited: {sent}");
}

#[test]
fn peers_may_vanish_at_every_byte() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        let length = pair.seal(&pattern(10, 0, 50)).len();
        for at in 0..length {
            let mut pair = Pair::new(version);
            let sealed = pair.seal(&pattern(10, 0, 50));
            pair.deliver(&sealed[..at]);
            pair.pipe().ended = true;
            assert_eq!(pair.open_to_end(), (Vec::new(), Heard::Ended));
            let mut room = [0; 9];
            let Poll::Ready(Err(error)) = read(&mut pair, &mut room) else { panic!("an end without close_notify") };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            // Only its sending has ended.
            assert_eq!(pair.write(b"still here"), 10);
            assert_eq!(pair.hear().bytes, b"still here");
        }
        let hello = pair::seal(&mut Start::new(version).client, b"");
        for at in [0, 1, 4, 5, 6, hello.len() - 1] {
            let mut start = Start::new(version);
            start.deliver(&hello[..at]);
            assert!(start.step().is_pending());
            start.pipe().ended = true;
            let Poll::Ready(Err(error)) = start.step() else { panic!("at {at}") };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn either_side_may_end_first_and_the_other_goes_on() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        let last = pair.seal(b"last words");
        pair.client.send_close_notify();
        let bye = pair.seal(b"");
        pair.deliver(&[last, bye, b"what follows is ignored".to_vec()].concat());
        assert_eq!(pair.open_to_end(), (b"last words".to_vec(), Heard::Ended));
        assert_eq!(read(&mut pair, &mut [0; 9]).map(Result::unwrap), Poll::Ready(0));
        assert_eq!(pair.server.held(), 0);
        pair.write(b"still here");
        assert!(pair.close().is_ready());
        let heard = pair.hear();
        assert_eq!((heard.bytes, heard.closed), (b"still here".to_vec(), true));
        assert!(pair.pipe().finished);

        let mut pair = Pair::new(version);
        pair.pipe().window = 3;
        assert!(pair.close().is_pending());
        assert!(!pair.pipe().finished, "not before everything is sent");
        pair.pipe().window = usize::MAX;
        assert!(pair.close().is_ready() && pair.pipe().finished);
        assert!(pair.hear().closed);
        assert_eq!(pair.try_write(b"x").map_err(drop), Poll::Ready(Err(())));
        let sealed = pair.seal(b"one more");
        assert_eq!(pair.deliver(&sealed).open(), b"one more");
        let sealed_twice = pair.pipe().to_client.len();
        assert!(pair.close().is_ready());
        assert_eq!(pair.pipe().to_client.len(), sealed_twice, "close_notify is sent once");
    }
}

#[test]
fn after_a_write_that_failed_nothing_more_is_sent() {
    for (window, taken) in [(0, 0), (30, 10)] {
        let mut pair = Pair::new(TLS13);
        pair.echo();
        pair.pipe().window = window;
        if taken > 0 {
            assert_eq!(pair.write(&[1; 10]), taken);
        }
        pair.pipe().write_fails = Some(io::ErrorKind::ConnectionReset);
        let refused = Poll::Ready(Err(io::ErrorKind::ConnectionReset));
        assert_eq!(pair.try_write(b"lost").map_err(|error| error.kind()), refused);
        let mut pipe = pair.pipe();
        (pipe.write_fails, pipe.window) = (None, usize::MAX);
        let sent = pipe.to_client.len();
        drop(pipe);
        assert_eq!(pair.try_write(b"behind a gap").map_err(|error| error.kind()), refused);
        assert!(matches!(now(|cx| pair.server.poll_drain(cx)), Poll::Ready(Err(_))));
        assert!(matches!(now(|cx| pair.server.poll_close(cx)), Poll::Ready(Err(_))));
        assert_eq!((pair.pipe().to_client.len(), pair.server.held()), (sent, 0));
        // Reading goes on.
        let sealed = pair.seal(b"said");
        assert_eq!(pair.deliver(&sealed).open(), b"said");
    }
}

#[test]
fn keys_that_are_used_up_are_renewed_or_end_the_writing_in_order() {
    let mut pair = Start::with(client_config(TLS13), pair::short_lived_keys()).shake().unwrap();
    for round in 0..20 {
        let said = pattern(13, round, 50_000);
        assert_eq!(pair.write(&said), said.len());
        assert_eq!(pair.hear().bytes, said, "{round}");
    }
    let mut pair = Start::with(client_config(TLS12), pair::short_lived_keys()).shake().unwrap();
    let mut taken = 0;
    while let Poll::Ready(Ok(more)) = pair.try_write(b"a word") {
        taken += more;
        assert!(taken < 1000);
    }
    let heard = pair.hear();
    assert_eq!((heard.bytes.len(), heard.closed), (taken, true));
    assert!(taken > 0 && pair.close().is_ready() && pair.server.held() == 0);
}

#[test]
fn very_small_records_carry_all_that_was_taken() {
    let mut config = ServerConfig::clone(&server_config());
    config.max_fragment_size = Some(32);
    for version in VERSIONS {
        let mut pair = Start::with(client_config(version), Arc::new(config.clone())).shake().unwrap();
        let said = pattern(14, 0, SEAL);
        let taken = pair.write(&said);
        assert!(taken > SEAL / 4 && taken < SEAL, "{taken}");
        assert_eq!(pair.hear().bytes, said[..taken]);
    }
}

#[test]
fn a_renegotiation_is_refused_once_and_a_second_one_ends_the_session() {
    let (mut pair, mut forger) = Forger::pair(TLS12);
    let hello = pair::seal(&mut Start::new(TLS12).client, b"").split_off(5);
    let sent = pair.pipe().to_client.len();
    pair.deliver(&forger.handshake(&hello[..90])).deliver(&forger.handshake(&hello[90..]));
    assert!(pair.open().is_empty());
    let refusal = pair.pipe().to_client.len() - sent;
    assert_eq!(refusal, 5 + 8 + 2 + 16, "one alert");
    assert_eq!((pair.write(b"goes on"), pair.server.held()), (7, 0));
    pair.deliver(&forger.data(b"said")).deliver(&forger.handshake(&hello));
    let again = PeerMisbehaved::TooManyRenegotiationRequests;
    assert_eq!(pair.open_to_end(), (b"said".to_vec(), Heard::Failed(again.into())));
}

#[test]
fn garbage_after_our_own_farewell_is_an_error_like_any() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        assert!(pair.close().is_ready());
        let said = pair.seal(b"said");
        pair.deliver(&said).deliver(&[23, 3, 3, 0, 40]).deliver(&[7; 40]);
        assert_eq!(pair.open_to_end(), (b"said".to_vec(), Heard::Failed(Error::DecryptError)));
    }
}

#[test]
fn key_updates_are_followed_and_answered_and_a_flood_of_them_is_none() {
    let mut pair = Pair::new(TLS13);
    for round in 0..100 {
        pair.client.refresh_traffic_keys().unwrap();
        let sealed = pair.seal(b"with a new key");
        assert_eq!(pair.deliver(&sealed).open(), b"with a new key", "{round}");
        let before = pair.pipe().to_client.len();
        pair.write(b"an answer");
        assert!(pair.pipe().to_client.len() > before + 40, "the KeyUpdate in front of it");
        assert_eq!(pair.hear().bytes, b"an answer");
    }
    let mut updates = 0;
    let error = loop {
        pair.client.refresh_traffic_keys().unwrap();
        let sealed = pair.seal(b"");
        match pair.deliver(&sealed).open_to_end() {
            (_, Heard::Failed(error)) => break error,
            _ => updates += 1,
        }
        assert!(pair.server.held() <= 100 && updates < 100);
    };
    assert_eq!(error, Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests));
    assert!(updates >= 30);
}

#[test]
fn a_key_update_in_pieces_disturbs_no_write_between_them() {
    let (mut pair, mut forger) = Forger::pair(TLS13);
    pair.deliver(&forger.handshake(&[24, 0, 0]));
    assert!(pair.open().is_empty());
    for _ in 0..3 {
        assert_eq!(pair.write(b"between"), 7);
    }
    pair.deliver(&forger.handshake(&[1]));
    assert!(pair.open().is_empty());
    assert_eq!(pair.write(b"between"), 7);
    pair.deliver(&forger.handshake(&[1]));
    assert_eq!(pair.open_to_end(), (Vec::new(), Heard::Waits));
    assert_eq!(pair.server.held(), 0);
    // The answer to it comes before the next data.
    let before = pair.pipe().to_client.len();
    assert_eq!(pair.write(b"x"), 1);
    assert_eq!(pair.pipe().to_client.len() - before, (5 + 5 + 17) + (5 + 1 + 17));

    // Data inside a handshake message is an error (RFC 8446, section 5.1); so is the transport's end in one no panic.
    let (mut pair, mut forger) = Forger::pair(TLS13);
    pair.deliver(&forger.handshake(&[24, 0]));
    pair.deliver(&forger.data(b"no"));
    let (heard, end) = pair.open_to_end();
    assert_eq!(
        (heard, end),
        (Vec::new(), Heard::Failed(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into()))
    );
    let (mut pair, mut forger) = Forger::pair(TLS13);
    pair.deliver(&forger.handshake(&[24, 0]));
    pair.pipe().ended = true;
    assert_eq!(pair.open_to_end(), (Vec::new(), Heard::Ended));
    assert_eq!(pair.write(b"still here"), 10);
    assert!(pair.close().is_ready());
}

#[test]
fn oversize_and_endless_empty_records_are_refused() {
    let (mut pair, mut forger) = Forger::pair(TLS13);
    pair.deliver(&forger.data(&[1; 16 * 1024]));
    assert_eq!(pair.open().len(), 16 * 1024);
    pair.deliver(&forger.data(&vec![1; 16 * 1024 + 1]));
    assert_eq!(pair.open_to_end(), (Vec::new(), Heard::Failed(Error::PeerSentOversizedRecord)));

    let (mut pair, mut forger) = Forger::pair(TLS13);
    let flood: Vec<u8> = (0..100).flat_map(|_| forger.data(b"")).collect();
    pair.deliver(&flood);
    assert_eq!(pair.open_to_end().1, Heard::Failed(PeerMisbehaved::TooManyEmptyFragments.into()));

    for (length, refused) in [(0xffff_u16, true), (16 * 1024 + 2048 + 1, true), (16 * 1024 + 256, false)] {
        let mut pair = Pair::new(TLS13);
        let [high, low] = length.to_be_bytes();
        pair.deliver(&[&[23, 3, 3, high, low][..], &[0; 10]].concat());
        let (_, end) = pair.open_to_end();
        assert_eq!(matches!(end, Heard::Failed(_)), refused, "{length}: {end:?}");
        assert_eq!(pair.hear().alert.is_some(), refused);
        assert!(pair.server.held() <= RECORD);
    }
}

#[test]
fn a_fatal_alert_of_the_client_ends_both_directions() {
    let (mut pair, mut forger) = Forger::pair(TLS13);
    pair.deliver(&forger.record(21, &[2, 80]));
    assert_eq!(pair.open_to_end().1, Heard::Failed(Error::AlertReceived(AlertDescription::InternalError)));
    assert_eq!(pair.try_write(b"x").map_err(drop), Poll::Ready(Err(())));
    assert!(pair.close().is_ready());
}

/// Bytes of its own for each of 64 streams, both ways, while reads and writes are cut and blocked at random.
#[test]
fn no_byte_of_one_stream_is_ever_seen_on_another() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap() % below
    };
    let total = 150_000;
    let mut streams: Vec<_> = (0..64_u8)
        .map(|number| (Pair::new(VERSIONS[usize::from(number) % 2]), [0_usize; 4], Vec::<u8>::new(), number))
        .collect();
    let mut plain = vec![0; READ];
    while streams.iter().any(|(_, [_, up, _, down], ..)| *up < total || *down < total) {
        let at = random(streams.len());
        let (pair, [said, up, wrote, down], sealed, number) = &mut streams[at];
        if sealed.is_empty() && *said < total {
            let more = (1 + random(40_000)).min(total - *said);
            *sealed = pair.seal(&pattern(*number, *said, more));
            *said += more;
        }
        let some = random(sealed.len() + 1);
        let rest = sealed.split_off(some);
        pair.deliver(sealed);
        *sealed = rest;
        pair.pipe().read_most = 1 + random(READ);
        pair.pipe().window = random(30_000);
        pair.pipe().write_most = 1 + random(20_000);
        if let Poll::Ready(read) = now(|cx| pair.server.poll_open(cx, &mut plain)) {
            let read = read.unwrap();
            assert_eq!(plain[..read], pattern(*number, *up, read), "stream {number}, up, at {up}");
            *up += read;
        }
        let more = random(40_000).min(total - *wrote);
        if more > 0
            && let Poll::Ready(taken) = pair.try_write(&pattern(number.wrapping_add(128), *wrote, more))
        {
            *wrote += taken.unwrap();
        }
        let _ = pair.drain();
        let heard = pair.hear().bytes;
        assert_eq!(heard, pattern(number.wrapping_add(128), *down, heard.len()), "stream {number}, down, at {down}");
        *down += heard.len();
    }
    for (pair, ..) in &mut streams {
        pair.pipe().window = usize::MAX;
        assert!(pair.drain().is_ready());
        assert_eq!(pair.server.held(), 0);
    }
}

/// What a client may do, or what may be done to what it sends.
#[derive(Clone, Debug)]
enum Deed {
    Say(usize),
    NewKeys,
    Bye,
    Garble(usize, u8),
    Lose(usize),
    Add(Vec<u8>),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => (0..40_000_usize).prop_map(Deed::Say),
        8 => (0..200_usize).prop_map(Deed::Say),
        3 => Just(Deed::NewKeys),
        1 => Just(Deed::Bye),
        1 => (any::<usize>(), 1..=255_u8).prop_map(|(at, flip)| Deed::Garble(at, flip)),
        1 => (1..100_usize).prop_map(Deed::Lose),
        1 => prop::collection::vec(any::<u8>(), 1..60).prop_map(Deed::Add),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The buffered server of rustls, given the same, says the same.
    #[test]
    fn the_same_is_heard_as_by_the_buffered_server(
        deeds in prop::collection::vec(deed(), 1..12),
        cuts in prop::collection::vec(1..30_000_usize, 1..20),
        old in any::<bool>(),
    ) {
        let version = if old { TLS12 } else { TLS13 };
        let mut pair = Pair::new(version);
        let mut buffered = pair::buffered(client_config(version), server_config());
        let mut sent = [Vec::new(), Vec::new()];
        for (client, sent) in [&mut pair.client, &mut buffered.0].into_iter().zip(&mut sent) {
            for deed in &deeds {
                let mut bytes = Vec::new();
                match deed {
                    Deed::Say(length) => bytes = pair::seal(client, &pattern(11, 0, *length)),
                    Deed::NewKeys => { let _ = client.refresh_traffic_keys(); }
                    Deed::Bye => client.send_close_notify(),
                    Deed::Garble(at, flip) => {
                        let length = sent.len().max(1);
                        if let Some(byte) = sent.get_mut(at % length) { *byte ^= flip; }
                    }
                    Deed::Lose(bytes) => sent.truncate(sent.len().saturating_sub(*bytes)),
                    Deed::Add(more) => bytes.clone_from(more),
                }
                bytes.extend(pair::seal(client, b""));
                sent.extend(bytes);
            }
        }
        let (mut heard, mut end) = (Vec::new(), Heard::Waits);
        let (mut rest, mut cut) = (&sent[0][..], cuts.iter().cycle());
        while !rest.is_empty() && end == Heard::Waits {
            let (now, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
            let (more, ended) = pair.deliver(now).open_to_end();
            heard.extend(more);
            (rest, end) = (later, ended);
            prop_assert!(pair.server.held() <= 2 * RECORD + 4096);
        }
        let (expected, expected_end) = pair::hear_buffered(&mut buffered.1, &sent[1]);
        prop_assert!(heard == expected, "{} bytes heard, {} expected", heard.len(), expected.len());
        prop_assert_eq!(end, expected_end);
    }
}

/// What a forger sends.
#[derive(Clone, Debug)]
enum Forged {
    Data(usize),
    /// No client sends these, and rustls lets them pass: what it leaves of them in front must change nothing.
    EmptyHandshake,
}

fn forged() -> impl Strategy<Value = Forged> {
    prop_oneof![
        4 => (1..200_usize).prop_map(Forged::Data),
        2 => (1..16_384_usize).prop_map(Forged::Data),
        1 => Just(Forged::Data(0)),
        1 => Just(Forged::EmptyHandshake),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn empty_records_change_nothing_however_it_is_cut_read_and_answered(
        records in prop::collection::vec(forged(), 1..25),
        cuts in prop::collection::vec(1..9_000_usize, 1..20),
        reads in prop::collection::vec((any::<bool>(), 1..90_000_usize, any::<bool>()), 1..20),
        old in any::<bool>(),
    ) {
        let (mut pair, mut forger) = Forger::pair(if old { TLS12 } else { TLS13 });
        let (mut sealed, mut said) = (Vec::new(), Vec::new());
        for record in &records {
            match record {
                Forged::EmptyHandshake => sealed.extend(forger.handshake(&[])),
                Forged::Data(length) => {
                    // Much of it looks like the head of a long record.
                    let data: Vec<u8> =
                        pattern(15, said.len(), *length).into_iter().map(|byte| if byte % 5 < 2 { 0xff } else { byte }).collect();
                    sealed.extend(forger.data(&data));
                    said.extend(data);
                }
            }
        }
        let (mut heard, mut rest) = (Vec::new(), &sealed[..]);
        let (mut cut, mut reads) = (cuts.iter().cycle(), reads.iter().cycle());
        while !rest.is_empty() {
            let (first, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
            rest = later;
            pair.deliver(first);
            loop {
                let (bulk, room, answer) = *reads.next().unwrap();
                if answer {
                    pair.pipe().window = room % 300;
                    prop_assert!(!matches!(pair.try_write(&[1; 100]), Poll::Ready(Err(_))));
                    pair.pipe().window = usize::MAX;
                    prop_assert!(pair.drain().is_ready());
                }
                let mut plain = vec![0; room];
                let got = if bulk {
                    now(|cx| pair.server.poll_open(cx, &mut plain))
                } else {
                    read(&mut pair, &mut plain)
                };
                prop_assert!(pair.server.held() <= 4 * RECORD, "{} bytes held", pair.server.held());
                match got {
                    Poll::Pending => break,
                    Poll::Ready(got) => heard.extend_from_slice(&plain[..got.unwrap()]),
                }
            }
        }
        prop_assert!(heard == said, "{} bytes heard of {}", heard.len(), said.len());
    }
}

fn read(pair: &mut Pair, room: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(room);
    now(|cx| Pin::new(&mut pair.server).poll_read(cx, &mut buffer)).map_ok(|()| buffer.filled().len())
}

#[test]
fn an_empty_handshake_record_changes_nothing_of_what_follows() {
    let (mut pair, mut forger) = Forger::pair(TLS13);
    pair.deliver(&forger.handshake(&[]));
    assert!(pair.open().is_empty());
    // What rustls leaves in front from here on is the end of the last record, which looks like the head of a long one.
    let mut data = vec![b'a'; 60];
    data.extend_from_slice(&[23, 3, 3, 0xff, 0xff]);
    for _ in 0..80 {
        pair.deliver(&forger.data(&data));
        assert_eq!(pair.open_to_end(), (data.clone(), Heard::Waits));
        assert!(matches!(pair.try_write(b"answer"), Poll::Ready(Ok(6))));
        assert!(pair.server.held() < 1024, "{} bytes held", pair.server.held());
    }
}

#[test]
fn endless_empty_handshake_records_end_within_the_bound() {
    let (mut pair, mut forger) = Forger::pair(TLS13);
    let ended = (0..2_000).any(|_| {
        pair.deliver(&forger.handshake(&[]));
        pair.deliver(&forger.data(&[0; 40]));
        let end = pair.open_to_end().1;
        assert!(pair.server.held() <= 2 * RECORD, "{} bytes held", pair.server.held());
        end != Heard::Waits
    });
    assert!(ended, "what is kept grows with each of them, so there must be an end");
}

#[test]
fn an_error_together_with_the_end_of_the_handshake_is_told() {
    let mut start = pair::Start::new(TLS13);
    let mut hello = Vec::new();
    start.client.write_tls(&mut hello).unwrap();
    start.deliver(&hello);
    assert!(start.step().is_pending());
    let answer = std::mem::take(&mut start.pipe().to_client);
    start.client.read_tls(&mut &answer[..]).unwrap();
    start.client.process_new_packets().unwrap();
    let mut last = Vec::new();
    while start.client.wants_write() {
        start.client.write_tls(&mut last).unwrap();
    }
    last.extend_from_slice(&[23, 3, 3, 0, 30]);
    last.extend_from_slice(&[7; 30]);
    start.deliver(&last);
    let Poll::Ready(Ok(accepted)) = start.step() else { panic!("the handshake is done") };
    let (mut stream, mut room) = (accepted.stream, [0; 100]);
    let before = start.pipe().to_client.len();
    let read = now(|cx| Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut room)));
    assert!(matches!(read, Poll::Ready(Err(_))));
    assert!(!stream.has_unsent() && start.pipe().to_client.len() > before, "the alert has gone");
}

#[test]
fn the_harness_hears_what_rustls_hears() {
    let (mut client, mut server) = pair::buffered(client_config(TLS13), server_config());
    let sealed = pair::seal(&mut client, b"hello");
    assert_eq!(pair::hear_buffered(&mut server, &sealed), (b"hello".to_vec(), Heard::Waits));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert!(server.reader().read(&mut [0]).is_err());
}
