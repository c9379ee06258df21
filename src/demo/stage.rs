//! Everything that plays a part, in one process: the gateway with its config, both services, the issuer's keys.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Running};
use crate::backend::verifier::{Sink, Verdict};
use crate::backend::{Settings, echo, verifier};
use crate::client;
use crate::clock::{Clock, Now, Wall};
use crate::config;
use crate::demo::certs::{self, PrivateFolder, PublishedCa};
use crate::demo::page;
use crate::issuer::{Mint, MintError, MintKey, Minted};
use crate::names::CERTS_DIR;
use crate::registry::Registry;
use crate::revocation::Ban;
use crate::secret::Secret;
use crate::token::keys::Algorithm;
use crate::token::marks::Kind;

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
    good: Mint,
    /// Same claims, another secret.
    forged: Mint,
    /// Same secret, for another service.
    wrong_audience: Mint,
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
        let known = Arc::new(OnceLock::new());
        let page = page::Page::new(issuer.clone(), clock.clone(), known.clone());
        let running = App::start_with(config, clock.clone(), Some(page.fallback()))
            .map_err(|error| StageError::Start(error.to_string()))?;
        // All was read; nothing of the keys is left behind, however the demo ends.
        drop(folder);
        let gateway = running.addresses().first().map(|(_, address)| *address);
        let gateway = gateway.ok_or_else(|| StageError::Start("it has no listener".into()))?;
        // It is set nowhere else, and so never twice.
        let _ = known.set(page::Gate { port: gateway.port(), registry: running.registry().clone() });
        // One for each port: another demo in the same folder has a CA of its own.
        let ca = PublishedCa::new(Path::new(CERTS_DIR), &format!("demo-ca-{}.pem", gateway.port()), &made.ca).ok();
        Ok(Self { gateway, echo, verifier, ca, tls, issuer, verdicts, running, services, shutdown })
    }

    /// The URL of one of the gateway's routes.
    pub(super) fn url(&self, route: &str) -> String {
        format!("wss://{}{route}", self.gateway)
    }

    /// Until when the gateway lets the one stream on the verifier's route live; `None` if there is none.
    pub(super) fn deadline(&self) -> Option<Wall> {
        let live = self.running.registry().glimpses(0, usize::MAX);
        live.into_iter().find(|stream| &*stream.route == "verifier")?.expiry
    }

    /// Bans a session; gives how many streams were told to end.
    pub(super) fn revoke(&self, session: &str, now: Now) -> Option<usize> {
        revoke(self.running.registry(), session, now)
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
    /// A good token for this session, to the millisecond: one that is asked for ten seconds has ten.
    pub(super) fn issue(&self, message: &str, session: &str, ttl: Duration, now: Now) -> Result<Minted, MintError> {
        sign(&self.good, message, session, ttl, now)
    }

    /// One that was good until a second ago.
    pub(super) fn expired(&self, message: &str, session: &str, ttl: Duration, now: Now) -> Result<Minted, MintError> {
        let since = now.wall.since_epoch().saturating_sub(ttl.saturating_add(Duration::from_secs(1)));
        sign(&self.good, message, session, ttl, Now { wall: Wall::from_epoch(since), ..now })
    }

    /// The same with a signature that is not the issuer's.
    pub(super) fn forge(&self, message: &str, session: &str, ttl: Duration, now: Now) -> Result<Minted, MintError> {
        sign(&self.forged, message, session, ttl, now)
    }

    /// The same for another service.
    pub(super) fn misdirect(&self, message: &str, session: &str, ttl: Duration, now: Now) -> Result<Minted, MintError> {
        sign(&self.wrong_audience, message, session, ttl, now)
    }

    /// An issuer with this secret.
    pub(super) fn new(secret: &Secret, ttl: Duration) -> Result<Self, StageError> {
        let key = |secret: &Secret| {
            MintKey::from_secret(Algorithm::HS256, None, secret).map_err(|error| StageError::Key(error.to_string()))
        };
        let mut claims = Map::new();
        claims.insert("iss".into(), ISS.into());
        claims.insert("aud".into(), AUD.into());
        let mut foreign = claims.clone();
        foreign.insert("aud".into(), json!("another service"));
        Ok(Self {
            good: Mint::new(key(secret)?, claims.clone(), ttl),
            forged: Mint::new(key(&random_secret())?, claims, ttl),
            wrong_audience: Mint::new(key(secret)?, foreign, ttl),
        })
    }
}

fn sign(mint: &Mint, message: &str, session: &str, ttl: Duration, now: Now) -> Result<Minted, MintError> {
    let issued = u64::try_from(now.wall.since_epoch().as_millis()).unwrap_or(u64::MAX);
    let expires = issued.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let seconds = |milliseconds| Value::from(Duration::from_millis(milliseconds).as_secs_f64());
    let mut claims = Map::new();
    claims.insert("sub".into(), message.into());
    claims.insert("sid".into(), session.into());
    claims.insert("iat".into(), seconds(issued));
    claims.insert("exp".into(), seconds(expires));
    mint.sign(&claims, now)
}

/// Bans a session and ends its streams; gives how many those are. `None` if there is no room for another ban.
pub(super) fn revoke(registry: &Registry, session: &str, now: Now) -> Option<usize> {
    let ban = Ban { iss: ISS.into(), kind: Kind::Sid, value: session.into(), issued_before: None, until: None };
    let ban = registry.revocations().insert(ban, now.wall).ok()?;
    Some(registry.revoke(&ban))
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
carriers = ["query:access_token", "subprotocol:pair", "header", "ticket:{TICKET}"]
same = ["iss", "sid"]
identity = {{ "{SUBJECT_HEADER}" = "sub" }}

[[route]]
name = "first"
path = "{FIRST}"
upstream = "ws://{echo}"
carriers = ["message"]
first_message = {{ pointer = "/payload/token", type = "connection_init" }}
same = ["iss", "sid"]
identity = {{ "{SUBJECT_HEADER}" = "sub" }}

[[route]]
name = "verifier"
path = "{VERIFIER}"
upstream = "ws://{verifier}"
carriers = ["query:access_token", "subprotocol:pair", "header", "ticket:{TICKET}"]
same = ["iss", "sid"]
renew_in_band = "forward"
"#
    )
}

/// Path of the echo route.
pub(super) const ECHO: &str = "/echo";
/// Path of the route to the echo service that takes the token from the first message.
pub(super) const FIRST: &str = "/first";
/// Path of the verifier route.
pub(super) const VERIFIER: &str = "/verifier";
/// The name of a ticket in the query.
pub(super) const TICKET: &str = "ticket";
/// The header in which the echo service learns who its client is.
pub(super) const SUBJECT_HEADER: &str = "X-Subject";
const ISS: &str = "portcullis demo";
const AUD: &str = "demo";
