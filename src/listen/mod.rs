//! Listening: the accept loop, a permit for each connection, TLS and its certificates.
//!
//! Owns the listening sockets and everything of a connection up to its requests, which go to the gateway. Does not
//! know routes or tokens. Called by the app.

pub mod certificates;
pub mod selfsigned;
mod connection;
pub mod error;
mod http2;
pub mod tls;
mod turns;
pub mod validity;
mod work;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::ListenError;

use crate::gateway::Gateway;
use crate::upstream::dial::tune;
use connection::Connection;
use tls::{Tickets, Tls};

/// One address that is listened on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, for logs.
    pub name: String,
    /// The address.
    pub address: SocketAddr,
    /// Certificates, the first one for clients that send no SNI; `None` for a plaintext listener.
    pub certificates: Option<Vec<CertificateFiles>>,
    /// Whether clients may speak HTTP/2; on a plaintext listener never.
    pub http2: bool,
}

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Bounds on a connection before it is a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long the TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a request head may take to arrive, and how long a connection may wait for one.
    pub request_timeout: Duration,
    /// The largest request head, bytes; at least 8 KiB.
    pub max_request_head: usize,
}

/// A bound address with its certificates.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    handle: ListenerHandle,
}

/// Replaces the certificates of a listener. Clones are for the same listener.
#[derive(Clone)]
pub struct ListenerHandle(Arc<Shared>);

struct Shared {
    name: String,
    /// `None` on a plaintext listener.
    tls: ArcSwapOption<Tls>,
    tickets: Tickets,
}

/// Certificates that were loaded and checked, not yet in use.
pub struct Prepared(Option<Arc<Tls>>);

impl Settings {
    /// How long a connection may last, its TLS handshake included, without a request that becomes a stream or is passed
    /// on. Requests that are refused do not lengthen it: else a client without a token could keep its permit for ever.
    pub const fn longest(&self) -> Duration {
        self.handshake_timeout.saturating_add(self.request_timeout.saturating_mul(REQUESTS))
    }
}

impl Listener {
    /// Loads the certificates and binds the address; connections wait in the kernel until [`Listener::run`]. Needs a
    /// runtime.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let tickets = Tickets::new()?;
        let name = config.name.clone();
        let handle = ListenerHandle(Arc::new(Shared { name, tls: ArcSwapOption::empty(), tickets }));
        handle.commit(handle.prepare(config)?);
        let failed = |error| ListenError::bind(&config.name, config.address, &error);
        let socket = listening(config.address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address, handle })
    }

    /// The address, with the port that the system gave if the config asked for port 0.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// For replacing the certificates.
    pub fn handle(&self) -> ListenerHandle {
        self.handle.clone()
    }

    /// Accepts connections until `shutdown`; those that are there then finish the request they are in. Each connection
    /// is a task of `tracker` and holds one of `permits` until it, or the stream on it, has ended. While there is none, one
    /// connection is accepted and waits; the others wait in the kernel.
    pub async fn run(
        self,
        gateway: Gateway,
        settings: Settings,
        permits: Arc<Semaphore>,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    ) {
        let name = &*self.handle.0.name;
        tracing::info!(listener = name, address = %self.address, tls = self.handle.0.tls.load().is_some(), "listening");
        let turns = Arc::new(turns::turns());
        loop {
            // Accepted first: a permit that waited in here would be lost to the other listeners.
            let (tcp, address) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                accepted = self.accept() => accepted,
            };
            let permit = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                permit = permits.clone().acquire_owned() => permit,
            };
            // The semaphore is closed only by an app that is leaving.
            let Ok(permit) = permit else { return };
            let connection = Connection {
                address,
                permit,
                tls: self.handle.0.tls.load_full(),
                gateway: gateway.clone(),
                settings,
                turns: turns.clone(),
                shutdown: shutdown.clone(),
            };
            tracker.spawn(connection.serve(tcp));
        }
    }

    /// The next connection. Running out of descriptors or memory is survived by waiting for some to come back.
    async fn accept(&self) -> (TcpStream, SocketAddr) {
        let mut starved = false;
        loop {
            match self.socket.accept().await {
                Ok((tcp, address)) => {
                    if cfg!(not(target_os = "linux")) {
                        tune(&SockRef::from(&tcp));
                    }
                    return (tcp, address);
                }
                // The connection was gone before it was accepted: the next one may be there.
                Err(error) if is_the_clients(&error) => tokio::task::yield_now().await,
                Err(error) => {
                    if !starved {
                        tracing::warn!(listener = self.handle.0.name, %error, "cannot accept connections for now");
                        starved = true;
                    }
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
}

impl ListenerHandle {
    /// Loads and checks the certificates that `config` names, without putting them in use.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, ListenError> {
        let files = config.certificates.as_deref();
        files.map(|files| Tls::load(files, &self.0.tickets, config.http2).map(Arc::new)).transpose().map(Prepared)
    }

    /// Puts certificates in use for connections from now on.
    pub fn commit(&self, prepared: Prepared) {
        self.0.tls.store(prepared.0);
    }

    /// [`ListenerHandle::prepare`] and [`ListenerHandle::commit`] in one; after an error the old ones stay in use.
    pub fn replace_certificates(&self, config: &Config) -> Result<(), ListenError> {
        self.commit(self.prepare(config)?);
        Ok(())
    }
}

fn listening(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    tune(&SockRef::from(&socket));
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn is_the_clients(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// How many times `request_timeout` a connection may last.
const REQUESTS: u32 = 3;
/// Connections that may wait in the kernel; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How long to wait for descriptors or memory to come back.
const BACK_OFF: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_is_tuned_like_what_listens() {
        let listener = listening(([127, 0, 0, 1], 0).into()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&tcp);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 64 * 1024);
    }
}
