//! The one small HTTPS client: for key sets, discovery documents and token endpoints.
//!
//! Owns one exchange at a time, over a connection of its own that is not kept. The whole of it, redirects and all, is
//! bounded in time, and its answer in size. Nothing else than this machine is asked without TLS, no other origin is
//! followed to, and no variable of the environment (`HTTPS_PROXY` and the like) is heeded. What an answer means is
//! its caller's part, but for discovery documents.

pub mod discovery;
mod exchange;
pub mod form;
mod url;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};

pub use url::{Url, UrlError};

use crate::upstream::trust::{TrustError, trusting};

/// Fetches things. Clones share what they know of TLS sessions.
#[derive(Clone, Debug)]
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    timeout: Duration,
    /// Whether it keeps off this machine.
    elsewhere: bool,
}

/// An answer, whatever its status.
#[derive(Clone)]
pub struct Fetched {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer. The texts name neither the URL that was asked for, which the caller knows, nor anything of a
/// body or a query.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection: refused, unreachable, or silent for too long.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The body is compressed, though it was asked for plain.
    #[error("the answer is encoded, though it was asked for plain")]
    Encoded,
    /// A head of more than 32 KiB, or more than 100 headers.
    #[error("the head of the answer is too large")]
    HeadTooLarge,
    /// The answer breaks HTTP, or ends before its end.
    #[error("the answer is no whole HTTP answer: {0}")]
    Http(String),
    /// The name cannot be looked up.
    #[error("cannot look up the host: {0}")]
    Lookup(String),
    /// `localhost` is another machine.
    #[error("localhost is not this machine, and http:// goes no further")]
    NotLoopback,
    /// A redirect that is not followed.
    #[error("it redirects {0}")]
    Redirect(String),
    /// A header cannot stand in a request.
    #[error("{0} cannot stand in a request")]
    Request(&'static str),
    /// The host is this machine, or has no other address, and the fetcher is one that goes [`Fetcher::elsewhere`].
    #[error("it leads to this machine, though it comes from elsewhere")]
    ThisMachine,
    /// The whole answer did not come in time.
    #[error("no whole answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// TLS failed, or the certificate is not to be trusted.
    #[error("no TLS: {0}")]
    Tls(String),
    /// The body is larger than the caller takes.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// There is nobody to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Fetcher {
    /// Trusts `roots`, or the system's if there are none; `timeout` is for a whole exchange, from the look-up of the name
    /// to the last byte of the body.
    pub fn new(roots: Option<RootCertStore>, timeout: Duration) -> Result<Self, FetchError> {
        let mut tls = trusting(roots)?.with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls), timeout, elsewhere: false })
    }

    /// The same, for URLs that come from another machine: it connects to no loopback address and not to the unspecified
    /// one, whatever a name resolves to.
    #[must_use]
    pub fn elsewhere(&self) -> Self {
        Self { elsewhere: true, ..self.clone() }
    }

    /// Asks for `url` with these headers too; a body of more than `limit` bytes is an error. Follows at most three
    /// redirects, and only within the same origin.
    pub async fn get(&self, url: &Url, headers: HeaderMap, limit: usize) -> Result<Fetched, FetchError> {
        self.in_time(async {
            let mut url = url.clone();
            for _ in 0..=MOST_REDIRECTS {
                let fetched = self.exchange(&url, Method::GET, headers.clone(), Bytes::new(), limit).await?;
                if !REDIRECTS.contains(&fetched.status) {
                    return Ok(fetched);
                }
                url = redirected(&url, &fetched.headers)?;
            }
            Err(FetchError::Redirect(format!("more than {MOST_REDIRECTS} times")))
        })
        .await
    }

    /// Posts a form (RFC 6749, appendix B) with these headers too; a redirect is an answer like any other. What was sent
    /// is wiped.
    pub async fn post_form(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        form: &[(&str, &str)],
        limit: usize,
    ) -> Result<Fetched, FetchError> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let body = Bytes::from_owner(form::body(form));
        self.in_time(self.exchange(url, Method::POST, headers, body, limit)).await
    }

    /// On the heap, since whoever waits for it should not be as large as an HTTP connection.
    fn exchange(
        &self,
        url: &Url,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
    ) -> Pin<Box<impl Future<Output = Result<Fetched, FetchError>>>> {
        Box::pin(exchange::exchange(self, url, method, headers, body, limit))
    }

    async fn in_time(&self, work: impl Future<Output = Result<Fetched, FetchError>>) -> Result<Fetched, FetchError> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }
}

/// Where a redirect leads, if it may be followed.
fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let to = location.and_then(|location| from.follow(location).ok());
    let to = to.ok_or_else(|| FetchError::Redirect("to something that is not asked".to_owned()))?;
    if to.same_origin(from) { Ok(to) } else { Err(FetchError::Redirect("to another origin".to_owned())) }
}

/// Says nothing of the body, which may be a token.
impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

const MOST_REDIRECTS: usize = 3;
/// RFC 9110, section 15.4: those that have a `Location` to go on at.
const REDIRECTS: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];
