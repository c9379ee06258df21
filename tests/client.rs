//! `portcullis client` in front of the gateway, as a person runs it: it keeps one stream open through several tokens.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why

mod common;

use common::{Client, Gateway, config};
use portcullis::backend::{Settings, echo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The client with tokens of its own, good for two seconds.
fn client(gateway: &Gateway, arguments: &[&str]) -> Client {
    let own = ["--ttl", "2s", "--sub", "one", "--message", "hello"];
    Client::start(gateway, &[&own, arguments].concat())
}

/// A gateway in front of the echo service.
async fn start(route: &str) -> (Gateway, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    let shutdown = CancellationToken::new();
    tokio::spawn(echo::serve(listener, Settings::default(), shutdown.clone()));
    let route = format!("carriers = [\"header\"]\n{route}");
    (Gateway::start(&config(&url, &route)).await, shutdown)
}

#[tokio::test]
async fn by_default_it_renews_beside_the_stream() {
    let (gateway, _shutdown) = start("").await;
    let mut client = client(&gateway, &[]);
    client.until("renewed   on the same stream", 3).await;
    assert_eq!(client.streams(), 1, "{}", client.told);
    assert!(!client.told.contains("closed"), "{}", client.told);
}

#[tokio::test]
async fn in_band_it_renews_with_a_message_that_the_gateway_takes_out() {
    let (gateway, _shutdown) = start("renew_in_band = \"consume\"\nrenewal_prefix = \"renew \"").await;
    let mut client = client(&gateway, &["--in-band", "--in-band-prefix", "renew "]);
    client.until("renewed   on the same stream", 3).await;
    assert_eq!(client.streams(), 1, "{}", client.told);
    assert!(!client.told.contains("received  renew"), "a renewal reached the service:\n{}", client.told);
}

#[tokio::test]
async fn in_band_a_route_that_forwards_renews_and_the_service_sees_the_token() {
    let (gateway, _shutdown) = start("renew_in_band = \"forward\"").await;
    let mut client = client(&gateway, &["--in-band"]);
    client.until("received  (the token)", 3).await;
    assert_eq!(client.streams(), 1, "{}", client.told);
    assert!(!client.told.contains("closed"), "{}", client.told);
}

#[tokio::test]
async fn another_principal_is_refused_and_comes_back_with_a_stream_of_its_own() {
    let (gateway, _shutdown) = start("").await;
    let mut client = client(&gateway, &["--sub", "two"]);
    client.until("open", 2).await;
    for told in ["renewal   refused with 403 forbidden; this stream ends with its token", "closed with 3000"] {
        assert!(client.told.contains(told), "{}", client.told);
    }
    assert_eq!(client.told.matches("sub: two").count(), 1, "the token that was refused opens it:\n{}", client.told);
}

#[tokio::test]
async fn where_a_route_does_not_renew_or_nobody_wants_it_to_it_comes_back() {
    let (gateway, _shutdown) = start("renew = false").await;
    let (renewing, _other) = start("").await;
    for (gateway, arguments, told) in [(&gateway, &[][..], 1), (&renewing, &["--no-renew"][..], 0)] {
        let mut client = client(gateway, arguments);
        client.until("open", 3).await;
        assert_eq!(client.told.matches("a stream ends with its token there").count(), told, "{}", client.told);
        assert_eq!(client.told.matches("closed with 3000 \"token expired\"").count(), 2, "{}", client.told);
    }
}
