//! Keys, each pinned to one algorithm.
//!
//! Owns which keys are good enough to be used (RFC 7518, sections 3.2 and 3.3; RFC 8725, sections 3.1 and 3.5) and the
//! check of a signature. Keys are parsed once, when they are added. Reads no files: the config does that. Signatures
//! are checked by aws-lc-rs directly, because its parsed keys spare the parsing that a JWT library does per token, and
//! because a key then cannot be used for any algorithm but its own.

pub(crate) mod der;
mod ed25519;
mod jwk;
mod pem;
pub mod store;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::{self, Secret};
pub use store::{KeyId, KeySet, KeyStore};

/// A signature algorithm (RFC 7518, section 3.1; RFC 8037; RFC 9864). `Ed25519` is `EdDSA` with its curve in the name:
/// a token may say either, and each is an algorithm of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are the standard's own
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
    Ed25519,
}

impl Algorithm {
    /// Every algorithm, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
        Self::Ed25519,
    ];

    /// The name in a token's header and in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// The algorithm of this name, in its exact case (RFC 7515, section 4.1.1).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Whether the key is a shared secret (HS*).
    pub const fn is_hmac(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    /// For HS*: aws-lc-rs' algorithm and the fewest bytes its key may have, which is the length of the hash.
    const fn hmac(self) -> Option<(hmac::Algorithm, usize)> {
        match self {
            Self::HS256 => Some((hmac::HMAC_SHA256, 32)),
            Self::HS384 => Some((hmac::HMAC_SHA384, 48)),
            Self::HS512 => Some((hmac::HMAC_SHA512, 64)),
            _ => None,
        }
    }

    /// For RS* and PS*: aws-lc-rs' parameters. For PS* the salt is as long as the hash (RFC 7518, section 3.5).
    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::RS256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::RS384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Self::RS512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Self::PS256 => Some(&RSA_PSS_2048_8192_SHA256),
            Self::PS384 => Some(&RSA_PSS_2048_8192_SHA384),
            Self::PS512 => Some(&RSA_PSS_2048_8192_SHA512),
            _ => None,
        }
    }

    /// What kind of public key it needs, in words.
    const fn wants(self) -> &'static str {
        match self {
            Self::HS256 | Self::HS384 | Self::HS512 => "a shared secret",
            Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512 => "an RSA key",
            Self::ES256 => "an EC key on P-256",
            Self::ES384 => "an EC key on P-384",
            Self::ES512 => "an EC key on P-521",
            Self::EdDSA | Self::Ed25519 => "an Ed25519 key",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a key cannot be used: what was found, what is wanted and what to do. Never holds key material.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// What became of a JWK set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwkSetReport {
    /// The keys that are in use now.
    pub loaded: Vec<LoadedJwk>,
    /// The members that are not, each with the reason.
    pub skipped: Vec<SkippedJwk>,
}

/// A key of a JWK set that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedJwk {
    /// The one algorithm it counts for.
    pub algorithm: Algorithm,
    /// Its `kid`.
    pub kid: Option<String>,
}

/// A member of a JWK set that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedJwk {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Its `kid`, if it has a readable one.
    pub kid: Option<String>,
    /// Why it is not used.
    pub reason: String,
}

/// Which members of a JWK set count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetRules {
    /// The algorithms that count; empty = all. What a key that names none counts for, where several would fit.
    pub algorithms: Vec<Algorithm>,
    /// Whether shared secrets (`oct`) may count: only in a set that nobody else can read or write. Beside public keys they
    /// count only if `algorithms` names one for secrets: such a set may be the copy of one that was published.
    pub secrets: bool,
}

/// The longest `kid` that counts, in bytes, in a token and in a key set alike.
pub const MAX_KID: usize = 256;

/// Keys of one issuer.
#[derive(Clone, Debug, Default)]
pub struct KeyRing {
    keys: Vec<Key>,
}

impl KeyRing {
    /// Adds a shared secret for an HMAC algorithm. It must be as long as the hash (RFC 7518, section 3.2): 32, 48 or
    /// 64 bytes.
    pub fn add_secret(&mut self, alg: Algorithm, kid: Option<String>, secret: &Secret) -> Result<(), KeyError> {
        let check = Check::from_secret(alg, secret.expose())?;
        self.keys.push(Key { algorithm: alg, kid, origin: None, in_set: false, thumbprint: None, check: check.into() });
        Ok(())
    }

    /// Adds a public key in PEM for an asymmetric algorithm: `PUBLIC KEY` (SPKI), `RSA PUBLIC KEY` (PKCS#1) or an
    /// X.509 `CERTIFICATE`, of a chain the first. Only the key of a certificate counts, not its dates or its signer.
    pub fn add_pem(&mut self, alg: Algorithm, kid: Option<String>, pem: &[u8]) -> Result<(), KeyError> {
        let material = pem::public_key(pem)?;
        let (check, thumbprint) = (Check::from_material(alg, &material)?, material.thumbprint());
        self.keys.push(Key { algorithm: alg, kid, origin: None, in_set: false, thumbprint, check: check.into() });
        Ok(())
    }

    /// The usable keys of a JWK set (RFC 7517, section 5); each must name its `alg` or have only one that fits. Members
    /// that cannot be used are skipped and reported, and so are those for which a token would be tried with more than 8
    /// keys of the set; a set without a usable key is an error.
    pub fn from_jwk_set(json: &[u8], rules: &SetRules) -> Result<(Self, JwkSetReport), KeyError> {
        let (keys, report) = jwk::read_set(json, rules)?;
        Ok((Self { keys }, report))
    }

    /// Algorithm and `kid` of each key.
    pub fn list(&self) -> impl Iterator<Item = (Algorithm, Option<&str>)> {
        self.keys.iter().map(|key| (key.algorithm, key.kid.as_deref()))
    }

    /// Says of the keys that were added last where they stand, for [`KeyRing`]'s readers; a file or a variable.
    pub fn stands_in(&mut self, origin: &str) {
        let origin: Arc<str> = origin.into();
        for key in self.keys.iter_mut().rev().take_while(|key| key.origin.is_none()) {
            key.origin = Some(Arc::clone(&origin));
        }
    }

    /// True if there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The algorithms that a token may name.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        Algorithm::ALL.into_iter().filter(|algorithm| self.allows(*algorithm)).collect()
    }

    /// Whether there is a key for this algorithm.
    pub(super) fn allows(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.algorithm == algorithm)
    }

    /// The keys that a token with this algorithm and `kid` may be signed with, each with its place. A key with a `kid` is only for tokens
    /// that name it, but for one case: the only key of its algorithm in a JWK set also serves tokens that name none
    /// (OpenID Connect Core 1.0, section 10.1).
    pub(super) fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = (usize, &'a Key)> + 'a {
        let fitting = move || self.keys.iter().enumerate().filter(move |(_, key)| key.algorithm == algorithm);
        let alone = fitting().nth(1).is_none();
        fitting().filter(move |(_, key)| match (&key.kid, kid) {
            (None, _) => true,
            (Some(own), Some(wanted)) => own == wanted,
            (Some(_), None) => key.in_set && alone,
        })
    }
}

/// A key, its one algorithm and its name.
#[derive(Clone)]
pub(super) struct Key {
    algorithm: Algorithm,
    kid: Option<String>,
    /// Where it stands, for people: a file, a variable.
    origin: Option<Arc<str>>,
    /// Whether it came in a set.
    in_set: bool,
    /// Its JWK thumbprint (RFC 7638, SHA-256). That of a shared secret tells of the secret, and is never shown.
    thumbprint: Option<[u8; 32]>,
    check: Arc<Check>,
}

impl Key {
    /// Whether `signature` over `signed` was made with this key. The comparison of an HMAC takes the same time
    /// whatever differs.
    pub(super) fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &*self.check {
            Check::Hmac(key) => hmac::verify(key, signed, signature).is_ok(),
            Check::Public(key) => key.verify_sig(signed, signature).is_ok(),
        }
    }
}

impl Key {
    /// Its name, its algorithm, where it stands (`set`, if it came in one) and, of a public key, its thumbprint.
    pub(super) fn describe(&self, set: &str) -> String {
        let kid = self.kid.as_ref().map_or_else(String::new, |kid| format!("kid {kid:?}, "));
        let origin = if self.in_set { set } else { self.origin.as_deref().unwrap_or("the config") };
        let thumbprint = self.thumbprint.filter(|_| !self.algorithm.is_hmac());
        let thumbprint =
            thumbprint.map_or_else(String::new, |hash| format!(", thumbprint {}", URL_SAFE_NO_PAD.encode(hash)));
        format!("{kid}{} from {origin}{thumbprint}", self.algorithm)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A parsed key.
enum Check {
    /// Boxed, because it holds the hash's state twice.
    Hmac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Check {
    fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        let Some((hmac, least)) = algorithm.hmac() else {
            return Err(KeyError(format!(
                "{algorithm} needs {}, not a shared secret; give its public key as PEM or in a JWK set",
                algorithm.wants()
            )));
        };
        if secret.len() < least {
            return Err(KeyError(format!(
                "the secret has {} bytes; {algorithm} needs at least {least} (RFC 7518, section 3.2)",
                secret.len()
            )));
        }
        if let Some(why) = unfit_secret(secret) {
            return Err(KeyError(why.to_owned()));
        }
        Ok(Self::Hmac(Box::new(hmac::Key::new(hmac, secret))))
    }

    fn from_material(algorithm: Algorithm, material: &Material) -> Result<Self, KeyError> {
        let parsed = match (algorithm, material) {
            (_, Material::Rsa { n, e }) if algorithm.rsa().is_some() => {
                check_rsa(n, e)?;
                let components = RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() };
                algorithm.rsa().map(|parameters| components.to_parsed_public_key(parameters))
            }
            (Algorithm::ES256, Material::P256(point)) => Some(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)),
            (Algorithm::ES384, Material::P384(point)) => Some(ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)),
            (Algorithm::ES512, Material::P521(point)) => Some(ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point)),
            (Algorithm::EdDSA | Algorithm::Ed25519, Material::Ed25519(key)) if key.len() == 32 => {
                key.as_slice().try_into().map_or(Ok(()), ed25519::check)?;
                Some(ParsedPublicKey::new(&ED25519, key))
            }
            _ => None,
        };
        match parsed {
            Some(Ok(key)) => Ok(Self::Public(key)),
            Some(Err(_)) => Err(KeyError(format!("the key is damaged: its numbers make no {}", material.describe()))),
            None => Err(KeyError(format!(
                "this is {}; {algorithm} needs {}",
                article(material.describe()),
                algorithm.wants()
            ))),
        }
    }
}

/// Whether the bytes are a PEM text, which is never a shared secret.
pub fn is_pem(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    bytes.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// Why these bytes cannot be a shared secret, however long they are. Never holds any of them.
pub fn unfit_secret(secret: &[u8]) -> Option<&'static str> {
    // RFC 8725, section 2.1: what anyone may have would sign tokens.
    if is_pem(secret) {
        return Some("this is PEM, not a shared secret: whoever has a public key could sign with it");
    }
    let (first, rest) = secret.split_first()?;
    (!rest.is_empty() && rest.iter().all(|byte| byte == first))
        .then_some("this is one byte repeated, not a secret: anyone could guess it")
}

/// A public key as it was read, before it is parsed for its algorithm.
enum Material {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point (SEC 1, section 2.3.3).
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
    Ed25519(Vec<u8>),
    /// A kind that no algorithm here uses.
    Other(&'static str),
}

impl Material {
    const fn describe(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RSA key",
            Self::P256(_) => "EC key on P-256",
            Self::P384(_) => "EC key on P-384",
            Self::P521(_) => "EC key on P-521",
            Self::Ed25519(_) => "Ed25519 key",
            Self::Other(kind) => kind,
        }
    }
}

impl Material {
    /// The JWK thumbprint (RFC 7638, section 3) with SHA-256.
    fn thumbprint(&self) -> Option<[u8; 32]> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = |crv: &str, point: &[u8]| {
            // A compressed point has no `y` to write.
            let (x, y) = point.strip_prefix(&[4]).map(|both| both.split_at(both.len() / 2))?;
            Some(format!(r#"{{"crv":"{crv}","kty":"EC","x":"{}","y":"{}"}}"#, text(x), text(y)))
        };
        let json = match self {
            Self::Rsa { n, e } => Some(format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(e), text(n))),
            Self::P256(both) => point("P-256", both),
            Self::P384(both) => point("P-384", both),
            Self::P521(both) => point("P-521", both),
            Self::Ed25519(x) => Some(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x))),
            Self::Other(_) => None,
        };
        json.map(|json| secret::sha256(json.as_bytes()))
    }
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['A', 'E', 'I', 'O', 'R', 'X', 'a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// RSA keys from 2048 (RFC 7518, section 3.3) to 8192 bits, with an odd exponent above 1.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), KeyError> {
    let bits = n.first().map_or(0, |first| n.len().saturating_mul(8) - first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(KeyError(format!(
            "the RSA key has {bits} bits; from 2048 (RFC 7518, section 3.3) to 8192 are accepted"
        )));
    }
    if e.last().is_none_or(|last| last % 2 == 0) || e == [1] {
        return Err(KeyError("the RSA key's exponent is not an odd number above 1".into()));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
