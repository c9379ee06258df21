//! `application/x-www-form-urlencoded`, as the URL standard writes it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

/// One name or value. OAuth wants a client's id and secret in this form also inside `Basic` (RFC 6749, section 2.3.1).
/// Wiped when it is dropped.
pub fn encode(text: &str) -> Zeroizing<String> {
    let mut encoded = Zeroizing::new(String::with_capacity(room(text)));
    push(text, &mut encoded);
    encoded
}

/// The pairs as a body, wiped when it is dropped.
pub(super) fn body(pairs: &[(&str, &str)]) -> Zeroizing<Vec<u8>> {
    let room = pairs.iter().map(|(name, value)| room(name).saturating_add(room(value)).saturating_add(2)).sum();
    let mut body = String::with_capacity(room);
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            body.push('&');
        }
        push(name, &mut body);
        body.push('=');
        push(value, &mut body);
    }
    Zeroizing::new(body.into_bytes())
}

/// Enough for `text` in any case: a buffer that grows leaves copies behind that nobody wipes.
fn room(text: &str) -> usize {
    text.len().saturating_mul(3)
}

fn push(text: &str, into: &mut String) {
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 {
            into.push('+');
        }
        into.extend(utf8_percent_encode(word, RESERVED));
    }
}

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_written_as_the_standard_says() {
        let pairs = [("grant_type", "client_credentials"), ("scope", "a b"), ("s", "~:&=+%\u{e9}*-._")];
        let body = body(&pairs);
        let text = "grant_type=client_credentials&scope=a+b&s=%7E%3A%26%3D%2B%25%C3%A9*-._";
        assert_eq!(std::str::from_utf8(&body).unwrap(), text);
        assert!(body.capacity() >= body.len());
        assert_eq!(encode("a b:c").as_str(), "a+b%3Ac");
    }
}
