//! Keys that the issuer serves: fetched, kept while it is away, replaced as it rotates them, and waited for by whoever shows a
//! token of a key that is not known yet. Nobody can make the gateway ask without end.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{ADMIN, Admin, Backend, Gateway, Link, Origin, Reply, claims, config, eventually, field, now};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// An issuer with keys of its own, of which it publishes some.
struct Issuer {
    origin: Origin,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    published: Vec<Value>,
    /// What it answers instead of the set.
    instead: Option<String>,
    /// How long it thinks.
    delay: Duration,
    headers: String,
    etag: bool,
}

struct Signer {
    kid: String,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { kid: kid.to_owned(), pair }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..65]].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y})
    }

    fn token(&self, life: Duration) -> String {
        self.sign(&self.kid, &claims(life))
    }

    fn sign(&self, kid: &str, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "typ": "at+jwt", "kid": kid})), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl Issuer {
    async fn start(keys: &[&Signer]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let origin = Origin::start(move |call| {
            let state = shared.clone();
            async move {
                let (delay, answer) = {
                    let state = state.lock().expect("state");
                    let set = json!({ "keys": state.published }).to_string();
                    let body = state.instead.clone().unwrap_or(set);
                    let tag = format!("\"{}\"", state.published.len());
                    let known = call.head.to_ascii_lowercase().contains(&format!("if-none-match: {tag}"));
                    let answer = if state.etag && known {
                        format!("HTTP/1.1 304 Not Modified\r\n{}ETag: {tag}\r\n\r\n", state.headers)
                    } else {
                        let etag = if state.etag { format!("ETag: {tag}\r\n") } else { String::new() };
                        let length = body.len();
                        format!("HTTP/1.1 200 OK\r\n{}{etag}Content-Length: {length}\r\n\r\n{body}", state.headers)
                    };
                    (state.delay, answer)
                };
                tokio::time::sleep(delay).await;
                call.answer(answer).await;
            }
        })
        .await;
        let issuer = Self { origin, state };
        issuer.publish(keys);
        issuer
    }

    fn publish(&self, keys: &[&Signer]) {
        self.set(|state| state.published = keys.iter().map(|key| key.jwk()).collect());
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("state"));
    }

    fn url(&self) -> String {
        self.origin.url("/certs")
    }

    fn fetches(&self) -> usize {
        self.origin.asked().len()
    }

    async fn fetched(&self, count: usize) {
        eventually("another fetch", || self.fetches() >= count).await;
    }
}

/// A config whose one issuer has its keys there.
fn of(backend: &Backend, issuer: &Issuer, keys: &str, route: &str) -> String {
    with_keys(&config(&backend.url(), route), &format!("jwks_url = \"{}\"\n{keys}", issuer.url()))
}

/// The usual config with these keys in the place of the shared secret.
fn with_keys(config: &str, keys: &str) -> String {
    let (before, rest) = config.split_once("[[issuer.key]]").expect("keys of its own");
    let (_, after) = rest.split_once("[[route]]").expect("a route");
    format!("{before}{keys}\n{ADMIN}\n[[route]]{after}")
}

async fn show(gateway: &Gateway, token: &str) -> (Reply, Link) {
    gateway.ask(&format!("/?access_token={token}"), "").await
}

async fn refused(gateway: &Gateway, token: &str, status: u16, reason: &str) {
    let (reply, _) = show(gateway, token).await;
    let body: Value = serde_json::from_str(reply.body_text()).unwrap_or_default();
    assert_eq!((reply.status, body["reason"].as_str()), (status, Some(reason)), "{}\n{}", reply.head, gateway.log());
}

/// Waits until the token of this key is answered so.
async fn becomes(gateway: &Gateway, key: &Signer, status: u16) {
    let start = now();
    while show(gateway, &key.token(MINUTE)).await.0.status != status {
        assert!(now().saturating_sub(start) < common::PATIENCE, "never {status}\n{}", gateway.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for this line in the log.
async fn says(gateway: &Gateway, message: &str) {
    gateway.logged(message, |line| field(line, "message").is_some_and(|text| text == message)).await;
}

fn reloads(gateway: &Gateway) -> usize {
    gateway.log_lines().iter().filter(|line| field(line, "message").is_some_and(|text| text == "reloaded")).count()
}

async fn admitted(gateway: &Gateway, token: &str) -> Link {
    let (reply, link) = show(gateway, token).await;
    assert_eq!(reply.status, 101, "{}\n{}\n{}", reply.head, reply.body_text(), gateway.log());
    link
}

#[tokio::test]
async fn a_token_of_a_key_that_is_not_known_yet_is_waited_for_and_all_wait_for_one_fetch() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&old]).await;
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&of(&backend, &issuer, "", "")).await;
    admitted(&gateway, &old.token(MINUTE)).await;
    assert_eq!(issuer.fetches(), 1, "before a port was opened");

    issuer.publish(&[&old, &new]);
    issuer.set(|state| state.delay = Duration::from_millis(300));
    let token = new.token(MINUTE);
    let streams = futures_util::future::join_all((0..20).map(|_| admitted(&gateway, &token))).await;
    assert_eq!((streams.len(), issuer.fetches()), (20, 2), "one fetch for all of them");
    admitted(&gateway, &old.token(MINUTE)).await;
}

#[tokio::test]
async fn every_way_of_showing_a_token_waits_for_its_key_in_the_same_way() {
    let keys: Vec<Signer> = (0..5).map(|number| Signer::new(&number.to_string())).collect();
    let issuer = Issuer::start(&[&keys[0]]).await;
    let backend = Backend::echo().await;
    let routes = format!(
        "carriers = [\"query:access_token\", \"ticket:ticket\"]\n\n\
         [[route]]\nname = \"band\"\npath = \"/band\"\nupstream = \"{0}\"\nrenew_in_band = \"consume\"\n\n\
         [[route]]\nname = \"first\"\npath = \"/first\"\nupstream = \"{0}\"\ncarriers = [\"message\"]\n",
        backend.url()
    );
    let config = of(&backend, &issuer, "jwks_cooldown = \"1ms\"", &routes);
    let gateway = Gateway::start(&config).await;
    issuer.set(|state| state.delay = Duration::from_millis(200));
    let post = |path: &str, more: String| {
        let port = gateway.address().port();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n{more}\r\n");
        let gateway = &gateway;
        async move { gateway.connect().await.request(&head).await }
    };

    let (reply, mut client) = show(&gateway, &keys[0].token(Duration::from_secs(3))).await;
    let handle = reply.header("portcullis-stream").expect("a handle").to_owned();
    issuer.publish(&[&keys[0], &keys[1]]);
    let token = keys[1].token(MINUTE);
    let renewed =
        post("/.portcullis/renew", format!("Portcullis-Stream: {handle}\r\nAuthorization: Bearer {token}\r\n")).await;
    assert_eq!(renewed.status, 200, "{}\n{}", renewed.head, renewed.body_text());

    issuer.publish(&[&keys[0], &keys[2]]);
    let ticket = post("/.portcullis/ticket", format!("Authorization: Bearer {}\r\n", keys[2].token(MINUTE))).await;
    assert_eq!(ticket.status, 200, "{}\n{}", ticket.head, ticket.body_text());

    issuer.publish(&[&keys[0], &keys[3]]);
    let (_, mut band) = gateway.ask(&format!("/band?access_token={}", keys[0].token(MINUTE)), "").await;
    band.text(&keys[3].token(MINUTE)).await;
    assert!(band.frame().await.text().contains("\"renewed\""), "in band");

    issuer.publish(&[&keys[0], &keys[4]]);
    let (reply, mut first) = gateway.ask("/first", "").await;
    assert_eq!(reply.status, 101);
    first.text(&keys[4].token(MINUTE)).await;
    first.text("let in").await;
    assert_eq!(first.frame().await.text(), "let in");

    tokio::time::sleep(Duration::from_secs(2)).await;
    client.text("still here").await;
    assert_eq!(client.frame().await.text(), "still here", "past the old token's expiry");
    assert_eq!(issuer.fetches(), 5);
}

#[tokio::test]
async fn a_ticket_lives_its_whole_time_however_long_its_key_was_waited_for() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&old]).await;
    let backend = Backend::echo().await;
    let route = "carriers = [\"ticket:ticket\"]\nticket_lifetime = \"2s\"";
    let gateway = Gateway::start(&of(&backend, &issuer, "", route)).await;
    issuer.publish(&[&old, &new]);
    issuer.set(|state| state.delay = Duration::from_millis(2100));
    let (port, token) = (gateway.address().port(), new.token(MINUTE));
    let head = format!(
        "POST /.portcullis/ticket HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    let reply = gateway.connect().await.request(&head).await;
    let body: Value = serde_json::from_str(reply.body_text()).expect("JSON");
    assert_eq!((reply.status, &body["expires_in"]), (200, &json!(2)), "{body}");
    let ticket = body["ticket"].as_str().expect("a ticket");
    let (reply, _) = gateway.ask(&format!("/?ticket={ticket}"), "").await;
    assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
}

#[tokio::test]
async fn two_hundred_random_kids_cause_at_most_five_fetches_and_nobody_waits_for_them() {
    let key = Signer::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let mut backend = Backend::start().await;
    let gateway = Gateway::start(&of(&backend, &issuer, "", "")).await;
    let before = now();
    refused(&gateway, &key.sign("random", &claims(MINUTE)), 401, "token_invalid").await;
    for number in 0..200 {
        // Whether there is such a key is not known: whoever has a good token is not told that it is bad.
        let (reply, _) = show(&gateway, &key.sign(&format!("random-{number}"), &claims(MINUTE))).await;
        assert!(matches!(reply.status, 401 | 503), "{}", reply.head);
    }
    let (took, fetches) = (now().saturating_sub(before), issuer.fetches());
    assert!(fetches <= 5, "{fetches} fetches in {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(backend.dialled(), 0, "no service was asked");
    let (_client, _service) = gateway.open_with(&key.token(MINUTE), &mut backend).await;
}

#[tokio::test]
async fn what_a_token_says_of_where_its_key_is_leads_nowhere() {
    let key = Signer::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let elsewhere = Issuer::start(&[&key]).await;
    let backend = Backend::start().await;
    let gateway = Gateway::start(&of(&backend, &issuer, "", "")).await;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for (name, value) in [
        ("jku", json!(elsewhere.url())),
        ("x5u", json!(elsewhere.url())),
        ("jwk", key.jwk()),
        ("kid", json!(elsewhere.url())),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "unknown"});
        header[name] = value;
        let mut said = claims(MINUTE);
        said["iss"] = json!(common::ISSUER);
        let token = format!("{}.{}.{}", part(header), part(said), URL_SAFE_NO_PAD.encode([1; 64]));
        refused(&gateway, &token, 401, "token_invalid").await;
    }
    let mut said = claims(MINUTE);
    said["iss"] = json!(elsewhere.origin.url(""));
    refused(&gateway, &key.sign("2", &said), 401, "token_invalid").await;
    assert_eq!(elsewhere.fetches(), 0);
}

#[tokio::test]
async fn while_the_issuer_fails_the_last_good_keys_go_on_and_then_nobody_is_let_in_until_it_is_back() {
    let key = Signer::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let backend = Backend::echo().await;
    let timing =
        "jwks_min_refresh = \"100ms\"\njwks_max_refresh = \"200ms\"\njwks_stale = \"3s\"\njwks_cooldown = \"100ms\"";
    let gateway = Gateway::start(&of(&backend, &issuer, timing, "")).await;
    let admin = Admin::of(&gateway).await;
    let mut live = admitted(&gateway, &key.token(MINUTE)).await;
    assert_eq!(admin.read("/readyz").await, "ready\n");
    let shared = json!({"keys": [{"kty": "oct", "alg": "HS256", "kid": "1", "k": URL_SAFE_NO_PAD.encode([7; 32])}]});
    for poison in ["", "{", "[]", "{\"keys\":[]}", "{\"keys\":[{\"kty\":\"RSA\"}]}", &shared.to_string()] {
        issuer.set(|state| state.instead = Some(poison.to_owned()));
        let count = issuer.fetches();
        issuer.fetched(count + 1).await;
        admitted(&gateway, &key.token(MINUTE)).await;
        issuer.set(|state| state.instead = None);
        let count = issuer.fetches();
        issuer.fetched(count + 2).await;
    }
    says(&gateway, "the issuer's keys cannot be fetched: the old ones go on").await;
    let loops = json!({"alg": "HS256", "typ": "JWT", "kid": "1"});
    refused(&gateway, &common::sign(&loops, &claims(MINUTE), &[7; 32]), 401, "token_invalid").await;

    issuer.set(|state| state.instead = Some(String::new()));
    becomes(&gateway, &key, 503).await;
    refused(&gateway, &key.token(MINUTE), 503, "issuer_unavailable").await;
    let ready = admin.raw("GET", "/readyz", "Host: localhost\r\n", "").await;
    assert_eq!((ready.status, ready.body_text()), (503, "no issuer has a key\n"));
    live.text("still here").await;
    assert_eq!(live.frame().await.text(), "still here", "who is in stays");

    issuer.set(|state| state.instead = None);
    becomes(&gateway, &key, 101).await;
    assert_eq!(admin.read("/readyz").await, "ready\n");
}

#[tokio::test]
async fn a_key_that_was_taken_back_ends_its_streams_where_the_config_says_so() {
    for (choice, closes) in [("keep", false), ("close", true)] {
        let (old, new) = (Signer::new("1"), Signer::new("2"));
        let issuer = Issuer::start(&[&old, &new]).await;
        let backend = Backend::echo().await;
        let keys = format!("jwks_min_refresh = \"100ms\"\njwks_max_refresh = \"200ms\"\non_key_removed = \"{choice}\"");
        let gateway = Gateway::start(&of(&backend, &issuer, &keys, "")).await;
        let mut resting = admitted(&gateway, &old.token(MINUTE)).await;
        let mut other = admitted(&gateway, &new.token(MINUTE)).await;
        let (reply, mut renewed) = show(&gateway, &old.token(MINUTE)).await;
        let handle = reply.header("portcullis-stream").expect("a handle");
        let (port, token) = (gateway.address().port(), new.token(MINUTE));
        let head = format!(
            "POST /.portcullis/renew HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\
             Portcullis-Stream: {handle}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        assert_eq!(gateway.connect().await.request(&head).await.status, 200);

        issuer.publish(&[&new]);
        says(&gateway, "the issuer's keys have changed").await;
        refused(&gateway, &old.token(MINUTE), 401, "token_invalid").await;
        for link in [&mut other, &mut renewed] {
            link.text("here").await;
            assert_eq!(link.frame().await.text(), "here", "a stream is judged by its present token");
        }
        if closes {
            assert_eq!(resting.frame().await.close_code(), (3000, "key removed"));
        } else {
            resting.text("here").await;
            assert_eq!(resting.frame().await.text(), "here");
        }
    }
}

#[tokio::test]
async fn the_gateway_waits_for_the_keys_before_it_opens_a_port_unless_it_may_start_without() {
    let key = Signer::new("1");
    let issuer = Issuer::start(&[]).await;
    let backend = Backend::echo().await;
    let (folder, _authority) = common::folder(&of(&backend, &issuer, "", ""));
    let output = Gateway::command(folder.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("cannot be had from") && said.contains("start_without_keys"),
        "{said}"
    );

    let keys = "start_without_keys = true\njwks_cooldown = \"100ms\"";
    let gateway = Gateway::start(&of(&backend, &issuer, keys, "")).await;
    let admin = Admin::of(&gateway).await;
    assert_eq!(admin.raw("GET", "/readyz", "Host: localhost\r\n", "").await.status, 503);
    refused(&gateway, &key.token(MINUTE), 503, "issuer_unavailable").await;
    issuer.publish(&[&key]);
    tokio::time::sleep(Duration::from_millis(150)).await;
    admitted(&gateway, &key.token(MINUTE)).await;
    assert_eq!(admin.read("/readyz").await, "ready\n");
}

#[tokio::test]
async fn the_set_is_fetched_as_often_as_the_issuer_says_within_the_bounds_of_the_config() {
    let key = Signer::new("1");
    for (headers, expected) in
        [("Cache-Control: max-age=1000\r\n", 1..=1), ("Cache-Control: no-store\r\n", 6..=14), ("", 1..=1)]
    {
        let issuer = Issuer::start(&[&key]).await;
        issuer.set(|state| (state.headers, state.etag) = (headers.to_owned(), true));
        let backend = Backend::echo().await;
        let keys = "jwks_min_refresh = \"200ms\"\njwks_max_refresh = \"10m\"";
        let gateway = Gateway::start(&of(&backend, &issuer, keys, "")).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let count = issuer.fetches();
        assert!(expected.contains(&count), "{headers:?}: {count} fetches in 2 s, wanted {expected:?}");
        let conditional =
            issuer.origin.asked().iter().filter(|head| head.to_ascii_lowercase().contains("if-none-match")).count();
        assert_eq!(conditional, count - 1, "whoever has a set asks only for another one");
        admitted(&gateway, &key.token(MINUTE)).await;
    }
}

#[tokio::test]
async fn a_file_is_looked_at_by_itself_and_a_bad_one_does_not_take_the_place_of_a_good_one() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let backend = Backend::echo().await;
    let config = with_keys(&config(&backend.url(), ""), "jwks_file = \"jwks.json\"");
    let set = |keys: &[&Signer]| json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string();
    let first = set(&[&old]);
    let gateway = Gateway::start_with(&config, |command| {
        let config = std::path::PathBuf::from(command.get_args().last().expect("its config"));
        std::fs::write(config.with_file_name("jwks.json"), &first).expect("a file");
    })
    .await;
    admitted(&gateway, &old.token(MINUTE)).await;
    std::fs::write(gateway.path("jwks.json"), "{").expect("a file");
    says(&gateway, "the issuer's keys cannot be fetched: the old ones go on").await;
    admitted(&gateway, &old.token(MINUTE)).await;
    // As Kubernetes does it: another file takes the place of this one.
    std::fs::write(gateway.path("next.json"), set(&[&new])).expect("a file");
    std::fs::rename(gateway.path("next.json"), gateway.path("jwks.json")).expect("renamed");
    becomes(&gateway, &new, 101).await;
    refused(&gateway, &old.token(MINUTE), 401, "token_invalid").await;
}

#[tokio::test]
async fn a_reload_keeps_the_keys_that_are_known_and_fetches_only_what_is_new() {
    let (one, other) = (Signer::new("1"), Signer::new("2"));
    let (issuer, second) = (Issuer::start(&[&one]).await, Issuer::start(&[&other]).await);
    let backend = Backend::echo().await;
    let text = of(&backend, &issuer, "on_key_removed = \"close\"", "");
    let gateway = Gateway::start(&text).await;
    let mut live = admitted(&gateway, &one.token(MINUTE)).await;
    reload(&gateway, &text).await;
    admitted(&gateway, &one.token(MINUTE)).await;
    assert_eq!(issuer.fetches(), 1, "what is known is not asked for again");
    live.text("here").await;
    assert_eq!(live.frame().await.text(), "here");

    // The issuer moves, and its old key is not there any more.
    reload(&gateway, &text.replace(&issuer.url(), &second.url())).await;
    assert_eq!(second.fetches(), 1);
    admitted(&gateway, &other.token(MINUTE)).await;
    refused(&gateway, &one.token(MINUTE), 401, "token_invalid").await;
    assert_eq!(live.frame().await.close_code(), (3000, "key removed"));

    // A new one that cannot be had leaves everything as it is.
    let gone = text.replace(&issuer.url(), "http://127.0.0.1:9/certs");
    std::fs::write(gateway.path("config.toml"), gone).expect("a config");
    gateway.signal(rustix::process::Signal::HUP);
    says(&gateway, "reload refused: the old config goes on").await;
    admitted(&gateway, &other.token(MINUTE)).await;
}

/// Puts another config in force.
async fn reload(gateway: &Gateway, text: &str) {
    std::fs::write(gateway.path("config.toml"), text).expect("a config");
    let seen = reloads(gateway);
    gateway.signal(rustix::process::Signal::HUP);
    eventually("the reload", || reloads(gateway) > seen).await;
}

#[tokio::test]
async fn a_key_that_is_shown_again_counts_again_whatever_the_config_says_by_then() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&old, &new]).await;
    let backend = Backend::echo().await;
    let keys = "jwks_min_refresh = \"100ms\"\njwks_max_refresh = \"200ms\"\non_key_removed = \"close\"";
    let text = of(&backend, &issuer, keys, "");
    let gateway = Gateway::start(&text).await;
    let mut live = admitted(&gateway, &old.token(MINUTE)).await;
    issuer.publish(&[&new]);
    assert_eq!(live.frame().await.close_code(), (3000, "key removed"));
    reload(&gateway, &text.replace("\"close\"", "\"keep\"")).await;
    issuer.publish(&[&old, &new]);
    becomes(&gateway, &old, 101).await;
}

#[tokio::test]
async fn one_answer_without_a_key_ends_nobody() {
    let (one, other) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&one, &other]).await;
    let backend = Backend::echo().await;
    let keys = "jwks_min_refresh = \"400ms\"\njwks_max_refresh = \"500ms\"\non_key_removed = \"close\"";
    let gateway = Gateway::start(&of(&backend, &issuer, keys, "")).await;
    let mut live = admitted(&gateway, &other.token(MINUTE)).await;
    // A machine that is out of step answers once.
    issuer.publish(&[&one]);
    says(&gateway, "the issuer's keys have changed").await;
    issuer.publish(&[&one, &other]);
    issuer.fetched(issuer.fetches() + 3).await;
    live.text("here").await;
    assert_eq!(live.frame().await.text(), "here");
}

#[tokio::test]
async fn a_reload_ends_no_stream_whose_key_the_issuer_still_shows() {
    let (one, other) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&one, &other]).await;
    let backend = Backend::echo().await;
    let keys = "jwks_min_refresh = \"100ms\"\njwks_max_refresh = \"200ms\"\nstart_without_keys = true\non_key_removed = \"close\"";
    let text = of(&backend, &issuer, keys, "");
    let gateway = Gateway::start(&text).await;
    becomes(&gateway, &one, 101).await;
    let mut live = admitted(&gateway, &one.token(MINUTE)).await;
    let algorithms =
        |names: &str| text.replace("start_without_keys", &format!("algorithms = {names}\nstart_without_keys"));
    reload(&gateway, &algorithms("[\"ES256\"]")).await;
    live.text("here").await;
    assert_eq!(live.frame().await.text(), "here");
    issuer.set(|state| state.instead = Some(String::new()));
    reload(&gateway, &algorithms("[\"ES256\", \"RS256\"]")).await;
    live.text("there").await;
    assert_eq!(live.frame().await.text(), "there", "though nothing can be fetched now");
    issuer.publish(&[&other]);
    issuer.set(|state| state.instead = None);
    assert_eq!(live.frame().await.close_code(), (3000, "key removed"), "what is taken back later still ends it");
}

#[tokio::test]
async fn the_keys_of_an_issuer_that_is_well_are_never_too_old() {
    let key = Signer::new("1");
    let issuer = Issuer::start(&[&key]).await;
    issuer.set(|state| state.headers = "Cache-Control: max-age=1000\r\n".to_owned());
    let backend = Backend::echo().await;
    let keys = "jwks_stale = \"1s\"\njwks_min_refresh = \"100ms\"";
    let gateway = Gateway::start(&of(&backend, &issuer, keys, "")).await;
    let admin = Admin::of(&gateway).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(admin.read("/readyz").await, "ready\n");
    }
}

#[tokio::test]
async fn a_key_that_is_published_a_moment_late_counts_soon() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&old]).await;
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&of(&backend, &issuer, "jwks_cooldown = \"500ms\"", "")).await;
    refused(&gateway, &new.token(MINUTE), 401, "token_invalid").await;
    issuer.publish(&[&old, &new]);
    let start = now();
    becomes(&gateway, &new, 101).await;
    assert!(now().saturating_sub(start) < Duration::from_secs(5));
}

#[tokio::test]
async fn a_token_whose_key_cannot_be_looked_for_is_not_told_to_be_bad() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::start(&[&old]).await;
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&of(&backend, &issuer, "jwks_cooldown = \"1h\"", "")).await;
    refused(&gateway, &old.sign("random", &claims(MINUTE)), 401, "token_invalid").await;
    issuer.publish(&[&old, &new]);
    refused(&gateway, &new.token(MINUTE), 503, "issuer_unavailable").await;
    let unnamed = json!({"alg": "ES256"});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let forged = format!("{}.{}.{}", part(&unnamed), part(&claims(MINUTE)), URL_SAFE_NO_PAD.encode([1; 64]));
    refused(&gateway, &forged, 401, "token_invalid").await;
}

#[tokio::test]
async fn one_slow_issuer_does_not_hold_up_another_ones_key() {
    let (a, b, new) = (Signer::new("1"), Signer::new("2"), Signer::new("3"));
    let (first, second) = (Issuer::start(&[&a]).await, Issuer::start(&[&b]).await);
    let backend = Backend::echo().await;
    let text = of(&backend, &first, "", "");
    let (head, tail) = text.split_once("\n[[route]]").expect("a route");
    let text = format!("{head}\n[[issuer]]\nname = \"zz\"\njwks_url = \"{}\"\n[[route]]{tail}", second.url());
    // Without `iss` a token may be of either.
    let text: String =
        text.lines().filter(|line| !line.starts_with("iss ")).map(|line| line.to_owned() + "\n").collect();
    let gateway = Gateway::start(&text).await;
    second.set(|state| state.delay = Duration::from_secs(30));
    first.publish(&[&a, &new]);
    let start = now();
    admitted(&gateway, &new.token(MINUTE)).await;
    assert!(now().saturating_sub(start) < Duration::from_secs(3));
}

#[tokio::test]
async fn how_long_old_keys_count_is_changed_by_a_reload_also_while_the_issuer_is_away() {
    let key = Signer::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let backend = Backend::echo().await;
    let keys = "jwks_stale = \"2s\"\njwks_min_refresh = \"200ms\"\njwks_max_refresh = \"300ms\"";
    let text = of(&backend, &issuer, keys, "");
    let gateway = Gateway::start(&text).await;
    issuer.set(|state| state.instead = Some("{".to_owned()));
    reload(&gateway, &text.replace("\"2s\"", "\"1h\"")).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    admitted(&gateway, &key.token(MINUTE)).await;
    reload(&gateway, &text).await;
    refused(&gateway, &key.token(MINUTE), 503, "issuer_unavailable").await;
}

#[tokio::test]
async fn a_token_that_names_no_key_finds_the_next_one_too() {
    let (old, new) = (Signer::new("1"), Signer::new("1"));
    let nameless = |signer: &Signer| {
        let mut jwk = signer.jwk();
        jwk.as_object_mut().expect("an object").remove("kid");
        json!({ "keys": [jwk] }).to_string()
    };
    let issuer = Issuer::start(&[]).await;
    issuer.set(|state| state.instead = Some(nameless(&old)));
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&of(&backend, &issuer, "", "")).await;
    admitted(&gateway, &old.token(MINUTE)).await;
    issuer.set(|state| state.instead = Some(nameless(&new)));
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(&claims(MINUTE)));
    let signature = new.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    admitted(&gateway, &format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))).await;
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn an_operator_need_not_wait_for_the_keys_of_a_reload() {
    let key = Signer::new("1");
    let (issuer, slow) = (Issuer::start(&[&key]).await, Issuer::start(&[&key]).await);
    slow.set(|state| state.delay = Duration::from_secs(60));
    let backend = Backend::echo().await;
    let text = of(&backend, &issuer, "jwks_timeout = \"30s\"", "");
    let mut gateway = Gateway::start(&text).await;
    let admin = Admin::of(&gateway).await;
    std::fs::write(gateway.path("config.toml"), text.replace(&issuer.url(), &slow.url())).expect("a config");
    gateway.signal(rustix::process::Signal::HUP);
    slow.fetched(1).await;
    assert_eq!(admin.ask("POST", "/drain", Some(json!({}))).await.0, 202);
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn a_file_that_has_changed_counts_with_the_reload() {
    let (old, new) = (Signer::new("1"), Signer::new("2"));
    let backend = Backend::echo().await;
    let config = with_keys(&config(&backend.url(), ""), "jwks_file = \"jwks.json\"\non_key_removed = \"close\"");
    let set = |key: &Signer| json!({"keys": [key.jwk()]}).to_string();
    let first = set(&old);
    let gateway = Gateway::start_with(&config, |command| {
        let config = std::path::PathBuf::from(command.get_args().last().expect("its config"));
        std::fs::write(config.with_file_name("jwks.json"), &first).expect("a file");
    })
    .await;
    let mut live = admitted(&gateway, &old.token(MINUTE)).await;
    // It has been looked at, and will not be for five seconds.
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::write(gateway.path("jwks.json"), set(&new)).expect("a file");
    let start = now();
    reload(&gateway, &config).await;
    becomes(&gateway, &new, 101).await;
    refused(&gateway, &old.token(MINUTE), 401, "token_invalid").await;
    assert_eq!(live.frame().await.close_code(), (3000, "key removed"));
    assert!(now().saturating_sub(start) < Duration::from_secs(3));
}
