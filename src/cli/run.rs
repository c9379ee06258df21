//! `portcullis run` and `portcullis reload`.
//!
//! Signals of `run`: SIGTERM and SIGINT drain and leave with 0; a second one leaves at once, with 1. SIGHUP reads the
//! config again, the environment of the process over it as at the start; a bad config is told in the log, and the old
//! one goes on.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::pid::{self, PidFile};
use super::signals::Terminations;
use super::{ConfigFile, Failure};
use crate::app::{App, Running};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::jwks::Missing;

/// Arguments of `portcullis reload`.
#[derive(Debug, Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The process to tell [default: the one in the config's pid_file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
}

/// Serves until a signal ends it.
pub(super) fn run(file: &ConfigFile) -> Result<(), Failure> {
    let config = file.load()?;
    let _log = crate::telemetry::log::init(&config.log).context("logging cannot start")?;
    let mut builder = match config.server.workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        workers => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
    };
    let runtime = builder.enable_all().build()?;
    let done = runtime.block_on(serve(file, config));
    // Whatever still runs was asked to leave and did not; a name lookup must not hold the process back.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

async fn serve(file: &ConfigFile, config: Config) -> Result<(), Failure> {
    let mut terminations = Terminations::new()?;
    let mut hangups = signal(SignalKind::hangup())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        config = %file.config.display(),
        routes = config.routes.len(),
        issuers = config.issuers.len(),
        "starting"
    );
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let _pid_file = match &config.server.pid_file {
        Some(path) => Some(PidFile::write(path.clone()).await?),
        None => None,
    };
    let clock = Clock::system();
    tokio::select! {
        prepared = App::prepare(&config, &clock) => prepared.map_err(|missing| anyhow!("{}", listed(&missing)))?,
        name = terminations.next() => {
            tracing::info!(signal = name, "leaving before the issuers' keys were there");
            return Ok(());
        }
    }
    let running = App::start(config, clock).map_err(anyhow::Error::from)?;
    loop {
        tokio::select! {
            () = told_to_leave(&mut terminations, &running) => break,
            heard = hangups.recv() => {
                if heard.is_none() {
                    continue;
                }
                // Key sets may have to be fetched; who wants the gateway to leave need not wait for them.
                tokio::select! {
                    () = reload_into(&running, file.config.clone()) => {}
                    () = told_to_leave(&mut terminations, &running) => break,
                }
            }
        }
    }
    tokio::select! {
        () = running.shutdown() => Ok(()),
        name = terminations.next() => {
            tracing::warn!(signal = name, "a second signal: leaving at once");
            Err(Failure::Said)
        }
    }
}

/// Waits for a signal, or for an operator.
async fn told_to_leave(terminations: &mut Terminations, running: &Running) {
    tokio::select! {
        name = terminations.next() => tracing::info!(signal = name, "leaving"),
        () = running.asked_to_leave() => tracing::info!("leaving"),
    }
}

/// Reads the config again and puts it into force; whatever is wrong goes to the log, and the old config goes on.
async fn reload_into(running: &Running, path: PathBuf) {
    let shown = path.display().to_string();
    let loaded = tokio::task::spawn_blocking(move || config::load(&path, config::environment())).await;
    match loaded {
        Ok(Ok(config)) => match replace(running, config).await {
            Ok(notes) => {
                for note in notes {
                    tracing::warn!("reload: {note}");
                }
                tracing::info!(config = %shown, "reloaded");
            }
            Err(error) => {
                running.reload_failed();
                tracing::error!(config = %shown, %error, "reload refused: the old config goes on");
            }
        },
        Ok(Err(problems)) => {
            running.reload_failed();
            for problem in problems.list() {
                let at = problems.locate(problem);
                tracing::error!(%at, problem = %problem.message, remedy = %problem.remedy, "bad config");
            }
            tracing::error!(config = %shown, problems = problems.list().len(), "reload refused: the old config goes on");
        }
        Err(error) => {
            running.reload_failed();
            tracing::error!(config = %shown, %error, "reload failed: the old config goes on");
        }
    }
}

/// Puts a config in force, with the keys that must be there.
async fn replace(running: &Running, config: Config) -> anyhow::Result<Vec<String>> {
    running.prepare(&config).await.map_err(|missing| anyhow!("{}", listed(&missing)))?;
    Ok(running.reload(config)?)
}

fn listed(missing: &[Missing]) -> String {
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    format!(
        "{} (with start_without_keys = true it goes on even so, and lets nobody in until they are there)",
        missing.join("; ")
    )
}

/// Checks the config, then asks the running process to take it over.
pub(super) fn reload(arguments: &ReloadArguments) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let pid = match (arguments.pid, &config.server.pid_file) {
        (Some(pid), _) => {
            pid::reload_by_pid(pid)?;
            pid
        }
        (None, Some(path)) => pid::reload_by_file(path)?,
        (None, None) => {
            return Err(anyhow!("which process? Set server.pid_file in the config, or say --pid N").into());
        }
    };
    anstream::println!(
        "process {pid} was told to reload {}; its log says what came of it",
        arguments.file.config.display()
    );
    Ok(())
}
