//! The connection that a request came over.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::sync::OwnedSemaphorePermit;
use webpki::EndEntityCert;

/// A client's connection, for as long as it or the stream on it lives.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// What was agreed in the TLS handshake; `None` on a plaintext listener.
    pub tls: Option<Presented>,
    /// Its place among the connections; given back when the last holder lets go: the stream keeps it without the rest.
    pub permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// What a client asked for and got in the TLS handshake.
#[derive(Clone, Debug)]
pub struct Presented {
    /// The name it asked for (SNI), if any.
    pub sni: Option<String>,
    /// The certificates of which it was shown one: those that cover `sni`, or the one for all other names. Which of
    /// them it was depends on the signatures that the client can verify, and is not known here.
    pub certificates: Vec<Arc<CertifiedKey>>,
}

impl Peer {
    /// Whether a request for `host` (lower case, no port) belongs on this connection: it is the name that the client
    /// asked for, or it asked for none, or whichever certificate it was shown covers it (RFC 9110, section 15.5.20).
    pub fn serves(&self, host: &str) -> bool {
        let Some(Presented { sni: Some(sni), certificates }) = &self.tls else { return true };
        let covered = |shown: &Arc<CertifiedKey>| shown.cert.first().is_some_and(|leaf| covers(leaf, host));
        sni.trim_end_matches('.').eq_ignore_ascii_case(host)
            || (!certificates.is_empty() && certificates.iter().all(covered))
    }
}

/// Whether `certificate` is valid for `host`, a name or an address (an IPv6 one with or without brackets).
pub fn covers(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let (Ok(name), Ok(certificate)) = (ServerName::try_from(host), EndEntityCert::try_from(certificate)) else {
        return false;
    };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_the_certificate_does_not_cover_is_served_only_where_sni_was_that_name() {
        let names = ["gate.example".to_owned(), "*.wild.example".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certificate = Arc::new(CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider).unwrap());
        let table = [
            (Some("gate.example"), "gate.example", true),
            (Some("gate.example"), "a.wild.example", true),
            (Some("gate.example"), "127.0.0.1", true),
            (Some("gate.example"), "other.example", false),
            (Some("gate.example"), "b.a.wild.example", false),
            (Some("gate.example"), "[::1]", false),
            (Some("other.example"), "other.example", true),
            (None, "other.example", true),
        ];
        for (sni, host, expected) in table {
            let tls = Presented { sni: sni.map(str::to_owned), certificates: vec![certificate.clone()] };
            let peer = Peer { address: ([192, 0, 2, 1], 1).into(), tls: Some(tls), permit: None };
            assert_eq!(peer.serves(host), expected, "SNI {sni:?}, Host {host}");
        }
        let plain = Peer { address: ([192, 0, 2, 1], 1).into(), tls: None, permit: None };
        assert!(plain.serves("other.example"));
    }
}
