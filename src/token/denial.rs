//! Why a token is refused: the whole reason for the log, and the little that the client is told.

use std::borrow::Cow;

/// What the client is told (RFC 6750, section 3, and the problem type of the reply).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Public {
    /// No token was there.
    TokenMissing,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYetValid,
    /// Anything else is wrong with the token.
    TokenInvalid,
    /// The token was revoked.
    TokenRevoked,
    /// The token is good, but does not allow this.
    Forbidden,
    /// The issuer's keys are not there, so nothing can be said of the token.
    IssuerUnavailable,
    /// The request is malformed: two different tokens, or one that is too large.
    BadRequest,
    /// The only subprotocol offered is the token's own entry, so there is none to answer with.
    SubprotocolCompanionMissing,
}

impl Public {
    /// The name of the reason, as it stands in the reply.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenMissing => "token_missing",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenInvalid => "token_invalid",
            Self::TokenRevoked => "token_revoked",
            Self::Forbidden => "forbidden",
            Self::IssuerUnavailable => "issuer_unavailable",
            Self::BadRequest => "bad_request",
            Self::SubprotocolCompanionMissing => "subprotocol_companion_missing",
        }
    }
}

/// A refusal of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What the client is told.
    pub public: Public,
    /// The named reason for the log, such as `crit_present` or `alg_not_allowed`; a metric label too.
    pub reason: &'static str,
    /// What exactly was found, for the log; never holds the token or a secret.
    pub detail: Cow<'static, str>,
}

impl Denial {
    /// A refusal for `reason`, of which the client learns only `public`.
    pub fn new(public: Public, reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { public, reason, detail: detail.into() }
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}
