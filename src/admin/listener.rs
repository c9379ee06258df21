//! The sockets of probes and admin: bind, accept within bounds, speak HTTP.
//!
//! Every wait is bounded: the TLS handshake, each request head, the life of a connection. Whoever takes all places keeps
//! nobody out ([`Crowd`]).

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Mode, OFlags};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::admin::crowd::{Crowd, Seat};
use crate::admin::{Address, AdminError, TlsFiles};
use crate::listen::{ListenError, certificates};

/// A socket that listens; connections wait in the kernel until [`Bound::run`].
pub(super) struct Bound {
    name: &'static str,
    socket: Listening,
    tls: Option<TlsAcceptor>,
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, Remove),
}

/// A path that goes when its socket does.
struct Remove {
    path: PathBuf,
    /// The socket's file, held so that its number goes to no other file.
    file: Option<File>,
}

impl Remove {
    fn new(path: &Path) -> Self {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        Self { path: path.to_owned(), file: file.ok().map(File::from) }
    }

    fn is_ours(&self) -> bool {
        let held = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = std::fs::symlink_metadata(&self.path).ok();
        held.zip(there).is_some_and(|(held, there)| (held.dev(), held.ino()) == (there.dev(), there.ino()))
    }
}

impl Drop for Remove {
    fn drop(&mut self) {
        // It does not listen any more: another gateway may have taken it for one that was left behind, and taken its path.
        if self.is_ours() {
            // Somebody else may take it away first.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Answers a request.
pub(super) trait Answers: Clone + Send + Sync + 'static {
    /// Has the connection keep its seat once the request is let in.
    fn answer(&self, request: Request<Incoming>, seat: &Seat) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

impl Bound {
    pub(super) fn new(name: &'static str, address: &Address, tls: Option<&TlsFiles>) -> Result<Self, AdminError> {
        let socket = match address {
            Address::Tcp(address) => Listening::Tcp(tcp(name, *address)?),
            Address::Unix(path) => unix(path).map_err(|error| AdminError::socket(path, &error))?,
        };
        Ok(Self { name, socket, tls: tls.map(acceptor).transpose()? })
    }

    /// Where it listens; `None` for a Unix socket.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(..) => None,
        }
    }

    /// Serves until `stop`.
    pub(super) async fn run(self, answers: impl Answers, stop: CancellationToken) {
        let shown = match (&self.socket, self.address()) {
            (Listening::Unix(_, Remove { path, .. }), _) => format!("unix:{}", path.display()),
            (_, address) => address.map_or_else(String::new, |address| address.to_string()),
        };
        tracing::info!(listener = self.name, address = shown, tls = self.tls.is_some(), "listening");
        let crowd = Crowd::new(PLACES);
        while let Some(accepted) = stop.run_until_cancelled(self.accept()).await {
            let Ok(connection) = accepted else {
                // Out of descriptors or memory: some may come back.
                tokio::time::sleep(BACK_OFF).await;
                continue;
            };
            let Some(Some(seat)) = stop.run_until_cancelled(crowd.admit()).await else { return };
            let (answers, stop, tls, seat) = (answers.clone(), stop.clone(), self.tls.clone(), Arc::new(seat));
            tokio::spawn(async move {
                let serve = async {
                    match tls {
                        Some(tls) => {
                            if let Ok(Ok(secured)) = tokio::time::timeout(HANDSHAKE, tls.accept(connection)).await {
                                http(secured, answers, seat.clone(), stop).await;
                            }
                        }
                        None => http(connection, answers, seat.clone(), stop).await,
                    }
                };
                seat.serve(serve).await;
            });
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Io>> {
        Ok(match &self.socket {
            Listening::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listening::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

/// What HTTP is spoken over.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn http(io: impl Io + 'static, answers: impl Answers, seat: Arc<Seat>, stop: CancellationToken) {
    let heard = Arc::new(AtomicBool::new(false));
    let first = heard.clone();
    let service = service_fn(move |request| {
        first.store(true, Ordering::Relaxed);
        let (answers, seat) = (answers.clone(), seat.clone());
        async move {
            let answer = answers.answer(request, &seat).await;
            seat.answered();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let silence = async {
        tokio::time::sleep(FIRST_HEAD).await;
        if heard.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // Whoever breaks off a connection has no answer to hear.
        _ = connection.as_mut() => return,
        () = silence => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(LONGEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_REPLY, connection).await;
}

fn tcp(name: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|error: io::Error| ListenError::bind(name, address, &error))
}

/// A socket for the gateway's user alone. It cannot be connected to before its mode is set: it does not listen yet.
fn unix(path: &Path) -> io::Result<Listening> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            // One that nobody listens on was left behind.
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                _ => return Err(io::ErrorKind::AddrInUse.into()),
            }
        }
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let remove = Remove::new(path);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listening::Unix(UnixListener::from_std(socket.into())?, remove))
}

/// The listener's end of TLS, and whom it takes for a client.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, AdminError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = certificates::load(&files.certificate, &provider)?;
    let failed = |error: rustls::Error| ListenError::Tls(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |detail: String| AdminError::ClientCa { path: path.clone(), detail };
            let mut roots = rustls::RootCertStore::empty();
            for root in certificates::chain(path)? {
                roots.add(root).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(error.to_string()))?)
        }
    };
    let resolver = rustls::sign::SingleCertAndKey::from(certified);
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connections at a time.
const PLACES: usize = 128;
const BACKLOG: i32 = 128;
const BACK_OFF: Duration = Duration::from_millis(50);
/// For the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the first request head.
const FIRST_HEAD: Duration = Duration::from_secs(2);
/// For a later one, from the answer before it on.
const HEAD: Duration = Duration::from_secs(5);
const LARGEST_HEAD: usize = 16 * 1024;
/// For all requests of a connection.
const LONGEST: Duration = Duration::from_secs(50);
/// For the reply that is under way then.
const LAST_REPLY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_another_gateway_has_made_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let bind = || Bound::new("admin", &Address::Unix(path.clone()), None).unwrap();
        let first = bind();
        assert!(Bound::new("admin", &Address::Unix(path.clone()), None).is_err(), "it is in use");
        // What is left when its listener is gone, before its file is.
        let Listening::Unix(listener, remove) = first.socket else { unreachable!() };
        drop(listener);
        let second = bind();
        drop(remove);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
