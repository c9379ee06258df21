//! The body of a request on its way to the service, and how far it is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::plain::clean_rising;
use crate::clock::{Clock, Mono};
use crate::gateway::body::{BoxError, Streamed};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Http, Route};
use crate::upstream;

/// How far a request is. Written by its body, read by whoever waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    /// When something of it last went on, nanoseconds since the clock's origin.
    last: AtomicU64,
    bytes: AtomicU64,
    stage: AtomicU8,
    /// Whether the client's end of it broke.
    broken: AtomicBool,
}

/// The client has the next bit, and is waited for.
const CLIENT: u8 = 0;
/// The service has not taken what there is.
const SERVICE: u8 = 1;
/// All of it has gone on.
const DONE: u8 = 2;

impl Progress {
    /// Of a request with this body that goes on now.
    pub(super) fn of(body: Option<&Streamed>, clock: &Clock) -> Arc<Self> {
        let progress = Self {
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stage: AtomicU8::new(if body.is_some() { SERVICE } else { DONE }),
            broken: AtomicBool::new(false),
        };
        progress.touch(clock);
        Arc::new(progress)
    }

    /// Until when it may go on like this; and what is told then.
    pub(super) fn end(&self, http: &Http) -> (Mono, Rejection) {
        let last = Mono::from_origin(Duration::from_nanos(self.last.load(Ordering::Relaxed)));
        let silent = |what: &str, limit| Rejection::UpstreamTimeout(format!("{what} took longer than {limit:?}"));
        match self.stage.load(Ordering::Relaxed) {
            CLIENT => (last.saturating_add(http.upload_timeout), Rejection::UploadTimeout),
            SERVICE => {
                (last.saturating_add(http.upload_timeout), silent("taking the request's body", http.upload_timeout))
            }
            _ => (last.saturating_add(http.response_timeout), silent("the service's answer", http.response_timeout)),
        }
    }

    /// Whether all of it has gone on.
    pub(super) fn is_done(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == DONE
    }

    /// How much of it has.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why there is no answer: the service's fault, unless the client's body broke off before.
    pub(super) fn blame(&self, error: upstream::Error) -> Rejection {
        if self.broken.load(Ordering::Relaxed) {
            Rejection::BadRequest("the request's body broke off, or is malformed")
        } else {
            error.into()
        }
    }

    fn touch(&self, clock: &Clock) {
        let nanos = u64::try_from(clock.now().mono.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.last.store(nanos, Ordering::Relaxed);
    }
}

/// The body as the service gets it.
pub(super) struct Rising {
    body: Streamed,
    progress: Arc<Progress>,
    route: Arc<Route>,
    clock: Clock,
}

impl Rising {
    /// This body, or none.
    pub(super) fn of(body: Option<Streamed>, progress: &Arc<Progress>, route: &Arc<Route>, clock: &Clock) -> Streamed {
        match body {
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Some(body) => {
                let (progress, route, clock) = (progress.clone(), route.clone(), clock.clone());
                Self { body, progress, route, clock }.boxed_unsync()
            }
        }
    }

    fn ended(&self) {
        self.progress.touch(&self.clock);
        self.progress.stage.store(DONE, Ordering::Relaxed);
    }
}

impl HttpBody for Rising {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let progress = &this.progress;
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => {
                progress.stage.store(CLIENT, Ordering::Relaxed);
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        match frame {
            None => this.ended(),
            Some(Err(error)) => {
                progress.broken.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    progress.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    clean_rising(trailers, &this.route);
                }
                progress.touch(&this.clock);
                progress.stage.store(SERVICE, Ordering::Relaxed);
                // Whoever knows the length, or has the trailers, does not ask for the end.
                if this.body.is_end_stream() || frame.is_trailers() {
                    this.ended();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
