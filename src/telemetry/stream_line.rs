//! The line that a stream writes when it opens, and the one when it ends.

use std::net::SocketAddr;
use std::time::Duration;

use crate::names::field;
use crate::secret::Fingerprint;
use crate::stream::{CloseReason, Outcome};

/// What both lines of a stream say.
#[derive(Clone, Debug)]
pub struct StreamLine<'a> {
    /// The stream's number.
    pub stream: u64,
    /// The route's name.
    pub route: &'a str,
    /// The peer's address.
    pub peer: SocketAddr,
    /// `jti` of the present token, if it has one.
    pub jti: Option<Box<str>>,
    /// Short hash of the present token.
    pub token: Fingerprint,
    /// Short hash of the principal.
    pub principal: Fingerprint,
    /// How often the token was renewed.
    pub renewals: u32,
}

/// An answer to a plain request that was cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Why.
    pub reason: CloseReason,
    /// How long after it began.
    pub lived: Duration,
    /// Bytes of the request's body that had passed.
    pub bytes_up: u64,
    /// Bytes of the answer's.
    pub bytes_down: u64,
}

impl StreamLine<'_> {
    /// Writes the line that says that an answer was cut.
    pub fn cut(&self, cut: &Cut) {
        tracing::info!(
            { field::STREAM } = self.stream,
            { field::ROUTE } = self.route,
            { field::PEER } = %self.peer,
            { field::JTI } = self.jti.as_deref(),
            { field::TOKEN } = %self.token,
            { field::CAUSE } = cut.reason.as_str(),
            { field::BY } = cut.reason.by().as_str(),
            { field::DURATION } = seconds(cut.lived),
            { field::BYTES_UP } = cut.bytes_up,
            { field::BYTES_DOWN } = cut.bytes_down,
            "answer cut"
        );
    }

    /// Writes the line that says that the stream is open.
    pub fn open(&self) {
        tracing::info!(
            { field::STREAM } = self.stream,
            { field::ROUTE } = self.route,
            { field::PEER } = %self.peer,
            { field::JTI } = self.jti.as_deref(),
            { field::TOKEN } = %self.token,
            { field::PRINCIPAL } = %self.principal,
            "stream opened"
        );
    }

    /// Writes the line that says how it ended, after `lived`.
    pub fn end(&self, outcome: &Outcome, lived: Duration) {
        let reset = match (outcome.downstream_reset, outcome.upstream_reset) {
            (false, false) => "none",
            (true, false) => "downstream",
            (false, true) => "upstream",
            (true, true) => "both",
        };
        tracing::info!(
            { field::STREAM } = self.stream,
            { field::ROUTE } = self.route,
            { field::PEER } = %self.peer,
            { field::JTI } = self.jti.as_deref(),
            { field::TOKEN } = %self.token,
            { field::CAUSE } = outcome.reason.as_str(),
            { field::BY } = outcome.reason.by().as_str(),
            { field::CODE } = outcome.code,
            { field::DURATION } = seconds(lived),
            { field::FRAMES_UP } = outcome.upward.frames,
            { field::BYTES_UP } = outcome.upward.bytes,
            { field::FRAMES_DOWN } = outcome.downward.frames,
            { field::BYTES_DOWN } = outcome.downward.bytes,
            { field::RENEWALS } = self.renewals,
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
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;
    use crate::secret::fingerprint;
    use crate::stream::{CloseReason, Traffic};

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
        let outcome = Outcome {
            reason: CloseReason::Expired,
            code: Some(3000),
            downstream_reset: false,
            upstream_reset: true,
            upward: Traffic { frames: 1, bytes: 10 },
            downward: Traffic { frames: 2, bytes: 20 },
            late: None,
        };
        tracing::subscriber::with_default(lines, || {
            let line = StreamLine {
                stream: 7,
                route: "chat",
                peer: ([192, 0, 2, 1], 5).into(),
                jti: Some("id\n1".into()),
                token: fingerprint(b"token"),
                principal: fingerprint(b"ann"),
                renewals: 3,
            };
            line.open();
            line.end(&outcome, Duration::from_nanos(8_548_576_240));
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for line in &lines {
            assert_eq!(line["stream"], 7);
            assert_eq!(line["route"], "chat");
            assert_eq!(line["peer"], "192.0.2.1:5");
            assert_eq!(line["jti"], "id\n1");
            assert_eq!(line["token"], "3c469e9d6c5875d3");
        }
        let expected = json!({
            "cause": "token_expired", "by": "gateway", "code": 3000, "duration_s": 8.549, "reset": "upstream", "renewals": 3,
            "frames_up": 1, "bytes_up": 10, "frames_down": 2, "bytes_down": 20,
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(lines[1][name], *value, "{name} in {text}");
        }
        assert!(!text.contains("ann"), "a principal is named by its hash");
    }
}
