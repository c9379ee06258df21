//! Why a request is refused: the whole cause for the log, and the little that the client is told, side by side.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::registry::Refused;
use crate::stream::{CloseCodes, Refusal, RenewalError};
use crate::token::verify::demands::SCOPE_MISSING;
use crate::token::{Denial, Public};
use crate::upstream;
use crate::ws::CloseText;
use crate::ws::handshake::RequestError;

/// A refusal by one of the pipeline's stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The target, `Host` or the handshake is malformed or ambiguous.
    BadRequest(&'static str),
    /// There are as many streams of its principal, or from its address, as there may be.
    Crowded(&'static str),
    /// The token is refused, or there is none.
    Denied(Denial),
    /// The gateway is leaving.
    Draining,
    /// The page that asks is not one of those that may.
    ForeignOrigin(&'static str),
    /// The handle that the client has chosen is another live stream's.
    HandleTaken,
    /// Another method than the one that is answered there.
    MethodNotAllowed,
    /// The stream keeps its old token.
    NotRenewed(RenewalError),
    /// The stream has not said what it makes of a fresh token.
    Unanswered,
    /// `Host` is not what this TLS connection was opened for.
    Misdirected,
    /// No route for host and path.
    NoRoute,
    /// `TRACE`, which would show a service's headers to its client.
    NoTrace,
    /// There are as many streams as there may be.
    TooMany,
    /// There are as many plain requests as there may be.
    TooManyRequests,
    /// There are as many tickets as there may be, of this principal or of all.
    TooManyTickets,
    /// Not a WebSocket upgrade.
    UpgradeRequired,
    /// Every endpoint of the service has as many streams as it may have.
    UpstreamFull,
    /// The body of a request stood still for too long.
    UploadTimeout,
    /// The service answered something that is no answer.
    UpstreamInvalid(String),
    /// There is no connection to the service.
    UpstreamRefused(String),
    /// The service chose another subprotocol than the client was answered with, or was not offered.
    UpstreamSubprotocol(String),
    /// The service was silent for too long.
    UpstreamTimeout(String),
    /// Another version of WebSocket than 13.
    Version,
}

/// Whose fault a refusal is: the one that an operator can mend is logged as a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request could not be let in.
    Request,
    /// The service cannot be reached, or gives no answer that counts.
    Service,
}

/// What the client is told of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: StatusCode,
    /// The public reason, in the body.
    pub reason: &'static str,
    /// What a client needs to do better: a challenge, a version, or when to come back.
    pub header: Option<(HeaderName, HeaderValue)>,
}

impl Rejection {
    /// What the client is told.
    pub fn told(&self) -> Told {
        use StatusCode as S;
        let retry = || Some((header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER)));
        let says = |name, value| Some((name, HeaderValue::from_static(value)));
        let (status, reason, header) = match self {
            Self::BadRequest(_) => (S::BAD_REQUEST, "bad_request", None),
            Self::Denied(denial) if denial.reason == SCOPE_MISSING => {
                (S::FORBIDDEN, denial.public.as_str(), says(header::WWW_AUTHENTICATE, INSUFFICIENT_SCOPE))
            }
            Self::Denied(denial) => return denied(denial.public),
            Self::Draining => (S::SERVICE_UNAVAILABLE, "draining", retry()),
            Self::ForeignOrigin(_) => (S::FORBIDDEN, "forbidden", None),
            Self::HandleTaken => (S::CONFLICT, "handle_taken", None),
            Self::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, "method", says(header::ALLOW, "OPTIONS, POST")),
            Self::NotRenewed(RenewalError::Gone) => (S::GONE, RenewalError::Gone.as_str(), None),
            Self::NotRenewed(RenewalError::Expired) => return denied(Public::TokenExpired),
            Self::NotRenewed(RenewalError::KeyRemoved) => return denied(Public::TokenInvalid),
            Self::NotRenewed(RenewalError::Revoked) => return denied(Public::TokenRevoked),
            Self::NotRenewed(error @ RenewalError::Shorter) => (S::CONFLICT, error.as_str(), None),
            Self::NotRenewed(error @ RenewalError::TooOften) => (S::TOO_MANY_REQUESTS, error.as_str(), retry()),
            Self::NotRenewed(error @ (RenewalError::OtherPrincipal | RenewalError::UsedUp)) => {
                (S::FORBIDDEN, error.as_str(), None)
            }
            Self::Unanswered => (S::SERVICE_UNAVAILABLE, "unavailable", retry()),
            Self::Misdirected => (S::MISDIRECTED_REQUEST, "misdirected", None),
            Self::NoTrace => (S::METHOD_NOT_ALLOWED, "method", says(header::ALLOW, NOT_TRACE)),
            Self::NoRoute => (S::NOT_FOUND, "no_route", None),
            Self::Crowded(_) | Self::TooMany | Self::TooManyRequests | Self::TooManyTickets | Self::UpstreamFull => {
                (S::TOO_MANY_REQUESTS, "rate_limited", retry())
            }
            Self::UpgradeRequired => (S::UPGRADE_REQUIRED, "upgrade_required", says(header::UPGRADE, "websocket")),
            Self::UploadTimeout => (S::REQUEST_TIMEOUT, "request_timeout", None),
            Self::UpstreamInvalid(_) | Self::UpstreamSubprotocol(_) => (S::BAD_GATEWAY, "upstream_invalid", None),
            Self::UpstreamRefused(_) => (S::BAD_GATEWAY, "upstream_refused", None),
            Self::UpstreamTimeout(_) => (S::GATEWAY_TIMEOUT, "upstream_timeout", None),
            Self::Version => (S::UPGRADE_REQUIRED, "version", says(header::SEC_WEBSOCKET_VERSION, "13")),
        };
        Told { status, reason, header }
    }

    /// The Close for a client that has its `101`; `None`: such a refusal is always told by HTTP.
    pub fn close(&self, codes: &CloseCodes) -> Option<CloseText> {
        let refusal = match self {
            Self::Denied(denial) => match denial.public {
                Public::TokenExpired => Refusal::Expired,
                Public::TokenInvalid | Public::TokenMissing | Public::TokenNotYetValid => Refusal::Unauthorized,
                Public::TokenRevoked => Refusal::Revoked,
                Public::Forbidden => Refusal::Forbidden,
                Public::IssuerUnavailable => Refusal::Unavailable,
                Public::BadRequest | Public::SubprotocolCompanionMissing => return None,
            },
            Self::ForeignOrigin(_) => Refusal::Forbidden,
            Self::Crowded(_)
            | Self::Draining
            | Self::TooMany
            | Self::UpstreamFull
            | Self::UpstreamInvalid(_)
            | Self::UpstreamRefused(_)
            | Self::UpstreamSubprotocol(_)
            | Self::UpstreamTimeout(_) => Refusal::Unavailable,
            _ => return None,
        };
        let reason = match self {
            Self::UpstreamSubprotocol(_) => "upstream_subprotocol",
            other => other.told().reason,
        };
        Some(codes.refused(refusal, reason))
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::UpstreamFull
            | Self::UpstreamInvalid(_)
            | Self::UpstreamRefused(_)
            | Self::UpstreamSubprotocol(_)
            | Self::UpstreamTimeout(_) => Fault::Service,
            _ => Fault::Request,
        }
    }

    /// The named cause, for the log.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.reason,
            Self::ForeignOrigin(_) => "origin",
            Self::NotRenewed(RenewalError::KeyRemoved) => "key_removed",
            Self::NotRenewed(RenewalError::OtherPrincipal) => "other_principal",
            Self::UpstreamFull => "upstream_full",
            Self::UpstreamSubprotocol(_) => "upstream_subprotocol",
            other => other.told().reason,
        }
    }

    /// What exactly was found, for the log. Never holds anything that a client sent as a secret.
    pub fn detail(&self) -> Cow<'_, str> {
        match self {
            Self::BadRequest(detail) | Self::Crowded(detail) | Self::ForeignOrigin(detail) => Cow::Borrowed(detail),
            Self::Denied(denial) => Cow::Borrowed(&denial.detail),
            Self::UpstreamInvalid(detail)
            | Self::UpstreamRefused(detail)
            | Self::UpstreamSubprotocol(detail)
            | Self::UpstreamTimeout(detail) => Cow::Borrowed(detail),
            Self::Draining => Cow::Borrowed("the gateway is leaving"),
            Self::HandleTaken => Cow::Borrowed("the handle in the query is another live stream's"),
            Self::MethodNotAllowed => Cow::Borrowed("only POST (and the preflight of a page) is answered there"),
            Self::NotRenewed(error) => Cow::Owned(error.to_string()),
            Self::Unanswered => Cow::Borrowed("the stream has not said what it makes of the fresh token"),
            Self::Misdirected => Cow::Borrowed("the certificate does not cover Host, and SNI was another name"),
            Self::NoTrace => Cow::Borrowed("TRACE is not passed on"),
            Self::NoRoute => Cow::Borrowed("no route for host and path"),
            Self::TooMany => Cow::Borrowed("as many streams as allowed"),
            Self::TooManyRequests => Cow::Borrowed("as many plain requests as allowed"),
            Self::TooManyTickets => Cow::Borrowed("as many unused tickets as allowed"),
            Self::UpstreamFull => Cow::Borrowed("every endpoint of the service has as many streams as allowed"),
            Self::UpgradeRequired => Cow::Borrowed("not a WebSocket upgrade"),
            Self::UploadTimeout => Cow::Borrowed("the client has not sent the rest of its request"),
            Self::Version => Cow::Borrowed("Sec-WebSocket-Version is not 13"),
        }
    }
}

/// What the client is told of a refused token (RFC 6750, section 3).
fn denied(public: Public) -> Told {
    const NONE: HeaderValue = HeaderValue::from_static("Bearer");
    const INVALID: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");
    let (status, challenge) = match public {
        Public::TokenMissing => (StatusCode::UNAUTHORIZED, Some(NONE)),
        Public::TokenExpired | Public::TokenNotYetValid | Public::TokenInvalid | Public::TokenRevoked => {
            (StatusCode::UNAUTHORIZED, Some(INVALID))
        }
        Public::Forbidden => (StatusCode::FORBIDDEN, None),
        Public::IssuerUnavailable => {
            let retry = Some((header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER)));
            return Told { status: StatusCode::SERVICE_UNAVAILABLE, reason: public.as_str(), header: retry };
        }
        Public::BadRequest | Public::SubprotocolCompanionMissing => (StatusCode::BAD_REQUEST, None),
    };
    Told { status, reason: public.as_str(), header: challenge.map(|value| (header::WWW_AUTHENTICATE, value)) }
}

impl From<Denial> for Rejection {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::AddressFull => Self::Crowded("as many streams from this address as allowed"),
            Refused::Full => Self::TooMany,
            Refused::HandleTaken => Self::HandleTaken,
            Refused::PrincipalFull => Self::Crowded("as many streams of this principal as allowed"),
        }
    }
}

impl From<RequestError> for Rejection {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Malformed(detail) => Self::BadRequest(detail),
            RequestError::NotAnUpgrade => Self::UpgradeRequired,
            RequestError::Version => Self::Version,
        }
    }
}

impl From<upstream::Error> for Rejection {
    fn from(error: upstream::Error) -> Self {
        let detail = error.to_string();
        match error {
            upstream::Error::Invalid(_) => Self::UpstreamInvalid(detail),
            upstream::Error::Refused(_) => Self::UpstreamRefused(detail),
            upstream::Error::Subprotocol(_) => Self::UpstreamSubprotocol(detail),
            upstream::Error::Timeout(..) => Self::UpstreamTimeout(detail),
        }
    }
}

/// Where `TRACE` is refused.
const NOT_TRACE: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
/// RFC 6750, section 3.1.
const INSUFFICIENT_SCOPE: &str = "Bearer error=\"insufficient_scope\"";
/// Seconds after which a client may try again.
const RETRY_AFTER: &str = "5";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_tells_what_is_promised_and_no_more() {
        type Case = (Rejection, u16, &'static str, Option<(&'static str, &'static str)>, Option<u16>);
        let denied = |public| Rejection::Denied(Denial::new(public, "secret_reason", "secret detail"));
        let invalid = Some(("www-authenticate", "Bearer error=\"invalid_token\""));
        let retry = Some(("retry-after", "5"));
        let table: Vec<Case> = vec![
            (Rejection::NoRoute, 404, "no_route", None, None),
            (Rejection::UpgradeRequired, 426, "upgrade_required", Some(("upgrade", "websocket")), None),
            (Rejection::Version, 426, "version", Some(("sec-websocket-version", "13")), None),
            (Rejection::BadRequest("x"), 400, "bad_request", None, None),
            (denied(Public::BadRequest), 400, "bad_request", None, None),
            (denied(Public::SubprotocolCompanionMissing), 400, "subprotocol_companion_missing", None, None),
            (denied(Public::TokenMissing), 401, "token_missing", Some(("www-authenticate", "Bearer")), Some(3000)),
            (denied(Public::TokenExpired), 401, "token_expired", invalid, Some(3000)),
            (denied(Public::TokenNotYetValid), 401, "token_not_yet_valid", invalid, Some(3000)),
            (denied(Public::TokenInvalid), 401, "token_invalid", invalid, Some(3000)),
            (denied(Public::TokenRevoked), 401, "token_revoked", invalid, Some(3003)),
            (denied(Public::Forbidden), 403, "forbidden", None, Some(3003)),
            (
                Rejection::Denied(Denial::new(Public::Forbidden, SCOPE_MISSING, "x")),
                403,
                "forbidden",
                Some(("www-authenticate", "Bearer error=\"insufficient_scope\"")),
                Some(3003),
            ),
            (Rejection::ForeignOrigin("x"), 403, "forbidden", None, Some(3003)),
            (Rejection::NotRenewed(RenewalError::KeyRemoved), 401, "token_invalid", invalid, None),
            (Rejection::NotRenewed(RenewalError::Revoked), 401, "token_revoked", invalid, None),
            (Rejection::Misdirected, 421, "misdirected", None, None),
            (Rejection::TooMany, 429, "rate_limited", retry, Some(1013)),
            (Rejection::UpstreamFull, 429, "rate_limited", retry, Some(1013)),
            (Rejection::UpstreamRefused("x".into()), 502, "upstream_refused", None, Some(1013)),
            (Rejection::UpstreamTimeout("x".into()), 504, "upstream_timeout", None, Some(1013)),
            (Rejection::UpstreamInvalid("x".into()), 502, "upstream_invalid", None, Some(1013)),
            (Rejection::Draining, 503, "draining", retry, Some(1013)),
        ];
        for (rejection, status, reason, header, code) in table {
            let told = rejection.told();
            let close = rejection.close(&CloseCodes::default());
            let close = close.as_ref().map(|close| (close.code(), close.reason()));
            assert_eq!(close, code.map(|code| (code, reason)), "{rejection:?}");
            assert_eq!((told.status.as_u16(), told.reason), (status, reason), "{rejection:?}");
            let found = told.header.as_ref().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
            assert_eq!(found, header, "{rejection:?}");
        }
        assert_eq!(denied(Public::TokenInvalid).cause(), "secret_reason");
        let other = Rejection::UpstreamSubprotocol("x".into());
        assert_eq!((other.told().status.as_u16(), other.told().reason), (502, "upstream_invalid"));
        let close = other.close(&CloseCodes::default()).unwrap();
        assert_eq!((close.code(), close.reason()), (1013, "upstream_subprotocol"));
    }
}
