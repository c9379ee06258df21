//! Plain requests in a closed loop: what a proxy makes of those that open no WebSocket.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::timeout;

use crate::endpoint::{Endpoint, Link};
use crate::frame::Message;
use crate::http2;
use crate::peer::{Peer, header};
use crate::run::{Plan, Run, measure};
use crate::verbs::Report;

pub async fn get(endpoint: Endpoint, plan: &Plan, size: usize, streams: u32) -> Report {
    let (run, endpoint) = (Run::new(), Rc::new(endpoint));
    let worker = |seed: u32| {
        let (run, endpoint) = (run.clone(), endpoint.clone());
        async move {
            let mut client = timeout(PATIENCE, Client::connect(&endpoint)).await.context("no connection in time")??;
            let mut message = Message::from_service(size, 0);
            let mut number = u64::from(seed) << 32;
            let mut first = true;
            while run.goes_on() {
                message.set_number(number);
                let path = format!("/get?size={size}&number={number}");
                number += 1;
                let due = run.now();
                let got = client.get(&endpoint, &path, message.payload());
                timeout(PATIENCE, got).await.context("no answer in time")??;
                run.done(size, due);
                if std::mem::take(&mut first) {
                    run.ready();
                }
            }
            Ok(())
        }
    };
    measure(&run, plan, "get", (0..streams).map(worker).collect()).await
}

/// Asks for one thing after the other.
enum Client {
    /// On a connection of its own, which is kept alive.
    Http1(Box<Peer<Link>>),
    /// On a connection with others.
    Http2(SendRequest<Bytes>),
}

impl Client {
    async fn connect(endpoint: &Endpoint) -> anyhow::Result<Self> {
        Ok(match endpoint.share().await? {
            Some(requests) => Self::Http2(requests),
            None => Self::Http1(Box::new(endpoint.reach(READ).await?)),
        })
    }

    /// Every request has a token of its own.
    async fn get(&mut self, endpoint: &Endpoint, path: &str, expected: &[u8]) -> anyhow::Result<()> {
        let token = endpoint.next_token();
        let peer = match self {
            Self::Http2(requests) => return http2::get(requests.clone(), &endpoint.uri(path, token), expected).await,
            Self::Http1(peer) => peer,
        };
        let (target, host) = (Endpoint::target(path, token), endpoint.authority());
        peer.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        let head = peer.receive_http().await?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.starts_with("HTTP/1.1 200 "), "the GET was answered with {status:?}");
        let length = header(&head, "content-length").unwrap_or("no length");
        ensure!(length == expected.len().to_string(), "a body of {length} instead of {} bytes", expected.len());
        peer.compare(expected).await
    }
}

/// Bytes of one read.
const READ: usize = 64 * 1024;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    use super::*;
    use crate::backend;

    #[tokio::test]
    async fn a_get_is_answered_with_the_message_that_it_names_over_a_connection_that_stays() {
        let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
        let asked = async {
            tokio::task::spawn_local(backend::serve(port, Duration::from_secs(20)));
            let endpoint = Endpoint::new(port, None, false, vec!["token".to_owned()], None).unwrap();
            let mut client = loop {
                match Client::connect(&endpoint).await {
                    Ok(client) => break client,
                    // It does not listen yet.
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            let mut message = Message::from_service(300, 0);
            message.set_number(7);
            for _ in 0..2 {
                client.get(&endpoint, "/get?size=300&number=7", message.payload()).await.unwrap();
            }
            assert!(client.get(&endpoint, "/get?size=300&number=8", message.payload()).await.is_err());
        };
        LocalSet::new().run_until(asked).await;
    }
}
