//! Load on a WebSocket proxy of this machine, and what that costs the proxy: `cargo run --example load -- --help`.
//!
//! It talks to any proxy (or straight to its own `backend`) on 127.0.0.1, over TLS 1.3 or plain, compares every byte
//! that comes back, and prints one line of JSON. Costs are the CPU time and the memory of the processes that are named,
//! their children included; so proxies of any make can be put side by side (`benches/compare.py`).
//!
//! Every run is bounded: in time, in messages, in connections, and in how long it waits for anything.

mod backend;
mod endpoint;
mod expiry;
mod forge;
mod frame;
mod get;
mod histogram;
mod http2;
mod idle;
mod peer;
mod renew;
mod run;
mod usage;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use portcullis::clock::Wall;
use portcullis::issuer::mint::Mint;
use tokio::task::LocalSet;

/// Load on a WebSocket proxy of this machine; one line of JSON tells what happened and what it cost.
#[derive(Parser)]
#[command(name = "load")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Closed loop: each stream has one message under way at a time.
    Echo {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        over: Over,
        #[command(flatten)]
        bounds: Bounds,
        /// Bytes of a message.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
        size: u32,
        /// Streams.
        #[arg(long, alias = "connections", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        streams: u32,
    },
    /// Open loop: messages are due at a fixed rate, and latency counts from when each was due.
    Rate {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        over: Over,
        #[command(flatten)]
        bounds: Bounds,
        /// Bytes of a message.
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        size: u32,
        /// Messages a second, over all streams.
        #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: u32,
        /// Streams.
        #[arg(long, alias = "connections", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        streams: u32,
        /// A file that gets a line for each message: when it was due (Unix time) and what it took, in microseconds.
        #[arg(long)]
        samples: Option<PathBuf>,
    },
    /// The backend sends as fast as it is read.
    Flood {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        over: Over,
        #[command(flatten)]
        bounds: Bounds,
        /// Bytes of a message.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
        size: u32,
        /// Streams.
        #[arg(long, alias = "connections", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        streams: u32,
    },
    /// Closed loop of plain requests, each with a token: GET, and a body that is compared.
    Get {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        over: Over,
        #[command(flatten)]
        bounds: Bounds,
        /// Bytes of a body.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
        size: u32,
        /// Requests at a time.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        streams: u32,
    },
    /// Connect, TLS, upgrade with a token, Close, again.
    Handshake {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        over: Over,
        #[command(flatten)]
        bounds: Bounds,
        /// Streams at a time.
        #[arg(long, alias = "connections", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        streams: u32,
    },
    /// Streams that say nothing: memory of the proxy for each, and its CPU while nothing happens.
    Idle {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        over: Over,
        #[command(flatten)]
        bounds: Bounds,
        /// Streams.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
        streams: u32,
        /// Bytes of the message that each stream echoes once before it falls silent; 0 for none.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
        touch: u32,
    },
    /// Streams under /crowd whose tokens all expire at the same instant: when each gets its Close, and which.
    Expiry {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        bounds: Bounds,
        /// Streams.
        #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
        streams: u32,
        /// When the tokens expire, Unix time in seconds: late enough for opening, settling and --seconds of silence.
        #[arg(long)]
        at: u64,
        /// The code of the Close that each is to get.
        #[arg(long, default_value_t = 3000)]
        code: u16,
        /// The reason in it.
        #[arg(long, default_value = "token expired")]
        reason: String,
    },
    /// Streams whose tokens are renewed out of band, each at its own pace; then they expire, so many a second.
    Renew {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        bounds: Bounds,
        /// Streams.
        #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
        streams: u32,
        /// Seconds from one renewal of a stream to the next.
        #[arg(long, default_value_t = 5.0, value_parser = seconds)]
        every: f64,
        /// Streams that expire in each second at the end.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=60_000))]
        ends: u32,
    },
    /// Live streams that echo in an open loop, --seconds for themselves and then as long beside requests with forged tokens.
    Forge {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        bounds: Bounds,
        /// Bytes of a message.
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        size: u32,
        /// Messages a second, over all streams.
        #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: u32,
        /// Live streams.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        streams: u32,
        /// Requests with a forged token a second, each over a connection of its own.
        #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        forged: u32,
        /// How many of a hundred forged tokens name a random key; the others name --kid and have another token's signature.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
        unknown: u32,
    },
    /// A plain WebSocket service that costs little: echoes; a request for /flood?size=N is sent messages instead. A GET of
    /// /get?size=N&number=M that is no upgrade is answered with such a message as its body.
    Backend {
        /// Port on 127.0.0.1.
        #[arg(long)]
        port: u16,
        /// Ends by itself after this many seconds.
        #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        seconds: u64,
    },
}

/// The proxy, and what it asks of its clients.
#[derive(Args)]
struct Target {
    /// Port of the proxy on 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// The CA that signed the proxy's certificate (PEM); without it there is no TLS.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The secret (HS256) or private key (PEM) that tokens are signed with; without it there is no token.
    #[arg(long)]
    key: Option<PathBuf>,
    /// How tokens are signed: HS256, ES256 or RS256.
    #[arg(long, default_value = "HS256")]
    algorithm: String,
    /// How tokens name the key that has signed them.
    #[arg(long)]
    kid: Option<String>,
    /// Resume TLS sessions instead of a full handshake each time.
    #[arg(long)]
    resume: bool,
}

/// What streams and requests go over.
#[derive(Args)]
struct Over {
    /// HTTP/2 (RFC 8441), so many streams to a connection; without it HTTP/1.1, where each has a connection of its own.
    #[arg(long, value_name = "STREAMS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    http2: Option<u32>,
}

/// How long, how much, and whose costs.
#[derive(Args)]
struct Bounds {
    /// Seconds that are measured, after a short warm-up.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Ends early after this many messages (or handshakes).
    #[arg(long, default_value_t = 100_000_000)]
    count: u64,
    /// A process whose CPU time and memory is reported, its children included; may be given more than once.
    #[arg(long)]
    pid: Vec<u32>,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, errors) = LocalSet::new().block_on(&runtime, run(cli.verb))?;
    runtime.shutdown_timeout(Duration::from_millis(200));
    if !report.is_null() {
        println!("{report}");
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report of one verb, and its number of errors.
async fn run(verb: Verb) -> anyhow::Result<(serde_json::Value, u64)> {
    match verb {
        Verb::Echo { target, over, bounds, size, streams } => {
            verbs::echo(target.over(&over)?, &bounds.plan(), size as usize, streams).await
        }
        Verb::Rate { target, over, bounds, size, rate, streams, samples } => {
            let (endpoint, plan) = (target.over(&over)?, bounds.plan());
            verbs::rate(endpoint, &plan, size as usize, rate, streams, samples.as_deref()).await
        }
        Verb::Flood { target, over, bounds, size, streams } => {
            verbs::flood(target.over(&over)?, &bounds.plan(), size as usize, streams).await
        }
        Verb::Get { target, over, bounds, size, streams } => {
            get::get(target.over(&over)?, &bounds.plan(), size as usize, streams).await
        }
        Verb::Handshake { target, over, bounds, streams } => {
            verbs::handshake(target.over(&over)?, &bounds.plan(), streams).await
        }
        Verb::Idle { target, over, bounds, streams, touch } => {
            idle::idle(target.over(&over)?, &bounds.plan(), streams, touch as usize).await
        }
        Verb::Expiry { target, bounds, streams, at, code, reason } => {
            let at = Wall::from_epoch(Duration::from_secs(at));
            let expiry = expiry::Expiry { at, streams, code, reason };
            expiry::expiry(target.endpoint(Some(at))?, &bounds.plan(), expiry).await
        }
        Verb::Renew { target, bounds, streams, every, ends } => {
            let renewals = renew::Renewals { streams, every: Duration::from_secs_f64(every), ends };
            renew::renew(target.endpoint(None)?, target.mint()?, &bounds.plan(), renewals).await
        }
        Verb::Forge { target, bounds, size, rate, streams, forged, unknown } => {
            let forgery = forge::Forgery { streams, rate, size: size as usize, forged, unknown };
            forge::forge(target.endpoint(None)?, &bounds.plan(), forgery).await
        }
        Verb::Backend { port, seconds } => {
            backend::serve(port, Duration::from_secs(seconds)).await?;
            Ok((serde_json::Value::Null, 0))
        }
    }
}

impl Target {
    fn over(&self, over: &Over) -> anyhow::Result<endpoint::Endpoint> {
        self.reached(None, over.http2)
    }

    fn endpoint(&self, expiry: Option<Wall>) -> anyhow::Result<endpoint::Endpoint> {
        self.reached(expiry, None)
    }

    fn reached(&self, expiry: Option<Wall>, http2: Option<u32>) -> anyhow::Result<endpoint::Endpoint> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let ca = self.ca.as_ref().map(read).transpose()?;
        let key = self.key.as_ref().map(read).transpose()?;
        let tokens = match key {
            Some(key) => endpoint::tokens(&self.algorithm, self.kid.clone(), key, expiry)?,
            None => Vec::new(),
        };
        endpoint::Endpoint::new(self.port, ca.as_deref(), self.resume, tokens, http2)
    }
}

impl Target {
    fn mint(&self) -> anyhow::Result<Mint> {
        let key = self.key.as_ref().context("name the key that tokens are signed with: --key")?;
        let key = std::fs::read(key).with_context(|| format!("cannot read {}", key.display()))?;
        endpoint::mint(&self.algorithm, self.kid.clone(), key, serde_json::Map::new())
    }
}

impl Bounds {
    fn plan(&self) -> run::Plan {
        run::Plan {
            window: Duration::from_secs_f64(self.seconds),
            most: self.count.max(1),
            processes: self.pid.clone(),
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.1 to 600 seconds".into()),
    }
}
