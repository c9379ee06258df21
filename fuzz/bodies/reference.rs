//! JSON as RFC 8259 has it, read by nobody's library and with every member kept, also one that stands twice: what the
//! fuzz targets compare the gateway's own reading with. And tokens signed by a key that they know.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::clock::{Mono, Now, Wall};
use portcullis::secret::{Secret, Token};
use portcullis::token::KeyRing;
use portcullis::token::keys::Algorithm;
use portcullis::token::verify::{Issuer, Verifier};

/// A value; numbers are their text.
#[derive(Debug)]
pub enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads the whole text as one value.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut reader = Reader { rest: text, depth: 0 };
        let value = reader.value()?;
        reader.space();
        reader.rest.is_empty().then_some(value)
    }

    /// The only member of this name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Whether no object in it names a member twice, and no number is larger than any float.
    pub fn is_strict(&self) -> bool {
        match self {
            Self::Number(text) => text.parse::<f64>().is_ok_and(f64::is_finite),
            Self::List(values) => values.iter().all(Self::is_strict),
            Self::Object(members) => {
                let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
                names.sort();
                names.windows(2).all(|pair| pair[0] != pair[1]) && members.iter().all(|(_, value)| value.is_strict())
            }
            _ => true,
        }
    }

    /// How many objects and lists stand one in the other.
    pub fn depth(&self) -> usize {
        match self {
            Self::List(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

struct Reader<'t> {
    rest: &'t str,
    depth: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn eat(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    fn value(&mut self) -> Option<Json> {
        self.space();
        match self.rest.chars().next()? {
            'n' => self.eat("null").map(|()| Json::Null),
            't' => self.eat("true").map(|()| Json::Bool(true)),
            'f' => self.eat("false").map(|()| Json::Bool(false)),
            '"' => self.string().map(Json::Text),
            '[' => self.nested(Self::list),
            '{' => self.nested(Self::object),
            _ => self.number(),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Option<Json>) -> Option<Json> {
        self.depth += 1;
        // Deeper than anything that counts, and not too deep for the stack.
        let value = (self.depth < 1000).then(|| read(self)).flatten();
        self.depth -= 1;
        value
    }

    fn list(&mut self) -> Option<Json> {
        self.eat("[")?;
        self.space();
        let mut values = Vec::new();
        if self.eat("]").is_some() {
            return Some(Json::List(values));
        }
        loop {
            values.push(self.value()?);
            self.space();
            if self.eat("]").is_some() {
                return Some(Json::List(values));
            }
            self.eat(",")?;
        }
    }

    fn object(&mut self) -> Option<Json> {
        self.eat("{")?;
        self.space();
        let mut members = Vec::new();
        if self.eat("}").is_some() {
            return Some(Json::Object(members));
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.eat(":")?;
            members.push((name, self.value()?));
            self.space();
            if self.eat("}").is_some() {
                return Some(Json::Object(members));
            }
            self.eat(",")?;
        }
    }

    fn number(&mut self) -> Option<Json> {
        let start = self.rest;
        let _ = self.eat("-");
        if self.eat("0").is_none() {
            self.digits()?;
        }
        if self.eat(".").is_some() {
            self.digits()?;
        }
        if self.rest.starts_with(['e', 'E']) {
            self.rest = &self.rest[1..];
            if self.rest.starts_with(['+', '-']) {
                self.rest = &self.rest[1..];
            }
            self.digits()?;
        }
        Some(Json::Number(start[..start.len() - self.rest.len()].to_owned()))
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let some = rest.len() < self.rest.len();
        self.rest = rest;
        some.then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.eat("\"")?;
        let mut text = String::new();
        loop {
            let next = self.rest.chars().next()?;
            self.rest = &self.rest[next.len_utf8()..];
            match next {
                '"' => return Some(text),
                '\\' => text.push(self.escape()?),
                '\0'..='\x1f' => return None,
                other => text.push(other),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let kind = self.rest.chars().next()?;
        self.rest = &self.rest[kind.len_utf8()..];
        Some(match kind {
            '"' | '\\' | '/' => kind,
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.unit()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first);
                }
                self.eat("\\u")?;
                let second = self.unit()?;
                if !(0xdc00..0xe000).contains(&second) {
                    return None;
                }
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(4)?;
        let unit = digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16));
        self.rest = rest;
        unit?.ok()
    }
}

/// The second at which every token is judged.
pub const NOW: u64 = 1_700_000_000;

/// That second, and these nanoseconds.
pub fn now(nanos: u32) -> Now {
    Now { wall: Wall::from_epoch(Duration::new(NOW, nanos)), mono: Mono::default() }
}

const SECRET: [u8; 32] = *b"a secret that only fuzzing knows";

/// An issuer that signs with HS256.
pub fn issuer() -> Issuer {
    let mut keys = KeyRing::default();
    keys.add_secret(Algorithm::HS256, None, &Secret::new(SECRET.to_vec())).unwrap();
    Issuer::new("fuzz".into(), keys)
}

/// The judge of a route with this issuer.
pub fn verifier(issuer: Issuer) -> Verifier {
    Verifier::new(vec![Arc::new(issuer)])
}

/// A token of that issuer with this header and these claims, as they are.
pub fn sign(header: &[u8], claims: &[u8]) -> Token {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    Token::new(format!("{signed}.{signature}"))
}
