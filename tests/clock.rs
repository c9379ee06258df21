//! A wall clock that is stepped never lengthens a stream, and shortens one at once.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::{Backend, Gateway, config, instant, token};
use portcullis::clock::ManualClock;

const HOUR: i64 = 3600;

#[tokio::test]
async fn a_silent_stream_ends_within_a_second_of_a_step_past_its_deadline() {
    let (mut backend, clock) = (Backend::start().await, ManualClock::new());
    let gateway = Gateway::inside(&config(&backend.url(), ""), &clock);
    let (mut client, mut service) = gateway.open_with(&token(Duration::from_secs(600)), &mut backend).await;
    clock.step_wall(HOUR);
    let stepped = instant();
    assert_eq!(client.frame().await.close_code(), (3000, "token expired"));
    assert!(stepped.elapsed() < Duration::from_millis(1500), "{:?}", stepped.elapsed());
    assert_eq!(service.frame().await.close_code().0, 1001);
}

#[tokio::test]
async fn no_frame_passes_after_a_step_past_the_deadline() {
    let (mut backend, clock) = (Backend::start().await, ManualClock::new());
    let gateway = Gateway::inside(&config(&backend.url(), ""), &clock);
    let (mut client, mut service) = gateway.open_with(&token(Duration::from_secs(600)), &mut backend).await;
    client.text("before").await;
    assert_eq!(service.frame().await.text(), "before");
    clock.step_wall(HOUR);
    client.text("after").await;
    assert_eq!(service.frame().await.close_code().0, 1001);
    assert_eq!(client.frame().await.close_code(), (3000, "token expired"));
}

#[tokio::test]
async fn a_step_back_does_not_lengthen_a_stream() {
    let (mut backend, clock) = (Backend::start().await, ManualClock::new());
    let gateway = Gateway::inside(&config(&backend.url(), ""), &clock);
    let (begun, life) = (instant(), Duration::from_secs(2));
    let (mut client, mut service) = gateway.open_with(&token(life), &mut backend).await;
    clock.step_wall(-HOUR);
    client.text("after the step").await;
    assert_eq!(service.frame().await.text(), "after the step");
    assert_eq!(client.frame().await.close_code(), (3000, "token expired"));
    let lasted = begun.elapsed();
    assert!(lasted < life + Duration::from_millis(500), "{lasted:?}");
    assert!(lasted + Duration::from_millis(5) >= life, "{lasted:?}");
}
