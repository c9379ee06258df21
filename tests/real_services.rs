//! Services that people run, each through its own client and behind the very config of its page in docs/recipes/: refused
//! without a token, used with one, closed when it expires, and alive beyond that when it is renewed.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::real::Program;
use common::recipe::Recipe;
use common::{Gateway, claims, field, folder, mint, now, token};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// How long a token lives that is to expire: enough for a busy machine to open two streams.
const SHORT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn graphql_ws_lives_on_with_a_renewed_token_and_ends_without() {
    let (mut service, url) = Program::node_service().await;
    let gateway = Recipe::of("graphql-ws").with("ws://127.0.0.1:4000", &url).start().await;
    let graphql = Use {
        library: "graphql",
        path: "/graphql",
        first: json!("someone"),
        life: None,
        refused: "4401 token_missing",
        expired: (4403, "token expired"),
    };
    graphql.holds(&gateway).await;
    assert_eq!(service.line().await, "opened /graphql -", "nothing but what is the service's");
}

#[tokio::test]
async fn mqtt_js_lives_on_with_a_renewed_token_and_ends_without() {
    let (mut service, url) = Program::node_service().await;
    let gateway = Recipe::of("mqtt").with("ws://127.0.0.1:9001", &url).start().await;
    let mqtt = Use {
        library: "mqtt",
        path: "/mqtt",
        first: json!("hello"),
        life: None,
        refused: "401",
        expired: (3000, "token expired"),
    };
    mqtt.holds(&gateway).await;
    assert!(service.line().await.starts_with("opened /mqtt "), "nothing but what is the service's");
}

#[tokio::test]
async fn phoenix_lives_on_with_a_renewed_token_and_ends_without() {
    let (mut service, address) = Program::standins().await;
    let gateway = Recipe::of("phoenix").with("127.0.0.1:4000", &address).start().await;
    let phoenix = Use {
        library: "phoenix",
        path: "/socket",
        first: json!("someone"),
        life: None,
        refused: "401",
        expired: (3000, "token expired"),
    };
    phoenix.holds(&gateway).await;
    assert_eq!(service.line().await, "opened /socket/websocket?vsn=2.0.0", "nothing but what is the service's");
}

#[tokio::test]
async fn signalr_negotiates_lives_on_with_a_renewed_token_and_ends_without() {
    let (mut service, address) = Program::standins().await;
    let gateway = Recipe::of("signalr").with("127.0.0.1:5000", &address).start().await;
    let signalr = Use {
        library: "signalr",
        path: "/hub",
        first: json!("someone"),
        life: None,
        refused: "401",
        expired: (3000, "token expired"),
    };
    signalr.holds(&gateway).await;
    assert_eq!(service.line().await, "negotiated ?negotiateVersion=1", "nothing but what is the service's");
    let opened = service.line().await;
    assert!(opened.starts_with("opened /hub?id=") && !opened.contains('&'), "{opened}");
}

#[tokio::test]
async fn socketio_polls_and_upgrades_at_one_endpoint_lives_on_with_a_renewed_token_and_ends_without() {
    let (mut service, addresses) = Program::socketio().await;
    let recipe = Recipe::of("socketio").with("127.0.0.1:3001", &addresses[0]).with("127.0.0.1:3002", &addresses[1]);
    let gateway = recipe.start().await;
    let mut client = Program::service_client(&gateway.path("ca.pem")).await;
    let path = "/socket.io";
    let url = format!("https://localhost:{}", gateway.address().port());
    let open = |name: &str, token: Option<&str>| json!({"open": name, "library": "socketio", "url": url, "token": token, "handle": handle(name)});
    let refused = client.ask(&open("none", None)).await;
    assert!(refused["refused"].as_str().is_some_and(|how| how.contains("401")), "{refused}");
    refused_for_want_of_a_token(&gateway).await;

    // Both endpoints have users, and each user one endpoint, however often it comes.
    let mut places = Vec::new();
    for user in 0..16 {
        let mut claims = claims(MINUTE);
        claims["sub"] = json!(format!("user-{user}"));
        let mut came = Vec::new();
        for time in 0..2 {
            came.push(client.call(open(&format!("user-{user}-{time}"), Some(&mint(&claims)))).await);
        }
        assert_eq!(came[0], came[1]);
        assert_eq!(came[0][0], claims["sub"]);
        places.push(came[0][1].clone());
    }
    assert!(places.contains(&json!("first")) && places.contains(&json!("second")), "{places:?}");

    let short = claims(SHORT);
    for name in ["ends", "stays"] {
        client.call(open(name, Some(&mint(&short)))).await;
        assert_eq!(client.call(json!({"use": name, "text": "grüße"})).await, "grüße", "{name}");
    }
    renew(&gateway, path, &handle("stays"), &token(MINUTE)).await;
    ended_on_time(&client.call(json!({"end": "ends"})).await, (3000, "token expired"), &short);
    assert_eq!(client.call(json!({"use": "stays", "text": "still here"})).await, "still here");

    let mut methods = BTreeSet::new();
    while let Some(line) = service.said() {
        let (_, asked) = line.split_once(' ').expect("an endpoint");
        assert!(!asked.contains("access_token") && !asked.contains("portcullis"), "{asked}");
        methods.extend(asked.split(' ').next().map(str::to_owned));
    }
    assert_eq!(methods, ["GET", "POST", "upgrade"].map(str::to_owned).into(), "it polls before it upgrades");
}

#[tokio::test]
async fn jupyter_runs_a_cell_lives_on_with_a_renewed_token_and_ends_without() {
    let secret = "what only Jupyter and the gateway know".replace(' ', "-");
    let (_server, address) = Program::jupyter(&secret).await;
    let credential = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&credential, format!("token {secret}")).expect("a file");
    let path = credential.path().to_str().expect("a path");
    let recipe = Recipe::of("jupyter").with("127.0.0.1:8888", &address).with("jupyter.credential", path);
    let gateway = recipe.start().await;
    let jupyter = Use {
        library: "jupyter",
        path: "/",
        first: json!("42"),
        life: Some(Duration::from_secs(15)),
        refused: "401",
        expired: (3000, "token expired"),
    };
    jupyter.holds(&gateway).await;

    // Whoever else has a token is nobody here.
    let mut client = Program::service_client(&gateway.path("ca.pem")).await;
    let mut other = claims(MINUTE);
    other["sub"] = json!("another");
    let refused = client.ask(&jupyter.open(&gateway, "other", Some(&mint(&other)))).await;
    assert!(
        refused["refused"].as_str().is_some_and(|how| how.contains("403") || how.contains("Forbidden")),
        "{refused}"
    );
}

#[tokio::test]
async fn fastapi_lives_on_with_a_renewed_token_and_ends_without() {
    let (files, _) = folder("");
    let (mut service, url) = Program::fastapi(&files.path().join("token.secret")).await;
    let gateway = Recipe::of("fastapi").with("ws://127.0.0.1:8000", &url).start().await;
    let authority = gateway.path("ca.pem");
    let (mut ends, mut stays) = tokio::join!(Program::python_client(&authority), Program::python_client(&authority));
    let target = |query: &str| format!("wss://localhost:{}/ws/who{query}", gateway.address().port());
    assert_eq!(ends.ask(&json!({"open": target("")})).await["refused"], 401);
    let foreign = json!({"Origin": "https://elsewhere.example"});
    let query = format!("?access_token={}", token(MINUTE));
    assert_eq!(ends.ask(&json!({"open": target(&query), "headers": foreign})).await["refused"], 403);

    let short = claims(SHORT);
    for (name, client) in [("ends", &mut ends), ("stays", &mut stays)] {
        let query = format!("?access_token={}&portcullis_stream={}", mint(&short), handle(name));
        client.call(json!({"open": target(&query)})).await;
        let told = client.call(json!({"receive": true})).await;
        let told: Value = serde_json::from_str(told.as_str().expect("text")).expect("JSON");
        assert_eq!(told, json!({"user": "someone", "client": "127.0.0.1", "url": target("")}), "{name}");
    }
    renew(&gateway, "/ws/who", &handle("stays"), &token(MINUTE)).await;
    ended_on_time(&ends.call(json!({"wait": true})).await, (3000, "token expired"), &short);
    assert_eq!(service.line().await, "closed 1001");
    stays.call(json!({"send": "still here"})).await;
    assert_eq!(stays.call(json!({"receive": true})).await, "still here");
}

/// One service through its own npm client.
struct Use {
    /// Its name in tests/real/service_client.cjs.
    library: &'static str,
    /// Where the client connects.
    path: &'static str,
    /// What the service says first.
    first: Value,
    /// How long a token lives that is to expire, if [`SHORT`] is not enough.
    life: Option<Duration>,
    /// How the client sees that it has no token.
    refused: &'static str,
    /// How its stream ends with its token.
    expired: (u16, &'static str),
}

impl Use {
    async fn holds(&self, gateway: &Gateway) {
        let mut client = Program::service_client(&gateway.path("ca.pem")).await;
        let refused = client.ask(&self.open(gateway, "none", None)).await;
        assert!(refused["refused"].as_str().is_some_and(|how| how.contains(self.refused)), "{refused}");
        refused_for_want_of_a_token(gateway).await;

        let short = claims(self.life.unwrap_or(SHORT));
        for name in ["ends", "stays"] {
            let opened = client.call(self.open(gateway, name, Some(&mint(&short)))).await;
            assert_eq!(opened, self.first, "{name}");
            assert_eq!(client.call(json!({"use": name, "text": "grüße"})).await, "grüße", "{name}");
        }
        renew(gateway, self.path.trim_end_matches('/'), &handle("stays"), &token(MINUTE)).await;
        let end = client.call(json!({"end": "ends"})).await;
        ended_on_time(&end, self.expired, &short);
        assert_eq!(client.call(json!({"use": "stays", "text": "still here"})).await, "still here");
    }

    fn open(&self, gateway: &Gateway, name: &str, token: Option<&str>) -> Value {
        let url = format!("wss://localhost:{}{}", gateway.address().port(), self.path);
        json!({"open": name, "library": self.library, "url": url, "token": token, "handle": handle(name)})
    }
}

/// The handle of a stream, by which it is renewed.
fn handle(name: &str) -> String {
    format!("{name:-<22}")
}

/// Renews a stream out of band, as any client can.
async fn renew(gateway: &Gateway, path: &str, handle: &str, token: &str) {
    let mut link = gateway.connect().await;
    let reply = link
        .request(&format!(
            "POST {path}/.portcullis/renew HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: Bearer {token}\r\nPortcullis-Stream: {handle}\r\nContent-Length: 0\r\n\r\n",
            gateway.address().port()
        ))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body_text());
}

/// The gateway has refused somebody because there was no token.
async fn refused_for_want_of_a_token(gateway: &Gateway) {
    gateway.logged("a refusal", |line| field(line, "cause") == Some(&"token_missing".into())).await;
}

/// The end of a stream, as its client saw it, came with this Close within a second after its token had expired.
fn ended_on_time(end: &Value, (code, reason): (u16, &str), claims: &Value) {
    assert_eq!((&end["code"], &end["reason"]), (&json!(code), &json!(reason)));
    let late = end["at"].as_f64().expect("seconds") - claims["exp"].as_f64().expect("seconds");
    assert!((0.0..1.0).contains(&late), "{late} s after the token had expired; now is {:?}", now());
}
