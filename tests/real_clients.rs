//! Clients and services that know nothing of the gateway: Python `websockets`, npm `ws`, FastAPI under uvicorn, PyJWT.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::real::Program;
use common::{Gateway, claims, config, folder, mint, now, sign, token};
use serde_json::{Value, json};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fastapi_serves_pythons_websockets_behind_the_gate() {
    let mut stage = Stage::new().await;
    let client = Program::python_client(&stage.gateway.path("ca.pem")).await;
    stage.serves(client).await;
}

#[tokio::test]
async fn fastapi_serves_npms_ws_behind_the_gate() {
    let mut stage = Stage::new().await;
    let client = Program::node_client(&stage.gateway.path("ca.pem")).await;
    stage.serves(client).await;
}

#[tokio::test]
async fn fastapi_sees_the_request_without_the_token_and_with_the_identity() {
    let stage = Stage::new().await;
    let mut client = Program::python_client(&stage.gateway.path("ca.pem")).await;
    let token = token(MINUTE);
    let spoofed = json!({"X_User": "root", "x-user": "root", "X-Forwarded-For": "10.1.2.3", "X-Other": "kept"});
    let url = format!("{}?a=1&access%5Ftoken={token}&b=%20x+y&c", stage.url("/headers"));
    client.call(json!({"open": url, "headers": spoofed, "subprotocols": ["bearer", token, "chat"]})).await;
    let seen = client.call(json!({"receive": true})).await;
    let seen: Value = serde_json::from_str(seen.as_str().expect("text")).expect("JSON");
    assert_eq!(seen["query"], "a=1&b=%20x+y&c");
    let all = |name: &str| -> Vec<&str> {
        let pairs = seen["headers"].as_array().expect("pairs").iter();
        let same = |pair: &&Value| pair[0].as_str().is_some_and(|key| key.replace('_', "-").eq_ignore_ascii_case(name));
        pairs.filter(same).filter_map(|pair| pair[1].as_str()).collect()
    };
    assert_eq!(all("x-user"), ["someone"]);
    assert_eq!(all("x-other"), ["kept"]);
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all("x-forwarded-proto"), ["https"]);
    assert_eq!(all("sec-websocket-protocol"), ["chat"]);
    assert!(!seen.to_string().contains(&token), "the service saw the token");
}

#[tokio::test]
async fn a_verifier_with_pyjwt_decodes_tokens_that_come_as_messages() {
    let stage = Stage::new().await;
    let mut client = Program::node_client(&stage.gateway.path("ca.pem")).await;
    client.call(json!({"open": format!("{}?access_token={}", stage.url("/verify"), token(MINUTE))})).await;
    let with = |sub: &str, life: Duration| {
        let mut claims = claims(life);
        claims["sub"] = json!(sub);
        claims
    };
    let expired = {
        let mut claims = with("old news", MINUTE);
        claims["exp"] = json!(now().as_secs() - 5);
        claims
    };
    let forged = sign(&json!({"alg": "HS256"}), &with("a lie", MINUTE), b"another secret, also longer than 32 bytes");
    for (token, answer) in [
        (mint(&with("hello, wörld", MINUTE)), json!({"message": "hello, wörld"})),
        (mint(&expired), json!({"refused": "ExpiredSignatureError"})),
        (forged, json!({"refused": "InvalidSignatureError"})),
        (mint(&with("still here", MINUTE)), json!({"message": "still here"})),
    ] {
        client.call(json!({"send": token})).await;
        let said = client.call(json!({"receive": true})).await;
        assert_eq!(serde_json::from_str::<Value>(said.as_str().expect("text")).expect("JSON"), answer);
    }
}

/// FastAPI behind the gateway.
struct Stage {
    service: Program,
    gateway: Gateway,
    _files: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (files, _) = folder("");
        let (service, url) = Program::fastapi(&files.path().join("token.secret")).await;
        let gateway = Gateway::start(&config(&url, "identity = { \"X-User\" = \"sub\" }")).await;
        Self { service, gateway, _files: files }
    }

    fn url(&self, path: &str) -> String {
        format!("wss://localhost:{}{path}", self.gateway.address().port())
    }

    async fn serves(&mut self, mut client: Program) {
        // Each carrier; compression is agreed between client and service, the gateway only passes it on.
        let good = token(MINUTE);
        for open in [
            json!({"open": format!("{}?access_token={good}", self.url("/ws/query"))}),
            json!({"open": self.url("/ws/header"), "headers": {"Authorization": format!("Bearer {good}")}}),
            json!({"open": self.url("/ws/pair"), "subprotocols": ["bearer", good]}),
        ] {
            let opened = client.call(open.clone()).await;
            let protocol = if open.get("subprotocols").is_some() { json!("bearer") } else { Value::Null };
            assert_eq!(opened["subprotocol"], protocol, "{open}");
            assert_eq!(opened["extensions"], json!(["permessage-deflate"]), "{open}");
            client.call(json!({"send": "grüße"})).await;
            assert_eq!(client.call(json!({"receive": true})).await, "grüße");
            client.call(json!({"send_bytes": 1 << 20})).await;
            assert_eq!(client.call(json!({"receive": true})).await, 1 << 20);
            assert_eq!(client.call(json!({"close": [4001, "done"]})).await, json!([4001, "done"]));
            assert_eq!(self.service.line().await, "closed 4001");
        }

        // Refusals: nothing of it reaches the service.
        for (query, status, reason) in [
            (String::new(), 401, "token_missing"),
            (
                format!("?access_token={}", mint(&json!({"iss": common::ISSUER, "sub": "x", "exp": 1}))),
                401,
                "token_expired",
            ),
            (format!("?access_token={good}x"), 401, "token_invalid"),
        ] {
            let refused = client.ask(&json!({"open": format!("{}{query}", self.url("/ws"))})).await;
            assert_eq!(refused["refused"], status, "{refused}");
            assert!(refused["body"].as_str().is_some_and(|body| body.contains(reason)), "{refused}");
        }

        // The end of the token is the end of the stream.
        let begun = now();
        let short = token(Duration::from_secs(2));
        client.call(json!({"open": format!("{}?access_token={short}", self.url("/ws/short"))})).await;
        client.call(json!({"send": "last words"})).await;
        assert_eq!(client.call(json!({"receive": true})).await, "last words");
        let end = client.call(json!({"wait": true})).await;
        assert_eq!((&end["code"], &end["reason"]), (&json!(3000), &json!("token expired")));
        let lasted = end["at"].as_f64().expect("seconds") - begun.as_secs_f64();
        assert!((2.0..3.0).contains(&lasted), "{lasted} s");
        assert_eq!(self.service.line().await, "closed 1001");
    }
}
