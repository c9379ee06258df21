//! Plain HTTP on a route, over real sockets: what goes on to the service, what comes back, and what is refused.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{Backend, Gateway, Link, Reply, config, header, token};

const MINUTE: Duration = Duration::from_secs(60);

fn require(backend: &Backend, more: &str) -> String {
    config(&backend.url(), &format!("http = \"require\"\n{more}"))
}

fn pass(backend: &Backend, more: &str) -> String {
    config(&backend.url(), &format!("http = \"pass\"\n{more}"))
}

/// A request without a body.
fn request(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

/// `GET` with a good token in the header.
fn get(target: &str, more: &str) -> String {
    request("GET", target, &format!("Authorization: Bearer {}\r\n{more}", token(MINUTE)))
}

/// Sends `request` on a connection of its own and has the service, on the next connection, answer `answer`; gives the head
/// of what the service got, both ends, and the answer.
async fn exchange(
    gateway: &Gateway,
    backend: &mut Backend,
    request: &str,
    answer: &str,
) -> (String, Reply, Link, Link) {
    let mut client = gateway.connect().await;
    client.raw(request.as_bytes()).await;
    let mut service = backend.connection().await;
    let head = service.read_head().await.expect("a request");
    service.raw(answer.as_bytes()).await;
    let reply = client.reply().await.expect("an answer");
    (head, reply, client, service)
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_request_goes_on_without_its_token_and_with_who_sends_it() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "identity = { \"X-User\" = \"sub\" }\n")).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                  Portcullis-Stream: fake\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Kept: yes\r\n\r\nhello";
    let asked = get(
        "/a/b%41?x=1&access_token=&y=%20",
        "X-User: root\r\nx_user: root\r\nX-Forwarded-For: 1.1.1.1\r\nCookie: c=1\r\nConnection: X-Secret\r\nX-Secret: 1\r\n\
         Accept: text/html\r\nRange: bytes=0-4\r\nKeep-Alive: 3\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    );
    let (head, reply, ..) = exchange(&gateway, &mut backend, &asked, answer).await;
    assert!(head.starts_with("GET /a/b%41?x=1&y=%20 HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("host", "localhost"),
        ("x-user", "someone"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "localhost"),
        ("cookie", "c=1"),
        ("accept", "text/html"),
        ("range", "bytes=0-4"),
    ] {
        assert_eq!(header(&head, name), Some(value), "{name} in {head}");
    }
    let lower = head.to_ascii_lowercase();
    for gone in
        ["authorization", "bearer", "root", "x_user", "1.1.1.1", "x-secret", "keep-alive", "upgrade", "h2c", "http2"]
    {
        assert!(!lower.contains(gone), "{gone} in {head}");
    }
    assert_eq!((reply.status, reply.body_text()), (200, "hello"));
    assert_eq!(reply.header("x-kept"), Some("yes"));
    assert_eq!(reply.head.matches("set-cookie: ").count(), 2, "{}", reply.head);
    for gone in ["x-hop", "keep-alive", "fake"] {
        assert!(!reply.head.to_ascii_lowercase().contains(gone), "{gone} in {}", reply.head);
    }
}

#[tokio::test]
async fn nothing_goes_on_without_a_good_token() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let expired = token(Duration::ZERO);
    let (good, other) = (token(MINUTE), token(2 * MINUTE));
    let mut client = gateway.connect().await;
    for (request, status, reason) in [
        (request("GET", "/", ""), 401, "token_missing"),
        (request("POST", "/", "Content-Length: 0\r\n"), 401, "token_missing"),
        (request("GET", "/?access_token=a.b.c", ""), 401, "token_invalid"),
        (request("GET", &format!("/?access_token={expired}"), ""), 401, "token_expired"),
        (
            request("GET", &format!("/?access_token={good}"), &format!("Authorization: Bearer {other}\r\n")),
            400,
            "bad_request",
        ),
        (request("GET", "/", &format!("Sec-WebSocket-Protocol: bearer, {good}\r\n")), 401, "token_missing"),
        (get("/a/../b", ""), 400, "bad_request"),
        (request("TRACE", "/", &format!("Authorization: Bearer {good}\r\n")), 405, "method"),
        (request("OPTIONS", "/", ""), 401, "token_missing"),
    ] {
        let reply = client.request(&request).await;
        assert_eq!(reply.status, status, "{request}\n{}", reply.head);
        assert!(reply.body_text().contains(&format!("\"{reason}\"")), "{request}\n{}", reply.body_text());
    }
    assert_eq!(backend.dialled(), 0);
    let refuse = Gateway::start(&config(&backend.url(), "")).await;
    let reply = refuse.connect().await.request(&get("/", "")).await;
    assert_eq!((reply.status, backend.dialled()), (426, 0));
}

#[tokio::test]
async fn where_no_token_is_asked_for_nobody_can_forge_an_identity() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&pass(&backend, "identity = { \"X-User\" = \"sub\" }\ncarriers = [\"query:t\", \"header\", \"cookie:t\"]\norigins = [\"https://app.example\"]\n")).await;
    let asked = request(
        "GET",
        "/login?t=secret&x=1",
        "X-User: root\r\nX_USER: root\r\nPortcullis-Stream: root\r\nX-Forwarded-For: 1.1.1.1\r\n\
         Authorization: Bearer own\r\nCookie: t=secret; s=1\r\nOrigin: https://evil.example\r\n",
    );
    let (head, reply, ..) = exchange(&gateway, &mut backend, &asked, HELLO).await;
    assert_eq!((reply.status, reply.body_text()), (200, "hello"));
    assert!(head.starts_with("GET /login?x=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "cookie"), Some("s=1"), "{head}");
    assert_eq!(header(&head, "authorization"), Some("Bearer own"), "what the service wants of its own clients: {head}");
    for gone in ["root", "secret", "1.1.1.1"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
}

#[tokio::test]
async fn a_connection_to_a_service_that_asks_for_its_upgrade_still_gets_one() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let good = token(MINUTE);
    let (mut client, mut service) = gateway.open_with(&good, &mut backend).await;
    client.text("hello").await;
    assert_eq!(service.frame().await.text(), "hello");
    let head = gateway.upgrade("/?access_token=a.b.c", "");
    assert_eq!(gateway.connect().await.request(&head).await.status, 401);
    let broken = gateway.upgrade("/", "").replace("Connection: Upgrade\r\n", "");
    assert_eq!(gateway.connect().await.request(&broken).await.status, 400, "a broken handshake is no plain request");
}

#[tokio::test]
async fn bodies_go_both_ways_as_they_are_framed() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    // Whole, with its length.
    let mut client = gateway.connect().await;
    client.raw(request("POST", "/", &format!("{good}Content-Length: 4\r\n")).as_bytes()).await;
    client.raw(b"body").await;
    let mut service = backend.connection().await;
    let head = service.read_head().await.expect("a request");
    assert_eq!((header(&head, "content-length"), header(&head, "transfer-encoding")), (Some("4"), None), "{head}");
    read_until(&mut service, b"body").await;
    service.raw(HELLO.as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").body_text(), "hello");
    // Bit by bit, with trailers, also of a method that seldom has a body.
    for method in ["POST", "GET"] {
        let more = format!("{good}Transfer-Encoding: chunked\r\nTrailer: X-Sum, X-User\r\nTE: trailers\r\n");
        client.raw(request(method, "/", &more).as_bytes()).await;
        client.raw(b"2\r\nbo\r\n2\r\ndy\r\n0\r\nX-Sum: 7\r\nPortcullis-X: forged\r\n\r\n").await;
        // It cannot be sent twice, and so takes a connection that was used a moment ago.
        let head = service.read_head().await.expect("a request");
        assert_eq!(
            (header(&head, "content-length"), header(&head, "transfer-encoding")),
            (None, Some("chunked")),
            "{head}"
        );
        assert_eq!(header(&head, "te"), Some("trailers"), "{head}");
        let body = read_until(&mut service, b"\r\n\r\n").await;
        assert!(body.contains("x-sum: 7") && !body.contains("forged"), "{body}");
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Mark\r\n\r\n3\r\nabc\r\n0\r\nX-Mark: 9\r\n\r\n";
        service.raw(answer.as_bytes()).await;
        let head = client.read_head().await.expect("an answer");
        assert_eq!(
            (header(&head, "transfer-encoding"), header(&head, "trailer")),
            (Some("chunked"), Some("x-mark")),
            "{head}"
        );
        let body = read_until(&mut client, b"\r\n\r\n").await;
        assert!(body.starts_with("3\r\nabc\r\n0\r\n") && body.contains("x-mark: 9"), "{body}");
    }
    assert_eq!(backend.dialled(), 1, "one connection serves them all");
}

/// Reads until these bytes have come; all that came.
async fn read_until(link: &mut Link, end: &[u8]) -> String {
    let read = async {
        while !link.unread().windows(end.len()).any(|bytes| bytes == end) {
            assert!(link.fill().await.expect("bytes"), "the end, after {:?}", String::from_utf8_lossy(link.unread()));
        }
    };
    common::within(common::PATIENCE, "bytes", read).await;
    let text = String::from_utf8_lossy(link.unread()).into_owned();
    link.discard();
    text
}
