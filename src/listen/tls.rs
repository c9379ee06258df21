//! The gateway's end of TLS: one immutable state per set of certificates, swapped as a whole.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SignatureScheme};

use crate::gateway::peer::{Presented, covers};
use crate::listen::{CertificateFiles, ListenError, certificates};

/// Seals and opens session tickets. Kept when certificates change, so that clients still resume.
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// Fresh ticket keys, rotated by rustls.
    pub fn new() -> Result<Self, ListenError> {
        Ticketer::new().map(Self).map_err(|error| ListenError::Tls(error.to_string()))
    }
}

/// A set of certificates and the config that serves them.
pub struct Tls {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl Tls {
    /// Loads the certificates; the first one is for clients that send no SNI or a name that none covers. With `http2`, a
    /// client that knows HTTP/2 gets it.
    pub fn load(files: &[CertificateFiles], tickets: &Tickets, http2: bool) -> Result<Self, ListenError> {
        let mut provider = default_provider();
        // AES-128 is enough and the cheapest with hardware for it; the order is ours (see `ignore_client_order`).
        provider.cipher_suites.sort_by_key(|suite| !AES_128.contains(&suite.suite()));
        let loaded: Result<Vec<_>, _> = files.iter().map(|files| certificates::load(files, &provider)).collect();
        let certificates = Arc::new(Certificates(loaded?));
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ListenError::Tls(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        let protocols: &[&[u8]] = if http2 { &[HTTP2, b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.ignore_client_order = true;
        config.ticketer = tickets.0.clone();
        // Whoever comes back for a stream makes one connection, and gets a fresh ticket on it.
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), certificates })
    }

    /// For accepting a connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// What a client that asked for `sni` may have been shown.
    pub fn presented(&self, sni: Option<&str>) -> Presented {
        Presented { sni: sni.map(str::to_owned), certificates: self.certificates.candidates(sni).cloned().collect() }
    }
}

/// Chooses by SNI.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    /// Those that cover `sni`; the first one if none does, or if there is no `sni` or no choice.
    fn candidates(&self, sni: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let covers_sni = move |certified: &Arc<CertifiedKey>| {
            sni.is_some_and(|sni| certified.cert.first().is_some_and(|leaf| covers(leaf, sni)))
        };
        let covered = self.0.len() > 1 && self.0.iter().any(covers_sni);
        let others = self.0.first().filter(|_| !covered);
        self.0.iter().filter(move |certified| covered && covers_sni(certified)).chain(others)
    }

    /// The first of the candidates whose key the client can verify; else the first of them.
    fn pick(&self, sni: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = self.candidates(sni).find(|certified| certified.key.choose_scheme(schemes).is_some());
        usable.or_else(|| self.candidates(sni).next()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.server_name(), hello.signature_schemes())
    }
}

/// The name of HTTP/2 in ALPN (RFC 9113, section 3.2).
pub(super) const HTTP2: &[u8] = b"h2";
const AES_128: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sni_picks_the_certificate_and_the_first_one_is_for_all_others() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["one.example", "*.two.example"].map(|name| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            let stem = name.trim_start_matches("*.");
            let files = CertificateFiles {
                certificate: folder.path().join(format!("{stem}.pem")),
                key: folder.path().join(format!("{stem}-key.pem")),
            };
            std::fs::write(&files.certificate, made.cert.pem()).unwrap();
            std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
            files
        });
        let tls = Tls::load(&files, &Tickets::new().unwrap(), true).unwrap();
        let first_suite = tls.config.crypto_provider().cipher_suites.first().unwrap().suite();
        assert_eq!(first_suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let first_group = tls.config.crypto_provider().kx_groups.first().unwrap().name();
        assert_eq!(first_group, rustls::NamedGroup::X25519MLKEM768);
        let shown = |sni| {
            let [shown] = <[_; 1]>::try_from(tls.presented(sni).certificates).unwrap();
            shown
        };
        let [one, two] = [&tls.certificates.0[0], &tls.certificates.0[1]];
        for (sni, expected) in
            [(None, one), (Some("one.example"), one), (Some("a.two.example"), two), (Some("other.example"), one)]
        {
            assert!(Arc::ptr_eq(&shown(sni), expected), "{sni:?}");
        }
    }

    #[test]
    fn a_host_is_served_only_if_every_certificate_that_may_have_been_shown_covers_it() {
        let folder = tempfile::tempdir().unwrap();
        let make = |stem: &str, names: &[&str], algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let made = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            let path = |end: &str| folder.path().join(format!("{stem}{end}"));
            let files = CertificateFiles { certificate: path(".pem"), key: path("-key.pem") };
            std::fs::write(&files.certificate, made.pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            files
        };
        let files = [
            make("one", &["a.example", "b.example", "both.example"], &rcgen::PKCS_ED25519),
            make("two", &["a.example", "both.example"], &rcgen::PKCS_ECDSA_P256_SHA256),
        ];
        let tls = Tls::load(&files, &Tickets::new().unwrap(), true).unwrap();
        let ecdsa = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let chosen = tls.certificates.pick(Some("a.example"), &ecdsa).unwrap();
        assert!(Arc::ptr_eq(&chosen, &tls.certificates.0[1]), "a client without Ed25519 sees the second one");
        let presented = Some(tls.presented(Some("a.example")));
        let peer = crate::gateway::Peer { address: ([192, 0, 2, 1], 1).into(), tls: presented, permit: None };
        assert!(peer.serves("a.example"));
        assert!(peer.serves("both.example"));
        assert!(!peer.serves("b.example"), "the second one, which may have been shown, does not cover it");
    }
}
