//! A client's HTTP/2 connection (RFC 9113): many requests at a time, of which extended CONNECT makes streams (RFC 8441).
//!
//! A WebSocket's CONNECT becomes the upgrade request that HTTP/1.1 would have, and its `101` the `200` that belongs to it, so
//! that the pipeline knows one kind of handshake only. The `h2` library is used as it is, without hyper: a stream of ours
//! must be able to be reset, to know what of it is unsent, and to take in what cannot go on; see [`crate::wire::http2`].
//!
//! Bounded: requests at a time, what each may send ahead (all windows together fit into the connection's), heads, what
//! the connection may cost before others have their turn, and the time of a connection that carries nothing.

mod io;
mod reply;
mod request;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Mono;
use crate::gateway::{Gateway, Peer};
use crate::listen::Settings;
use crate::listen::connection::TAKING_A_REPLY;
use crate::names::field;
use crate::wire::http2::{Busy, Load, Piece};
use io::Paced;

/// Serves the requests of a connection, which was accepted at `began`, until it ends, or `shutdown` and nothing is left on
/// it.
pub(super) async fn serve<T>(
    io: T,
    peer: Arc<Peer>,
    gateway: Gateway,
    settings: Settings,
    shutdown: CancellationToken,
    began: Mono,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = Paced::new(io);
    let handshake = io.writing(builder(&settings).handshake(io.clone()));
    let handshake = timeout(settings.request_timeout, handshake);
    let connection = tokio::select! {
        () = shutdown.cancelled() => return,
        connection = handshake => connection,
    };
    match connection {
        Ok(Ok(connection)) => Served::new(connection, peer, gateway, settings, began).run(&io, shutdown).await,
        Ok(Err(error)) => broken(&peer, &error),
        Err(_) => tracing::debug!({ field::PEER } = %peer.address, "no HTTP/2 preface in time"),
    }
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAMS * STREAM_WINDOW)
        .max_send_buffer_size(UNSENT)
        .max_header_list_size(u32::try_from(settings.max_request_head).unwrap_or(u32::MAX));
    builder
}

/// A connection and what goes on on it.
struct Served<T> {
    connection: Connection<Paced<T>, Piece>,
    peer: Arc<Peer>,
    gateway: Gateway,
    settings: Settings,
    requests: JoinSet<()>,
    load: watch::Sender<Load>,
    bounds: Bounds,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Served<T> {
    fn new(
        connection: Connection<Paced<T>, Piece>,
        peer: Arc<Peer>,
        gateway: Gateway,
        settings: Settings,
        began: Mono,
    ) -> Self {
        let (requests, load) = (JoinSet::new(), watch::Sender::default());
        let bounds = Bounds::new(settings, began, gateway.clock().now().mono);
        Self { connection, peer, gateway, settings, requests, load, bounds }
    }

    async fn run(mut self, io: &Paced<T>, shutdown: CancellationToken) {
        let mut changes = self.load.subscribe();
        let mut alarm = pin!(sleep_until(self.instant(Mono::default())));
        loop {
            let load = *changes.borrow_and_update();
            self.bounds.look(load, self.now());
            let end = self.bounds.end(load).map(|end| self.instant(end));
            if let Some(end) = end.filter(|end| *end != alarm.deadline()) {
                alarm.as_mut().reset(end);
            }
            tokio::select! {
                accepted = io.writing(self.connection.accept()) => match accepted {
                    Some(Ok((request, respond))) => self.answer(request, respond),
                    Some(Err(error)) => return broken(&self.peer, &error),
                    None => return,
                },
                Some(_) = self.requests.join_next() => {}
                Ok(()) = changes.changed() => {}
                () = shutdown.cancelled(), if self.bounds.leaving.is_none() => self.leave(),
                () = alarm.as_mut(), if end.is_some() => {
                    if self.bounds.leaving.is_some() {
                        tracing::debug!({ field::PEER } = %self.peer.address, "the client does not let go of its connection");
                        return;
                    }
                    self.leave();
                }
            }
        }
    }

    fn now(&self) -> Mono {
        self.gateway.clock().now().mono
    }

    fn instant(&self, at: Mono) -> Instant {
        Instant::from_std(self.gateway.clock().instant(at))
    }

    /// Tells the client to go. What is being answered still is, and streams live on.
    fn leave(&mut self) {
        self.bounds.leaving = Some(self.now());
        self.connection.graceful_shutdown();
    }

    fn answer(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Piece>) {
        if !self.bounds.takes_requests(self.now()) {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let (gateway, peer, busy) = (self.gateway.clone(), self.peer.clone(), Busy::begin(&self.load));
        let patience = self.settings.request_timeout.saturating_add(TAKING_A_REPLY);
        self.requests.spawn(reply::answer(request, respond, gateway, peer, busy, patience));
    }
}

/// How long a connection may go on.
struct Bounds {
    settings: Settings,
    /// Since when nothing is being answered, and no stream is there.
    idle: Mono,
    /// Since when nothing is there that was let in.
    vain: Mono,
    /// What was there at the last look.
    seen: Load,
    /// Since when the client is told to go.
    leaving: Option<Mono>,
}

impl Bounds {
    fn new(settings: Settings, began: Mono, now: Mono) -> Self {
        Self { settings, idle: now, vain: began, seen: Load::default(), leaving: None }
    }

    /// Whether a request is answered. A client that is told to go may not have heard of it yet; one that does not want to
    /// hear must not go on.
    fn takes_requests(&self, now: Mono) -> bool {
        self.leaving.is_none_or(|leaving| now < leaving.saturating_add(HEARING))
    }

    fn look(&mut self, load: Load, now: Mono) {
        if load == self.seen {
            return;
        }
        if load.busy == 0 {
            self.idle = now;
        }
        // One that came and went between two looks counts as well.
        if load.ever != self.seen.ever || load.carried != self.seen.carried {
            self.vain = now;
        }
        self.seen = load;
    }

    /// When the connection is to end if nothing changes, or to be cut off if it is ending. Requests that are refused do
    /// not lengthen it: else a client without a token could keep its permit for ever.
    fn end(&self, load: Load) -> Option<Mono> {
        if let Some(leaving) = self.leaving {
            return (load.busy == 0).then(|| leaving.max(self.idle).saturating_add(TAKING_A_REPLY));
        }
        let idle = (load.busy == 0).then(|| self.idle.saturating_add(self.settings.request_timeout));
        let vain = (load.carried == 0).then(|| self.vain.saturating_add(self.settings.longest()));
        [idle, vain].into_iter().flatten().min()
    }
}

/// Logs why a connection ended.
fn broken(peer: &Peer, error: &h2::Error) {
    if error.is_io() {
        tracing::debug!({ field::PEER } = %peer.address, %error, "the connection broke");
    } else {
        // It may be an attack: floods of resets, settings or empty frames end here.
        tracing::info!(
            { field::PEER } = %peer.address,
            { field::CAUSE } = "http2_protocol",
            { field::DETAIL } = %error,
            "connection ended"
        );
    }
}

/// Requests at a time on one connection, streams among them.
const STREAMS: u32 = 256;
/// What a stream may send ahead, bytes: the least that RFC 9113 knows, so that all of them fit into a connection.
const STREAM_WINDOW: u32 = 65_535;
/// What of a stream may be written and not be the kernel's, bytes.
const UNSENT: usize = 64 * 1024;
/// How long a client may take to hear that it is to go.
const HEARING: Duration = Duration::from_secs(2);
