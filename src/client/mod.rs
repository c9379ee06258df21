//! The bundled client: opens a stream with a token, renews it while the stream lives, and comes back with a new one when
//! the gate has closed.
//!
//! Owns one stream at a time and the decision whether to come back; when to renew, and what a Close or a refusal means,
//! is `issuer::schedule`'s part. It prints nothing: what happens goes to a sink as [`Event`]s. Called by
//! `portcullis client`; the demo uses [`open`] and [`renew`] by themselves.

mod connect;
mod converse;
mod event;
mod input;
mod post;
mod renewing;
mod source;
mod target;
pub mod tls;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use connect::{Attempt, Closed, Gone, OpenError, Received, Refusal, Stream, open};
pub use event::{End, Event, Next};
pub use input::stdin_lines;
pub use post::{Post, renew, ticket};
pub use renewing::RenewalMode;
pub use source::{Fetched, Source, SourceError};
pub use target::{Target, TargetError};
pub use tls::{TrustError, trust};

use crate::clock::{Clock, Mono};
use crate::issuer::schedule::{Advice, Backoff, TokenState, after_close, after_refusal, retry_after};
use crate::secret::Token;
use crate::token::Carrier;

/// What the client does.
#[derive(Debug)]
pub struct Settings {
    /// Where to.
    pub target: Target,
    /// Whom to trust, for `wss://`; see [`trust`].
    pub tls: Option<Arc<ClientConfig>>,
    /// Where tokens come from.
    pub source: Source,
    /// Where the token stands in the upgrade request.
    pub carrier: Carrier,
    /// Subprotocols to offer besides the token's.
    pub subprotocols: Vec<String>,
    /// How a live stream's token is renewed.
    pub renewal: RenewalMode,
    /// Whether each token is sent as a message too, first of all.
    pub send_token: bool,
    /// Messages to send, in this order, before those of the input.
    pub messages: Vec<String>,
    /// Close with 1000 once all is sent, the input is at its end, and nothing has come for this long. `None` = stay
    /// until interrupted.
    pub leave_after: Option<Duration>,
    /// How long an attempt to open the stream may take.
    pub open_timeout: Duration,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Give up after this many attempts in a row without any data. `None` = never.
    pub max_failures: Option<u32>,
}

/// Keeps a stream open until it is interrupted by `shutdown` or must not come back. Lines of `input` are sent as
/// messages; those that come while no stream is open wait in the channel.
pub async fn run(
    settings: Settings,
    clock: Clock,
    input: Option<mpsc::Receiver<String>>,
    sink: &mut (dyn FnMut(Event) + Send),
    shutdown: CancellationToken,
) -> End {
    let mut client = Client {
        unsent: settings.messages.iter().cloned().collect(),
        backoff: settings.backoff.clone(),
        settings: Arc::new(settings),
        clock,
        input,
        sink,
        shutdown,
        held: None,
        spare: None,
        recent: VecDeque::new(),
        renews: true,
        standing: Standing::Good,
        fetched: 0,
        used: false,
        at_once: false,
        told: None,
        active: Mono::default(),
    };
    if client.settings.target.exposes_token() {
        (client.sink)(Event::Exposed);
    }
    loop {
        match client.round().await {
            Round::Again(pause) => {
                if client.too_many(&client.backoff) {
                    return End::GaveUp;
                }
                if !client.wait(pause).await {
                    return End::Interrupted;
                }
            }
            Round::Done(end) => return end,
        }
    }
}

/// What follows an attempt.
enum Round {
    Again(Pause),
    Done(End),
}

/// Why and how long at least to wait.
struct Pause {
    advice: Advice,
    asked: Option<Duration>,
}

impl Pause {
    const LATER: Self = Self { advice: Advice::Later, asked: None };
}

/// What the held token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// As far as is known, it opens a stream.
    Good,
    /// The other side has called it expired: only another one will do.
    Refused,
    /// It is time for another; if the source has only this one, it may come again.
    Spent,
}

struct Client<'a> {
    settings: Arc<Settings>,
    clock: Clock,
    input: Option<mpsc::Receiver<String>>,
    unsent: VecDeque<String>,
    backoff: Backoff,
    sink: &'a mut (dyn FnMut(Event) + Send),
    shutdown: CancellationToken,
    /// The token that opened or renewed a stream last, or is to open one.
    held: Option<Fetched>,
    /// A newer one, which has not been taken yet.
    spare: Option<Fetched>,
    /// The last tokens, which are not shown if they come back.
    recent: VecDeque<Token>,
    /// Whether the other side renews, as far as is known.
    renews: bool,
    standing: Standing,
    /// How many tokens were fetched.
    fetched: usize,
    /// Whether a stream was opened with the held token.
    used: bool,
    /// Whether the client comes back without a pause; said only when there is a token to come with.
    at_once: bool,
    /// The subject of the token that was sent last as a message.
    told: Option<Option<String>>,
    /// When something was sent or came last, other than a token with a subject that was sent before, and its answer.
    active: Mono,
}

impl Client<'_> {
    /// One token, one attempt, and the stream if there is one.
    async fn round(&mut self) -> Round {
        let held = match self.token().await {
            Ok(held) => held,
            Err(round) => return round,
        };
        let attempt = Attempt {
            target: &self.settings.target,
            tls: self.settings.tls.as_ref(),
            token: Some(&held.token),
            carrier: &self.settings.carrier,
            subprotocols: &self.settings.subprotocols,
            origin: None,
            timeout: self.settings.open_timeout,
        };
        let opened = tokio::select! {
            () = self.shutdown.cancelled() => return Round::Done(End::Interrupted),
            opened = open(attempt) => opened,
        };
        match opened {
            Ok(stream) => {
                // The token may stand among the subprotocols that were offered.
                let subprotocol = stream.subprotocol().map(|chosen| held.token.masked_in(chosen));
                (self.sink)(Event::Opened { subprotocol });
                if self.active == Mono::default() {
                    self.touch();
                }
                let round = self.converse(stream, held).await;
                self.used = true;
                round
            }
            Err(error) => self.not_opened(error),
        }
    }

    /// The token to come with: the held one while it is good, else a new one.
    async fn token(&mut self) -> Result<Fetched, Round> {
        let now = self.clock.now();
        if let Some(held) = &self.held
            && self.standing == Standing::Good
            && held.expires.is_none_or(|expires| now.wall < expires)
        {
            return Ok(held.clone());
        }
        // One that was fetched to renew with, and was not taken for that.
        let spare = self.spare.take().filter(|spare| spare.expires.is_none_or(|expires| now.wall < expires));
        let another = match &spare {
            Some(spare) => Ok(spare.clone()),
            None => self.another().await?,
        };
        match another {
            Ok(fetched) => {
                self.used = self.held.as_ref().is_some_and(|held| held.token == fetched.token) && self.used;
                self.standing = Standing::Good;
                if std::mem::take(&mut self.at_once) {
                    (self.sink)(Event::Waiting { wait: Duration::ZERO, advice: Advice::NewToken });
                }
                if spare.is_none() {
                    self.tell(&fetched);
                }
                self.held = Some(fetched.clone());
                Ok(fetched)
            }
            Err(error @ (SourceError::UsedUp | SourceError::Mint(_))) => Err(Round::Done(End::NoToken(error))),
            // An issuer, a file or a command may work the next time.
            Err(error) => {
                (self.sink)(Event::Failed(error.to_string()));
                Err(Round::Again(Pause { asked: error.asked(self.clock.now()), ..Pause::LATER }))
            }
        }
    }

    /// Counts a token that was fetched, and says so.
    fn tell(&mut self, fetched: &Fetched) {
        self.fetched = self.fetched.saturating_add(1);
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(fetched.token.clone());
        let expires_in = fetched.expires.map(|expires| expires.saturating_since(self.clock.now().wall));
        (self.sink)(Event::Token { subject: fetched.subject.clone(), expires_in });
    }

    /// What the source gives, once it is not a token that is known to be of no use.
    async fn another(&mut self) -> Result<Result<Fetched, SourceError>, Round> {
        let mut polling = self.settings.backoff.polling();
        let mut said = false;
        loop {
            let fetched = tokio::select! {
                () = self.shutdown.cancelled() => return Err(Round::Done(End::Interrupted)),
                fetched = self.settings.source.fetch(self.fetched, self.clock.now()) => fetched,
            };
            let Some(stale) = fetched.as_ref().ok().and_then(|fetched| self.stale(fetched)) else {
                return Ok(fetched);
            };
            self.at_once = false;
            if !std::mem::replace(&mut said, true) {
                (self.sink)(stale);
            }
            if self.too_many(&polling) {
                return Err(Round::Done(End::GaveUp));
            }
            let wait = polling.poll(rand::random::<f64>());
            if !self.pause(wait).await {
                return Err(Round::Done(End::Interrupted));
            }
        }
    }

    /// Whether this token from a file or a command is one that nobody would take.
    fn stale(&self, fetched: &Fetched) -> Option<Event> {
        let origin = self.settings.source.origin()?;
        let now = self.clock.now().wall;
        let expired = fetched.expires.filter(|expires| *expires <= now).map(|expires| now.saturating_since(expires));
        let refused =
            self.standing == Standing::Refused && self.held.as_ref().is_some_and(|held| held.token == fetched.token);
        (expired.is_some() || refused).then_some(Event::Stale { origin, expired })
    }

    /// Whether one more attempt would be too many.
    fn too_many(&self, backoff: &Backoff) -> bool {
        self.settings.max_failures.is_some_and(|most| backoff.failures().saturating_add(1) >= most)
    }

    fn touch(&mut self) {
        self.active = self.clock.now().mono;
    }

    fn state(&self) -> TokenState {
        let expires = self.held.as_ref().and_then(|held| held.expires);
        let expired =
            self.standing != Standing::Good || expires.is_some_and(|expires| self.clock.now().wall >= expires);
        TokenState { expired, fresh: !self.used }
    }

    fn not_opened(&mut self, error: OpenError) -> Round {
        match error {
            OpenError::Refused(refusal) => {
                let advice = after_refusal(refusal.status, refusal.reason.as_deref(), self.state());
                let now = self.clock.now().wall;
                let asked = refusal.retry_after.as_deref().and_then(|value| retry_after(value, now));
                (self.sink)(Event::Refused(refusal.clone()));
                let origin = self.settings.source.origin().filter(|_| matches!(refusal.status, 401 | 403));
                self.follow(advice, Standing::Refused, asked, || match origin {
                    Some(origin) => End::TokenRefused { refusal, origin },
                    None => End::Refused(refusal),
                })
            }
            OpenError::Request(_) | OpenError::Setup(_) => Round::Done(End::Impossible(error)),
            // A certificate that is not to be trusted does not become so by asking again.
            OpenError::Tls(ref cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
                Round::Done(End::Impossible(error))
            }
            OpenError::Tls(_) | OpenError::Connect(_) | OpenError::Answer(_) | OpenError::Timeout(_) => {
                (self.sink)(Event::Failed(error.to_string()));
                Round::Again(Pause::LATER)
            }
        }
    }

    fn closed(&mut self, closed: Closed) -> Round {
        let advice = after_close(closed.code, &closed.reason, self.state());
        (self.sink)(Event::Closed(closed.clone()));
        // The route's limit is on the stream and not on the token, which may open another.
        let standing = if closed.reason == STREAM_LIMIT { Standing::Spent } else { Standing::Refused };
        // A clean end without a complaint is how a service says that it is done.
        self.follow(advice, standing, None, || End::ClosedByPeer(closed))
    }

    /// `standing` is what the held token is worth if a new one is wanted.
    fn follow(
        &mut self,
        advice: Advice,
        standing: Standing,
        asked: Option<Duration>,
        end: impl FnOnce() -> End,
    ) -> Round {
        match advice {
            Advice::Stop => Round::Done(end()),
            Advice::Later => Round::Again(Pause { advice, asked }),
            Advice::NewToken => {
                self.standing = standing;
                Round::Again(Pause { advice, asked })
            }
        }
    }

    /// Waits before the next attempt; false if interrupted.
    async fn wait(&mut self, pause: Pause) -> bool {
        let wait = self.backoff.next(pause.advice, pause.asked, rand::random::<f64>());
        self.at_once = wait == Duration::ZERO && pause.advice == Advice::NewToken;
        if !self.at_once {
            (self.sink)(Event::Waiting { wait, advice: pause.advice });
        }
        self.pause(wait).await
    }

    async fn pause(&mut self, wait: Duration) -> bool {
        let until = self.clock.instant(Mono::from_origin(self.clock.now().mono.since_origin().saturating_add(wait)));
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = tokio::time::sleep_until(until.into()) => true,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Tokens that are still known when they come back.
const RECENT: usize = 4;
/// What the gateway says when a route's `max_stream` is over.
const STREAM_LIMIT: &str = "stream limit";

#[cfg(test)]
mod tests;
