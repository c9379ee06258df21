//! The other ways in, and what is refused.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::{STEP_TIMEOUT, Story, query, refused, watch};
use crate::client::{Post, ticket};
use crate::demo::stage::{ECHO, FIRST, TICKET};
use crate::issuer::Minted;
use crate::issuer::mint::random_id;
use crate::secret::Token;
use crate::token::Carrier;

impl<W: Write> Story<'_, W> {
    /// A ticket opens one stream in the place of the token, and no second one.
    pub(super) async fn ticket(&mut self) {
        self.printer.heading("A ticket, so that no token stands in a URL");
        let Some(token) = self.issue(MESSAGE, true) else { return };
        let asked = match self.target(ECHO) {
            Ok(target) => {
                let (tls, token) = (Some(&self.stage.tls), &token.token);
                ticket(Post { target: &target, tls, handle: None, token, timeout: STEP_TIMEOUT }).await
            }
            Err(error) => Err(error),
        };
        let (ticket, life) = match asked {
            Ok(given) => given,
            Err(error) => return self.step(false, "gateway", &format!("gives no ticket: {error}")),
        };
        self.step(life > Duration::ZERO, "gateway", &format!("a ticket for {} s, for one stream", life.as_secs()));
        let carrier = Carrier::Ticket(TICKET.to_owned());
        if let Some(mut stream) = self.opened(ECHO, carrier.clone(), Some(&ticket), "ticket in the query").await {
            self.identity(&mut stream, MESSAGE).await;
            stream.close().await;
        }
        let (good, told) = refused(self.attempt(ECHO, carrier, Some(&ticket)).await, 401, "token_invalid").await;
        self.step(good, "gateway", &format!("the same ticket once more: {told}"));
    }

    /// A client that sends its token as graphql-ws does: no upgrade request holds it, and the service does not see it.
    pub(super) async fn first_message(&mut self) {
        self.printer.heading("A token in the first message");
        let Some(token) = self.issue(MESSAGE, true) else { return };
        let opened = self.opened(FIRST, Carrier::Message, None, "without a token").await;
        let Some(mut stream) = opened else { return };
        self.note("client", "sends {\"type\":\"connection_init\", ...} with it");
        // A stream that has ended says so at its next read.
        let _ = stream.send(first_message(&token.token)).await;
        self.identity(&mut stream, MESSAGE).await;
        stream.close().await;

        let forged = self.stage.issuer.forge(MESSAGE, &self.session, self.ttl, self.clock.now());
        let told = match (forged, self.attempt(FIRST, Carrier::Message, None).await) {
            (Ok(forged), Ok(mut stream)) => {
                let _ = stream.send(first_message(&forged.token)).await;
                let ending = tokio::time::timeout(STEP_TIMEOUT, watch(stream, self.clock)).await;
                ending.map_or("no answer".to_owned(), |ending| ending.closed.to_string())
            }
            (Err(error), _) => error.to_string(),
            (_, Err(error)) => error.to_string(),
        };
        let good = told == "closed with 3000 \"token_invalid\"";
        self.step(good, "gateway", &format!("a forged one: {told}"));
    }

    /// A session is banned: its live stream ends at once, and no other one begins.
    pub(super) async fn revocation(&mut self) {
        self.printer.heading("A session that is revoked");
        let Some(token) = self.issue(MESSAGE, true) else { return };
        let Some(stream) = self.opened(ECHO, query(), Some(&token.token), "token in the query").await else { return };
        let revoked = self.clock.now();
        let ended = self.stage.revoke(&self.session, revoked);
        let told = ended.map_or("cannot be revoked".to_owned(), |ended| format!("revoked: ends {ended} stream"));
        self.step(ended == Some(1), "operator", &told);
        let ending = tokio::time::timeout(STEP_TIMEOUT, watch(stream, self.clock)).await.ok();
        let late = ending.as_ref().map(|ending| ending.at.saturating_since(revoked.wall));
        let closed = ending.map(|ending| ending.closed);
        let right = closed.as_ref().is_some_and(|closed| closed.clean && closed.code == Some(3003));
        let told = match (closed, late) {
            (Some(closed), Some(late)) => format!("{closed}, {:.1} ms after", late.as_secs_f64() * 1000.0),
            _ => "the stream goes on".to_owned(),
        };
        self.step(right && late.is_some_and(|late| late <= REVOKED), "gateway", &told);
        let answer = self.attempt(ECHO, query(), Some(&token.token)).await;
        let (good, told) = refused(answer, 401, "token_revoked").await;
        self.step(good, "gateway", &format!("the same session once more: {told}"));
        // What follows is another session's.
        self.session = random_id();
    }

    /// What the gate refuses before anything reaches a service.
    pub(super) async fn refusals(&mut self, old: Option<Minted>) {
        self.printer.heading("What the gate refuses");
        let (issuer, now) = (&self.stage.issuer, self.clock.now());
        let token = |minted: Result<Minted, _>| minted.ok().map(|minted| minted.token);
        let forged = token(issuer.forge("let me in", &self.session, self.ttl, now));
        let foreign = token(issuer.misdirect("let me in", &self.session, self.ttl, now));
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
}

/// As the demo's route has it.
fn first_message(token: &Token) -> String {
    json!({ "type": "connection_init", "payload": { "token": token.expose() } }).to_string()
}

const MESSAGE: &str = "Hello";
/// The bound that portcullis promises for the end of a revoked stream.
const REVOKED: Duration = Duration::from_secs(1);
