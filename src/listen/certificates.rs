//! Certificates and keys: from PEM files to what TLS needs, with a clear error for each way in which they can be wrong.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureAlgorithm};
use zeroize::Zeroizing;

use crate::listen::{CertificateFiles, ListenError};

/// Loads one chain and its key, and checks that they belong together.
pub fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, ListenError> {
    let chain = chain(&files.certificate)?;
    let key = key(&files.key)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| ListenError::UnusableKey { path: files.key.clone(), detail: error.to_string() })?;
    if key.algorithm() == SignatureAlgorithm::RSA {
        tracing::warn!(
            key = %files.key.display(),
            "an RSA key makes each TLS handshake about 20 times as expensive as a P-256 one"
        );
    }
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // `Unknown`: the key cannot tell its public half. All of aws-lc-rs' keys can.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(Error::InconsistentKeys(_)) => {
            Err(ListenError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone() })
        }
        Err(error) => Err(ListenError::BadCertificate { path: files.certificate.clone(), detail: error.to_string() }),
    }
}

/// The certificates in a PEM file; there is at least one.
pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let pem = read(path, "certificate")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain =
        chain.map_err(|error| ListenError::BadCertificate { path: path.to_owned(), detail: error.to_string() })?;
    if chain.is_empty() {
        let hint = if holds(&pem, "PRIVATE KEY-----") { ", but a key" } else { "" };
        return Err(ListenError::NoCertificate { path: path.to_owned(), hint });
    }
    Ok(chain)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, ListenError> {
    let pem = read(path, "key")?;
    if holds(&pem, "BEGIN ENCRYPTED PRIVATE KEY-----") || holds(&pem, "Proc-Type: 4,ENCRYPTED") {
        return Err(ListenError::EncryptedKey { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let hint = match (holds(&pem, "BEGIN CERTIFICATE-----"), holds(&pem, "BEGIN PUBLIC KEY-----")) {
            (true, _) => ", but a certificate",
            (_, true) => ", but a public key",
            _ => "",
        };
        ListenError::NoKey { path: path.to_owned(), hint }
    })
}

fn read(path: &Path, what: &'static str) -> Result<Zeroizing<Vec<u8>>, ListenError> {
    std::fs::read(path).map(Zeroizing::new).map_err(|error| ListenError::Read { path: path.to_owned(), what, error })
}

fn holds(pem: &[u8], mark: &str) -> bool {
    pem.windows(mark.len()).any(|window| window == mark.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_in_which_a_pair_can_be_wrong_has_its_own_message() {
        let folder = tempfile::tempdir().unwrap();
        let one = rcgen::generate_simple_self_signed(["one.example".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(["two.example".to_owned()]).unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let cert = write("cert.pem", &one.cert.pem());
        let right = write("key.pem", &one.signing_key.serialize_pem());
        let other = write("other.pem", &two.signing_key.serialize_pem());
        let locked =
            write("locked.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
        let junk = write("junk.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let hollow = write("hollow.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let empty = write("empty.pem", "");
        let missing = folder.path().join("missing.pem");
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let pair = |certificate: &Path, key: &Path| {
            let files = CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() };
            load(&files, &provider).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(pair(&cert, &right), Ok(()));
        let table = [
            (&cert, &other, "is not the key of the first certificate in"),
            (&cert, &locked, "the key is encrypted"),
            (&cert, &junk, "not a usable key"),
            (&cert, &cert, "no private key in it, but a certificate"),
            (&cert, &empty, "no private key in it"),
            (&right, &right, "no certificate in it, but a key"),
            (&empty, &right, "no certificate in it:"),
            (&hollow, &right, "not a usable certificate"),
            (&missing, &right, "cannot read the certificate"),
            (&cert, &missing, "cannot read the key"),
        ];
        for (certificate, key, expected) in table {
            let error = pair(certificate, key).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(folder.path().to_str().unwrap()), "the file is named: {error}");
        }
    }
}
