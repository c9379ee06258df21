//! What a script in Chromium and in Firefox sees: opening, and every way in which a stream ends.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::real::Program;
use common::{Asked, Backend, Frame, Gateway, Signal, claims, config, echo, field, mint, now, op, token};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard};

const MINUTE: Duration = Duration::from_secs(60);

/// Browsers are heavy: one at a time.
static BROWSER: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn chromium_opens_with_bearer_and_a_token_before_a_service_that_chooses_no_subprotocol() {
    opens_with_bearer_and_a_token("chromium").await;
}

#[tokio::test]
async fn firefox_opens_with_bearer_and_a_token_before_a_service_that_chooses_no_subprotocol() {
    opens_with_bearer_and_a_token("firefox").await;
}

async fn opens_with_bearer_and_a_token(kind: &str) {
    let mut stage = Stage::new(kind, "").await;
    stage.open("bare", "/echo", &format!("['bearer', '{}']", token(MINUTE))).await;
    assert_eq!(stage.opened("bare").await, "bearer");
    stage.page.eval("send('bare', 'hello')").await;
    assert_eq!(stage.page.eval("received('bare')").await, "hello");
    stage.page.eval("streams.bare.socket.close(4321, 'done')").await;
    assert_eq!(stage.ended("bare").await, ended(4321, "done"));

    // A stream that is refused stays closed, and nothing is dialled for it.
    let dialled = stage.backend.dialled();
    stage.open("refused", "/echo", "['bearer', 'not.a.token']").await;
    assert_eq!(stage.ended("refused").await, json!({"code": 1006, "reason": "", "wasClean": false}));
    assert_eq!(stage.backend.dialled(), dialled);
}

#[tokio::test]
async fn chromium_sees_every_close_code_as_it_was_sent() {
    sees_every_close_code("chromium").await;
}

#[tokio::test]
async fn firefox_sees_every_close_code_as_it_was_sent() {
    sees_every_close_code("firefox").await;
}

async fn sees_every_close_code(kind: &str) {
    let mut stage = Stage::new(kind, "").await;
    let wanted = [
        ("expired", "/hold", Duration::from_secs(4), ended(3000, "token expired")),
        ("limit", "/limit", MINUTE, ended(3000, "stream limit")),
        ("bad_frame", "/bad-frame", MINUTE, ended(1002, "protocol error")),
        ("lost", "/lost", MINUTE, ended(1013, "upstream lost")),
        ("c1000", "/close/1000/bye", MINUTE, ended(1000, "bye")),
        ("c1001", "/close/1001/going", MINUTE, ended(1001, "going")),
        ("c4001", "/close/4001/own", MINUTE, ended(4001, "own")),
        ("c4999", "/close/4999/last", MINUTE, ended(4999, "last")),
    ];
    let begun = now();
    for (name, path, life, _) in &wanted {
        stage.open(name, &format!("{path}?access_token={}", token(*life)), "[]").await;
    }
    for (name, _, _, wanted) in &wanted {
        assert_eq!(stage.opened(name).await, "", "{name}");
        assert_eq!(&stage.ended(name).await, wanted, "{name}");
    }
    let expired = stage.page.eval("streams.expired.at").await.as_f64().expect("milliseconds") / 1000.0;
    assert!(expired >= begun.as_secs_f64() + 4.0, "the script saw the end before the deadline");

    stage.open("drain", &format!("/hold?access_token={}", token(MINUTE)), "[]").await;
    stage.opened("drain").await;
    stage.gateway.signal(Signal::TERM);
    assert_eq!(stage.ended("drain").await, ended(1012, "service restart"));
    assert!(stage.gateway.exit(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn chromium_in_the_middle_of_a_large_upload_sees_that_its_token_has_expired() {
    sees_expiry_in_the_middle_of_an_upload("chromium").await;
}

#[tokio::test]
async fn firefox_in_the_middle_of_a_large_upload_sees_that_its_token_has_expired() {
    sees_expiry_in_the_middle_of_an_upload("firefox").await;
}

async fn sees_expiry_in_the_middle_of_an_upload(kind: &str) {
    let mut stage = Stage::new(kind, "").await;
    for (name, path) in [("stalled", "/stall"), ("slow", "/slow")] {
        let claims = claims(Duration::from_secs(8));
        stage.open(name, &format!("{path}?access_token={}", mint(&claims)), "[]").await;
        stage.opened(name).await;
        // Looked at one second before the deadline, by the wall clock that page and gateway share.
        let at = claims["exp"].as_f64().expect("exp") * 1000.0 - 1000.0;
        stage.page.eval(&format!("void (streams.{name}.unsent = in_time('{name}', {at} - Date.now()))")).await;
        stage.page.eval(&format!("send('{name}', new Uint8Array(16 << 20))")).await;
    }
    for name in ["stalled", "slow"] {
        let unsent = stage.page.eval(&format!("streams.{name}.unsent")).await;
        assert!(unsent.as_u64().expect("bytes") > 1 << 20, "{name}: only {unsent} bytes left to send");
        let end = stage.ended(name).await;
        assert_eq!((&end["code"], &end["reason"]), (&json!(3000), &json!("token expired")), "{name}: {end}");
    }
}

#[tokio::test]
async fn chromium_sees_why_it_is_refused_where_refusals_are_told_by_a_close() {
    sees_why_it_is_refused("chromium").await;
}

#[tokio::test]
async fn firefox_sees_why_it_is_refused_where_refusals_are_told_by_a_close() {
    sees_why_it_is_refused("firefox").await;
}

async fn sees_why_it_is_refused(kind: &str) {
    const NOWHERE: &str = "ws://127.0.0.1:9";
    let route = |path: &str, more: &str| {
        format!(
            "[[route]]\nname = \"{path}\"\npath = \"/{path}\"\nupstream = \"{NOWHERE}\"\nreject = \"close\"\n{more}\n"
        )
    };
    let routes = ["", "origins = [\"https://other.example\"]", "close.preset = \"graphql-ws\"", "max_streams = 1"];
    let names = ["plain", "page", "graphql", "dead"];
    let routes: Vec<String> = names.iter().zip(routes).map(|(name, more)| route(name, more)).collect();
    let mut stage = Stage::new(kind, &routes.concat()).await;
    let expired = mint(&json!({"iss": common::ISSUER, "sub": "x", "exp": 1_000_000_000}));
    let old = format!("access_token={expired}");
    let good = format!("access_token={}", token(MINUTE));
    let wanted = [
        ("missing", "/plain".to_owned(), "[]", "", ended(3000, "token_missing")),
        ("expired", format!("/plain?{old}"), "[]", "", ended(3000, "token_expired")),
        ("foreign", format!("/page?{good}"), "['chat', 'other']", "chat", ended(3003, "forbidden")),
        (
            "graphql",
            format!("/graphql?{old}"),
            "['graphql-transport-ws']",
            "graphql-transport-ws",
            ended(4403, "token_expired"),
        ),
        ("unreachable", format!("/dead?{good}"), "[]", "", ended(1013, "upstream_refused")),
    ];
    // Again and again: an end of TCP that came too early would be seen now and then only.
    for _ in 0..10 {
        for (name, target, protocols, answer, end) in &wanted {
            stage.open(name, target, protocols).await;
            // Whoever sends at once still sees the code.
            stage
                .page
                .eval(&format!("void streams.{name}.socket.addEventListener('open', () => send('{name}', 'hello'))"))
                .await;
            assert_eq!(stage.opened(name).await, *answer, "{name}");
            assert_eq!(&stage.ended(name).await, end, "{name}");
        }
    }
    stage.open("pair", "/plain", &format!("['bearer', '{expired}']")).await;
    assert_eq!(
        (stage.opened("pair").await, stage.ended("pair").await),
        ("bearer".into(), ended(3000, "token_expired"))
    );
}

#[tokio::test]
async fn chromium_signs_in_by_its_first_message() {
    signs_in_by_its_first_message("chromium").await;
}

#[tokio::test]
async fn firefox_signs_in_by_its_first_message() {
    signs_in_by_its_first_message("firefox").await;
}

async fn signs_in_by_its_first_message(kind: &str) {
    let route = r#"carriers = ["message"]
subprotocols = ["graphql-transport-ws"]
first_message = { pointer = "/payload/token", type = "connection_init", forward = true }
auth_timeout = "2s""#;
    let mut stage = Stage::new(kind, route).await;
    let protocols = "['other', 'graphql-transport-ws']";
    let init = json!({"type": "connection_init", "payload": {"token": token(Duration::from_secs(4))}}).to_string();
    stage.open("good", "/subprotocol", protocols).await;
    assert_eq!(stage.opened("good").await, "graphql-transport-ws");
    assert_eq!(stage.page.eval("streams.good.socket.extensions").await, "");
    for message in [&init, "one", "two"] {
        stage.page.eval(&format!("send('good', {})", json!(message))).await;
    }
    for message in [&init, "one", "two"] {
        assert_eq!(stage.page.eval("received('good')").await, *message);
    }
    assert_eq!(stage.ended("good").await, ended(3000, "token expired"));

    stage.open("silent", "/subprotocol", protocols).await;
    stage.opened("silent").await;
    assert_eq!(stage.ended("silent").await, ended(3008, "no first message"));
    stage.open("bad", "/subprotocol", protocols).await;
    stage.opened("bad").await;
    stage.page.eval("send('bad', 'hello')").await;
    assert_eq!(stage.ended("bad").await, ended(1008, "first_message"));
}

#[tokio::test]
async fn chromium_has_its_streams_on_the_pages_own_connection_over_http2() {
    has_its_streams_on_the_pages_own_connection("chromium").await;
}

#[tokio::test]
async fn firefox_has_its_streams_on_the_pages_own_connection_over_http2() {
    has_its_streams_on_the_pages_own_connection("firefox").await;
}

async fn has_its_streams_on_the_pages_own_connection(kind: &str) {
    let mut stage = Stage::over_http2(kind).await;
    let protocol = stage.page.eval("performance.getEntriesByType('navigation')[0].nextHopProtocol").await;
    assert_eq!(protocol, "h2");
    let handle = "a-handle-of-22-letters";
    for (name, life, more) in
        [("brief", 5, ""), ("renewed", 5, "&portcullis_stream=a-handle-of-22-letters"), ("long", 60, "")]
    {
        let token = token(Duration::from_secs(life));
        stage.open(name, &format!("/echo?access_token={token}{more}"), "['chat']").await;
        assert_eq!(stage.opened(name).await, "chat", "{name}");
    }
    let renewal = format!(
        "fetch('/.portcullis/renew', {{ method: 'POST', headers: {{ authorization: 'Bearer {}', 'portcullis-stream': '{handle}' }} }}).then((answer) => answer.status)",
        token(MINUTE)
    );
    assert_eq!(stage.page.eval(&renewal).await, 200);
    for name in ["brief", "renewed", "long"] {
        // Two frames up and two down, a large one among them.
        stage.page.eval(&format!("[send('{name}', 'x'.repeat(200000)), send('{name}', 'last')].length")).await;
        assert_eq!(
            stage.page.eval(&format!("Promise.resolve(received('{name}')).then((text) => text.length)")).await,
            200_000,
            "{name}"
        );
        assert_eq!(stage.page.eval(&format!("received('{name}')")).await, "last", "{name}");
    }
    assert_eq!(stage.ended("brief").await, ended(3000, "token expired"));
    for name in ["renewed", "long"] {
        stage.page.eval(&format!("send('{name}', 'still here')")).await;
        assert_eq!(stage.page.eval(&format!("received('{name}')")).await, "still here", "{name}");
    }
    stage.page.eval("streams.long.socket.close(4321, 'done')").await;
    assert_eq!(stage.ended("long").await, ended(4321, "done"));
    stage.open("refused", "/echo?access_token=not.a.token", "[]").await;
    assert_eq!(stage.ended("refused").await, json!({"code": 1006, "reason": "", "wasClean": false}));
    let lines = stage.gateway.log_lines();
    let opened = lines.iter().filter(|line| field(line, "message") == Some(&"stream opened".into()));
    let peers: Vec<_> = opened.filter_map(|line| field(line, "peer")).collect();
    assert_eq!(peers.len(), 3, "{lines:?}");
    assert!(peers.iter().all(|peer| *peer == peers[0]), "one connection: {peers:?}");
}

/// What a script sees of a Close that arrives.
fn ended(code: u16, reason: &str) -> Value {
    json!({"code": code, "reason": reason, "wasClean": true})
}

/// A browser on a page, a gateway, and a service whose path says what it does.
struct Stage {
    page: Program,
    gateway: Gateway,
    backend: Backend,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    async fn new(kind: &str, route: &str) -> Self {
        let turn = BROWSER.lock().await;
        let backend = Backend::serve(play).await;
        let limited = format!(
            "{route}\n[[route]]\nname = \"limited\"\npath = \"/limit\"\nupstream = \"{}\"\nmax_stream = \"2s\"\n",
            backend.url()
        );
        let gateway = Gateway::start(&config(&backend.url(), &limited)).await;
        let mut page = Program::browser(kind, &gateway.path("ca.pem")).await;
        page.call(json!({"go": serve_page().await})).await;
        Self { page, gateway, backend, _turn: turn }
    }

    /// Likewise, on a page that the gateway itself passes on, over HTTP/2.
    async fn over_http2(kind: &str) -> Self {
        let turn = BROWSER.lock().await;
        let backend = Backend::serve(play).await;
        let page = format!(
            "[[route]]\nname = \"page\"\npath = \"/page\"\nupstream = \"{}\"\nhttp = \"pass\"\n",
            backend.url()
        );
        let gateway = Gateway::start(&config(&backend.url(), &page)).await;
        let mut page = Program::browser(kind, &gateway.path("ca.pem")).await;
        page.call(json!({"go": format!("https://localhost:{}/page", gateway.address().port())})).await;
        Self { page, gateway, backend, _turn: turn }
    }

    /// Opens the stream `name`; `protocols` is an expression.
    async fn open(&mut self, name: &str, target: &str, protocols: &str) {
        let url = format!("wss://localhost:{}{target}", self.gateway.address().port());
        self.page.eval(&format!("open_stream('{name}', '{url}', {protocols})")).await;
    }

    /// The subprotocol of the stream once it is open.
    async fn opened(&mut self, name: &str) -> Value {
        self.page.eval(&format!("streams.{name}.opened")).await
    }

    /// How the stream ended.
    async fn ended(&mut self, name: &str) -> Value {
        self.page.eval(&format!("streams.{name}.ended")).await
    }
}

/// The service: its path says what it does once the stream is open.
async fn play(asked: Asked) {
    let target = asked.target().split('?').next().unwrap_or_default().to_owned();
    let parts: Vec<&str> = target.split('/').skip(1).collect();
    if asked.header("upgrade").is_none() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length:";
        let mut link = asked.answer(format!("{head} {}\r\n\r\n{PAGE}", PAGE.len())).await;
        return link.half_close().await;
    }
    let offered = asked.header("sec-websocket-protocol") == Some("chat");
    let chosen = if offered {
        "Sec-WebSocket-Protocol: chat\r\n"
    } else if target == "/subprotocol" {
        "Sec-WebSocket-Protocol: graphql-transport-ws\r\n"
    } else {
        ""
    };
    let mut link = asked.agree(chosen).await;
    match parts.as_slice() {
        ["echo" | "hold" | "limit" | "subprotocol"] => echo(link).await,
        ["bad-frame"] => {
            let _ = link.try_raw(&[0x83, 0]).await;
            let _ = link.rest().await;
        }
        ["close", code, reason] => {
            link.close(code.parse().expect("a code"), reason).await;
            let _ = link.next().await;
        }
        ["lost"] => {
            link.send(&Frame::new(op::TEXT, "last words")).await;
        }
        ["stall"] => tokio::time::sleep(Duration::from_secs(20)).await,
        ["slow"] => {
            while let Ok(true) = link.fill().await {
                link.discard();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        other => panic!("no such part: {other:?}"),
    }
}

/// Serves [`PAGE`] until the test ends; its address.
async fn serve_page() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length:";
                let _ = stream.write_all(format!("{head} {}\r\n\r\n{PAGE}", PAGE.len()).as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    format!("http://{address}/")
}

const PAGE: &str = r"<!doctype html><title>streams</title><script>
const streams = {}
function open_stream(name, url, protocols) {
  const socket = new WebSocket(url, protocols)
  const stream = streams[name] = { socket, inbox: [], waiting: [] }
  stream.opened = new Promise((resolve, reject) => {
    socket.onopen = () => resolve(socket.protocol)
    socket.addEventListener('close', () => reject(new Error(name + ' was not opened')))
  })
  stream.opened.catch(() => {})
  stream.ended = new Promise((resolve) => {
    socket.onclose = ({ code, reason, wasClean }) => { stream.at = Date.now(); resolve({ code, reason, wasClean }) }
  })
  socket.onmessage = ({ data }) => { const waiter = stream.waiting.shift(); if (waiter) waiter(data); else stream.inbox.push(data) }
}
function send(name, message) { streams[name].socket.send(message) }
function in_time(name, milliseconds) {
  return new Promise((resolve) => setTimeout(() => resolve(streams[name].socket.bufferedAmount), milliseconds))
}
function received(name) {
  const stream = streams[name]
  return stream.inbox.length ? stream.inbox.shift() : new Promise((resolve) => stream.waiting.push(resolve))
}
</script>";
