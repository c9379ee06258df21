//! Verification of tokens, by one issuer with one key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{Clock, Now};
use portcullis::issuer::mint::{Mint, MintKey};
use portcullis::secret::{Secret, Token};
use portcullis::token::KeyRing;
use portcullis::token::keys::Algorithm;
use portcullis::token::verify::{Issuer, Verifier};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};

/// Tokens and who verifies them.
pub struct Case {
    verifier: Verifier,
    tokens: Vec<Token>,
    now: Now,
}

/// The algorithms that are measured.
pub const ALGORITHMS: [&str; 3] = ["HS256", "ES256", "RS256"];

impl Case {
    /// Fresh keys and tokens for `algorithm`.
    pub fn new(algorithm: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), algorithm);
        Self::read(folder.path(), algorithm)
    }

    /// Keys and tokens that [`write`] has left in `folder`.
    pub fn read(folder: &Path, algorithm: &str) -> Self {
        let read = |name: &str| std::fs::read(folder.join(format!("{algorithm}.{name}"))).expect(name);
        let (named, mut keys) = (Algorithm::from_name(algorithm).expect("an algorithm"), KeyRing::default());
        let added = match algorithm {
            "HS256" => keys.add_secret(named, None, &Secret::new(read("key"))),
            _ => keys.add_pem(named, None, &read("key")),
        };
        added.expect("a key");
        let (iss, aud) = (Some("https://issuer.test".into()), vec!["ws".into()]);
        let issuer = Issuer { iss, aud, ..Issuer::new("bench".into(), keys) };
        let tokens = String::from_utf8(read("tokens")).expect("text");
        Self {
            verifier: Verifier::new(vec![Arc::new(issuer)]),
            tokens: tokens.lines().map(|token| Token::new(token.to_owned())).collect(),
            now: Clock::system().now(),
        }
    }

    /// Verifies `count` tokens; the number of good ones.
    pub fn verify(&self, count: u64) -> u64 {
        let good = (0..count).zip(self.tokens.iter().cycle());
        good.map(|(_, token)| u64::from(self.verifier.verify(token, self.now).is_ok())).sum()
    }
}

/// Writes a key and tokens for `algorithm` into `folder`.
pub fn write(folder: &Path, algorithm: &str) {
    let named = Algorithm::from_name(algorithm).expect("an algorithm");
    let pair = match algorithm {
        "HS256" => None,
        "ES256" => Some(KeyPair::generate().expect("a key")),
        _ => Some(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key")),
    };
    let secret = b"a secret for benches, longer than 32 bytes";
    let (mint, key) = match &pair {
        None => (MintKey::from_secret(named, None, &Secret::new(secret.to_vec())), secret.to_vec()),
        Some(pair) => {
            (MintKey::from_pem(named, None, pair.serialize_pem().as_bytes()), pair.public_key_pem().into_bytes())
        }
    };
    let mut claims = serde_json::Map::new();
    claims.insert("iss".into(), "https://issuer.test".into());
    claims.insert("aud".into(), "ws".into());
    let mint = Mint::new(mint.expect("a key"), claims, Duration::from_secs(3600));
    let now = Clock::system().now();
    let token = |at| mint.sign_subject(&format!("user-{at}"), now).expect("a token").token.expose().to_owned();
    let tokens: Vec<String> = (10..10 + TOKENS).map(token).collect();
    std::fs::write(folder.join(format!("{algorithm}.key")), key).expect("written");
    std::fs::write(folder.join(format!("{algorithm}.tokens")), tokens.join("\n")).expect("written");
}

/// Different tokens, so that the cost of one is not that of a lucky number.
const TOKENS: usize = 64;
