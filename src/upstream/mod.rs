//! The service's side of a stream: connect under a deadline, upgrade, check the answer.
//!
//! Owns the connection to the service until it is upgraded, and the choice among a service's endpoints. Does not decide
//! what is sent (the gateway's `forward` and `pass` stages build the request). Each stream has a connection of its own; those
//! of plain requests are kept for the next one. Dropping a future of this module closes whatever it had opened.

pub mod check;
pub mod dial;
pub mod endpoint;
pub mod exchange;
pub mod handshake;
pub mod health;
pub mod pool;
pub mod service;
pub mod trust;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use endpoint::{Endpoint, Lease, Use};
pub use handshake::{Answer, Switched};
pub use service::{Affinity, Service};

/// Where an endpoint of a service is and how it is reached.
#[derive(Clone, Debug)]
pub struct Config {
    /// The URL as it was typed, for logs: `ws://127.0.0.1:9001` or `wss://…`. A path in it is a config error.
    pub url: String,
    /// Host name or address to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// For `wss://`: the TLS config (own CA or the system's roots) and the name the certificate must have.
    pub tls: Option<Tls>,
    /// How long name lookup, TCP connect and TLS handshake may take together. Default 5 s.
    pub connect_timeout: Duration,
    /// How long the service may take to answer the upgrade. Default 10 s.
    pub response_timeout: Duration,
}

impl Config {
    /// The address, if the host is one and no name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// Host and port as they stand in a `Host` header: the scheme's own port is left out.
    pub fn authority(&self) -> String {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let default = if self.tls.is_some() { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

/// TLS towards the service.
#[derive(Clone, Debug)]
pub struct Tls {
    /// rustls' client side.
    pub config: Arc<rustls::ClientConfig>,
    /// The name that is sent as SNI and that the certificate must cover.
    pub server_name: rustls::pki_types::ServerName<'static>,
}

/// Why there is no stream to the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It answered something that is no answer to a WebSocket upgrade, or went away before it had answered.
    #[error("{0}")]
    Invalid(String),
    /// There is no connection: no such name, refused, unreachable, or no TLS with it.
    #[error("{0}")]
    Refused(String),
    /// It chose a subprotocol that it was not offered.
    #[error("{0}")]
    Subprotocol(String),
    /// It was silent for too long.
    #[error("{0} took longer than {1:?}")]
    Timeout(&'static str, Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_own_host_leaves_out_its_schemes_port() {
        let config = |host: &str, port| Config {
            url: String::new(),
            host: host.into(),
            port,
            tls: None,
            connect_timeout: Duration::ZERO,
            response_timeout: Duration::ZERO,
        };
        assert_eq!(config("service", 80).authority(), "service");
        assert_eq!(config("service", 443).authority(), "service:443");
        assert_eq!(config("::1", 9001).authority(), "[::1]:9001");
        assert_eq!(config("[::1]", 80).authority(), "[::1]");
    }
}
