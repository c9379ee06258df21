//! Public keys in PEM (RFC 7468): SubjectPublicKeyInfo, PKCS#1, X.509 certificates.
//!
//! Reads only as far as the key and what kind it is, so that a wrong file gets an answer that names it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::der::{BIT_STRING, Der, INTEGER, OID, SEQUENCE, VERSION};
use super::{KeyError, Material};

/// The first public key or certificate in the file. A private key anywhere in it is an error: it has no business here.
pub(super) fn public_key(pem: &[u8]) -> Result<Material, KeyError> {
    let text = std::str::from_utf8(pem).map_err(|_| not_pem())?;
    let blocks = blocks(text)?;
    for block in &blocks {
        refuse_private(block.label)?;
    }
    let keys = blocks.iter().filter(|block| block.label.ends_with("PUBLIC KEY")).count();
    if keys > 1 {
        return Err(KeyError(format!(
            "there are {keys} public keys in one PEM text; give each a key entry of its own"
        )));
    }
    let Some(block) = blocks.iter().find(|block| {
        matches!(
            block.label,
            "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"
        )
    }) else {
        let label = blocks.first().map_or("nothing", |block| block.label);
        return Err(KeyError(format!("the PEM text holds \"{label}\"; wanted is a PUBLIC KEY or a CERTIFICATE")));
    };
    let der = STANDARD.decode(&block.base64).map_err(|_| KeyError(format!("the {} is not base64", block.label)))?;
    let read = match block.label {
        "PUBLIC KEY" => from_spki(&der),
        "RSA PUBLIC KEY" => from_pkcs1(&der),
        _ => from_certificate(&der),
    };
    read.ok_or_else(|| KeyError(format!("the {} is damaged: its DER cannot be read", block.label)))
}

struct Block<'a> {
    label: &'a str,
    base64: String,
}

/// The blocks of a PEM text; text around them does not count.
fn blocks(text: &str) -> Result<Vec<Block<'_>>, KeyError> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let mut base64 = String::new();
        loop {
            let line = lines.next().ok_or_else(|| KeyError(format!("the {label} has no END line")))?;
            if line.starts_with("-----END ") {
                break;
            }
            // Headers of encrypted private keys are of no use here, but must not hide what the block is.
            if !line.contains(':') {
                base64.push_str(line);
            }
        }
        blocks.push(Block { label, base64 });
    }
    if blocks.is_empty() {
        return Err(not_pem());
    }
    Ok(blocks)
}

fn not_pem() -> KeyError {
    KeyError("this is no PEM: there is no line -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE-----".into())
}

fn refuse_private(label: &str) -> Result<(), KeyError> {
    let remedy = match label {
        "EC PRIVATE KEY" => {
            "this is a private key (SEC1, \"EC PRIVATE KEY\"); the gateway needs only the public key. Make it with: \
             openssl ec -in private.pem -pubout"
        }
        "RSA PRIVATE KEY" => {
            "this is a private key (PKCS#1, \"RSA PRIVATE KEY\"); the gateway needs only the public key. Make it with: \
             openssl rsa -in private.pem -pubout"
        }
        label if label.ends_with("PRIVATE KEY") => {
            "this is a private key; the gateway needs only the public key. Make it with: \
             openssl pkey -in private.pem -pubout"
        }
        _ => return Ok(()),
    };
    Err(KeyError(remedy.into()))
}

/// `SubjectPublicKeyInfo` (RFC 5280, section 4.1).
fn from_spki(der: &[u8]) -> Option<Material> {
    let mut outer = Der(der);
    let mut info = Der(outer.take(SEQUENCE)?);
    let mut algorithm = Der(info.take(SEQUENCE)?);
    let kind = algorithm.take(OID)?;
    // The first byte of a BIT STRING counts its unused bits: none in a key.
    let key = info.take(BIT_STRING)?.strip_prefix(&[0])?;
    Some(match kind {
        RSA_ENCRYPTION => from_pkcs1(key)?,
        RSASSA_PSS => Material::Other("RSA key bound to PSS (id-RSASSA-PSS); publish it as a plain RSA key"),
        EC_PUBLIC_KEY => match algorithm.take(OID) {
            Some(P256) => Material::P256(key.to_vec()),
            Some(P384) => Material::P384(key.to_vec()),
            Some(P521) => Material::P521(key.to_vec()),
            _ => Material::Other("EC key on another curve"),
        },
        ED25519 => Material::Ed25519(key.to_vec()),
        ED448 => Material::Other("Ed448 key"),
        X25519 => Material::Other("X25519 key, which cannot sign"),
        _ => Material::Other("key of another kind"),
    })
}

/// `RSAPublicKey` (RFC 8017, appendix A.1.1).
fn from_pkcs1(der: &[u8]) -> Option<Material> {
    let mut outer = Der(der);
    let mut key = Der(outer.take(SEQUENCE)?);
    let n = without_leading_zeros(key.take(INTEGER)?).to_vec();
    let e = without_leading_zeros(key.take(INTEGER)?).to_vec();
    Some(Material::Rsa { n, e })
}

/// The key of a `Certificate` (RFC 5280, section 4.1).
fn from_certificate(der: &[u8]) -> Option<Material> {
    let mut outer = Der(der);
    let mut certificate = Der(outer.take(SEQUENCE)?);
    let mut body = Der(certificate.take(SEQUENCE)?);
    // The version is absent in certificates of version 1.
    let _ = body.take(VERSION);
    body.take(INTEGER)?;
    // Signature algorithm, issuer, validity, subject.
    for _ in 0..4 {
        body.take(SEQUENCE)?;
    }
    from_spki(body.0)
}

/// The number without the zeros in front of it.
pub(super) fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

// Object identifiers: RFC 8017 appendix C, RFC 5480 section 2.1, RFC 8410 section 3.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const X25519: &[u8] = &[0x2b, 0x65, 0x6e];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const ED448: &[u8] = &[0x2b, 0x65, 0x71];
