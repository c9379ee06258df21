//! The renewals of one live stream: when the next one is due, and the fetch or the request that is under way.
//!
//! Holds at most one of these at a time, and may be left and polled again at any point, so that messages go on meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::client::{Fetched, OpenError, SourceError, sleep_until};
use crate::clock::{Clock, Mono};
use crate::issuer::schedule::{Renewals, time_left};
use crate::secret::Opaque;

/// How a client renews the token of a live stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RenewalMode {
    /// Not at all: a stream ends with its token, and the client comes back with a new one.
    Off,
    /// With a request beside the stream, by the handle that the `101` gave.
    #[default]
    OutOfBand,
    /// With a message on the stream itself, for routes that read such messages.
    InBand {
        /// What stands before the token: the route's `renewal_prefix`.
        prefix: String,
    },
}

/// How this one stream is renewed.
pub(super) enum Means {
    /// By its handle.
    Handle(Opaque),
    /// By a message with this prefix.
    Message(String),
}

/// What comes next.
pub(super) enum Progress {
    /// It is time to renew.
    Due,
    /// The source has answered.
    Fetched(Result<Fetched, SourceError>),
    /// The gateway has answered, or cannot be asked.
    Answered(Result<Option<Duration>, OpenError>),
}

/// The renewals of one stream.
pub(super) struct Renewing {
    pub(super) means: Option<Means>,
    /// What the stream had before a token was sent as a message, until that is answered.
    pub(super) before: Option<Before>,
    /// Whether it was said that the source has nothing newer.
    pub(super) said: bool,
    pace: Renewals,
    /// Until when the present token is good; `None` = without an end.
    ends: Option<Mono>,
    step: Step,
}

/// The token before, and until when it is good.
pub(super) struct Before {
    token: Fetched,
    ends: Option<Mono>,
}

enum Step {
    Idle,
    Waiting(Mono),
    Fetching(Task<Result<Fetched, SourceError>>),
    Posting(Task<Result<Option<Duration>, OpenError>>),
}

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Renewing {
    /// For a stream that was just opened.
    pub(super) fn new(means: Option<Means>) -> Self {
        let pace = Renewals::new(RETRY, LONGEST_RETRY);
        Self { means, before: None, said: false, pace, ends: None, step: Step::Idle }
    }

    /// A token was taken: plans its renewal. `told` is what the gateway said of its life.
    pub(super) fn taken(&mut self, token: &Fetched, told: Option<Duration>, clock: &Clock) {
        let now = clock.now();
        let left = time_left(token.expires.map(|expires| expires.saturating_since(now.wall)), told);
        self.said = false;
        self.ends = left.map(|left| now.mono.saturating_add(left));
        self.step = match left {
            Some(left) if self.means.is_some() => {
                Step::Waiting(now.mono.saturating_add(self.pace.first(left, rand::random::<f64>())))
            }
            _ => Step::Idle,
        };
    }

    /// A token was sent in the place of `old`. Most routes that read it do not say what came of it, so that it counts
    /// as taken until it is refused.
    pub(super) fn sent(&mut self, token: &Fetched, old: Fetched, clock: &Clock) {
        self.before = Some(Before { token: old, ends: self.ends });
        self.taken(token, None, clock);
    }

    /// It was refused: gives back the token before.
    pub(super) fn undo(&mut self) -> Option<Fetched> {
        let before = self.before.take()?;
        self.ends = before.ends;
        Some(before.token)
    }

    /// An attempt has come to nothing: plans the next one, and says how long until then; `None` if that were too late.
    pub(super) fn retry(&mut self, asked: Option<Duration>, clock: &Clock) -> Option<Duration> {
        let now = clock.now().mono;
        let left = self.ends.map_or(Duration::MAX, |ends| ends.saturating_since(now));
        let wait = self.pace.again(left, asked, rand::random::<f64>());
        self.step = wait.map_or(Step::Idle, |wait| Step::Waiting(now.saturating_add(wait)));
        wait
    }

    /// No more renewals on this stream.
    pub(super) fn stop(&mut self) {
        self.means = None;
        self.before = None;
        self.step = Step::Idle;
    }

    /// Asks the source.
    pub(super) fn fetch(&mut self, task: impl Future<Output = Result<Fetched, SourceError>> + Send + 'static) {
        self.step = Step::Fetching(Box::pin(task));
    }

    /// Asks the gateway.
    pub(super) fn post(&mut self, task: impl Future<Output = Result<Option<Duration>, OpenError>> + Send + 'static) {
        self.step = Step::Posting(Box::pin(task));
    }

    /// What comes next. May be dropped and called again.
    pub(super) async fn next(&mut self, clock: &Clock) -> Progress {
        let progress = match &mut self.step {
            Step::Idle => std::future::pending().await,
            Step::Waiting(at) => {
                sleep_until(Some(clock.instant(*at))).await;
                Progress::Due
            }
            Step::Fetching(task) => Progress::Fetched(task.await),
            Step::Posting(task) => Progress::Answered(task.await),
        };
        self.step = Step::Idle;
        progress
    }
}

const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
