//! The client against a server that plays a script, one connection after another.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Map;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::*;
use crate::issuer::{Mint, MintKey};
use crate::secret::{Secret, Token};
use crate::token::keys::Algorithm;

mod renewal;

/// What the server does with one connection.
#[derive(Clone)]
enum Act {
    /// Opens the stream, sends a message if there is one, and closes with this code and reason.
    Close(Option<&'static str>, u16, &'static str),
    /// Opens the stream, and ends the connection without a Close.
    Drop,
    /// Answers with these bytes, in two pieces with a pause between.
    Answer(&'static str, &'static str),
    /// Opens the stream and echoes until the client closes.
    Echo,
    /// Answers each message for so long, then closes as the gateway does when a token has expired.
    AnswerFor(Duration),
}

/// What the server saw: the token of each connection, and the messages and Close codes of its streams.
#[derive(Default, Debug)]
struct Seen {
    tokens: Vec<String>,
    messages: Vec<String>,
    closes: Vec<Option<u16>>,
}

async fn server(script: Vec<Act>) -> (String, JoinHandle<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/r?x=1", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut seen = Seen::default();
        for act in script {
            let (socket, _) = listener.accept().await.unwrap();
            play(socket, act, &mut seen).await;
        }
        seen
    });
    (url, task)
}

async fn play(mut socket: TcpStream, act: Act, seen: &mut Seen) {
    if let Act::Answer(first, second) = act {
        let mut buffer = [0; 4096];
        let length = socket.read(&mut buffer).await.unwrap();
        let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let token = head.split("access_token=").nth(1).unwrap().split(' ').next().unwrap();
        seen.tokens.push(token.to_owned());
        socket.write_all(first.as_bytes()).await.unwrap();
        socket.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        socket.write_all(second.as_bytes()).await.unwrap();
        return;
    }
    #[allow(clippy::result_large_err)]
    let look = |request: &Request, answer: Response| -> Result<Response, ErrorResponse> {
        let query = request.uri().query().unwrap();
        seen.tokens.push(query.strip_prefix("x=1&access_token=").unwrap().to_owned());
        Ok(answer)
    };
    let mut stream = tokio_tungstenite::accept_hdr_async(socket, look).await.unwrap();
    match act {
        Act::Close(message, code, reason) => {
            if let Some(message) = message {
                stream.send(Message::text(message)).await.unwrap();
            }
            stream.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await.unwrap();
        }
        Act::Drop => return,
        Act::AnswerFor(time) => {
            let _ = tokio::time::timeout(time, answer_all(&mut stream, seen)).await;
            let frame = CloseFrame { code: 3000.into(), reason: "token expired".into() };
            // A client that has left meanwhile needs no Close.
            let _ = stream.close(Some(frame)).await;
        }
        Act::Echo | Act::Answer(..) => {}
    }
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Close(frame) => seen.closes.push(frame.map(|frame| frame.code.into())),
            Message::Text(text) if matches!(act, Act::Echo) => {
                seen.messages.push(text.as_str().to_owned());
                stream.send(Message::Text(text)).await.unwrap();
            }
            _ => {}
        }
    }
}

async fn answer_all(stream: &mut WebSocketStream<TcpStream>, seen: &mut Seen) {
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Text(text) = message {
            seen.messages.push(text.as_str().to_owned());
            stream.send(Message::text("seen")).await.unwrap();
        }
    }
}

fn settings(url: &str, source: Source) -> Settings {
    Settings {
        target: url.parse().unwrap(),
        tls: None,
        source,
        carrier: Carrier::Query("access_token".into()),
        subprotocols: Vec::new(),
        renewal: RenewalMode::Off,
        send_token: false,
        messages: Vec::new(),
        leave_after: None,
        open_timeout: Duration::from_secs(5),
        backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(50)),
        max_failures: Some(5),
    }
}

fn mint() -> Source {
    mint_for(&["one", "two"])
}

fn mint_for(subjects: &[&str]) -> Source {
    let secret = Secret::new(b"an example secret of enough bytes".to_vec());
    let key = MintKey::from_secret(Algorithm::HS256, None, &secret).unwrap();
    Source::Mint {
        mint: Mint::new(key, Map::new(), Duration::from_secs(60)),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
    }
}

/// Runs the client to its end, bounded; gives what happened, in lines.
async fn play_client(settings: Settings) -> (End, String) {
    let mut lines = String::new();
    let mut sink = |event: Event| {
        lines.push_str(&event.to_string());
        lines.push('\n');
    };
    let running = run(settings, Clock::system(), None, &mut sink, CancellationToken::new());
    let end = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap();
    assert!(!lines.contains("eyJ"), "{lines}");
    (end, lines)
}

#[tokio::test]
async fn after_an_expiry_it_comes_back_with_a_new_token() {
    let expired = Act::Close(Some("hello"), 3000, "token expired");
    let (url, server) = server(vec![expired, Act::Close(None, 1000, "")]).await;
    let (end, lines) = play_client(settings(&url, mint())).await;
    assert!(matches!(end, End::ClosedByPeer(ref closed) if closed.code == Some(1000)), "{end:?}");
    let seen = server.await.unwrap();
    assert_ne!(seen.tokens[0], seen.tokens[1]);
    assert!(lines.contains("sub: one") && lines.contains("sub: two"), "{lines}");
    assert!(lines.contains("received  hello") && lines.contains("closed with 3000 \"token expired\""), "{lines}");
}

#[tokio::test]
async fn one_message_before_each_close_does_not_bring_it_back_at_once_for_ever() {
    let (url, server) = server(vec![Act::Close(Some("hello"), 3000, "token expired"); 20]).await;
    let mut settings = settings(&url, mint());
    settings.backoff = Backoff::new(Duration::from_secs(1), Duration::from_millis(1100));
    settings.max_failures = Some(4);
    let (end, lines) = play_client(settings).await;
    assert!(matches!(end, End::GaveUp), "{end:?}\n{lines}");
    assert_eq!(lines.matches("back at once").count(), 1, "{lines}");
    assert_eq!(lines.matches("waiting   ").count(), 2, "{lines}");
    server.abort();
}

#[tokio::test]
async fn a_restart_or_a_lost_stream_is_met_with_the_same_token() {
    let script = vec![Act::Close(None, 1012, "service restart"), Act::Drop, Act::Close(None, 1000, "")];
    let (url, server) = server(script).await;
    let (end, _) = play_client(settings(&url, mint())).await;
    assert!(end.is_success(), "{end:?}");
    let tokens = server.await.unwrap().tokens;
    assert_eq!((&tokens[0], &tokens[0]), (&tokens[1], &tokens[2]));
}

const FORBIDDEN: &str =
    "HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\ncontent-length: 42\r\n\r\n";
const INVALID: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 45\r\n\r\n";

#[tokio::test]
async fn a_refusal_that_no_token_cures_ends_it() {
    let script = vec![Act::Answer(FORBIDDEN, r#"{"type":"urn:x:forbidden","reason":"forbi"#)];
    let (url, _server) = server(script).await;
    let (end, _) = play_client(settings(&url, mint())).await;
    let End::Refused(refusal) = end else { panic!("{end:?}") };
    assert_eq!((refusal.status, refusal.reason), (403, None), "a body that is cut short has no reason");

    let script = vec![Act::Answer(INVALID, r#"{"type":"about:blank","reason":"token_invalid"}"#)];
    let (url, _server) = server(script).await;
    let (end, _) = play_client(settings(&url, mint())).await;
    assert!(matches!(end, End::Refused(refusal) if refusal.status == 401), "a fresh token would meet the same");
}

#[tokio::test]
async fn the_reason_is_read_to_its_end_and_retry_after_is_kept() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 32\r\n\r\n";
    let script = vec![Act::Answer(busy, r#"{"type":"urn:problem:draining"} "#), Act::Close(None, 1000, "")];
    let (url, server) = server(script).await;
    let clock = Clock::system();
    let before = clock.now();
    let (end, lines) = play_client(settings(&url, mint())).await;
    assert!(end.is_success(), "{end:?}");
    assert!(clock.now().mono.saturating_since(before.mono) >= Duration::from_secs(1));
    assert!(lines.contains("refused with 503 draining"), "{lines}");
    let tokens = server.await.unwrap().tokens;
    assert_eq!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn a_fixed_token_that_is_used_up_ends_it() {
    let (url, server) = server(vec![Act::Close(None, 3000, "token expired")]).await;
    let (end, _) = play_client(settings(&url, Source::Fixed(Token::new("eyJh.eyJi.s".into())))).await;
    assert!(matches!(end, End::NoToken(SourceError::UsedUp)), "{end:?}");
    assert_eq!(server.await.unwrap().tokens, ["eyJh.eyJi.s"]);
}

/// A token with a signature that nobody checks, good until `from_now` seconds from now.
fn unchecked(subject: &str, from_now: i64) -> String {
    let now = i64::try_from(Clock::system().now().wall.as_secs()).unwrap();
    let claims = format!(r#"{{"sub":"{subject}","exp":{}}}"#, now + from_now);
    format!("eyJh.{}.s", URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test]
async fn an_expired_token_in_a_file_is_not_dialled_with_and_a_new_one_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.jwt");
    let (old, new) = (unchecked("old", -3), unchecked("new", 60));
    std::fs::write(&path, &old).unwrap();
    let (url, server) = server(vec![Act::Close(None, 1000, "")]).await;
    let mut lines = String::new();
    let mut sink = |event: Event| {
        // The file is renewed once the client has said that it waits for it.
        if event.to_string().contains("waiting for a new one") {
            std::fs::write(&path, &new).unwrap();
        }
        lines.push_str(&event.to_string());
        lines.push('\n');
    };
    let running =
        run(settings(&url, Source::File(path.clone())), Clock::system(), None, &mut sink, CancellationToken::new());
    let end = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap();
    assert!(end.is_success(), "{end:?}\n{lines}");
    assert_eq!(server.await.unwrap().tokens, [new]);
    // Three seconds ago when it was made; a second may have begun since.
    let told = |ago: u64| lines.contains(&format!("token.jwt expired {ago} s ago; waiting for a new one"));
    assert!((3..6).any(told), "{lines}");
    assert!(!lines.contains("expires in 0.0 s"), "{lines}");
}

#[tokio::test]
async fn a_token_that_was_closed_as_expired_is_waited_out_once_and_not_promised_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.jwt");
    std::fs::write(&path, unchecked("me", 60)).unwrap();
    let (url, server) = server(vec![Act::Close(Some("hello"), 3000, "token expired")]).await;
    let (end, lines) = play_client(settings(&url, Source::File(path))).await;
    assert!(matches!(end, End::GaveUp), "{end:?}\n{lines}");
    assert_eq!(server.await.unwrap().tokens.len(), 1, "{lines}");
    assert_eq!(lines.matches("waiting for a new one").count(), 1, "{lines}");
    assert!(!lines.contains("with a new token"), "{lines}");
}

#[tokio::test]
async fn a_stream_limit_is_met_with_the_same_token_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.jwt");
    std::fs::write(&path, unchecked("me", 60)).unwrap();
    let script = vec![Act::Close(Some("hello"), 3000, "stream limit"), Act::Close(None, 1000, "")];
    let (url, server) = server(script).await;
    let (end, lines) = play_client(settings(&url, Source::File(path))).await;
    assert!(end.is_success(), "{end:?}\n{lines}");
    assert_eq!(server.await.unwrap().tokens.len(), 2);
}

#[tokio::test]
async fn a_refused_token_of_a_command_is_named_as_that() {
    let head = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 26\r\n\r\n";
    let (url, _server) = server(vec![Act::Answer(head, r#"{"reason":"token_invalid"}"#)]).await;
    let words = ["echo", "hello"].map(str::to_owned).to_vec();
    let (end, _) = play_client(settings(&url, Source::Command(words))).await;
    assert!(!end.is_success());
    assert_eq!(end.to_string(), "refused with 401 token_invalid: the token of `echo` is not accepted");
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_told_to_try_wss() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        assert!(socket.read(&mut head).await.unwrap() > 0);
        // The alert with which TLS answers what is no ClientHello (RFC 8446, section 6).
        socket.write_all(&[0x15, 3, 3, 0, 2, 2, 0x32]).await.unwrap();
    });
    let mut settings = settings(&url, mint());
    settings.max_failures = Some(1);
    let (_, lines) = play_client(settings).await;
    server.await.unwrap();
    assert!(lines.contains("try wss://"), "{lines}");
}

#[tokio::test]
async fn it_leaves_although_each_return_sends_the_token_again() {
    let short = Act::AnswerFor(Duration::from_millis(150));
    let (url, server) = server(vec![short; 20]).await;
    let mut settings = settings(&url, mint_for(&["one"]));
    settings.send_token = true;
    settings.leave_after = Some(Duration::from_millis(400));
    let (end, lines) = play_client(settings).await;
    assert!(matches!(end, End::Finished), "{end:?}\n{lines}");
    assert!(lines.matches("sent      (the token)").count() >= 2, "{lines}");
    server.abort();
}

#[tokio::test]
async fn a_token_with_another_subject_is_another_message_and_keeps_it_there() {
    let short = Act::AnswerFor(Duration::from_millis(150));
    let (url, server) = server(vec![short; 20]).await;
    let mut settings = settings(&url, mint_for(&["one", "two", "three"]));
    settings.send_token = true;
    settings.leave_after = Some(Duration::from_millis(250));
    let (end, lines) = play_client(settings).await;
    assert!(matches!(end, End::Finished), "{end:?}\n{lines}");
    assert!(lines.contains("sub: three"), "{lines}");
    server.abort();
}

#[tokio::test]
async fn nobody_there_is_tried_again_and_then_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let (end, lines) = play_client(settings(&url, mint())).await;
    assert!(matches!(end, End::GaveUp), "{end:?}");
    assert_eq!(lines.matches("cannot connect").count(), 5, "{lines}");
    assert_eq!(lines.matches("sub: ").count(), 1, "the token is still good: {lines}");
}

#[tokio::test]
async fn all_is_sent_token_first_and_then_it_leaves_with_1000() {
    let (url, server) = server(vec![Act::Echo]).await;
    let mut settings = settings(&url, mint());
    settings.send_token = true;
    settings.messages = vec!["a".into(), "b".into()];
    settings.leave_after = Some(Duration::from_millis(100));
    let mut received = Vec::new();
    let mut sink = |event: Event| {
        if let Event::Received(Received::Text(text)) = event {
            received.push(text);
        }
    };
    let (lines, input) = mpsc::channel(4);
    lines.send("c".to_owned()).await.unwrap();
    drop(lines);
    let running = run(settings, Clock::system(), Some(input), &mut sink, CancellationToken::new());
    let end = tokio::time::timeout(Duration::from_secs(10), running).await.unwrap();
    assert!(matches!(end, End::Finished), "{end:?}");
    let seen = server.await.unwrap();
    assert_eq!(seen.messages[0], seen.tokens[0]);
    assert_eq!(seen.messages[1..], ["a", "b", "c"]);
    assert_eq!(received, ["(the token)", "a", "b", "c"], "a token that is echoed is not shown");
    assert_eq!(seen.closes, [Some(1000)]);
}

#[tokio::test]
async fn an_interrupt_closes_with_1000() {
    let (url, server) = server(vec![Act::Echo]).await;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut sink = move |event: Event| {
        if matches!(event, Event::Opened { .. }) {
            stop.cancel();
        }
    };
    let running = run(settings(&url, mint()), Clock::system(), None, &mut sink, shutdown);
    let end = tokio::time::timeout(Duration::from_secs(10), running).await.unwrap();
    assert!(matches!(end, End::Interrupted), "{end:?}");
    assert_eq!(server.await.unwrap().closes, [Some(1000)]);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_never_accepted() {
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let known = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(stranger.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![stranger.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        acceptor.accept(socket).await.is_ok()
    });
    let mut settings = settings(&format!("wss://localhost:{port}"), mint());
    settings.tls = Some(trust(Some(known.cert.pem().as_bytes())).unwrap());
    let (end, _) = play_client(settings).await;
    assert!(matches!(end, End::Impossible(OpenError::Tls(_))), "{end:?}");
    assert!(!served.await.unwrap());
}
