//! The one maker of [`Admitted`].
//!
//! Owns the proof that a token was verified for a request: only [`admit`] makes an [`Admitted`], and only an `Admitted`
//! can be forwarded. Does not find the token and does not answer the client. Called by the gateway's `authenticate`
//! stage and by its doorkeeper.

use std::time::Duration;

use crate::clock::{Clock, Now};
use crate::secret::Token;
use crate::token::{Answer, Denial, Grant, Judge, Public, Purpose};

/// A request whose token is good. `R` is the request without it.
#[derive(Debug)]
pub struct Admitted<R> {
    request: R,
    grant: Grant,
    token: Option<Token>,
    at: Now,
}

/// What becomes of a token that is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It is kept for the service.
    PassOn,
    /// It is wiped.
    Wipe,
}

impl Afterwards {
    /// The token, if it is kept.
    pub fn of(self, token: Token) -> Option<Token> {
        (self == Self::PassOn).then_some(token)
    }
}

impl<R> Admitted<R> {
    /// The request.
    pub const fn request(&self) -> &R {
        &self.request
    }

    /// What the token allows.
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The token itself, if it was kept for the service.
    pub const fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// When the token was judged.
    pub const fn at(&self) -> Now {
        self.at
    }

    /// The request and the grant, for the one who uses them up. A token that was kept is wiped.
    pub fn into_parts(self) -> (R, Grant) {
        (self.request, self.grant)
    }
}

/// Admits `request` if `judge` finds `token` good for `purpose`: to open a stream. A token that is refused is wiped; one
/// that is good lives as long as the [`Admitted`], or not even that.
pub async fn admit<R>(
    request: R,
    (token, afterwards): (Token, Afterwards),
    purpose: Purpose,
    judge: &dyn Judge,
    clock: &Clock,
) -> Result<Admitted<R>, Denial> {
    let at = clock.now();
    let grant = verdict(&token, judge, purpose, at).await?;
    Ok(Admitted { request, grant, token: afterwards.of(token), at })
}

/// Admits `request` on the grant of a token that was found good before, when a ticket was handed out for it, and on that
/// token if it was kept. Whether it still counts is asked again.
pub fn readmit<R>(request: R, (grant, token): (Grant, Option<Token>), clock: &Clock) -> Result<Admitted<R>, Denial> {
    let at = clock.now();
    if grant.expiry.is_some_and(|expiry| at.wall >= expiry) {
        return Err(Denial::new(Public::TokenExpired, "expired", "the ticket's token has expired"));
    }
    Ok(Admitted { request, grant, token, at })
}

/// What `judge` says of `token`, waited for if it is not there at once, but not for ever.
pub async fn verdict(token: &Token, judge: &dyn Judge, purpose: Purpose, now: Now) -> Result<Grant, Denial> {
    match judge.judge(token, purpose, now) {
        Answer::Ready(verdict) => verdict,
        Answer::Later(verdict) => tokio::time::timeout(PATIENCE, verdict).await.unwrap_or_else(|_| {
            Err(Denial::new(
                Public::IssuerUnavailable,
                "judge_timeout",
                "no verdict in time: the issuer's keys are not there",
            ))
        }),
    }
}

/// How long a verdict that is not there at once is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
