//! An authority of the test's own and a leaf for this machine.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

/// Signs leaves; clients trust it and nothing else.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    client: Arc<ClientConfig>,
}

impl Authority {
    /// A new authority with a key of its own.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "portcullis test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(issuer.der().to_vec())).expect("root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { issuer, client: Arc::new(client) }
    }

    /// A certificate chain and its key for `names`, PEM.
    pub fn leaf(&self, names: &[&str]) -> (String, String) {
        self.leaf_with(names, |_| {})
    }

    /// Likewise; `change` may make it a bad one.
    pub fn leaf_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, "portcullis test");
        change(&mut params);
        let key = KeyPair::generate().expect("key");
        let leaf = params.signed_by(&key, &self.issuer).expect("leaf");
        (leaf.pem(), key.serialize_pem())
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` (for localhost, 127.0.0.1 and ::1) into `folder`.
    pub fn write(&self, folder: &Path) {
        let (leaf, key) = self.leaf(&["localhost", "127.0.0.1", "::1"]);
        std::fs::write(folder.join("ca.pem"), self.pem()).expect("ca.pem");
        std::fs::write(folder.join("cert.pem"), leaf).expect("cert.pem");
        std::fs::write(folder.join("key.pem"), key).expect("key.pem");
    }

    /// A client's TLS config that trusts only this authority.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
