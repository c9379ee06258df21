//! Keys of every kind, their public halves in every shape, and signatures that are made here and not by the code under
//! test.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Every algorithm that the gateway knows.
pub const ALGORITHMS: [&str; 14] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519",
];

/// The secret of all HS* keys, of the 64 bytes that HS512 needs.
pub const SECRET: &str = "a secret of sixty-four bytes, which is what HS512 asks for at le";

/// One of each kind; `other` ones belong to nobody, or to another issuer.
pub struct Keys {
    pub rsa: RsaKeyPair,
    pub other_rsa: RsaKeyPair,
    pub p256: EcdsaKeyPair,
    pub other_p256: EcdsaKeyPair,
    pub p384: EcdsaKeyPair,
    pub p521: EcdsaKeyPair,
    /// For `EdDSA`.
    pub ed: Ed25519KeyPair,
    /// For `Ed25519`.
    pub ed_by_name: Ed25519KeyPair,
}

pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys {
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
        other_rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
        p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
        other_p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
        p384: EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key"),
        p521: EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).expect("a key"),
        ed: Ed25519KeyPair::generate().expect("a key"),
        ed_by_name: Ed25519KeyPair::generate().expect("a key"),
    })
}

impl Keys {
    /// The signature that a token of this algorithm has.
    pub fn sign(&self, algorithm: &str, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let ec = |pair: &EcdsaKeyPair| pair.sign(&random, signed).expect("a signature").as_ref().to_vec();
        match algorithm {
            "HS256" | "HS384" | "HS512" => mac(algorithm, SECRET.as_bytes(), signed),
            "ES256" => ec(&self.p256),
            "ES384" => ec(&self.p384),
            "ES512" => ec(&self.p521),
            "EdDSA" => self.ed.sign(signed).as_ref().to_vec(),
            "Ed25519" => self.ed_by_name.sign(signed).as_ref().to_vec(),
            rsa => sign_rsa(&self.rsa, rsa, signed),
        }
    }

    /// The public key of this algorithm, SPKI.
    pub fn spki(&self, algorithm: &str) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match algorithm {
            "ES256" => self.p256.public_key().as_der(),
            "ES384" => self.p384.public_key().as_der(),
            "ES512" => self.p521.public_key().as_der(),
            "EdDSA" => self.ed.public_key().as_der(),
            "Ed25519" => self.ed_by_name.public_key().as_der(),
            _ => self.rsa.public_key().as_der(),
        }
        .expect("DER");
        der.as_ref().to_vec()
    }

    pub fn pem(&self, algorithm: &str) -> String {
        pem("PUBLIC KEY", &self.spki(algorithm))
    }

    /// The public key as a JWK without `alg` and `kid`.
    pub fn jwk(&self, algorithm: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |crv: &str, pair: &EcdsaKeyPair| {
            let point = pair.public_key().as_ref();
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({"kty": "EC", "crv": crv, "x": text(x), "y": text(y)})
        };
        match algorithm {
            "ES256" => ec("P-256", &self.p256),
            "ES384" => ec("P-384", &self.p384),
            "ES512" => ec("P-521", &self.p521),
            "EdDSA" => json!({"kty": "OKP", "crv": "Ed25519", "x": text(self.ed.public_key().as_ref())}),
            "Ed25519" => json!({"kty": "OKP", "crv": "Ed25519", "x": text(self.ed_by_name.public_key().as_ref())}),
            _ => {
                let numbers = numbers(&pkcs8(&self.rsa));
                json!({"kty": "RSA", "n": text(&numbers[1]), "e": text(&numbers[2])})
            }
        }
    }

    /// What an attacker may take for a secret: the public key in each shape that it is known in.
    pub fn shapes(&self, algorithm: &str) -> Vec<(String, Vec<u8>)> {
        let (pem, spki, jwk) = (self.pem(algorithm), self.spki(algorithm), self.jwk(algorithm));
        let mut shapes = vec![
            ("PEM".to_owned(), pem.clone().into_bytes()),
            ("PEM without its last newline".to_owned(), pem.trim_end().as_bytes().to_vec()),
            ("PEM with one newline more".to_owned(), format!("{pem}\n").into_bytes()),
            ("PEM with CRLF".to_owned(), pem.replace('\n', "\r\n").into_bytes()),
            ("PEM in one line".to_owned(), pem.replace('\n', "").into_bytes()),
            ("DER".to_owned(), spki.clone()),
            ("base64 of DER".to_owned(), STANDARD.encode(&spki).into_bytes()),
            ("base64url of DER".to_owned(), URL_SAFE_NO_PAD.encode(&spki).into_bytes()),
            ("JWK".to_owned(), jwk.to_string().into_bytes()),
            ("JWK set".to_owned(), json!({"keys": [jwk]}).to_string().into_bytes()),
        ];
        for name in ["n", "x", "y"] {
            if let Some(text) = jwk[name].as_str() {
                shapes.push((format!("{name} of the JWK"), text.as_bytes().to_vec()));
                shapes.push((format!("{name} as bytes"), URL_SAFE_NO_PAD.decode(text).expect("base64url")));
            }
        }
        shapes
    }
}

/// HMAC with the hash of `algorithm`.
pub fn mac(algorithm: &str, secret: &[u8], signed: &[u8]) -> Vec<u8> {
    let hash = match algorithm {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        _ => hmac::HMAC_SHA512,
    };
    hmac::sign(&hmac::Key::new(hash, secret), signed).as_ref().to_vec()
}

pub fn sign_rsa(pair: &RsaKeyPair, algorithm: &str, signed: &[u8]) -> Vec<u8> {
    let encoding: &'static dyn RsaEncoding = match algorithm {
        "RS256" => &signature::RSA_PKCS1_SHA256,
        "RS384" => &signature::RSA_PKCS1_SHA384,
        "RS512" => &signature::RSA_PKCS1_SHA512,
        "PS256" => &signature::RSA_PSS_SHA256,
        "PS384" => &signature::RSA_PSS_SHA384,
        "PS512" => &signature::RSA_PSS_SHA512,
        other => panic!("no RSA algorithm: {other}"),
    };
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), signed, &mut signature).expect("a signature");
    signature
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("text")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub fn pkcs8(pair: &RsaKeyPair) -> Vec<u8> {
    let der: Pkcs8V1Der<'_> = pair.as_der().expect("DER");
    der.as_ref().to_vec()
}

/// The numbers of a private key in PKCS#8 (RFC 8017, appendix A.1.2): version, n, e, d, p, q, dp, dq, qi.
pub fn numbers(pkcs8: &[u8]) -> Vec<Vec<u8>> {
    let mut info = element(pkcs8).0;
    // Version, algorithm; then the key in an octet string.
    for _ in 0..2 {
        info = element(info).1;
    }
    let mut rest = element(element(info).0).0;
    let mut numbers = Vec::new();
    while !rest.is_empty() {
        let (number, next) = element(rest);
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        numbers.push(number[zeros..].to_vec());
        rest = next;
    }
    numbers
}

/// Content of the first DER element, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, at) = match der[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            (der[2..2 + count].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + count)
        }
    };
    (&der[at..at + length], &der[at + length..])
}

pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}
