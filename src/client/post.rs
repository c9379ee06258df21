//! What is asked of the gateway beside a stream, each over a short connection of its own: a renewal, a ticket.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use rustls::ClientConfig;
use serde_json::Value;

use crate::client::OpenError;
use crate::client::connect::{dial, refusal, small, speak, unusable};
use crate::client::target::{Target, TargetError, bearer, secret, value};
use crate::names::{RENEW_PATH, STREAM_HANDLE, TICKET_PATH};
use crate::secret::{Opaque, Token};

/// What one such request needs.
#[derive(Clone, Debug)]
pub struct Post<'a> {
    /// Where the stream is, or will be, opened.
    pub target: &'a Target,
    /// Whom to trust, for `wss://`.
    pub tls: Option<&'a Arc<ClientConfig>>,
    /// The stream, for a renewal: see [`Stream::handle`](crate::client::Stream::handle).
    pub handle: Option<&'a Opaque>,
    /// The token.
    pub token: &'a Token,
    /// How long the whole exchange may take.
    pub timeout: Duration,
}

/// Renews a stream; gives how long its token is now good for, in whole seconds; `None` = without an end.
///
/// An answer other than `200` is [`OpenError::Refused`]; the stream then goes on with its old token.
pub async fn renew(post: Post<'_>) -> Result<Option<Duration>, OpenError> {
    let answer = send(post, RENEW_PATH).await?;
    Ok(answer.get("expires_in").and_then(Value::as_u64).map(Duration::from_secs))
}

/// Gets a ticket, which opens one stream in the place of a token; and how long it is good for, in whole seconds.
pub async fn ticket(post: Post<'_>) -> Result<(Token, Duration), OpenError> {
    let answer = send(post, TICKET_PATH).await?;
    let ticket = answer.get("ticket").and_then(Value::as_str);
    let ticket = ticket.ok_or_else(|| OpenError::Answer("there is no ticket in it".to_owned()))?;
    let life = answer.get("expires_in").and_then(Value::as_u64).unwrap_or_default();
    Ok((Token::new(ticket.to_owned()), Duration::from_secs(life)))
}

/// The answer's JSON; `null` if it has none.
async fn send(post: Post<'_>, path: &str) -> Result<Value, OpenError> {
    let timeout = post.timeout;
    tokio::time::timeout(timeout, send_unbounded(post, path)).await.unwrap_or(Err(OpenError::Timeout(timeout)))
}

async fn send_unbounded(post: Post<'_>, path: &str) -> Result<Value, OpenError> {
    let request = request(&post, path)?;
    let (mut sender, connection) = speak(dial(post.target, post.tls).await?).await?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(unusable)?;
        if answer.status() == StatusCode::OK {
            Ok(serde_json::from_slice(&small(answer.into_body()).await).unwrap_or_default())
        } else {
            Err(OpenError::Refused(refusal(answer).await))
        }
    };
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        answered = &mut exchange => answered,
        // It has ended, well or not: the exchange says how.
        _ = connection => exchange.await,
    }
}

fn request(post: &Post<'_>, path: &str) -> Result<Request<Empty<Bytes>>, OpenError> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = post.target.below(path).parse().map_err(|_| TargetError::Header("the path"))?;
    let headers = request.headers_mut();
    headers.insert(HOST, value(post.target.authority(), "the host")?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(AUTHORIZATION, bearer(post.token)?);
    if let Some(handle) = post.handle {
        headers.insert(STREAM_HANDLE, secret(handle.expose(), "the stream's handle")?);
    }
    Ok(request)
}
