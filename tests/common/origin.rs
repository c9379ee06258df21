//! An HTTP server, over TLS or not, of which a test decides every byte.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::link::header;

/// Serves until it is dropped.
pub struct Origin {
    address: SocketAddr,
    secure: bool,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Does `each` with every request, in a task of its own.
    pub async fn start<F, T>(each: F) -> Self
    where
        F: Fn(Call) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        Self::with(None, each).await
    }

    /// Likewise, over TLS with this certificate chain and key, PEM.
    pub async fn secure<F, T>(identity: &(String, String), each: F) -> Self
    where
        F: Fn(Call) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let chain = CertificateDer::pem_slice_iter(identity.0.as_bytes()).collect::<Result<_, _>>().expect("a chain");
        let key = PrivateKeyDer::from_pem_slice(identity.1.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a pair");
        Self::with(Some(TlsAcceptor::from(Arc::new(config))), each).await
    }

    /// Answers every request with these bytes and ends the connection.
    pub async fn says(answer: impl AsRef<[u8]>) -> Self {
        let answer: Arc<[u8]> = answer.as_ref().into();
        Self::start(move |call| {
            let answer = answer.clone();
            async move { call.answer(answer).await }
        })
        .await
    }

    async fn with<F, T>(tls: Option<TlsAcceptor>, each: F) -> Self
    where
        F: Fn(Call) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (secure, asked, each) = (tls.is_some(), Arc::new(Mutex::new(Vec::new())), Arc::new(each));
        let log = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, each, log) = (tls.clone(), each.clone(), log.clone());
                tokio::spawn(async move {
                    let mut stream: Box<dyn Io> = match tls {
                        None => Box::new(tcp),
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    let Some((head, body)) = read(&mut stream).await else { return };
                    log.lock().expect("log").push(head.clone());
                    each(Call { stream, head, body }).await;
                });
            }
        });
        Self { address, secure, asked, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL on it, by the name that the usual certificates cover.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    /// The heads of the requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("log").clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that waits for its answer.
pub struct Call {
    stream: Box<dyn Io>,
    pub head: String,
    pub body: String,
}

impl Call {
    /// The request target.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).expect("a request line")
    }

    /// The value of the first header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Answers with these bytes and ends the connection.
    pub async fn answer(mut self, bytes: impl AsRef<[u8]>) {
        if self.send(bytes).await {
            let _ = self.stream.shutdown().await;
        }
    }

    /// Sends these bytes; false if the other side is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }
}

async fn read(stream: &mut Box<dyn Io>) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
            let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a length"));
            if bytes.len() >= end + 4 + length {
                let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
                return Some((head, body));
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// TLS or TCP.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
