//! The admin listener of a gateway, asked like a program asks it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::link::{Link, Reply, Role};
use super::{Gateway, PATIENCE, instant};

/// Lines of a config that ask for an admin listener on a port of this machine.
pub const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// The admin listener, or the probes listener.
#[derive(Clone, Copy)]
pub struct Admin {
    pub address: SocketAddr,
}

impl Admin {
    /// That of this gateway.
    pub async fn of(gateway: &Gateway) -> Self {
        Self { address: gateway.listener("admin").await }
    }

    /// Sends a request whose head is `method`, `path` and these lines, each ended by `\r\n`.
    pub async fn raw(&self, method: &str, path: &str, lines: &str, body: &str) -> Reply {
        let stream = TcpStream::connect(self.address).await.expect("the admin listener");
        let mut link = Link::over_tcp(stream, Role::Client);
        let length = body.len();
        link.request(&format!("{method} {path} HTTP/1.1\r\n{lines}Content-Length: {length}\r\n\r\n{body}")).await
    }

    /// Asks as a good program does.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let lines = "Host: localhost\r\nContent-Type: application/json\r\n";
        let body = body.map_or_else(String::new, |body| body.to_string());
        let reply = self.raw(method, path, lines, &body).await;
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
    }

    /// What is read there, which must be 200.
    pub async fn read(&self, path: &str) -> String {
        let reply = self.raw("GET", path, "Host: localhost\r\n", "").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body_text());
        reply.body_text().to_owned()
    }

    /// Bans, which must succeed; the answer.
    pub async fn revoke(&self, wish: Value) -> Value {
        let (status, answer) = self.ask("POST", "/revocations", Some(wish.clone())).await;
        assert_eq!(status, 201, "{wish}: {answer}");
        answer
    }

    /// The live streams.
    pub async fn streams(&self) -> Vec<Value> {
        let (status, answer) = self.ask("GET", "/streams", None).await;
        assert_eq!(status, 200, "{answer}");
        answer["streams"].as_array().expect("a list").clone()
    }

    /// The value of a series, such as `portcullis_streams{route="default"}`; 0 if it is not told.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.read("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits until a series has this value.
    #[allow(clippy::float_cmp)] // counts are exact
    pub async fn metric_becomes(&self, series: &str, wanted: f64) {
        let start = instant();
        loop {
            let value = self.metric(series).await;
            if value == wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{series} is {value} and not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A ban of the usual issuer's claim.
pub fn ban(kind: &str, value: &str) -> Value {
    json!({"iss": super::ISSUER, kind: value})
}
