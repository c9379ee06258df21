//! Plain requests to a service: over a connection that was kept, or a fresh one.
//!
//! Owns a connection from its handshake to its end, and the rule when a request may be sent a second time: if nothing of it
//! has left, or if it has no body and its method is safe, and the connection was a kept one, which the service may have closed
//! meanwhile (RFC 9112, section 9.3.1). Does not bound the wait for an answer: whoever asks does. Dropping the future of a
//! request, or the line of its answer, closes the connection: the service sees that nobody waits any more.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use crate::clock::Mono;
use crate::upstream::Error;
use crate::upstream::dial::Connected;
use crate::upstream::pool::Pool;
use crate::ws::handshake::headers_size;

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that comes bit by bit.
pub type Streamed = UnsyncBoxBody<Bytes, BoxError>;

/// A connection that carries one request at a time. Closed when dropped.
#[derive(Debug)]
pub struct Line {
    pub(super) sender: SendRequest<Streamed>,
    task: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a service has answered so far: the head, and the body as it comes over the line.
pub type Answer = (Response<Incoming>, Line);

/// Why there is no answer on a line.
enum Unanswered {
    /// The line was closed; nothing of the request was sent.
    NotSent(Box<Request<Streamed>>),
    /// The line broke.
    Lost(hyper::Error),
}

/// Sends the request over a kept line. Gives it back if there is none, or none that takes it, or if it may be sent once more.
///
/// # Errors
///
/// [`Error::Invalid`] if the service may have seen the request and has not answered it.
pub async fn over_kept(
    pool: &Pool,
    mut request: Request<Streamed>,
    now: Mono,
) -> Result<Result<Answer, Box<Request<Streamed>>>, Error> {
    let twice = request.method().is_safe() && request.body().is_end_stream();
    while let Some(line) = pool.take(twice, now).await {
        let copy = twice.then(|| copy(&request));
        match (line.ask(request).await, copy) {
            (Ok(answer), _) => return checked(answer).map(Ok),
            (Err(Unanswered::NotSent(unsent)), _) => request = *unsent,
            // Over a fresh line: what breaks its service would break every kept one.
            (Err(Unanswered::Lost(error)), Some(copy)) if gone(&error) => return Ok(Err(Box::new(copy))),
            (Err(Unanswered::Lost(error)), _) => return Err(lost(&error)),
        }
    }
    Ok(Err(Box::new(request)))
}

/// Sends the request over a fresh line.
///
/// # Errors
///
/// [`Error::Invalid`] for what is no answer.
pub async fn over(line: Line, request: Request<Streamed>) -> Result<Answer, Error> {
    match line.ask(request).await {
        Ok(answer) => checked(answer),
        Err(Unanswered::NotSent(_)) => Err(Error::Invalid("the service closed the connection at once".into())),
        Err(Unanswered::Lost(error)) => Err(lost(&error)),
    }
}

impl Line {
    /// A line over a fresh connection.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the connection is gone already.
    pub async fn new(connected: Connected) -> Result<Self, Error> {
        match connected {
            Connected::Tcp(tcp) => Self::over(tcp).await,
            Connected::Tls(tls) => Self::over(*tls).await,
        }
    }

    async fn over<T>(io: T) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.map_err(|error| lost(&error))?;
        // How it ends is told to whoever waits for an answer, or for the rest of one.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, task })
    }

    async fn ask(mut self, request: Request<Streamed>) -> Result<Answer, Unanswered> {
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok((response, self)),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => Unanswered::NotSent(Box::new(request)),
                None => Unanswered::Lost(error.into_error()),
            }),
        }
    }
}

/// The head of a request without a body, once more.
fn copy(request: &Request<Streamed>) -> Request<Streamed> {
    let mut copy = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Whether the service may have closed the line before it saw the request.
fn gone(error: &hyper::Error) -> bool {
    !error.is_parse() && !error.is_parse_too_large()
}

fn checked((response, line): Answer) -> Result<Answer, Error> {
    // hyper's own bound is soft: one read may go beyond it.
    if headers_size(response.headers()) > MAX_HEAD {
        return Err(Error::Invalid("the head of the service's answer is larger than 64 KiB".into()));
    }
    if response.status().is_informational() {
        return Err(Error::Invalid(format!("the service answered {} to a plain request", response.status())));
    }
    Ok((response, line))
}

fn lost(error: &hyper::Error) -> Error {
    Error::Invalid(format!("no answer to the request: {error}"))
}

/// The largest head of an answer, bytes; and how much of a body is held at most.
const MAX_HEAD: usize = 64 * 1024;
