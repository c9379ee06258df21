//! Tokens of real issuers, as long as these work and when they do not: npm's `oidc-provider`, PyPI's `oidc-provider-mock`.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::issuer::{CLIENT, Issuer};
use common::real::Program;
use common::{ADMIN, Admin, Backend, Client, Gateway, Link, PATIENCE, Reply, config, folder, instant, within};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// The set is looked at every second, and at once for a key that is not known.
const EAGER: &str = "jwks_min_refresh = \"900ms\"\njwks_max_refresh = \"1s\"\njwks_cooldown = \"100ms\"";
/// It is looked at for a key that is not known, and not otherwise while a test runs.
const LAZY: &str = "jwks_cooldown = \"100ms\"";

/// The usual config with this issuer in the place of the shared secret.
fn with_issuer(upstream: &str, issuer: &str, route: &str) -> String {
    let config = config(upstream, route);
    let (start, rest) = config.split_once("[[issuer]]").expect("an issuer");
    let (_, route) = rest.split_once("[[route]]").expect("a route");
    format!("{start}{issuer}\n[[route]]{route}\n{ADMIN}")
}

async fn gateway(backend: &Backend, issuer: &Issuer, keys: &str) -> Gateway {
    Gateway::start(&with_issuer(&backend.url(), &issuer.table(keys), "")).await
}

/// Status and public reason of what a handshake with this token is answered.
async fn asks(gateway: &Gateway, token: &str) -> (u16, String) {
    let (reply, _link) = gateway.ask(&format!("/?access_token={token}"), "").await;
    (reply.status, reason(&reply))
}

fn reason(reply: &Reply) -> String {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    body["reason"].as_str().unwrap_or_default().to_owned()
}

async fn post(gateway: &Gateway, path: &str, token: &str, more: &str) -> Reply {
    let port = gateway.address().port();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    );
    gateway.connect().await.request(&head).await
}

/// A live stream and what renews it.
struct Stream {
    link: Link,
    handle: String,
}

impl Stream {
    async fn open(gateway: &Gateway, token: &str) -> Self {
        let link = gateway.open(token).await;
        let handle = common::header(&link.head, "portcullis-stream").expect("a handle").to_owned();
        Self { link, handle }
    }

    async fn renew(&self, gateway: &Gateway, token: &str) -> u16 {
        let more = format!("Portcullis-Stream: {}\r\n", self.handle);
        post(gateway, "/.portcullis/renew", token, &more).await.status
    }

    async fn echoes(&mut self) {
        self.link.text("there?").await;
        assert_eq!(self.link.frame().await.text(), "there?");
    }
}

async fn all_echo(streams: &mut [Stream]) {
    join_all(streams.iter_mut().map(Stream::echoes)).await;
}

#[tokio::test]
async fn one_stream_lives_through_four_tokens_of_a_real_issuer() {
    let backend = Backend::echo().await;
    let mut issuer = Issuer::start().await;
    let route = "carriers = [\"header\"]\nidentity = { \"X-User\" = \"sub\" }";
    let gateway = Gateway::start(&with_issuer(&backend.url(), &issuer.table(""), route)).await;
    let (ca, secret) = (issuer.path("ca.pem"), issuer.path("client.secret"));
    let arguments =
        ["--issuer", issuer.url(), "--issuer-ca", &ca, "--client-id", CLIENT, "--client-secret-file", &secret];
    let more = ["--resource", "https://gate.test/10", "--message", "hello"];
    let mut client = Client::start(&gateway, &[&arguments[..], &more].concat());
    client.until("renewed   on the same stream, at least 9 s left", 3).await;
    assert_eq!((client.streams(), backend.dialled()), (1, 1), "{}", client.told);
    for told in ["token     sub: robot, expires in", "received  hello"] {
        assert!(client.told.contains(told), "{}", client.told);
    }
    assert!(!client.told.contains("closed") && !client.told.contains("renewal   "), "{}", client.told);
    assert!(issuer.asked("/token").await >= 4);
    assert_eq!(issuer.asked("/jwks").await, 1, "one look at the keys is enough");
    let log = gateway.log();
    assert!(!log.contains("eyJ") && !log.contains("robot-secret"), "{log}");
}

#[tokio::test]
async fn keys_rotate_while_two_hundred_streams_live_and_new_ones_come() {
    let backend = Backend::echo().await;
    let mut issuer = Issuer::start().await;
    let keeps = gateway(&backend, &issuer, LAZY).await;
    let closes = gateway(&backend, &issuer, &format!("{EAGER}\non_key_removed = \"close\"")).await;
    let old = issuer.token(300).await;
    let mut kept = join_all((0..200).map(|_| Stream::open(&keeps, &old))).await;
    let mut closed = join_all((0..20).map(|_| Stream::open(&closes, &old))).await;

    // From one moment to the next another key signs; the old one is still published.
    issuer.publishes(&["second", "first"], "second").await;
    for life in 200..220 {
        let token = issuer.token(life).await;
        assert_eq!(asks(&keeps, &token).await.0, 101, "a new token at once");
        assert_eq!(asks(&closes, &token).await.0, 101, "a new token at once");
    }
    assert_eq!(asks(&keeps, &old).await.0, 101, "an old token too");
    let new = issuer.token(400).await;
    let (renewed, rest) = kept.split_at(100);
    let answers = join_all(renewed.iter().map(|stream| stream.renew(&keeps, &new))).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(rest.len(), 100, "and as many go on with the old token");
    assert_eq!(closed[0].renew(&closes, &new).await, 200);
    all_echo(&mut kept).await;
    all_echo(&mut closed).await;

    // The old key goes.
    issuer.publishes(&["second"], "second").await;
    let unknown = issuer.token_of("nobody").await;
    assert_eq!(asks(&keeps, &unknown).await.0, 401, "which has this gateway look");
    for gateway in [&keeps, &closes] {
        let start = instant();
        while asks(gateway, &old).await != (401, "token_invalid".into()) {
            assert!(start.elapsed() < Duration::from_secs(5), "an old token is still taken");
        }
        assert_eq!(asks(gateway, &new).await.0, 101);
    }
    all_echo(&mut kept).await;
    let refused = kept[150].renew(&keeps, &old).await;
    assert!(matches!(refused, 401 | 503), "{refused}: no renewal with a token of the old key");
    closed[0].echoes().await;
    for stream in &mut closed[1..] {
        assert_eq!(stream.link.frame().await.close_code(), (3000, "key removed"));
    }
}

#[tokio::test]
async fn a_minute_without_the_issuer_ends_nothing_until_its_keys_are_too_old() {
    const DOWN: Duration = Duration::from_secs(60);
    const STALE: Duration = Duration::from_secs(8);
    let backend = Backend::echo().await;
    let mut issuer = Issuer::start().await;
    let patient = gateway(&backend, &issuer, EAGER).await;
    let strict = gateway(&backend, &issuer, &format!("{EAGER}\njwks_stale = \"8s\"")).await;
    let admin = Admin::of(&strict).await;
    let mut tokens = Vec::new();
    for number in 0..10 {
        tokens.push(issuer.token(200 + 10 * number).await);
    }
    let mut live = Stream::open(&patient, &tokens[0]).await;
    let mut held = Stream::open(&strict, &tokens[0]).await;
    assert_eq!(admin.read("/readyz").await, "ready\n");
    issuer.does(json!({"listen": false})).await;
    let down = instant();

    let mut refused = None;
    for token in &tokens {
        assert_eq!(live.renew(&patient, token).await, 200, "after {:?}", down.elapsed());
        let next = down.elapsed() + DOWN / 10;
        while down.elapsed() < next {
            assert_eq!(asks(&patient, token).await.0, 101, "after {:?}", down.elapsed());
            live.echoes().await;
            held.echoes().await;
            let (reply, _link) = strict.ask(&format!("/?access_token={token}"), "").await;
            if refused.is_none() && reply.status == 101 {
                assert!(down.elapsed() < STALE + Duration::from_secs(1), "keys that are too old still count");
            } else {
                assert_eq!((reply.status, reason(&reply).as_str()), (503, "issuer_unavailable"));
                assert!(reply.header("retry-after").is_some(), "{}", reply.head);
                refused.get_or_insert(down.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    let refused = refused.expect("keys that are too old do not count");
    assert!(refused + Duration::from_secs(2) > STALE, "they counted only for {refused:?}");
    let ready = admin.raw("GET", "/readyz", "Host: localhost\r\n", "").await;
    assert_eq!(ready.status, 503, "{}", ready.body_text());
    assert!(admin.metric("portcullis_jwks_refresh_total{issuer=\"sso\",result=\"failed\"}").await >= 10.0);
    assert!(admin.metric("portcullis_issuer_keys{issuer=\"sso\"}").await < 0.5);
    for told in ["the old ones go on", "and there are none"] {
        strict.logged(told, |line| line.to_string().contains(told)).await;
    }

    // Back without anybody's help: nobody asks for a stream meanwhile.
    issuer.does(json!({"listen": true})).await;
    admin.metric_becomes("portcullis_issuer_keys{issuer=\"sso\"}", 1.0).await;
    assert_eq!(admin.read("/readyz").await, "ready\n");
    assert_eq!(asks(&strict, &tokens[0]).await.0, 101);
    held.echoes().await;
}

#[tokio::test]
async fn whatever_the_issuer_answers_the_old_keys_go_on_and_it_is_told() {
    let backend = Backend::echo().await;
    let mut issuer = Issuer::start().await;
    let gateway = gateway(&backend, &issuer, &format!("{EAGER}\njwks_timeout = \"1s\"")).await;
    let admin = Admin::of(&gateway).await;
    let token = issuer.token(300).await;
    let mut live = Stream::open(&gateway, &token).await;
    for (behaviour, told) in [
        (json!({"jwks": "slow"}), "no whole answer within 1 s"),
        (json!({"jwks": "endless"}), "the answer has more than"),
        (json!({"jwks": "empty"}), "the JWK set has no usable key"),
        (json!({"jwks": "html"}), "the JWK set cannot be read"),
        (json!({"jwks": "oct"}), "no usable key: key 0: "),
        (json!({"jwks": "error"}), "/jwks answered 500"),
        (json!({"certificate": "bad"}), "no TLS: invalid peer certificate"),
        (json!({"certificate": "good", "jwks": "ok", "discovery": "html"}), "the discovery document"),
        (json!({"discovery": "slow"}), "no whole answer within 1 s"),
        (json!({"discovery": "endless"}), "the answer has more than"),
    ] {
        let failed = "portcullis_jwks_refresh_total{issuer=\"sso\",result=\"failed\"}";
        let before = (admin.metric(failed).await, gateway.log_lines().len());
        issuer.does(behaviour.clone()).await;
        let complaint = |line: &Value| {
            let text = line.to_string();
            text.contains("\"WARN\"") && text.contains("the old ones go on") && text.contains(told)
        };
        let start = instant();
        while !gateway.log_lines().iter().skip(before.1).any(complaint) {
            assert!(start.elapsed() < PATIENCE, "{behaviour}: no word of \"{told}\"\n{}", gateway.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(admin.metric(failed).await > before.0, "{behaviour}");
        assert_eq!(asks(&gateway, &token).await.0, 101, "{behaviour}");
        live.echoes().await;
        assert_eq!(asks(&gateway, &confused(issuer.url())).await, (401, "token_invalid".into()), "{behaviour}");
    }
    issuer.does(json!({"discovery": "ok"})).await;
    issuer.publishes(&["second"], "second").await;
    let fresh = issuer.token(300).await;
    let start = instant();
    while asks(&gateway, &fresh).await.0 != 101 {
        assert!(start.elapsed() < Duration::from_secs(5), "a good set counts again");
    }
}

/// A token signed with the shared secret that a poisoned set offers.
fn confused(iss: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"iss": iss, "aud": "gate", "sub": "robot", "exp": common::now().as_secs() + 60});
    let signed = format!("{}.{}", part(json!({"alg": "HS256", "typ": "at+jwt", "kid": "first"})), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[b'k'; 32]);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

#[tokio::test]
async fn two_hundred_keys_that_nobody_has_cause_at_most_five_fetches() {
    let backend = Backend::echo().await;
    let mut issuer = Issuer::start().await;
    let lazy = gateway(&backend, &issuer, "jwks_cooldown = \"5s\"").await;
    let usual = gateway(&backend, &issuer, "").await;
    let start = issuer.asked("/jwks").await;
    let unknown = issuer.token_of("nobody-1").await;
    for _ in 0..5 {
        assert_eq!(asks(&lazy, &unknown).await, (401, "token_invalid".into()));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(
        issuer.asked("/jwks").await,
        start + 1,
        "one fetch for a key that is not there, however often it is named"
    );

    let mut tokens = Vec::new();
    for number in 0..200 {
        tokens.push(issuer.token_of(&format!("random-{number}")).await);
    }
    let before = issuer.asked("/jwks").await;
    let answers = join_all(tokens.iter().map(|token| asks(&usual, token))).await;
    // Those that could not be looked for are not told to be bad.
    let refusals = [(401, "token_invalid".to_owned()), (503, "issuer_unavailable".to_owned())];
    assert!(answers.iter().all(|answer| refusals.contains(answer)), "{answers:?}");
    let fetched = issuer.asked("/jwks").await - before;
    assert!((1..=5).contains(&fetched), "{fetched} fetches");
    assert_eq!(asks(&usual, &issuer.token(60).await).await.0, 101);
    assert_eq!(backend.dialled(), 1, "no service is dialled for a refused token");
}

#[tokio::test]
async fn without_its_issuer_the_gateway_starts_only_if_it_may() {
    let backend = Backend::echo().await;
    let mut issuer = Issuer::start().await;
    let token = issuer.token(300).await;
    issuer.does(json!({"listen": false})).await;

    let (files, _authority) = folder(&with_issuer(&backend.url(), &issuer.table(""), ""));
    let mut command = tokio::process::Command::from(Gateway::command(files.path()));
    let output = within(PATIENCE, "the end of the gateway", command.kill_on_drop(true).output()).await;
    let output = output.expect("the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for told in ["sso", issuer.url(), "start_without_keys"] {
        assert!(said.contains(told), "{told} in {said}");
    }

    let gateway = gateway(&backend, &issuer, &format!("{EAGER}\nstart_without_keys = true")).await;
    let admin = Admin::of(&gateway).await;
    assert_eq!(asks(&gateway, &token).await, (503, "issuer_unavailable".into()));
    assert_eq!(admin.raw("GET", "/readyz", "Host: localhost\r\n", "").await.status, 503);
    issuer.does(json!({"listen": true})).await;
    admin.metric_becomes("portcullis_issuer_keys{issuer=\"sso\"}", 1.0).await;
    assert_eq!(asks(&gateway, &token).await.0, 101);
    assert_eq!(admin.read("/readyz").await, "ready\n");
}

#[tokio::test]
async fn handshake_renewal_first_message_and_ticket_all_wait_for_one_fetch_of_a_new_key() {
    let backend = Backend::echo().await;
    let mut issuer = Issuer::start().await;
    let route = |name: &str, more: &str| {
        let url = backend.url();
        format!("[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{url}\"\n{more}\n")
    };
    let routes = [
        "renew_in_band = \"consume\"".to_owned(),
        route("first", "carriers = [\"message\"]"),
        route("ticket", "carriers = [\"ticket:ticket\", \"header\"]"),
    ]
    .join("\n");
    let gateway = Gateway::start(&with_issuer(&backend.url(), &issuer.table(LAZY), &routes)).await;
    let old = issuer.token(100).await;
    let mut beside = Stream::open(&gateway, &old).await;
    let mut within_band = Stream::open(&gateway, &old).await;
    let (reply, mut first) = gateway.ask("/first", "").await;
    assert_eq!(reply.status, 101);

    issuer.publishes(&["first", "second"], "second").await;
    let new = issuer.token(200).await;
    issuer.does(json!({"jwks": "slow"})).await;
    let fetched = issuer.asked("/jwks").await;
    let begun = instant();
    let in_band = async {
        within_band.link.text(&new).await;
        within_band.link.text("behind it").await;
        let answer: Value = serde_json::from_str(within_band.link.frame().await.text()).expect("JSON");
        assert_eq!(answer["portcullis"], "renewed", "{answer}");
        assert_eq!(within_band.link.frame().await.text(), "behind it");
    };
    let message = async {
        first.text(&new).await;
        first.text("behind it").await;
        assert_eq!(first.frame().await.text(), "behind it");
    };
    let ticket = async {
        let reply = post(&gateway, "/ticket/.portcullis/ticket", &new, "").await;
        assert_eq!(reply.status, 200, "{}", reply.body_text());
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        let target = format!("/ticket?ticket={}", body["ticket"].as_str().expect("a ticket"));
        assert_eq!(gateway.ask(&target, "").await.0.status, 101);
    };
    let handshake = async { assert_eq!(asks(&gateway, &new).await.0, 101) };
    let renewal = async { assert_eq!(beside.renew(&gateway, &new).await, 200) };
    let all = async { tokio::join!(in_band, message, ticket, handshake, renewal) };
    within(Duration::from_secs(10), "all five", all).await;
    assert!(begun.elapsed() > Duration::from_secs(2), "they waited: {:?}", begun.elapsed());
    assert_eq!(issuer.asked("/jwks").await, fetched + 1, "for one and the same");
    beside.echoes().await;
}

#[tokio::test]
async fn two_issuers_on_one_route_each_with_its_own_keys() {
    let backend = Backend::echo().await;
    let issuer = Issuer::start().await;
    let (mut mock, url) = Program::oidc_provider_mock(0).await;
    let second = format!("[[issuer]]\nname = \"mock\"\ndiscovery = \"{url}\"\naud = [\"gate\"]\n{EAGER}\n");
    let tables = format!("{}{second}", issuer.table(LAZY));
    let gateway = Gateway::start(&with_issuer(&backend.url(), &tables, "issuers = [\"sso\", \"mock\"]")).await;
    let first = issuer.token(60).await;
    let token = signs_in(&mut mock, "ann").await;
    assert_eq!(asks(&gateway, &first).await.0, 101);
    let mut stream = Stream::open(&gateway, &token).await;
    stream.echoes().await;
    let fresh = signs_in(&mut mock, "ann").await;
    assert_eq!(stream.renew(&gateway, &fresh).await, 200);
    let other = signs_in(&mut mock, "bob").await;
    assert_eq!(stream.renew(&gateway, &other).await, 403, "another principal");
    assert_eq!(stream.renew(&gateway, &first).await, 403, "another issuer's");

    // The claims of one issuer with the signature of the other: by no key of its own.
    let part = |token: &str, index: usize| token.split('.').nth(index).expect("a part").to_owned();
    for (claims, signature) in [(&first, &token), (&token, &first)] {
        let forged = format!("{}.{}.{}", part(signature, 0), part(claims, 1), part(signature, 2));
        assert_eq!(asks(&gateway, &forged).await, (401, "token_invalid".into()));
    }

    // It comes back with another key, which its tokens do not name: they count from the next look at its keys.
    drop(mock);
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let (mut mock, _) = Program::oidc_provider_mock(port).await;
    let after = signs_in(&mut mock, "ann").await;
    let start = instant();
    while asks(&gateway, &after).await.0 != 101 {
        assert!(start.elapsed() < Duration::from_secs(6), "its new key never counts");
    }
    assert_eq!(asks(&gateway, &fresh).await, (401, "token_invalid".into()), "and its old one no more");
    assert_eq!(asks(&gateway, &first).await.0, 101);
    stream.echoes().await;
}

/// A token of the second issuer for this subject.
async fn signs_in(mock: &mut Program, subject: &str) -> String {
    mock.call(json!({"token": subject})).await.as_str().expect("a token").to_owned()
}
