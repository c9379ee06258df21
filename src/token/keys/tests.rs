use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};

use super::*;

/// Key pairs of every kind, made once per run.
pub(crate) struct Pairs {
    pub(crate) secret: Vec<u8>,
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

pub(crate) fn pairs() -> &'static Pairs {
    static PAIRS: OnceLock<Pairs> = OnceLock::new();
    PAIRS.get_or_init(|| Pairs {
        secret: (0..64).collect(),
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
        p521: EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
        ed25519: Ed25519KeyPair::generate().unwrap(),
    })
}

impl Pairs {
    pub(crate) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        let hmac = |hash| hmac::sign(&hmac::Key::new(hash, &self.secret), message).as_ref().to_vec();
        match algorithm {
            Algorithm::HS256 => hmac(hmac::HMAC_SHA256),
            Algorithm::HS384 => hmac(hmac::HMAC_SHA384),
            Algorithm::HS512 => hmac(hmac::HMAC_SHA512),
            Algorithm::RS256 => rsa(&RSA_PKCS1_SHA256),
            Algorithm::RS384 => rsa(&RSA_PKCS1_SHA384),
            Algorithm::RS512 => rsa(&RSA_PKCS1_SHA512),
            Algorithm::PS256 => rsa(&RSA_PSS_SHA256),
            Algorithm::PS384 => rsa(&RSA_PSS_SHA384),
            Algorithm::PS512 => rsa(&RSA_PSS_SHA512),
            Algorithm::ES256 => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            Algorithm::ES384 => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            Algorithm::ES512 => self.p521.sign(&random, message).unwrap().as_ref().to_vec(),
            Algorithm::EdDSA | Algorithm::Ed25519 => self.ed25519.sign(message).as_ref().to_vec(),
        }
    }

    fn spki(&self, algorithm: Algorithm) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match algorithm {
            Algorithm::ES256 => self.p256.public_key().as_der().unwrap(),
            Algorithm::ES384 => self.p384.public_key().as_der().unwrap(),
            Algorithm::ES512 => self.p521.public_key().as_der().unwrap(),
            Algorithm::EdDSA | Algorithm::Ed25519 => self.ed25519.public_key().as_der().unwrap(),
            _ => self.rsa.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    pub(crate) fn pem(&self, algorithm: Algorithm) -> String {
        pem("PUBLIC KEY", &self.spki(algorithm))
    }

    pub(crate) fn ring(&self, algorithm: Algorithm, kid: Option<&str>) -> KeyRing {
        let mut ring = KeyRing::default();
        let kid = kid.map(str::to_owned);
        if algorithm.is_hmac() {
            ring.add_secret(algorithm, kid, &Secret::new(self.secret.clone())).unwrap();
        } else {
            ring.add_pem(algorithm, kid, self.pem(algorithm).as_bytes()).unwrap();
        }
        ring
    }

    pub(in crate::token) fn jwk(&self, algorithm: Algorithm) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                json!({"kty": "oct", "alg": algorithm.as_str(), "k": text(&self.secret)})
            }
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => {
                let (pair, crv) = match algorithm {
                    Algorithm::ES256 => (&self.p256, "P-256"),
                    Algorithm::ES384 => (&self.p384, "P-384"),
                    _ => (&self.p521, "P-521"),
                };
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at((point.len() - 1) / 2);
                json!({"kty": "EC", "crv": crv, "x": text(x), "y": text(y)})
            }
            Algorithm::EdDSA | Algorithm::Ed25519 => {
                json!({"kty": "OKP", "crv": "Ed25519", "alg": algorithm.as_str(), "x": text(self.ed25519.public_key().as_ref())})
            }
            _ => {
                let Ok(Material::Rsa { n, e }) = pem::public_key(self.pem(algorithm).as_bytes()) else {
                    unreachable!()
                };
                json!({"kty": "RSA", "alg": algorithm.as_str(), "n": text(&n), "e": text(&e)})
            }
        }
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn verifies(ring: &KeyRing, algorithm: Algorithm, kid: Option<&str>, message: &[u8], signature: &[u8]) -> bool {
    ring.candidates(algorithm, kid).any(|(_, key)| key.verifies(message, signature))
}

fn error<T>(result: Result<T, KeyError>) -> String {
    match result {
        Ok(_) => panic!("must be refused"),
        Err(error) => error.to_string(),
    }
}

/// A set from a local file.
fn set(json: &str) -> Result<(KeyRing, JwkSetReport), KeyError> {
    KeyRing::from_jwk_set(json.as_bytes(), &SetRules { algorithms: Vec::new(), secrets: true })
}

#[test]
fn every_algorithm_verifies_what_its_own_key_signed_and_nothing_else() {
    for algorithm in Algorithm::ALL {
        let ring = pairs().ring(algorithm, None);
        let (from_jwk, _) = set(&json!({"keys": [pairs().jwk(algorithm)]}).to_string()).unwrap();
        let signature = pairs().sign(algorithm, b"message");
        for ring in [&ring, &from_jwk] {
            assert!(verifies(ring, algorithm, None, b"message", &signature), "{algorithm}");
            assert!(!verifies(ring, algorithm, None, b"massage", &signature), "{algorithm}");
            assert!(!verifies(ring, algorithm, None, b"message", &signature[1..]), "{algorithm}");
            assert!(!verifies(ring, algorithm, None, b"message", b""), "{algorithm}");
            let mut flipped = signature.clone();
            flipped[0] ^= 1;
            assert!(!verifies(ring, algorithm, None, b"message", &flipped), "{algorithm}");
            assert_eq!(ring.algorithms(), [algorithm]);
            for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
                assert!(!verifies(ring, other, None, b"message", &signature), "a key counts for one algorithm only");
            }
        }
    }
}

#[test]
fn what_anyone_may_have_or_guess_is_no_shared_secret() {
    for label in ["PUBLIC KEY", "CERTIFICATE", "PRIVATE KEY"] {
        let text = format!("some text\n-----BEGIN {label}-----\n{}\n-----END {label}-----\n", "QUJD".repeat(20));
        let mut ring = KeyRing::default();
        let said = error(ring.add_secret(Algorithm::HS256, None, &Secret::new(text.into_bytes())));
        assert!(said.contains("this is PEM, not a shared secret"), "{said}");
        assert!(!said.contains("QUJD") && ring.is_empty(), "{said}");
    }
    for byte in [0, b'0', b'x', 0xff] {
        let mut ring = KeyRing::default();
        let said = error(ring.add_secret(Algorithm::HS512, None, &Secret::new(vec![byte; 64])));
        assert!(said.contains("one byte repeated") && ring.is_empty(), "{said}");
    }
}

#[test]
fn weak_secrets_are_refused_with_their_remedy() {
    for (algorithm, length, fits) in [
        (Algorithm::HS256, 0, false),
        (Algorithm::HS256, 31, false),
        (Algorithm::HS256, 32, true),
        (Algorithm::HS384, 32, false),
        (Algorithm::HS384, 47, false),
        (Algorithm::HS384, 48, true),
        (Algorithm::HS512, 63, false),
        (Algorithm::HS512, 64, true),
    ] {
        let mut ring = KeyRing::default();
        let added = ring.add_secret(algorithm, None, &Secret::new(b"xyz".repeat(22)[..length].to_vec()));
        assert_eq!(added.is_ok(), fits, "{algorithm} {length}");
        assert_eq!(ring.is_empty(), !fits);
        if let Err(error) = added {
            let text = error.to_string();
            assert!(text.contains(&format!("has {length} bytes")) && text.contains("RFC 7518"), "{text}");
            assert!(!text.contains("xyz"), "{text}");
        }
    }
    let mut ring = KeyRing::default();
    let text = error(ring.add_secret(Algorithm::RS256, None, &Secret::new(vec![1; 64])));
    assert!(text.contains("RS256 needs an RSA key"), "{text}");
}

#[test]
fn public_keys_and_certificates_are_read_from_pem() {
    let pairs = pairs();
    let signature = pairs.sign(Algorithm::RS256, b"m");
    let pkcs1 = pem("RSA PUBLIC KEY", pairs.rsa.public_key().as_ref());
    let crlf = pairs.pem(Algorithm::RS256).replace('\n', "\r\n");
    let commented = format!("issued for tests\n{}\ntrailing words\n", pairs.pem(Algorithm::RS256));
    for text in [pairs.pem(Algorithm::RS256), pkcs1, crlf, commented] {
        let mut ring = KeyRing::default();
        ring.add_pem(Algorithm::RS256, None, text.as_bytes()).unwrap();
        assert!(verifies(&ring, Algorithm::RS256, None, b"m", &signature), "{text}");
    }

    let pkcs8: Pkcs8V1Der<'_> = pairs.rsa.as_der().unwrap();
    let rsa = rcgen::KeyPair::try_from(pkcs8.as_ref()).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["issuer.example".into()]).unwrap().self_signed(&rsa).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["ca.example".into()]).unwrap();
    let chain = format!("{}{}", certificate.pem(), other.cert.pem());
    let mut ring = KeyRing::default();
    ring.add_pem(Algorithm::RS256, None, chain.as_bytes()).unwrap();
    assert!(verifies(&ring, Algorithm::RS256, None, b"m", &signature), "the first certificate of a chain counts");

    let version_1 = without_version(certificate.der());
    assert!(matches!(pem::public_key(pem("CERTIFICATE", &version_1).as_bytes()), Ok(Material::Rsa { .. })));
}

/// The certificate without its version field and without extensions being looked at, as version 1 had it.
fn without_version(der: &[u8]) -> Vec<u8> {
    // Certificate and its body both have lengths of two bytes here: 30 82 .. .. 30 82 .. .. a0 03 02 01 02.
    assert_eq!((der[1], der[5], &der[8..13]), (0x82, 0x82, &[0xa0, 3, 2, 1, 2][..]));
    let mut shorter = der.to_vec();
    shorter.drain(8..13);
    for at in [2, 6] {
        let length = u16::from_be_bytes([shorter[at], shorter[at + 1]]) - 5;
        shorter[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    shorter
}

#[test]
fn wrong_pem_files_get_an_answer_that_names_them() {
    let pairs = pairs();
    let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let both = format!("{}{private}", pairs.pem(Algorithm::ES256));
    let twice = pairs.pem(Algorithm::ES256).repeat(2);
    let p521 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let p521 = pem("PUBLIC KEY", &p521.subject_public_key_info());
    let cut = pem("PUBLIC KEY", &pairs.spki(Algorithm::RS256)[..100]);
    let mut off_curve = pairs.spki(Algorithm::ES256);
    *off_curve.last_mut().unwrap() ^= 1;
    let off_curve = pem("PUBLIC KEY", &off_curve);
    let rsa_1024 = pem("RSA PUBLIC KEY", &pkcs1(&[&[0x80][..], &[1; 127]].concat(), &[1, 0, 1]));
    let even = pem("RSA PUBLIC KEY", &pkcs1(&[&[0x80][..], &[1; 255]].concat(), &[2]));
    let huge = pem("RSA PUBLIC KEY", &pkcs1(&[&[0x80][..], &[1; 1024]].concat(), &[1, 0, 1]));
    let mut pss = pairs.spki(Algorithm::RS256);
    let oid = pss.windows(3).position(|bytes| bytes == [1, 1, 1]).unwrap();
    pss[oid + 2] = 0x0a;
    let pss = pem("PUBLIC KEY", &pss);
    let rows: &[(Algorithm, &str, &str)] = &[
        (Algorithm::ES256, "", "this is no PEM"),
        (Algorithm::ES256, "just a secret", "this is no PEM"),
        (Algorithm::ES256, "-----BEGIN PUBLIC KEY-----\nAAAA", "has no END line"),
        (Algorithm::ES256, "-----BEGIN PUBLIC KEY-----\n!!!\n-----END PUBLIC KEY-----", "is not base64"),
        (Algorithm::ES256, &pem("X509 CRL", b"x"), "holds \"X509 CRL\""),
        (Algorithm::ES256, &pem("EC PRIVATE KEY", b"x"), "SEC1"),
        (Algorithm::RS256, &pem("RSA PRIVATE KEY", b"x"), "openssl rsa -in private.pem -pubout"),
        (Algorithm::ES256, &pem("ENCRYPTED PRIVATE KEY", b"x"), "this is a private key"),
        (Algorithm::ES256, &private, "this is a private key"),
        (Algorithm::ES256, &both, "this is a private key"),
        (Algorithm::ES256, &twice, "2 public keys"),
        (Algorithm::ES256, &p521, "this is an EC key on P-521; ES256 needs an EC key on P-256"),
        (Algorithm::ES256, &pairs.pem(Algorithm::ES384), "this is an EC key on P-384"),
        (Algorithm::ES384, &pairs.pem(Algorithm::ES256), "ES384 needs an EC key on P-384"),
        (Algorithm::ES256, &pairs.pem(Algorithm::RS256), "this is an RSA key; ES256 needs"),
        (Algorithm::RS256, &pairs.pem(Algorithm::EdDSA), "this is an Ed25519 key; RS256 needs an RSA key"),
        (Algorithm::ES512, &pairs.pem(Algorithm::ES384), "ES512 needs an EC key on P-521"),
        (Algorithm::Ed25519, &pairs.pem(Algorithm::ES256), "Ed25519 needs an Ed25519 key"),
        (Algorithm::HS256, &pairs.pem(Algorithm::RS256), "HS256 needs a shared secret"),
        (Algorithm::RS256, &cut, "is damaged"),
        (Algorithm::ES256, &off_curve, "is damaged"),
        (Algorithm::RS256, &rsa_1024, "1024 bits"),
        (Algorithm::PS512, &rsa_1024, "1024 bits"),
        (Algorithm::RS256, &huge, "8200 bits"),
        (Algorithm::RS256, &even, "odd number"),
        (Algorithm::PS256, &pss, "id-RSASSA-PSS"),
    ];
    for (algorithm, text, expected) in rows {
        let mut ring = KeyRing::default();
        let text = error(ring.add_pem(*algorithm, None, text.as_bytes()));
        assert!(text.contains(expected), "{text} (wanted: {expected})");
        assert!(ring.is_empty());
    }
    assert!(error(KeyRing::default().add_pem(Algorithm::ES256, None, b"\xff\xfe")).contains("no PEM"));
}

fn pkcs1(n: &[u8], e: &[u8]) -> Vec<u8> {
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, content].concat()
    }
    element(0x30, &[element(2, &[&[0], n].concat()), element(2, e)].concat())
}

#[test]
fn members_of_a_jwk_set_that_cannot_be_used_are_skipped_with_the_reason() {
    let pairs = pairs();
    let changed = |algorithm: Algorithm, changes: Value| {
        let mut jwk = pairs.jwk(algorithm);
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                jwk.as_object_mut().unwrap().remove(name);
            } else {
                jwk[name] = value.clone();
            }
        }
        jwk
    };
    let weak = URL_SAFE_NO_PAD.encode([1; 31]);
    let rsa_1024 = URL_SAFE_NO_PAD.encode([&[0x80][..], &[1; 127]].concat());
    let rows: Vec<(Value, &str)> = vec![
        (json!("x"), "not an object"),
        (json!({}), "no kty"),
        (json!({"kty": 1}), "no kty"),
        (json!({"kty": "AKP", "alg": "ML-DSA-44"}), "none of those supported"),
        (json!({"kty": "AKP"}), "kty is not"),
        (changed(Algorithm::RS256, json!({"use": "enc"})), "use"),
        (changed(Algorithm::RS256, json!({"use": 1})), "use"),
        (changed(Algorithm::RS256, json!({"key_ops": ["sign"]})), "key_ops"),
        (changed(Algorithm::RS256, json!({"key_ops": "verify"})), "no list of strings"),
        (changed(Algorithm::RS256, json!({"key_ops": []})), "do not contain"),
        (changed(Algorithm::RS256, json!({"key_ops": ["verify", 1]})), "no list of strings"),
        (changed(Algorithm::RS256, json!({"key_ops": ["verify", "verify"]})), "twice"),
        (changed(Algorithm::RS256, json!({"key_ops": ["Verify"]})), "do not contain"),
        (changed(Algorithm::RS256, json!({"kid": 7})), "kid is not a string"),
        (changed(Algorithm::RS256, json!({"kid": ""})), "kid is empty"),
        (changed(Algorithm::RS256, json!({"kid": "k".repeat(257)})), "longer than 256"),
        (changed(Algorithm::RS256, json!({"alg": "RSA-OAEP"})), "alg is none of those supported"),
        (changed(Algorithm::RS256, json!({"alg": "rs256"})), "alg is none of those supported"),
        (changed(Algorithm::RS256, json!({"alg": ["RS256"]})), "no alg that is a string"),
        (changed(Algorithm::RS256, json!({"alg": "ES256"})), "ES256 needs an EC key on P-256"),
        (changed(Algorithm::RS256, json!({"alg": "HS256"})), "HS256 needs a shared secret"),
        (changed(Algorithm::RS256, json!({"n": rsa_1024})), "1024 bits"),
        (changed(Algorithm::RS256, json!({"n": null})), "no n"),
        (changed(Algorithm::RS256, json!({"n": "AQ=="})), "n is not base64url"),
        (changed(Algorithm::RS256, json!({"e": "AA"})), "odd number"),
        (changed(Algorithm::RS256, json!({"d": "AQ"})), "private key"),
        (changed(Algorithm::ES256, json!({"crv": "P-384"})), "x has 32 bytes instead of 48"),
        (changed(Algorithm::ES256, json!({"crv": "P-521"})), "x has 32 bytes instead of 66"),
        (changed(Algorithm::ES256, json!({"crv": "secp256k1"})), "curve"),
        (changed(Algorithm::ES512, json!({"alg": "ES521"})), "alg is none of those supported"),
        (changed(Algorithm::ES512, json!({"alg": "ES256"})), "ES256 needs an EC key on P-256"),
        (changed(Algorithm::ES512, json!({"crv": "P-384"})), "x has 66 bytes instead of 48"),
        (changed(Algorithm::Ed25519, json!({"alg": "Ed448"})), "alg is none of those supported"),
        (changed(Algorithm::Ed25519, json!({"alg": "ES256"})), "ES256 needs an EC key on P-256"),
        (changed(Algorithm::Ed25519, json!({"kty": "EC"})), "curve"),
        (changed(Algorithm::ES256, json!({"alg": "ES384"})), "ES384 needs an EC key on P-384"),
        (changed(Algorithm::ES256, json!({"x": "AQ"})), "x has 1 bytes"),
        (changed(Algorithm::ES256, json!({"x": URL_SAFE_NO_PAD.encode([1; 32])})), "damaged"),
        (changed(Algorithm::EdDSA, json!({"crv": "Ed448"})), "curve"),
        (changed(Algorithm::EdDSA, json!({"crv": "X25519"})), "curve"),
        (changed(Algorithm::HS256, json!({"k": weak})), "has 31 bytes"),
        (changed(Algorithm::HS256, json!({"k": ""})), "has 0 bytes"),
        (changed(Algorithm::HS256, json!({"alg": null})), "names no alg"),
        (changed(Algorithm::HS256, json!({"alg": "RS256"})), "RS256 needs an RSA key"),
    ];
    for (member, expected) in &rows {
        let text = error(set(&json!({"keys": [member]}).to_string()));
        assert!(text.contains("no usable key: key 0: ") && text.contains(expected), "{text} (wanted: {expected})");
    }

    let mut members: Vec<Value> = rows.into_iter().map(|(member, _)| member).collect();
    let skipped = members.len();
    members.push(changed(Algorithm::ES256, json!({"kid": "good", "use": "sig", "key_ops": ["sign", "verify"]})));
    let (ring, report) = set(&json!({"keys": members, "other": 1}).to_string()).unwrap();
    assert_eq!(report.loaded, [LoadedJwk { algorithm: Algorithm::ES256, kid: Some("good".into()) }]);
    assert_eq!(report.skipped.len(), skipped);
    assert!(report.skipped.iter().enumerate().all(|(index, skipped)| skipped.index == index));
    assert_eq!(ring.algorithms(), [Algorithm::ES256]);
}

#[test]
fn a_jwk_that_names_no_alg_counts_for_what_its_kind_says() {
    for (algorithm, expected) in [
        (Algorithm::PS512, &[Algorithm::RS256][..]),
        (Algorithm::ES256, &[Algorithm::ES256]),
        (Algorithm::ES512, &[Algorithm::ES512]),
        (Algorithm::EdDSA, &[Algorithm::EdDSA, Algorithm::Ed25519]),
    ] {
        let mut jwk = pairs().jwk(algorithm);
        jwk.as_object_mut().unwrap().remove("alg");
        let (ring, report) = set(&json!({"keys": [jwk]}).to_string()).unwrap();
        assert_eq!(ring.algorithms(), expected);
        assert_eq!(report.loaded.iter().map(|loaded| loaded.algorithm).collect::<Vec<_>>(), expected);
        for algorithm in expected {
            assert!(verifies(&ring, *algorithm, None, b"m", &pairs().sign(*algorithm, b"m")), "{algorithm}");
        }
    }
}

#[test]
fn only_the_algorithms_of_the_issuers_list_count() {
    use Algorithm as A;
    // The key, whether it names its alg, the issuer's list, what it counts for; nothing if it is skipped.
    let rows: &[(A, bool, &[A], &[A])] = &[
        (A::RS256, true, &[A::RS256], &[A::RS256]),
        (A::RS256, true, &[A::ES256, A::PS256], &[]),
        (A::RS256, false, &[A::PS256], &[A::PS256]),
        (A::RS256, false, &[A::ES256, A::RS512, A::EdDSA], &[A::RS512]),
        (A::RS256, false, &[A::RS256, A::PS256], &[]),
        (A::RS256, false, &[A::ES256], &[]),
        (A::ES256, false, &[A::RS256, A::ES256], &[A::ES256]),
        (A::ES256, false, &[A::ES384], &[]),
        (A::EdDSA, false, &[A::EdDSA], &[A::EdDSA]),
        (A::EdDSA, false, &[A::Ed25519], &[A::Ed25519]),
        (A::EdDSA, false, &[A::Ed25519, A::EdDSA], &[A::EdDSA, A::Ed25519]),
        (A::EdDSA, false, &[A::RS256], &[]),
        (A::EdDSA, true, &[A::Ed25519], &[]),
        (A::HS256, true, &[A::HS256], &[A::HS256]),
        (A::HS256, true, &[A::HS384], &[]),
    ];
    for (algorithm, names_alg, list, expected) in rows {
        let mut jwk = pairs().jwk(*algorithm);
        jwk["alg"] = algorithm.as_str().into();
        if !names_alg {
            jwk.as_object_mut().unwrap().remove("alg");
        }
        let json = json!({"keys": [jwk]}).to_string();
        match KeyRing::from_jwk_set(json.as_bytes(), &SetRules { algorithms: list.to_vec(), secrets: true }) {
            Ok((ring, _)) => assert_eq!(ring.algorithms(), *expected, "{algorithm} {list:?}"),
            Err(KeyError(text)) => {
                assert_eq!(*expected, [], "{algorithm} {list:?}: {text}");
                assert!(text.contains("the issuer's algorithms") || text.contains("would all fit"), "{text}");
            }
        }
    }
}

#[test]
fn a_key_for_which_anybody_can_sign_is_none() {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..64).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let anybodys = [&[1][..], &[0; 63]].concat();
    let order_4 = "0000000000000000000000000000000000000000000000000000000000000000";
    let order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05";
    let other_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    let small = [
        order_4,
        order_8,
        other_8,
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];
    // The same points once more, and others, as nobody writes them (RFC 8032, section 5.1.3).
    let long = [
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];
    for hex in small {
        let key = ParsedPublicKey::new(&ED25519, bytes(hex)).unwrap();
        let signs = (0..500_u16).any(|message| key.verify_sig(&message.to_be_bytes(), &anybodys).is_ok());
        assert!(signs, "{hex}: the table must hold what it says");
    }
    let spki = |key: &[u8]| [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], key].concat();
    for hex in small.into_iter().chain(long) {
        let key = bytes(hex);
        for algorithm in [Algorithm::EdDSA, Algorithm::Ed25519] {
            let jwk =
                json!({"kty": "OKP", "crv": "Ed25519", "alg": algorithm.as_str(), "x": URL_SAFE_NO_PAD.encode(&key)});
            let text = pem("PUBLIC KEY", &spki(&key));
            let from_pem = KeyRing::default().add_pem(algorithm, None, text.as_bytes());
            for said in [error(set(&json!({"keys": [jwk]}).to_string())), error(from_pem)] {
                assert!(said.contains("anybody could sign") || said.contains("is damaged"), "{hex}: {said}");
            }
        }
    }
    let good = Material::Ed25519(pairs().ed25519.public_key().as_ref().to_vec());
    assert!(Check::from_material(Algorithm::EdDSA, &good).is_ok());
}

#[test]
fn among_public_keys_a_secret_is_none_unless_the_issuer_signs_with_secrets() {
    let (public, secret) = (pairs().jwk(Algorithm::ES256), pairs().jwk(Algorithm::HS256));
    let read = |keys: &[&Value], algorithms: &[Algorithm]| {
        let rules = SetRules { algorithms: algorithms.to_vec(), secrets: true };
        KeyRing::from_jwk_set(json!({ "keys": keys }).to_string().as_bytes(), &rules)
    };
    let skipped = [&json!({"kty": "unknown"}), &secret];
    for keys in [[&public, &secret], [&secret, &public]] {
        let (ring, report) = read(&keys, &[]).unwrap();
        assert_eq!(ring.algorithms(), [Algorithm::ES256]);
        assert!(report.skipped[0].reason.contains("among public keys"), "{:?}", report.skipped);
        let (ring, _) = read(&keys, &[Algorithm::ES256, Algorithm::HS256]).unwrap();
        assert_eq!(ring.algorithms(), [Algorithm::HS256, Algorithm::ES256]);
    }
    assert!(error(read(&skipped, &[])).contains("among public keys"), "a key that is not used is one all the same");
    let (ring, _) = read(&[&secret, &secret], &[]).unwrap();
    assert_eq!(ring.algorithms(), [Algorithm::HS256]);
}

#[test]
fn no_set_makes_a_token_cost_more_than_eight_checks() {
    let named = |kid: Option<usize>| {
        let mut jwk = pairs().jwk(Algorithm::ES256);
        if let Some(kid) = kid {
            jwk["kid"] = kid.to_string().into();
        }
        jwk
    };
    let tries = |ring: &KeyRing, kid: Option<&str>| ring.candidates(Algorithm::ES256, kid).count();
    for (unnamed, same, others) in [(9, 0, 0), (0, 20, 0), (5, 5, 90), (20, 1, 1), (1, 8, 91), (8, 8, 8), (0, 0, 100)] {
        let keys = (0..unnamed).map(|_| named(None));
        let keys = keys.chain((0..same).map(|_| named(Some(1000)))).chain((0..others).map(|kid| named(Some(kid))));
        let keys: Vec<_> = keys.collect();
        let turned: Vec<_> = keys.iter().rev().cloned().collect();
        for keys in [keys, turned] {
            let (ring, report) = set(&json!({ "keys": keys }).to_string()).unwrap();
            for kid in [None, Some("1000"), Some("0"), Some("7")] {
                assert!(tries(&ring, kid) <= 8, "{unnamed} {same} {others}: {} for {kid:?}", tries(&ring, kid));
            }
            assert_eq!(report.loaded.len() + report.skipped.len(), unnamed + same + others);
            assert!(report.skipped.iter().all(|skipped| skipped.reason.contains("8 keys")), "{:?}", report.skipped);
        }
    }
    let (ring, report) =
        set(&json!({"keys": (0..100).map(|kid| named(Some(kid))).collect::<Vec<_>>()}).to_string()).unwrap();
    assert_eq!((report.skipped.len(), tries(&ring, Some("99"))), (0, 1), "keys with names of their own cost nothing");
    let (_, report) = set(&json!({"keys": vec![named(None); 8]}).to_string()).unwrap();
    assert_eq!(report.skipped, [], "eight are not too many");
}

#[test]
fn a_text_that_is_no_jwk_set_is_an_error() {
    let many = json!({"keys": vec![json!({}); 101]}).to_string();
    for (text, expected) in [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{\"keys\":[],\"keys\":[]}", "twice"),
        ("{}", "no list \"keys\""),
        ("{\"keys\":{}}", "no list \"keys\""),
        ("{\"kty\":\"RSA\"}", "must stand in"),
        ("{\"keys\":[]}", "the list is empty"),
        (&many, "at most 100"),
    ] {
        let text = error(set(text));
        assert!(text.contains(expected), "{text} (wanted: {expected})");
    }
}

#[test]
fn a_key_with_a_kid_serves_only_tokens_that_name_it() {
    let count = |ring: &KeyRing, kid: Option<&str>| ring.candidates(Algorithm::ES256, kid).count();
    let named = pairs().ring(Algorithm::ES256, Some("a"));
    assert_eq!((count(&named, Some("a")), count(&named, Some("b")), count(&named, None)), (1, 0, 0));
    let unnamed = pairs().ring(Algorithm::ES256, None);
    assert_eq!((count(&unnamed, Some("a")), count(&unnamed, None)), (1, 1));

    let mut jwk = pairs().jwk(Algorithm::ES256);
    jwk["kid"] = "a".into();
    let (one, _) = set(&json!({"keys": [jwk]}).to_string()).unwrap();
    assert_eq!(
        (count(&one, Some("a")), count(&one, Some("b")), count(&one, None)),
        (1, 0, 1),
        "the only one of its set"
    );
    let (two, _) = set(&json!({"keys": [jwk, jwk]}).to_string()).unwrap();
    assert_eq!(count(&two, None), 0, "no longer the only one");
}

#[test]
fn a_thumbprint_is_that_of_the_standard() {
    // RFC 8037, appendix A.3
    let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
    let thumbprint = Material::Ed25519(x).thumbprint().unwrap();
    assert_eq!(URL_SAFE_NO_PAD.encode(thumbprint), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::ES512, Algorithm::EdDSA] {
        let from_pem = pairs().ring(algorithm, None).keys[0].thumbprint.unwrap();
        let (from_set, _) = set(&json!({"keys": [pairs().jwk(algorithm)]}).to_string()).unwrap();
        assert_eq!(Some(from_pem), from_set.keys[0].thumbprint, "{algorithm}");
    }
}

#[test]
fn neither_a_ring_nor_an_error_prints_key_material() {
    let mut ring = KeyRing::default();
    ring.add_secret(
        Algorithm::HS256,
        Some("k".into()),
        &Secret::new(b"swordfish-swordfish-swordfish-swordfish".to_vec()),
    )
    .unwrap();
    let printed = format!("{ring:?}");
    assert!(printed.contains("HS256") && !printed.contains("swordfish"), "{printed}");
}
