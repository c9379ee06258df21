//! One renewal out of band: a fresh token for a live stream, over a short connection of its own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Empty;
use rustls::ClientConfig;

use crate::client::OpenError;
use crate::client::connect::{dial, refusal, small, speak, unusable};
use crate::client::target::{Target, TargetError, bearer, secret, value};
use crate::names::STREAM_HANDLE;
use crate::secret::{Opaque, Token};

/// What one renewal needs.
#[derive(Clone, Debug)]
pub struct Renewal<'a> {
    /// Where the stream was opened.
    pub target: &'a Target,
    /// Whom to trust, for `wss://`.
    pub tls: Option<&'a Arc<ClientConfig>>,
    /// The stream: see [`Stream::handle`](crate::client::Stream::handle).
    pub handle: &'a Opaque,
    /// The fresh token.
    pub token: &'a Token,
    /// How long the whole exchange may take.
    pub timeout: Duration,
}

/// Renews the stream; gives how long its token is now good for, in whole seconds, if the gateway said so.
///
/// An answer other than `200` is [`OpenError::Refused`]; the stream then goes on with its old token.
pub async fn renew(renewal: Renewal<'_>) -> Result<Option<Duration>, OpenError> {
    let timeout = renewal.timeout;
    tokio::time::timeout(timeout, renew_unbounded(renewal)).await.unwrap_or(Err(OpenError::Timeout(timeout)))
}

async fn renew_unbounded(renewal: Renewal<'_>) -> Result<Option<Duration>, OpenError> {
    let request = request(&renewal)?;
    let (mut sender, connection) = speak(dial(renewal.target, renewal.tls).await?).await?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(unusable)?;
        if answer.status() == StatusCode::OK {
            Ok(expires_in(&small(answer.into_body()).await))
        } else {
            Err(OpenError::Refused(refusal(answer).await))
        }
    };
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        renewed = &mut exchange => renewed,
        // It has ended, well or not: the exchange says how.
        _ = connection => exchange.await,
    }
}

fn request(renewal: &Renewal<'_>) -> Result<Request<Empty<Bytes>>, OpenError> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = renewal.target.renewal_path().parse().map_err(|_| TargetError::Header("the path"))?;
    let headers = request.headers_mut();
    headers.insert(HOST, value(renewal.target.authority(), "the host")?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(AUTHORIZATION, bearer(renewal.token)?);
    headers.insert(STREAM_HANDLE, secret(renewal.handle.expose(), "the stream's handle")?);
    Ok(request)
}

/// The member `expires_in`: seconds.
fn expires_in(body: &[u8]) -> Option<Duration> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    answer.get("expires_in")?.as_u64().map(Duration::from_secs)
}
