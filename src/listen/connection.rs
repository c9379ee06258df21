//! One connection, from TLS to the last of its requests.
//!
//! Every wait is bounded: the TLS handshake, each request head, the time in which a client takes a reply, and the time of
//! all requests together that become no stream and are not passed on ([`Settings::longest`]); a service that is being dialled when that is over
//! is still awaited, within the bounds that its route sets. A connection whose request becomes a stream leaves this task; the
//! stream has a task of its own and keeps the permit for as long as it lives.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::gateway::{Gateway, Peer};
use crate::listen::Settings;
use crate::listen::http2;
use crate::listen::tls::{HTTP2, Tls};
use crate::listen::turns::in_turn;
use crate::listen::work::Work;
use crate::names::field;
use crate::wire::server::{self, Accepted};

/// A connection that was accepted.
pub(super) struct Connection {
    pub address: SocketAddr,
    pub permit: OwnedSemaphorePermit,
    /// `None` on a plaintext listener.
    pub tls: Option<Arc<Tls>>,
    pub gateway: Gateway,
    pub settings: Settings,
    /// For the steps of the handshake.
    pub turns: Arc<Semaphore>,
    pub shutdown: CancellationToken,
}

impl Connection {
    /// Serves its requests until it ends, is upgraded, or `shutdown` and idle.
    pub async fn serve(self, tcp: TcpStream) {
        let overdue = Box::pin(tokio::time::sleep(self.settings.longest()));
        let began = self.gateway.clock().now().mono;
        let Self { address, permit, tls, gateway, settings, turns, shutdown } = self;
        let permit = Some(Arc::new(permit));
        let Some(tls) = tls else {
            let peer = Peer { address, tls: None, permit };
            return http(tcp, peer.into(), gateway, settings, shutdown, overdue).await;
        };
        let accept = in_turn(&turns, server::accept(tcp, tls.config()));
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = tokio::time::timeout(settings.handshake_timeout, accept) => accepted,
        };
        drop(turns);
        match accepted {
            Ok(Ok(Accepted { stream, server_name })) => {
                let peer = Peer { address, tls: Some(tls.presented(server_name.as_deref())), permit };
                if server::protocol(&stream) == Some(HTTP2) {
                    return Box::pin(http2::serve(stream, peer.into(), gateway, settings, shutdown, began)).await;
                }
                http(stream, peer.into(), gateway, settings, shutdown, overdue).await;
            }
            Ok(Err(error)) => tracing::debug!({ field::PEER } = %address, %error, "no TLS with the client"),
            Err(_) => tracing::debug!({ field::PEER } = %address, "the client's TLS handshake took too long"),
        }
    }
}

async fn http<T>(
    io: T,
    peer: Arc<Peer>,
    gateway: Gateway,
    settings: Settings,
    shutdown: CancellationToken,
    mut overdue: Pin<Box<Sleep>>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = peer.address;
    let work = Work::new();
    let begun = work.clone();
    let service = service_fn(move |request| {
        let (gateway, peer, working) = (gateway.clone(), peer.clone(), begun.begin());
        async move {
            let response = gateway.answer(request, peer).await;
            Ok::<_, Infallible>(response.map(|body| working.through(body)))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.request_timeout)
            .max_buf_size(settings.max_request_head.max(SMALLEST_HEAD))
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
    );
    let mut stuck = pin!(work.clone().stuck(settings.request_timeout.saturating_add(TAKING_A_REPLY)));
    let mut cut = pin!(work.clone().cut());
    let (mut leaving, mut late) = (false, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    broken(address, &error);
                }
                return;
            }
            () = shutdown.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            // Dropped with what is left of the answer, and without a last chunk: it cannot be taken for whole.
            () = &mut cut => return,
            () = overdue.as_mut(), if !late => {
                if work.was_of_use() {
                    overdue = Box::pin(tokio::time::sleep(settings.longest()));
                    continue;
                }
                late = true;
                tracing::debug!({ field::PEER } = %address, "no stream on this connection in all its time");
                // What is being answered is still answered; then, or from now on, there is only time to take that.
                connection.as_mut().graceful_shutdown();
                stuck.set(work.clone().stuck(TAKING_A_REPLY));
            }
            () = &mut stuck => {
                tracing::debug!({ field::PEER } = %address, "the client does not take its reply");
                return;
            }
        }
    }
}

/// Logs why a connection ended. A request that hyper could not read never came to the pipeline: hyper has answered it, so
/// its line in the log is written here.
fn broken(address: SocketAddr, error: &hyper::Error) {
    if error.is_parse() {
        tracing::info!(
            { field::PEER } = %address,
            { field::CAUSE } = "bad_request",
            { field::DETAIL } = %error,
            "refused"
        );
    } else {
        tracing::debug!({ field::PEER } = %address, %error, "the connection broke");
    }
}

/// How long a client may take to take a reply.
pub(super) const TAKING_A_REPLY: Duration = Duration::from_secs(10);
/// hyper's least buffer, bytes.
const SMALLEST_HEAD: usize = 8192;
