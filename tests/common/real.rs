//! Programs that are not ours, driven by lines of their standard input and output: browsers, clients, services.
//! `make test` installs them under `target/real/`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{instant, within};

/// How long a browser may take to start on a machine that is busy.
const START: Duration = Duration::from_secs(60);

/// A running program; it is killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    input: ChildStdin,
    lines: mpsc::UnboundedReceiver<String>,
    /// What it runs in, for as long as it does.
    folder: Option<TempDir>,
}

impl Program {
    /// The FastAPI service under uvicorn, and where it listens.
    pub async fn fastapi(secret: &Path) -> (Self, String) {
        let mut command = python("fastapi_service.py");
        command.env("TOKEN_SECRET_FILE", secret);
        let mut service = Self::spawn("uvicorn", command, None);
        let line = service.line().await;
        let address = line.strip_prefix("listening ").expect("its address").to_owned();
        (service, format!("ws://{address}"))
    }

    /// The services in Node, and where they listen.
    pub async fn node_service() -> (Self, String) {
        let mut service = Self::spawn("the services in Node", node("service.cjs"), None);
        let line = service.line().await;
        let address = line.strip_prefix("listening ").expect("its address").to_owned();
        (service, format!("ws://{address}"))
    }

    /// What stands in for Phoenix and for SignalR, and where it listens.
    pub async fn standins() -> (Self, String) {
        let mut service = Self::spawn("the stand-ins", node("standins.cjs"), None);
        let line = service.line().await;
        (service, line.strip_prefix("listening ").expect("its address").to_owned())
    }

    /// An issuer: npm's `oidc-provider`, with the certificates in `folder`; and its URL.
    pub async fn oidc_provider(folder: &Path) -> (Self, String) {
        let mut command = node("issuer.cjs");
        command.arg(folder).stderr(Stdio::null());
        Self::issuer("oidc-provider", command).await
    }

    /// Another: PyPI's `oidc-provider-mock`, on this port or, for 0, on any; and its URL.
    pub async fn oidc_provider_mock(port: u16) -> (Self, String) {
        let mut command = python("issuer.py");
        command.arg(port.to_string()).stderr(Stdio::null());
        Self::issuer("oidc-provider-mock", command).await
    }

    async fn issuer(name: &str, command: Command) -> (Self, String) {
        let mut issuer = Self::spawn(name, command, None);
        let line: Value = serde_json::from_str(&issuer.line().await).expect("JSON");
        let url = line["ready"].as_str().expect("its URL").to_owned();
        (issuer, url)
    }

    /// A client: Python's `websockets`.
    pub async fn python_client(authority: &Path) -> Self {
        let mut command = python("client.py");
        command.arg(authority);
        Self::ready(Self::spawn("websockets", command, None)).await
    }

    /// A client: npm's `ws`.
    pub async fn node_client(authority: &Path) -> Self {
        let mut command = node("client.cjs");
        command.arg(authority);
        Self::ready(Self::spawn("ws", command, None)).await
    }

    /// A VNC server, and where it listens.
    pub async fn vnc_server() -> (Self, String) {
        let mut server = Self::spawn("the VNC server", node("rfb.cjs"), None);
        let line = server.line().await;
        (server, line.strip_prefix("listening ").expect("its address").to_owned())
    }

    /// websockify in front of what listens at `address`, and where it listens itself.
    pub async fn websockify(address: &str) -> (Self, String) {
        let listening = free_address();
        let mut command = Command::new(installed("venv/bin/python"));
        command.args(["-m", "websockify", &listening, address]).stderr(Stdio::null());
        (Self::listening("websockify", command, &listening).await, listening)
    }

    /// Two endpoints of a Socket.IO service, and where they listen.
    pub async fn socketio() -> (Self, Vec<String>) {
        let mut service = Self::spawn("Socket.IO", node("socketio.cjs"), None);
        let line = service.line().await;
        let addresses = line.strip_prefix("listening ").expect("its addresses").split(' ').map(str::to_owned).collect();
        (service, addresses)
    }

    /// Streamlit with its app, and where it listens.
    pub async fn streamlit() -> (Self, String) {
        let listening = free_address();
        let port = listening.rsplit(':').next().expect("a port");
        let mut command = Command::new(installed("venv/bin/python"));
        command.args(["-m", "streamlit", "run"]).arg(root().join("tests/real/streamlit_app.py"));
        command.args(["--server.address", "127.0.0.1", "--server.port", port, "--server.headless", "true"]);
        command.args(["--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none"]).stderr(Stdio::null());
        (Self::listening("Streamlit", command, &listening).await, listening)
    }

    /// Jupyter Server in a folder of its own, by whose secret it is known, and where it listens.
    pub async fn jupyter(secret: &str) -> (Self, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let listening = free_address();
        let port = listening.rsplit(':').next().expect("a port");
        let mut command = Command::new(installed("venv/bin/python"));
        command.args(["-m", "jupyter_server", "--ip", "127.0.0.1", "--port", port, "--no-browser", "--allow-root"]);
        command
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("JUPYTER_TOKEN", secret)
            .stderr(Stdio::null());
        let mut server = Self::listening("Jupyter Server", command, &listening).await;
        server.folder = Some(folder);
        (server, listening)
    }

    /// The own npm clients of several services.
    pub async fn service_client(authority: &Path) -> Self {
        let mut command = node("service_client.cjs");
        command.env("NODE_EXTRA_CA_CERTS", authority);
        Self::ready(Self::spawn("the clients of services", command, None)).await
    }

    /// A browser without a window, `chromium` or `firefox`, that trusts `authority`.
    pub async fn browser(kind: &str, authority: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = node("browser.cjs");
        command.arg(kind).arg(folder.path()).arg(authority);
        Self::ready(Self::spawn(kind, command, Some(folder))).await
    }

    /// Runs `command`, its standard input and output on pipes.
    pub fn spawn(name: &str, mut command: Command, folder: Option<TempDir>) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}; run `make test`"));
        let input = child.stdin.take().expect("input");
        let output = BufReader::new(child.stdout.take().expect("output"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { name: name.to_owned(), child, input, lines, folder }
    }

    /// Runs `command`, which says nothing, and waits until it listens.
    async fn listening(name: &str, command: Command, address: &str) -> Self {
        let mut program = Self::spawn(name, command, None);
        let start = instant();
        while TcpStream::connect(address).await.is_err() {
            let left = program.child.try_wait().expect("wait");
            assert!(left.is_none(), "{name} left with {left:?}");
            assert!(start.elapsed() < START, "{name} does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        program
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        let line = within(START, &self.name, self.lines.recv()).await;
        line.unwrap_or_else(|| panic!("{} has left", self.name))
    }

    /// The next line that it has printed already.
    pub fn said(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Sends a request and gives the whole answer.
    pub async fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.input, "{request}").expect("its input");
        serde_json::from_str(&self.line().await).expect("JSON")
    }

    /// Sends a request that must succeed and gives its value.
    pub async fn call(&mut self, request: Value) -> Value {
        let mut answer = self.ask(&request).await;
        match answer.get_mut("value") {
            Some(value) => value.take(),
            None => panic!("{}: {request}: {answer}", self.name),
        }
    }

    /// Evaluates an expression in a browser's page.
    pub async fn eval(&mut self, expression: &str) -> Value {
        self.call(json!({"eval": expression})).await
    }

    async fn ready(mut program: Self) -> Self {
        let line = program.line().await;
        assert!(line.contains("ready"), "{}: {line}", program.name);
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SIGTERM first: a browser's driver takes its whole process group along.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine where nobody listens, for programs that must be told one.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// Where `make test` has installed things.
pub fn installed(name: &str) -> PathBuf {
    let path = root().join("target/real").join(name);
    assert!(path.exists(), "{} is not there: run `make test`", path.display());
    path
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python(script: &str) -> Command {
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg("-u").arg(root().join("tests/real").join(script));
    command
}

fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(root().join("tests/real").join(script)).env("NODE_PATH", installed("node_modules"));
    command
}
