//! Signals that ask a process to leave.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGTERM and SIGINT.
pub(super) struct Terminations {
    terminate: Signal,
    interrupt: Signal,
}

impl Terminations {
    /// Takes both signals over; from now on they no longer end the process by themselves.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one of either kind and gives its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Cancelled by the first SIGTERM or SIGINT; later ones are ignored. Needs a runtime.
pub(super) fn terminated() -> std::io::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut terminations = Terminations::new()?;
    tokio::spawn(async move {
        terminations.next().await;
        stop.cancel();
    });
    Ok(shutdown)
}
