//! Renewals on a live stream, against a server that plays the gateway's part.

use std::sync::Mutex;

use super::*;

const HANDLE: &str = "abcdefghijklmnopqrst_-";

/// A server whose streams have a handle, and which answers renewals with these, one after another; then with 404.
struct Server {
    url: String,
    seen: Arc<Mutex<Renewed>>,
    task: JoinHandle<()>,
}

/// What the server saw.
#[derive(Default)]
struct Renewed {
    streams: usize,
    heads: Vec<String>,
    messages: Vec<String>,
}

/// What the server does with its streams.
#[derive(Clone, Copy)]
struct Streams {
    /// Whether their `101` has a handle.
    handle: bool,
    /// What their `101` says of the token's life, seconds.
    expires_in: &'static str,
    /// What each message is answered with; `None` = itself.
    answer: Option<&'static str>,
    /// How long each stream lives, in milliseconds, and what it is closed with.
    ends: &'static [(u64, u16, &'static str)],
}

const STREAMS: Streams = Streams { handle: true, expires_in: "0", answer: None, ends: &[(1500, 1000, "")] };
/// Long enough for several attempts before the token's end.
const LONGER: Streams = Streams { expires_in: "2", ends: &[(3500, 1000, "")], ..STREAMS };
const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"expires_in\":0}";

impl Server {
    async fn start(streams: Streams, answers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/r?x=1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Renewed::default()));
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
        let shared = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (seen, answers) = (shared.clone(), answers.clone());
                tokio::spawn(async move {
                    let mut start = [0; 4];
                    socket.peek(&mut start).await.unwrap();
                    if &start == b"POST" {
                        renewal(socket, &seen, &answers).await;
                    } else {
                        stream(socket, streams, &seen).await;
                    }
                });
            }
        });
        Self { url, seen, task }
    }

    fn seen(self) -> Renewed {
        self.task.abort();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn renewal(mut socket: TcpStream, seen: &Mutex<Renewed>, answers: &Mutex<VecDeque<&'static str>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    seen.lock().unwrap().heads.push(String::from_utf8(head).unwrap());
    let answer = answers.lock().unwrap().pop_front().unwrap_or("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    socket.write_all(answer.as_bytes()).await.unwrap();
}

async fn stream(socket: TcpStream, streams: Streams, seen: &Mutex<Renewed>) {
    #[allow(clippy::result_large_err)]
    let look = |request: &Request, mut answer: Response| -> Result<Response, ErrorResponse> {
        let query = request.uri().query().unwrap();
        seen.lock().unwrap().messages.push(query.strip_prefix("x=1&access_token=").unwrap().to_owned());
        if streams.handle {
            answer.headers_mut().insert("portcullis-stream", HANDLE.parse().unwrap());
        }
        answer.headers_mut().insert("portcullis-expires-in", streams.expires_in.parse().unwrap());
        Ok(answer)
    };
    let mut stream = tokio_tungstenite::accept_hdr_async(socket, look).await.unwrap();
    let count = seen.lock().unwrap().streams;
    seen.lock().unwrap().streams += 1;
    let (life, code, reason) = streams.ends[count.min(streams.ends.len() - 1)];
    let talk = async {
        while let Some(Ok(Message::Text(text))) = stream.next().await {
            seen.lock().unwrap().messages.push(text.as_str().to_owned());
            let answer = streams.answer.map_or(text, Into::into);
            stream.send(Message::Text(answer)).await.unwrap();
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(life), talk).await;
    let _ = stream.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await;
    while let Some(Ok(_)) = stream.next().await {}
}

/// The client's settings for such a server: a token is good for a minute by its `exp`, and for less than a second by what the server says.
fn renewing(server: &Server) -> Settings {
    Settings { renewal: RenewalMode::OutOfBand, ..settings(&server.url, mint_for(&["one", "two", "three", "four"])) }
}

fn bearer(head: &str) -> &str {
    head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap()
}

#[tokio::test]
async fn one_stream_lives_through_several_tokens_and_neither_they_nor_its_handle_are_shown() {
    let streams = Streams { ends: &[(3000, 1000, "")], ..STREAMS };
    let server = Server::start(streams, &[TAKEN; 5]).await;
    let (end, lines) = play_client(renewing(&server)).await;
    let seen = server.seen();
    assert!(end.is_success(), "{end:?}\n{lines}");
    assert_eq!(seen.streams, 1, "{lines}");
    assert!(seen.heads.len() >= 3, "{lines}");
    assert!(lines.matches("renewed   on the same stream, at least 0 s left").count() >= 3, "{lines}");
    let mut tokens: Vec<&str> = seen.heads.iter().map(|head| bearer(head)).collect();
    tokens.push(&seen.messages[0]);
    let count = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), count, "a token was used twice");
    for head in &seen.heads {
        assert!(head.starts_with("POST /r/.portcullis/renew HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("portcullis-stream: {HANDLE}\r\n")), "{head}");
        assert!(!head.contains("x=1"), "{head}");
    }
    assert!(!lines.contains(HANDLE), "{lines}");
}

#[tokio::test]
async fn a_renewal_that_has_to_wait_is_made_again_with_the_same_token_and_the_stream_goes_on() {
    let busy =
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 25\r\n\r\n{\"reason\":\"rate_limited\"}";
    let broken = "not http at all";
    let server = Server::start(LONGER, &[busy, broken, TAKEN]).await;
    let (end, lines) = play_client(renewing(&server)).await;
    let seen = server.seen();
    assert!(end.is_success(), "{end:?}\n{lines}");
    assert!(lines.contains("renewal   refused with 429 rate_limited; once more in"), "{lines}");
    assert!(lines.matches("renewal   ").count() >= 2, "{lines}");
    assert_eq!((bearer(&seen.heads[0]), bearer(&seen.heads[1])), (bearer(&seen.heads[1]), bearer(&seen.heads[2])));
    assert_eq!(seen.streams, 1);
}

#[tokio::test]
async fn a_wait_that_the_gateway_asks_for_and_that_is_too_long_ends_the_attempts() {
    let busy = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(STREAMS, &[busy, TAKEN]).await;
    let (_, lines) = play_client(renewing(&server)).await;
    assert!(lines.contains("renewal   refused with 429; too late for another attempt"), "{lines}");
    assert_eq!(server.seen().heads.len(), 1, "{lines}");
}

const EXPIRES: &[(u64, u16, &str)] = &[(2000, 3000, "token expired"), (0, 1000, "")];

#[tokio::test]
async fn a_renewal_that_is_forbidden_is_not_repeated_and_its_token_opens_the_next_stream() {
    let forbidden = "HTTP/1.1 403 Forbidden\r\ncontent-length: 22\r\n\r\n{\"reason\":\"forbidden\"}";
    let server = Server::start(Streams { ends: EXPIRES, ..STREAMS }, &[forbidden, TAKEN]).await;
    let (end, lines) = play_client(renewing(&server)).await;
    let seen = server.seen();
    assert!(end.is_success(), "{end:?}\n{lines}");
    assert!(lines.contains("renewal   refused with 403 forbidden; this stream ends with its token"), "{lines}");
    assert_eq!((seen.streams, seen.heads.len()), (2, 1), "{lines}");
    assert_eq!(seen.messages[1], bearer(&seen.heads[0]), "the token of another principal opens a stream of its own");
}

#[tokio::test]
async fn a_token_that_is_refused_at_the_renewal_is_not_tried_again() {
    let invalid = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 26\r\n\r\n{\"reason\":\"token_invalid\"}";
    let server = Server::start(Streams { ends: EXPIRES, ..STREAMS }, &[invalid, TAKEN]).await;
    let (end, lines) = play_client(renewing(&server)).await;
    let seen = server.seen();
    assert!(end.is_success(), "{end:?}\n{lines}");
    assert!(lines.contains("renewal   refused with 401 token_invalid; this stream ends with its token"), "{lines}");
    assert_eq!((seen.streams, seen.heads.len()), (2, 1), "{lines}");
    assert_ne!(seen.messages[1], bearer(&seen.heads[0]));
}

#[tokio::test]
async fn where_nobody_renews_that_is_said_once_and_the_client_comes_back_instead() {
    const TWICE: &[(u64, u16, &str)] = &[(2000, 3000, "token expired"), (2000, 3000, "token expired"), (0, 1000, "")];
    for handle in [true, false] {
        let streams = Streams { handle, answer: Some("heard"), ends: TWICE, ..STREAMS };
        let server = Server::start(streams, &[]).await;
        let (end, lines) = play_client(Settings { send_token: true, ..renewing(&server) }).await;
        let seen = server.seen();
        assert!(end.is_success(), "{end:?}\n{lines}");
        assert_eq!((seen.streams, seen.heads.len()), (3, usize::from(handle)), "{lines}");
        assert_eq!(lines.matches("a stream ends with its token there").count(), 1, "{lines}");
    }
}

#[tokio::test]
async fn a_stream_that_is_gone_is_not_renewed_again() {
    let gone = "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(STREAMS, &[gone, TAKEN]).await;
    let (_, lines) = play_client(renewing(&server)).await;
    assert!(lines.contains("renewal   refused with 410; this stream is at its end"), "{lines}");
    assert_eq!(server.seen().heads.len(), 1, "{lines}");
}

#[tokio::test]
async fn without_renewal_the_stream_ends_with_its_token_and_nothing_is_asked() {
    let server = Server::start(Streams { ends: EXPIRES, ..STREAMS }, &[TAKEN]).await;
    let (_, lines) = play_client(Settings { renewal: RenewalMode::Off, ..renewing(&server) }).await;
    assert!(!lines.contains("rene"), "{lines}");
    assert!(lines.contains("back at once with a new token"), "{lines}");
    let seen = server.seen();
    assert_eq!((seen.streams, seen.heads.len()), (2, 0), "{lines}");
}

#[tokio::test]
async fn a_renewed_token_is_sent_as_a_message_too_if_each_is() {
    let streams = Streams { answer: Some("heard"), ..STREAMS };
    let server = Server::start(streams, &[TAKEN; 5]).await;
    let (_, lines) = play_client(Settings { send_token: true, ..renewing(&server) }).await;
    let seen = server.seen();
    assert_eq!(seen.streams, 1);
    // The token of the upgrade, the same as a message, and then each that renewed.
    assert_eq!(seen.messages[0], seen.messages[1], "{lines}");
    let renewed: Vec<&str> = seen.heads.iter().map(|head| bearer(head)).collect();
    // The last one may be renewed as the stream ends.
    assert!(
        seen.messages.len() > 2 && seen.messages[2..].iter().zip(renewed).all(|(sent, token)| sent == token),
        "{lines}"
    );
}

#[tokio::test]
async fn in_band_the_token_is_a_message_behind_the_prefix_and_the_answer_is_not_shown() {
    let streams = Streams { handle: false, answer: Some(r#"{"portcullis":"renewed","expires_in":0}"#), ..STREAMS };
    let server = Server::start(streams, &[]).await;
    let renewal = RenewalMode::InBand { prefix: "renew ".into() };
    let (_, lines) = play_client(Settings { renewal, ..renewing(&server) }).await;
    // The token's own minute counts until the answer is there: the first renewal is planned from the `101`.
    let seen = server.seen();
    assert_eq!(seen.streams, 1);
    assert!(seen.messages.len() > 1, "{lines}");
    assert!(seen.messages[1..].iter().all(|message| message.starts_with("renew eyJ")), "{lines}");
    assert!(lines.contains("sent      (the token)\nrenewed   on the same stream, at least 0 s left\n"), "{lines}");
    assert!(!lines.contains("received"), "{lines}");
}

#[tokio::test]
async fn in_band_a_refusal_is_heeded_and_any_other_message_is_shown() {
    let table = [
        (r#"{"portcullis":"refused","reason":"forbidden"}"#, "renewal   refused: forbidden; this stream ends"),
        (r#"{"portcullis":"refused","reason":"rate_limited"}"#, "renewal   refused: rate_limited; once more in"),
        (r#"{"portcullis":"expiring","expires_in":3}"#, "received  {\"portcullis\":\"expiring\""),
        (r#"{"ok":true}"#, "received  {\"ok\":true}"),
    ];
    let play = async |(answer, told): (&'static str, &str)| {
        let streams = Streams { handle: false, answer: Some(answer), ..LONGER };
        let server = Server::start(streams, &[]).await;
        let renewal = RenewalMode::InBand { prefix: String::new() };
        let (_, lines) = play_client(Settings { renewal, ..renewing(&server) }).await;
        assert!(lines.contains(told), "{lines}");
        let sent = server.seen().messages.split_off(1);
        if answer.contains("rate_limited") {
            assert!(sent.len() > 1 && sent.iter().all(|token| *token == sent[0]), "{lines}");
        } else {
            assert_eq!(sent.len(), 1, "{lines}");
        }
    };
    futures_util::future::join_all(table.map(play)).await;
}

#[tokio::test]
async fn messages_flow_while_a_renewal_gets_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/r?x=1", listener.local_addr().unwrap());
    let (asked, waits) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let seen = Mutex::default();
        let streams = Streams { ends: &[(60_000, 1000, "")], ..STREAMS };
        tokio::join!(stream(socket, streams, &seen), async {
            // Taken, and never answered.
            let (_renewal, _) = listener.accept().await.unwrap();
            asked.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let (lines, input) = mpsc::channel(4);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut sink = move |event: Event| {
        if matches!(event, Event::Received(Received::Text(text)) if text == "meanwhile") {
            stop.cancel();
        }
    };
    let settings = Settings { renewal: RenewalMode::OutOfBand, ..settings(&url, mint()) };
    let running = run(settings, Clock::system(), Some(input), &mut sink, shutdown);
    let asking = async {
        waits.await.unwrap();
        lines.send("meanwhile".to_owned()).await.unwrap();
    };
    // Less than a renewal may take.
    let (end, ()) =
        tokio::time::timeout(Duration::from_secs(4), async { tokio::join!(running, asking) }).await.unwrap();
    assert!(matches!(end, End::Interrupted), "{end:?}");
    server.abort();
}

#[tokio::test]
async fn a_file_that_has_nothing_newer_is_asked_again_and_a_newer_token_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.jwt");
    let (old, new) = (unchecked("old", 60), unchecked("new", 90));
    std::fs::write(&path, &old).unwrap();
    let server = Server::start(LONGER, &[TAKEN]).await;
    let mut lines = String::new();
    let mut sink = |event: Event| {
        // The file is renewed once the client has said that it looks for a newer one.
        if matches!(event, Event::NotRenewed { .. }) {
            std::fs::write(&path, &new).unwrap();
        }
        lines.push_str(&event.to_string());
        lines.push('\n');
    };
    let settings = Settings { source: Source::File(path.clone()), ..renewing(&server) };
    let running = run(settings, Clock::system(), None, &mut sink, CancellationToken::new());
    let end = tokio::time::timeout(Duration::from_secs(20), running).await.unwrap();
    assert!(end.is_success(), "{end:?}\n{lines}");
    let seen = server.seen();
    assert_eq!((seen.streams, bearer(&seen.heads[0])), (1, new.as_str()), "{lines}");
    assert!(lines.contains("token.jwt is not newer; once more in"), "{lines}");
}
