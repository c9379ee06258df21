//! `portcullis client` as a person runs it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Gateway;

/// The client while it runs, in the gateway's folder; ended when dropped.
pub struct Client {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    /// What it has printed so far, as far as it was read.
    pub told: String,
}

impl Client {
    /// Runs it against this gateway, which it trusts.
    pub fn start(gateway: &Gateway, arguments: &[&str]) -> Self {
        Self::start_with(gateway, arguments, |_| {})
    }

    /// Likewise; `prepare` may change the command, such as its environment.
    pub fn start_with(gateway: &Gateway, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(["client", &format!("wss://localhost:{}/", gateway.address().port()), "--ca", "ca.pem"])
            .args(arguments)
            .current_dir(gateway.path("."))
            .stdout(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().expect("the client");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines, told: String::new() }
    }

    /// Reads on until a line that begins with this has come so often in all.
    pub async fn until(&mut self, start: &str, times: usize) {
        self.until_for(Duration::from_secs(20), start, times).await;
    }

    /// Likewise; each line may take as long as this.
    pub async fn until_for(&mut self, patience: Duration, start: &str, times: usize) {
        while self.told.lines().filter(|line| line.starts_with(start)).count() < times {
            let line = tokio::time::timeout(patience, self.lines.recv()).await;
            let line = line.ok().flatten().unwrap_or_else(|| panic!("no more `{start}`:\n{}", self.told));
            self.told.push_str(&line);
            self.told.push('\n');
        }
        assert!(!self.told.contains("eyJ"), "a token was printed:\n{}", self.told);
    }

    /// How many streams were opened.
    pub fn streams(&self) -> usize {
        self.told.lines().filter(|line| line.starts_with("open")).count()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
