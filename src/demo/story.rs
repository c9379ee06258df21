//! The exchange, step by step. Each step is checked against what portcullis promises.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::backend::printable;
use crate::backend::verifier::Verdict;
use crate::client::{Attempt, Closed, OpenError, Received, Stream, Target, open};
use crate::clock::{Clock, Mono, Wall};
use crate::demo::print::Printer;
use crate::demo::stage::{ECHO, SUBJECT_HEADER, Stage, VERIFIER};
use crate::issuer::{Mint, Minted};
use crate::secret::Token;
use crate::token::Carrier;

/// Plays it; true if every step came out as expected.
pub(super) async fn play<W: Write>(stage: &mut Stage, printer: &mut Printer<W>, clock: &Clock, ttl: Duration) -> bool {
    let mut story = Story { stage, printer, clock, zero: Wall::default() };
    let old = story.until_expiry(ttl).await;
    story.again(ttl).await;
    story.refusals(old).await;
    story.printer.verdict()
}

struct Story<'a, W> {
    stage: &'a mut Stage,
    printer: &'a mut Printer<W>,
    clock: &'a Clock,
    /// When the present token was issued.
    zero: Wall,
}

/// How a stream that was watched to its end has ended.
struct Ending {
    closed: Closed,
    /// When its Close was read.
    at: Wall,
    /// Messages that came back before.
    echoed: u64,
}

impl<W: Write> Story<'_, W> {
    /// One token, from its making to the moment it expires, on an idle stream and on a busy one.
    async fn until_expiry(&mut self, ttl: Duration) -> Option<Minted> {
        self.printer.heading(&format!("A token that is good for {} s", ttl.as_secs()));
        let token = self.issue(FIRST_MESSAGE).await?;
        let mut idle = self.opened(VERIFIER, query(), Some(&token.token), "token in the query").await;
        if let Some(stream) = &mut idle {
            self.verify(stream, &token, FIRST_MESSAGE).await;
        }
        let pair = Carrier::SubprotocolPair;
        let mut busy = self.opened(ECHO, pair, Some(&token.token), "token as a subprotocol").await;
        if let Some(stream) = &mut busy {
            self.identity(stream).await;
        }
        if let (Some(idle), Some(busy)) = (idle, busy) {
            self.note("client", "messages now flow on /echo; /verifier is silent");
            self.expire(idle, busy, token.expires, ttl).await;
        }
        let answer = self.attempt(VERIFIER, query(), Some(&token.token)).await;
        let (good, told) = refused(answer, 401, "token_expired").await;
        self.step(good, "gateway", &format!("the old token, once more: {told}"));
        Some(token)
    }

    /// A new token with a new message; the client ends this stream itself.
    async fn again(&mut self, ttl: Duration) {
        self.printer.heading("A new token, a new message");
        let Some(token) = self.issue(SECOND_MESSAGE).await else { return };
        let opened = self.opened(VERIFIER, Carrier::Header, Some(&token.token), "token in a header").await;
        let Some(mut stream) = opened else { return };
        self.forged_message(&mut stream).await;
        self.verify(&mut stream, &token, SECOND_MESSAGE).await;
        let closed = stream.close().await;
        let good = closed.clean && closed.code == Some(1000) && self.since(self.clock.now().wall) < ttl;
        self.step(good, "client", &format!("closes with 1000 \u{2192} {}", answered(&closed)));
    }

    /// What the gate refuses before anything reaches a service.
    async fn refusals(&mut self, old: Option<Minted>) {
        self.printer.heading("What the gate refuses");
        let now = self.clock.now();
        let sign = |mint: &Mint| mint.sign_subject("let me in", now).ok().map(|minted| minted.token);
        let forged = sign(&self.stage.issuer.forged);
        let foreign = sign(&self.stage.issuer.wrong_audience);
        let table = [
            ("forged signature", forged, "token_invalid"),
            ("expired", old.map(|minted| minted.token), "token_expired"),
            ("wrong audience", foreign, "token_invalid"),
        ];
        for (name, token, reason) in table {
            let (good, told) = match token {
                Some(token) => refused(self.attempt(ECHO, query(), Some(&token)).await, 401, reason).await,
                None => (false, "there is no token to try".to_owned()),
            };
            self.printer.check(good, name, &told);
        }
        let (good, told) = refused(self.attempt(ECHO, query(), None).await, 401, "token_missing").await;
        self.printer.check(good, "no token", &told);
    }

    /// Signs a token at the beginning of a second, since `exp` counts in whole ones: so its life is its whole ttl.
    async fn issue(&mut self, message: &str) -> Option<Minted> {
        let now = self.clock.now();
        let rest =
            Duration::from_secs(1).saturating_sub(Duration::from_nanos(now.wall.since_epoch().subsec_nanos().into()));
        self.sleep(rest).await;
        let mut now = self.clock.now();
        while now.wall.as_secs() == self.zero.as_secs() {
            self.sleep(Duration::from_millis(1)).await;
            now = self.clock.now();
        }
        match self.stage.issuer.good.sign_subject(message, now) {
            Ok(minted) => {
                self.zero = minted.issued;
                let life = minted.expires.saturating_since(minted.issued).as_secs();
                let told = format!("token for {life} s, message \"{message}\"");
                self.printer.step(true, Duration::ZERO, "issuer", &told);
                Some(minted)
            }
            Err(error) => {
                self.printer.step(false, Duration::ZERO, "issuer", &error.to_string());
                None
            }
        }
    }

    /// Sends the token as a message; the service decodes and confirms it.
    async fn verify(&mut self, stream: &mut Stream, token: &Minted, message: &str) {
        while self.stage.verdicts.try_recv().is_ok() {}
        self.note("client", "sends the token as a message");
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

    /// A token of another maker, as a message: refused, and the stream goes on.
    async fn forged_message(&mut self, stream: &mut Stream) {
        let forged = self.stage.issuer.forged.sign_subject("trust me", self.clock.now());
        let answer = match &forged {
            Ok(forged) => ask(stream, forged.token.expose()).await,
            Err(_) => None,
        };
        let reason = answer.as_ref().and_then(|answer| answer.get("reason")).and_then(Value::as_str);
        let told = format!("forged token: {}", reason.unwrap_or("no answer"));
        self.step(reason == Some("token_invalid"), "verifier", &format!("{told}; the stream goes on"));
    }

    /// What of the request reached the service: who it is, and no token.
    async fn identity(&mut self, stream: &mut Stream) {
        let report = ask(stream, "headers").await.unwrap_or_default();
        let header = |name: &str| report.pointer(&format!("/headers/{}", name.to_lowercase())).and_then(Value::as_str);
        let subject = header(SUBJECT_HEADER);
        let clean = report.get("token_seen") == Some(&Value::Bool(false)) && header("sec-websocket-protocol").is_none();
        let sees =
            subject.map_or("no identity".to_owned(), |value| format!("{SUBJECT_HEADER}: {}", printable(value, 60)));
        let token = if clean { "no token" } else { "a token" };
        self.step(clean && subject == Some(FIRST_MESSAGE), "echo", &format!("sees {sees}, and {token}"));
    }

    /// Watches both streams until the gate has closed them.
    async fn expire(&mut self, idle: Stream, busy: Stream, expires: Wall, ttl: Duration) {
        let halfway = Mono::from_origin(self.clock.now().mono.since_origin().saturating_add(ttl / 2));
        let clock = self.clock;
        let limit = ttl.saturating_add(STEP_TIMEOUT);
        let watched = async {
            tokio::join!(
                tokio::time::timeout(limit, watch(idle, clock)),
                tokio::time::timeout(limit, keep_busy(busy, clock)),
                async {
                    tokio::time::sleep_until(clock.instant(halfway).into()).await;
                    self.note("", "both streams still open");
                }
            )
        };
        let (idle, busy, ()) = watched.await;
        self.printer.note(self.since(expires), "clock", "the token expires");
        self.ended("idle", idle.ok(), expires);
        if let Ok(busy) = &busy {
            self.printer.note(self.since(busy.at), "client", &format!("{} messages had come back", busy.echoed));
        }
        let flowed = busy.as_ref().is_ok_and(|busy| busy.echoed > 0);
        self.ended("busy", busy.ok().filter(|_| flowed), expires);
    }

    /// The close must be the gate's, at the moment of expiry: never before, and at most 100 ms after.
    fn ended(&mut self, name: &str, ending: Option<Ending>, expires: Wall) {
        let Some(Ending { closed, at, .. }) = ending else {
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
        let target: Target = self.stage.url(route).parse()?;
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

    async fn sleep(&self, time: Duration) {
        let until = Mono::from_origin(self.clock.now().mono.since_origin().saturating_add(time));
        tokio::time::sleep_until(self.clock.instant(until).into()).await;
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
            return Ending { closed, at, echoed: 0 };
        }
    }
}

/// Sends messages all the time, counts those that come back, and so meets the end.
async fn keep_busy(mut stream: Stream, clock: &Clock) -> Ending {
    let mut echoed = 0_u64;
    let mut sending = true;
    let mut tick = tokio::time::interval(BUSY_PAUSE);
    loop {
        tokio::select! {
            received = stream.next() => match received {
                Received::Closed(closed) => {
                    let at = clock.now().wall;
                    stream.finish().await;
                    return Ending { closed, at, echoed };
                }
                Received::Text(_) | Received::Binary(_) => echoed = echoed.saturating_add(1),
            },
            // A failure to send is not the end yet: the Close that explains it is still to be read.
            _ = tick.tick(), if sending => sending = stream.send("busy").await.is_ok(),
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
        Err(OpenError::Refused(refusal)) => {
            let good = refusal.status == status && refusal.reason.as_deref() == Some(reason);
            (good, format!("{}  {}", refusal.status, refusal.reason.as_deref().unwrap_or("(no reason)")))
        }
        Err(other) => (false, other.to_string()),
    }
}

fn answered(closed: &Closed) -> String {
    match closed.code {
        Some(code) if closed.clean => format!("answered with {code}"),
        _ => "not answered".to_owned(),
    }
}

const QUERY_NAME: &str = "access_token";
const FIRST_MESSAGE: &str = "Good morning";
const SECOND_MESSAGE: &str = "Still me";
/// The bound that portcullis promises for a Close after the expiry.
const LATE: Duration = Duration::from_millis(100);
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

fn query() -> Carrier {
    Carrier::Query(QUERY_NAME.to_owned())
}
