//! The doorkeeper: on routes whose token is in the first message, the stage that answers `101` at once, and what follows.
//!
//! The client may then send its token, and nothing else happens until it has: no service is dialled for a stream that
//! waits. A good token leads to the same steps as a good handshake: a place in the registry, the service, the deadline
//! once more, the relay. The client is not read meanwhile, but what ends live streams is heard: it takes its stream to be
//! open. What it had sent after the token goes first through the relay, in order. A refusal is told by a Close.

use std::borrow::Cow;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderValue, Response, StatusCode};
use tower::Service;

use crate::admission::admit;
use crate::clock::Clock;
use crate::gateway::authenticate::{Tokenless, take_handle};
use crate::gateway::door::{Door, Heard, Leave, Message};
use crate::gateway::endpoint::Answered;
use crate::gateway::forward::{self, Opened};
use crate::gateway::observe::refused;
use crate::gateway::rejection::{Fault, Rejection};
use crate::gateway::turn_away::switching;
use crate::gateway::upgrade::Upgrade;
use crate::gateway::waiting::{Notice, Place};
use crate::gateway::{Body, Shared, Visit};
use crate::registry::{Alarm, Guard};
use crate::relay::{self, Early};
use crate::secret::Opaque;
use crate::stream::{CloseCodes, CloseReason, Deadline, Refusal, Signal};
use crate::token::carrier::message::{MessageToken, Unusable};
use crate::token::{Denial, Public, Purpose, carrier};
use crate::upstream::{Answer, Lease, Switched};
use crate::wire::Socket;
use crate::ws::message::{Fault as Malformed, payload};
use crate::ws::{CloseText, Sender, close};

/// What a route expects of a stream's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Where in it the token stands.
    pub token: MessageToken,
    /// Whether it goes on to the service.
    pub forward: bool,
    /// The largest one, bytes.
    pub cap: usize,
    /// How long it may take.
    pub timeout: Duration,
    /// The subprotocols that a client may be answered with.
    pub subprotocols: Vec<String>,
}

/// See the module.
#[derive(Clone)]
pub struct Doorkeeper<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> Doorkeeper<S> {
    /// The layer.
    pub fn with(shared: Arc<Shared>) -> impl Fn(S) -> Self + Clone {
        move |inner| Self { shared: shared.clone(), inner }
    }
}

impl<S> Service<Upgrade> for Doorkeeper<S>
where
    S: Service<Upgrade, Response = Response<Body>, Error = Rejection>,
{
    type Response = Response<Body>;
    type Error = Rejection;
    type Future = Either<S::Future, Ready<Result<Self::Response, Rejection>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, upgrade: Upgrade) -> Self::Future {
        match upgrade.route.first_message.clone() {
            None => Either::Left(self.inner.call(upgrade)),
            Some(expected) => Either::Right(ready(receive(&self.shared, upgrade, expected))),
        }
    }
}

/// Answers `101` and gives the client a task that waits for its token.
fn receive(shared: &Arc<Shared>, mut upgrade: Upgrade, expected: Arc<Expected>) -> Result<Response<Body>, Rejection> {
    let answered = carrier::answerable(&[], &upgrade.headers, Some(&expected.subprotocols))?;
    let query = upgrade.target.query().map(str::to_owned);
    let (query, chosen) = take_handle(&upgrade.route, query)?;
    let made = (upgrade.route.renewal.out_of_band && chosen.is_none()).then(Opaque::random);
    let place = shared.wait(&upgrade.visit, &upgrade.route, upgrade.visit.client(&upgrade.headers));
    // Whoever came in after the drain had begun would not be told.
    if shared.draining() {
        return Err(Rejection::Draining);
    }
    // The client was answered without, so the service is offered none.
    upgrade.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    let mut response = switching(&upgrade.key, answered.as_deref());
    // What comes of it is counted and told when it has.
    response.extensions_mut().insert(Answered);
    if let Some(made) = &made {
        forward::tell_handle(&mut response, made);
    }
    let permit = upgrade.visit.peer.permit.clone();
    let request = Tokenless {
        upgrade,
        query,
        subprotocols: answered.into_iter().collect(),
        fallback: None,
        handle: chosen.or_else(|| made.as_ref().map(Opaque::hash)),
    };
    let newcomer = Newcomer { shared: shared.clone(), request, expected, place };
    forward::begin(shared, newcomer.open(), permit);
    Ok(response)
}

/// A client that has its `101` and nothing else.
struct Newcomer {
    shared: Arc<Shared>,
    /// Of the subprotocols only the one that it was answered with.
    request: Tokenless,
    expected: Arc<Expected>,
    place: Place,
}

impl Newcomer {
    /// Waits for the token and opens the stream, or takes leave of the client.
    async fn open(self) -> Option<Opened> {
        let Self { shared, request, expected, mut place } = self;
        let Upgrade { visit, route, client, .. } = &request.upgrade;
        let (visit, route) = (visit.clone(), route.clone());
        let (wire, early) = match client.clone().take_back().await {
            Ok(taken) => taken,
            Err(detail) => {
                shared.metrics.upgrade(visit.route.get(), Some("client_lost"));
                Unopened::Lost(detail).log(&visit, None);
                return None;
            }
        };
        let mut door = Door::new(wire, early, expected.cap);
        let unopened = match first_message(&mut door, expected.timeout, &mut place).await {
            // On the heap only while it runs: dialling takes much more than waiting does.
            Ok(message) => match Box::pin(introduce(&shared, request, &expected, &message, &mut place)).await {
                Ok(stream) => {
                    shared.metrics.upgrade(visit.route.get(), None);
                    return Some(stream.open(&shared.clock, door.into_wire(), &message, expected.forward));
                }
                Err(unopened) => {
                    door.take_back(message.rest);
                    unopened
                }
            },
            Err(unopened) => unopened,
        };
        shared.metrics.upgrade(visit.route.get(), Some(unopened.reason()));
        let farewell = unopened.farewell(&route.codes);
        unopened.log(&visit, farewell.as_ref().and_then(|farewell| farewell.code));
        if let Some(Farewell { frame, leave, .. }) = farewell {
            let longest = if matches!(unopened, Unopened::Crowded) { CROWDED } else { Duration::MAX };
            place.unless_crowded(door.leave(&frame, leave, route.limits.close_timeout.min(longest))).await;
        }
        None
    }
}

async fn first_message(door: &mut Door<Socket>, timeout: Duration, place: &mut Place) -> Result<Message, Unopened> {
    let heard = tokio::select! {
        biased;
        unopened = Unopened::told(place) => return Err(unopened),
        heard = tokio::time::timeout(timeout, door.first_message()) => heard.map_err(|_| Unopened::Late)?,
    };
    match heard {
        Heard::Message(message) => Ok(message),
        Heard::Closed(code) => Err(Unopened::Closed(code)),
        Heard::Lost => Err(Unopened::Lost("the client went away")),
        Heard::Unusable(Malformed::Binary) => Err(Unopened::Unusable("the first message is binary")),
        Heard::Unusable(Malformed::TooBig) => Err(Unopened::Ended(CloseReason::TooBig)),
        Heard::Unusable(Malformed::Violation(_)) => Err(Unopened::Ended(CloseReason::ClientProtocol)),
    }
}

/// Has the token judged, and the service dialled. The place among those that wait is given back in between, for one in
/// the registry.
async fn introduce(
    shared: &Arc<Shared>,
    request: Tokenless,
    expected: &Expected,
    message: &Message,
    place: &mut Place,
) -> Result<Introduced, Unopened> {
    let route = request.upgrade.route.clone();
    let token = (expected.token.find(&payload(&message.frames, Sender::Client))?, route.afterwards());
    let admitted = tokio::select! {
        biased;
        unopened = Unopened::told(place) => return Err(unopened),
        admitted = admit(request, token, Purpose::FirstMessage, &*route.judge, &shared.clock) => admitted?,
    };
    let (mut guard, deadline) = forward::reserve(shared, &admitted, admitted.request().handle)?;
    // Asked with the place taken: a drain that begins after this finds it. In one that began before, this is its turn.
    if shared.draining() {
        return Err(Rejection::Draining.into());
    }
    place.give_back();
    let answer = tokio::select! {
        biased;
        unopened = ended(&mut guard, deadline, &shared.clock) => return Err(unopened),
        answer = forward::reach(shared, &admitted) => answer?,
    };
    // The relay sets its own.
    guard.wake_at(None);
    let (switched, lease) = match answer {
        (Answer::Switched(switched), lease) => (switched, lease),
        (Answer::Other(answer), _) => {
            let detail = format!("the service refused the upgrade with {}", answer.status());
            return Err(Rejection::UpstreamRefused(detail).into());
        }
    };
    forward::may_begin(shared, &guard, deadline)?;
    // The client has its answer already, so the service must choose the same.
    let chosen = switched.subprotocol.as_ref().map(HeaderValue::as_bytes);
    if chosen != admitted.request().subprotocols.first().map(String::as_bytes) {
        let detail = "the service did not choose the subprotocol that it was offered";
        return Err(Rejection::UpstreamSubprotocol(detail.into()).into());
    }
    let settings = forward::settings(shared, &route, &switched.head.headers, deadline);
    guard.begin();
    Ok(Introduced { switched, settings, guard, lease })
}

/// Waits for what ends a stream that its client takes to be open, while the service is dialled.
async fn ended(guard: &mut Guard, deadline: Deadline, clock: &Clock) -> Unopened {
    loop {
        let now = clock.now();
        if let Err(rejection) = forward::still_good(guard, deadline, now) {
            return rejection.into();
        }
        guard.wake_at(deadline.next(now).map(Alarm::At));
        match guard.told(&ENDING).await {
            Signal::End => return Unopened::Ended(CloseReason::EndedByOperator),
            Signal::RouteGone => return Unopened::Ended(CloseReason::RouteGone),
            Signal::Drain => return Unopened::Ended(CloseReason::Drain),
            Signal::Revoke | Signal::KeyRemoved | Signal::Recheck | Signal::Renew | Signal::Replace => {}
        }
    }
}

/// A stream whose service has switched, and which has not begun.
struct Introduced {
    switched: Box<Switched>,
    settings: relay::Settings,
    guard: Guard,
    lease: Lease,
}

impl Introduced {
    fn open(self, clock: &Clock, client: Socket, message: &Message, forward: bool) -> Opened {
        let Self { switched, settings, guard, lease } = self;
        let token: &[u8] = if forward { &message.frames } else { &[] };
        let from_client = Bytes::from([token, &message.rest].concat());
        let early = Early { from_client, from_upstream: switched.early, judged: forward };
        let began = clock.now().mono;
        let relay = Box::pin(relay::run(client, switched.socket, &early, settings, guard, clock.clone()));
        Opened { relay, began, lease }
    }
}

/// Why a client that has its `101` gets no stream.
#[derive(Debug)]
enum Unopened {
    /// It closed, with this code.
    Closed(Option<u16>),
    /// Its place was needed.
    Crowded,
    /// For a cause for which live streams end too.
    Ended(CloseReason),
    /// No first message came in time.
    Late,
    /// It is gone.
    Lost(&'static str),
    /// Refused like a request.
    Refused(Rejection),
    /// The first message is not what it must be.
    Unusable(&'static str),
}

/// The last thing that a client is told.
struct Farewell {
    frame: Vec<u8>,
    code: Option<u16>,
    leave: Leave,
}

impl Unopened {
    /// Waits until the client is told to go and its time has come. It may be heard meanwhile.
    async fn told(place: &mut Place) -> Self {
        match place.told().await {
            Notice::Crowded => Self::Crowded,
            Notice::Ended(reason, within) => {
                tokio::time::sleep(within).await;
                Self::Ended(reason)
            }
        }
    }

    fn farewell(&self, codes: &CloseCodes) -> Option<Farewell> {
        let text: CloseText = match self {
            Self::Closed(code) => {
                return Some(Farewell { frame: close::echo(*code, None), code: *code, leave: Leave::Answer });
            }
            Self::Lost(_) => return None,
            Self::Crowded => codes.refused(Refusal::Unavailable, "rate_limited"),
            Self::Ended(reason) => codes.downstream(*reason).clone(),
            Self::Late => codes.auth_timeout.clone(),
            // What only HTTP could tell is about a request, and that has passed.
            Self::Refused(rejection) => {
                rejection.close(codes).unwrap_or_else(|| codes.refused(Refusal::FirstMessage, rejection.told().reason))
            }
            Self::Unusable(_) => codes.refused(Refusal::FirstMessage, "first_message"),
        };
        Some(Farewell { frame: text.frame(None), code: Some(text.code()), leave: Leave::First })
    }

    /// The public reason, for the metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Closed(_) => "client_closed",
            Self::Crowded => "rate_limited",
            Self::Ended(reason) => reason.as_str(),
            Self::Late => "auth_timeout",
            Self::Lost(_) => "client_lost",
            Self::Refused(rejection) => rejection.told().reason,
            Self::Unusable(_) => "first_message",
        }
    }

    fn log(&self, visit: &Visit, code: Option<u16>) {
        let (fault, cause, detail) = match self {
            Self::Closed(_) => {
                (Fault::Request, "client_closed", Cow::Borrowed("the client closed before it was let in"))
            }
            Self::Lost(detail) => (Fault::Request, "client_lost", Cow::Borrowed(*detail)),
            Self::Crowded => (Fault::Request, "crowded", Cow::Borrowed("its place was needed for another stream")),
            Self::Ended(reason) => (Fault::Request, reason.as_str(), Cow::Borrowed("before it was let in")),
            Self::Late => (Fault::Request, "auth_timeout", Cow::Borrowed("no first message in time")),
            Self::Refused(rejection) => (rejection.fault(), rejection.cause(), rejection.detail()),
            Self::Unusable(detail) => (Fault::Request, "first_message", Cow::Borrowed(*detail)),
        };
        refused(visit, StatusCode::SWITCHING_PROTOCOLS, code, fault, (cause, &detail));
    }
}

impl From<Rejection> for Unopened {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Draining => Self::Ended(CloseReason::Drain),
            rejection => Self::Refused(rejection),
        }
    }
}

impl From<Denial> for Unopened {
    fn from(denial: Denial) -> Self {
        Self::Refused(denial.into())
    }
}

impl From<Unusable> for Unopened {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Missing => {
                let detail = "no token in the first message";
                Denial::new(Public::TokenMissing, "token_missing", detail).into()
            }
            Unusable::Message(detail) => Self::Unusable(detail),
        }
    }
}

/// What is heard while the service is dialled: all but fresh tokens, which are the relay's.
const ENDING: [Signal; 6] =
    [Signal::Revoke, Signal::KeyRemoved, Signal::End, Signal::RouteGone, Signal::Drain, Signal::Recheck];
/// How long one whose place was needed may take to go.
const CROWDED: Duration = Duration::from_secs(1);
