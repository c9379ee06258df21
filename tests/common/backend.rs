//! A service behind the gateway, played by the test.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::link::{Frame, Link, Role, header, op};
use super::{PATIENCE, within};

/// Listens on a port of this machine. Connections wait for [`Backend::accept`] or are echoed.
pub struct Backend {
    address: SocketAddr,
    connections: mpsc::UnboundedReceiver<TcpStream>,
    dialled: Arc<AtomicUsize>,
    live: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    /// A service whose connections the test takes one by one.
    pub async fn start() -> Self {
        let (listener, address) = listen().await;
        let (sender, connections) = mpsc::unbounded_channel();
        let (dialled, live) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counter = dialled.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { address, connections, dialled, live, task }
    }

    /// A service that returns each message as it came, and answers pings and Closes.
    pub async fn echo() -> Self {
        Self::serve(|asked| async move { echo(asked.agree("").await).await }).await
    }

    /// A service that does `each` with every upgrade request, in a task of its own.
    pub async fn serve<F, T>(each: F) -> Self
    where
        F: Fn(Asked) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        Self::serve_at(SocketAddr::from(([127, 0, 0, 1], 0)), each).await
    }

    /// Likewise, at this address: where another service was, or at a port of the system's choice.
    pub async fn serve_at<F, T>(address: SocketAddr, each: F) -> Self
    where
        F: Fn(Asked) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let (listener, address) = listen_at(address).await;
        let (_, connections) = mpsc::unbounded_channel();
        let (dialled, live) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counter, count, each) = (dialled.clone(), live.clone(), Arc::new(each));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (live, each) = (Live::new(count.clone()), each.clone());
                tokio::spawn(async move {
                    let mut link = Link::over_tcp(stream, Role::Server);
                    if let Ok(request) = link.read_head().await {
                        each(Asked { link, request }).await;
                    }
                    drop(live);
                });
            }
        });
        Self { address, connections, dialled, live, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a route's `upstream` has it.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// How many connections have come so far.
    pub fn dialled(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }

    /// How many connections of [`Backend::echo`] or [`Backend::serve`] are open.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// The next connection, upgraded, no subprotocol chosen.
    pub async fn accept(&mut self) -> Link {
        self.asked().await.agree("").await
    }

    /// The next connection with its upgrade request, not yet answered.
    pub async fn asked(&mut self) -> Asked {
        let mut link = self.connection().await;
        let request = link.read_head().await.expect("an upgrade request");
        Asked { link, request }
    }

    /// The next connection, of which nothing was read.
    pub async fn connection(&mut self) -> Link {
        let stream = within(PATIENCE, "a connection from the gateway", self.connections.recv()).await;
        Link::over_tcp(stream.expect("the listener lives"), Role::Server)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An upgrade request that waits for its answer.
pub struct Asked {
    link: Link,
    /// The whole head.
    pub request: String,
}

impl Asked {
    /// The value of the first header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.request, name)
    }

    /// The request target.
    pub fn target(&self) -> &str {
        self.request.split(' ').nth(1).expect("a request line")
    }

    /// Answers 101. `more`: further header lines, each ended by `\r\n`.
    pub async fn agree(self, more: &str) -> Link {
        let accept = accept_key(self.header("sec-websocket-key").expect("a key"));
        self.answer(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n"
        ))
        .await
    }

    /// The connection, without an answer.
    pub fn unanswered(self) -> Link {
        self.link
    }

    /// Answers with these bytes.
    pub async fn answer(mut self, bytes: impl AsRef<[u8]>) -> Link {
        self.link.head.clone_from(&self.request);
        self.link.raw(bytes.as_ref()).await;
        self.link
    }
}

/// The answer to a key (RFC 6455, section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

async fn listen() -> (TcpListener, SocketAddr) {
    listen_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
}

async fn listen_at(address: SocketAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

/// Returns frames until the other side closes or is gone.
pub async fn echo(mut link: Link) {
    while let Ok(Some(frame)) = link.next_or_error().await {
        let answer = match frame.opcode {
            op::PING => Frame::new(op::PONG, frame.payload),
            op::PONG => continue,
            _ => frame,
        };
        if link.try_raw(&answer.encode(Role::Server)).await.is_err() {
            return;
        }
        if answer.opcode == op::CLOSE {
            let _ = tokio::time::timeout(Duration::from_secs(1), link.fill()).await;
            return;
        }
    }
}

/// Counts a connection as long as it lives.
struct Live(Arc<AtomicUsize>);

impl Live {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
