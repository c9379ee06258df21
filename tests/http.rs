//! Plain HTTP on a route, over real sockets: what goes on to the service, what comes back, and what is refused.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{Backend, Gateway, Link, Reply, config, header, instant, token};

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
    assert!(!gateway.log().contains("eyJ"), "a token in the log");
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
        let more = format!(
            "{good}Transfer-Encoding: chunked\r\nTrailer: X-Sum, Portcullis-X, Authorization\r\nTE: trailers\r\n"
        );
        client.raw(request(method, "/", &more).as_bytes()).await;
        client
            .raw(b"2\r\nbo\r\n2\r\ndy\r\n0\r\nX-Sum: 7\r\nPortcullis-X: forged\r\nAuthorization: forged\r\n\r\n")
            .await;
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
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Mark, Portcullis-X\r\n\r\n3\r\nabc\r\n0\r\nX-Mark: 9\r\nPortcullis-X: forged\r\n\r\n";
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

#[tokio::test]
async fn answers_without_a_body_stay_without_one_and_keep_their_connection() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    let mut client = gateway.connect().await;
    let mut service = None;
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", Some("1000")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", None),
        ("PUT", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
        (
            "GET",
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/9\r\nContent-Length: 5\r\n\r\nhello",
            Some("5"),
        ),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
            Some("5"),
        ),
        ("OPTIONS", "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", Some("0")),
    ] {
        client.raw(request(method, "/", &good).as_bytes()).await;
        let service = match &mut service {
            Some(service) => service,
            none => none.insert(backend.connection().await),
        };
        let head = service.read_head().await.expect("a request");
        assert!(head.starts_with(&format!("{method} / HTTP/1.1\r\n")), "{head}");
        service.raw(answer.as_bytes()).await;
        let head = client.read_head().await.expect("an answer");
        assert_eq!(header(&head, "content-length"), length, "{method} {answer}: {head}");
        assert!(answer.contains(head.split("\r\n").next().expect("a line")), "{head}");
        if length == Some("5") {
            read_until(&mut client, b"hello").await;
        }
        assert!(client.unread().is_empty());
    }
    assert_eq!(backend.dialled(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_service_has_closed_costs_no_request() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    let (_, _, mut client, service) = exchange(&gateway, &mut backend, &get("/", ""), HELLO).await;
    // Closed while it waits: seen before a request is sent.
    drop(service);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let post = request("POST", "/", &format!("{good}Content-Length: 1\r\n")) + "x";
    client.raw(post.as_bytes()).await;
    let mut service = backend.connection().await;
    service.read_head().await.expect("a request");
    service.raw(HELLO.as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    // Closed in the very moment in which the request comes: asked again, as it changes nothing.
    client.raw(get("/again", "").as_bytes()).await;
    read_until(&mut service, b"/again").await;
    drop(service);
    let mut service = backend.connection().await;
    assert!(service.read_head().await.expect("the request again").starts_with("GET /again "));
    service.raw(HELLO.as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    // What may change something is never sent twice.
    client.raw(post.as_bytes()).await;
    read_until(&mut service, b"\r\n\r\nx").await;
    drop(service);
    let reply = client.reply().await.expect("an answer");
    assert_eq!((reply.status, backend.dialled()), (502, 3), "{}", reply.head);
    // Nor does it take a connection that has waited, which the service may be about to close.
    let (_, _, mut client, mut waiting) = exchange(&gateway, &mut backend, &get("/", ""), HELLO).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.raw(post.as_bytes()).await;
    let mut fresh = backend.connection().await;
    fresh.read_head().await.expect("the request");
    fresh.raw(HELLO.as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    client.raw(get("/", "").as_bytes()).await;
    fresh.read_head().await.expect("what changes nothing takes the one that was used last");
    assert!(waiting.unread().is_empty());
    let _ = waiting.try_raw(b"x").await;
}

#[tokio::test]
async fn what_changes_nothing_is_sent_a_second_time_and_no_third() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.connect().await;
        client.raw(get("/", "").as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        kept.push((client, service));
    }
    for (client, service) in &mut kept {
        service.raw(HELLO.as_bytes()).await;
        assert_eq!(client.reply().await.expect("an answer").status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, mut last) = kept.pop().expect("two");
    let (mut client, mut other) = kept.pop().expect("two");
    client.raw(get("/again", "").as_bytes()).await;
    read_until(&mut last, b"/again").await;
    drop(last);
    // What has cost one connection is no reason to lose all that are kept.
    let mut fresh = backend.connection().await;
    assert!(fresh.read_head().await.expect("the request again").starts_with("GET /again "));
    drop(fresh);
    assert_eq!(client.reply().await.expect("an answer").status, 502);
    assert_eq!(backend.dialled(), 3);
    client.raw(get("/next", "").as_bytes()).await;
    assert!(other.read_head().await.expect("another request").starts_with("GET /next "));
}

#[tokio::test]
async fn a_client_that_expects_leave_to_send_its_body_gets_it_once_the_request_is_let_in() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    let mut client = gateway.connect().await;
    client.raw(request("PUT", "/", &format!("{good}Expect: 100-continue\r\nContent-Length: 4\r\n")).as_bytes()).await;
    let mut service = backend.connection().await;
    let head = service.read_head().await.expect("a request");
    assert_eq!(header(&head, "expect"), None, "the gateway has given leave: {head}");
    assert!(client.read_head().await.expect("leave").starts_with("HTTP/1.1 100 "));
    client.raw(b"body").await;
    read_until(&mut service, b"body").await;
    service.raw(HELLO.as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    let mut client = gateway.connect().await;
    let reply = client.request(&request("PUT", "/", "Expect: 100-continue\r\nContent-Length: 4\r\n")).await;
    assert_eq!(reply.status, 401, "no leave without a token: {}", reply.head);
}

#[tokio::test]
async fn a_request_that_two_programs_may_read_differently_is_one_request_or_none() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "[server]\nrequest_timeout = \"1s\"\n")).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Whoever sends both lengths is read by the chunks alone, and nothing after it is (RFC 9112, section 6.1).
    for both in
        ["Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"]
    {
        let mut client = gateway.connect().await;
        client.raw(format!("{}0\r\n\r\n{smuggled}", request("POST", "/", &format!("{good}{both}"))).as_bytes()).await;
        let mut service = backend.connection().await;
        let head = service.read_head().await.expect("a request");
        assert_eq!(
            (header(&head, "content-length"), header(&head, "transfer-encoding")),
            (None, Some("chunked")),
            "{head}"
        );
        read_until(&mut service, b"0\r\n\r\n").await;
        service.raw(HELLO.as_bytes()).await;
        let (answer, _) = client.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!((answer.matches("HTTP/1.1 ").count(), answer.matches("200 OK").count()), (1, 1), "{answer}");
    }
    let dialled = backend.dialled();
    for (more, body) in [
        ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", "xx"),
        ("Content-Length: +1\r\n", "x"),
        ("Content-Length: 1, 1\r\n", "x"),
        ("Content-Length: -1\r\n", ""),
        ("X: a\r\n b\r\n", ""),
    ] {
        let mut client = gateway.connect().await;
        let _ = client
            .try_raw(format!("{}{body}{smuggled}", request("POST", "/", &format!("{good}{more}"))).as_bytes())
            .await;
        let (answer, _) = client.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{more}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{more}: {answer}");
    }
    assert_eq!(backend.dialled(), dialled, "nothing of these went on");
    // A chunk that is none: the service never sees the end of such a body.
    for chunk in [
        "x\r\n\r\n",
        "5;\nabcde\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "fffffffffffffffff\r\n",
        "1\r\nxx\r\n0\r\n\r\n",
        "1 1\r\nx\r\n0\r\n\r\n",
    ] {
        let mut client = gateway.connect().await;
        let head = request("POST", "/", &format!("{good}Transfer-Encoding: chunked\r\n"));
        client.raw(format!("{head}2\r\nok\r\n{chunk}{smuggled}").as_bytes()).await;
        let mut service = backend.connection().await;
        let (seen, _) = service.rest().await;
        let seen = String::from_utf8_lossy(&seen);
        assert!(!seen.contains("\r\n0\r\n") && !seen.contains("smuggled"), "{chunk:?}: {seen}");
        let (answer, _) = client.rest().await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.1 ").count() == 1, "{chunk:?}: {answer}");
    }
}

#[tokio::test]
async fn a_service_that_dies_in_its_answer_is_seen_to_and_so_is_one_that_answers_nonsense() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    for part in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    ] {
        let mut client = gateway.connect().await;
        client.raw(get("/", "").as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        service.raw(part.as_bytes()).await;
        read_until(&mut client, b"abc").await;
        drop(service);
        let (rest, _) = client.rest().await;
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "the end of a whole answer");
    }
    for nonsense in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "",
    ] {
        let mut client = gateway.connect().await;
        client.raw(get("/", "").as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        service.raw(nonsense.as_bytes()).await;
        drop(service);
        let reply = client.reply().await.expect("an answer");
        assert_eq!(reply.status, 502, "{nonsense:?}: {}", reply.head);
        assert!(reply.body_text().contains("upstream_invalid"), "{}", reply.body_text());
    }
}

#[tokio::test]
async fn a_service_sees_that_its_client_is_gone() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "")).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    // While it has not answered; in the middle of its answer; in the middle of the request.
    for (asked, part) in [
        (get("/", ""), ""),
        (get("/", ""), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        (request("POST", "/", &format!("{good}Content-Length: 9\r\n")) + "abc", ""),
        (request("POST", "/", &format!("{good}Transfer-Encoding: chunked\r\n")) + "3\r\nabc\r\n", ""),
    ] {
        let mut client = gateway.connect().await;
        client.raw(asked.as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        if asked.starts_with("POST") {
            read_until(&mut service, b"abc").await;
        }
        service.raw(part.as_bytes()).await;
        if !part.is_empty() {
            read_until(&mut client, b"abc").await;
        }
        drop(client);
        let (rest, _) = service.rest().await;
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "the end of a whole body");
    }
}

#[tokio::test]
async fn every_wait_has_an_end() {
    let mut backend = Backend::start().await;
    let gateway =
        Gateway::start(&require(&backend, "http_response_timeout = \"1s\"\nhttp_upload_timeout = \"2s\"\n")).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    let post = request("POST", "/", &format!("{good}Content-Length: 9\r\n"));
    for (asked, status, reason, least) in [
        (get("/", ""), 504, "upstream_timeout", 900),
        (post.clone() + "abc", 408, "request_timeout", 1900),
        (post + "abcdefghi", 504, "upstream_timeout", 900),
    ] {
        let mut client = gateway.connect().await;
        let begun = instant();
        client.raw(asked.as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        let reply = client.reply().await.expect("an answer");
        let took = begun.elapsed();
        assert_eq!(reply.status, status, "{}", reply.head);
        assert!(reply.body_text().contains(reason), "{}", reply.body_text());
        assert!((Duration::from_millis(least)..Duration::from_secs(5)).contains(&took), "{took:?}");
        service.rest().await;
    }
    // A body that comes slowly, and an answer that does, are no silence.
    let mut client = gateway.connect().await;
    client.raw(request("POST", "/", &format!("{good}Content-Length: 5\r\n")).as_bytes()).await;
    let mut service = backend.connection().await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        client.raw(b"x").await;
    }
    read_until(&mut service, b"xxxxx").await;
    service.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        service.raw(b"y").await;
    }
    assert_eq!(client.reply().await.expect("an answer").body_text(), "yy");
    let backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "").replace(&backend.url(), "ws://127.0.0.1:1")).await;
    assert_eq!(gateway.connect().await.request(&get("/", "")).await.status, 502);
}

#[tokio::test]
async fn pages_that_may_not_send_no_cookie_and_ask_before_without_one() {
    let mut backend = Backend::start().await;
    let more = "carriers = [\"cookie:session\", \"header\"]\norigins = [\"https://app.example\"]\n";
    let gateway = Gateway::start(&require(&backend, more)).await;
    let own = format!("https://localhost:{}", gateway.address().port());
    let host = format!("Host: localhost:{}\r\n", gateway.address().port());
    let cookie = format!("Cookie: a=1; session={}\r\n", token(MINUTE));
    let mut dialled = 0;
    for (method, more, allowed) in [
        ("GET", String::new(), true),
        ("GET", "Sec-Fetch-Site: cross-site\r\n".to_owned(), true),
        ("POST", String::new(), true),
        ("POST", "Sec-Fetch-Site: same-origin\r\n".to_owned(), true),
        ("POST", "Sec-Fetch-Site: cross-site\r\n".to_owned(), false),
        ("POST", "Sec-Fetch-Site: same-site\r\n".to_owned(), false),
        ("POST", format!("Origin: {own}\r\n"), true),
        ("POST", "Origin: https://app.example\r\n".to_owned(), true),
        ("POST", "Origin: https://evil.example\r\n".to_owned(), false),
        ("POST", "Origin: null\r\n".to_owned(), false),
        ("GET", "Origin: https://evil.example\r\n".to_owned(), false),
        ("DELETE", format!("Origin: https://app.example\r\nOrigin: {own}\r\n"), false),
    ] {
        let asked = request(method, "/", &format!("{cookie}{more}")).replace("Host: localhost\r\n", &host);
        let mut client = gateway.connect().await;
        client.raw(asked.as_bytes()).await;
        if !allowed {
            let reply = client.reply().await.expect("an answer");
            assert_eq!((reply.status, backend.dialled()), (403, dialled), "{asked}");
            continue;
        }
        // The service ends its connection, so that each request has one of its own.
        let mut service = backend.connection().await;
        dialled += 1;
        let head = service.read_head().await.expect("a request");
        assert_eq!(header(&head, "cookie"), Some("a=1"), "{head}");
        service.raw(HELLO.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(client.reply().await.expect("an answer").status, 200, "{asked}");
        drop(service);
    }
    let preflight = |origin: &str, more: &str| {
        request("OPTIONS", "/x", &format!("Origin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n{more}"))
    };
    let asked = preflight("https://app.example", &format!("{cookie}Authorization: Bearer x\r\nX-User: root\r\n"));
    let (head, reply, ..) = exchange(&gateway, &mut backend, &asked, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(head.starts_with("OPTIONS /x ") && header(&head, "origin") == Some("https://app.example"), "{head}");
    assert!(header(&head, "cookie").is_none() && header(&head, "authorization").is_none(), "{head}");
    assert_eq!(reply.status, 204);
    let dialled = backend.dialled();
    let mut client = gateway.connect().await;
    let foreign = client.request(&preflight("https://evil.example", "")).await;
    assert_eq!((foreign.status, backend.dialled()), (403, dialled));
    // A page that may learns why it is refused; another one does not.
    let refused = client.request(&request("PUT", "/x", "Origin: https://app.example\r\n")).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("https://app.example")));
    let refused = client.request(&request("PUT", "/x", "Origin: https://evil.example\r\n")).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None));
}

#[tokio::test]
async fn more_requests_than_may_be_under_way_are_told_to_come_back() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&require(&backend, "[server]\nmax_requests = 2\n")).await;
    let mut under_way = Vec::new();
    for part in ["", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"] {
        let mut client = gateway.connect().await;
        client.raw(get("/", "").as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        service.raw(part.as_bytes()).await;
        under_way.push((client, service));
    }
    let (client, service) = &mut under_way[1];
    client.read_head().await.expect("an answer");
    let mut third = gateway.connect().await;
    let reply = third.request(&get("/", "")).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("5")));
    // A stream is no request.
    drop(gateway.open_with(&token(MINUTE), &mut backend).await);
    service.raw(b"hello").await;
    read_until(client, b"hello").await;
    third.raw(get("/", "").as_bytes()).await;
    service.read_head().await.expect("the request, on the connection that came free");
    service.raw(HELLO.as_bytes()).await;
    assert_eq!(third.reply().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_request_goes_to_another_place_if_one_cannot_be_reached_and_its_body_with_it() {
    let mut backend = Backend::start().await;
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("its address")
    };
    let places = format!("\n[[upstream]]\nname = \"places\"\nendpoints = [\"ws://{closed}\", \"{}\"]\n", backend.url());
    let config =
        require(&backend, &places).replace(&format!("upstream = \"{}\"", backend.url()), "upstream = \"places\"");
    let gateway = Gateway::start(&config).await;
    let good = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        let post = request("POST", "/", &format!("{good}Content-Length: 4\r\n")) + "body";
        client.raw(post.as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        read_until(&mut service, b"body").await;
        service.raw(HELLO.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(client.reply().await.expect("an answer").status, 200);
    }
}
