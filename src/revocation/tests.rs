use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;

fn wall(seconds: u64) -> Wall {
    Wall::from_epoch(Duration::from_secs(seconds))
}

fn ban(kind: Kind, value: &str) -> Ban {
    Ban { iss: "i".into(), kind, value: value.into(), issued_before: None, until: Some(wall(1_000)) }
}

fn marks(issuer: &str, jti: &str, sub: &str, iat: Option<u64>) -> Marks {
    Marks::new(issuer, json!({"jti": jti, "sub": sub, "sid": "s"}).as_object().unwrap(), iat.map(wall))
}

/// How many there are, with those that have ended.
fn len(revocations: &Revocations) -> usize {
    revocations.read().len()
}

fn config(path: &Path) -> Config {
    Config { file: Some(path.to_owned()), max_entries: 100 }
}

#[test]
fn a_ban_finds_what_it_names_of_its_own_issuer_and_nothing_else() {
    let revocations = Revocations::in_memory(10);
    let now = wall(10);
    let token = marks("i", "j", "u", Some(5));
    assert_eq!(revocations.find(&token, now), None);
    for (kind, value) in [(Kind::Jti, "j"), (Kind::Sub, "u"), (Kind::Sid, "s")] {
        let revocations = Revocations::in_memory(10);
        for other in Kind::ALL {
            revocations.insert(ban(other, "x"), now).unwrap();
        }
        assert_eq!(revocations.find(&token, now), None);
        revocations.insert(ban(kind, value), now).unwrap();
        assert_eq!(revocations.find(&token, now), Some(Cause::Claim(kind)));
        assert_eq!(revocations.find(&marks("other", "j", "u", None), now), None);
        assert_eq!(revocations.find(&token, wall(1_000)), None, "its end has come");
    }
}

#[test]
fn a_ban_of_older_tokens_leaves_younger_ones_alone() {
    let revocations = Revocations::in_memory(10);
    let (now, at) = (wall(10), |iat| marks("i", "j", "u", iat));
    revocations.insert(Ban { issued_before: Some(100), until: Some(wall(50)), ..ban(Kind::Sub, "u") }, now).unwrap();
    revocations.insert(Ban { issued_before: Some(90), until: None, ..ban(Kind::Sub, "u") }, now).unwrap();
    for (iat, now, banned) in [
        (None, 10, true),
        (Some(99), 10, true),
        (Some(100), 10, false),
        (Some(99), 60, false),
        (Some(89), 60, true),
        (Some(90), 60, false),
    ] {
        assert_eq!(revocations.find(&at(iat), wall(now)).is_some(), banned, "iat {iat:?} at {now}");
    }
}

#[test]
fn a_full_store_takes_no_more_and_gives_nothing_up() {
    let revocations = Revocations::in_memory(2);
    let now = wall(10);
    revocations.insert(ban(Kind::Jti, "a"), now).unwrap();
    revocations.insert(ban(Kind::Jti, "b"), now).unwrap();
    assert_eq!(revocations.insert(ban(Kind::Jti, "c"), now), Err(Full));
    assert_eq!((len(&revocations), revocations.refused()), (2, 1));
    assert!(revocations.insert(ban(Kind::Jti, "a"), now).is_ok(), "what is there already takes no more room");
    let late = |value| Ban { until: None, ..ban(Kind::Jti, value) };
    for value in ["c", "d"] {
        assert!(revocations.insert(late(value), wall(1_000)).is_ok(), "what has ended is no reason to refuse");
        assert_eq!(len(&revocations), 2, "there are never more");
    }
    assert_eq!(revocations.insert(late("e"), wall(1_000)), Err(Full));
}

#[tokio::test]
async fn what_made_room_for_another_is_gone_from_the_file_and_what_is_banned_anew_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { max_entries: 1, ..config(&folder.path().join("bans")) };
    let revocations = Revocations::open(&config).unwrap();
    let late = |value| Ban { until: Some(wall(2_000)), ..ban(Kind::Jti, value) };
    for (ban, now) in [(ban(Kind::Jti, "a"), 10), (late("b"), 1_000)] {
        let ban = revocations.insert(ban, wall(now)).unwrap();
        revocations.keep(ban.id()).await.unwrap();
    }
    drop(revocations);
    let revocations = Revocations::open(&config).unwrap();
    assert_eq!(revocations.list(None, 9, wall(0)), [late("b")]);
    let again = Ban { until: None, ..ban(Kind::Jti, "a") };
    for ban in [again.clone(), late("b"), again.clone()] {
        revocations.write().gone.push(ban.id());
        revocations.lift(late("b").id()).await.unwrap();
        revocations.lift(again.id()).await.unwrap();
        revocations.write().gone.push(ban.id());
        let ban = revocations.insert(ban, wall(2_000)).unwrap();
        revocations.keep(ban.id()).await.unwrap();
    }
    drop(revocations);
    assert_eq!(Revocations::open(&config).unwrap().list(None, 9, wall(0)), [again]);
}

#[tokio::test]
async fn a_clock_that_steps_ahead_and_back_costs_no_ban() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let token = marks("i", "j", "u", Some(5));
    for _ in 0..2 {
        let revocations = Revocations::open(&config(&path)).unwrap();
        let kept = revocations.insert(ban(Kind::Sub, "u"), wall(10)).unwrap();
        revocations.keep(kept.id()).await.unwrap();
        revocations.expire(wall(4_500)).await.unwrap();
        assert_eq!(revocations.find(&token, wall(4_500)), None, "it has ended");
        assert_eq!((revocations.count(wall(4_500)), revocations.list(None, 9, wall(4_500))), (0, Vec::new()));
        assert_eq!(revocations.find(&token, wall(20)), Some(Cause::Claim(Kind::Sub)));
        assert_eq!(revocations.count(wall(20)), 1);
    }
    let revocations = Revocations::open(&config(&path)).unwrap();
    assert_eq!(revocations.find(&token, wall(20)), Some(Cause::Claim(Kind::Sub)));
    revocations.expire(wall(4_600)).await.unwrap();
    assert_eq!(len(&revocations), 0);
    drop(revocations);
    assert_eq!(len(&Revocations::open(&config(&path)).unwrap()), 0);
}

#[tokio::test]
async fn bans_end_by_themselves_and_are_never_shortened() {
    let revocations = Revocations::in_memory(10);
    let until = |until: Option<u64>| Ban { until: until.map(wall), ..ban(Kind::Jti, "a") };
    revocations.insert(until(Some(50)), wall(10)).unwrap();
    assert_eq!(revocations.insert(until(Some(20)), wall(10)).unwrap().until, Some(wall(50)));
    assert_eq!((len(&revocations), revocations.count(wall(49)), revocations.count(wall(50))), (1, 1, 0));
    revocations.expire(wall(3_649)).await.unwrap();
    assert_eq!(len(&revocations), 1);
    revocations.expire(wall(3_650)).await.unwrap();
    assert!(len(&revocations) == 0 && revocations.read().ends.is_empty() && revocations.read().gone.is_empty());
    revocations.insert(until(None), wall(60)).unwrap();
    assert_eq!(revocations.insert(until(Some(70)), wall(60)).unwrap().until, None);
    revocations.expire(wall(u64::MAX / 2)).await.unwrap();
    assert_eq!(len(&revocations), 1);
    assert!(revocations.lift(until(None).id()).await.unwrap());
    assert!(!revocations.lift(until(None).id()).await.unwrap());
}

#[test]
fn a_list_goes_on_where_the_last_one_ended() {
    let revocations = Revocations::in_memory(10);
    for value in ["a", "b", "c"] {
        revocations.insert(ban(Kind::Sub, value), wall(0)).unwrap();
    }
    let first = revocations.list(None, 2, wall(0));
    let rest = revocations.list(first.last().map(Ban::id), 2, wall(0));
    let mut values: Vec<&str> = first.iter().chain(&rest).map(|ban| &*ban.value).collect();
    values.sort_unstable();
    assert_eq!((first.len(), values), (2, vec!["a", "b", "c"]));
    for ban in rest {
        assert_eq!(Id::parse(&ban.id().to_string()), Some(ban.id()));
    }
    for bad in ["", "+1", "g", &"+".repeat(32), &"0".repeat(33)] {
        assert_eq!(Id::parse(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn what_is_kept_is_there_again_and_what_has_ended_or_was_lifted_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let all = [
        Ban { until: None, ..ban(Kind::Sub, "for ever") },
        Ban { issued_before: Some(7), ..ban(Kind::Sub, "old ones \u{0}é\n") },
        Ban { until: Some(wall(20)), ..ban(Kind::Jti, "soon") },
        ban(Kind::Sid, "lifted"),
    ];
    let kept = |revocations: &Revocations| {
        let mut bans = revocations.list(None, 9, wall(0));
        bans.sort_by(|one, other| one.value.cmp(&other.value));
        bans
    };
    {
        let revocations = Revocations::open(&config(&path)).unwrap();
        assert!(matches!(Revocations::open(&config(&path)), Err(OpenError::InUse { .. })));
        for ban in &all {
            let ban = revocations.insert(ban.clone(), wall(10)).unwrap();
            revocations.keep(ban.id()).await.unwrap();
        }
        assert!(revocations.lift(all[3].id()).await.unwrap());
        // Lifted before it was kept: it does not come back.
        revocations.insert(ban(Kind::Jti, "brief"), wall(10)).unwrap();
        revocations.lift(ban(Kind::Jti, "brief").id()).await.unwrap();
        revocations.keep(ban(Kind::Jti, "brief").id()).await.unwrap();
    }
    {
        let revocations = Revocations::open(&config(&path)).unwrap();
        assert_eq!(kept(&revocations), all[..3]);
        revocations.expire(wall(3_620)).await.unwrap();
    }
    assert_eq!(kept(&Revocations::open(&config(&path)).unwrap()), all[..2]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_log_that_has_grown_long_is_written_anew_and_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let revocations = Revocations::open(&config(&path)).unwrap();
    for number in 0..3 {
        revocations.insert(ban(Kind::Sub, &number.to_string()), wall(10)).unwrap();
    }
    revocations.keep(ban(Kind::Sub, "0").id()).await.unwrap();
    let short = std::fs::metadata(&path).unwrap().len();
    revocations.0.disk.as_ref().unwrap().lock().unwrap().pretend_long();
    // What is lifted in the same turn is not brought back by the copy, and the lock goes over to it.
    assert!(revocations.lift(ban(Kind::Sub, "1").id()).await.unwrap());
    assert!(std::fs::metadata(&path).unwrap().len() < short * 4);
    assert!(matches!(Revocations::open(&config(&path)), Err(OpenError::InUse { .. })));
    revocations.keep(ban(Kind::Sub, "2").id()).await.unwrap();
    drop(revocations);
    assert_eq!(len(&Revocations::open(&config(&path)).unwrap()), 2);
}

#[tokio::test]
async fn a_copy_of_many_bans_is_whole_and_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let config = Config { max_entries: 3 * PAGE, ..config(&path) };
    let revocations = Revocations::open(&config).unwrap();
    for number in 0..=2 * PAGE {
        revocations.insert(ban(Kind::Sub, &number.to_string()), wall(10)).unwrap();
    }
    let mut pages = revocations.pages();
    assert!(pages.next().is_some() && revocations.0.table.try_write().is_ok(), "between two pages the lock is free");
    assert_eq!(pages.count(), 2 * PAGE);
    revocations.0.disk.as_ref().unwrap().lock().unwrap().pretend_long();
    revocations.keep(ban(Kind::Sub, "7").id()).await.unwrap();
    drop(revocations);
    assert_eq!(len(&Revocations::open(&config).unwrap()), 2 * PAGE + 1);
}

#[test]
fn a_file_that_cannot_be_used_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    std::fs::write(&path, "").unwrap();
    let error = |path: &Path| Revocations::open(&config(path)).unwrap_err().to_string();
    assert!(error(&path).contains("is damaged: it does not begin like one. Put a copy of it back"), "{}", error(&path));
    std::fs::write(&path, "x".repeat(100_000)).unwrap();
    assert!(error(&path).contains("is damaged"), "{}", error(&path));
    let missing = folder.path().join("no/bans");
    assert!(error(&missing).contains("Its folder must be there"), "{}", error(&missing));
}

#[tokio::test]
async fn damage_anywhere_in_the_file_is_seen_and_only_an_unconfirmed_end_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    for round in 0..2 {
        // The first ten come with the copy that the second start makes.
        let revocations = Revocations::open(&config(&path)).unwrap();
        for number in 0..10 {
            let ban = revocations.insert(ban(Kind::Sub, &format!("user-{round}-{number}")), wall(10)).unwrap();
            revocations.keep(ban.id()).await.unwrap();
        }
    }
    let whole = std::fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged");
    let opened = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        Revocations::open(&config(&damaged)).map(|revocations| len(&revocations))
    };
    assert_eq!(opened(&whole).unwrap(), 20);
    for at in (0..64).chain((64..whole.len()).step_by(41)).chain([whole.len() - 1]) {
        for bits in [0x01, 0x80, whole[at] ^ b'\n'] {
            let mut bytes = whole.clone();
            bytes[at] ^= bits;
            // Without its last newline the last line is one that was not finished.
            let unfinished = at + 1 == whole.len();
            let expected = if bits == 0 { Some(20) } else { unfinished.then_some(19) };
            assert_eq!(opened(&bytes).ok(), expected, "{bits:#x} at {at}");
        }
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for gone in 0..lines.len() - 1 {
        let bytes = [&lines[..gone], &lines[gone + 1..]].concat().concat();
        assert!(opened(&bytes).is_err(), "line {gone} is gone");
    }
    let copied = lines[..12].concat().len();
    for length in (0..whole.len()).step_by(29).chain([copied - 1, copied]) {
        let result = opened(&whole[..length]);
        assert_eq!(result.is_ok(), length >= copied, "cut at {length}: {result:?}");
    }
    // Zeros, as a file system may leave them behind a crash.
    assert_eq!(opened(&[whole.as_slice(), &[0; 300]].concat()).unwrap(), 20);
}

#[tokio::test]
async fn what_cannot_be_written_is_told_and_counts_until_the_process_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bans");
    let revocations = Revocations::open(&config(&path)).unwrap();
    revocations.0.disk.as_ref().unwrap().lock().unwrap().pretend_read_only();
    let ban = revocations.insert(ban(Kind::Sub, "u"), wall(10)).unwrap();
    assert!(revocations.keep(ban.id()).await.is_err());
    assert!(revocations.find(&marks("i", "j", "u", None), wall(10)).is_some());
    assert!(revocations.lift(ban.id()).await.is_err());
    assert!(revocations.find(&marks("i", "j", "u", None), wall(10)).is_some(), "what is not lifted on disk stands");
}

#[tokio::test]
async fn a_copy_that_fails_loses_nothing_and_a_file_that_lost_its_name_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let (path, real) = (folder.path().join("bans"), folder.path().join("real"));
    std::os::unix::fs::symlink(&real, &path).unwrap();
    drop(Revocations::open(&config(&real)).unwrap());
    let revocations = Revocations::open(&config(&path)).unwrap();
    assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink(), "a link stays one");
    let keep = async |value: &str| {
        let ban = revocations.insert(ban(Kind::Sub, value), wall(10)).unwrap();
        revocations.0.disk.as_ref().unwrap().lock().unwrap().pretend_long();
        revocations.keep(ban.id()).await
    };
    // Something stands where the copy is to be made.
    let obstacle = folder.path().join("real.new");
    std::fs::create_dir(&obstacle).unwrap();
    keep("first").await.unwrap();
    std::fs::write(folder.path().join("other"), "").unwrap();
    std::fs::rename(folder.path().join("other"), &real).unwrap();
    assert!(keep("second").await.is_err(), "the file is another one by now");
    assert!(keep("third").await.is_err());
}
