//! What can be wrong with a listener, each with what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a listener cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The certificate file holds something that is no certificate.
    #[error("{path}: not a usable certificate: {detail}", path = path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The address cannot be bound.
    #[error("listener `{name}`: cannot listen on {address}: {detail}")]
    Bind {
        /// The listener.
        name: String,
        /// The address.
        address: SocketAddr,
        /// Why, and what to do.
        detail: String,
    },
    /// The key is protected by a passphrase.
    #[error(
        "{path}: the key is encrypted, and there is nobody to ask for the passphrase: decrypt it with `openssl pkey -in \
         {path} -out plain-key.pem` and keep that file readable for the gateway only",
        path = path.display()
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error(
        "{key} is not the key of the first certificate in {certificate}: the leaf must come first, and key and \
         certificate must have been made for each other",
        key = key.display(), certificate = certificate.display()
    )]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// There is no certificate in the certificate file.
    #[error("{path}: no certificate in it{hint}: a PEM file with `-----BEGIN CERTIFICATE-----` is wanted, leaf first", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What it holds instead, if that can be told.
        hint: &'static str,
    },
    /// There is no key in the key file.
    #[error("{path}: no private key in it{hint}: a PEM file with PKCS#8, PKCS#1 or SEC1 is wanted", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What it holds instead, if that can be told.
        hint: &'static str,
    },
    /// A file cannot be read.
    #[error("{path}: cannot read the {what}: {error}{hint}", path = path.display(), hint = remedy(error))]
    Read {
        /// The file.
        path: PathBuf,
        /// `certificate` or `key`.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// TLS cannot be set up at all.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The key is of a kind that TLS servers cannot use here.
    #[error("{path}: not a usable key: {detail}: ECDSA (P-256, P-384), Ed25519 and RSA of 2048 bits and more can be used", path = path.display())]
    UnusableKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

impl ListenError {
    /// Says what to do about the usual reasons.
    pub(crate) fn bind(name: &str, address: SocketAddr, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(": another program listens on port {} already; stop it or choose another port", address.port())
            }
            io::ErrorKind::PermissionDenied => {
                ": ports below 1024 need CAP_NET_BIND_SERVICE; give it to the program or choose a higher port".into()
            }
            io::ErrorKind::AddrNotAvailable => ": no interface of this machine has this address".into(),
            _ => String::new(),
        };
        Self::Bind { name: name.into(), address, detail: format!("{error}{remedy}") }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (`portcullis cert` makes a pair for a first try)",
        io::ErrorKind::PermissionDenied => " (the gateway's user must be able to read it)",
        _ => "",
    }
}
