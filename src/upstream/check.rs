//! What keeps a service's endpoints known: checks, and the addresses of names.
//!
//! One task per service, spawned by the app and stopped when the service is no longer in force. A check connects as a
//! stream would, TLS included, and may ask for a path; nothing of it is kept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::upstream::dial::{self, Connected};
use crate::upstream::handshake::{MAX_HEAD, alongside};
use crate::upstream::health::Turns;
use crate::upstream::{Config, Endpoint, Service};

/// How endpoints are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked for, and must be answered with 2xx or 3xx; `None`: it is enough that there is a connection.
    pub path: Option<PathAndQuery>,
    /// How often.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// How often checks must agree.
    pub turns: Turns,
}

impl Service {
    /// Keeps what is known of the endpoints fresh, until `stop`.
    pub async fn watch(&self, stop: &CancellationToken) {
        let work = async { tokio::join!(self.keep_looking_up(), self.keep_checking()) };
        stop.run_until_cancelled(work).await;
    }

    async fn keep_checking(&self) {
        let Some(check) = &self.options().check else { return };
        let mut rounds = interval(check.interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let each = |endpoint: Arc<Endpoint>| async move {
                let result = timeout(check.timeout, check.run(&endpoint)).await;
                let late = |_| Err(format!("the check took longer than {:?}", check.timeout));
                endpoint.checked(result.unwrap_or_else(late), check.turns);
            };
            let endpoints: Vec<Arc<Endpoint>> = self.endpoints().to_vec();
            futures_util::stream::iter(endpoints).for_each_concurrent(AT_A_TIME, each).await;
        }
    }

    async fn keep_looking_up(&self) {
        if self.names().next().is_none() {
            return;
        }
        let mut rounds = interval(self.options().resolve_interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let each = |config| async move {
                match addresses(config).await {
                    Ok(addresses) => self.resolved(config, &addresses),
                    // What was known of the name may still be so.
                    Err(error) => tracing::warn!(endpoint = config.url, %error, "a name cannot be looked up"),
                }
            };
            futures_util::stream::iter(self.names()).for_each_concurrent(AT_A_TIME, each).await;
        }
    }
}

impl Check {
    async fn run(&self, endpoint: &Endpoint) -> Result<(), String> {
        let config = endpoint.config();
        let connected = dial::connect(config, endpoint.address()).await.map_err(|error| error.to_string())?;
        let Some(path) = &self.path else { return Ok(()) };
        let status = match connected {
            Connected::Tcp(tcp) => ask(tcp, config, path).await,
            Connected::Tls(tls) => ask(*tls, config, path).await,
        };
        match status {
            Ok(status) if status.is_success() || status.is_redirection() => Ok(()),
            Ok(status) => Err(format!("{path} was answered with {}", status.as_u16())),
            Err(error) => Err(format!("{path} was not answered: {error}")),
        }
    }
}

/// The status with which `path` is answered. Whatever follows it is not read.
async fn ask<T>(io: T, config: &Config, path: &PathAndQuery) -> Result<StatusCode, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from(path.clone());
    let headers = request.headers_mut();
    for (name, value) in [(HOST, &*config.authority()), (USER_AGENT, AGENT), (CONNECTION, "close")] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    let (mut sender, connection) = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(io)).await?;
    let response = alongside(connection, sender.send_request(request)).await?;
    Ok(response.status())
}

/// The addresses of a name, sorted: of one family, since a service that has both shows the same places under each.
async fn addresses(config: &Config) -> io::Result<Vec<SocketAddr>> {
    let mut found = dial::look_up(config).await?;
    if found.iter().any(SocketAddr::is_ipv4) {
        found.retain(SocketAddr::is_ipv4);
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST_ADDRESSES);
    if found.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")) } else { Ok(found) }
}

/// Checks, or names that are looked up, at a time.
const AT_A_TIME: usize = 32;
/// Of one name; more would be no service but a mistake.
const MOST_ADDRESSES: usize = 256;
const AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"), " (health check)");
