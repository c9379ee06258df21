//! `portcullis demo`.

use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::demo::{Options, run};
use crate::telemetry::log;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Play the exchange and end; without it, on a terminal, the gate stays up with a page to try it
    #[arg(long)]
    once: bool,
    /// How long a token is good for, from 2s to 1h
    #[arg(long, default_value = "10s", value_parser = ttl)]
    ttl: Duration,
    /// The gateway's port on this machine [default: 8443 for the page, else one of the system's choice]
    #[arg(long)]
    port: Option<u16>,
}

/// Plays it; fails if a step did not come out as expected.
pub(super) fn demo(arguments: &Arguments) -> Result<(), Failure> {
    let config = log::Config { level: tracing::Level::WARN, ..log::Config::default() };
    let _log = log::init(&config).map_err(anyhow::Error::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let options = Options { once: arguments.once, ttl: arguments.ttl, port: arguments.port };
    let played =
        runtime.block_on(async { run(options, super::signals::terminated()?).await.map_err(anyhow::Error::from) })?;
    if played { Ok(()) } else { Err(Failure::Said) }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = super::client::duration(text)?;
    if Options::ttl_fits(ttl) { Ok(ttl) } else { Err("from 2s to 1h, in whole seconds".to_owned()) }
}
