//! The handshake of a server.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::TlsStream;
use crate::tls::io::invalid;
use crate::tls::session::{End, Session};

/// A client's finished handshake.
#[derive(Debug)]
pub struct Accepted<T> {
    /// What may now be read and written.
    pub stream: TlsStream<T>,
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<String>,
}

/// Makes the handshake with a client. The caller bounds the time.
///
/// # Errors
///
/// Of `io`; `UnexpectedEof` if it ends before the handshake does; `InvalidData` with a [`rustls::Error`] for what is no
/// TLS or no agreement, after an attempt to tell the client.
pub async fn accept<T>(io: T, config: Arc<ServerConfig>) -> io::Result<Accepted<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // rustls shows the client's name only to the resolver of certificates, so the connection has one of its own.
    let noted = Arc::new(Noted { resolver: config.cert_resolver.clone(), name: OnceLock::new() });
    let mut config = ServerConfig::clone(&config);
    config.cert_resolver = noted.clone();
    config.max_early_data_size = 0;
    let tls = UnbufferedServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
    let mut stream = TlsStream::new(io, Session::new(tls));
    while stream.state().is_handshaking() {
        poll_fn(|cx| stream.poll_fill(cx, &mut ReadBuf::new(&mut []))).await?;
        if !stream.state().is_handshaking() {
            break;
        }
        if let Some(end) = stream.end() {
            let error = match end {
                End::Failed(error) => invalid(error),
                End::Closed | End::Cut => io::Error::new(io::ErrorKind::UnexpectedEof, "the client went away"),
            };
            // The alert, if it goes at once: a client that failed is not waited for.
            poll_fn(|cx| Poll::Ready(stream.poll_drain(cx).is_ready())).await;
            return Err(error);
        }
        poll_fn(|cx| stream.poll_drain(cx)).await?;
    }
    // In TLS 1.3 what is left are tickets, which nobody waits for.
    if stream.state().protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        poll_fn(|cx| stream.poll_drain(cx)).await?;
    }
    let server_name = noted.name.get().cloned();
    Ok(Accepted { stream, server_name })
}

/// Asks another resolver, and remembers which name the client asked for.
#[derive(Debug)]
struct Noted {
    resolver: Arc<dyn ResolvesServerCert>,
    name: OnceLock<String>,
}

impl ResolvesServerCert for Noted {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            // A second hello of one handshake must ask for the same name.
            let _ = self.name.set(name.to_owned());
        }
        self.resolver.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.resolver.only_raw_public_keys()
    }
}
