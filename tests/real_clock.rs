//! The program under a wall clock that is stepped: libfaketime moves it, the monotonic clock stays true.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Backend, Gateway, config, instant, token};

#[tokio::test]
async fn a_clock_stepped_forward_ends_a_stream_within_a_second() {
    let mut backend = Backend::start().await;
    let gateway = under_faketime(&backend).await;
    let (mut client, mut service) = gateway.open_with(&token(Duration::from_secs(600)), &mut backend).await;
    client.text("before").await;
    assert_eq!(service.frame().await.text(), "before");
    let stepped = instant();
    set(&gateway.path("clock"), "+3600");
    assert_eq!(client.frame().await.close_code(), (3000, "token expired"));
    assert!(stepped.elapsed() < Duration::from_millis(1500), "{:?}", stepped.elapsed());
    assert_eq!(service.frame().await.close_code().0, 1001);
}

#[tokio::test]
async fn a_clock_stepped_back_does_not_lengthen_a_stream() {
    let mut backend = Backend::start().await;
    let gateway = under_faketime(&backend).await;
    let life = Duration::from_secs(3);
    let (token, begun) = (token(life), instant());
    let (mut client, mut service) = gateway.open_with(&token, &mut backend).await;
    set(&gateway.path("clock"), "-3600");
    client.text("after").await;
    assert_eq!(service.frame().await.text(), "after");
    assert_eq!(client.frame().await.close_code(), (3000, "token expired"));
    let lasted = begun.elapsed();
    // `begun` was read after the token was made, hence the few milliseconds.
    assert!(lasted + Duration::from_millis(5) >= life && lasted < life + Duration::from_millis(500), "{lasted:?}");
}

async fn under_faketime(backend: &Backend) -> Gateway {
    let library = Command::new("faketime").args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output();
    let library = library.expect("faketime is not there: run `make test`").stdout;
    let library = String::from_utf8(library).expect("a path").trim().to_owned();
    Gateway::start_with(&config(&backend.url(), ""), |command| {
        let config = command.get_args().last().map(|path| Path::new(path).to_owned()).expect("its config");
        let clock = config.with_file_name("clock");
        set(&clock, "+0");
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", clock);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    })
    .await
}

/// Sets the offset of the wall clock at once: a half-written file is never seen.
fn set(clock: &Path, offset: &str) {
    let fresh = clock.with_extension("new");
    std::fs::write(&fresh, offset).expect("the clock");
    std::fs::rename(&fresh, clock).expect("the clock");
}
