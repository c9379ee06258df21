//! The harness: a real gateway process, a client and a service whose every byte a test decides.
//!
//! ```ignore
//! let mut backend = Backend::start().await;
//! let gateway = Gateway::start(&config(&backend.url(), "")).await;
//! let mut client = gateway.open(&token(Duration::from_secs(2))).await;
//! let mut service = backend.accept().await;
//! client.text("hello").await;
//! assert_eq!(service.frame().await.text(), "hello");
//! ```
//!
//! Ports come from the system, waits have deadlines, and whatever was started ends when its value is dropped.
#![allow(dead_code)] // each test file uses a part of it
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod admin;
mod backend;
mod certificate;
mod client;
pub mod doc;
pub mod frames;
mod gateway;
pub mod http2;
pub mod issuer;
mod link;
mod origin;
pub mod real;
pub mod recipe;
pub mod rig;
pub mod site;
mod token;

use std::future::Future;
use std::time::{Duration, Instant};

#[allow(unused_imports)] // each test file uses a part of it
pub use self::{
    admin::{ADMIN, Admin, ban},
    backend::{Asked, Backend, accept_key, echo},
    certificate::Authority,
    client::Client,
    gateway::{Gateway, Signal, config, field, folder},
    http2::Http2,
    link::{Frame, Link, Reply, Role, header, op},
    origin::{Call, Origin},
    token::{ISSUER, SECRET, claims, mint, now, sign, token},
};

/// How long anything that should happen at once may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Awaits `what` for at most `limit`; a test fails with `what` in its message otherwise.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Asks again and again until `holds` says so, for at most [`PATIENCE`].
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = instant();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The monotonic clock of the test itself.
#[allow(clippy::disallowed_methods)] // a test measures; it is not part of the program
pub fn instant() -> Instant {
    Instant::now()
}
