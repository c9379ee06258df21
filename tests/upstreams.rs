//! Services in several places: who gets a stream, what becomes of a place that is gone, silent or not well, and what is
//! told of it. Every place is a real socket.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use common::{
    ADMIN, Admin, Backend, Gateway, Link, PATIENCE, Reply, Signal, claims, config, echo, eventually, instant, mint,
    token,
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const MINUTE: Duration = Duration::from_secs(60);
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A place that echoes and says its name in the `101`; `/health` is answered with a status that a test sets, 0 = never.
struct Place {
    backend: Backend,
    health: Arc<AtomicU16>,
}

impl Place {
    async fn start(name: &'static str) -> Self {
        Self::at(ANYWHERE, name).await
    }

    async fn at(address: SocketAddr, name: &'static str) -> Self {
        let health = Arc::new(AtomicU16::new(204));
        let status = health.clone();
        let backend = Backend::serve_at(address, move |asked| {
            let status = status.load(Ordering::SeqCst);
            async move {
                if asked.target() != "/health" && asked.header("upgrade").is_none() {
                    asked.answer(format!("HTTP/1.1 200 OK\r\nX-Place: {name}\r\nContent-Length: 0\r\n\r\n")).await;
                    return;
                }
                if asked.target() != "/health" {
                    return echo(asked.agree(&format!("X-Place: {name}\r\n")).await).await;
                }
                if status == 0 {
                    return std::future::pending().await;
                }
                asked.answer(format!("HTTP/1.1 {status} As it is\r\nContent-Length: 0\r\n\r\n")).await;
            }
        });
        Self { backend: backend.await, health }
    }

    fn url(&self) -> String {
        self.backend.url()
    }

    fn is(&self, status: u16) {
        self.health.store(status, Ordering::SeqCst);
    }

    /// Stops listening; streams that are there go on. Its address, for one that comes back.
    fn stop(self) -> SocketAddr {
        self.backend.address()
    }
}

/// An address where nobody listens.
async fn nowhere() -> SocketAddr {
    TcpListener::bind(ANYWHERE).await.expect("a port").local_addr().expect("its address")
}

/// A config with the service `chat` at these URLs; `more`: further lines of it.
fn text(urls: &[String], route: &str, more: &str) -> String {
    config("chat", &format!("{route}\n{ADMIN}[[upstream]]\nname = \"chat\"\nendpoints = {urls:?}\n{more}\n"))
}

async fn start(urls: &[String], route: &str, more: &str) -> (Gateway, Admin) {
    let gateway = Gateway::start(&text(urls, route, more)).await;
    let admin = Admin::of(&gateway).await;
    (gateway, admin)
}

async fn ask(gateway: &Gateway, token: &str, more: &str) -> (Reply, Link) {
    gateway.ask(&format!("/?access_token={token}"), more).await
}

/// Opens a stream, and says where.
async fn open(gateway: &Gateway, token: &str) -> (String, Link) {
    let (reply, link) = ask(gateway, token, "").await;
    assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
    (reply.header("x-place").expect("a place").to_owned(), link)
}

async fn alive(link: &mut Link) {
    link.text("still there?").await;
    assert_eq!(link.frame().await.text(), "still there?");
}

/// What the admin listener shows of each endpoint.
async fn endpoints(admin: &Admin) -> Vec<Value> {
    let (status, answer) = admin.ask("GET", "/upstreams", None).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["upstreams"][0]["upstream"], "chat", "{answer}");
    answer["upstreams"][0]["endpoints"].as_array().expect("endpoints").clone()
}

/// Waits until the endpoint at `url` is in this state.
async fn becomes(admin: &Admin, url: &str, state: &str) {
    let start = instant();
    loop {
        let endpoints = endpoints(admin).await;
        if endpoints.iter().any(|endpoint| endpoint["endpoint"] == url && endpoint["state"] == state) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{url} is not {state}: {endpoints:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn reload(gateway: &Gateway, admin: &Admin, config: &str) {
    let reloads = |gateway: &Gateway| gateway.log().matches("\"reloaded\"").count();
    let before = reloads(gateway);
    std::fs::write(gateway.path("config.toml"), config).expect("config.toml");
    gateway.signal(Signal::HUP);
    admin.metric_becomes("portcullis_config_last_reload_successful", 1.0).await;
    eventually("a reload", || reloads(gateway) > before).await;
}

#[tokio::test]
async fn a_stream_goes_where_the_fewest_are() {
    let (a, b, c) = (Place::start("a").await, Place::start("b").await, Place::start("c").await);
    let (gateway, admin) = start(&[a.url(), b.url(), c.url()], "", "").await;
    let mut links = BTreeMap::<String, Vec<Link>>::new();
    for _ in 0..9 {
        let (place, link) = open(&gateway, &token(MINUTE)).await;
        links.entry(place).or_default().push(link);
    }
    assert!(links.len() == 3 && links.values().all(|links| links.len() == 3));
    let streams = |url: &str, count: u32| {
        let series = format!("portcullis_upstream_endpoint_streams{{upstream=\"chat\",endpoint=\"{url}\"}}");
        let admin = &admin;
        async move { admin.metric_becomes(&series, count.into()).await }
    };
    streams(&b.url(), 3).await;
    links.remove("b");
    streams(&b.url(), 0).await;
    for _ in 0..3 {
        let (place, link) = open(&gateway, &token(MINUTE)).await;
        assert_eq!(place, "b");
        links.entry(place).or_default().push(link);
    }
    streams(&b.url(), 3).await;
}

#[tokio::test]
async fn a_place_that_is_gone_costs_no_client_its_stream_and_gets_some_again_when_it_is_back() {
    let (a, gone) = (Place::start("a").await, nowhere().await);
    let url = format!("ws://{gone}");
    let more = "fail_after = 2\nfail_pause = \"1s\"";
    let (gateway, admin) = start(&[url.clone(), a.url()], "host = \"upstream\"", more).await;
    let mut links = Vec::new();
    for _ in 0..8 {
        let (place, link) = open(&gateway, &token(MINUTE)).await;
        assert_eq!(place, "a");
        links.push(link);
    }
    let labels = format!("upstream=\"chat\",endpoint=\"{url}\"");
    assert!(admin.metric(&format!("portcullis_upstream_dials_total{{{labels},result=\"failed\"}}")).await >= 2.0);
    assert!(gateway.log().contains("an endpoint cannot be reached: it is paused"), "{}", gateway.log());
    let _back = Place::at(gone, "back").await;
    let start = instant();
    while open(&gateway, &token(MINUTE)).await.0 != "back" {
        assert!(start.elapsed() < PATIENCE, "nobody is sent there");
    }
    becomes(&admin, &url, "up").await;
    assert!(admin.metric(&format!("portcullis_upstream_dials_total{{{labels},result=\"ok\"}}")).await >= 1.0);
}

#[tokio::test]
async fn the_request_is_made_for_the_place_that_takes_it_and_sent_once() {
    let (mut b, gone) = (Backend::start().await, nowhere().await);
    let urls = [format!("ws://{gone}"), b.url()];
    let (gateway, _admin) = start(&urls, "host = \"upstream\"", "").await;
    for _ in 0..2 {
        let token = token(MINUTE);
        let ((reply, _link), _served) = tokio::join!(ask(&gateway, &token, ""), async {
            let asked = b.asked().await;
            assert_eq!(asked.header("host"), Some(b.address().to_string().as_str()));
            asked.agree("").await
        });
        assert_eq!(reply.status, 101);
    }
    assert_eq!(b.dialled(), 2);
}

#[tokio::test]
async fn a_place_that_swallows_packets_holds_a_client_up_for_connect_timeout_only() {
    let a = Place::start("a").await;
    // Its queue is full, and the kernel drops what comes.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(ANYWHERE).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queue.push(stream);
    }
    let more = "fail_after = 1\nfail_pause = \"1m\"\nconnect_timeout = \"400ms\"";
    let (gateway, admin) = start(&[format!("ws://{address}"), a.url()], "", more).await;
    let begin = instant();
    let (place, _first) = open(&gateway, &token(MINUTE)).await;
    let (other, _second) = open(&gateway, &token(MINUTE)).await;
    assert_eq!((&*place, &*other), ("a", "a"));
    assert!(begin.elapsed() >= Duration::from_millis(400), "it was not tried");
    becomes(&admin, &format!("ws://{address}"), "paused").await;
    let begin = instant();
    open(&gateway, &token(MINUTE)).await;
    assert!(begin.elapsed() < Duration::from_millis(400), "one that is paused is not tried");
}

#[tokio::test]
async fn a_place_that_is_silent_is_a_504_and_nobody_else_gets_the_request() {
    let (mut silent, other) = (Backend::start().await, Backend::start().await);
    let (gateway, admin) = start(&[silent.url(), other.url()], "", "response_timeout = \"300ms\"").await;
    let token = token(MINUTE);
    let ((reply, _), _held) = tokio::join!(ask(&gateway, &token, ""), silent.asked());
    assert!(reply.status == 504 && reply.body_text().contains("upstream_timeout"), "{}", reply.body_text());
    assert_eq!(other.dialled(), 0);
    let series = format!("portcullis_upstream_endpoint_streams{{upstream=\"chat\",endpoint=\"{}\"}}", silent.url());
    admin.metric_becomes(&series, 0.0).await;
}

#[tokio::test]
async fn the_same_claim_finds_the_same_place_and_one_that_goes_moves_only_its_own() {
    let (a, b, c) = (Place::start("a").await, Place::start("b").await, Place::start("c").await);
    let more = "balance = \"claim:sub\"\nfail_after = 1\nfail_pause = \"200ms\"";
    let (gateway, _admin) = start(&[a.url(), b.url(), c.url()], "", more).await;
    let mut links = Vec::new();
    let mut places = async |subjects: std::ops::Range<usize>| {
        let mut places = Vec::new();
        for subject in subjects {
            let mut claims = claims(MINUTE);
            claims["sub"] = format!("subject {subject}").into();
            let (place, link) = open(&gateway, &mint(&claims)).await;
            places.push(place);
            links.push(link);
        }
        places
    };
    let before = places(0..24).await;
    assert_eq!(places(0..24).await, before);
    for name in ["a", "b", "c"] {
        assert!(before.iter().any(|place| place == name), "{before:?}");
    }
    let address = b.stop();
    let meanwhile = places(0..24).await;
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert!(meanwhile != "b" && (before == "b" || before == meanwhile), "{before} {meanwhile}");
    }
    let _b = Place::at(address, "b").await;
    let start = instant();
    while places(0..24).await != before {
        assert!(start.elapsed() < PATIENCE, "they do not come back");
    }
}

#[tokio::test]
async fn the_same_address_as_a_trusted_proxy_shows_it_finds_the_same_place() {
    let (a, b) = (Place::start("a").await, Place::start("b").await);
    let more = "balance = \"address\"\n[server]\ntrusted_proxies = [\"127.0.0.1\"]";
    let (gateway, _admin) = start(&[a.url(), b.url()], "", more).await;
    let mut places = std::collections::BTreeSet::new();
    for client in 1..=16 {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let line = format!("X-Forwarded-For: 198.51.100.{client}\r\n");
            let (reply, _link) = ask(&gateway, &token(MINUTE), &line).await;
            seen.insert(reply.header("x-place").expect("a place").to_owned());
        }
        assert_eq!(seen.len(), 1, "{client}");
        places.extend(seen);
    }
    assert_eq!(places.len(), 2);
}

#[tokio::test]
async fn plain_requests_go_where_the_stream_of_the_same_user_goes_and_past_places_that_are_gone() {
    let (a, b, gone) = (Place::start("a").await, Place::start("b").await, nowhere().await);
    let urls = [a.url(), format!("ws://{gone}"), b.url()];
    let (gateway, _admin) = start(&urls, "http = \"require\"", "balance = \"claim:sub\"\nmax_streams = 20").await;
    let mut places = std::collections::BTreeSet::new();
    let mut links = Vec::new();
    for subject in 0..12 {
        let mut claims = claims(MINUTE);
        claims["sub"] = format!("subject {subject}").into();
        let token = mint(&claims);
        let request =
            format!("GET /poll?access_token={token} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", gateway.address().port());
        let poll = async || gateway.connect().await.request(&request).await;
        let first = poll().await;
        assert_eq!(first.status, 200, "{}", first.body_text());
        let (place, link) = open(&gateway, &token).await;
        links.push(link);
        for reply in [first, poll().await] {
            assert_eq!(reply.header("x-place"), Some(&*place), "{subject}");
        }
        places.insert(place);
    }
    assert_eq!(places.len(), 2);
}

#[tokio::test]
async fn a_place_takes_no_more_streams_than_it_may() {
    let (a, b) = (Place::start("a").await, Place::start("b").await);
    let (gateway, _admin) = start(&[a.url(), b.url()], "", "max_streams = 1").await;
    let (first, one) = open(&gateway, &token(MINUTE)).await;
    let (second, mut two) = open(&gateway, &token(MINUTE)).await;
    assert_ne!(first, second);
    let (reply, _) = ask(&gateway, &token(MINUTE), "").await;
    assert!(reply.status == 429 && reply.body_text().contains("rate_limited"), "{}", reply.body_text());
    assert!(reply.header("retry-after").is_some());
    gateway.logged("why", |line| common::field(line, "cause") == Some(&"upstream_full".into())).await;
    drop(one);
    let start = instant();
    loop {
        let (reply, _link) = ask(&gateway, &token(MINUTE), "").await;
        if reply.status == 101 {
            assert_eq!(reply.header("x-place"), Some(&*first));
            break;
        }
        assert!(start.elapsed() < PATIENCE, "its place is not free again");
    }
    alive(&mut two).await;
}

#[tokio::test]
async fn a_stream_whose_token_is_in_its_first_message_counts_too() {
    let a = Place::start("a").await;
    let (gateway, admin) = start(&[a.url()], "carriers = [\"message\"]", "max_streams = 1").await;
    let (reply, mut link) = gateway.ask("/", "").await;
    assert_eq!(reply.status, 101);
    link.text(&token(MINUTE)).await;
    alive(&mut link).await;
    let series = format!("portcullis_upstream_endpoint_streams{{upstream=\"chat\",endpoint=\"{}\"}}", a.url());
    admin.metric_becomes(&series, 1.0).await;
    let (_, mut other) = gateway.ask("/", "").await;
    other.text(&token(MINUTE)).await;
    assert_eq!(other.frame().await.close_code(), (1013, "rate_limited"));
    drop(link);
    admin.metric_becomes(&series, 0.0).await;
}

#[tokio::test]
async fn checks_find_the_place_that_is_not_well_and_readiness_knows() {
    let (a, b) = (Place::start("a").await, Place::start("b").await);
    a.is(500);
    let more = "health_path = \"/health\"\nhealth_interval = \"50ms\"\nhealth_timeout = \"200ms\"\nhealth_fall = 2";
    let (gateway, admin) = start(&[a.url(), b.url()], "", more).await;
    becomes(&admin, &a.url(), "down").await;
    becomes(&admin, &b.url(), "up").await;
    let up = format!("portcullis_upstream_endpoint_up{{upstream=\"chat\",endpoint=\"{}\"}}", a.url());
    admin.metric_becomes(&up, 0.0).await;
    for _ in 0..4 {
        assert_eq!(open(&gateway, &token(MINUTE)).await.0, "b");
    }
    let ready = async || {
        let reply = admin.raw("GET", "/readyz", "Host: localhost\r\n", "").await;
        (reply.status, reply.body_text().to_owned())
    };
    assert_eq!(ready().await, (200, "ready\n".to_owned()));
    // It listens, and says nothing.
    b.is(0);
    becomes(&admin, &b.url(), "down").await;
    assert_eq!(ready().await, (503, "every upstream is down\n".to_owned()));
    open(&gateway, &token(MINUTE)).await;
    a.is(302);
    becomes(&admin, &a.url(), "up").await;
    assert_eq!(ready().await.0, 200);
    assert_eq!(open(&gateway, &token(MINUTE)).await.0, "a");
    let told = gateway.log();
    assert!(told.contains("/health was answered with 500") && told.contains("an endpoint is well again"), "{told}");
}

#[tokio::test]
async fn a_gateway_that_serves_another_route_is_ready_and_says_which_upstream_is_down() {
    let (b, gone) = (Backend::echo().await, nowhere().await);
    let route = format!("[[route]]\nname = \"own\"\npath = \"/own\"\nupstream = \"{}\"", b.url());
    let more = "health = \"connect\"\nhealth_interval = \"50ms\"";
    let (gateway, admin) = start(&[format!("ws://{gone}")], &route, more).await;
    becomes(&admin, &format!("ws://{gone}"), "down").await;
    assert_eq!(admin.read("/readyz").await, "ready\nupstream chat is down\n");
    let (reply, _) = ask(&gateway, &token(MINUTE), "").await;
    assert!(reply.status == 502 && reply.body_text().contains("upstream_refused"), "{}", reply.body_text());
    let back = Place::at(gone, "back").await;
    becomes(&admin, &back.url(), "up").await;
    assert_eq!(admin.read("/readyz").await, "ready\n");
    assert_eq!(open(&gateway, &token(MINUTE)).await.0, "back");
}

#[tokio::test]
async fn a_check_of_a_tls_endpoint_wants_tls() {
    let silent = Backend::start().await;
    let url = format!("wss://{}", silent.address());
    let more = "ca = \"ca.pem\"\nhealth = \"connect\"\nhealth_interval = \"50ms\"\nhealth_timeout = \"200ms\"";
    let (_gateway, admin) = start(std::slice::from_ref(&url), "", more).await;
    becomes(&admin, &url, "down").await;
    let error = endpoints(&admin).await[0]["error"].to_string();
    assert!(error.contains("the check took longer than 200ms"), "{error}");
}

#[tokio::test]
async fn a_reload_that_drops_a_place_leaves_its_streams_alone_and_keeps_what_is_known_of_the_others() {
    let (a, b, gone) = (Place::start("a").await, Place::start("b").await, nowhere().await);
    let gone = format!("ws://{gone}");
    let more = "fail_after = 1\nfail_pause = \"10m\"\nmax_streams = 2";
    let (gateway, admin) = start(&[a.url(), b.url(), gone.clone()], "", more).await;
    let (mut links, mut places) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (place, link) = open(&gateway, &token(MINUTE)).await;
        links.push(link);
        places.push(place);
    }
    becomes(&admin, &gone, "paused").await;
    reload(&gateway, &admin, &text(&[b.url(), gone.clone()], "", more)).await;
    let shown = endpoints(&admin).await;
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0]["endpoint"] == b.url() && shown[0]["streams"] == 2, "{shown:?}");
    assert!(shown[1]["endpoint"] == gone && shown[1]["state"] == "paused", "{shown:?}");
    for link in &mut links {
        alive(link).await;
    }
    assert_eq!(ask(&gateway, &token(MINUTE), "").await.0.status, 429, "streams from before count");
    let at = places.iter().position(|place| place == "b").expect("one on b");
    drop(links.remove(at));
    let start = instant();
    while ask(&gateway, &token(MINUTE), "").await.0.status != 101 {
        assert!(start.elapsed() < PATIENCE, "a stream from before does not give its place back");
    }
}

#[tokio::test]
async fn a_check_ends_with_the_config_that_asked_for_it() {
    let a = Place::start("a").await;
    let checked = "health_path = \"/health\"\nhealth_interval = \"20ms\"";
    let (gateway, admin) = start(&[a.url()], "", checked).await;
    a.is(500);
    becomes(&admin, &a.url(), "down").await;
    reload(&gateway, &admin, &text(&[a.url()], "", "")).await;
    becomes(&admin, &a.url(), "up").await;
    // One may be on its way.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let dialled = a.backend.dialled();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(a.backend.dialled(), dialled);
}

#[tokio::test]
async fn each_address_of_a_name_is_a_place_of_its_own() {
    let a = Place::start("a").await;
    let port = a.backend.address().port();
    let url = format!("ws://localhost:{port}");
    let (gateway, admin) = start(std::slice::from_ref(&url), "", "resolve_interval = \"100ms\"").await;
    becomes(&admin, &format!("{url} (127.0.0.1)"), "up").await;
    let (_, mut link) = open(&gateway, &token(MINUTE)).await;
    let shown = endpoints(&admin).await;
    assert!(shown.len() == 1 && shown[0]["streams"] == 1 && shown[0]["dials"] == 1, "{shown:?}");
    alive(&mut link).await;
}
