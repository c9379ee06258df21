//! `portcullis client`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use rustls::CertificateError;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::issuer::IssuerArguments;
use super::key::{KeyArguments, read};
use super::signals::Terminations;
use crate::client::{self, End, OpenError, RenewalMode, Settings, Source, Target, stdin_lines, trust};
use crate::clock::Clock;
use crate::config::parse_carrier;
use crate::issuer::mint::random_id;
use crate::issuer::schedule::Backoff;
use crate::token::Carrier;

/// Arguments of `client`.
#[derive(Debug, Args)]
#[command(mut_arg("issuer", |issuer| issuer.value_name("URL|NAME").help(ISSUER)))]
#[allow(clippy::struct_excessive_bools)] // one for each switch
pub(super) struct Arguments {
    /// Where to
    #[arg(default_value = "wss://localhost:8443/")]
    url: Target,
    /// The CA (PEM) that must have signed the gateway's certificate [default: the system's roots]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Where the token stands, as in the config: query:NAME, subprotocol:pair, header, ...
    #[arg(long, default_value = "header", value_parser = parse_carrier)]
    carrier: Carrier,
    /// A subprotocol to offer; may be given several times
    #[arg(long, value_name = "NAME")]
    subprotocol: Vec<String>,
    /// Renew with a message on the stream, for routes that read it, instead of a request beside it
    #[arg(long, conflicts_with = "no_renew")]
    in_band: bool,
    /// What stands before the token in such a message, as the route's renewal_prefix says
    #[arg(long, value_name = "TEXT", requires = "in_band", default_value = "", hide_default_value = true)]
    in_band_prefix: String,
    /// Do not renew: be closed when the token expires, and come back with a new one
    #[arg(long)]
    no_renew: bool,
    /// Send each token as a message too, first of all
    #[arg(long)]
    send_token: bool,
    /// A message to send; may be given several times
    #[arg(long, value_name = "TEXT")]
    message: Vec<String>,
    /// Send the lines of standard input
    #[arg(long)]
    stdin: bool,
    /// Leave when all is sent and nothing has come for this long [default: stay until interrupted]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    leave_after: Option<Duration>,
    /// Give up after this many attempts in a row that came to nothing [default: never; 5 with --leave-after]
    #[arg(long, value_name = "N")]
    max_failures: Option<u32>,
    /// Take tokens from this file, which is read again for each one
    #[arg(long, value_name = "FILE", conflicts_with = "token_command")]
    token_file: Option<PathBuf>,
    /// Take tokens from what this command prints; its words are split at spaces
    #[arg(long, value_name = "COMMAND")]
    token_command: Option<String>,
    /// The subject of the tokens; given several times, each new token has the next one
    #[arg(long)]
    sub: Vec<String>,
    /// How long each token is good for
    #[arg(long, default_value = "10s", value_parser = duration)]
    ttl: Duration,
    #[command(flatten)]
    issuer: IssuerArguments,
    #[command(flatten)]
    key: KeyArguments,
}

/// Runs the client; its events go to standard output, one line each.
pub(super) fn client(arguments: Arguments) -> Result<(), Failure> {
    if arguments.url.holds_token(&arguments.carrier) {
        return Err(Failure::Usage(format!(
            "{}?***: a token does not belong on the command line: name its file with --token-file",
            arguments.url.shown()
        )));
    }
    let source = source(&arguments)?;
    let ca = arguments.ca.as_deref().map(read).transpose()?;
    let ca_file = arguments.ca.clone();
    let tls = if arguments.url.tls { Some(trust(ca.as_deref()).context("no TLS")?) } else { None };
    let settings = Settings {
        target: arguments.url,
        tls,
        source,
        carrier: arguments.carrier,
        subprotocols: arguments.subprotocol,
        renewal: match (arguments.no_renew, arguments.in_band) {
            (true, _) => RenewalMode::Off,
            (false, true) => RenewalMode::InBand { prefix: arguments.in_band_prefix },
            (false, false) => RenewalMode::OutOfBand,
        },
        send_token: arguments.send_token,
        messages: arguments.message,
        leave_after: arguments.leave_after,
        open_timeout: OPEN_TIMEOUT,
        backoff: Backoff::new(BACKOFF, LONGEST_BACKOFF),
        // Who wants to leave by itself does not wait for a gateway that is not there.
        max_failures: arguments.max_failures.or(arguments.leave_after.map(|_| 5)),
    };
    let input = arguments.stdin.then(stdin_lines);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut terminations, stop) = (Terminations::new()?, shutdown.clone());
        tokio::spawn(async move {
            terminations.next().await;
            if std::io::stdout().is_terminal() {
                // The terminal has written ^C; what comes next begins a line of its own.
                anstream::println!();
            }
            stop.cancel();
        });
        let mut sink = |event: client::Event| anstream::println!("{event}");
        Ok::<_, Failure>(client::run(settings, Clock::system(), input, &mut sink, shutdown).await)
    });
    // A line of standard input that never comes must not hold the process back.
    runtime.shutdown_background();
    match end? {
        end if end.is_success() => Ok(()),
        end => Err(anyhow!("{end}{}", remedy(&end, ca_file.as_deref())).into()),
    }
}

/// What to do about an end that has a likely cause.
fn remedy(end: &End, ca: Option<&Path>) -> String {
    let End::Impossible(OpenError::Tls(error)) = end else { return String::new() };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, ca) {
        (Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)), None) => {
            "; name its CA with --ca certs/ca.pem".to_owned()
        }
        (Some(rustls::Error::InvalidCertificate(_)), Some(ca)) => {
            format!("; the CA that was named is {}", ca.display())
        }
        (Some(rustls::Error::InvalidMessage(_)), _) => "; if there is no TLS at that port, try ws://".to_owned(),
        _ => String::new(),
    }
}

/// A time as an argument.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "a time with its unit, such as 10s".to_owned())
}

fn source(arguments: &Arguments) -> Result<Source, Failure> {
    if let Some(file) = &arguments.token_file {
        return Ok(Source::File(file.clone()));
    }
    if let Some(command) = &arguments.token_command {
        return Ok(Source::Command(command.split_whitespace().map(str::to_owned).collect()));
    }
    if let Some(endpoint) = arguments.issuer.endpoint(arguments.key.issuer())? {
        return Ok(Source::Issuer(Box::new(endpoint)));
    }
    // One id for the whole run: for routes where it makes the principal, a new subject is still the same one.
    let mint = arguments.key.mint(arguments.ttl)?.with_claim("sid", random_id().into());
    let subjects = if arguments.sub.is_empty() { vec!["portcullis client".to_owned()] } else { arguments.sub.clone() };
    Ok(Source::Mint { mint, subjects })
}

const ISSUER: &str = "Take tokens from the issuer of this URL (see --client-id), or sign them with the shared secret of this \
    issuer of the config";
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
const BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
