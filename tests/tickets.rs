//! A ticket opens one stream in the place of a token: the answer to query strings in other people's logs.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use common::{Backend, Gateway, Link, Reply, claims, config, field, mint, now, token, within};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const ROUTE: &str = "carriers = [\"ticket:ticket\"]\nidentity = { \"X-User\" = \"sub\" }";

async fn post(gateway: &Gateway, path: &str, headers: &str) -> Reply {
    let port = gateway.address().port();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n{headers}\r\n");
    gateway.connect().await.request(&head).await
}

async fn ticket(gateway: &Gateway, token: &str, more: &str) -> Value {
    let reply = post(gateway, "/.portcullis/ticket", &format!("Authorization: Bearer {token}\r\n{more}")).await;
    assert_eq!(reply.status, 200, "{}\n{}", reply.head, reply.body_text());
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    serde_json::from_str(reply.body_text()).expect("JSON")
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().expect(name)
}

fn reason(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(reply.body_text()).expect("problem JSON");
    body["reason"].as_str().unwrap_or_default().to_owned()
}

async fn start(route: &str) -> (Gateway, Backend) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), route)).await;
    (gateway, backend)
}

async fn open(gateway: &Gateway, backend: &mut Backend, target: &str, more: &str) -> (Link, Link) {
    let (opened, service) = tokio::join!(gateway.ask(target, more), backend.accept());
    assert_eq!(opened.0.status, 101, "{}", opened.0.head);
    (opened.1, service)
}

#[tokio::test]
async fn a_ticket_opens_one_stream_with_all_that_its_token_grants() {
    let (gateway, mut backend) = start(ROUTE).await;
    let life = Duration::from_secs(2);
    let body = ticket(&gateway, &token(life), "").await;
    assert_eq!(body["expires_in"], 30);
    assert_eq!((text(&body, "ticket").len(), text(&body, "stream").len()), (22, 22));
    let target = format!("/chat?a=1&ticket={}", text(&body, "ticket"));
    let (opened, asked) = tokio::join!(gateway.ask(&target, ""), async {
        let asked = backend.asked().await;
        assert_eq!(asked.target(), "/chat?a=1", "the service never sees it");
        assert_eq!(asked.header("x-user"), Some("someone"));
        asked.agree("").await
    });
    let (mut client, _service) = (opened.1, asked);
    let (again, _) = gateway.ask(&target, "").await;
    assert_eq!((again.status, reason(&again).as_str()), (401, "token_invalid"), "it is spent");

    // The stream is the token's: renewed by the handle that came with the ticket, ended when the token ends.
    let headers =
        |token: &str| format!("Portcullis-Stream: {}\r\nAuthorization: Bearer {token}\r\n", text(&body, "stream"));
    let fresh = claims(life);
    assert_eq!(post(&gateway, "/chat/.portcullis/renew", &headers(&mint(&fresh))).await.status, 200);
    let close = within(life * 3, "the end", client.frame()).await;
    assert_eq!(close.close_code(), (3000, "token expired"));
    assert!(now() >= Duration::from_secs_f64(fresh["exp"].as_f64().expect("exp")));
    gateway.logged("the opened stream", |line| field(line, "message") == Some(&json!("stream opened"))).await;
    let log = gateway.log();
    for secret in ["ticket", "stream"] {
        assert!(!log.contains(text(&body, secret)), "{secret} in {log}");
    }
}

#[tokio::test]
async fn a_ticket_is_spent_at_its_first_presentation_whatever_follows() {
    let second = |url: &str| format!("{ROUTE}\n[[route]]\nname = \"second\"\npath = \"/second\"\nupstream = \"{url}\"");
    let backend = Backend::start().await;
    let route = format!("{}\ncarriers = [\"ticket:ticket\", \"header\"]", second(&backend.url()));
    let gateway = Gateway::start(&config(&backend.url(), &route)).await;
    let elsewhere = "Origin: https://elsewhere.example\r\n";
    let bearer = format!("Authorization: Bearer {}\r\n", token(MINUTE));
    for (path, more, status) in [("/second", "", 401), ("/", elsewhere, 401), ("/second", &*bearer, 400)] {
        let body = ticket(&gateway, &token(MINUTE), "").await;
        let query = format!("?ticket={}", text(&body, "ticket"));
        assert_eq!(gateway.ask(&format!("{path}{query}"), more).await.0.status, status, "{path} {more}");
        assert_eq!(gateway.ask(&format!("/{query}"), "").await.0.status, 401, "spent by {path} {more}");
    }
    // All that stand in a query are presented, whatever stands beside them.
    for beside in ["ticket=short", "ticket=", "%74icket=0123456789012345678901", "portcullis_stream=short"] {
        let body = ticket(&gateway, &token(MINUTE), "").await;
        let query = format!("?ticket={}", text(&body, "ticket"));
        assert_eq!(gateway.ask(&format!("/{query}&{beside}"), "").await.0.status, 400, "{beside}");
        assert_eq!(gateway.ask(&format!("/{query}"), "").await.0.status, 401, "spent beside {beside}");
    }
    let two = [ticket(&gateway, &token(MINUTE), "").await, ticket(&gateway, &token(MINUTE), "").await];
    let [a, b] = two.each_ref().map(|body| format!("ticket={}", text(body, "ticket")));
    assert_eq!(gateway.ask(&format!("/?{a}&{b}"), "").await.0.status, 400);
    for spent in [a, b] {
        assert_eq!(gateway.ask(&format!("/?{spent}"), "").await.0.status, 401);
    }
    assert_eq!(backend.dialled(), 0);
}

#[tokio::test]
async fn a_ticket_is_bound_to_the_page_that_it_was_handed_to() {
    let page = "Origin: https://app.example\r\n";
    let (gateway, mut backend) =
        start(&format!("{ROUTE}\norigins = [\"https://app.example\", \"https://other.example\"]")).await;
    for more in ["", "Origin: https://other.example\r\n"] {
        let body = ticket(&gateway, &token(MINUTE), page).await;
        let target = format!("/?ticket={}", text(&body, "ticket"));
        assert_eq!(gateway.ask(&target, more).await.0.status, 401, "{more}");
    }
    // A page that may not open streams here spends it too.
    let body = ticket(&gateway, &token(MINUTE), page).await;
    let target = format!("/?ticket={}", text(&body, "ticket"));
    assert_eq!(gateway.ask(&target, "Origin: https://evil.example\r\n").await.0.status, 403);
    assert_eq!(gateway.ask(&target, page).await.0.status, 401, "it is spent");
    let body = ticket(&gateway, &token(MINUTE), page).await;
    open(&gateway, &mut backend, &format!("/?ticket={}", text(&body, "ticket")), page).await;
    let foreign = format!("Authorization: Bearer {}\r\nOrigin: https://evil.example\r\n", token(MINUTE));
    assert_eq!(post(&gateway, "/.portcullis/ticket", &foreign).await.status, 403);
}

#[tokio::test]
async fn a_ticket_dies_with_its_time_and_with_its_token() {
    let (gateway, _backend) = start(&format!("{ROUTE}\nticket_lifetime = \"500ms\"")).await;
    for life in [MINUTE, Duration::from_millis(300)] {
        let body = ticket(&gateway, &token(life), "").await;
        tokio::time::sleep(if life == MINUTE { Duration::from_millis(550) } else { life + Duration::from_millis(50) })
            .await;
        let (reply, _) = gateway.ask(&format!("/?ticket={}", text(&body, "ticket")), "").await;
        assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_expired"), "{life:?}");
    }
}

#[tokio::test]
async fn a_ticket_needs_a_good_token_and_a_route_that_has_tickets() {
    let second = |url: &str| format!("{ROUTE}\n[[route]]\nname = \"second\"\npath = \"/second\"\nupstream = \"{url}\"");
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend.url(), &second(&backend.url()))).await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let mut expired = claims(MINUTE);
    expired["exp"] = (now().as_secs() - 5).into();
    for (path, headers, status) in [
        ("/.portcullis/ticket", String::new(), 401),
        ("/.portcullis/ticket", bearer(&mint(&expired)), 401),
        ("/.portcullis/ticket", bearer("nonsense"), 401),
        ("/second/.portcullis/ticket", bearer(&token(MINUTE)), 426),
    ] {
        assert_eq!(post(&gateway, path, &headers).await.status, status, "{path} {headers}");
    }
    for (query, status) in
        [("ticket=0123456789012345678901", 401), ("ticket=short", 400), ("ticket=", 400), ("", 401), ("a=1", 401)]
    {
        assert_eq!(gateway.ask(&format!("/?{query}"), "").await.0.status, status, "{query}");
    }
    let token = token(MINUTE);
    assert_eq!(gateway.ask(&format!("/?access_token={token}"), "").await.0.status, 401, "no carrier of the route");
}

#[tokio::test]
async fn tickets_are_capped_per_principal_and_in_all() {
    let config_with = |url: &str| format!("[server]\nmax_tickets = 34\n{}", config(url, ROUTE));
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config_with(&backend.url())).await;
    let of = |sub: &str| {
        let mut all = claims(MINUTE);
        all["sub"] = sub.into();
        format!("Authorization: Bearer {}\r\n", mint(&all))
    };
    let ann = of("ann");
    for _ in 0..32 {
        assert_eq!(post(&gateway, "/.portcullis/ticket", &ann).await.status, 200);
    }
    let refused = post(&gateway, "/.portcullis/ticket", &ann).await;
    assert_eq!((refused.status, reason(&refused).as_str()), (429, "rate_limited"));
    for (who, status) in [("bob", 200), ("cid", 200), ("dan", 429)] {
        assert_eq!(post(&gateway, "/.portcullis/ticket", &of(who)).await.status, status, "{who}");
    }
}

#[tokio::test]
async fn a_client_may_choose_the_handle_of_the_stream_that_it_will_open() {
    let (gateway, mut backend) = start(ROUTE).await;
    let handle = "chosen-by-the-client-itself";
    let body = ticket(&gateway, &token(MINUTE), &format!("Portcullis-Stream: {handle}\r\n")).await;
    assert_eq!(text(&body, "stream"), handle);
    let target = format!("/?ticket={}&portcullis_stream={handle}", text(&body, "ticket"));
    let (_client, _service) = open(&gateway, &mut backend, &target, "").await;
    let headers = format!("Portcullis-Stream: {handle}\r\nAuthorization: Bearer {}\r\n", token(MINUTE * 2));
    assert_eq!(post(&gateway, "/.portcullis/renew", &headers).await.status, 200);
    let body = ticket(&gateway, &token(MINUTE), "").await;
    let target = format!("/?ticket={}&portcullis_stream={handle}", text(&body, "ticket"));
    assert_eq!(gateway.ask(&target, "").await.0.status, 400, "another handle than the ticket's");
}
