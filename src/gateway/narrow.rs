//! The layer for stages that need no waiting: a function from a request to a narrower type, or a refusal.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use tower::{Layer, Service};

use crate::gateway::rejection::Rejection;

/// A layer that lets through what `check` makes of a request.
pub fn narrow<F>(check: F) -> NarrowLayer<F> {
    NarrowLayer(check)
}

/// See [`narrow`].
#[derive(Clone)]
pub struct NarrowLayer<F>(F);

impl<F: Clone, S> Layer<S> for NarrowLayer<F> {
    type Service = Narrow<F, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Narrow { check: self.0.clone(), inner }
    }
}

/// See [`narrow`].
#[derive(Clone)]
pub struct Narrow<F, S> {
    check: F,
    inner: S,
}

impl<F, S, In, Out> Service<In> for Narrow<F, S>
where
    F: Fn(In) -> Result<Out, Rejection>,
    S: Service<Out, Error = Rejection>,
{
    type Response = S::Response;
    type Error = Rejection;
    type Future = Either<S::Future, Ready<Result<S::Response, Rejection>>>;

    // No stage of the pipeline ever waits to become ready, so none asks the next one.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: In) -> Self::Future {
        match (self.check)(request) {
            Ok(narrower) => Either::Left(self.inner.call(narrower)),
            Err(rejection) => Either::Right(ready(Err(rejection))),
        }
    }
}
