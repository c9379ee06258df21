//! What a route tells its service with each upgrade: who comes, in headers made of verified claims; the client's own token,
//! if the service wants it; and a credential by which the service knows the gateway.
//!
//! Owns the shapes of the values. A header says the whole of its claim, or the request is refused: half of a list of roles
//! is another list. Does not clean what the client sent (`gateway::headers`, before). Called by the `forward` stage, before
//! anything is dialled; a renewal later on changes nothing of what was told.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::gateway::headers::spelling;
use crate::secret::{Secret, Token};
use crate::token::claims::named::Claim;
use crate::token::{Denial, Grant, Public};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    /// Claims that are sent in headers.
    pub identity: Vec<Identity>,
    /// Whether the client's token goes on, as `Authorization: Bearer`.
    pub pass_token: bool,
    /// By what the service knows the gateway.
    pub credential: Option<Credential>,
}

/// One claim that is sent to the service in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The header. A client's own copies, in any spelling of case and punctuation, are removed.
    pub header: HeaderName,
    /// The claim.
    pub claim: Claim,
    /// How its value is written.
    pub form: Form,
    /// How that text is made fit for a header.
    pub encoding: Encoding,
}

/// How the value of a claim is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string, number or boolean as its text; a list of them as their texts with a separator between.
    Join {
        /// What stands between; 1 to 8 characters, each a space or ASCII punctuation, and no `%`.
        separator: String,
        /// Whether a value that is no list counts as a list of one: the service takes every value apart.
        single: bool,
    },
    /// Any value as its JSON text, in ASCII.
    Json,
}

/// How the text of a claim is made fit for a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Standard base64 (RFC 4648, section 4) of the UTF-8 text.
    Base64,
    /// What is not visible ASCII, `%` and spaces at either end are percent-encoded (UTF-8); JSON stays as it is.
    #[default]
    Percent,
}

/// A header by which the service knows the gateway.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The header. A client's own copies are removed.
    pub header: HeaderName,
    /// Its whole value.
    pub value: Secret,
}

/// Why a claim cannot be said in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    #[error("an empty element cannot stand beside a separator of spaces")]
    Blank,
    #[error("the claim holds a control character")]
    Control,
    #[error("the claim has a number of 2^53 or more that is no 64-bit integer, and is not known exactly")]
    Inexact,
    #[error("the header would be larger than 8 KiB")]
    Large,
    #[error("the claim is an object, or a list that holds one, a list or null; list = \"json\" takes them")]
    Nested,
}

impl Introduction {
    /// The names of all headers that it may set, as [`spelling`] has them.
    pub fn spellings(&self) -> Vec<String> {
        let credential = self.credential.iter().map(|credential| &credential.header);
        let names = self.identity.iter().map(|identity| &identity.header).chain(credential);
        names.chain(self.pass_token.then_some(&AUTHORIZATION)).map(|name| spelling(name.as_str())).collect()
    }

    /// Sets the headers, in the place of what stood under their names. `token` is the one that was found good, on a route
    /// that passes it on. Refuses with [`Public::Forbidden`] a claim that cannot be said in its header.
    pub fn set(&self, headers: &mut HeaderMap, grant: &Grant, token: Option<&Token>) -> Result<(), Denial> {
        for identity in &self.identity {
            let value = identity.value(&grant.claims).map_err(|why| {
                Denial::new(Public::Forbidden, "identity_unusable", format!("{}: {why}", identity.header))
            })?;
            if let Some(value) = value {
                headers.insert(identity.header.clone(), value);
            }
        }
        if let Some(Credential { header, value }) = &self.credential {
            headers.insert(header.clone(), secret_value(value.expose().to_vec())?);
        }
        if self.pass_token {
            let detail = "the route passes tokens on, and there is none: the ticket was handed out before it did";
            let token = token.ok_or_else(|| Denial::new(Public::TokenInvalid, "ticket_without_token", detail))?;
            headers.insert(AUTHORIZATION, secret_value([b"Bearer ", token.expose().as_bytes()].concat())?);
        }
        Ok(())
    }
}

impl Identity {
    /// What the header says; `None` if there is nothing to say: the claim is absent, null or an empty list.
    fn value(&self, claims: &Map<String, Value>) -> Result<Option<HeaderValue>, Unusable> {
        let Some(claim) = self.claim.find(claims).filter(|claim| !claim.is_null()) else { return Ok(None) };
        let text = match (&self.form, claim) {
            (Form::Json, claim) if !is_exact(claim) => return Err(Unusable::Inexact),
            (Form::Json, claim) => ascii_json(claim),
            (Form::Join { .. }, Value::Array(list)) if list.is_empty() => return Ok(None),
            (Form::Join { separator, .. }, Value::Array(list)) => self.joined(list, separator)?,
            (Form::Join { separator, single: true }, claim) => self.element(claim, separator)?,
            (Form::Join { single: false, .. }, claim) => self.element(claim, "")?,
        };
        let text = match self.encoding {
            Encoding::Base64 => STANDARD.encode(text),
            Encoding::Percent => text,
        };
        if text.len() > LARGEST {
            return Err(Unusable::Large);
        }
        HeaderValue::from_str(&text).map(Some).map_err(|_| Unusable::Control)
    }

    fn joined(&self, list: &[Value], separator: &str) -> Result<String, Unusable> {
        let elements: Vec<String> =
            list.iter().map(|element| self.element(element, separator)).collect::<Result<_, _>>()?;
        // It would begin or end the value, and spaces there are not part of it (RFC 9110, section 5.5).
        if elements.len() > 1 && separator.trim().is_empty() && elements.iter().any(String::is_empty) {
            return Err(Unusable::Blank);
        }
        Ok(elements.join(separator))
    }

    /// One value as a text that holds no character of `separator`, so that no two lists become one text.
    fn element(&self, value: &Value, separator: &str) -> Result<String, Unusable> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) if !is_exact(value) => return Err(Unusable::Inexact),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return Err(Unusable::Nested),
        };
        if self.encoding == Encoding::Base64 {
            let ambiguous = |_: usize, c: char| !separator.is_empty() && (c == '%' || separator.contains(c));
            return Ok(percent_encoded(&text, ambiguous));
        }
        if text.contains(|c: char| c.is_ascii_control()) {
            return Err(Unusable::Control);
        }
        let first = text.len() - text.trim_start_matches(' ').len();
        let last = text.trim_end_matches(' ').len();
        let outer = |at| at < first || at >= last;
        Ok(percent_encoded(&text, |at, c| {
            !c.is_ascii() || c == '%' || separator.contains(c) || (c == ' ' && outer(at))
        }))
    }
}

/// Whether each number in it is the one that stands in the token. What is no 64-bit integer was read as a float, and from
/// 2^53 on a float stands for several whole numbers.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().is_some_and(|float| float.abs() < TWO_53),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        _ => true,
    }
}

/// The text, with the characters that are chosen, by their place and themselves, percent-encoded.
fn percent_encoded(text: &str, chosen: impl Fn(usize, char) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for (at, character) in text.char_indices() {
        if chosen(at, character) {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                encoded.push_str(percent_encoding::percent_encode_byte(byte));
            }
        } else {
            encoded.push(character);
        }
    }
    encoded
}

/// The JSON text of a value, in visible ASCII: whatever else there is stands in strings, where it can be escaped.
fn ascii_json(value: &Value) -> String {
    let text = value.to_string();
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    ascii
}

/// A header value that nothing shows, and whose memory is wiped.
fn secret_value(bytes: Vec<u8>) -> Result<HeaderValue, Denial> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Zeroizing::new(bytes)))
        .map_err(|_| Denial::new(Public::TokenInvalid, "token_not_text", "the token cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

const TWO_53: f64 = 9_007_199_254_740_992.0;
/// The largest value of an identity header, bytes.
const LARGEST: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(claim: &str, form: Form, encoding: Encoding) -> Identity {
        Identity { header: HeaderName::from_static("x-user"), claim: Claim::parse(claim).unwrap(), form, encoding }
    }

    fn joined(separator: &str) -> Form {
        Form::Join { separator: separator.to_owned(), single: false }
    }

    fn said(identity: &Identity, claim: &Value) -> Result<Option<String>, Unusable> {
        let claims = Map::from_iter([("sub".to_owned(), claim.clone())]);
        identity.value(&claims).map(|value| value.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn claims_become_header_values_that_no_other_claim_gives() {
        use Unusable::{Control, Nested};
        let table = [
            (json!("ann"), Ok(Some("ann"))),
            (json!("Zoë"), Ok(Some("Zo%C3%AB"))),
            (json!("Zo%C3%AB"), Ok(Some("Zo%25C3%25AB"))),
            (json!(" ann "), Ok(Some("%20ann%20"))),
            (json!("   "), Ok(Some("%20%20%20"))),
            (json!("ann b"), Ok(Some("ann b"))),
            (json!("Doe, Ann"), Ok(Some("Doe, Ann"))),
            (json!(""), Ok(Some(""))),
            (json!(17), Ok(Some("17"))),
            (json!(true), Ok(Some("true"))),
            (json!("a\r\nX-Admin: 1"), Err(Control)),
            (json!("a\nb"), Err(Control)),
            (json!("a\u{0}b"), Err(Control)),
            (json!("a\tb"), Err(Control)),
            (json!("a\u{7f}b"), Err(Control)),
            (json!(["a", "b\r"]), Err(Control)),
            (json!(null), Ok(None)),
            (json!([]), Ok(None)),
            (json!(["ann"]), Ok(Some("ann"))),
            (json!([""]), Ok(Some(""))),
            (json!(["a", 7, true, "Zoë"]), Ok(Some("a,7,true,Zo%C3%AB"))),
            (json!(["a,b", " c", "%2C"]), Ok(Some("a%2Cb,%20c,%252C"))),
            (json!({}), Err(Nested)),
            (json!([["a"]]), Err(Nested)),
            (json!(["a", null]), Err(Nested)),
            (json!("x".repeat(8192)), Ok(Some(&*"x".repeat(8192)))),
            (json!("x".repeat(8193)), Err(Unusable::Large)),
            (json!("é".repeat(1366)), Err(Unusable::Large)),
            (json!(u64::MAX), Ok(Some("18446744073709551615"))),
            (json!(i64::MIN), Ok(Some("-9223372036854775808"))),
            (json!(0.5), Ok(Some("0.5"))),
            (json!(-9_007_199_254_740_991.0), Ok(Some("-9007199254740991.0"))),
            (json!(9_007_199_254_740_992.0), Err(Unusable::Inexact)),
            (json!(-9_007_199_254_740_992.0), Err(Unusable::Inexact)),
            (json!(["a", 1.234_567_890_123_456_8e22]), Err(Unusable::Inexact)),
        ];
        let percent = identity("sub", joined(","), Encoding::Percent);
        for (claim, expected) in table {
            assert_eq!(said(&percent, &claim), expected.map(|text| text.map(str::to_owned)), "{claim}");
        }
        assert_eq!(percent.value(&Map::new()), Ok(None));
    }

    #[test]
    fn no_two_lists_give_the_same_header_whatever_the_separator() {
        let pieces = ["", "a", ",", ";", " ", "a,", ";a", "%2C", ", ", "a b", "%"];
        let mut lists: Vec<Vec<&str>> = vec![vec![]];
        for first in pieces {
            lists.push(vec![first]);
            for second in pieces {
                lists.push(vec![first, second]);
                lists.extend(pieces.map(|third| vec![first, second, third]));
            }
        }
        for separator in [",", ", ", ";", ",,", " ", " ; ", "|"] {
            for encoding in [Encoding::Percent, Encoding::Base64] {
                let identity = identity("sub", joined(separator), encoding);
                let mut seen = std::collections::BTreeMap::new();
                for list in &lists {
                    match said(&identity, &json!(list)) {
                        // As a reader of HTTP has it.
                        Ok(value) => {
                            let other = seen.insert(value.map(|value| value.trim().to_owned()), list);
                            assert_eq!(other, None, "{separator:?}: {list:?}");
                        }
                        Err(why) => assert_eq!((why, separator), (Unusable::Blank, " "), "{list:?}"),
                    }
                }
                assert!(seen.len() > 1000, "{separator:?}: only {} lists", seen.len());
            }
        }
    }

    #[test]
    fn where_a_service_takes_every_value_apart_a_text_is_a_list_of_one() {
        let form = Form::Join { separator: " ".to_owned(), single: true };
        let identity = identity("sub", form, Encoding::Percent);
        assert_eq!(said(&identity, &json!("user admin")), Ok(Some("user%20admin".to_owned())));
        assert_eq!(said(&identity, &json!(["user", "admin"])), Ok(Some("user admin".to_owned())));
    }

    #[test]
    fn numbers_that_are_read_as_one_are_not_told_as_one() {
        for form in [Form::Json, joined(",")] {
            for (text, exact) in [
                ("12345678901234567890123", false),
                ("12345678901234567890124", false),
                ("-9223372036854775809", false),
                ("9007199254740993.0", false),
                ("18446744073709551615", true),
                ("9007199254740993", true),
                ("0.1", true),
            ] {
                let identity = identity("sub", form.clone(), Encoding::Base64);
                let list = format!("[{text},\"a\"]");
                for claim in [text, &list] {
                    let claims = crate::token::claims::json::object(
                        &format!("{{\"sub\":{claim}}}"),
                        crate::token::claims::json::Dates::Plain,
                    );
                    let said = identity.value(&claims.unwrap().members);
                    assert_eq!(said.is_ok(), exact, "{claim}: {said:?}");
                }
            }
        }
        let json = identity("sub", Form::Json, Encoding::Percent);
        assert_eq!(said(&json, &json!({"a": [{"b": [1, {"c": 1e300}]}]})), Err(Unusable::Inexact));
    }

    #[test]
    fn json_and_base64_carry_every_value() {
        let value = json!({"a": ["Zoë 🦀", "\r\n\u{0}\u{7f}"], "b": 1.5});
        let json = identity("sub", Form::Json, Encoding::Percent);
        let text = said(&json, &value).unwrap().unwrap();
        assert_eq!(text, r#"{"a":["Zo\u00eb \ud83e\udd80","\r\n\u0000\u007f"],"b":1.5}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        let encoded = said(&identity("sub", Form::Json, Encoding::Base64), &value).unwrap().unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), text.as_bytes());
        assert_eq!(said(&json, &json!("a")), Ok(Some("\"a\"".to_owned())));
        assert_eq!(said(&json, &json!([])), Ok(Some("[]".to_owned())));
        assert_eq!(said(&json, &Value::Null), Ok(None));

        let base64 = identity("sub", joined(","), Encoding::Base64);
        for (claim, text) in
            [(json!("Zoë, 5 %\r\n"), "Zoë, 5 %\r\n"), (json!(["Zoë", "a,b", "5 %", "\n"]), "Zoë,a%2Cb,5 %25,\n")]
        {
            assert_eq!(said(&base64, &claim), Ok(Some(STANDARD.encode(text))), "{claim}");
        }
        let large = json!("x".repeat(6145));
        assert_eq!(said(&base64, &large), Err(Unusable::Large), "counted as it is sent");
    }

    #[test]
    fn what_is_secret_cannot_be_printed_and_takes_the_place_of_what_stood_there() {
        let credential =
            Credential { header: HeaderName::from_static("x-gate"), value: Secret::new(b"swordfish".into()) };
        let introduction = Introduction { identity: Vec::new(), pass_token: true, credential: Some(credential) };
        let grant = Grant {
            principal: crate::token::Principal::new(&[]),
            expiry: None,
            issuer: "i".into(),
            jti: None,
            marks: crate::token::Marks::default(),
            fingerprint: crate::secret::fingerprint(b""),
            claims: std::sync::Arc::default(),
        };
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic eDp6"));
        let missing = introduction.set(&mut headers.clone(), &grant, None).unwrap_err();
        assert_eq!((missing.public, missing.reason), (Public::TokenInvalid, "ticket_without_token"));
        introduction.set(&mut headers, &grant, Some(&Token::new("a.swordfish.c".into()))).unwrap();
        let values: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
        assert_eq!(values, ["Bearer a.swordfish.c"]);
        assert_eq!(headers["x-gate"], "swordfish");
        let printed = format!("{headers:?} {introduction:?}");
        assert!(!printed.contains("swordfish"), "{printed}");
        assert_eq!(introduction.spellings(), ["x-gate", "authorization"]);
    }
}
