//! How log lines look, and which ones are written.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use super::queue::Queue;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line of text each.
    Text,
    /// One JSON object per line.
    Json,
}

/// How logs are written; they go to standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// How lines look.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, format: Format::Auto }
    }
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The process logs already.
    #[error(transparent)]
    Already(#[from] TryInitError),
    /// There is no thread for it.
    #[error("no thread for writing the log: {0}")]
    Thread(#[from] io::Error),
}

/// Holds the log open: dropping it waits, for at most a second, until all lines are written.
#[must_use]
#[derive(Debug)]
pub struct Log(Queue);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Starts logging to standard error, without ever waiting for it: see `queue`. To be dropped last of all.
pub fn init(config: &Config) -> Result<Log, InitError> {
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    // The libraries below speak of frames, headers and sessions at their finer levels: of these only warnings.
    let levels = Targets::new()
        .with_default(LevelFilter::from_level(config.level).min(LevelFilter::WARN))
        .with_target(env!("CARGO_PKG_NAME"), config.level);
    let queue = Queue::start(io::stderr())?;
    let lines = fmt::layer().with_writer(queue.clone());
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        lines.with_target(false).boxed()
    };
    tracing_subscriber::registry().with(lines.with_filter(levels)).try_init()?;
    Ok(Log(queue))
}

/// How long the process waits at its end for its last lines to be taken.
const LAST_LINES: Duration = Duration::from_secs(1);
