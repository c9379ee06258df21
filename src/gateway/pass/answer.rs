//! A service's answer on its way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Response, Version};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::hold::{Held, Hold};
use super::plain::{Plain, announce, clean_falling};
use super::upload::Progress;
use super::{Reached, Turn};
use crate::clock::Clock;
use crate::gateway::body::BoxError;
use crate::gateway::endpoint::Answered;
use crate::gateway::headers;
use crate::gateway::rejection::Rejection;
use crate::gateway::{Body, Shared};
use crate::upstream::Lease;
use crate::upstream::exchange::Line;
use crate::upstream::pool::Pool;
use crate::ws::handshake::{items, only};

/// The answer as the client gets it. Its body says how long it is by what was read of it.
pub(super) fn answered(
    shared: &Shared,
    plain: &Plain,
    Reached { answer: (response, line), pool, lease }: Reached,
    (progress, turn): (Arc<Progress>, Turn),
    hold: Option<Hold>,
) -> Result<Response<Body>, Rejection> {
    let (head, body) = response.into_parts();
    let mut codings = items(&head.headers, &TRANSFER_ENCODING);
    if codings.next().is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) || codings.next().is_some() {
        return Err(Rejection::UpstreamInvalid(
            "Transfer-Encoding of the answer is something else than chunked".into(),
        ));
    }
    drop(codings);
    let (sent, mut headers) = (head.headers.clone(), head.headers);
    headers::clean_answer(&mut headers);
    match body.size_hint().exact() {
        Some(length) if !body.is_end_stream() => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
        Some(_) => restore_length(&mut headers, &sent, &plain.method),
        None => announce(&mut headers, &sent, clean_falling),
    }
    if hold.is_some() {
        keep_private(&mut headers);
    }
    // Nothing more is to come of one without a body.
    let held = hold.filter(|_| !body.is_end_stream()).map(Hold::keep);
    let cut = held.as_ref().map(|held| held.cut.clone());
    let pool = (!signs_in(&plain.headers)).then_some(pool);
    let (line, clock) = (Some(line), shared.clock.clone());
    let body = Falling { body, line, pool, progress, held, clock, bytes: 0, whole: false, _place: (lease, turn) };
    let mut response = Response::new(Body::passed(body, cut));
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_11;
    *response.headers_mut() = headers;
    response.extensions_mut().insert(Answered);
    Ok(response)
}

/// The length in an answer to `HEAD` is that of the answer to `GET` (RFC 9110, section 8.6).
fn restore_length(headers: &mut HeaderMap, sent: &HeaderMap, method: &Method) {
    if let (&Method::HEAD, false, Some(length)) =
        (method, sent.contains_key(TRANSFER_ENCODING), only(sent, &CONTENT_LENGTH))
    {
        headers.insert(CONTENT_LENGTH, length.clone());
    }
}

/// Whether the service may take all that follows on the connection for the same client's: these schemes sign in a connection,
/// not a request (RFC 4559, section 6).
fn signs_in(headers: &HeaderMap) -> bool {
    headers.get_all(AUTHORIZATION).iter().any(|value| {
        let scheme = value.as_bytes().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

/// Shared caches keep no answer to `Authorization` unless they are told to (RFC 9111, section 3.5). Of a token in a cookie or
/// the query they do not know, nor does the service.
fn keep_private(headers: &mut HeaderMap) {
    let said = |item: &[u8]| {
        let name = item.split(|byte| *byte == b'=').next().unwrap_or_default();
        CACHING.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    };
    if !items(headers, &CACHE_CONTROL).any(said) {
        headers.append(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// What a service says that knows who may keep its answer.
const CACHING: [&str; 4] = ["private", "public", "no-store", "s-maxage"];

/// The body of an answer as it comes from the service.
struct Falling {
    body: Incoming,
    /// Where it comes from; closed if it is dropped.
    line: Option<Line>,
    /// Where that is kept for the next request once all is there; `None` if it must not be another client's.
    pool: Option<Pool>,
    progress: Arc<Progress>,
    held: Option<Held>,
    clock: Clock,
    bytes: u64,
    whole: bool,
    /// On the endpoint, and among all that are passed on.
    _place: (Lease, Turn),
}

/// Nothing more of the answer may be written.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut")]
struct WasCut;

impl HttpBody for Falling {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.held.as_mut().is_some_and(Held::is_over) {
            return Poll::Ready(Some(Err(WasCut.into())));
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else {
            this.whole = true;
            return Poll::Ready(None);
        };
        let mut frame = frame?;
        if let Some(data) = frame.data_ref() {
            this.bytes = this.bytes.saturating_add(data.len() as u64);
        }
        if let Some(held) = &this.held {
            held.meter(this.progress.bytes(), this.bytes);
        }
        if let Some(trailers) = frame.trailers_mut() {
            clean_falling(trailers);
            // Nothing follows them, and nobody asks for it.
            this.whole = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Falling {
    fn drop(&mut self) {
        let whole = (self.whole || self.body.is_end_stream()) && self.progress.is_done();
        if let (Some(line), Some(pool), true) = (self.line.take(), &self.pool, whole) {
            pool.put(line, self.clock.now().mono);
        }
    }
}
