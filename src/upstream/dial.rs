//! A connection to the service: name lookup, TCP, TLS. The caller bounds the whole in time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::upstream::handshake::{Answer, upgrade};
use crate::upstream::{Config, Error};

/// A fresh connection.
pub enum Connected {
    /// For `ws://`.
    Tcp(TcpStream),
    /// For `wss://`.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected {
    /// Sends the upgrade and checks the answer, which may take `timeout`. `request` has its final headers, a WebSocket key
    /// among them, and a target in origin form.
    pub async fn upgrade(self, request: Request<()>, timeout: Duration) -> Result<Answer, Error> {
        match self {
            Self::Tcp(tcp) => upgrade(tcp, request, timeout).await,
            Self::Tls(tls) => upgrade(*tls, request, timeout).await,
        }
    }
}

/// Connects to `address`, or else to the first of the service's addresses that answers.
pub async fn connect(config: &Config, address: Option<SocketAddr>) -> Result<Connected, Error> {
    let refused = |what: &str, error: &io::Error| Error::Refused(format!("{what} {}: {error}", config.url));
    let addresses = match address {
        Some(address) => vec![address],
        None => look_up(config).await.map_err(|error| refused("cannot look up", &error))?,
    };
    let tcp = any_of(&addresses, config.connect_timeout).await.map_err(|error| refused("cannot connect to", &error))?;
    tune(&SockRef::from(&tcp));
    let Some(tls) = &config.tls else { return Ok(Connected::Tcp(tcp)) };
    let connector = TlsConnector::from(tls.config.clone());
    let stream = connector.connect(tls.server_name.clone(), tcp).await;
    stream.map(Box::new).map(Connected::Tls).map_err(|error| refused("no TLS with", &error))
}

/// The addresses of the service's name.
pub(super) async fn look_up(config: &Config) -> io::Result<Vec<SocketAddr>> {
    let host = config.host.trim_start_matches('[').trim_end_matches(']');
    Ok(lookup_host((host, config.port)).await?.collect())
}

/// Sets the options of a stream's connection, on either side: no delay for small frames; at most 64 KiB written and not
/// yet taken by the peer's kernel, so that a verdict is given close to the moment the bytes leave; keepalive. A listening
/// socket hands them down to what it accepts, on Linux.
pub fn tune(socket: &SockRef<'_>) {
    // A connection without them still works: an error here ends nothing, and one of the connection is seen on first use.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&KEEPALIVE);
    let _ = socket.set_tcp_notsent_lowat(NOT_SENT);
}

/// Tries one address after the other. Each gets an equal share of the time, so that one that swallows packets leaves some
/// for the next.
pub(crate) async fn any_of(addresses: &[SocketAddr], time: Duration) -> io::Result<TcpStream> {
    let share = time / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A peer that vanished is noticed after about two minutes, however silent the stream is.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
/// `TCP_NOTSENT_LOWAT`, bytes.
const NOT_SENT: u32 = 64 * 1024;
