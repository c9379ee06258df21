//! Everything that plays a part, in one process: the gateway with its config, both services, the issuer's keys.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Running};
use crate::backend::verifier::{Sink, Verdict};
use crate::backend::{Settings, echo, verifier};
use crate::client;
use crate::clock::Clock;
use crate::config;
use crate::demo::certs::{self, PrivateFolder, PublishedCa};
use crate::demo::page;
use crate::issuer::mint::random_id;
use crate::issuer::{Mint, MintKey};
use crate::names::CERTS_DIR;
use crate::secret::Secret;
use crate::token::keys::Algorithm;

/// Why the demo cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file or a port.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// The certificate.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The demo's own config is refused.
    #[error("{0}")]
    Config(String),
    /// The gateway does not start.
    #[error("the gateway does not start: {0}")]
    Start(String),
    /// A key is refused.
    #[error("a key of the demo is refused: {0}")]
    Key(String),
}

/// All that runs.
pub(super) struct Stage {
    /// The gateway's address.
    pub(super) gateway: SocketAddr,
    /// The echo service's.
    pub(super) echo: SocketAddr,
    /// The verifier's.
    pub(super) verifier: SocketAddr,
    /// Where the CA was put, if that was possible.
    pub(super) ca: Option<PublishedCa>,
    /// Trust in that CA only.
    pub(super) tls: Arc<rustls::ClientConfig>,
    /// The issuer.
    pub(super) issuer: Issuer,
    /// What the verifier decided.
    pub(super) verdicts: mpsc::Receiver<Verdict>,
    running: Running,
    services: Vec<JoinHandle<()>>,
    shutdown: CancellationToken,
}

/// The issuer's mints: a good one, and those whose tokens must be refused.
#[derive(Clone)]
pub(super) struct Issuer {
    /// The one that the gateway and the verifier trust.
    pub(super) good: Mint,
    /// Same claims, another secret.
    pub(super) forged: Mint,
    /// Same secret, for somebody else.
    pub(super) wrong_audience: Mint,
}

impl Stage {
    /// Starts all parts; the gateway on `port` (0 = of the system's choice).
    pub(super) async fn build(clock: &Clock, ttl: Duration, port: u16) -> Result<Self, StageError> {
        let secret = random_secret();
        let issuer = Issuer::new(&secret, ttl)?;
        let folder = PrivateFolder::new().map_err(|error| StageError::Io("no folder for the keys", error))?;
        let made = certs::make(clock.now().wall)?;
        let keep = |name, content: &[u8]| {
            folder.write(name, content).map_err(|error| StageError::Io("the keys cannot be written", error))
        };
        keep("cert.pem", made.chain.as_bytes())?;
        keep("key.pem", made.key.as_bytes())?;
        keep("token.secret", secret.expose())?;
        let tls = client::trust(Some(made.ca.as_bytes())).map_err(|error| StageError::Key(error.to_string()))?;

        let shutdown = CancellationToken::new();
        let (echo_listener, echo) = listen().await?;
        let (verifier_listener, verifier) = listen().await?;
        let judge = verifier::shared_secret(&secret, Some(ISS.to_owned()), vec![AUD.to_owned()])
            .map_err(|error| StageError::Key(error.to_string()))?;
        let (sender, verdicts) = mpsc::channel(64);
        // A full channel means that nobody reads along; the service goes on.
        let sink: Sink = Arc::new(move |verdict: &Verdict| drop(sender.try_send(verdict.clone())));
        let services = vec![
            tokio::spawn(echo::serve(echo_listener, Settings::default(), shutdown.clone())),
            tokio::spawn(verifier::serve(
                verifier_listener,
                Settings { max_message: 64 * 1024, ..Settings::default() },
                Arc::new(judge),
                clock.clone(),
                sink,
                shutdown.clone(),
            )),
        ];
        let text = config_text(port, echo, verifier);
        let config = config::parse(&text, "the demo's config", folder.path(), std::iter::empty())
            .map_err(|problems| StageError::Config(problems.to_string()))?;
        let known_port = Arc::new(OnceLock::new());
        let page = page::Page::new(issuer.clone(), clock.clone(), known_port.clone());
        let running = App::start_with(config, clock.clone(), Some(page.fallback()))
            .map_err(|error| StageError::Start(error.to_string()))?;
        // All was read; nothing of the keys is left behind, however the demo ends.
        drop(folder);
        let gateway = running.addresses().first().map(|(_, address)| *address);
        let gateway = gateway.ok_or_else(|| StageError::Start("it has no listener".into()))?;
        // It is set nowhere else, and so never twice.
        let _ = known_port.set(gateway.port());
        // One for each port: another demo in the same folder has a CA of its own.
        let ca = PublishedCa::new(Path::new(CERTS_DIR), &format!("demo-ca-{}.pem", gateway.port()), &made.ca).ok();
        Ok(Self { gateway, echo, verifier, ca, tls, issuer, verdicts, running, services, shutdown })
    }

    /// The URL of one of the gateway's routes.
    pub(super) fn url(&self, route: &str) -> String {
        format!("wss://{}{route}", self.gateway)
    }

    /// Ends everything, the gateway first.
    pub(super) async fn end(self) {
        self.running.shutdown().await;
        self.shutdown.cancel();
        for service in self.services {
            // A service that has panicked has said so itself; the stage is left either way.
            let _ = service.await;
        }
    }
}

impl Issuer {
    fn new(secret: &Secret, ttl: Duration) -> Result<Self, StageError> {
        let key = |secret: &Secret| {
            MintKey::from_secret(Algorithm::HS256, None, secret).map_err(|error| StageError::Key(error.to_string()))
        };
        let mut claims = Map::new();
        claims.insert("iss".into(), ISS.into());
        claims.insert("aud".into(), AUD.into());
        claims.insert("sid".into(), random_id().into());
        let mut foreign = claims.clone();
        foreign.insert("aud".into(), json!("another service"));
        Ok(Self {
            good: Mint::new(key(secret)?, claims.clone(), ttl),
            forged: Mint::new(key(&random_secret())?, claims, ttl),
            wrong_audience: Mint::new(key(secret)?, foreign, ttl),
        })
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr), StageError> {
    let failed = |error| StageError::Io("no port for a service", error);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// 256 random bits, as text.
fn random_secret() -> Secret {
    Secret::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into_bytes())
}

/// The gateway's config, as anybody would write it.
fn config_text(port: u16, echo: SocketAddr, verifier: SocketAddr) -> String {
    format!(
        r#"
[server]
max_connections = 1000
drain_window = "100ms"
drain_timeout = "5s"

[[listener]]
name = "public"
address = "127.0.0.1:{port}"
certificate = "cert.pem"
key = "key.pem"

[[issuer]]
name = "demo"
iss = "{ISS}"
aud = ["{AUD}"]

[[issuer.key]]
algorithm = "HS256"
secret_file = "token.secret"

[[route]]
name = "echo"
path = "{ECHO}"
upstream = "ws://{echo}"
carriers = ["query:access_token", "subprotocol:pair", "header"]
same = ["iss", "sid"]
identity = {{ "{SUBJECT_HEADER}" = "sub" }}

[[route]]
name = "verifier"
path = "{VERIFIER}"
upstream = "ws://{verifier}"
carriers = ["query:access_token", "subprotocol:pair", "header"]
same = ["iss", "sid"]
"#
    )
}

/// Path of the echo route.
pub(super) const ECHO: &str = "/echo";
/// Path of the verifier route.
pub(super) const VERIFIER: &str = "/verifier";
/// The header in which the echo service learns who its client is.
pub(super) const SUBJECT_HEADER: &str = "X-Subject";
const ISS: &str = "portcullis demo";
const AUD: &str = "demo";
