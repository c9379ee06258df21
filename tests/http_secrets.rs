//! Plain HTTP on a route, against those who would see or do more than they may: other clients of the same service, caches, and
//! who has no token.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{Backend, Gateway, Link, Reply, config, header, token};

const MINUTE: Duration = Duration::from_secs(60);
const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn route(backend: &Backend, more: &str) -> String {
    config(&backend.url(), more)
}

/// A request without a body.
fn request(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

/// Sends `request` on `client` and has the service answer `answer` on `service`; gives the head of what the service got, and
/// the answer.
async fn exchange(client: &mut Link, service: &mut Link, request: &str, answer: &str) -> (String, Reply) {
    client.raw(request.as_bytes()).await;
    let head = service.read_head().await.expect("a request");
    service.raw(answer.as_bytes()).await;
    (head, client.reply().await.expect("an answer"))
}

/// Likewise, over the service's next connection.
async fn begin(client: &mut Link, backend: &mut Backend, request: &str) -> Link {
    client.raw(request.as_bytes()).await;
    let mut service = backend.connection().await;
    service.read_head().await.expect("a request");
    service.raw(HELLO.as_bytes()).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    service
}

#[tokio::test]
async fn a_request_that_breaks_its_service_is_sent_once_more_and_not_over_every_kept_connection() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&route(&backend, "http = \"pass\"\n")).await;
    let mut services = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        client.raw(request("GET", "/", "").as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        services.push(service);
        clients.push(client);
    }
    // All three are kept from here on.
    for (service, client) in services.iter_mut().zip(&mut clients) {
        service.raw(HELLO.as_bytes()).await;
        assert_eq!(client.reply().await.expect("an answer").status, 200);
    }
    clients[0].raw(request("GET", "/poison", "").as_bytes()).await;
    // What was used last is asked first; it closes at the request.
    let mut last = services.pop().expect("a service");
    assert!(last.read_head().await.expect("a request").starts_with("GET /poison "));
    drop(last);
    let mut fresh = backend.connection().await;
    assert!(fresh.read_head().await.expect("a request").starts_with("GET /poison "));
    drop(fresh);
    assert_eq!(clients[0].reply().await.expect("an answer").status, 502);
    assert_eq!(backend.dialled(), 4);
    // The others have seen nothing of it, and serve whoever comes next.
    let next = services.last_mut().expect("a service");
    let (head, reply) = exchange(&mut clients[1], next, &request("GET", "/next", ""), HELLO).await;
    assert!(head.starts_with("GET /next ") && reply.status == 200, "{head}");
}

#[tokio::test]
async fn a_connection_that_a_client_may_have_signed_in_on_is_no_one_elses() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&route(&backend, "http = \"pass\"\n")).await;
    let mut client = gateway.connect().await;
    let mut services = Vec::new();
    for (dialled, scheme) in [(1, "NTLM TlRMTVNTUAAB"), (2, "negotiate\tYIIC"), (3, "Basic dXNlcjpwdw==")] {
        let asked = request("GET", "/", &format!("Authorization: {scheme}\r\n"));
        services.push(begin(&mut client, &mut backend, &asked).await);
        assert_eq!(backend.dialled(), dialled, "{scheme}");
    }
    // A scheme that is about the request alone shares its connection.
    let last = services.last_mut().expect("a service");
    exchange(&mut client, last, &request("GET", "/", ""), HELLO).await;
    assert_eq!(backend.dialled(), 3);
}

#[tokio::test]
async fn an_answer_to_a_token_is_in_no_shared_cache_unless_the_service_says_so() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&route(&backend, "http = \"require\"\n")).await;
    let asked = request("GET", &format!("/?access_token={}", token(MINUTE)), "");
    let mut client = gateway.connect().await;
    let mut service = begin(&mut client, &mut backend, &asked).await;
    for (said, expected) in [
        (&[][..], &["private"][..]),
        (&["max-age=60"], &["max-age=60", "private"]),
        (&["max-age=60, must-revalidate"], &["max-age=60, must-revalidate", "private"]),
        (&["no-store"], &["no-store"]),
        (&["Private, max-age=60"], &["Private, max-age=60"]),
        (&["max-age=60", "Public"], &["max-age=60", "Public"]),
        (&["s-maxage=60"], &["s-maxage=60"]),
    ] {
        let mut lines = vec!["HTTP/1.1 200 OK".to_owned(), "Content-Length: 5".to_owned()];
        lines.extend(said.iter().map(|said| format!("Cache-Control: {said}")));
        let answer = format!("{}\r\n\r\nhello", lines.join("\r\n"));
        let (_, reply) = exchange(&mut client, &mut service, &asked, &answer).await;
        let lines = reply.head.lines().filter_map(|line| line.strip_prefix("cache-control: "));
        assert_eq!(lines.collect::<Vec<_>>(), expected, "{said:?}: {}", reply.head);
    }
    let open = Gateway::start(&route(&backend, "http = \"pass\"\n")).await;
    let mut client = open.connect().await;
    let mut service = begin(&mut client, &mut backend, &request("GET", "/", "")).await;
    let (_, reply) = exchange(&mut client, &mut service, &request("GET", "/", ""), HELLO).await;
    assert_eq!(reply.header("cache-control"), None, "what needs no token is the service's own");
}

#[tokio::test]
async fn the_address_of_the_page_that_sends_a_request_goes_on_without_its_token() {
    let mut backend = Backend::start().await;
    let carriers = "carriers = [\"query:access_token\", \"header\", \"ticket:t\"]\n";
    let good = token(MINUTE);
    for access in ["require", "pass"] {
        let gateway = Gateway::start(&route(&backend, &format!("http = \"{access}\"\n{carriers}"))).await;
        let mut client = gateway.connect().await;
        let plain = request("GET", "/", &format!("Authorization: Bearer {good}\r\n"));
        let mut service = begin(&mut client, &mut backend, &plain).await;
        for (sent, goes_on) in [
            (format!("https://localhost/a?access_token={good}"), "https://localhost/a"),
            (format!("https://localhost/a?x=1&access%5Ftoken={good}&y"), "https://localhost/a?x=1&y"),
            ("https://localhost/?t=ticket&portcullis_stream=handle".to_owned(), "https://localhost/"),
            ("https://localhost/a%20b?x=?&&y#z".to_owned(), "https://localhost/a%20b?x=?&&y#z"),
        ] {
            let asked = request("GET", "/", &format!("Authorization: Bearer {good}\r\nReferer: {sent}\r\n"));
            let (head, _) = exchange(&mut client, &mut service, &asked, HELLO).await;
            assert_eq!(header(&head, "referer"), Some(goes_on), "{access}: {sent}");
        }
        // Two are no address.
        let lines = format!("Referer: https://localhost/\r\nReferer: https://localhost/?access_token={good}\r\n");
        let asked = request("GET", "/", &format!("Authorization: Bearer {good}\r\n{lines}"));
        let (head, _) = exchange(&mut client, &mut service, &asked, HELLO).await;
        assert_eq!(header(&head, "referer"), None, "{access}: {head}");
    }
}

#[tokio::test]
async fn a_preflight_cannot_be_taken_for_another_method() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&route(&backend, "http = \"require\"\norigins = [\"https://app.example\"]\n")).await;
    let mut client = gateway.connect().await;
    let asked = request(
        "OPTIONS",
        "/",
        "Origin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\nX-HTTP-Method-Override: PUT\r\n\
         X_Http_Method: PUT\r\nX-Method-Override: PUT\r\nAccept: */*\r\n",
    );
    client.raw(asked.as_bytes()).await;
    let mut service = backend.connection().await;
    let head = service.read_head().await.expect("a request");
    assert_eq!(header(&head, "access-control-request-method"), Some("PUT"), "{head}");
    assert_eq!(head.matches("PUT").count(), 1, "{head}");
    assert_eq!(header(&head, "accept"), Some("*/*"), "{head}");
}

#[tokio::test]
async fn what_a_service_says_beyond_its_answer_reaches_no_other_client() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&route(&backend, "http = \"pass\"\n")).await;
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    for (method, answer, late) in [
        ("GET", HELLO, false),
        ("GET", HELLO, true),
        ("HEAD", HELLO.trim_end_matches("hello"), false),
        ("HEAD", HELLO.trim_end_matches("hello"), true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", false),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 46\r\n\r\n", false),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
    ] {
        let (mut client, mut other) = (gateway.connect().await, gateway.connect().await);
        client.raw(request(method, "/first", "").as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        if late {
            service.raw(answer.as_bytes()).await;
            client.read_head().await.expect("an answer");
            service.raw(stray.as_bytes()).await;
            // Whoever asks before that has come cannot know that it is no answer.
            service.rest().await;
        } else {
            service.raw(format!("{answer}{stray}").as_bytes()).await;
            client.read_head().await.expect("an answer");
        }
        other.raw(request("GET", "/second", "").as_bytes()).await;
        let mut fresh = backend.connection().await;
        assert!(fresh.read_head().await.expect("a request").starts_with("GET /second "), "{method} {answer}");
        fresh.raw(HELLO.as_bytes()).await;
        assert_eq!(other.reply().await.expect("an answer").body_text(), "hello", "{method} {answer}");
    }
}

#[tokio::test]
async fn a_connection_that_was_answered_before_it_had_the_whole_request_is_not_kept() {
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&route(&backend, "http = \"pass\"\n")).await;
    for framing in ["Content-Length: 90\r\n", "Transfer-Encoding: chunked\r\n"] {
        let (mut client, mut other) = (gateway.connect().await, gateway.connect().await);
        client.raw((request("POST", "/", framing) + "5\r\nhello\r\n").as_bytes()).await;
        let mut service = backend.connection().await;
        service.read_head().await.expect("a request");
        service.raw(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.reply().await.expect("an answer").status, 413, "{framing}");
        let _ = client.try_raw(b"1c\r\nGET /smuggled HTTP/1.1\r\n\r\n\r\n0\r\n\r\n").await;
        other.raw(request("GET", "/second", "").as_bytes()).await;
        let mut fresh = backend.connection().await;
        let head = fresh.read_head().await.expect("a request");
        assert!(head.starts_with("GET /second "), "{framing}: {head}");
        let (rest, _) = service.rest().await;
        assert!(!String::from_utf8_lossy(&rest).contains("smuggled"), "{framing}");
        drop(fresh);
        assert_eq!(other.reply().await.expect("an answer").status, 502);
    }
}
