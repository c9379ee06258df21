//! The stage that finds the one token, takes it out and has it judged.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use tower::Service;

use crate::admission::{Admitted, admit};
use crate::clock::Clock;
use crate::gateway::Body;
use crate::gateway::rejection::Rejection;
use crate::gateway::upgrade::Upgrade;
use crate::names;
use crate::secret::Opaque;
use crate::token::carrier::{self, Taken};

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
    /// The handle that the client has chosen for its stream, on a route where it needs one.
    pub(super) handle: Option<Opaque>,
}

/// See the module.
#[derive(Clone)]
pub struct Authenticate<S> {
    clock: Clock,
    inner: S,
}

impl<S> Authenticate<S> {
    /// The layer; tokens are judged by `clock`.
    pub fn with(clock: Clock) -> impl Fn(S) -> Self + Clone {
        move |inner| Self { clock: clock.clone(), inner }
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
        let (clock, mut inner) = (self.clock.clone(), self.inner.clone());
        Box::pin(async move {
            let admitted = authenticate(upgrade, &clock).await?;
            inner.call(admitted).await
        })
    }
}

async fn authenticate(mut upgrade: Upgrade, clock: &Clock) -> Result<Admitted<Tokenless>, Rejection> {
    let route = upgrade.route.clone();
    let taken = carrier::take(&route.carriers, upgrade.target.query(), &upgrade.headers)?;
    let Taken { token, query, headers, subprotocols, fallback_subprotocol: fallback } = taken;
    upgrade.headers = headers;
    let (query, handle) = if route.renewal.out_of_band {
        carrier::take_parameter(query.as_deref(), names::HANDLE_PARAMETER)?
    } else {
        (query, None)
    };
    let request = Tokenless { upgrade, query, subprotocols, fallback, handle };
    Ok(admit(request, token, &*route.judge, clock).await?)
}
