//! Clients served by tokio-rustls instead of [`crate::tls`]: a second implementation for the tests to run against. It
//! promises the same and costs more memory; no release has it.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::wire::{Socket, TlsWire};

/// A client's connection, the handshake done.
pub type Stream = TlsStream<TcpStream>;

/// A client's finished handshake.
#[derive(Debug)]
pub struct Accepted {
    /// What may now be read and written.
    pub stream: Stream,
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<String>,
}

/// Makes the handshake with a client. The caller bounds the time.
///
/// # Errors
///
/// Of the connection, and `InvalidData` for what is no TLS or no agreement.
pub async fn accept(io: TcpStream, config: Arc<ServerConfig>) -> io::Result<Accepted> {
    let stream = TlsAcceptor::from(config).accept(io).await?;
    let server_name = stream.get_ref().1.server_name().map(str::to_owned);
    Ok(Accepted { stream, server_name })
}

/// What was agreed on to be spoken (ALPN), if anything was.
pub fn protocol(stream: &Stream) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

impl From<Stream> for Socket {
    fn from(stream: Stream) -> Self {
        let (tcp, tls) = stream.into_inner();
        Self::Tls(Box::new(TlsWire::new(tcp, tls)))
    }
}
