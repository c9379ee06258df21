//! Whom the client trusts: the system's roots, or one CA of the caller's own. Never "anyone".

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::upstream::trust::{self, RootsError, roots, trusting};

/// Why no TLS config can be made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The PEM text holds no certificate that can sign others.
    #[error("the CA file holds no certificate in PEM that can be used: {0}")]
    Ca(#[from] RootsError),
    /// The own certificate cannot be shown.
    #[error("the client certificate and its key cannot be used: {0}")]
    Own(rustls::Error),
    /// The system has no roots, or they cannot be read.
    #[error("the system's root certificates cannot be used ({0}); name a CA file instead")]
    System(rustls::Error),
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Trusts the certificates in this PEM text, or the system's roots if there is none.
pub fn trust(ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, TrustError> {
    trust_as(ca, None)
}

/// Likewise; and shows this certificate chain, made with this key, to a server that asks for one.
pub fn trust_as(
    ca: Option<&[u8]>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, TrustError> {
    let builder = trusting(ca.map(roots).transpose()?).map_err(|error| match error {
        trust::TrustError::System(error) => TrustError::System(error),
        trust::TrustError::Setup(error) => TrustError::Setup(error),
    })?;
    let mut config = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(TrustError::Own)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        assert!(matches!(trust(Some(b"")), Err(TrustError::Ca(_))));
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        assert!(trust(Some(key.cert.pem().as_bytes())).is_ok());
    }
}
