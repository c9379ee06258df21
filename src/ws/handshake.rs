//! The upgrade from HTTP/1.1 to WebSocket (RFC 6455, section 4), both ways.
//!
//! Owns: what makes a request a WebSocket upgrade, the accept hash, the head of a `101` and the check of the one that
//! the service sends. Does not choose a subprotocol, does not touch a socket. Called by the gateway's `upgrade` and
//! `forward` stages and by `upstream`.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

/// The one version of the protocol (RFC 6455, section 4.1).
pub const VERSION: HeaderValue = HeaderValue::from_static("13");
/// The name of the protocol in `Upgrade`.
pub const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// What `Connection` says in an upgrade and in its answer.
pub const UPGRADE_OPTION: HeaderValue = HeaderValue::from_static("upgrade");

/// How many bytes these headers take in a head, each as `name: value` and CRLF.
pub fn headers_size(headers: &HeaderMap) -> usize {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + 2 + value.len() + 2;
    headers.iter().map(line).fold(0, usize::saturating_add)
}

/// The nonce of one handshake: `Sec-WebSocket-Key`.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(HeaderValue);

impl Key {
    /// The key that stands for these 16 random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        // Base64 is visible ASCII, so the fallback is never taken.
        Self(HeaderValue::from_str(&STANDARD.encode(random)).unwrap_or(HeaderValue::from_static("")))
    }

    /// The value of `Sec-WebSocket-Key`.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// The value of `Sec-WebSocket-Accept` that answers this key.
    pub fn accept(&self) -> HeaderValue {
        let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(self.0.as_bytes());
        hash.update(GUID);
        // As above: base64 always is a header value.
        HeaderValue::from_str(&STANDARD.encode(hash.finish())).unwrap_or(HeaderValue::from_static(""))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Why a request is no WebSocket handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It wants to be one but breaks RFC 6455, section 4.2.1.
    #[error("{0}")]
    Malformed(&'static str),
    /// It is another kind of request: it does not ask for the `websocket` protocol over HTTP/1.1.
    #[error("not a WebSocket upgrade")]
    NotAnUpgrade,
    /// It speaks another version than 13.
    #[error("Sec-WebSocket-Version is not 13")]
    Version,
}

/// Checks a client's upgrade request (RFC 6455, section 4.2.1) and gives its key.
pub fn check_request(method: &Method, version: Version, headers: &HeaderMap) -> Result<Key, RequestError> {
    // An Upgrade header in HTTP/1.0 must be ignored (RFC 9110, section 7.8).
    if version != Version::HTTP_11 || !has_token(headers, &UPGRADE, "websocket") {
        return Err(RequestError::NotAnUpgrade);
    }
    if method != Method::GET {
        return Err(RequestError::Malformed("the method of a WebSocket upgrade is GET"));
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(RequestError::Malformed("Connection does not name upgrade"));
    }
    if only(headers, &HOST).is_none() {
        return Err(RequestError::Malformed("Host is missing or stands twice"));
    }
    let no_length = headers.get_all(CONTENT_LENGTH).iter().all(|length| length.as_bytes() == b"0");
    if headers.contains_key(TRANSFER_ENCODING) || !no_length {
        return Err(RequestError::Malformed("a WebSocket upgrade has no body"));
    }
    if only(headers, &SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(RequestError::Version);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY)
        .ok_or(RequestError::Malformed("Sec-WebSocket-Key is missing or stands twice"))?;
    let mut nonce = [0u8; 18];
    match STANDARD.decode_slice(key.as_bytes(), &mut nonce) {
        Ok(16) => Ok(Key(key.clone())),
        _ => Err(RequestError::Malformed("Sec-WebSocket-Key is not 16 bytes in base64")),
    }
}

/// Sets the headers that make a request an upgrade with `key`. Whatever stood under these names goes.
pub fn make_request(headers: &mut HeaderMap, key: &Key) {
    headers.insert(UPGRADE, WEBSOCKET);
    headers.insert(CONNECTION, UPGRADE_OPTION);
    headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
    headers.insert(SEC_WEBSOCKET_KEY, key.value().clone());
}

/// Sets the headers of the `101` that answers `key`. Whatever stood under these names goes.
pub fn make_answer(headers: &mut HeaderMap, key: &Key) {
    headers.insert(UPGRADE, WEBSOCKET);
    headers.insert(CONNECTION, UPGRADE_OPTION);
    headers.insert(SEC_WEBSOCKET_ACCEPT, key.accept());
}

/// Why a `101` is not the answer to our upgrade (RFC 6455, section 4.1, the client's requirements).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// `Upgrade` or `Connection` is not what it must be.
    #[error("the service's 101 does not switch to websocket")]
    NotSwitched,
    /// `Sec-WebSocket-Accept` does not belong to our key.
    #[error("the service's Sec-WebSocket-Accept does not answer the key")]
    Accept,
    /// An extension that was not offered.
    #[error("the service chose an extension that was not offered")]
    Extension,
    /// A subprotocol that was not offered, or more than one.
    #[error("the service chose a subprotocol that was not offered")]
    Subprotocol,
}

/// Checks the headers of the service's `101` against the request that was sent to it, and gives the subprotocol that
/// the service chose.
pub fn check_answer(sent: &HeaderMap, answer: &HeaderMap) -> Result<Option<HeaderValue>, AnswerError> {
    if !has_token(answer, &UPGRADE, "websocket") || !has_token(answer, &CONNECTION, "upgrade") {
        return Err(AnswerError::NotSwitched);
    }
    let key = sent.get(SEC_WEBSOCKET_KEY).cloned().map(Key).ok_or(AnswerError::Accept)?;
    if only(answer, &SEC_WEBSOCKET_ACCEPT) != Some(&key.accept()) {
        return Err(AnswerError::Accept);
    }
    let offered: Vec<&[u8]> = items(sent, &SEC_WEBSOCKET_EXTENSIONS).map(name).collect();
    if !items(answer, &SEC_WEBSOCKET_EXTENSIONS)
        .all(|chosen| offered.iter().any(|offer| offer.eq_ignore_ascii_case(name(chosen))))
    {
        return Err(AnswerError::Extension);
    }
    if !answer.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return Ok(None);
    }
    let chosen = only(answer, &SEC_WEBSOCKET_PROTOCOL).ok_or(AnswerError::Subprotocol)?;
    if !items(sent, &SEC_WEBSOCKET_PROTOCOL).any(|offer| offer == chosen.as_bytes()) {
        return Err(AnswerError::Subprotocol);
    }
    Ok(Some(chosen.clone()))
}

/// Whether one of the comma-separated tokens under `header` is `token`, in any case.
pub fn has_token(headers: &HeaderMap, header: &HeaderName, token: &str) -> bool {
    items(headers, header).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// The non-empty items of a comma-separated list; repeated headers are one list (RFC 9110, section 5.3). Commas inside
/// quoted strings do not separate.
pub fn items<'a>(headers: &'a HeaderMap, header: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(header)
        .iter()
        .flat_map(|value| {
            let (mut quoted, mut escaped) = (false, false);
            value.as_bytes().split(move |&byte| {
                let separates = byte == b',' && !quoted;
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    _ => {}
                }
                separates
            })
        })
        .map(<[u8]>::trim_ascii)
        .filter(|item| !item.is_empty())
}

/// The value of `header` if it stands there exactly once.
pub fn only<'a>(headers: &'a HeaderMap, header: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(header).iter();
    values.next().filter(|_| values.next().is_none())
}

/// An extension without its parameters.
fn name(extension: &[u8]) -> &[u8] {
    extension.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn good() -> HeaderMap {
        headers(&[
            ("host", "gate.example"),
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ])
    }

    fn check(headers: &HeaderMap) -> Result<Key, RequestError> {
        check_request(&Method::GET, Version::HTTP_11, headers)
    }

    #[test]
    fn the_accept_hash_is_the_one_of_the_rfc() {
        let key = check(&good()).unwrap();
        assert_eq!(key.accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_that_breaks_a_rule_is_told_which() {
        use RequestError::{Malformed, NotAnUpgrade, Version as BadVersion};
        type Case = (&'static str, Option<&'static str>, fn(&RequestError) -> bool);
        let table: &[Case] = &[
            ("upgrade", None, |error| *error == NotAnUpgrade),
            ("upgrade", Some("h2c"), |error| *error == NotAnUpgrade),
            ("connection", None, |error| matches!(error, Malformed(_))),
            ("connection", Some("keep-alive"), |error| matches!(error, Malformed(_))),
            ("host", None, |error| matches!(error, Malformed(_))),
            ("sec-websocket-version", None, |error| *error == BadVersion),
            ("sec-websocket-version", Some("8"), |error| *error == BadVersion),
            ("sec-websocket-version", Some("13, 8"), |error| *error == BadVersion),
            ("sec-websocket-key", None, |error| matches!(error, Malformed(_))),
            ("sec-websocket-key", Some("c2hvcnQ="), |error| matches!(error, Malformed(_))),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZWU="), |error| matches!(error, Malformed(_))),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ"), |error| matches!(error, Malformed(_))),
            ("sec-websocket-key", Some("!!!!IHNhbXBsZSBub25jZQ=="), |error| matches!(error, Malformed(_))),
            ("content-length", Some("5"), |error| matches!(error, Malformed(_))),
            ("transfer-encoding", Some("chunked"), |error| matches!(error, Malformed(_))),
        ];
        for (name, value, expected) in table {
            let mut headers = good();
            headers.remove(*name);
            if let Some(value) = value {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            let error = check(&headers).unwrap_err();
            assert!(expected(&error), "{name}: {value:?} gave {error:?}");
        }
        for name in ["host", "sec-websocket-key"] {
            let mut headers = good();
            let value = headers[name].clone();
            headers.append(name, value);
            assert!(matches!(check(&headers), Err(Malformed(_))), "{name} twice");
        }
        assert_eq!(check_request(&Method::GET, Version::HTTP_10, &good()), Err(NotAnUpgrade));
        assert!(matches!(check_request(&Method::POST, Version::HTTP_11, &good()), Err(Malformed(_))));
    }

    #[test]
    fn a_service_may_choose_only_what_it_was_offered() {
        type Case = (&'static str, &'static str, &'static str, &'static str, Result<Option<&'static str>, AnswerError>);
        let key = Key::new([7; 16]);
        let table: &[Case] = &[
            ("", "", "", "", Ok(None)),
            ("chat, echo", "", "", "", Ok(None)),
            ("chat, echo", "echo", "", "", Ok(Some("echo"))),
            ("chat, echo", "ECHO", "", "", Err(AnswerError::Subprotocol)),
            ("chat, echo", "chat, echo", "", "", Err(AnswerError::Subprotocol)),
            ("chat", "other", "", "", Err(AnswerError::Subprotocol)),
            ("", "chat", "", "", Err(AnswerError::Subprotocol)),
            ("", "", "permessage-deflate; client_max_window_bits", "permessage-deflate", Ok(None)),
            ("", "", "permessage-deflate", "permessage-deflate;server_no_context_takeover", Ok(None)),
            ("", "", "x; a=\"1, y\"", "y", Err(AnswerError::Extension)),
            ("", "", "", "permessage-deflate", Err(AnswerError::Extension)),
        ];
        for (offered, chosen, extensions, agreed, expected) in table {
            let mut sent = HeaderMap::new();
            make_request(&mut sent, &key);
            let mut answer = HeaderMap::new();
            make_answer(&mut answer, &key);
            for (headers, name, value) in
                [(&mut sent, SEC_WEBSOCKET_PROTOCOL, offered), (&mut answer, SEC_WEBSOCKET_PROTOCOL, chosen)]
            {
                if !value.is_empty() {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            if !extensions.is_empty() {
                sent.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(extensions));
            }
            if !agreed.is_empty() {
                answer.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(agreed));
            }
            let expected = expected.clone().map(|choice| choice.map(HeaderValue::from_static));
            assert_eq!(check_answer(&sent, &answer), expected, "{offered:?} {chosen:?} {extensions:?} {agreed:?}");
        }
    }

    #[test]
    fn an_answer_to_another_key_is_no_answer() {
        let (mut sent, mut answer) = (HeaderMap::new(), HeaderMap::new());
        make_request(&mut sent, &Key::new([1; 16]));
        make_answer(&mut answer, &Key::new([2; 16]));
        assert_eq!(check_answer(&sent, &answer), Err(AnswerError::Accept));
        make_answer(&mut answer, &Key::new([1; 16]));
        assert_eq!(check_answer(&sent, &answer), Ok(None));
        answer.remove(UPGRADE);
        assert_eq!(check_answer(&sent, &answer), Err(AnswerError::NotSwitched));
    }
}
