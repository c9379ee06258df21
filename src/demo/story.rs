//! The exchange, step by step. Each step is checked against what portcullis promises.

mod live;
mod others;

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::backend::printable;
use crate::backend::verifier::Verdict;
use crate::client::{Attempt, Closed, OpenError, Received, Stream, Target, open};
use crate::clock::{Clock, Mono, Wall};
use crate::demo::print::Printer;
use crate::demo::stage::{SUBJECT_HEADER, Stage};
use crate::issuer::Minted;
use crate::issuer::mint::random_id;
use crate::secret::Token;
use crate::token::Carrier;

/// Plays it; true if every step came out as expected.
pub(super) async fn play<W: Write>(stage: &mut Stage, printer: &mut Printer<W>, clock: &Clock, ttl: Duration) -> bool {
    let mut story = Story { stage, printer, clock, ttl, session: random_id(), zero: Wall::default() };
    let old = story.live().await;
    story.ticket().await;
    story.first_message().await;
    story.revocation().await;
    story.refusals(old).await;
    story.printer.verdict()
}

struct Story<'a, W> {
    stage: &'a mut Stage,
    printer: &'a mut Printer<W>,
    clock: &'a Clock,
    /// How long a token is good for.
    ttl: Duration,
    /// The `sid` of the client's tokens.
    session: String,
    /// When the first token of this part of the story was issued.
    zero: Wall,
}

/// How a stream that was watched to its end has ended.
struct Ending {
    closed: Closed,
    /// When its Close was read.
    at: Wall,
}

impl<W: Write> Story<'_, W> {
    /// Signs a token for the client's session; a `first` one begins a part of the story.
    fn issue(&mut self, message: &str, first: bool) -> Option<Minted> {
        let minted = self.stage.issuer.issue(message, &self.session, self.ttl, self.clock.now());
        match minted {
            Ok(minted) => {
                if first {
                    self.zero = minted.issued;
                }
                let told = format!("token for {} s, message \"{message}\"", self.ttl.as_secs());
                self.printer.step(true, self.since(minted.issued), "issuer", &told);
                Some(minted)
            }
            Err(error) => {
                self.step(false, "issuer", &error.to_string());
                None
            }
        }
    }

    /// Sends the token as a message; the service decodes and confirms it.
    async fn verify(&mut self, stream: &mut Stream, token: &Minted, message: &str, how: &str) {
        while self.stage.verdicts.try_recv().is_ok() {}
        self.note("client", how);
        let answer = ask(stream, token.token.expose()).await;
        let verdict = tokio::time::timeout(STEP_TIMEOUT, self.stage.verdicts.recv()).await.ok().flatten();
        match verdict {
            Some(Verdict::Confirmed { message: Some(decoded), .. }) => {
                self.step(decoded == message, "verifier", &format!("decodes it: \"{}\"", printable(&decoded, 60)));
            }
            other => {
                let told = other.map_or("says nothing".to_owned(), |verdict| verdict.to_string());
                self.step(false, "verifier", &told);
            }
        }
        let field = |name| answer.as_ref().and_then(|answer| answer.get(name));
        let confirmed = field("ok") == Some(&Value::Bool(true)) && field("message") == Some(&message.into());
        let left = field("expires_in").and_then(Value::as_f64).unwrap_or_default();
        let told = if confirmed { format!("confirmed, {left:.3} s left") } else { "not confirmed".to_owned() };
        self.step(confirmed && left > 0.0, "client", &told);
    }

    /// What of the request reached the service: who it is, and no token.
    async fn identity(&mut self, stream: &mut Stream, message: &str) {
        let report = ask(stream, "headers").await.unwrap_or_default();
        let header = |name: &str| report.pointer(&format!("/headers/{}", name.to_lowercase())).and_then(Value::as_str);
        let subject = header(SUBJECT_HEADER);
        let clean = report.get("token_seen") == Some(&Value::Bool(false)) && header("sec-websocket-protocol").is_none();
        let sees =
            subject.map_or("no identity".to_owned(), |value| format!("{SUBJECT_HEADER}: {}", printable(value, 60)));
        let token = if clean { "no token" } else { "a token" };
        self.step(clean && subject == Some(message), "echo", &format!("sees {sees}, and {token}"));
    }

    /// The close must be the gate's, at the moment of expiry: never before, and at most 100 ms after.
    fn ended(&mut self, name: &str, ending: Option<Ending>, expires: Wall) {
        let Some(Ending { closed, at }) = ending else {
            self.step(false, "gateway", &format!("the {name} stream did not end as it should"));
            return;
        };
        let late = at.saturating_since(expires);
        let on_time = at >= expires && late <= LATE;
        let right = closed.clean && closed.code == Some(3000) && closed.reason == "token expired";
        let when = if at < expires {
            format!("{} ms too early", expires.saturating_since(at).as_millis())
        } else {
            format!("{:.1} ms after", late.as_secs_f64() * 1000.0)
        };
        let told = if right {
            format!("{name} stream: 3000 \"token expired\", {when}")
        } else {
            format!("{name} stream {closed}, {when}")
        };
        self.printer.step(on_time && right, self.since(at), "gateway", &told);
    }

    /// Opens a stream that must open.
    async fn opened(&mut self, route: &str, carrier: Carrier, token: Option<&Token>, how: &str) -> Option<Stream> {
        match self.attempt(route, carrier, token).await {
            Ok(stream) => {
                let chosen = stream.subprotocol().map_or(String::new(), |name| format!(" {name}"));
                self.step(true, "client", &format!("opens {route}, {how}: 101{chosen}"));
                Some(stream)
            }
            Err(error) => {
                self.step(false, "client", &format!("does not open {route}, {how}: {error}"));
                None
            }
        }
    }

    async fn attempt(&self, route: &str, carrier: Carrier, token: Option<&Token>) -> Result<Stream, OpenError> {
        let target = self.target(route)?;
        open(Attempt {
            target: &target,
            tls: Some(&self.stage.tls),
            token,
            carrier: &carrier,
            subprotocols: &[],
            origin: None,
            timeout: STEP_TIMEOUT,
        })
        .await
    }

    fn step(&mut self, good: bool, who: &str, text: &str) {
        let at = self.since(self.clock.now().wall);
        self.printer.step(good, at, who, text);
    }

    fn note(&mut self, who: &str, text: &str) {
        let at = self.since(self.clock.now().wall);
        self.printer.note(at, who, text);
    }

    fn since(&self, at: Wall) -> Duration {
        at.saturating_since(self.zero)
    }

    /// Waits until so many tenths of a token's life have passed since the first one was issued.
    async fn tenths(&self, count: u32) {
        let now = self.clock.now();
        let wait = self.zero.saturating_add(self.ttl * count / 10).saturating_since(now.wall);
        let until = Mono::from_origin(now.mono.since_origin().saturating_add(wait));
        tokio::time::sleep_until(self.clock.instant(until).into()).await;
    }

    fn target(&self, route: &str) -> Result<Target, OpenError> {
        Ok(self.stage.url(route).parse()?)
    }
}

/// Sends one message and reads the answer to it, as JSON.
async fn ask(stream: &mut Stream, text: &str) -> Option<Value> {
    let exchange = async {
        stream.send(text).await.ok()?;
        match stream.next().await {
            Received::Text(answer) => serde_json::from_str(&answer).ok(),
            Received::Binary(_) | Received::Closed(_) => None,
        }
    };
    tokio::time::timeout(STEP_TIMEOUT, exchange).await.ok().flatten()
}

/// Says nothing, and waits for the end.
async fn watch(mut stream: Stream, clock: &Clock) -> Ending {
    loop {
        if let Received::Closed(closed) = stream.next().await {
            let at = clock.now().wall;
            stream.finish().await;
            return Ending { closed, at };
        }
    }
}

/// Whether an attempt was refused as it should be, and what was told.
async fn refused(answer: Result<Stream, OpenError>, status: u16, reason: &str) -> (bool, String) {
    match answer {
        Ok(stream) => {
            stream.close().await;
            (false, "let in".to_owned())
        }
        Err(error) => turned_down(&error, status, reason),
    }
}

/// Likewise for an answer that is no stream.
fn turned_down(error: &OpenError, status: u16, reason: &str) -> (bool, String) {
    match error {
        OpenError::Refused(refusal) => {
            let good = refusal.status == status && refusal.reason.as_deref() == Some(reason);
            (good, format!("{}  {}", refusal.status, refusal.reason.as_deref().unwrap_or("(no reason)")))
        }
        other => (false, other.to_string()),
    }
}

const QUERY_NAME: &str = "access_token";
const FIRST_MESSAGE: &str = "Good morning";
/// The bound that portcullis promises for a Close after the expiry.
const LATE: Duration = Duration::from_millis(100);
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

fn query() -> Carrier {
    Carrier::Query(QUERY_NAME.to_owned())
}
