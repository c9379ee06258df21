//! The whole exchange in one process, for a person to watch: gateway, echo, verifier and issuer client.
//!
//! Owns the story and its page, and nothing else: every part is the one that runs alone too. A certificate is made on
//! the spot, and tokens are handed out to anybody on this machine, which is why the gateway of the demo listens on
//! loopback only. Called by `portcullis demo`.

mod certs;
mod page;
mod print;
mod stage;
mod story;

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use stage::StageError;

use crate::clock::Clock;
use crate::demo::print::Printer;
use crate::demo::stage::Stage;

/// What the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Play the exchange and end, also on a terminal.
    pub once: bool,
    /// How long a token is good for: 2 s to 1 h, whole seconds.
    pub ttl: Duration,
    /// The gateway's port. Default: 8443 if it stays up and the port is free, else one of the system's choice.
    pub port: Option<u16>,
}

impl Options {
    /// Whether a token of the demo may live that long.
    pub fn ttl_fits(ttl: Duration) -> bool {
        ttl.subsec_nanos() == 0 && (Duration::from_secs(2)..=Duration::from_secs(3600)).contains(&ttl)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { once: false, ttl: Duration::from_secs(10), port: None }
    }
}

/// Why the demo could not be played.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The lifetime is out of range.
    #[error("a token of the demo lives for 2 s to 1 h, in whole seconds: --ttl 10s")]
    Ttl,
    /// A part does not start.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// Plays the exchange on standard output; true if every step came out as expected. On a terminal, without
/// [`Options::once`], it then stays up with its page until `shutdown` is cancelled.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<bool, DemoError> {
    if !Options::ttl_fits(options.ttl) {
        return Err(DemoError::Ttl);
    }
    let stays = !options.once && std::io::stdout().is_terminal();
    let clock = Clock::system();
    let mut stage = build(&clock, options, stays).await?;
    let mut printer = Printer::new(anstream::stdout());
    introduce(&mut printer, &stage, stays);
    let elsewhere = stays && options.port.is_none() && stage.gateway.port() != PAGE_PORT;
    if elsewhere {
        printer.entry("", &format!("{PAGE_PORT} is taken, so the page is on {}", stage.gateway.port()));
    }
    let played = tokio::select! {
        played = story::play(&mut stage, &mut printer, &clock, options.ttl) => Some(played),
        () = shutdown.cancelled() => None,
    };
    match played {
        None => printer.text("\nInterrupted: the exchange was not played to its end."),
        Some(_) if stays => {
            stay(&mut printer, &mut stage, &shutdown).await;
            // The terminal has written ^C; what comes next begins a line of its own.
            printer.text("");
        }
        Some(_) => {}
    }
    stage.end().await;
    Ok(played.unwrap_or(false))
}

async fn build(clock: &Clock, options: Options, stays: bool) -> Result<Stage, StageError> {
    match options.port {
        Some(port) => Stage::build(clock, options.ttl, port).await,
        None if stays => match Stage::build(clock, options.ttl, PAGE_PORT).await {
            // Most likely the port is in use; if it was something else, it fails again.
            Err(StageError::Start(_)) => Stage::build(clock, options.ttl, 0).await,
            built => built,
        },
        None => Stage::build(clock, options.ttl, 0).await,
    }
}

fn introduce<W: std::io::Write>(printer: &mut Printer<W>, stage: &Stage, stays: bool) {
    printer.heading("portcullis demo: a gate that checks the token for as long as the stream lives");
    printer.text("");
    printer.entry("gateway", &format!("wss://{}   TLS, certificate made on the spot", stage.gateway));
    if let Some(ca) = &stage.ca {
        printer.entry("", &format!("its CA for curl --cacert and browsers: {}", ca.path().display()));
    }
    printer.entry("echo", &format!("ws://{}    behind {}", stage.echo, stage::ECHO));
    printer.entry("verifier", &format!("ws://{}    behind {}", stage.verifier, stage::VERIFIER));
    if stays {
        printer.entry("page", &format!("https://localhost:{}/", stage.gateway.port()));
    }
}

/// Shows what the verifier decides on messages that come from the page, until the end.
async fn stay<W: std::io::Write>(printer: &mut Printer<W>, stage: &mut Stage, shutdown: &CancellationToken) {
    let port = stage.gateway.port();
    // Those of the story were told.
    while stage.verdicts.try_recv().is_ok() {}
    printer.heading("The gate stays up");
    printer.text(&format!("  Open https://localhost:{port}/ and try it yourself. Ctrl-C ends."));
    printer.text("  The browser does not know the demo's CA: accept its warning, or import the");
    printer.text("  CA file.");
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            verdict = stage.verdicts.recv() => match verdict {
                Some(verdict) => printer.entry("verifier", &verdict.to_string()),
                None => return,
            },
        }
    }
}

const PAGE_PORT: u16 = 8443;
