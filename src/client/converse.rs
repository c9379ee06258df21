//! One open stream: what is sent, what comes, and its renewals meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::event::Next;
use crate::client::renewing::{Means, Progress, Renewing};
use crate::client::{
    Client, End, Event, Fetched, OpenError, Post, Received, RenewalMode, Round, SourceError, Standing, Stream, renew,
    sleep_until,
};
use crate::issuer::schedule::{RenewalAdvice, after_renewal, after_renewal_in_band, retry_after};

/// What is known of one stream besides.
struct Talk {
    stream: Stream,
    renewing: Renewing,
    /// Whether the next message answers a token that says nothing new.
    repeated: bool,
}

impl Client<'_> {
    /// Talks until the stream has ended, one way or another.
    pub(super) async fn converse(&mut self, stream: Stream, held: Fetched) -> Round {
        let opened = self.clock.now().mono;
        let mut heard = false;
        let renewing = self.renewing(&stream, &held);
        let mut talk = Talk { stream, renewing, repeated: false };
        if self.settings.send_token {
            self.send_token(&mut talk, &held, "").await;
        }
        loop {
            if let Some(text) = self.unsent.front() {
                let sent = tokio::select! {
                    () = self.shutdown.cancelled() => return Round::Done(End::Interrupted),
                    sent = talk.stream.send(text.clone()) => sent,
                };
                // A stream that has ended says so at its next read.
                if sent.is_ok()
                    && let Some(text) = self.unsent.pop_front()
                {
                    (self.sink)(Event::Sent(text));
                    self.touch();
                    continue;
                }
            }
            let leaving = self.leaving();
            tokio::select! {
                () = self.shutdown.cancelled() => {
                    (self.sink)(Event::Closed(talk.stream.close().await));
                    return Round::Done(End::Interrupted);
                }
                received = talk.stream.next() => match received {
                    Received::Closed(mut closed) => {
                        talk.stream.finish().await;
                        closed.reason = self.masked(&closed.reason);
                        if heard {
                            let lived = self.clock.now().mono.saturating_since(opened);
                            self.backoff.worked(lived, self.state().expired);
                        }
                        return self.closed(closed);
                    }
                    message => {
                        heard = true;
                        self.heard(&mut talk, message);
                    }
                },
                progress = talk.renewing.next(&self.clock) => self.renewal(&mut talk, progress).await,
                line = next_line(&mut self.input) => self.take(line),
                () = sleep_until(leaving) => {
                    (self.sink)(Event::Closed(talk.stream.close().await));
                    return Round::Done(End::Finished);
                }
            }
        }
    }

    /// The renewals of a stream that was just opened with `held`.
    fn renewing(&mut self, stream: &Stream, held: &Fetched) -> Renewing {
        let means = match (&self.settings.renewal, stream.handle()) {
            (RenewalMode::InBand { prefix }, _) => Some(Means::Message(prefix.clone())),
            (RenewalMode::OutOfBand, Some(handle)) => Some(Means::Handle(handle.clone())),
            (RenewalMode::Off, _) | (RenewalMode::OutOfBand, None) => None,
        };
        if means.is_none() && self.settings.renewal == RenewalMode::OutOfBand {
            self.unserved("no handle in the answer".into());
        }
        let mut renewing = Renewing::new(means.filter(|_| self.renews));
        renewing.taken(held, stream.expires_in(), &self.clock);
        renewing
    }

    /// A message from the other side.
    fn heard(&mut self, talk: &mut Talk, mut message: Received) {
        if let Received::Text(text) = &mut message {
            if talk.renewing.before.is_some() && self.answered_in_band(talk, text) {
                return;
            }
            *text = self.masked(text);
        }
        (self.sink)(Event::Received(message));
        if !std::mem::take(&mut talk.repeated) {
            self.touch();
        }
    }

    /// Sends a token as a message, behind `prefix`.
    async fn send_token(&mut self, talk: &mut Talk, token: &Fetched, prefix: &str) {
        let text = format!("{prefix}{}", token.token.expose());
        let sent = tokio::select! {
            // The loop hears of it too.
            () = self.shutdown.cancelled() => return,
            sent = talk.stream.send(text) => sent,
        };
        if sent.is_ok() {
            (self.sink)(Event::SentToken);
            talk.repeated = self.told.replace(token.subject.clone()).is_some_and(|before| before == token.subject);
            if !talk.repeated {
                self.touch();
            }
        }
    }

    async fn renewal(&mut self, talk: &mut Talk, progress: Progress) {
        match progress {
            Progress::Due => {
                if let Some(spare) = self.spare.clone().filter(|spare| self.is_newer(spare)) {
                    self.renew_with(talk, spare).await;
                } else {
                    let (settings, clock, count) = (Arc::clone(&self.settings), self.clock.clone(), self.fetched);
                    talk.renewing.fetch(async move { settings.source.fetch(count, clock.now()).await });
                }
            }
            Progress::Fetched(Ok(fetched)) if self.is_newer(&fetched) => {
                self.tell(&fetched);
                self.spare = Some(fetched.clone());
                self.renew_with(talk, fetched).await;
            }
            Progress::Fetched(fetched) => {
                let asked = fetched.as_ref().err().and_then(|error| error.asked(self.clock.now()));
                let (why, advice) = match (fetched, self.settings.source.origin()) {
                    (Err(error @ (SourceError::UsedUp | SourceError::Mint(_))), _) => {
                        (error.to_string(), RenewalAdvice::Stop)
                    }
                    (Err(error), _) => (error.to_string(), RenewalAdvice::Retry),
                    (Ok(_), Some(origin)) => (format!("{origin} is not newer"), RenewalAdvice::Retry),
                    (Ok(_), None) => ("the token is not newer".to_owned(), RenewalAdvice::Retry),
                };
                if std::mem::replace(&mut talk.renewing.said, true) {
                    talk.renewing.retry(asked, &self.clock);
                } else {
                    self.not_renewed(talk, why, advice, false, asked);
                }
            }
            Progress::Answered(Ok(told)) => {
                let Some(token) = self.renewed(talk, told) else { return };
                if self.settings.send_token {
                    self.send_token(talk, &token, "").await;
                }
            }
            Progress::Answered(Err(OpenError::Refused(refusal))) => {
                let now = self.clock.now().wall;
                let asked = refusal.retry_after.as_deref().and_then(|value| retry_after(value, now));
                let bad = refusal.status == 401;
                self.not_renewed(talk, refusal.to_string(), after_renewal(refusal.status), bad, asked);
            }
            Progress::Answered(Err(error)) => {
                self.not_renewed(talk, error.to_string(), RenewalAdvice::Retry, false, None);
            }
        }
    }

    /// Whether it is another token than the held one, and no shorter.
    fn is_newer(&self, token: &Fetched) -> bool {
        let Some(held) = &self.held else { return true };
        token.token != held.token
            && match (token.expires, held.expires) {
                (Some(new), Some(old)) => new >= old,
                (new, _) => new.is_none(),
            }
    }

    async fn renew_with(&mut self, talk: &mut Talk, token: Fetched) {
        match &talk.renewing.means {
            Some(Means::Handle(handle)) => {
                let (settings, handle) = (Arc::clone(&self.settings), handle.clone());
                talk.renewing.post(async move {
                    let (target, tls, token) = (&settings.target, settings.tls.as_ref(), &token.token);
                    let timeout = settings.open_timeout.min(RENEWAL_TIMEOUT);
                    renew(Post { target, tls, handle: Some(&handle), token, timeout }).await
                });
            }
            Some(Means::Message(prefix)) => {
                let prefix = prefix.clone();
                self.send_token(talk, &token, &prefix).await;
                if let Some(old) = self.adopt(token.clone()) {
                    talk.renewing.sent(&token, old, &self.clock);
                }
            }
            None => {}
        }
    }

    /// The gateway has taken the spare token.
    fn renewed(&mut self, talk: &mut Talk, told: Option<Duration>) -> Option<Fetched> {
        let token = self.spare.take()?;
        self.adopt(token.clone());
        talk.renewing.taken(&token, told, &self.clock);
        (self.sink)(Event::Renewed { expires_in: told });
        Some(token)
    }

    /// The stream has this token from now on; gives the one before.
    fn adopt(&mut self, token: Fetched) -> Option<Fetched> {
        self.spare = None;
        self.standing = Standing::Good;
        self.used = true;
        self.held.replace(token)
    }

    /// `bad` says that the token itself was refused, and is not to be tried again.
    fn not_renewed(&mut self, talk: &mut Talk, why: String, advice: RenewalAdvice, bad: bool, asked: Option<Duration>) {
        if bad || advice == RenewalAdvice::Another {
            self.spare = None;
        }
        let next = match advice {
            RenewalAdvice::Another | RenewalAdvice::Retry => {
                talk.renewing.retry(asked, &self.clock).map_or(Next::TooLate, Next::Again)
            }
            RenewalAdvice::Gone => {
                talk.renewing.stop();
                Next::Gone
            }
            RenewalAdvice::Stop => {
                talk.renewing.stop();
                Next::Stop
            }
            RenewalAdvice::Unserved => {
                talk.renewing.stop();
                return self.unserved(why);
            }
        };
        (self.sink)(Event::NotRenewed { why, next });
    }

    /// Nobody renews there; said once.
    fn unserved(&mut self, why: String) {
        if std::mem::replace(&mut self.renews, false) {
            (self.sink)(Event::NotRenewed { why, next: Next::Unserved });
        }
    }

    /// Takes a message that is the gateway's answer to a renewal in band; false if it is none.
    fn answered_in_band(&mut self, talk: &mut Talk, text: &str) -> bool {
        let Ok(answer) = serde_json::from_str::<Value>(text) else { return false };
        let word = |name| answer.get(name).and_then(Value::as_str);
        match word("portcullis") {
            Some("renewed") => {
                let told = answer.get("expires_in").and_then(Value::as_u64).map(Duration::from_secs);
                talk.renewing.before = None;
                if let Some(held) = &self.held {
                    talk.renewing.taken(held, told, &self.clock);
                }
                (self.sink)(Event::Renewed { expires_in: told });
            }
            Some("refused") => {
                let reason = word("reason").unwrap_or_default();
                if let Some(old) = talk.renewing.undo() {
                    self.spare = self.held.replace(old);
                }
                let why = format!("refused: {reason}");
                let bad = reason.starts_with("token_");
                self.not_renewed(talk, why, after_renewal_in_band(reason), bad, None);
            }
            _ => return false,
        }
        true
    }

    /// The text without any of the last tokens.
    fn masked(&self, text: &str) -> String {
        self.recent.iter().fold(text.to_owned(), |text, token| token.masked_in(&text))
    }

    /// Takes a line of the input, or its end.
    fn take(&mut self, line: Option<String>) {
        if line.is_none() {
            self.input = None;
            self.touch();
        }
        self.unsent.extend(line);
    }

    /// When the client leaves if nothing comes; `None` while there may be more to send. It counts over all streams,
    /// since one may live shorter than that.
    fn leaving(&self) -> Option<Instant> {
        let after = self.settings.leave_after.filter(|_| self.input.is_none() && self.unsent.is_empty())?;
        Some(self.clock.instant(self.active.saturating_add(after)))
    }
}

async fn next_line(input: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// For one attempt, so that there may be another before the token's end.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);
