//! The stage that lets only proper WebSocket handshakes through.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Uri};

use crate::gateway::Visit;
use crate::gateway::client::Client;
use crate::gateway::origin::Welcome;
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Route, Routed};
use crate::ws::handshake::{self, Key, RequestError};

/// A WebSocket handshake that a route takes. Its token has not been looked for.
pub struct Upgrade {
    pub(super) visit: Arc<Visit>,
    pub(super) route: Arc<Route>,
    /// `Host` as the client sent it.
    pub(super) host: HeaderValue,
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    pub(super) key: Key,
    /// Gives what the stream runs over once the `101` is sent.
    pub(super) client: Client,
}

/// Lets a request through if it is a WebSocket handshake (RFC 6455, section 4.2.1).
pub fn check(welcome: Welcome) -> Result<Upgrade, Rejection> {
    let Routed { visit, route, host, request } = welcome.into_routed();
    let key = handshake::check_request(request.method(), request.version(), request.headers())?;
    let client = Client::of(&request).ok_or(RequestError::NotAnUpgrade)?;
    let (head, _body) = request.into_parts();
    Ok(Upgrade { visit, route, host, target: head.uri, headers: head.headers, key, client })
}
