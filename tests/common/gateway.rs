//! The program itself, in a process of its own and a folder of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::app::{App, Running};
use portcullis::clock::ManualClock;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

pub use rustix::process::Signal;

use super::certificate::Authority;
use super::http2::{self, Http2};
use super::link::{Link, Reply};
use super::token::{ISSUER, SECRET};
use super::{PATIENCE, instant};

/// A config with one TLS listener, one HS256 issuer and one route to `upstream`. `route` holds further lines of the
/// route, or further tables.
pub fn config(upstream: &str, route: &str) -> String {
    format!(
        r#"
[log]
level = "debug"
format = "json"

[[listener]]
name = "public"
address = "127.0.0.1:0"
certificate = "cert.pem"
key = "key.pem"

[[issuer]]
name = "default"
iss = "{ISSUER}"

[[issuer.key]]
algorithm = "HS256"
secret_file = "token.secret"

[[route]]
name = "default"
upstream = "{upstream}"
{route}
"#
    )
}

/// A folder with `cert.pem`, `key.pem`, `ca.pem`, `token.secret` and `config.toml`, and who signed the certificate.
pub fn folder(config: &str) -> (TempDir, Authority) {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    authority.write(folder.path());
    std::fs::write(folder.path().join("token.secret"), SECRET).expect("token.secret");
    std::fs::write(folder.path().join("config.toml"), config).expect("config.toml");
    (folder, authority)
}

/// A running gateway. It is killed when dropped, and the test fails if it has panicked.
pub struct Gateway {
    place: Place,
    folder: TempDir,
    authority: Authority,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    /// Runs the program with this config and waits until it listens.
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, |_| {}).await
    }

    /// Likewise; `prepare` may change the command: its environment, its arguments.
    pub async fn start_with(config: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        raise_descriptor_limit();
        let (folder, authority) = folder(config);
        let mut command = Self::command(folder.path());
        prepare(&mut command);
        let mut child = command.spawn().expect("the program");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().expect("its log"));
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in lines.lines() {
                let Ok(line) = line else { return };
                sink.lock().expect("log").push(line);
            }
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { place: Place::Process(child), folder, authority, address: unknown, log };
        gateway.address = gateway.wait_for_address().await;
        gateway
    }

    /// Runs the gateway inside the test, on its runtime and under its clock. There is no log then, and no process.
    pub fn inside(config: &str, clock: &ManualClock) -> Self {
        let (folder, authority) = folder(config);
        // Whoever came first in this process has made it the default; all want the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = portcullis::config::load(&folder.path().join("config.toml"), std::iter::empty());
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        let running = App::start(config, clock.clock()).expect("a start");
        let (_, address) = running.addresses().first().cloned().expect("a listener");
        Self { place: Place::Test(Box::new(running)), folder, authority, address, log: Arc::default() }
    }

    /// `portcullis run --config FOLDER/config.toml`, its log piped, not yet started.
    pub fn command(folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("run").arg("--config").arg(folder.join("config.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Where the first listener listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the listener of this name listens.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        let line = self.logged("a listener", |line| field(line, "listener") == Some(&name.into())).await;
        field(&line, "address").and_then(|address| address.as_str()?.parse().ok()).expect("an address")
    }

    /// A file in the gateway's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Who signed its certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Streams that are open, if the gateway runs inside the test.
    pub fn streams(&self) -> usize {
        match &self.place {
            Place::Test(running) => running.registry().len(),
            Place::Process(_) => panic!("only known inside the test"),
        }
    }

    /// A TLS connection, nothing sent.
    pub async fn connect(&self) -> Link {
        self.connect_with(None).await
    }

    /// Likewise, with a receive buffer of the client's kernel as small as this.
    pub async fn connect_with(&self, receive_buffer: Option<u32>) -> Link {
        let link = Link::connect(self.address, receive_buffer).await;
        link.tls("localhost", self.authority.client()).await.expect("TLS")
    }

    /// A request for an upgrade at `target`; `more`: further header lines, each ended by `\r\n`.
    pub fn upgrade(&self, target: &str, more: &str) -> String {
        format!(
            "GET {target} HTTP/1.1\r\nHost: localhost:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n",
            self.address.port()
        )
    }

    /// Connects and asks for an upgrade; the answer, and the stream.
    pub async fn ask(&self, target: &str, more: &str) -> (Reply, Link) {
        if http2::everywhere() {
            return Http2::connect(self).await.ask(target, more).await;
        }
        let mut link = self.connect().await;
        let reply = link.request(&self.upgrade(target, more)).await;
        (reply, link)
    }

    /// Opens a stream with `token` in the query. The service must answer meanwhile: see [`Gateway::open_with`].
    pub async fn open(&self, token: &str) -> Link {
        let (reply, link) = self.ask(&format!("/?access_token={token}"), "").await;
        assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
        link
    }

    /// Opens a stream with `token` and gives both of its ends.
    pub async fn open_with(&self, token: &str, backend: &mut super::Backend) -> (Link, Link) {
        tokio::join!(self.open(token), backend.accept())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("pid")).expect("pid");
        kill_process(pid, signal).expect("signal");
    }

    /// Waits until the process has left, for at most `limit`.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        let start = instant();
        loop {
            if let Some(status) = self.left() {
                return status;
            }
            assert!(start.elapsed() < limit, "the gateway has not left within {limit:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").join("\n")
    }

    /// The log lines so far, as JSON; lines that are none are left out.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log.lock().expect("log").iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first log line that `wanted` takes, once it is there.
    pub async fn logged(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut found = None;
        let start = instant();
        while found.is_none() {
            found = self.log_lines().into_iter().find(|line| wanted(line));
            assert!(found.is_some() || start.elapsed() < PATIENCE, "no log line: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        found.expect("found")
    }

    /// Open file descriptors of the process.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("descriptors").count()
    }

    /// Resident memory of the process, bytes.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("KiB") * 1024
    }

    fn child(&self) -> &Child {
        match &self.place {
            Place::Process(child) => child,
            Place::Test(_) => panic!("the gateway is no process of its own"),
        }
    }

    fn left(&mut self) -> Option<ExitStatus> {
        match &mut self.place {
            Place::Process(child) => child.try_wait().expect("wait"),
            Place::Test(_) => None,
        }
    }

    async fn wait_for_address(&mut self) -> SocketAddr {
        let start = instant();
        loop {
            let public = |line: &&Value| {
                let own = |name| field(line, "listener") == Some(&Value::from(name));
                field(line, "listener").is_some() && !own("probes") && !own("admin")
            };
            let lines = self.log_lines();
            let found = lines.iter().filter(public).find_map(|line| field(line, "address")?.as_str()?.parse().ok());
            if let Some(address) = found {
                return address;
            }
            if let Some(status) = self.left() {
                panic!("the gateway left with {status}\n{}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "the gateway does not listen\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Where a gateway runs.
enum Place {
    Process(Child),
    Test(Box<Running>),
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Place::Process(child) = &mut self.place {
            let _ = child.kill();
            let _ = child.wait();
        }
        let panicked = self.log().contains("panicked at");
        assert!(!panicked || std::thread::panicking(), "the gateway panicked\n{}", self.log());
    }
}

/// A field of a JSON log line, wherever the formatter puts it.
pub fn field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line.get(name).or_else(|| line.get("fields")?.get(name))
}

/// Clients and services of a test are in its own process, and many systems begin with 1,024 descriptors.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("a limit");
}
