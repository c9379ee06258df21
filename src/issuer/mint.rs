//! Signs tokens: a key, a set of claims and a lifetime in; a JWT (RFC 7519) out.
//!
//! Owns the private half of an issuer's keys. It reads no clock and no file: the caller hands in the time and the key
//! material. Called by the bundled client, the demo and `portcullis token mint`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value};

use crate::clock::{Now, Wall};
use crate::secret::{Secret, Token};
use crate::token::keys::{Algorithm, unfit_secret};

/// A key that signs, pinned to one algorithm. It cannot be printed.
#[derive(Clone)]
pub struct MintKey {
    signer: Signer,
    algorithm: Algorithm,
    kid: Option<String>,
}

/// Who makes the signatures.
#[derive(Clone)]
enum Signer {
    /// jsonwebtoken, under the name that it has for the algorithm.
    Jose(EncodingKey, jsonwebtoken::Algorithm),
    /// aws-lc-rs itself: ES512 is none of jsonwebtoken's.
    P521(Arc<EcdsaKeyPair>),
}

/// Why a token cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The algorithm wants the other kind of key.
    #[error("{algorithm:?} signs with {wanted}")]
    KeyKind {
        /// The algorithm that was asked for.
        algorithm: Algorithm,
        /// What it signs with.
        wanted: &'static str,
    },
    /// The shared secret is too short to resist guessing (RFC 7518, section 3.2).
    #[error("the secret has {0} bytes; a shared secret needs at least 32")]
    WeakSecret(usize),
    /// The shared secret is something that others have or can guess.
    #[error("{0}")]
    UnfitSecret(&'static str),
    /// The key is in the traditional format for elliptic curves.
    #[error(
        "the key is in SEC1 format (\"BEGIN EC PRIVATE KEY\"), PKCS#8 is needed: \
         openssl pkcs8 -topk8 -nocrypt -in old.pem -out new.pem"
    )]
    Sec1,
    /// The key is locked with a passphrase.
    #[error("the key is encrypted; decrypt it first: openssl pkcs8 -in old.pem -out new.pem")]
    Encrypted,
    /// A certificate or public key stands where the private key is needed.
    #[error("this is a public key or a certificate; signing needs the private key")]
    Public,
    /// The PEM text holds no key that fits the algorithm.
    #[error("the key does not fit {0:?}, or it is no private key in PEM (PKCS#8)")]
    WrongKey(Algorithm),
    /// The claims are no JSON object, or a time in them is out of range.
    #[error("the claims cannot be signed: {0}")]
    Claims(&'static str),
}

impl MintKey {
    /// A key for HS256, HS384 or HS512 from a shared secret of at least 32 bytes.
    pub fn from_secret(algorithm: Algorithm, kid: Option<String>, secret: &Secret) -> Result<Self, MintError> {
        let Some(jose) = jose(algorithm).filter(|_| algorithm.is_hmac()) else {
            return Err(MintError::KeyKind { algorithm, wanted: "a private key (PEM), not with a shared secret" });
        };
        if secret.expose().len() < MIN_SECRET {
            return Err(MintError::WeakSecret(secret.expose().len()));
        }
        if let Some(why) = unfit_secret(secret.expose()) {
            return Err(MintError::UnfitSecret(why));
        }
        Ok(Self { signer: Signer::Jose(EncodingKey::from_secret(secret.expose()), jose), algorithm, kid })
    }

    /// A key for the asymmetric algorithms from a private key in PEM: PKCS#8 (for RSA PKCS#1 too), not encrypted.
    /// One signature is made on the spot, so that a key of another type or strength is refused here and not later.
    pub fn from_pem(algorithm: Algorithm, kid: Option<String>, pem: &[u8]) -> Result<Self, MintError> {
        let made = match family(algorithm) {
            Family::Hmac => {
                return Err(MintError::KeyKind { algorithm, wanted: "a shared secret, not with a private key" });
            }
            Family::Rsa => EncodingKey::from_rsa_pem(pem),
            Family::Ec => EncodingKey::from_ec_pem(pem),
            Family::Ed => EncodingKey::from_ed_pem(pem),
        };
        let signer = match jose(algorithm) {
            Some(jose) => made.ok().map(|key| Signer::Jose(key, jose)),
            None => p521(pem),
        };
        let key = Self { signer: signer.ok_or_else(|| why_not_pem(algorithm, pem))?, algorithm, kid };
        key.sign(&Map::new()).map_err(|_| why_not_pem(algorithm, pem))?;
        Ok(key)
    }

    fn sign(&self, claims: &Map<String, Value>) -> Result<Token, MintError> {
        let mut header = serde_json::json!({"typ": "JWT", "alg": self.algorithm.as_str()});
        if let Some(kid) = &self.kid {
            header["kid"] = kid.as_str().into();
        }
        let part = |json: String| URL_SAFE_NO_PAD.encode(json);
        let signed = format!("{}.{}", part(header.to_string()), part(Value::from(claims.clone()).to_string()));
        let signature = match &self.signer {
            Signer::Jose(key, jose) => jsonwebtoken::crypto::sign(signed.as_bytes(), key, *jose).ok(),
            Signer::P521(key) => {
                let signature = key.sign(&SystemRandom::new(), signed.as_bytes());
                signature.ok().map(|signature| URL_SAFE_NO_PAD.encode(signature))
            }
        };
        let signature = signature.ok_or(MintError::WrongKey(self.algorithm))?;
        Ok(Token::new(format!("{signed}.{signature}")))
    }
}

impl fmt::Debug for MintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintKey").field("algorithm", &self.algorithm).field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Signs tokens of one issuer: its key, the claims that all of them share, and their lifetime.
#[derive(Clone, Debug)]
pub struct Mint {
    key: MintKey,
    claims: Map<String, Value>,
    ttl: Duration,
}

/// A token that was just signed, and what its maker knows of it.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token.
    pub token: Token,
    /// Its `iat`.
    pub issued: Wall,
    /// Its `exp`.
    pub expires: Wall,
}

impl Mint {
    /// Tokens signed with `key`, with these claims in all of them (such as `iss`, `aud`, `sid`), good for `ttl`.
    pub fn new(key: MintKey, claims: Map<String, Value>, ttl: Duration) -> Self {
        Self { key, claims, ttl }
    }

    /// With this claim in all tokens too.
    #[must_use]
    pub fn with_claim(mut self, name: &str, value: Value) -> Self {
        self.claims.insert(name.to_owned(), value);
        self
    }

    /// How long its tokens are good for.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Signs a token with the shared claims and `more` (which win), and with `iat` = the second that `now` lies in,
    /// `exp` = `iat` + ttl and a random `jti`, each unless the claims hold it already.
    ///
    /// Whole seconds, because many verifiers take nothing else; only a lifetime with a fraction gives an `exp` with
    /// one. So a token may be good for up to one second less than its ttl.
    pub fn sign(&self, more: &Map<String, Value>, now: Now) -> Result<Minted, MintError> {
        let mut claims = self.claims.clone();
        claims.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        claims.entry("iat").or_insert_with(|| now.wall.as_secs().into());
        let issued = numeric_date(&claims, "iat").ok_or(MintError::Claims("iat is no time"))?;
        claims.entry("exp").or_insert_with(|| date_value(issued.saturating_add(self.ttl)));
        let expires = numeric_date(&claims, "exp").ok_or(MintError::Claims("exp is no time"))?;
        claims.entry("jti").or_insert_with(|| random_id().into());
        Ok(Minted { token: self.key.sign(&claims)?, issued, expires })
    }

    /// [`Mint::sign`] with this `sub`.
    pub fn sign_subject(&self, subject: &str, now: Now) -> Result<Minted, MintError> {
        let mut more = Map::new();
        more.insert("sub".into(), subject.into());
        self.sign(&more, now)
    }
}

/// 128 random bits in hexadecimal, for `jti` and `sid`.
pub fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A NumericDate (RFC 7519, section 2): whole seconds if it can be.
fn date_value(at: Wall) -> Value {
    let since = at.since_epoch();
    if since.subsec_nanos() == 0 { since.as_secs().into() } else { since.as_secs_f64().into() }
}

/// The claim as a point of time; `None` for anything that is not one.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Option<Wall> {
    let value = claims.get(name)?;
    let since = match value.as_u64() {
        Some(seconds) => Duration::from_secs(seconds),
        None => Duration::try_from_secs_f64(value.as_f64()?).ok()?,
    };
    Some(Wall::from_epoch(since))
}

/// The most helpful thing to say about a key that could not be used.
fn why_not_pem(algorithm: Algorithm, pem: &[u8]) -> MintError {
    let text = String::from_utf8_lossy(pem);
    if text.contains("BEGIN EC PRIVATE KEY") {
        MintError::Sec1
    } else if text.contains("ENCRYPTED") {
        MintError::Encrypted
    } else if text.contains("BEGIN PUBLIC KEY") || text.contains("BEGIN CERTIFICATE") {
        MintError::Public
    } else {
        MintError::WrongKey(algorithm)
    }
}

enum Family {
    Hmac,
    Rsa,
    Ec,
    Ed,
}

fn family(algorithm: Algorithm) -> Family {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Family::Hmac,
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => Family::Rsa,
        Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => Family::Ec,
        Algorithm::EdDSA | Algorithm::Ed25519 => Family::Ed,
    }
}

/// A key on P-521, PKCS#8.
fn p521(pem: &[u8]) -> Option<Signer> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA512_FIXED_SIGNING, der.secret_pkcs8_der()).ok()?;
    Some(Signer::P521(Arc::new(key)))
}

/// The algorithm as jsonwebtoken names it; `None` for the one that it has not.
fn jose(algorithm: Algorithm) -> Option<jsonwebtoken::Algorithm> {
    Some(match algorithm {
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::HS384 => jsonwebtoken::Algorithm::HS384,
        Algorithm::HS512 => jsonwebtoken::Algorithm::HS512,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::ES512 => return None,
        // The same signature; the name goes into the header only.
        Algorithm::EdDSA | Algorithm::Ed25519 => jsonwebtoken::Algorithm::EdDSA,
    })
}

/// Bytes; RFC 7518, section 3.2 asks for at least the size of the hash of HS256.
const MIN_SECRET: usize = 32;

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, ED25519, VerificationAlgorithm};
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::json;

    use super::*;
    use crate::clock::Mono;

    const SECRET: &[u8] = b"an example secret of enough bytes";

    fn now() -> Now {
        Now { wall: Wall::from_epoch(Duration::from_millis(1_800_000_000_250)), mono: Mono::default() }
    }

    #[allow(clippy::needless_pass_by_value)] // reads better at the call
    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn part(token: &Token, index: usize) -> Value {
        let text = token.expose().split('.').nth(index).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    }

    fn hs256(ttl: Duration) -> Mint {
        let key = MintKey::from_secret(Algorithm::HS256, Some("k1".into()), &Secret::new(SECRET.to_vec())).unwrap();
        Mint::new(key, object(json!({"iss": "demo", "aud": ["gate"], "sid": "s"})), ttl)
    }

    #[test]
    fn a_token_holds_the_shared_claims_the_subject_and_its_times() {
        let minted = hs256(Duration::from_secs(10)).sign_subject("good morning", now()).unwrap();
        assert_eq!(part(&minted.token, 0), json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}));
        let claims = part(&minted.token, 1);
        assert_eq!(claims["sub"], "good morning");
        assert_eq!(claims["iss"], "demo");
        assert_eq!(claims["aud"], json!(["gate"]));
        assert_eq!(claims["iat"], json!(1_800_000_000u64));
        assert_eq!(claims["exp"], json!(1_800_000_010u64), "whole seconds stay whole numbers");
        assert_eq!(claims["jti"].as_str().unwrap().len(), 32);
        assert_eq!(minted.expires.as_secs(), 1_800_000_010);

        let mut rules = Validation::new(jsonwebtoken::Algorithm::HS256);
        rules.set_audience(&["gate"]);
        let key = DecodingKey::from_secret(SECRET);
        jsonwebtoken::decode::<Value>(minted.token.expose(), &key, &rules).unwrap();
    }

    #[test]
    fn claims_that_are_given_win_and_fractions_of_a_lifetime_count() {
        let mint = hs256(Duration::from_millis(2500));
        let minted = mint.sign(&object(json!({"aud": "other", "jti": "mine"})), now()).unwrap();
        let claims = part(&minted.token, 1);
        assert_eq!(claims["aud"], "other");
        assert_eq!(claims["jti"], "mine");
        assert_eq!(claims["exp"], json!(1_800_000_002.5));
        let minted = mint.sign(&object(json!({"exp": 5})), now()).unwrap();
        assert_eq!(minted.expires.as_secs(), 5);
        for bad in [json!(-1), json!("soon"), json!(null), json!(1e300)] {
            let answer = mint.sign(&object(json!({ "exp": bad })), now());
            assert_eq!(answer.unwrap_err(), MintError::Claims("exp is no time"));
        }
    }

    #[test]
    fn two_tokens_never_share_an_id() {
        let mint = hs256(Duration::from_secs(1));
        let one = mint.sign_subject("a", now()).unwrap();
        let two = mint.sign_subject("a", now()).unwrap();
        assert_ne!(part(&one.token, 1)["jti"], part(&two.token, 1)["jti"]);
    }

    #[test]
    fn elliptic_and_edwards_keys_sign() {
        for (algorithm, rcgen_algorithm) in [
            (Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256),
            (Algorithm::ES384, &rcgen::PKCS_ECDSA_P384_SHA384),
            (Algorithm::EdDSA, &rcgen::PKCS_ED25519),
        ] {
            let pair = rcgen::KeyPair::generate_for(rcgen_algorithm).unwrap();
            let key = MintKey::from_pem(algorithm, None, pair.serialize_pem().as_bytes()).unwrap();
            let mint = Mint::new(key, Map::new(), Duration::from_secs(10));
            let token = mint.sign_subject("m", now()).unwrap().token;
            let public = pair.public_key_pem();
            let decoder = if algorithm == Algorithm::EdDSA {
                DecodingKey::from_ed_pem(public.as_bytes())
            } else {
                DecodingKey::from_ec_pem(public.as_bytes())
            };
            let rules = Validation::new(jose(algorithm).unwrap());
            jsonwebtoken::decode::<Value>(token.expose(), &decoder.unwrap(), &rules).unwrap();
        }
    }

    #[test]
    fn what_the_library_has_no_name_for_is_signed_too() {
        for (algorithm, rcgen_algorithm) in
            [(Algorithm::ES512, &rcgen::PKCS_ECDSA_P521_SHA512), (Algorithm::Ed25519, &rcgen::PKCS_ED25519)]
        {
            let pair = rcgen::KeyPair::generate_for(rcgen_algorithm).unwrap();
            let key = MintKey::from_pem(algorithm, None, pair.serialize_pem().as_bytes()).unwrap();
            let token = Mint::new(key, Map::new(), Duration::from_secs(10)).sign_subject("m", now()).unwrap().token;
            assert_eq!(part(&token, 0)["alg"], algorithm.as_str());
            let (signed, signature) = token.expose().rsplit_once('.').unwrap();
            let kind: &dyn VerificationAlgorithm =
                if algorithm == Algorithm::ES512 { &ECDSA_P521_SHA512_FIXED } else { &ED25519 };
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            kind.verify_sig(pair.public_key_raw(), signed.as_bytes(), &signature).unwrap();
        }
        let p256 = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let wrong = MintError::WrongKey(Algorithm::ES512);
        assert_eq!(MintKey::from_pem(Algorithm::ES512, None, p256.as_bytes()).unwrap_err(), wrong);
    }

    #[test]
    fn rsa_keys_sign_with_either_padding() {
        let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let base64 = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        for algorithm in [Algorithm::RS256, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384] {
            let key = MintKey::from_pem(algorithm, None, pem.as_bytes()).unwrap();
            let token = key.sign(&Map::new()).unwrap();
            assert_eq!(part(&token, 0)["alg"], format!("{algorithm:?}"));
        }
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused_with_its_reason() {
        let secret = Secret::new(SECRET.to_vec());
        assert!(matches!(MintKey::from_secret(Algorithm::RS256, None, &secret), Err(MintError::KeyKind { .. })));
        assert!(matches!(MintKey::from_pem(Algorithm::HS256, None, SECRET), Err(MintError::KeyKind { .. })));
        let short = Secret::new(vec![7; 31]);
        assert_eq!(MintKey::from_secret(Algorithm::HS256, None, &short).unwrap_err(), MintError::WeakSecret(31));

        let sec1 = b"-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(MintKey::from_pem(Algorithm::ES256, None, sec1).unwrap_err(), MintError::Sec1);
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let pem = p384.serialize_pem();
        let wrong = MintError::WrongKey(Algorithm::ES256);
        assert_eq!(MintKey::from_pem(Algorithm::ES256, None, pem.as_bytes()).unwrap_err(), wrong);
        let public = p384.public_key_pem();
        assert_eq!(MintKey::from_pem(Algorithm::ES384, None, public.as_bytes()).unwrap_err(), MintError::Public);
        assert!(MintKey::from_pem(Algorithm::PS256, None, pem.as_bytes()).is_err());
        assert!(MintKey::from_pem(Algorithm::EdDSA, None, b"").is_err());
    }

    #[test]
    fn a_mint_cannot_be_printed() {
        let mint = hs256(Duration::from_secs(1));
        let printed = format!("{mint:?} {:?}", mint.sign_subject("x", now()).unwrap());
        assert!(!printed.contains("example secret") && !printed.contains("eyJ"), "{printed}");
    }
}
