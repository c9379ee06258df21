//! `portcullis backend echo` and `portcullis backend verifier`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::backend::{Settings, echo, verifier};
use crate::clock::Clock;
use crate::secret::Secret;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Returns each message; the message `headers` is answered with what the service saw of the request
    Echo(Listen),
    /// Receives JWTs as messages, verifies them with the shared secret and says what they hold
    Verifier(VerifierArguments),
}

/// Where to listen.
#[derive(Debug, Args)]
pub(super) struct Listen {
    /// Address and port; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(super) struct VerifierArguments {
    #[command(flatten)]
    listen: Listen,
    /// The shared secret (HS256); one newline at its end is not part of it
    #[arg(long, value_name = "FILE", default_value = "certs/token.secret")]
    secret_file: PathBuf,
    /// The `iss` that tokens must have [default: any]
    #[arg(long)]
    iss: Option<String>,
    /// An `aud` that tokens may have; may be given several times [default: tokens that have one are refused]
    #[arg(long)]
    aud: Vec<String>,
}

/// Serves until SIGINT or SIGTERM.
pub(super) fn backend(verb: Verb) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let mut signals = super::signals::Terminations::new()?;
        tokio::spawn(async move {
            signals.next().await;
            stop.cancel();
        });
        match verb {
            Verb::Echo(listen) => {
                let listener = bind(listen.listen, "echo").await?;
                echo::serve(listener, Settings::default(), shutdown).await;
            }
            Verb::Verifier(arguments) => {
                let file = &arguments.secret_file;
                let mut secret = std::fs::read(file).with_context(|| {
                    format!("cannot read the secret {} (`portcullis cert` makes one for a first try)", file.display())
                })?;
                crate::config::trim_newline(&mut secret);
                let judge = verifier::shared_secret(&Secret::new(secret), arguments.iss, arguments.aud)
                    .with_context(|| format!("the secret {} cannot be used", file.display()))?;
                let sink: verifier::Sink = Arc::new(|verdict| anstream::println!("{verdict}"));
                let listener = bind(arguments.listen.listen, "verifier").await?;
                verifier::serve(listener, Settings::default(), Arc::new(judge), Clock::system(), sink, shutdown).await;
            }
        }
        Ok(())
    })
}

async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) =
        bound.with_context(|| format!("cannot listen on {address}: choose another address with --listen"))?;
    anstream::println!("{what} on ws://{address}");
    Ok(listener)
}
