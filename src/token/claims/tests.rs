use std::time::Duration;

use proptest::prelude::*;

use super::date::{DateError, parse};
use super::json::{Dates, JsonError, object};
use super::*;

#[allow(clippy::unnecessary_wraps)] // the tables compare it with what the reader returns
fn at(seconds: u64, nanos: u32) -> Result<Wall, DateError> {
    Ok(Wall::from_epoch(Duration::new(seconds, nanos)))
}

#[test]
fn times_are_read_exactly_to_the_nanosecond() {
    let rows: &[(&str, Result<Wall, DateError>)] = &[
        ("0", at(0, 0)),
        ("0.0", at(0, 0)),
        ("0e99", at(0, 0)),
        ("1", at(1, 0)),
        ("1700000000", at(1_700_000_000, 0)),
        ("1700000000.5", at(1_700_000_000, 500_000_000)),
        ("1700000000.123456789", at(1_700_000_000, 123_456_789)),
        ("1700000000.000000001", at(1_700_000_000, 1)),
        ("1700000000.9999999999", at(1_700_000_000, 999_999_999)),
        ("1.7e9", at(1_700_000_000, 0)),
        ("1.7E+9", at(1_700_000_000, 0)),
        ("17000000005e-1", at(1_700_000_000, 500_000_000)),
        ("1e12", at(1_000_000_000_000, 0)),
        ("0.0017e12", at(1_700_000_000, 0)),
        ("0.001", at(0, 1_000_000)),
        ("1e-3", at(0, 1_000_000)),
        ("1e-9", at(0, 1)),
        ("1e-10", at(0, 0)),
        ("1e-999999999999999999999", at(0, 0)),
        ("18446744073709551615", at(u64::MAX, 0)),
        ("18446744073709551615.999999999", at(u64::MAX, 999_999_999)),
        ("18446744073709551616", Err(DateError::TooLarge)),
        ("99999999999999999999", Err(DateError::TooLarge)),
        ("1e20", Err(DateError::TooLarge)),
        ("1e300", Err(DateError::TooLarge)),
        ("1e400", Err(DateError::TooLarge)),
        ("1e999999999999999999999", Err(DateError::TooLarge)),
        ("-1", Err(DateError::Negative)),
        ("-0", Err(DateError::Negative)),
        ("-1e-400", Err(DateError::Negative)),
        ("\"1700000000\"", Err(DateError::NotANumber)),
        ("null", Err(DateError::NotANumber)),
        ("true", Err(DateError::NotANumber)),
        ("[1700000000]", Err(DateError::NotANumber)),
        ("{}", Err(DateError::NotANumber)),
        ("NaN", Err(DateError::NotANumber)),
    ];
    for (text, expected) in rows {
        assert_eq!(parse(text), *expected, "{text}");
        if let Ok(claims) = object(&format!("{{\"exp\": {text} }}"), Dates::Kept) {
            assert_eq!(claims.exp, Some(*expected), "{text}");
        } else {
            assert_eq!(*text, "NaN", "{text}");
        }
    }
}

#[test]
fn only_strict_json_objects_are_read() {
    let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let deep_objects = |levels: usize| format!("{{\"a\":{}1{}}}", "{\"b\":".repeat(levels), "}".repeat(levels));
    let rows: &[(&str, Option<JsonError>)] = &[
        ("{}", None),
        (" {\"a\" : [1, -2, 1.5, true, null, \"x\", {\"a\": 1}]} ", None),
        ("{\"a\":{\"b\":1},\"c\":{\"b\":1}}", None),
        (&deep(15), None),
        (&deep_objects(15), None),
        (&deep(16), Some(JsonError::Deep)),
        (&deep_objects(16), Some(JsonError::Deep)),
        (&deep(4000), Some(JsonError::Deep)),
        ("{\"exp\":1,\"exp\":2}", Some(JsonError::Duplicate)),
        ("{\"exp\":1,\"e\\u0078p\":1}", Some(JsonError::Duplicate)),
        ("{\"a\":{\"b\":1,\"b\":1}}", Some(JsonError::Duplicate)),
        ("{\"a\":[[{\"b\":1,\"b\":null}]]}", Some(JsonError::Duplicate)),
        ("{\"sub\":\"x\",\"sub\":\"x\"}", Some(JsonError::Duplicate)),
        ("", Some(JsonError::Malformed)),
        ("[]", Some(JsonError::Malformed)),
        ("\"x\"", Some(JsonError::Malformed)),
        ("null", Some(JsonError::Malformed)),
        ("1", Some(JsonError::Malformed)),
        ("{\"a\":1}{}", Some(JsonError::Malformed)),
        ("{\"a\":1} x", Some(JsonError::Malformed)),
        ("{\"a\":1,}", Some(JsonError::Malformed)),
        ("{'a':1}", Some(JsonError::Malformed)),
        ("{\"a\":NaN}", Some(JsonError::Malformed)),
        ("{\"exp\":Infinity}", Some(JsonError::Malformed)),
        ("{\"exp\":+1}", Some(JsonError::Malformed)),
        ("{\"exp\":01}", Some(JsonError::Malformed)),
        ("{\"exp\":1.}", Some(JsonError::Malformed)),
        ("{\"a\":1e999}", Some(JsonError::Malformed)),
        ("{\"a\":\"\\ud800\"}", Some(JsonError::Malformed)),
        ("\u{feff}{}", Some(JsonError::Malformed)),
        ("{\"duplicate member\": x}", Some(JsonError::Malformed)),
    ];
    for (text, expected) in rows {
        for dates in [Dates::Kept, Dates::Plain] {
            assert_eq!(object(text, dates).err(), *expected, "{text:.60}");
        }
    }
}

#[test]
fn a_token_has_three_parts_in_their_one_canonical_spelling() {
    // `eyJhIjoxfQ` is {"a":1}; its last character carries four bits that do not count.
    let rows: &[(&str, &str)] = &[
        ("eyJhIjoxfQ.eyJhIjoxfQ.AA", ""),
        ("", "token_malformed"),
        ("eyJhIjoxfQ", "token_malformed"),
        ("eyJhIjoxfQ.eyJhIjoxfQ", "token_malformed"),
        ("a.b.c.d", "token_malformed"),
        ("a.b.c.d.e.f", "token_malformed"),
        ("a.b.c.d.e", "token_encrypted"),
        ("..", "header_not_json"),
        (".eyJhIjoxfQ.AA", "header_not_json"),
        ("eyJhIjoxfQ..AA", "claims_not_json"),
        ("eyJhIjoxfQ.eyJhIjoxfQ.", "signature_missing"),
        ("eyJhIjoxfQ==.eyJhIjoxfQ.AA", "header_not_base64url"),
        ("eyJhIjoxfR.eyJhIjoxfQ.AA", "header_not_base64url"),
        ("eyJhIjoxfQ.eyJhIjoxfQ==.AA", "claims_not_base64url"),
        ("eyJhIjoxfQ.eyJhIjoxfR.AA", "claims_not_base64url"),
        ("eyJhIjoxfQ.eyJhIjoxfQ.AA==", "signature_not_base64url"),
        ("eyJhIjoxfQ.eyJhIjoxfQ.AB", "signature_not_base64url"),
        ("eyJhIjoxfQ.eyJhIjoxfQ.A", "signature_not_base64url"),
        ("eyJhIjoxfQ.eyJhIjoxfQ.AA\n", "signature_not_base64url"),
        (" eyJhIjoxfQ.eyJhIjoxfQ.AA", "header_not_base64url"),
        ("eyJhIjoxfQ.eyJh IjoxfQ.AA", "claims_not_base64url"),
        ("eyJhIjoxfQ.eyJhIjoxfQ.+/AA", "signature_not_base64url"),
        ("_w.eyJhIjoxfQ.AA", "header_not_base64url"),
        ("W10.eyJhIjoxfQ.AA", "header_not_json"),
        ("eyJhIjoxfQ.W10.AA", "claims_not_json"),
        ("eyJhIjoxfQ.\u{e9}.AA", "claims_not_base64url"),
    ];
    for (token, expected) in rows {
        let read = Parts::split(token).and_then(|parts| {
            parts.read_header()?;
            parts.read_claims()?;
            parts.read_signature()
        });
        assert_eq!(read.as_ref().err().map_or("", |denial| denial.reason), *expected, "{token}");
    }
    assert_eq!(Parts::split(&".".repeat(MAX_TOKEN + 1)).err().unwrap().public, Public::BadRequest);
}

proptest! {
    #[test]
    fn any_whole_second_and_fraction_is_read_back(seconds in any::<u64>(), nanos in 0..1_000_000_000_u32) {
        prop_assert_eq!(parse(&format!("{seconds}.{nanos:09}")), at(seconds, nanos));
        prop_assert_eq!(parse(&seconds.to_string()), at(seconds, 0));
        prop_assert_eq!(parse(&format!("{seconds}{nanos:09}e-9")), at(seconds, nanos));
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in "[-+0-9.eE]{0,40}", json in "\\PC{0,60}", token in "\\PC{0,60}") {
        let _ = parse(&text);
        let _ = object(&json, Dates::Kept);
        if let Ok(parts) = Parts::split(&token) {
            let _ = (parts.read_header(), parts.read_claims(), parts.read_signature());
        }
    }
}
