//! Strict JSON objects: no duplicate members at any level, bounded depth (RFC 7515, section 4; RFC 7519, section 4).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::Claims;
use super::date;

/// How deep objects and arrays may be nested, the outermost object counted.
const MAX_DEPTH: u8 = 16;
const DUPLICATE: &str = "duplicate member";
const DEEP: &str = "nested too deep";

/// Why a text is no strict JSON object. The text itself is never told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A member stands twice in one object.
    #[error("a member stands twice in one object")]
    Duplicate,
    /// Nested deeper than 16 levels.
    #[error("nested deeper than 16 levels")]
    Deep,
    /// Not JSON, no object, a number out of range, or text after the object.
    #[error("not a JSON object")]
    Malformed,
}

/// What to do with `exp`, `nbf` and `iat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dates {
    /// Read them as times, from their own digits.
    Kept,
    /// They are members like any other.
    Plain,
}

/// Reads one strict JSON object.
pub fn object(text: &str, dates: Dates) -> Result<Claims, JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(TopLevel { dates }).and_then(|claims| reader.end().map(|()| claims));
    read.map_err(|error| {
        // The reader's own errors begin with other words.
        let text = error.to_string();
        if text.starts_with(DUPLICATE) {
            JsonError::Duplicate
        } else if text.starts_with(DEEP) {
            JsonError::Deep
        } else {
            JsonError::Malformed
        }
    })
}

struct TopLevel {
    dates: Dates,
}

impl<'de> Visitor<'de> for TopLevel {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Claims, A::Error> {
        let mut claims = Claims::default();
        while let Some(name) = access.next_key::<String>()? {
            let date = match name.as_str() {
                "exp" => Some(&mut claims.exp),
                "nbf" => Some(&mut claims.nbf),
                "iat" => Some(&mut claims.iat),
                _ => None,
            };
            let value = match date {
                Some(date) if self.dates == Dates::Kept => {
                    let raw: &RawValue = access.next_value()?;
                    *date = Some(date::parse(raw.get()));
                    // A number that no float holds is refused as a time; it needs no value then.
                    serde_json::from_str(raw.get()).unwrap_or(Value::Null)
                }
                _ => access.next_value_seed(Strict { depth: 1 })?,
            };
            insert(&mut claims.members, name, value)?;
        }
        Ok(claims)
    }
}

/// Any value; `depth` counts the objects and arrays around it.
#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(DEEP));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let value = access.next_value_seed(inner)?;
            insert(&mut members, name, value)?;
        }
        Ok(Value::Object(members))
    }
}

fn insert<E: serde::de::Error>(members: &mut Map<String, Value>, name: String, value: Value) -> Result<(), E> {
    match members.insert(name, value) {
        None => Ok(()),
        Some(_) => Err(E::custom(DUPLICATE)),
    }
}
