//! The line that a stream writes when it opens, and the one when it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Mono;
use crate::names::field;
use crate::stream::Outcome;
use crate::token::Grant;

/// What both lines of a stream say.
#[derive(Clone, Debug)]
pub struct StreamLine {
    /// The stream's number.
    pub stream: u64,
    /// The route's name.
    pub route: Arc<str>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// What names the token: its `jti`, and its short hash.
    token: Names,
    /// When it opened.
    opened: Mono,
}

#[derive(Clone, Debug)]
struct Names {
    jti: Option<Box<str>>,
    fingerprint: Box<str>,
    principal: Box<str>,
}

impl StreamLine {
    /// The lines of a stream that opens at `opened` with `grant`.
    pub fn new(stream: u64, route: Arc<str>, peer: SocketAddr, grant: &Grant, opened: Mono) -> Self {
        let token = Names {
            jti: grant.jti.as_deref().map(Into::into),
            fingerprint: grant.fingerprint.as_str().into(),
            principal: grant.principal.fingerprint().into(),
        };
        Self { stream, route, peer, token, opened }
    }

    /// Writes the line that says that the stream is open.
    pub fn open(&self) {
        tracing::info!(
            { field::STREAM } = self.stream,
            { field::ROUTE } = &*self.route,
            { field::PEER } = %self.peer,
            { field::JTI } = self.token.jti.as_deref(),
            { field::TOKEN } = &*self.token.fingerprint,
            { field::PRINCIPAL } = &*self.token.principal,
            "stream opened"
        );
    }

    /// Writes the line that says how it ended, at `now`.
    pub fn end(&self, outcome: &Outcome, now: Mono) {
        let lived = now.saturating_since(self.opened);
        let reset = match (outcome.downstream_reset, outcome.upstream_reset) {
            (false, false) => "none",
            (true, false) => "downstream",
            (false, true) => "upstream",
            (true, true) => "both",
        };
        tracing::info!(
            { field::STREAM } = self.stream,
            { field::ROUTE } = &*self.route,
            { field::PEER } = %self.peer,
            { field::JTI } = self.token.jti.as_deref(),
            { field::TOKEN } = &*self.token.fingerprint,
            { field::CAUSE } = outcome.reason.as_str(),
            { field::BY } = outcome.reason.by().as_str(),
            { field::CODE } = outcome.code,
            { field::DURATION } = seconds(lived),
            { field::FRAMES_UP } = outcome.upward.frames,
            { field::BYTES_UP } = outcome.upward.bytes,
            { field::FRAMES_DOWN } = outcome.downward.frames,
            { field::BYTES_DOWN } = outcome.downward.bytes,
            { field::RESET } = reset,
            "stream ended"
        );
    }
}

/// Seconds, to the millisecond.
fn seconds(time: Duration) -> f64 {
    let millis = time.subsec_nanos().saturating_add(500_000) / 1_000_000;
    Duration::from_secs(time.as_secs()).saturating_add(Duration::from_millis(millis.into())).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Wall;
    use crate::stream::{CloseReason, Traffic};
    use crate::token::Principal;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_writes_a_line_when_it_opens_and_one_that_says_who_ended_it_and_why() {
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        let grant = Grant {
            principal: Principal::new(vec!["ann".into()]),
            expiry: Some(Wall::default()),
            issuer: "default".into(),
            jti: Some("id\n1".into()),
            fingerprint: "0123456789abcdef".into(),
            claims: Arc::default(),
        };
        let outcome = Outcome {
            reason: CloseReason::Expired,
            code: Some(3000),
            downstream_reset: false,
            upstream_reset: true,
            upward: Traffic { frames: 1, bytes: 10 },
            downward: Traffic { frames: 2, bytes: 20 },
        };
        tracing::subscriber::with_default(lines, || {
            let line = StreamLine::new(7, "chat".into(), ([192, 0, 2, 1], 5).into(), &grant, Mono::default());
            line.open();
            line.end(&outcome, Mono::from_origin(Duration::from_nanos(8_548_576_240)));
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for line in &lines {
            assert_eq!(line["stream"], 7);
            assert_eq!(line["route"], "chat");
            assert_eq!(line["peer"], "192.0.2.1:5");
            assert_eq!(line["jti"], "id\n1");
            assert_eq!(line["token"], "0123456789abcdef");
        }
        let expected = json!({
            "cause": "token_expired", "by": "gateway", "code": 3000, "duration_s": 8.549, "reset": "upstream",
            "frames_up": 1, "bytes_up": 10, "frames_down": 2, "bytes_down": 20,
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(lines[1][name], *value, "{name} in {text}");
        }
        assert!(!text.contains("ann"), "a principal is named by its hash");
    }
}
