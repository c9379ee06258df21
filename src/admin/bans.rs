//! Revocations: ban, list, lift.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Desk;
use super::reply::{json, problem};
use super::streams::{Page, unknown_page};
use crate::clock::Wall;
use crate::revocation::{Ban, Id};
use crate::token::marks::{self, Kind, Mark};

/// The body of `POST /revocations`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    iss: Option<String>,
    /// As it stands in the token, which need not be a string; likewise the other two.
    jti: Option<Value>,
    sub: Option<Value>,
    sid: Option<Value>,
    /// Instead of these: the token of this live stream, by its `jti`.
    stream: Option<u64>,
    issued_before: Option<f64>,
    until: Option<f64>,
}

/// A wish that cannot be fulfilled: its reason and what to do.
struct Unfit(&'static str, String);

impl Desk {
    /// `POST /revocations`: from the answer on no token that is named opens or renews a stream, and live streams that match
    /// have been told to end.
    pub(super) async fn ban(&self, body: &Bytes) -> Response<Full<Bytes>> {
        let wish: Wish = match serde_json::from_slice(body) {
            Ok(wish) => wish,
            Err(error) => {
                return problem(StatusCode::BAD_REQUEST, "body", &format!("the body is not as it should be: {error}"));
            }
        };
        let now = self.0.clock.now().wall;
        let ban = match self.meant(&wish, now) {
            Ok(ban) => ban,
            Err(Unfit(reason, detail)) => return problem(StatusCode::UNPROCESSABLE_ENTITY, reason, &detail),
        };
        let Ok(ban) = self.0.revocations.insert(ban, now) else {
            let capacity = self.0.revocations.capacity();
            tracing::error!(capacity, "a revocation was refused: there is no room; raise [revocation] max_entries");
            let detail = "as many revocations as [revocation] max_entries allows: raise it, or lift some";
            return problem(StatusCode::INSUFFICIENT_STORAGE, "full", detail);
        };
        // In force before the live streams are looked through: who comes in between is caught by admission.
        let id = ban.id();
        let (registry, revocations, target) = (self.0.registry.clone(), self.0.revocations.clone(), ban.clone());
        // In a task of its own: a caller that goes away keeps it neither from the streams nor from the disk.
        let done = tokio::spawn(async move {
            let told = tokio::task::spawn_blocking(move || registry.revoke(&target)).await;
            (told.unwrap_or(0), revocations.keep(id).await)
        });
        let detail = match done.await {
            Ok((ended, Ok(()))) => {
                tracing::info!(revocation = %id, kind = ban.kind.as_str(), iss = &*ban.iss, streams = ended, "revoked");
                let mut told = shown(&ban);
                told["ended"] = ended.into();
                return json(StatusCode::CREATED, &told);
            }
            Ok((_, Err(error))) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(revocation = %id, error = detail, "a revocation is in force, but will not outlive the process");
        let detail = format!("in force, but it will not outlive the process: {detail}");
        problem(StatusCode::INTERNAL_SERVER_ERROR, "not_kept", &detail)
    }

    /// `GET /revocations?after=ID&limit=N`.
    pub(super) fn bans(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let Some(Page { after, limit }) = Page::read(query, Id::parse) else { return unknown_page() };
        let revocations = &self.0.revocations;
        let now = self.0.clock.now().wall;
        let bans = revocations.list(after, limit, now);
        let next = (bans.len() == limit).then(|| bans.last().map(|ban| ban.id().to_string())).flatten();
        let answer = json!({
            "revocations": bans.iter().map(shown).collect::<Vec<_>>(),
            "next": next,
            "total": revocations.count(now),
            "capacity": revocations.capacity(),
            "kept": revocations.is_kept(),
        });
        json(StatusCode::OK, &answer)
    }

    /// `DELETE /revocations/ID`.
    pub(super) async fn lift(&self, id: &str) -> Response<Full<Bytes>> {
        let gone = || problem(StatusCode::NOT_FOUND, "unknown_revocation", "there is no revocation of this name");
        let Some(id) = Id::parse(id) else { return gone() };
        let revocations = self.0.revocations.clone();
        let lifted = tokio::spawn(async move { revocations.lift(id).await }).await;
        let detail = match lifted {
            Ok(Ok(true)) => {
                tracing::info!(revocation = %id, "a revocation was lifted");
                return json(StatusCode::OK, &json!({ "lifted": id.to_string() }));
            }
            Ok(Ok(false)) => return gone(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(revocation = %id, error = detail, "a revocation could not be lifted");
        problem(StatusCode::INTERNAL_SERVER_ERROR, "not_kept", &format!("it stands: {detail}"))
    }

    /// The ban that is wished for.
    fn meant(&self, wish: &Wish, now: Wall) -> Result<Ban, Unfit> {
        let named = [(Kind::Jti, &wish.jti), (Kind::Sub, &wish.sub), (Kind::Sid, &wish.sid)];
        let mut named = named.into_iter().filter_map(|(kind, value)| Some((kind, marks::text(value.as_ref()?)?)));
        let unfit = |reason, detail: &str| Err(Unfit(reason, detail.to_owned()));
        let (iss, kind, value) = match (named.next(), named.next(), wish.stream, wish.iss.as_deref()) {
            (Some((kind, value)), None, None, Some(iss)) => (iss.to_owned(), kind, value.into_owned()),
            (Some(_), None, None, None) => return unfit("iss", "iss is missing: whose token it is"),
            (None, None, Some(stream), None) => self.token_of(stream)?,
            _ => return unfit("body", "exactly one of jti, sub and sid is wanted, with iss; or a stream alone"),
        };
        if value.is_empty() {
            return unfit("body", "the value is empty: no token is meant");
        }
        let issued_before = match wish.issued_before {
            None => None,
            Some(_) if kind != Kind::Sub => return unfit("issued_before", "issued_before goes with sub only"),
            Some(seconds) => Some(whole(seconds).ok_or_else(|| Unfit("issued_before", BAD_TIME.to_owned()))?),
        };
        let issuers = self.0.issuers.load();
        let mut of_iss = issuers.iter().filter(|issuer| issuer.revoked_as() == iss).peekable();
        if of_iss.peek().is_none() {
            let known: Vec<&str> = issuers.iter().map(|issuer| issuer.revoked_as()).collect();
            return Err(Unfit(
                "unknown_issuer",
                format!("no [[issuer]] has this iss; known are: {}", known.join(", ")),
            ));
        }
        let until = match wish.until {
            // The longest of those that go by this name; without end if one of them has no longest.
            None => {
                let lives: Option<Vec<Duration>> = of_iss.map(|issuer| issuer.longest_life()).collect();
                let longest = lives.and_then(|lives| lives.into_iter().max());
                longest.map(|life| rounded_up(now.saturating_add(life)))
            }
            Some(seconds) => {
                let until = whole(seconds).ok_or_else(|| Unfit("until", BAD_TIME.to_owned()))?;
                Some(Wall::from_epoch(Duration::from_secs(until)))
            }
        };
        if until.is_some_and(|until| until <= now) {
            return unfit("until", "until is not ahead");
        }
        Ok(Ban { iss: iss.into(), kind, value: value.into(), issued_before, until })
    }

    /// Issuer and `jti` of a live stream's present token.
    fn token_of(&self, stream: u64) -> Result<(String, Kind, String), Unfit> {
        let gone = || Unfit("stream_gone", "there is no live stream of this number".to_owned());
        let (jti, marks) = self.0.registry.token_of(stream).ok_or_else(gone)?;
        let nameless =
            || Unfit("no_jti", "the stream's token has no jti: revoke its sub, or end the stream".to_owned());
        let jti = jti.ok_or_else(nameless)?;
        let issuers = self.0.issuers.load();
        let named = |iss: &str| marks.of(Kind::Jti) == Some(Mark::new(Kind::Jti, iss, &jti));
        // A stream that was opened before its issuer had an `iss` goes by the issuer's name.
        let mut issuers = issuers.iter().filter(|issuer| named(issuer.revoked_as()) || named(&issuer.name));
        let issuer = issuers
            .next()
            .ok_or_else(|| Unfit("unknown_issuer", "its issuer is no longer in the config".to_owned()))?;
        Ok((issuer.revoked_as().to_owned(), Kind::Jti, jti.into()))
    }
}

fn shown(ban: &Ban) -> Value {
    json!({
        "id": ban.id().to_string(),
        "iss": ban.iss,
        ban.kind.as_str(): ban.value,
        "issued_before": ban.issued_before,
        "until": ban.until.map(Wall::as_secs),
    })
}

/// A time in whole seconds, rounded up: what was issued in that second is older.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked by the range
fn whole(seconds: f64) -> Option<u64> {
    let seconds = seconds.ceil();
    (0.0..=LATEST).contains(&seconds).then_some(seconds as u64)
}

fn rounded_up(time: Wall) -> Wall {
    let whole = time.as_secs().saturating_add(u64::from(time.since_epoch().subsec_nanos() > 0));
    Wall::from_epoch(Duration::from_secs(whole))
}

const BAD_TIME: &str = "a time is a number of seconds since 1970-01-01T00:00:00Z";
/// The year 9999: later times are milliseconds that were taken for seconds.
const LATEST: f64 = 253_402_300_799.0;
