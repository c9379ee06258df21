//! The verbs of the command line.
//!
//! Owns the arguments, the messages on standard error and the exit codes: 0; 1 for what went wrong at work; 64 for a
//! config or a command line that is wrong. What a verb does is the part of the module that it calls.

mod admin;
mod backend;
mod cert;
mod check;
mod client;
mod demo;
mod issuer;
mod key;
mod keys;
mod pid;
mod run;
mod signals;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Problems};
use crate::names::{CONFIG_FILE, EXIT_CONFIG, EXIT_FAILURE};
use crate::secret::mask_typed;

/// Arguments of the program.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, long_about = None, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway
    Run(ConfigFile),
    /// Have the running gateway read its config, keys and certificates again
    Reload(run::ReloadArguments),
    /// Check the config: every mistake in one run, with its place and its remedy
    Check(ConfigFile),
    /// List the live streams of the running gateway
    Streams(admin::StreamsArguments),
    /// End one live stream
    End(admin::EndArguments),
    /// Ban a token, a subject or a session; live streams that match end
    Revoke(admin::RevokeArguments),
    /// Show the keys of each issuer of a running gateway: which, since when, until when
    Keys(keys::KeysArguments),
    /// List the revocations in force, or lift one
    Revocations(admin::RevocationsArguments),
    /// Make a CA of your own, a certificate and a token secret for a first try
    Cert(cert::Arguments),
    /// Make a token, or see why one is refused
    #[command(subcommand)]
    Token(token::Verb),
    /// A plain WebSocket service to put behind the gateway
    #[command(subcommand)]
    Backend(backend::Verb),
    /// Keep a stream open through the gateway, coming back with a new token when one has expired
    Client(Box<client::Arguments>),
    /// See it all at work: gateway, services and client in one process
    Demo(demo::Arguments),
}

/// Which config.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The config file
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE, env = "PORTCULLIS_CONFIG")]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Problems> {
        config::load(&self.config, config::environment())
    }
}

/// Why a verb failed.
#[derive(Debug)]
enum Failure {
    /// The config is wrong.
    Config(Problems),
    /// What was typed on the command line cannot be; the text says why.
    Usage(String),
    /// Something else; the text says what to do.
    Other(anyhow::Error),
    /// All was said already.
    Said,
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Config(problems)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

/// Parses the arguments, does what they say and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = masked(error);
            // Nothing is left to be done if the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS };
        }
    };
    // Fails only if there is a provider already, and then that one is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match cli.verb {
        Verb::Run(file) => run::run(&file),
        Verb::Reload(arguments) => run::reload(&arguments),
        Verb::Check(file) => check::check(&file),
        Verb::Streams(arguments) => admin::streams(&arguments),
        Verb::End(arguments) => admin::end(&arguments),
        Verb::Revoke(arguments) => admin::revoke(&arguments),
        Verb::Keys(arguments) => keys::keys(&arguments),
        Verb::Revocations(arguments) => admin::revocations(&arguments),
        Verb::Cert(arguments) => cert::cert(&arguments),
        Verb::Token(verb) => token::token(verb),
        Verb::Backend(verb) => backend::backend(verb),
        Verb::Client(arguments) => client::client(*arguments),
        Verb::Demo(arguments) => demo::demo(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// The error, without what may be a secret in the values that it repeats: one that was typed in the wrong place must
/// not reach a terminal's history or a log of standard error.
fn masked(mut error: clap::Error) -> clap::Error {
    let typed = |(kind, value): (ContextKind, &ContextValue)| match value {
        ContextValue::String(text) => {
            Some((kind, text.clone(), mask_typed(text))).filter(|(_, text, shown)| text != shown)
        }
        _ => None,
    };
    let changed: Vec<_> = error.context().filter_map(typed).collect();
    for (kind, _, shown) in changed {
        error.insert(kind, ContextValue::String(shown));
        // A tip may repeat the same value.
        error.remove(ContextKind::Suggested);
    }
    error
}

fn report(failure: &Failure) -> ExitCode {
    match failure {
        Failure::Config(problems) => {
            anstream::eprintln!("{}", problems.render(true));
            ExitCode::from(EXIT_CONFIG)
        }
        Failure::Usage(text) => {
            complain(text);
            ExitCode::from(EXIT_CONFIG)
        }
        Failure::Other(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(EXIT_FAILURE)
        }
        Failure::Said => ExitCode::from(EXIT_FAILURE),
    }
}

fn complain(text: &str) {
    let bold = anstyle::Style::new().bold();
    let red = bold.fg_color(Some(anstyle::AnsiColor::BrightRed.into()));
    anstream::eprintln!("{red}error{red:#}{bold}: {text}{bold:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_typed_in_the_wrong_place_is_not_repeated() {
        let table: &[&[&str]] = &[
            &["token", "inspect", "eyJSECRET.eyJSECRET.SECRET"],
            &["token", "inspect", "--eyJSECRET.eyJSECRET.SECRET"],
            &["token", "inspect", "--token=eyJSECRET.eyJSECRET.SECRET"],
            &["eyJSECRET.eyJSECRET.SECRET"],
            &["client", "eyJSECRET.eyJSECRET.SECRET"],
            &["client", "https://h/?access_token=SECRET"],
            &["client", "h/?access_token=SECRET"],
            &["client", "wss://user:SECRET@h/"],
            &["client", "wss://user:SECRET WORD@h/"],
            &["client", "wss://h/", "wss://h/?access_token=SECRET"],
            &["client", "--carrier", "query=eyJSECRET.eyJSECRET.SECRET"],
            &["client", "--ttl", "eyJSECRET.eyJSECRET.SECRET"],
            &["token", "mint", "--ttl", "eyJSECRET.eyJSECRET.SECRET"],
        ];
        for arguments in table {
            let error = Cli::try_parse_from(["portcullis"].iter().chain(*arguments)).unwrap_err();
            let text = masked(error).to_string();
            assert!(!text.contains("SECRET") && text.contains("error:"), "{arguments:?}: {text}");
        }
        let error = Cli::try_parse_from(["portcullis", "client", "--tll", "10s"]).unwrap_err();
        assert!(masked(error).to_string().contains("'--ttl'"), "a slip of the pen is still helped");
    }
}
