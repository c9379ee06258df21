//! Any request, under any choice of carriers. The fuzz target and `tests/fuzz_corpus.rs` share this.
//!
//! Nothing of a token stays where it was taken from; what is no carrier's keeps its bytes and its order; the answer is
//! always an entry that the client sent, and never the token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis::secret::Token;
use portcullis::token::Carrier;
use portcullis::token::carrier::{self, Left};

/// A token with a look of its own.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";

/// Plays one script: a byte that chooses the carriers, and lines: the query, then headers as `X value`, of which X says
/// which. A byte of 1 to 4 stands for the token, plain, with a letter escaped, in base64url, or another token.
pub fn run(script: &[u8]) {
    let Some((chosen, lines)) = script.split_first() else { return };
    let carriers = carriers(*chosen);
    let mut lines = lines.split(|byte| *byte == b'\n').map(fill);
    let query = lines.next().filter(|query| !query.is_empty()).and_then(|query| String::from_utf8(query).ok());
    let mut headers = HeaderMap::new();
    for line in lines.take(50) {
        let (Some(kind), Some(value)) = (line.first(), line.get(2..)) else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(NAMES[usize::from(*kind) % NAMES.len()].clone(), value);
    }
    let given = Given { carriers: &carriers, query: query.as_deref(), headers: &headers };
    let answerable = carrier::answerable(&carriers, &headers, None);
    if let Ok(Some(entry)) = &answerable {
        assert!(given.entries().contains(entry) && entry != TOKEN, "{entry}");
    }
    if let Ok((token, left)) = carrier::take_any(&carriers, query.as_deref(), &headers) {
        given.check(token.as_ref(), &left);
    }
    if let Ok(taken) = carrier::take(&carriers, query.as_deref(), &headers) {
        assert!(!taken.token.expose().is_empty() && taken.token.expose().len() <= carrier::MAX_TOKEN);
    }
    parameter(query.as_deref());
}

/// A ticket or a handle, taken out of the query alone.
fn parameter(query: Option<&str>) {
    let Ok((rest, value)) = carrier::take_parameter(query, "t") else { return };
    let named = |pair: &&str| decoded_name(pair) == b"t";
    let expected: Vec<&str> =
        query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !named(pair)).collect();
    let some_taken = query.is_some_and(|query| query.split('&').any(|pair| named(&pair)));
    assert_eq!(rest, join(query, &expected, some_taken));
    assert!(value.is_none() || some_taken);
}

const NAMES: [HeaderName; 5] = [
    http::header::AUTHORIZATION,
    http::header::COOKIE,
    http::header::SEC_WEBSOCKET_PROTOCOL,
    http::header::ORIGIN,
    HeaderName::from_static("x-other"),
];

fn carriers(chosen: u8) -> Vec<Carrier> {
    let all = [
        Carrier::Query("access_token".into()),
        Carrier::SubprotocolPair,
        Carrier::SubprotocolPrefix("jwt.".into()),
        Carrier::SubprotocolEncoded("b64.".into()),
        Carrier::Header,
        Carrier::Cookie("session".into()),
        Carrier::Query("t".into()),
        Carrier::Cookie("t".into()),
    ];
    all.into_iter().enumerate().filter(|(at, _)| chosen & 1 << at != 0).map(|(_, carrier)| carrier).collect()
}

fn fill(line: &[u8]) -> Vec<u8> {
    let mut filled = Vec::new();
    for byte in line {
        match byte {
            1 => filled.extend_from_slice(TOKEN.as_bytes()),
            2 => filled.extend_from_slice(TOKEN.replacen('e', "%65", 1).as_bytes()),
            3 => filled.extend_from_slice(URL_SAFE_NO_PAD.encode(TOKEN).as_bytes()),
            4 => filled.extend_from_slice(b"another.token.altogether"),
            other => filled.push(*other),
        }
    }
    filled
}

struct Given<'a> {
    carriers: &'a [Carrier],
    query: Option<&'a str>,
    headers: &'a HeaderMap,
}

impl Given<'_> {
    fn check(&self, token: Option<&Token>, left: &Left) {
        self.check_query(left);
        self.check_headers(left);
        let entries = self.entries();
        assert!(left.subprotocols.iter().all(|entry| entries.contains(entry)));
        assert_eq!(list(&left.headers), left.subprotocols, "the header says what is left");
        if let Some(fallback) = &left.fallback_subprotocol {
            assert!(entries.contains(fallback), "{fallback} was not offered");
        }
        let Some(token) = token else { return };
        let encoded = URL_SAFE_NO_PAD.encode(token.expose());
        let is_token = |entry: &String| *entry == token.expose() || *entry == encoded;
        assert!(!left.subprotocols.iter().any(is_token), "the token goes on as a subprotocol");
        // A client may name its token `bearer`; then the answer is the marker before it.
        let answers_token = left.fallback_subprotocol.as_ref().is_some_and(is_token);
        assert!(!answers_token || token.expose() == "bearer", "the token is answered");
        assert!(entries.is_empty() || left.fallback_subprotocol.is_some(), "an offer without an answer");
        for entry in &left.subprotocols {
            assert!(!self.prefixes().any(|prefix| entry.starts_with(prefix)), "{entry}");
        }
    }

    fn check_query(&self, left: &Left) {
        let ours = |pair: &&str| {
            let name = decoded_name(pair);
            self.carriers.iter().any(|carrier| matches!(carrier, Carrier::Query(own) if own.as_bytes() == name))
        };
        let pairs = || self.query.into_iter().flat_map(|query| query.split('&'));
        let expected: Vec<&str> = pairs().filter(|pair| !ours(pair)).collect();
        let some_taken = pairs().any(|pair| ours(&pair));
        assert_eq!(left.query, join(self.query, &expected, some_taken));
    }

    fn check_headers(&self, left: &Left) {
        for name in [&NAMES[3], &NAMES[4]] {
            assert!(self.headers.get_all(name).iter().eq(left.headers.get_all(name)), "{name} was changed");
        }
        let header = self.carriers.contains(&Carrier::Header);
        let bearer = |value: &&HeaderValue| {
            let value = value.as_bytes().trim_ascii();
            let scheme = value.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
            header && scheme.eq_ignore_ascii_case(b"bearer")
        };
        let others = self.headers.get_all(&NAMES[0]).iter().filter(|value| !bearer(value));
        assert!(left.headers.get_all(&NAMES[0]).iter().eq(others), "Authorization");

        let ours = |piece: &&[u8]| {
            let mut halves = piece.splitn(2, |byte| *byte == b'=');
            let name = halves.next().unwrap_or_default().trim_ascii();
            let own = |carrier: &Carrier| matches!(carrier, Carrier::Cookie(own) if own.as_bytes() == name);
            halves.next().is_some() && self.carriers.iter().any(own)
        };
        let cookies = |headers: &HeaderMap| -> Vec<Vec<u8>> {
            let values = headers.get_all(&NAMES[1]);
            let pieces = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
            let rest = pieces.filter(|piece| !ours(piece)).map(<[u8]>::trim_ascii).filter(|piece| !piece.is_empty());
            rest.map(<[u8]>::to_vec).collect()
        };
        assert_eq!(cookies(&left.headers), cookies(self.headers), "the other cookies keep their bytes and order");
        let values = left.headers.get_all(&NAMES[1]);
        let mut pieces = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        assert!(!pieces.any(|piece| ours(&piece)), "a carrier's cookie goes on");
    }

    fn entries(&self) -> Vec<String> {
        list(self.headers)
    }

    fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.carriers.iter().filter_map(|carrier| match carrier {
            Carrier::SubprotocolPrefix(prefix) | Carrier::SubprotocolEncoded(prefix) => Some(prefix.as_str()),
            _ => None,
        })
    }
}

/// The entries of every `Sec-WebSocket-Protocol`.
fn list(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(&NAMES[2]);
    let entries = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    entries.map(|entry| String::from_utf8_lossy(entry.trim_ascii()).into_owned()).collect()
}

/// What is left of a query: `None` if there was none, or if something was taken out and nothing is left.
fn join(query: Option<&str>, kept: &[&str], some_taken: bool) -> Option<String> {
    let rest = kept.join("&");
    query.filter(|_| !some_taken || !rest.is_empty()).map(|_| rest)
}

/// The name of a pair after percent- and plus-decoding.
fn decoded_name(pair: &str) -> Vec<u8> {
    let name = pair.split('=').next().unwrap_or_default().as_bytes();
    let hex = |at: usize| name.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(byte) = name.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap());
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            (other, ..) => decoded.push(*other),
        }
        at += 1;
    }
    decoded
}
