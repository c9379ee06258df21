//! `portcullis client` with tokens of an issuer: client credentials (RFC 6749, section 4.4), and what becomes of an issuer
//! that gives none.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Authority, Backend, Call, Client, Gateway, Origin, config, mint, now, within};
use serde_json::{Value, json};

/// What the client shows to the issuer.
const CLIENT: [&str; 4] = ["--client-id", "gate keeper", "--client-secret-file", "client.secret"];
const CLIENT_SECRET: &str = "s3cret: of+the&client";
const LONG: Duration = Duration::from_secs(20);

/// The gateway in front of an echo service, with the client's secret in its folder.
async fn gateway(backend: &Backend) -> Gateway {
    let gateway = Gateway::start(&config(&backend.url(), "carriers = [\"header\"]")).await;
    std::fs::write(gateway.path("client.secret"), format!("{CLIENT_SECRET}\n")).expect("client.secret");
    gateway
}

/// The client as that client of an issuer.
fn client(gateway: &Gateway, arguments: &[&str]) -> Client {
    Client::start(gateway, &[arguments, &CLIENT].concat())
}

fn json(status: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn granted(life: u64) -> Value {
    let token = mint(&json!({"iss": common::ISSUER, "sub": "robot", "exp": now().as_secs() + life}));
    json!({"access_token": token, "token_type": "Bearer", "expires_in": life})
}

/// An issuer at `/realm` that names `issuer`, or itself, and hands out tokens of two seconds.
async fn discovering(identity: Option<&(String, String)>, issuer: Option<&str>) -> Origin {
    let issuer: Option<Arc<str>> = issuer.map(Into::into);
    let each = move |call: Call| {
        let issuer = issuer.clone();
        async move {
            let own = format!("https://{}", call.header("host").expect("a host"));
            let answer = match call.target() {
                "/realm/.well-known/openid-configuration" => {
                    let issuer = issuer.as_deref().map_or(format!("{own}/realm"), str::to_owned);
                    json("200 OK", &json!({"issuer": issuer, "token_endpoint": format!("{own}/elsewhere/token")}))
                }
                "/elsewhere/token" => json("200 OK", &granted(2)),
                _ => json("404 Not Found", &json!({})),
            };
            call.answer(answer).await;
        }
    };
    match identity {
        Some(identity) => Origin::secure(identity, each).await,
        None => Origin::start(each).await,
    }
}

#[tokio::test]
async fn tokens_of_a_discovered_issuer_keep_one_stream_alive() {
    let backend = Backend::echo().await;
    let gateway = gateway(&backend).await;
    let issuer = discovering(Some(&gateway.authority().leaf(&["localhost"])), None).await;
    let url = issuer.url("/realm");
    let mut client = client(&gateway, &["--issuer", &url, "--issuer-ca", "ca.pem", "--message", "hello"]);
    client.until("renewed   on the same stream", 3).await;
    assert_eq!(client.streams(), 1, "{}", client.told);
    assert!(client.told.contains("token     sub: robot, expires in") && client.told.contains("received  hello"));
    let asked = issuer.asked();
    assert_eq!(asked.iter().filter(|head| head.starts_with("GET /realm/.well-known/")).count(), 1, "asked once");
    let basic = asked.iter().find_map(|head| head.split("authorization: Basic ").nth(1)?.lines().next());
    let pair = STANDARD.decode(basic.expect("a header").trim()).expect("base64");
    assert_eq!(String::from_utf8_lossy(&pair), "gate+keeper:s3cret%3A+of%2Bthe%26client");
}

#[tokio::test]
async fn id_secret_scope_resource_and_audience_stand_in_the_form_where_that_is_wanted() {
    let backend = Backend::echo().await;
    let gateway = gateway(&backend).await;
    let (sender, mut forms) = tokio::sync::mpsc::unbounded_channel();
    let issuer = Origin::start(move |call| {
        let sender = sender.clone();
        async move {
            sender.send((call.head.clone(), call.body.clone())).expect("a reader");
            call.answer(json("200 OK", &granted(60))).await;
        }
    })
    .await;
    let url = issuer.url("/token");
    let more = ["--scope", "read write", "--resource", "https://a/", "--resource", "https://b/", "--audience", "gate"];
    let own = ["--token-url", &url, "--auth", "post", "--client-id", CLIENT[1], "--client-secret-env", "ROBOT_SECRET"];
    let mut client = Client::start_with(&gateway, &[&own, &more[..]].concat(), |command| {
        command.env("ROBOT_SECRET", CLIENT_SECRET);
    });
    let (head, form) = within(LONG, "a form", forms.recv()).await.expect("a form");
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
    let wanted = "grant_type=client_credentials&client_id=gate+keeper&client_secret=s3cret%3A+of%2Bthe%26client\
        &scope=read+write&resource=https%3A%2F%2Fa%2F&resource=https%3A%2F%2Fb%2F&audience=gate";
    assert_eq!(form, wanted);
    client.until("open", 1).await;
}

#[tokio::test]
async fn an_issuer_that_gives_no_token_is_told_clearly_and_asked_again() {
    let backend = Backend::echo().await;
    let gateway = gateway(&backend).await;
    let text = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let leak = json!({"error": "invalid_client", "error_description": format!("no {CLIENT_SECRET}, no eyJh.eyJi.c")});
    let token = granted(60)["access_token"].clone();
    for (answer, told) in [
        (
            json("401 Unauthorized", &leak),
            "refused with 401 invalid_client (no ***, no (the token)); the id or the secret",
        ),
        (json("400 Bad Request", &json!({"error": "invalid_scope"})), "refused with 400 invalid_scope"),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nSoon".into(), "refused with 503"),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".into(), "refused with 302"),
        (text("<html>"), "the answer is no JSON object"),
        (text("{}"), "there is no access_token in it"),
        (json("200 OK", &json!({"access_token": token, "token_type": "DPoP"})), "its token_type is not Bearer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{".into(), "the answer has more than"),
    ] {
        let issuer = Origin::says(&answer).await;
        let mut client = client(&gateway, &["--token-url", &issuer.url("/token?x=SECRET")]);
        client.until("failed", 2).await;
        let line = format!("failed    the token endpoint {}: {told}", issuer.url("/token"));
        assert!(client.told.contains(&line), "{answer}\n{}", client.told);
        for hidden in ["SECRET", "s3cret"] {
            assert!(!client.told.contains(hidden), "{}", client.told);
        }
    }
    assert_eq!(backend.dialled(), 0);
}

#[tokio::test]
async fn an_issuer_that_asks_to_be_left_alone_is() {
    let backend = Backend::echo().await;
    let gateway = gateway(&backend).await;
    let issuer = Origin::says("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n").await;
    let mut client = client(&gateway, &["--token-url", &issuer.url("/")]);
    client.until("waiting", 1).await;
    assert!(client.told.contains("waiting   7."), "{}", client.told);
}

#[tokio::test]
async fn a_discovery_document_counts_only_for_exactly_the_issuer_that_was_named() {
    let backend = Backend::echo().await;
    let gateway = gateway(&backend).await;
    let identity = Authority::new().leaf(&["localhost"]);
    let stranger = discovering(Some(&identity), None).await;
    let other = discovering(None, Some("https://other.example.com/realm")).await;
    let slash = discovering(Some(&gateway.authority().leaf(&["localhost"])), None).await;
    let table = [
        (stranger.url("/realm"), "no TLS: invalid peer certificate"),
        (other.url("/realm"), "it is of the issuer https://other.example.com/realm, and that is not exactly the one"),
        (slash.url("/realm/"), "and that is not exactly the one that was named"),
        (slash.url("/nowhere"), "refused with 404"),
    ];
    for (url, told) in &table {
        let mut client = client(&gateway, &["--issuer", url, "--issuer-ca", "ca.pem"]);
        client.until("failed", 1).await;
        assert!(
            client.told.contains("failed    the discovery document ") && client.told.contains(told),
            "{}",
            client.told
        );
    }
    assert!(stranger.asked().is_empty());
    // Exactly the right issuer, that would have the secret go out in clear.
    for (endpoint, told) in [
        ("http://localhost:1/token", "its token_endpoint has no TLS"),
        ("http://other.example.com/token", "its token_endpoint cannot be used: http:// is for this machine only"),
    ] {
        let careless = Origin::secure(&gateway.authority().leaf(&["localhost"]), move |call| async move {
            let own = format!("https://{}", call.header("host").expect("a host"));
            call.answer(json("200 OK", &json!({"issuer": own, "token_endpoint": endpoint}))).await;
        })
        .await;
        let mut client = client(&gateway, &["--issuer", &careless.url(""), "--issuer-ca", "ca.pem"]);
        client.until("failed", 1).await;
        assert!(client.told.contains(told), "{}", client.told);
    }
    let tokens = |issuer: &Origin| issuer.asked().iter().any(|head| head.starts_with("POST"));
    assert!(!tokens(&other) && !tokens(&slash), "no secret went to them");
}

#[tokio::test]
async fn an_opaque_token_lives_as_long_as_the_issuer_says_beside_it() {
    let backend = Backend::echo().await;
    let gateway = gateway(&backend).await;
    let opaque = json!({"access_token": "opaque", "token_type": "bearer", "expires_in": 90});
    let issuer = Origin::says(json("200 OK", &opaque)).await;
    let mut client = client(&gateway, &["--token-url", &issuer.url("/")]);
    client.until("refused with 401 token_invalid", 1).await;
    assert!(
        client.told.contains("token     expires in 9") || client.told.contains("token     expires in 89"),
        "{}",
        client.told
    );
    assert!(!client.told.contains("opaque"), "{}", client.told);
}

#[tokio::test]
async fn a_token_counts_as_long_as_the_issuer_says_though_the_clients_clock_is_ahead() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), "carriers = [\"header\"]").replace("[[issuer]]", "[[issuer]]\nleeway = \"1m\"");
    let gateway = Gateway::start(&text).await;
    std::fs::write(gateway.path("client.secret"), CLIENT_SECRET).expect("client.secret");
    // What a clock that is thirty seconds behind the client's has given ten seconds.
    let token = mint(&json!({"iss": common::ISSUER, "sub": "robot", "exp": now().as_secs() - 20}));
    let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": 10});
    let issuer = Origin::says(json("200 OK", &answer)).await;
    let mut client = client(&gateway, &["--token-url", &issuer.url("/"), "--message", "hello"]);
    client.until("received  hello", 1).await;
    assert_eq!(issuer.asked().len(), 1, "{}", client.told);
}
