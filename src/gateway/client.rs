//! The client's connection, or its stream of one, as it is before and after its answer is sent.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::wire::http2::Tunnel;
use crate::wire::{Socket, server};

/// Gives what the stream will run over, once the answer is sent. Clones are for the same, which one of them gets.
#[derive(Clone, Debug)]
pub enum Client {
    /// A connection of its own (RFC 6455).
    Http1(OnUpgrade),
    /// A stream of a connection (RFC 8441).
    Http2(Tunnel),
}

impl Client {
    /// What a request came over; `None` if it cannot become a stream.
    pub fn of<B>(request: &Request<B>) -> Option<Self> {
        let extensions = request.extensions();
        let tunnel = extensions.get::<Tunnel>().cloned().map(Self::Http2);
        tunnel.or_else(|| extensions.get::<OnUpgrade>().cloned().map(Self::Http1))
    }

    /// What the stream runs over, and what had been read ahead; an error says what became of it.
    pub async fn take_back(self) -> Result<(Socket, Bytes), &'static str> {
        let taken = async {
            match self {
                Self::Http1(upgrade) => {
                    let upgraded = upgrade.await.map_err(|_| GONE)?;
                    taken_back(upgraded).ok_or("the connection cannot be taken back")
                }
                Self::Http2(tunnel) => Ok((tunnel.wire().await.ok_or(GONE)?.into(), Bytes::new())),
            }
        };
        match tokio::time::timeout(SENDING, taken).await {
            Ok(taken) => taken,
            Err(_) => Err("the client did not take the 101"),
        }
    }
}

/// The client's connection, and what hyper had read ahead: a copy of it, usually nothing, since the original would keep
/// hyper's whole read buffer alive.
fn taken_back(upgraded: Upgraded) -> Option<(Socket, Bytes)> {
    match upgraded.downcast::<TokioIo<server::Stream>>() {
        Ok(parts) => Some((parts.io.into_inner().into(), Bytes::copy_from_slice(&parts.read_buf))),
        Err(upgraded) => {
            let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
            Some((parts.io.into_inner().into(), Bytes::copy_from_slice(&parts.read_buf)))
        }
    }
}

const GONE: &str = "the client went away";
/// How long a client may take to take the `101`.
const SENDING: Duration = Duration::from_secs(10);
