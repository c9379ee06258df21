//! The stage that finds the one token, takes it out and has it judged.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use tower::Service;

use crate::admission::{Admitted, admit, readmit};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::Route;
use crate::gateway::ticket::Spent;
use crate::gateway::upgrade::Upgrade;
use crate::gateway::{Body, Shared};
use crate::names;
use crate::secret::OpaqueHash;
use crate::token::carrier::{self, Left};
use crate::token::{Denial, Purpose};

/// A handshake without its token.
pub struct Tokenless {
    /// The handshake; what of it held the token has been replaced.
    pub(super) upgrade: Upgrade,
    /// The query that goes on.
    pub(super) query: Option<String>,
    /// The subprotocols that go on.
    pub(super) subprotocols: Vec<String>,
    /// What the client is answered if the service chooses no subprotocol.
    pub(super) fallback: Option<String>,
    /// The handle of the stream, if the client knows it already: it has chosen it, or it came with its ticket.
    pub(super) handle: Option<OpaqueHash>,
}

/// See the module.
#[derive(Clone)]
pub struct Authenticate<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> Authenticate<S> {
    /// The layer.
    pub fn with(shared: Arc<Shared>) -> impl Fn(S) -> Self + Clone {
        move |inner| Self { shared: shared.clone(), inner }
    }
}

impl<S> Service<Upgrade> for Authenticate<S>
where
    S: Service<Admitted<Tokenless>, Response = Response<Body>, Error = Rejection> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Rejection;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Rejection>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, upgrade: Upgrade) -> Self::Future {
        let (shared, mut inner) = (self.shared.clone(), self.inner.clone());
        Box::pin(async move {
            let admitted = authenticate(upgrade, &shared).await?;
            inner.call(admitted).await
        })
    }
}

async fn authenticate(mut upgrade: Upgrade, shared: &Shared) -> Result<Admitted<Tokenless>, Rejection> {
    let route = upgrade.route.clone();
    let presented = (upgrade.target.query(), &upgrade.headers);
    let mut spent = shared.tickets.spend_all(&route, presented, shared.clock.now().mono);
    // Two are refused here, so that at most one was spent.
    let query = match route.ticket_name() {
        Some(name) => carrier::take_parameter(upgrade.target.query(), name)?.0,
        None => upgrade.target.query().map(str::to_owned),
    };
    let (query, chosen) = take_handle(&route, query)?;
    let (token, left) = carrier::take_any(&route.carriers, query.as_deref(), &upgrade.headers)?;
    let Left { query, headers, subprotocols, fallback_subprotocol: fallback } = left;
    upgrade.headers = headers;
    match (spent.pop(), token) {
        (None, None) => Err(carrier::missing().into()),
        (None, Some(token)) => {
            let request = Tokenless { upgrade, query, subprotocols, fallback, handle: chosen };
            Ok(admit(request, (token, route.afterwards()), Purpose::Handshake, &*route.judge, &shared.clock).await?)
        }
        (Some(_), Some(_)) => Err(Rejection::BadRequest("the request carries a token and a ticket")),
        (Some(spent), None) => {
            let Spent { grant, token, handle } = spent?;
            if chosen.is_some() && handle != chosen {
                return Err(Rejection::BadRequest("the handle in the query is not the ticket's"));
            }
            let request = Tokenless { upgrade, query, subprotocols, fallback, handle };
            Ok(readmit(request, (grant, token), &shared.clock)?)
        }
    }
}

/// The query without the handle that the client has chosen, and that handle, on a route where it needs one.
pub(super) fn take_handle(
    route: &Route,
    query: Option<String>,
) -> Result<(Option<String>, Option<OpaqueHash>), Denial> {
    if route.renewal.out_of_band {
        let (query, chosen) = carrier::take_parameter(query.as_deref(), names::HANDLE_PARAMETER)?;
        Ok((query, chosen.map(|handle| handle.hash())))
    } else {
        Ok((query, None))
    }
}
