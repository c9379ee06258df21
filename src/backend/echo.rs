//! A WebSocket service that returns each message, and tells which headers reached it.
//!
//! The text message `headers` is answered with a report, one JSON object: the target and the headers of the upgrade
//! request as this service received them, and whether a token was among them. Behind the gateway there is none. A
//! token that does arrive (because the gateway was left out) is masked.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::backend::{Handshake, Service, Settings};
use crate::secret::mask_tokens;

/// Echoes on `listener` until `shutdown` is cancelled.
pub async fn serve(listener: TcpListener, settings: Settings, shutdown: CancellationToken) {
    super::serve(listener, settings, Arc::new(Echo), shutdown).await;
}

struct Echo;

impl Service for Echo {
    async fn answer(&self, handshake: &Handshake, message: Message) -> Option<Message> {
        match &message {
            Message::Text(text) if text.as_str() == REPORT => Some(Message::text(report(handshake).to_string())),
            _ => Some(message),
        }
    }
}

/// `{"target": .., "headers": {name: value or [values]}, "token_seen": bool}`.
fn report(handshake: &Handshake) -> Value {
    let mut token_seen = false;
    let mut show = |text: &str| {
        let masked = mask_tokens(text, "(token)");
        token_seen |= masked.is_some();
        masked.unwrap_or_else(|| text.to_owned())
    };
    let target = show(&handshake.target);
    let mut headers = Map::new();
    for name in handshake.headers.keys() {
        let values = handshake.headers.get_all(name).iter();
        let mut values: Vec<Value> =
            values.map(|value| show(&String::from_utf8_lossy(value.as_bytes())).into()).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        headers.insert(name.as_str().to_owned(), value);
    }
    json!({ "target": target, "headers": headers, "token_seen": token_seen })
}

/// The message that asks for the report.
const REPORT: &str = "headers";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;

    use super::super::tests::{ask, close_code, open, start};
    use super::*;

    #[tokio::test]
    async fn each_message_comes_back_and_a_close_is_answered() {
        let (address, _shutdown) = start(Echo, Settings::default()).await;
        let mut client = open(address, "/any").await;
        assert_eq!(ask(&mut client, "good morning").await, "good morning");
        let big = "x".repeat(1 << 20);
        assert_eq!(ask(&mut client, &big).await, big);
        client.send(Message::binary(vec![0, 255, 7])).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![0, 255, 7]));
        client.close(Some(CloseFrame { code: 4001.into(), reason: "done".into() })).await.unwrap();
        assert_eq!(close_code(&mut client).await, Some(4001));
    }

    #[tokio::test]
    async fn the_report_names_headers_and_never_a_token() {
        let (address, _shutdown) = start(Echo, Settings::default()).await;
        let socket = TcpStream::connect(address).await.unwrap();
        let mut request = format!("ws://{address}/a?access_token=eyJh.eyJi.c-_c&x=1").into_client_request().unwrap();
        request.headers_mut().insert("portcullis-sub", "ann".parse().unwrap());
        request.headers_mut().append("x-two", "1".parse().unwrap());
        request.headers_mut().append("x-two", "2".parse().unwrap());
        request.headers_mut().insert("authorization", "Bearer eyJh.eyJi.c-_c".parse().unwrap());
        let mut client = tokio_tungstenite::client_async(request, socket).await.unwrap().0;
        let report: Value = serde_json::from_str(&ask(&mut client, "headers").await).unwrap();
        assert_eq!(report["headers"]["portcullis-sub"], "ann");
        assert_eq!(report["headers"]["x-two"], json!(["1", "2"]));
        assert_eq!(report["headers"]["authorization"], "Bearer (token)");
        assert_eq!(report["target"], "/a?access_token=(token)&x=1");
        assert_eq!(report["token_seen"], true);

        let mut plain = open(address, "/b").await;
        let report: Value = serde_json::from_str(&ask(&mut plain, "headers").await).unwrap();
        assert_eq!(report["token_seen"], false);
    }

    #[tokio::test]
    async fn a_message_above_the_cap_is_1009_and_broken_text_is_1007() {
        let (address, _shutdown) = start(Echo, Settings { max_message: 1000, ..Settings::default() }).await;
        let mut client = open(address, "/").await;
        client.send(Message::binary(vec![0; 1001])).await.unwrap();
        assert_eq!(close_code(&mut client).await, Some(1009));

        let mut client = open(address, "/").await;
        let raw = client.get_mut();
        raw.write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).await.unwrap();
        assert_eq!(close_code(&mut client).await, Some(1007));
    }

    #[tokio::test]
    async fn a_handshake_that_never_comes_is_dropped_and_frees_its_place() {
        let settings =
            Settings { max_connections: 1, handshake_timeout: Duration::from_millis(50), ..Settings::default() };
        let (address, _shutdown) = start(Echo, settings).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut buffer = [0; 16];
        let end = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut buffer)).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)));
        let mut client = open(address, "/").await;
        assert_eq!(ask(&mut client, "next").await, "next");
    }

    #[tokio::test]
    async fn open_streams_are_closed_with_1001_when_the_service_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Settings::default(), shutdown.clone()));
        let mut client = open(address, "/").await;
        assert_eq!(ask(&mut client, "here").await, "here");
        shutdown.cancel();
        assert_eq!(close_code(&mut client).await, Some(1001));
        tokio::time::timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
    }
}
