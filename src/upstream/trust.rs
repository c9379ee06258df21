//! Whom we trust at the other end of TLS: the system's roots, or the CA of a file. Never "anyone".

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// Why nobody can be trusted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TrustError {
    /// The system has no roots, or they cannot be read.
    #[error("the system's root certificates cannot be used: {0}")]
    System(rustls::Error),
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Why the PEM text of a CA cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// A certificate in it is broken.
    #[error("a certificate in it cannot be used: {0}")]
    Broken(String),
    /// It has none.
    #[error("no certificate found")]
    Empty,
}

/// The certificates in this PEM text, at least one.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| RootsError::Broken(error.to_string()))?;
        roots.add(certificate).map_err(|error| RootsError::Broken(error.to_string()))?;
    }
    if roots.is_empty() { Err(RootsError::Empty) } else { Ok(roots) }
}

/// A client's side of TLS that trusts `roots`, or the system's if there are none.
pub fn trusting(roots: Option<RootCertStore>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TrustError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Setup)?;
    match roots {
        Some(roots) => Ok(builder.with_root_certificates(roots)),
        None => builder.with_platform_verifier().map_err(TrustError::System),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_a_usable_certificate_is_refused() {
        assert_eq!(roots(b"").unwrap_err(), RootsError::Empty);
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(roots(broken), Err(RootsError::Broken(_))));
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        assert_eq!(roots(key.cert.pem().as_bytes()).unwrap().len(), 1);
    }
}
