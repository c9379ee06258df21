//! A web site of the test's own: a page, the browser client, the libraries that `make test` installs, and the endpoint that
//! gives tokens to the page.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::real::{installed, root};
use super::{claims, mint, now};

/// Serves until it is dropped.
///
/// - `/`: the page
/// - `/portcullis.js`: the browser client as it is shipped
/// - `/lib/PATH`: a file of an installed package
/// - `/token?SECONDS`: a token with that long to live
/// - `/login?SECONDS`: such a token as the cookie `session`; `/login/refresh` likewise, for a minute
pub struct Site {
    url: String,
    minted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Site {
    /// A site with this page.
    pub async fn start(page: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let minted = Arc::new(AtomicUsize::new(0));
        let count = minted.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, page, count.clone()));
            }
        });
        Self { url, minted, task }
    }

    /// Its page.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many tokens it has given.
    pub fn minted(&self) -> usize {
        self.minted.load(Ordering::SeqCst)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, page: &str, minted: Arc<AtomicUsize>) {
    let mut head = [0; 4096];
    let length = stream.read(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..length]);
    let target = head.split(' ').nth(1).unwrap_or_default();
    let script = |path: PathBuf| ("text/javascript", std::fs::read(path).unwrap_or_default());
    let mut more = String::new();
    let mut sign_in = |seconds: &str| {
        let token = token(seconds.parse().expect("seconds"));
        more = format!("Set-Cookie: session={token}; Path=/; Secure; HttpOnly; SameSite=Lax\r\n");
        ("text/html", b"<!doctype html><title>signed in</title>".to_vec())
    };
    let (kind, body) = match target.split_once('?').unwrap_or((target, "")) {
        ("/", _) => ("text/html", page.as_bytes().to_vec()),
        ("/portcullis.js", _) => script(root().join("clients/js/portcullis.js")),
        ("/token", seconds) => {
            minted.fetch_add(1, Ordering::SeqCst);
            ("text/plain", token(seconds.parse().expect("seconds")).into_bytes())
        }
        ("/login", seconds) => sign_in(seconds),
        ("/login/refresh", _) => sign_in("60"),
        (path, _) => script(installed("node_modules").join(path.trim_start_matches("/lib/"))),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\n{more}Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&[head.into_bytes(), body].concat()).await;
    let _ = stream.shutdown().await;
}

/// As an issuer gives it to a page: with the time of its issue.
fn token(seconds: u64) -> String {
    let mut claims = claims(Duration::from_secs(seconds));
    claims["iat"] = json!(now().as_secs());
    mint(&claims)
}
