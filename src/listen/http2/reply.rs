//! One request of an HTTP/2 connection, from its head to its answer, or to the stream that it becomes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt as _, Either, Empty};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::gateway::{Gateway, Peer};
use crate::listen::http2::request::{self, Upload};
use crate::wire::http2::{Busy, Http2Wire, Piece, Tunnel};

/// Has the pipeline answer, and sends what it says. A client that resets its request ends both.
pub(super) async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
    gateway: Gateway,
    peer: Arc<Peer>,
    mut busy: Busy,
    patience: Duration,
) {
    let (mut head, recv) = request.into_parts();
    request::unify(&mut head);
    let clock = gateway.clock().clone();
    let headless = head.method == Method::HEAD;
    if !request::upgrade(&mut head) {
        let body = Either::<Empty<Bytes>, _>::Right(Upload::new(recv, &head.headers));
        let request = Request::from_parts(head, body);
        let Some(response) = pending(&mut respond, gateway.answer(request, peer)).await else { return };
        if response.body().is_passed() {
            busy.let_in();
        } else {
            // What is left is the client's to take.
            drop(busy);
        }
        let cut = response.body().cut();
        return tokio::select! {
            biased;
            // Letting go of a stream that has not ended resets it, and drops what of it is unsent.
            () = cancelled(cut) => {}
            () = send(respond, response, headless, patience, &clock) => {}
        };
    }
    let (hand_over, tunnel) = Tunnel::new();
    head.extensions.insert(tunnel);
    let request = Request::from_parts(head, Either::<_, Upload>::Left(Empty::<Bytes>::new()));
    let Some(response) = pending(&mut respond, gateway.answer(request, peer)).await else { return };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return send(respond, response, false, patience, &clock).await;
    }
    let (mut head, _) = response.into_parts();
    // RFC 8441, section 5: a success, and no accept.
    head.status = StatusCode::OK;
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    tidy(&mut head.headers, &clock);
    head.version = Version::HTTP_2;
    if let Ok(send) = respond.send_response(Response::from_parts(head, ()), false) {
        // Whoever waits for it may have given up.
        let _ = hand_over.send(Http2Wire::new(send, recv, busy));
    }
}

/// Ends when the answer is cut.
async fn cancelled(cut: Option<CancellationToken>) {
    match cut {
        Some(cut) => cut.cancelled().await,
        None => std::future::pending().await,
    }
}

/// What `work` gives, unless the client resets the request before.
async fn pending<O>(respond: &mut SendResponse<Piece>, work: impl Future<Output = O>) -> Option<O> {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        _ = poll_fn(|cx| respond.poll_reset(cx)) => None,
        output = &mut work => Some(output),
    }
}

/// Sends an answer. A body that fails resets the stream, so that nobody takes what has come for the whole; so does a
/// client that takes nothing of it for `patience`.
async fn send<B>(
    mut respond: SendResponse<Piece>,
    response: Response<B>,
    headless: bool,
    patience: Duration,
    clock: &Clock,
) where
    B: Body<Data = Bytes> + Send,
{
    let (mut head, body) = response.into_parts();
    tidy(&mut head.headers, clock);
    head.version = Version::HTTP_2;
    let bodiless = headless || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless
        && !head.headers.contains_key(CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let ended = bodiless || body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ended) else { return };
    if !ended {
        send_body(stream, body, patience).await;
    }
}

async fn send_body<B: Body<Data = Bytes> + Send>(mut stream: SendStream<Piece>, body: B, patience: Duration) {
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            biased;
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            frame = body.frame() => frame,
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return stream.send_reset(Reason::INTERNAL_ERROR),
            None => break,
        };
        let frame = match frame.into_data() {
            Ok(mut data) => {
                // The end goes along with the last bit, where it is known.
                let last = body.is_end_stream();
                while !data.is_empty() {
                    let Ok(room) = timeout(patience, room(&mut stream, data.len())).await else {
                        return stream.send_reset(Reason::CANCEL);
                    };
                    let Some(room) = room else { return };
                    let bit = data.split_to(room);
                    let ended = last && data.is_empty();
                    if stream.send_data(Piece::whole(bit), ended).is_err() || ended {
                        return;
                    }
                    stream.reserve_capacity(0);
                }
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            // Nothing may follow them; an error says that the client is gone.
            let _ = stream.send_trailers(trailers);
            return;
        }
    }
    let _ = stream.send_data(Piece::whole(Bytes::new()), true);
}

/// Waits for room; how much there is, at most `wanted`. `None` if the stream is closed.
async fn room(stream: &mut SendStream<Piece>, wanted: usize) -> Option<usize> {
    stream.reserve_capacity(wanted.min(MOST));
    loop {
        match stream.capacity() {
            0 => {}
            room => return Some(room.min(wanted)),
        }
        poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
    }
}

/// Removes what belongs to a connection of HTTP/1.1 (RFC 9113, section 8.2.2), and says when this is.
fn tidy(headers: &mut HeaderMap, clock: &Clock) {
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
    if !headers.contains_key(DATE)
        && let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(UNIX_EPOCH + clock.now().wall.since_epoch()))
    {
        headers.insert(DATE, now);
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// The most that one write asks room for, bytes.
const MOST: usize = 64 * 1024;
