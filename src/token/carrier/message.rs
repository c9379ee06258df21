//! The token in a stream's first message: the whole of it, or a string in its JSON.

use std::borrow::Cow;

use serde_json::Value;

use super::MAX_TOKEN;
use crate::secret::Token;
use crate::token::claims::json::{self, Dates};

/// A place in a JSON text (RFC 6901). A step into a string goes on inside, if the string is itself a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads `/a/b`; `None` for what is no pointer, or one to the whole.
    pub fn parse(text: &str) -> Option<Self> {
        let steps = text.strip_prefix('/')?.split('/');
        let unescaped = |step: &str| {
            let escapes_are_good = step.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            escapes_are_good.then(|| step.replace("~1", "/").replace("~0", "~"))
        };
        steps.map(unescaped).collect::<Option<_>>().map(Self)
    }

    fn find<'v>(&self, value: &'v Value) -> Option<Cow<'v, Value>> {
        self.0.iter().try_fold(Cow::Borrowed(value), |value, step| into(value, step))
    }
}

fn into<'v>(value: Cow<'v, Value>, step: &str) -> Option<Cow<'v, Value>> {
    if let Value::String(text) = &*value {
        let inner = json::object(text, Dates::Plain).ok()?;
        return inner.members.get(step).cloned().map(Cow::Owned);
    }
    match value {
        Cow::Borrowed(Value::Array(items)) => items.get(index(step)?).map(Cow::Borrowed),
        Cow::Borrowed(value) => value.get(step).map(Cow::Borrowed),
        Cow::Owned(Value::Array(items)) => items.into_iter().nth(index(step)?).map(Cow::Owned),
        Cow::Owned(mut value) => value.get_mut(step).map(Value::take).map(Cow::Owned),
    }
}

/// RFC 6901, section 4: digits without a zero in front.
fn index(step: &str) -> Option<usize> {
    let canonical = step == "0" || !step.starts_with(['0', '+']);
    canonical.then(|| step.parse().ok())?
}

/// Where in the first message the token stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageToken {
    /// The place of the token; `None`: the message is the token.
    pub pointer: Option<Pointer>,
    /// What kind of message it must be: a place, and the string there.
    pub kind: Option<(Pointer, String)>,
}

/// Why no token can be read from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is the right message, and has no token.
    Missing,
    /// It is not what it must be; says what it is instead, without any of its text.
    Message(&'static str),
}

impl MessageToken {
    /// Finds the token in the payload of a text message. `Bearer ` in front of it, in any case, is taken off.
    ///
    /// JSON is read strictly: a member that stands twice could be one thing here and another to the service.
    pub fn find(&self, message: &[u8]) -> Result<Token, Unusable> {
        let text = str::from_utf8(message).map_err(|_| Unusable::Message("the first message is not UTF-8"))?;
        let Some(pointer) = &self.pointer else { return token(text) };
        let object = json::object(text, Dates::Plain);
        let object = object.map_err(|_| Unusable::Message("the first message is no strict JSON object"))?;
        let whole = Value::Object(object.members);
        if let Some((place, kind)) = &self.kind
            && place.find(&whole).is_none_or(|found| found.as_str() != Some(kind))
        {
            return Err(Unusable::Message("the first message is of another type"));
        }
        match pointer.find(&whole).as_deref() {
            None | Some(Value::Null) => Err(Unusable::Missing),
            Some(Value::String(text)) => token(text),
            Some(_) => Err(Unusable::Message("the token in the first message is no string")),
        }
    }
}

fn token(text: &str) -> Result<Token, Unusable> {
    let text = text.trim_ascii();
    let (scheme, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let text = if scheme.eq_ignore_ascii_case("bearer") { rest.trim_ascii() } else { text };
    match text.len() {
        0 => Err(Unusable::Missing),
        1..=MAX_TOKEN => Ok(Token::new(text.to_owned())),
        _ => Err(Unusable::Message("the token in the first message is larger than 8 KiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pointer: Option<&str>, kind: Option<(&str, &str)>) -> MessageToken {
        let parse = |text: &str| Pointer::parse(text).expect("a pointer");
        MessageToken { pointer: pointer.map(parse), kind: kind.map(|(place, kind)| (parse(place), kind.to_owned())) }
    }

    #[test]
    fn the_token_is_found_where_each_protocol_has_it() {
        let graphql = rule(Some("/payload/Authorization"), Some(("/type", "connection_init")));
        let cable = rule(Some("/identifier/token"), Some(("/command", "subscribe")));
        let rows: [(&MessageToken, &str, Result<&str, Unusable>); 23] = [
            (&rule(None, None), "a.b.c", Ok("a.b.c")),
            (&rule(None, None), " Bearer  a.b.c\n", Ok("a.b.c")),
            (&rule(None, None), "bearer a.b.c", Ok("a.b.c")),
            (&rule(None, None), "", Err(Unusable::Missing)),
            (&rule(None, None), "Bearer ", Err(Unusable::Missing)),
            (&rule(None, None), "{\"token\":\"a.b.c\"}", Ok("{\"token\":\"a.b.c\"}")),
            (&graphql, r#"{"type":"connection_init","payload":{"Authorization":"Bearer a.b.c"}}"#, Ok("a.b.c")),
            (&graphql, r#"{"payload":{"Authorization":"a.b.c"},"type":"connection_init"}"#, Ok("a.b.c")),
            (&graphql, r#"{"type":"connection_init"}"#, Err(Unusable::Missing)),
            (&graphql, r#"{"type":"connection_init","payload":null}"#, Err(Unusable::Missing)),
            (&graphql, r#"{"type":"connection_init","payload":{"Authorization":null}}"#, Err(Unusable::Missing)),
            (&graphql, r#"{"type":"connection_init","payload":{"Authorization":""}}"#, Err(Unusable::Missing)),
            (&graphql, r#"{"type":"connection_init","payload":{"Authorization":7}}"#, NOT_A_STRING),
            (&graphql, r#"{"type":"ping","payload":{"Authorization":"a.b.c"}}"#, OTHER_TYPE),
            (&graphql, r#"{"type":["connection_init"],"payload":{"Authorization":"a.b.c"}}"#, OTHER_TYPE),
            (&graphql, r#"{"payload":{"Authorization":"a.b.c"}}"#, OTHER_TYPE),
            (&graphql, r#"{"type":"connection_init","payload":{"Authorization":"a","Authorization":"b"}}"#, NOT_JSON),
            (&graphql, "a.b.c", NOT_JSON),
            (&rule(Some("/access_token"), Some(("/type", "auth"))), r#"{"type":"auth","access_token":"t"}"#, Ok("t")),
            (&rule(Some("/connect/token"), None), r#"{"id":1,"connect":{"token":"t"}}"#, Ok("t")),
            (&rule(Some("/1/token"), None), r#"[0,{"token":"t"}]"#, NOT_JSON),
            (&cable, r#"{"command":"subscribe","identifier":"{\"channel\":\"X\",\"token\":\"t\"}"}"#, Ok("t")),
            (&cable, r#"{"command":"subscribe","identifier":"{\"token\":"}"#, Err(Unusable::Missing)),
        ];
        for (rule, message, expected) in rows {
            let found = rule.find(message.as_bytes());
            assert_eq!(found.as_ref().map(Token::expose).map_err(|error| *error), expected, "{message}");
        }
    }

    const OTHER_TYPE: Result<&str, Unusable> = Err(Unusable::Message("the first message is of another type"));
    const NOT_JSON: Result<&str, Unusable> = Err(Unusable::Message("the first message is no strict JSON object"));
    const NOT_A_STRING: Result<&str, Unusable> = Err(Unusable::Message("the token in the first message is no string"));

    #[test]
    fn pointers_are_those_of_rfc_6901() {
        let message = br#"{"a/b":{"m~n":"t"},"list":["u",["v"]],"":"w"}"#;
        for (pointer, token) in [("/a~1b/m~0n", "t"), ("/list/0", "u"), ("/list/1/0", "v"), ("/", "w")] {
            assert_eq!(rule(Some(pointer), None).find(message).unwrap().expose(), token, "{pointer}");
        }
        for pointer in ["/list/00", "/list/+1", "/list/-", "/list/2", "/a/b"] {
            assert_eq!(rule(Some(pointer), None).find(message), Err(Unusable::Missing), "{pointer}");
        }
        for bad in ["", "a", "/~", "/~2", "/a/~"] {
            assert_eq!(Pointer::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn neither_a_large_token_nor_one_that_is_no_text_is_taken() {
        let whole = rule(None, None);
        assert!(whole.find(&[b'x'; MAX_TOKEN]).is_ok());
        assert!(matches!(whole.find(&[b'x'; MAX_TOKEN + 1]), Err(Unusable::Message(_))));
        assert!(matches!(whole.find(b"a\xffb"), Err(Unusable::Message(_))));
    }
}
