//! A CA and a certificate that it has signed, made on the spot: for a first try, and for networks of one's own.
//!
//! The CA's key is dropped as soon as it has signed, so that trusting the CA trusts this one certificate only. Writes no
//! file; `portcullis cert` and the demo call it.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::clock::Wall;

/// What was made, each as PEM.
pub struct SelfSigned {
    /// The CA.
    pub ca: String,
    /// The leaf, then the CA.
    pub chain: String,
    /// The leaf's key, PKCS#8.
    pub key: String,
}

/// A CA, and a leaf certificate (ECDSA, P-256) that covers `names`, good from an hour ago, for clients whose clock is
/// behind, until `valid_for` from `now`.
pub fn self_signed(names: &[String], valid_for: Duration, now: Wall) -> Result<SelfSigned, rcgen::Error> {
    let begin = SystemTime::UNIX_EPOCH + now.since_epoch().saturating_sub(HOUR);
    let end = SystemTime::UNIX_EPOCH + now.since_epoch().saturating_add(valid_for);
    let named = |mut params: CertificateParams, name: &str| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = begin.into();
        params.not_after = end.into();
        params
    };
    let mut params = named(CertificateParams::default(), "portcullis CA of this machine");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let common = names.first().map_or("portcullis", String::as_str);
    let mut params = named(CertificateParams::new(names.to_vec())?, common);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &ca)?;
    Ok(SelfSigned { ca: ca.pem(), chain: format!("{}{}", leaf.pem(), ca.pem()), key: key.serialize_pem() })
}

const HOUR: Duration = Duration::from_secs(3600);
