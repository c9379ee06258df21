//! The upgrade towards the service, over a connection that stands.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::upstream::Error;
use crate::wire::Socket;
use crate::ws::handshake::{AnswerError, check_answer, headers_size};

/// What the service said.
pub enum Answer {
    /// Something else than `101`: its status, headers and body. A body of more than 64 KiB is left out.
    Other(Response<Bytes>),
    /// A `101` that keeps the rules.
    Switched(Box<Switched>),
}

/// A service that has switched to WebSocket.
pub struct Switched {
    /// The head of its `101`.
    pub head: Parts,
    /// The subprotocol it chose, one of those it was offered.
    pub subprotocol: Option<HeaderValue>,
    /// The connection.
    pub socket: Socket,
    /// What it sent together with the `101`.
    pub early: Bytes,
}

/// Sends the upgrade over `io` and waits for the answer, at most `timeout`.
pub async fn upgrade<T>(io: T, request: Request<()>, timeout: Duration) -> Result<Answer, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Socket: From<T>,
{
    let handshake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(|error| lost(&error))?;
    let sent = request.headers().clone();
    let work = async move {
        let response =
            sender.send_request(request.map(|()| Empty::<Bytes>::new())).await.map_err(|error| lost(&error))?;
        // hyper's own bound is soft: one read may go beyond it.
        if headers_size(response.headers()) > MAX_HEAD {
            return Err(Error::Invalid("the head of the service's answer is larger than 64 KiB".into()));
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            switched::<T>(response, &sent).await.map(Box::new).map(Answer::Switched)
        } else {
            Ok(Answer::Other(other(response).await))
        }
    };
    match tokio::time::timeout(timeout, alongside(connection.with_upgrades(), work)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Timeout("the service's answer", timeout)),
    }
}

async fn switched<T>(response: Response<Incoming>, sent: &HeaderMap) -> Result<Switched, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Socket: From<T>,
{
    let subprotocol = check_answer(sent, response.headers()).map_err(|error| match error {
        AnswerError::Subprotocol => Error::Subprotocol(error.to_string()),
        error => Error::Invalid(error.to_string()),
    })?;
    let (head, body) = response.into_parts();
    let mut response = Response::from_parts(head, body);
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|error| lost(&error))?;
    let parts = upgraded.downcast::<TokioIo<T>>().map_err(|_| Error::Invalid("the connection was lost".into()))?;
    // A copy of what is there, usually nothing: the original would keep hyper's whole read buffer alive.
    let early = Bytes::copy_from_slice(&parts.read_buf);
    Ok(Switched { head: response.into_parts().0, subprotocol, socket: parts.io.into_inner().into(), early })
}

async fn other(response: Response<Incoming>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes);
    Response::from_parts(head, body.unwrap_or_default())
}

/// Polls `connection` for as long as `work` needs it.
pub(crate) async fn alongside<O>(connection: impl Future, work: impl Future<Output = O>) -> O {
    let (mut connection, mut work) = (pin!(connection), pin!(work));
    let mut connected = true;
    loop {
        tokio::select! {
            output = &mut work => return output,
            _ = &mut connection, if connected => connected = false,
        }
    }
}

fn lost(error: &hyper::Error) -> Error {
    Error::Invalid(format!("no answer to the upgrade: {error}"))
}

/// The largest head of an answer.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// The largest body of a refusal by the service that is passed on.
const MAX_BODY: usize = 64 * 1024;
