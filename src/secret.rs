//! Strings that cannot be printed.
//!
//! Neither type has `Display`, their `Debug` masks, and both wipe their memory when dropped. A [`Token`] can be named
//! in a log only by its [`Token::fingerprint`].

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// Key material or a shared secret.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves; the caller must not let them reach a log, an error or a page.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(masked)")
    }
}

/// The raw bearer token of one request, as the client sent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself; the caller must not let it reach a log, an error or a page.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with this token, wherever it stands in it, replaced: what the other side sends may be the token itself.
    pub fn masked_in(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(self.expose(), SHOWN_TOKEN) }
    }

    /// The first eight bytes of the token's SHA-256 in hexadecimal: enough to find a token in two logs, too little to
    /// learn anything of it.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(masked)")
    }
}

/// A secret that stands for something this process keeps: the handle of a live stream, or a ticket. Made here, 128 random
/// bits, or chosen by a client. What it stands for is found by its [`OpaqueHash`] only.
#[derive(Clone)]
pub struct Opaque(Zeroizing<String>);

impl Opaque {
    /// 128 fresh random bits in base64url: 22 characters.
    pub fn random() -> Self {
        let bits = Zeroizing::new(rand::random::<[u8; 16]>());
        Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bits)))
    }

    /// What a client chose: 22 to 64 characters of base64url. `None` if it is anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let fits = (22..=64).contains(&text.len());
        let plain = text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let text = std::str::from_utf8(text).ok().filter(|_| fits && plain)?;
        Some(Self(Zeroizing::new(text.to_owned())))
    }

    /// The text itself; the caller must not let it reach a log, an error or a page.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What it is kept and looked up as.
    pub fn hash(&self) -> OpaqueHash {
        OpaqueHash(*sha256(self.0.as_bytes()).first_chunk().unwrap_or(&[0; 16]))
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opaque(masked)")
    }
}

/// The first half of the SHA-256 of an [`Opaque`]: as hard to guess as that, and of no use to whoever reads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpaqueHash([u8; 16]);

impl fmt::Debug for OpaqueHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueHash(masked)")
    }
}

/// The first eight bytes of a SHA-256, shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut whole = [0; 32];
    whole.copy_from_slice(digest(&SHA256, bytes).as_ref());
    whole
}

/// The fingerprint of what has the SHA-256 `hash`.
pub fn shortened(hash: &[u8; 32]) -> Fingerprint {
    Fingerprint(hash.first_chunk().copied().unwrap_or_default())
}

/// The fingerprint of `bytes`.
pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    shortened(&sha256(bytes))
}

/// The text with `shown` in the place of every token in it; `None` if there is none. A token is what looks like a
/// compact JWT, or like the base64url of one.
pub fn mask_tokens(text: &str, shown: &str) -> Option<String> {
    let part_of_one = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    let mut masked = String::with_capacity(text.len());
    let mut found = false;
    for piece in text.split_inclusive(|character| !part_of_one(character)) {
        let (body, end) = match piece.char_indices().last() {
            Some((at, last)) if !part_of_one(last) => piece.split_at(at),
            _ => (piece, ""),
        };
        match TOKEN_STARTS.iter().filter_map(|start| body.find(start)).min() {
            Some(at) => {
                found = true;
                masked.push_str(body.get(..at).unwrap_or_default());
                masked.push_str(shown);
            }
            None => masked.push_str(body),
        }
        masked.push_str(end);
    }
    found.then_some(masked)
}

/// What was typed on the command line, fit to be repeated: without what stands before `@` (a password) and after `?`
/// or `#` (a token in a query), and without what looks like a JWT, well formed or not.
pub fn mask_typed(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at.saturating_add(3));
    let (scheme, rest) = text.split_at_checked(start).unwrap_or_default();
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| (MASK_AT, rest));
    let (rest, query) = match rest.find(['?', '#']).and_then(|at| rest.split_at_checked(at.saturating_add(1))) {
        Some((before, after)) if !after.is_empty() => (before, MASK),
        _ => (rest, ""),
    };
    let shown = format!("{scheme}{user}{rest}{query}");
    let shown = mask_tokens(&shown, MASK).unwrap_or(shown);
    let part_of_one = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    shown.split_inclusive(|character| !part_of_one(character)).map(mask_three_parts).collect()
}

/// Three parts of base64url in one long word are a compact JWT, whatever it begins with. Host names are in lower case.
fn mask_three_parts(piece: &str) -> String {
    let word = piece.trim_end_matches(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let like_one = word.len() > 20
        && word.matches('.').count() == 2
        && !word.contains("..")
        && word.contains(|character: char| character.is_ascii_uppercase());
    if like_one { piece.replacen(word, MASK, 1) } else { piece.to_owned() }
}

const MASK: &str = "***";
const MASK_AT: &str = "***@";
/// What stands where a person's own token was.
pub const SHOWN_TOKEN: &str = "(the token)";
/// What a JOSE header in base64url begins with (`{"`), and the same encoded once more.
const TOKEN_STARTS: [&str; 2] = ["eyJ", "ZXlK"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_secret_nor_a_token_can_be_printed() {
        let secret = Secret::new(b"swordfish".to_vec());
        let token = Token::new("ey.swordfish.x".into());
        let printed = format!("{secret:?} {token:?} {:?}", Some(&token));
        assert!(!printed.contains("swordfish"), "{printed}");
        assert_eq!(token.fingerprint().to_string().len(), 16);
    }

    #[test]
    fn tokens_are_masked_wherever_they_stand() {
        let mask = |text| mask_tokens(text, "(token)");
        assert_eq!(mask("bearer, eyJh.eyJi.sig"), Some("bearer, (token)".into()));
        assert_eq!(mask("bearer.eyJh.eyJi.sig, chat"), Some("bearer.(token), chat".into()));
        assert_eq!(mask("base64url.bearer.x.ZXlKaGJHY2k"), Some("base64url.bearer.x.(token)".into()));
        assert_eq!(mask("t=eyJa.b.c; u=eyJa.b.c"), Some("t=(token); u=(token)".into()));
        assert_eq!(mask("grüße, hey"), None);
        assert_eq!(mask(""), None);
    }

    #[test]
    fn what_was_typed_is_repeated_without_what_may_be_secret() {
        let table = [
            ("eyJh.eyJi.sig", "***"),
            ("--token=eyJh.eyJi.sig", "--token=***"),
            ("bm90LWpzb24.bm90LWpzb24.bm90LWpzb24", "***"),
            ("https://h/?access_token=SECRET", "https://h/?***"),
            ("https://h/#SECRET", "https://h/#***"),
            ("wss://user:PASS@h/", "wss://***@h/"),
            ("wss://user:PA?S/S@h/x", "wss://***@h/x"),
            ("user:PASS@h", "***@h"),
            ("wss://chat.staging.example-company.com/a?", "wss://chat.staging.example-company.com/a?"),
            ("chat.internal.example", "chat.internal.example"),
            ("10 seconds", "10 seconds"),
            ("--grüße", "--grüße"),
            ("", ""),
        ];
        for (typed, shown) in table {
            assert_eq!(mask_typed(typed), shown, "{typed}");
        }
    }

    #[test]
    fn a_token_is_masked_in_what_repeats_it_whatever_it_looks_like() {
        let opaque = Token::new("swordfish".into());
        assert_eq!(opaque.masked_in("you sent swordfish, swordfish"), "you sent (the token), (the token)");
        assert_eq!(opaque.masked_in("good morning"), "good morning");
        assert_eq!(Token::new(String::new()).masked_in("as it is"), "as it is");
    }
}
