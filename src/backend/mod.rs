//! Two plain WebSocket services to stand behind the gateway: [`echo`] and [`verifier`].
//!
//! Owns the accept loop that both share: a bound on connections, handshakes under a deadline, Closes answered, an
//! orderly end. They speak `ws://` only, since the gateway ends TLS in front of them. Called by `demo` and by
//! `portcullis backend`.

pub mod echo;
pub mod verifier;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, error::CapacityError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The bounds of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections at a time; more wait in the kernel's queue. Default 4096.
    pub max_connections: usize,
    /// How long a handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// The largest message, bytes; a larger one ends the stream with 1009. Default 64 MiB.
    pub max_message: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_connections: 4096, handshake_timeout: Duration::from_secs(5), max_message: 64 * 1024 * 1024 }
    }
}

/// What a service saw of the upgrade request.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Path and query.
    pub target: String,
    /// All headers.
    pub headers: HeaderMap,
    /// Who connected.
    pub peer: SocketAddr,
}

/// What a service does with a message.
pub trait Service: Send + Sync + 'static {
    /// The answer to one text or binary message, if there is one. Never called for control frames.
    fn answer(&self, handshake: &Handshake, message: Message) -> impl Future<Output = Option<Message>> + Send;
}

/// Serves until `shutdown` is cancelled; then every open stream gets a Close with 1001, and this returns when all are
/// gone, or after two seconds.
pub async fn serve<S: Service>(
    listener: TcpListener,
    settings: Settings,
    service: Arc<S>,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(settings.max_connections));
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((socket, peer)) => {
                let (service, shutdown) = (Arc::clone(&service), shutdown.clone());
                tracker.spawn(async move {
                    connection(socket, peer, settings, service.as_ref(), &shutdown).await;
                    drop(permit);
                });
            }
            // Out of descriptors, or the peer was gone before it was accepted: neither is a reason to stop.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    tracker.close();
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, tracker.wait()).await;
}

type Socket = WebSocketStream<TcpStream>;

async fn connection<S: Service>(
    socket: TcpStream,
    peer: SocketAddr,
    settings: Settings,
    service: &S,
    shutdown: &CancellationToken,
) {
    let _ = socket.set_nodelay(true);
    let shake = tokio::time::timeout(settings.handshake_timeout, handshake(socket, peer, settings.max_message));
    let (mut socket, handshake) = tokio::select! {
        () = shutdown.cancelled() => return,
        shaken = shake => match shaken {
            Ok(Ok(shaken)) => shaken,
            // No WebSocket handshake, or none in time: the connection just ends.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let served = tokio::select! {
        () = shutdown.cancelled() => Err(CloseCode::Away),
        served = exchange(&mut socket, &handshake, service) => served,
    };
    if let Err(code) = served {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close(&mut socket, code)).await;
    }
}

/// Reads the upgrade request and answers it; no subprotocol is chosen and no extension is accepted.
#[allow(clippy::result_large_err)] // the callback's type is the library's
async fn handshake(socket: TcpStream, peer: SocketAddr, max_message: usize) -> Result<(Socket, Handshake), Error> {
    let mut seen = None;
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let target = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        seen = Some(Handshake { target, headers: request.headers().clone(), peer });
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async_with_config(socket, look, Some(config(max_message))).await?;
    let handshake = seen.unwrap_or(Handshake { target: String::new(), headers: HeaderMap::new(), peer });
    Ok((socket, handshake))
}

/// Answers messages until the stream has ended cleanly, or with the code to close it with.
async fn exchange<S: Service>(socket: &mut Socket, handshake: &Handshake, service: &S) -> Result<(), CloseCode> {
    while let Some(next) = socket.next().await {
        let message = match next {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => message,
            // Pings and Closes are answered by the library, with the next read or write.
            Ok(_) => continue,
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => return Err(CloseCode::Size),
            Err(Error::Utf8(_)) => return Err(CloseCode::Invalid),
            Err(Error::Protocol(_)) => return Err(CloseCode::Protocol),
            Err(_) => return Ok(()),
        };
        if let Some(answer) = service.answer(handshake, message).await
            && socket.send(answer).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends a Close and reads on until the peer's, so that it is not lost in a reset.
async fn close(socket: &mut Socket, code: CloseCode) {
    let frame = CloseFrame { code, reason: "".into() };
    if socket.close(Some(frame)).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

/// Small buffers: many idle streams must be cheap.
pub(crate) fn config(max_message: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
}

/// Text from the network as it may stand on a terminal: at most `max` characters, and no control character or mark
/// that changes the direction of writing.
pub fn printable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == max {
            shown.push('…');
            break;
        }
        if moves(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a character does something to a terminal other than to stand there: control characters, and marks that change
/// the direction of writing or take no room.
pub fn moves(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Bytes of each direction's buffer.
const BUFFER: usize = 8 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) type Client = WebSocketStream<TcpStream>;

    /// A service on a port of the system's choice, and the switch that ends it.
    pub(crate) async fn start<S: Service>(service: S, settings: Settings) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, settings, Arc::new(service), shutdown.clone()));
        (address, shutdown)
    }

    pub(crate) async fn open(address: SocketAddr, target: &str) -> Client {
        let socket = TcpStream::connect(address).await.unwrap();
        tokio_tungstenite::client_async(format!("ws://{address}{target}"), socket).await.unwrap().0
    }

    pub(crate) async fn ask(client: &mut Client, text: &str) -> String {
        ask_with(client, Message::text(text)).await
    }

    pub(crate) async fn ask_with(client: &mut Client, message: Message) -> String {
        client.send(message).await.unwrap();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(5), client.next()).await.unwrap();
            match next.unwrap().unwrap() {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn close_code(client: &mut Client) -> Option<u16> {
        let mut code = None;
        while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_secs(5), client.next()).await {
            if let Message::Close(frame) = message {
                code = frame.map(|frame| frame.code.into());
            }
        }
        code
    }

    #[test]
    fn text_from_the_network_cannot_steer_a_terminal() {
        assert_eq!(printable("grüße 👋", 20), "grüße 👋");
        assert_eq!(printable("a\u{1b}[31m\n", 20), "a\\u{1b}[31m\\u{a}");
        assert_eq!(printable("\u{202e}x", 20), "\\u{202e}x");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
