//! What is fetched comes from where it was asked for, in time, in bounds and whole; or not at all.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{Authority, Origin, PATIENCE, instant, within};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use portcullis::fetch::{FetchError, Fetched, Fetcher, Url};
use portcullis::upstream::trust::roots;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

const LIMIT: usize = 1024;

fn fetcher(authority: &Authority, timeout: Duration) -> Fetcher {
    Fetcher::new(Some(roots(authority.pem().as_bytes()).expect("roots")), timeout).expect("a fetcher")
}

async fn get_with(fetcher: &Fetcher, url: &str) -> Result<Fetched, FetchError> {
    let url = Url::parse(url).expect("a URL");
    within(PATIENCE, "a fetch", fetcher.get(&url, HeaderMap::new(), LIMIT)).await
}

async fn get(url: &str) -> Result<Fetched, FetchError> {
    get_with(&fetcher(&Authority::new(), PATIENCE), url).await
}

/// What comes of an answer with these bytes.
async fn says(answer: impl AsRef<[u8]>) -> Result<Fetched, FetchError> {
    get(&Origin::says(answer).await.url("/")).await
}

fn body(fetched: Result<Fetched, FetchError>) -> String {
    String::from_utf8(fetched.expect("an answer").body.to_vec()).expect("text")
}

#[tokio::test]
async fn an_answer_comes_whole_with_its_status_and_headers() {
    let origin = Origin::says("HTTP/1.1 404 Not Found\r\nETag: \"x\"\r\nContent-Length: 4\r\n\r\ngone").await;
    let fetched = get(&origin.url("/keys?tenant=a")).await.expect("an answer");
    assert_eq!((fetched.status.as_u16(), &fetched.body[..]), (404, &b"gone"[..]));
    assert_eq!(fetched.headers["etag"], "\"x\"");
    let asked = origin.asked().concat();
    assert!(asked.starts_with("GET /keys?tenant=a HTTP/1.1\r\n"), "{asked}");
    for header in ["accept-encoding: identity", "connection: close", "user-agent: portcullis/"] {
        assert!(asked.contains(header), "{asked}");
    }
    assert!(asked.contains(&format!("host: localhost:{}", origin.address().port())), "{asked}");
}

#[tokio::test]
async fn chunked_and_unbounded_bodies_come_whole() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\nTrailer: x\r\n\r\n";
    assert_eq!(body(says(chunked).await), "one two");
    assert_eq!(body(says("HTTP/1.0 200 OK\r\n\r\nuntil the end").await), "until the end");
    assert_eq!(
        body(says("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await),
        "ok"
    );
}

#[tokio::test]
async fn a_form_is_posted_and_no_redirect_of_it_followed() {
    let origin = Origin::start(|call| async move {
        let answer = format!("{} {}", call.header("content-type").expect("a type"), call.body);
        let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: /other\r\nContent-Length: {}", answer.len());
        call.answer(format!("{head}\r\n\r\n{answer}")).await;
    })
    .await;
    let url = Url::parse(&origin.url("/token")).expect("a URL");
    let form = [("grant_type", "client_credentials"), ("scope", "read write")];
    let fetcher = fetcher(&Authority::new(), PATIENCE);
    let fetched = fetcher.post_form(&url, HeaderMap::new(), &form, LIMIT).await.expect("an answer");
    assert_eq!(fetched.status, 307);
    let text = "application/x-www-form-urlencoded grant_type=client_credentials&scope=read+write";
    assert_eq!(fetched.body, text);
    assert_eq!(origin.asked().len(), 1);
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed_with_the_same_headers() {
    let origin = Origin::start(|call| async move {
        let (status, more) = match call.target() {
            "/1" => ("301 Moved Permanently", "Location: /a/2"),
            "/a/2" => ("302 Found", "Location: 3?x"),
            "/a/3?x" => ("308 Permanent Redirect", "Location: /end#part"),
            _ => ("200 OK", "X: y"),
        };
        call.answer(format!("HTTP/1.1 {status}\r\n{more}\r\nContent-Length: 2\r\n\r\nok")).await;
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    let url = Url::parse(&origin.url("/1")).expect("a URL");
    let fetched = fetcher(&Authority::new(), PATIENCE).get(&url, headers, LIMIT).await;
    assert_eq!(body(fetched), "ok");
    let asked = origin.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|head| head.contains("authorization: Bearer x")), "{asked:?}");
}

#[tokio::test]
async fn no_redirect_leads_elsewhere_or_round_in_circles() {
    let other = Origin::says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother").await;
    let port = other.address().port();
    for location in [
        format!("http://localhost:{port}/SECRET"),
        format!("//localhost:{port}/SECRET"),
        format!("http://127.0.0.1:{port}/SECRET"),
        format!("https://localhost:{port}/SECRET"),
        "https://192.0.2.1/SECRET".to_owned(),
        "file:///SECRET".to_owned(),
        "http://user:SECRET@localhost/".to_owned(),
        "http://192.0.2.1/SECRET".to_owned(),
    ] {
        let error = says(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")).await;
        let error = error.expect_err("refused");
        assert!(matches!(error, FetchError::Redirect(_)), "{location}: {error}");
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
    assert_eq!(other.asked().len(), 0, "nobody else was asked");
    assert!(matches!(says("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await, Err(FetchError::Redirect(_))));

    let circle = Origin::says("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(get(&circle.url("/")).await, Err(FetchError::Redirect(_))));
    assert_eq!(circle.asked().len(), 4, "three redirects and no more");
}

#[tokio::test]
async fn an_endless_body_ends_at_the_limit() {
    for framing in ["Transfer-Encoding: chunked\r\n", "", "Content-Length: 99999999999\r\n"] {
        let origin = Origin::start(move |mut call| async move {
            call.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n")).await;
            while call.send(format!("3E8\r\n{}\r\n", "x".repeat(1000))).await {}
        })
        .await;
        let begun = instant();
        let error = get(&origin.url("/")).await.expect_err("too large");
        assert!(matches!(error, FetchError::TooLarge(LIMIT)), "{framing}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    let exact = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    assert_eq!(body(says(exact(LIMIT)).await).len(), LIMIT);
    assert!(matches!(says(exact(LIMIT + 1)).await, Err(FetchError::TooLarge(LIMIT))));
}

#[tokio::test]
async fn whatever_is_slow_ends_with_the_time_for_the_whole() {
    let silent = Origin::start(|call| async move {
        let _held = call;
        std::future::pending::<()>().await;
    })
    .await;
    let slow_head = Origin::start(|mut call| async move {
        for byte in b"HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyy" {
            call.send([*byte]).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
    let slow_body = Origin::start(|mut call| async move {
        call.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await;
        while call.send("x").await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let hints = Origin::start(|mut call| async move {
        while call.send("HTTP/1.1 103 Early Hints\r\n\r\n").await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let circle = Origin::start(|call| async move {
        tokio::time::sleep(Duration::from_millis(600)).await;
        call.answer("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    let fetcher = fetcher(&Authority::new(), Duration::from_secs(1));
    for origin in [silent, slow_head, slow_body, hints, circle] {
        let begun = instant();
        let error = get_with(&fetcher, &origin.url("/")).await.expect_err("too slow");
        assert!(matches!(error, FetchError::Timeout(_)), "{error}");
        assert!((1.0..2.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_answer_that_is_not_whole_is_none() {
    for broken in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nSECRET",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 6\r\n\r\nSECRET",
        "HTTP/1.1 200 OK\r\nContent-Length: -6\r\n\r\nSECRET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nSECRET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
        "HTTP/1.1 200 OK\r\nX: SECRET",
        "SECRET\r\n\r\n",
        "",
    ] {
        let error = says(broken).await.expect_err("broken");
        assert!(matches!(error, FetchError::Http(_)), "{broken}: {error}");
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
    assert_eq!(body(says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more").await), "ok");
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    for encoding in [
        "Content-Encoding: gzip\r\n",
        "Content-Encoding: identity\r\nContent-Encoding: br\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
    ] {
        let error = says(format!("HTTP/1.1 200 OK\r\n{encoding}\r\n0\r\n\r\n")).await.expect_err("encoded");
        assert!(matches!(error, FetchError::Encoded), "{encoding}: {error}");
    }
    assert_eq!(body(says("HTTP/1.1 200 OK\r\nContent-Encoding: Identity\r\nContent-Length: 2\r\n\r\nok").await), "ok");
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let one = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(40 << 10));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(1000));
    let endless = Origin::start(|mut call| async move {
        call.send("HTTP/1.1 200 OK\r\nX: ").await;
        while call.send("x".repeat(1000)).await {}
    })
    .await;
    for answer in [says(one).await, says(many).await, get(&endless.url("/")).await] {
        let error = answer.expect_err("too large");
        assert!(matches!(error, FetchError::HeadTooLarge), "{error}");
    }
}

#[tokio::test]
async fn only_a_certificate_of_the_own_authority_for_that_name_and_time_is_trusted() {
    let authority = Authority::new();
    let serve = |identity: (String, String)| async move {
        Origin::secure(&identity, |call| call.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await
    };
    let good = serve(authority.leaf(&["localhost"])).await;
    let unknown = serve(Authority::new().leaf(&["localhost"])).await;
    let named = serve(authority.leaf(&["sso.example.com"])).await;
    let expired = serve(authority.leaf_with(&["localhost"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }))
    .await;
    let early = serve(authority.leaf_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    }))
    .await;
    let fetcher = fetcher(&authority, PATIENCE);
    assert_eq!(body(get_with(&fetcher, &good.url("/")).await), "ok");
    for (origin, why) in
        [(unknown, "BadSignature"), (named, "not valid for name"), (expired, "xpired"), (early, "not valid yet")]
    {
        let error = get_with(&fetcher, &origin.url("/")).await.expect_err("not to be trusted");
        assert!(matches!(&error, FetchError::Tls(text) if text.contains(why)), "{why}: {error}");
        assert!(origin.asked().is_empty(), "nothing was asked of it");
    }
    // The system's roots do not have it.
    let system = Fetcher::new(None, PATIENCE).expect("a fetcher");
    assert!(matches!(get_with(&system, &good.url("/")).await, Err(FetchError::Tls(_))));
}

#[tokio::test]
async fn a_body_without_a_length_counts_only_if_tls_says_that_it_ends() {
    let authority = Authority::new();
    let identity = authority.leaf(&["localhost"]);
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let whole = Origin::secure(&identity, move |call| call.answer(format!("{head}whole"))).await;
    let cut = Origin::secure(&identity, move |mut call| async move {
        call.send(format!("{head}SECRET")).await;
    })
    .await;
    let fetcher = fetcher(&authority, PATIENCE);
    assert_eq!(body(get_with(&fetcher, &whole.url("/")).await), "whole");
    let error = get_with(&fetcher, &cut.url("/")).await.expect_err("cut off on its way");
    assert!(matches!(&error, FetchError::Http(text) if !text.contains("SECRET")), "{error}");
}

#[tokio::test]
async fn an_url_from_elsewhere_never_leads_to_this_machine() {
    let authority = Authority::new();
    let identity = authority.leaf(&["localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"]);
    let origin = Origin::secure(&identity, |call| call.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let port = origin.address().port();
    let here = fetcher(&authority, PATIENCE);
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"] {
        let url = format!("https://{host}:{port}/");
        let error = get_with(&here.elsewhere(), &url).await.expect_err("refused");
        assert!(matches!(error, FetchError::ThisMachine), "{host}: {error}");
        assert_eq!(error.to_string(), "it leads to this machine, though it comes from elsewhere");
    }
    assert!(origin.asked().is_empty(), "nobody was asked");
    assert_eq!(body(get_with(&here, &format!("https://[::ffff:127.0.0.1]:{port}/")).await), "ok");
}

#[tokio::test]
async fn where_nobody_listens_the_error_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let error = get(&format!("http://127.0.0.1:{port}/?access_token=SECRET")).await.expect_err("nobody there");
    assert!(matches!(&error, FetchError::Connect(why) if why.contains("refused")), "{error}");
    assert!(!error.to_string().contains("os error"), "{error}");
    let error = get("https://no-such-name.invalid/").await.expect_err("no such name");
    assert!(matches!(error, FetchError::Lookup(_)), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/", listener.local_addr().expect("an address"));
    let plaintext = async {
        let (mut tcp, _) = listener.accept().await.expect("a connection");
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("an answer");
        std::future::pending::<()>().await;
    };
    let error = tokio::select! { () = plaintext => unreachable!(), error = get(&url) => error.expect_err("no TLS") };
    assert!(matches!(error, FetchError::Tls(_)), "{error}");
}
