//! One stream that lives through three tokens, beside one that nobody renews.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Ending, FIRST_MESSAGE, STEP_TIMEOUT, Story, ask, query, turned_down, watch};
use crate::client::{OpenError, Post, Received, Stream, renew};
use crate::clock::{Clock, Wall};
use crate::demo::stage::{ECHO, VERIFIER};
use crate::issuer::Minted;
use crate::issuer::mint::random_id;
use crate::secret::Token;
use crate::token::Carrier;

impl<W: Write> Story<'_, W> {
    /// The seed of the whole: a stream, its token, a new token on the same stream with a new message, and the end of the
    /// last one. Gives the first token, which has expired by then.
    pub(super) async fn live(&mut self) -> Option<Minted> {
        self.printer.heading(&format!("One stream, three tokens of {} s", self.ttl.as_secs()));
        let first = self.issue(FIRST_MESSAGE, true)?;
        let mut stream = self.opened(VERIFIER, query(), Some(&first.token), "token in the query").await?;
        self.verify(&mut stream, &first, FIRST_MESSAGE, "sends the token as a message").await;
        let pair = Carrier::SubprotocolPair;
        let mut other = self.opened(ECHO, pair, Some(&first.token), "token as a subprotocol").await?;
        self.identity(&mut other, FIRST_MESSAGE).await;
        self.note("client", "messages now flow on /echo, which nobody renews");
        let other = tokio::spawn(keep_busy(other, self.clock.clone()));

        self.tenths(5).await;
        self.forged_message(&mut stream).await;
        self.another_session(&stream).await;
        self.tenths(7).await;
        let second = self.issue(SECOND_MESSAGE, false)?;
        self.verify(&mut stream, &second, SECOND_MESSAGE, "sends it on the same stream, which renews").await;
        self.moved(&second);
        self.unrenewed(other, &first).await;
        self.outlived(&mut stream, &first, "first").await;

        self.tenths(14).await;
        let third = self.issue(THIRD_MESSAGE, false)?;
        self.beside(&stream, &third.token).await;
        self.moved(&third);
        self.verify(&mut stream, &third, THIRD_MESSAGE, "sends it on the stream too").await;
        self.tenths(18).await;
        self.outlived(&mut stream, &second, "second").await;
        self.note("client", "is silent from now on, and renews no more");
        let limit = self.ttl.saturating_add(STEP_TIMEOUT);
        let ending = tokio::time::timeout(limit, watch(stream, self.clock)).await.ok();
        self.printer.note(self.since(third.expires), "clock", "the third token expires");
        self.ended("renewed", ending, third.expires);
        Some(first)
    }

    /// A token of another maker, as a message: refused, and it moves nothing.
    async fn forged_message(&mut self, stream: &mut Stream) {
        let (now, before) = (self.clock.now(), self.stage.deadline());
        let forged = self.stage.issuer.forge("trust me", &self.session, self.ttl, now);
        let reason = match &forged {
            Ok(forged) => told(ask(stream, forged.token.expose()).await),
            Err(error) => error.to_string(),
        };
        let (still, moves) = self.unmoved(before);
        self.step(still && reason == "token_invalid", "verifier", &format!("forged token: {reason}; it {moves}"));
    }

    /// A good token of somebody else, who has the stream's handle: refused.
    async fn another_session(&mut self, stream: &Stream) {
        let before = self.stage.deadline();
        let stolen = self.stage.issuer.issue("let me ride along", &random_id(), self.ttl, self.clock.now());
        let (good, told) = match stolen {
            Ok(stolen) => match self.renew(stream, &stolen.token).await {
                Ok(_) => (false, "taken".to_owned()),
                Err(error) => turned_down(&error, 403, "forbidden"),
            },
            Err(error) => (false, error.to_string()),
        };
        let (still, moves) = self.unmoved(before);
        self.step(good && still, "gateway", &format!("another session: {told}; it {moves}"));
    }

    /// Whether the stream's deadline is what it was, and how to say so.
    fn unmoved(&self, before: Option<Wall>) -> (bool, &'static str) {
        let still = before.is_some() && self.stage.deadline() == before;
        (still, if still { "moves nothing" } else { "moves the deadline" })
    }

    /// The stream's deadline must be this token's end.
    fn moved(&mut self, token: &Minted) {
        let deadline = self.stage.deadline().unwrap_or_default();
        let apart = deadline.saturating_since(token.expires).max(token.expires.saturating_since(deadline));
        let left = deadline.saturating_since(self.clock.now().wall);
        let told = format!("the deadline is that token's now, {:.3} s left", left.as_secs_f64());
        self.step(apart < Duration::from_millis(1), "gateway", &told);
    }

    /// A renewal with a request beside the stream.
    async fn beside(&mut self, stream: &Stream, token: &Token) {
        self.note("client", "posts it with the stream's handle, which renews too");
        let (good, told) = match self.renew(stream, token).await {
            Ok(left) => {
                let left = left.unwrap_or_default();
                (
                    left.saturating_add(Duration::from_secs(2)) > self.ttl,
                    format!("200, at least {} s left", left.as_secs()),
                )
            }
            Err(error) => (false, error.to_string()),
        };
        self.step(good, "gateway", &told);
    }

    async fn renew(&self, stream: &Stream, token: &Token) -> Result<Option<Duration>, OpenError> {
        let target = self.target(VERIFIER)?;
        let (tls, handle) = (Some(&self.stage.tls), stream.handle());
        renew(Post { target: &target, tls, handle, token, timeout: STEP_TIMEOUT }).await
    }

    /// The stream that nobody renews must end with its token, busy as it is.
    async fn unrenewed(&mut self, stream: JoinHandle<(Ending, u64)>, token: &Minted) {
        let limit = self.ttl.saturating_add(STEP_TIMEOUT);
        let ending = tokio::time::timeout(limit, stream).await.ok().and_then(Result::ok);
        self.printer.note(self.since(token.expires), "clock", "the first token expires");
        let ending = ending.filter(|(_, echoed)| *echoed > 0);
        if let Some((ending, echoed)) = &ending {
            self.printer.note(self.since(ending.at), "client", &format!("{echoed} messages had come back"));
        }
        self.ended("unrenewed", ending.map(|(ending, _)| ending), token.expires);
    }

    /// The renewed stream must go on past the end of a token; what still comes with that one is refused by the service.
    async fn outlived(&mut self, stream: &mut Stream, token: &Minted, which: &str) {
        let reason = told(ask(stream, token.token.expose()).await);
        let past = self.clock.now().wall > token.expires;
        let text = format!("the {which} token: {reason}; the stream goes on");
        self.step(past && reason == "token_expired", "verifier", &text);
    }
}

/// The reason in the verifier's answer.
fn told(answer: Option<Value>) -> String {
    let answer = answer.unwrap_or_default();
    answer.get("reason").and_then(Value::as_str).unwrap_or("no refusal").to_owned()
}

/// Sends messages all the time, and so meets the end; gives how many came back too.
async fn keep_busy(mut stream: Stream, clock: Clock) -> (Ending, u64) {
    let mut echoed = 0_u64;
    let mut sending = true;
    let mut tick = tokio::time::interval(BUSY_PAUSE);
    loop {
        tokio::select! {
            received = stream.next() => match received {
                Received::Closed(closed) => {
                    let at = clock.now().wall;
                    stream.finish().await;
                    return (Ending { closed, at }, echoed);
                }
                Received::Text(_) | Received::Binary(_) => echoed = echoed.saturating_add(1),
            },
            // A failure to send is not the end yet: the Close that explains it is still to be read.
            _ = tick.tick(), if sending => sending = stream.send("busy").await.is_ok(),
        }
    }
}

const SECOND_MESSAGE: &str = "Still me";
const THIRD_MESSAGE: &str = "And once more";
const BUSY_PAUSE: Duration = Duration::from_millis(10);
