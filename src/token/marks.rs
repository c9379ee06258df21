//! What a revocation may name of a token, in the few bytes that a live stream keeps of it.

use std::borrow::Cow;
use std::num::NonZeroU64;

use serde_json::{Map, Value};

use crate::clock::Wall;
use crate::secret;
use crate::token::keys::KeyId;

/// Which claim a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One token: `jti` (RFC 7519, section 4.1.7).
    Jti,
    /// A session: `sid` (OpenID Connect Front-Channel Logout 1.0, section 3).
    Sid,
    /// A subject: `sub` (RFC 7519, section 4.1.2).
    Sub,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Jti, Self::Sid, Self::Sub];

    /// The claim's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Sid => "sid",
            Self::Sub => "sub",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One claim of one issuer: 128 bits of a SHA-256 over kind, issuer and value. Whoever can make two values with the same
/// mark only shares a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark(
    /// Not zero, so that an absent mark takes no room of its own.
    NonZeroU64,
    u64,
);

impl Mark {
    /// The mark of this claim. `issuer` is the `iss` that the config has for the issuer, or its name in the config where
    /// `iss` is not checked.
    pub fn new(kind: Kind, issuer: &str, value: &str) -> Self {
        // The length keeps two issuers apart whose names begin alike.
        let length = (issuer.len() as u64).to_be_bytes();
        let text = [kind.as_str().as_bytes(), &length, issuer.as_bytes(), value.as_bytes()].concat();
        let hash = secret::sha256(&text);
        let [first, second, ..] = hash.as_chunks::<8>().0 else { return Self(NonZeroU64::MIN, 0) };
        Self(NonZeroU64::new(u64::from_be_bytes(*first)).unwrap_or(NonZeroU64::MIN), u64::from_be_bytes(*second))
    }

    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        ((self.0.get() as u128) << 64 | self.1 as u128).to_be_bytes()
    }
}

/// What a revocation may name of one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    jti: Option<Mark>,
    sid: Option<Mark>,
    sub: Option<Mark>,
    /// `iat` in whole seconds, rounded down; 0 if there is none: then the token counts as older than any other.
    issued: u64,
    /// The key that has signed it, if that came in a set.
    key: Option<KeyId>,
}

impl Marks {
    /// The marks of verified claims; a claim that is absent or null has none. `issuer` as for [`Mark::new`].
    pub fn new(issuer: &str, claims: &Map<String, Value>, issued: Option<Wall>) -> Self {
        let mark = |kind: Kind| {
            let value = text(claims.get(kind.as_str())?)?;
            Some(Mark::new(kind, issuer, &value))
        };
        Self {
            jti: mark(Kind::Jti),
            sid: mark(Kind::Sid),
            sub: mark(Kind::Sub),
            issued: issued.map_or(0, Wall::as_secs),
            key: None,
        }
    }

    /// The same, of a token that this key has signed.
    #[must_use]
    pub const fn signed_with(self, key: Option<KeyId>) -> Self {
        Self { key, ..self }
    }

    /// The key that has signed the token, if that came in a set.
    pub const fn key(&self) -> Option<KeyId> {
        self.key
    }

    /// The mark of this kind, if the token has one.
    pub const fn of(&self, kind: Kind) -> Option<Mark> {
        match kind {
            Kind::Jti => self.jti,
            Kind::Sid => self.sid,
            Kind::Sub => self.sub,
        }
    }

    /// Whether the token was issued before `seconds` since the epoch. One without `iat` was.
    pub const fn issued_before(&self, seconds: u64) -> bool {
        self.issued < seconds
    }
}

/// The text by which a claim's value is named: a string as it is, anything else in its JSON text, so that the number 42 and
/// the string "42" share their bans. `None` for null, which is no value.
pub fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.into()),
        other => Some(other.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn marks(claims: &Value) -> Marks {
        let issued = claims["iat"].as_f64().map(|seconds| Wall::from_epoch(Duration::from_secs_f64(seconds)));
        Marks::new("issuer", claims.as_object().unwrap(), issued)
    }

    #[test]
    fn a_mark_differs_by_kind_issuer_and_value() {
        let one = Mark::new(Kind::Sub, "a", "bc");
        assert_eq!(one, Mark::new(Kind::Sub, "a", "bc"));
        for other in [
            Mark::new(Kind::Sid, "a", "bc"),
            Mark::new(Kind::Sub, "ab", "c"),
            Mark::new(Kind::Sub, "a", "bd"),
            Mark::new(Kind::Sub, "", "abc"),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(one.to_bytes()[..8], one.0.get().to_be_bytes());
    }

    #[test]
    fn whatever_is_not_null_has_a_mark_and_a_number_that_of_its_digits() {
        for (value, text) in [
            (json!("x"), "x"),
            (json!(42), "42"),
            (json!(-7), "-7"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(1.5), "1.5"),
            (json!(true), "true"),
            (json!({"b": [1], "a": "x"}), "{\"a\":\"x\",\"b\":[1]}"),
        ] {
            let marks = marks(&json!({"jti": value, "sub": value, "sid": null}));
            assert_eq!(marks.of(Kind::Jti), Some(Mark::new(Kind::Jti, "issuer", text)), "{value}");
            assert_eq!(marks.of(Kind::Sub), Some(Mark::new(Kind::Sub, "issuer", text)), "{value}");
            assert_eq!(marks.of(Kind::Sid), None);
        }
    }

    #[test]
    fn a_token_without_iat_is_older_than_any_and_fractions_count_down() {
        assert!(marks(&json!({})).issued_before(1));
        assert!(marks(&json!({"iat": 99.9})).issued_before(100));
        assert!(!marks(&json!({"iat": 100.0})).issued_before(100));
        assert!(!marks(&json!({"iat": 100.5})).issued_before(100));
    }

    #[test]
    fn the_marks_of_a_stream_take_no_more_room_than_they_must() {
        assert_eq!(size_of::<Option<Mark>>(), 16);
        assert_eq!(size_of::<Marks>(), 64);
    }
}
