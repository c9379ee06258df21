//! Metrics: what is counted is what has happened, the names are those of the documents, and no label is a client's choice.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{ADMIN, Admin, Backend, Gateway, Signal, ban, claims, config, mint, now, sign, token};
use portcullis::names::metric;
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

async fn start(backend: &Backend, more: &str) -> (Gateway, Admin) {
    let gateway = Gateway::start(&config(&backend.url(), &format!("{more}{ADMIN}"))).await;
    let admin = Admin::of(&gateway).await;
    (gateway, admin)
}

#[test]
fn the_documents_list_every_metric_and_no_other() {
    let text = include_str!("../docs/operations.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let names: BTreeSet<&str> = rows
        .map(|(name, _)| name.split('{').next().unwrap_or(name))
        .filter(|name| name.starts_with("portcullis_") || name.starts_with("process_"))
        .collect();
    assert_eq!(names, metric::ALL.into_iter().collect());
}

#[tokio::test]
async fn streams_are_counted_while_they_live_and_when_they_have_ended() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let mut one = gateway.open(&token(MINUTE)).await;
    let mut two = gateway.open(&token(MINUTE)).await;
    admin.metric_becomes("portcullis_streams{route=\"default\"}", 2.0).await;
    let (mut frames, mut up, mut down) = (0.0, 0.0, 0.0);
    for round in 0..3 {
        for link in [&mut one, &mut two] {
            link.text("0123456789").await;
            assert_eq!(link.frame().await.text(), "0123456789");
            frames += 1.0;
            up += 16.0;
            down += 12.0;
        }
        for (direction, bytes) in [("upstream", up), ("downstream", down)] {
            admin.metric_becomes(&format!("portcullis_frames_total{{direction=\"{direction}\"}}"), frames).await;
            admin.metric_becomes(&format!("portcullis_bytes_total{{direction=\"{direction}\"}}"), bytes).await;
        }
        if round == 0 {
            two.close(4000, "bye").await;
            assert_eq!(two.frame().await.close_code().0, 4000);
            drop(two);
            // Its Close went up, and the answer down.
            (frames, up, down) = (frames + 1.0, up + 11.0, down + 7.0);
            admin.metric_becomes("portcullis_streams{route=\"default\"}", 1.0).await;
            two = gateway.open(&token(MINUTE)).await;
        }
    }
    let closed = "portcullis_stream_closed_total{route=\"default\",cause=\"client_closed\"}";
    admin.metric_becomes(closed, 1.0).await;
    admin.metric_becomes("portcullis_upgrades_total{route=\"default\",result=\"accepted\",reason=\"none\"}", 3.0).await;
    admin.metric_becomes("portcullis_token_remaining_seconds_count", 3.0).await;
    assert!(admin.metric("portcullis_token_remaining_seconds_bucket{le=\"30.0\"}").await < 1.0);
    admin.metric_becomes("portcullis_token_remaining_seconds_bucket{le=\"60.0\"}", 3.0).await;
    admin.metric_becomes("portcullis_upstream_connect_seconds_count", 3.0).await;
}

#[tokio::test]
async fn how_late_an_expiry_is_told_is_measured() {
    let mut backend = Backend::start().await;
    let (gateway, admin) = start(&backend, "").await;
    for _ in 0..3 {
        let (mut client, _service) = gateway.open_with(&token(Duration::from_millis(600)), &mut backend).await;
        assert_eq!(client.frame().await.close_code().0, 3000);
    }
    admin.metric_becomes("portcullis_stream_closed_total{route=\"default\",cause=\"token_expired\"}", 3.0).await;
    admin.metric_becomes("portcullis_expiry_lateness_seconds_count", 3.0).await;
    let sum = admin.metric("portcullis_expiry_lateness_seconds_sum").await;
    assert!(sum > 0.0 && sum < 0.6, "{sum}");
}

#[tokio::test]
async fn refusals_are_counted_by_their_public_reason_and_renewals_by_their_result() {
    let backend = Backend::echo().await;
    let text = config(&backend.url(), "").replace("[[route]]", "[[route]]\npath = \"/only\"");
    let gateway = Gateway::start(&format!("{text}{ADMIN}")).await;
    let admin = Admin::of(&gateway).await;
    let expired = mint(&json!({"iss": common::ISSUER, "sub": "x", "exp": now().as_secs() - 1}));
    for (target, times) in [("/nowhere", 2), ("/only", 1), (&*format!("/only?access_token={expired}"), 3)] {
        for _ in 0..times {
            gateway.ask(target, "").await;
        }
    }
    let good = mint(&claims(MINUTE));
    let (reply, _link) = gateway.ask(&format!("/only?access_token={good}"), "").await;
    let handle = reply.header("portcullis-stream").expect("a handle");
    let renew = async |token: &str, handle: &str| {
        let port = gateway.address().port();
        let head = format!(
            "POST /only/.portcullis/renew HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\
             Portcullis-Stream: {handle}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        gateway.connect().await.request(&head).await.status
    };
    assert_eq!(renew(&token(MINUTE), handle).await, 200);
    assert_eq!(renew(&expired, handle).await, 401);
    assert_eq!(renew(&good, "AAAAAAAAAAAAAAAAAAAAAA").await, 410);
    for (series, value) in [
        ("portcullis_upgrades_total{route=\"-\",result=\"refused\",reason=\"no_route\"}", 2.0),
        ("portcullis_upgrades_total{route=\"default\",result=\"refused\",reason=\"token_missing\"}", 1.0),
        ("portcullis_upgrades_total{route=\"default\",result=\"refused\",reason=\"token_expired\"}", 3.0),
        ("portcullis_upgrades_total{route=\"default\",result=\"accepted\",reason=\"none\"}", 1.0),
        ("portcullis_token_renewals_total{route=\"default\",result=\"renewed\"}", 1.0),
        ("portcullis_token_renewals_total{route=\"default\",result=\"token_expired\"}", 1.0),
        ("portcullis_token_renewals_total{route=\"default\",result=\"stream_gone\"}", 1.0),
    ] {
        admin.metric_becomes(series, value).await;
    }
    let upgrades = admin.read("/metrics").await;
    let series = upgrades.lines().filter(|line| line.starts_with("portcullis_upgrades_total")).count();
    assert_eq!(series, 4, "renewals are no upgrades:\n{upgrades}");
}

#[tokio::test]
async fn reloads_and_certificates_are_told() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let ends = admin.metric("portcullis_tls_cert_expiry_timestamp_seconds{listener=\"public\"}").await;
    assert!(ends > now().as_secs_f64(), "{ends}");
    admin.metric_becomes("portcullis_config_last_reload_successful", 1.0).await;
    let first = admin.metric("portcullis_config_last_reload_success_timestamp_seconds").await;
    assert!((first - now().as_secs_f64()).abs() < 60.0);
    assert!((admin.metric("process_start_time_seconds").await - now().as_secs_f64()).abs() < 60.0);
    let file = gateway.path("config.toml");
    let good = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, "nonsense").expect("write");
    gateway.signal(Signal::HUP);
    admin.metric_becomes("portcullis_config_last_reload_successful", 0.0).await;
    std::fs::write(&file, good.replace("name = \"default\"\nupstream", "name = \"renamed\"\nupstream")).expect("write");
    gateway.signal(Signal::HUP);
    admin.metric_becomes("portcullis_config_last_reload_successful", 1.0).await;
    let text = admin.read("/metrics").await;
    assert!(text.contains("portcullis_streams{route=\"renamed\"} 0"), "{text}");
    assert!(!text.contains("portcullis_streams{route=\"default\"}"), "{text}");
}

#[tokio::test]
async fn nothing_that_a_client_sends_becomes_a_label() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let mut all = claims(MINUTE);
    for (claim, value) in [("sub", "swordfish-sub"), ("jti", "swordfish-jti"), ("sid", "swordfish-sid")] {
        all[claim] = value.into();
    }
    let good = mint(&all);
    let forged =
        sign(&json!({"alg": "HS256", "kid": "swordfish-kid"}), &all, b"swordfish-secret-which-is-not-the-right-one");
    for target in [
        format!("/swordfish-path?access_token={good}&x=swordfish-query"),
        format!("/swordfish-path?access_token={forged}"),
        "/swordfish-path/../x".to_owned(),
        "/?access_token=swordfish".to_owned(),
    ] {
        for more in ["", "Origin: https://swordfish.test\r\nX-Forwarded-For: 203.0.113.77\r\n"] {
            gateway.ask(&target, more).await;
        }
    }
    let (_link, _) = (gateway.open(&good).await, admin.revoke(ban("sub", "swordfish-sub")).await);
    gateway.ask(&format!("/?access_token={good}"), "").await;
    admin.raw("GET", "/swordfish", "Host: swordfish.test\r\n", "").await;
    let text = admin.read("/metrics").await;
    assert!(text.contains("token_revoked"), "{text}");
    for word in ["swordfish", "127.0.0.1", "203.0.113", common::ISSUER, common::SECRET, "eyJ"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}
