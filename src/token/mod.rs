//! Tokens: where they stand in a request, what is in them, who signed them, and what they grant.
//!
//! Everything here is pure: a verdict is a function of the token, the rules and the time. Whether a token is good is
//! asked through one trait, [`Judge`], by whoever needs to know.

pub mod carrier;
pub mod claims;
pub mod denial;
pub mod keys;
pub mod marks;
pub mod verify;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use carrier::Carrier;
pub use denial::{Denial, Public};
pub use keys::KeyRing;
pub use marks::Marks;
pub use verify::Verifier;

use crate::clock::{Now, Wall};
use crate::secret::{self, Fingerprint, Token};

/// Who a stream belongs to: the names and values of the route's `same` claims, `iss` among them.
///
/// Each value stands in its JSON text, so that the number 1 and the string "1" are two principals, and a claim that
/// is absent is `null`. Where the issuer's `iss` is not checked, the issuer's name in the config is one more value.
///
/// Only the SHA-256 of the values is kept: of a fixed size, and nothing that tells who it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal([u8; 32]);

impl Principal {
    /// The principal with these claim values, in the order of the route's `same` list.
    pub fn new(values: &[String]) -> Self {
        // No JSON text has a NUL in it, so different values make different texts.
        Self(secret::sha256(values.join("\u{0}").as_bytes()))
    }

    /// A short hash that names the principal in logs without telling who it is.
    pub fn fingerprint(&self) -> Fingerprint {
        secret::shortened(&self.0)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({})", self.fingerprint())
    }
}

/// What a verified token allows.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who the stream belongs to.
    pub principal: Principal,
    /// The instant from which the token no longer counts: `exp` plus the issuer's `leeway`, at most ten years ahead.
    /// `None` if the token has no `exp` and the issuer does not require one.
    pub expiry: Option<Wall>,
    /// The issuer's name in the config.
    pub issuer: Arc<str>,
    /// `jti` (RFC 7519, section 4.1.7), if the token has one; one that is no string in its JSON text.
    pub jti: Option<Box<str>>,
    /// What a revocation may name of the token.
    pub marks: Marks,
    /// Short hash of the token, for logs.
    pub fingerprint: Fingerprint,
    /// The verified claims, for identity headers.
    pub claims: Arc<serde_json::Map<String, serde_json::Value>>,
}

/// What the judge is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To open a stream, with the token in the upgrade request.
    Handshake,
    /// To open a stream, with the token in its first message.
    FirstMessage,
    /// To move the deadline of a live stream.
    Renewal,
    /// To pass a plain request on.
    Request,
    /// To hand out a ticket.
    Ticket,
}

/// A verdict that is there, or one that must be waited for (a key set being fetched).
pub enum Answer<'a> {
    /// The verdict.
    Ready(Result<Grant, Denial>),
    /// The verdict, later; the one who asked bounds the wait.
    Later(Pin<Box<dyn Future<Output = Result<Grant, Denial>> + Send + 'a>>),
}

/// Says whether a token is good. The one way to ask, for every purpose.
pub trait Judge: Send + Sync {
    /// Judges `token` for `purpose` at the time `now`.
    fn judge<'a>(&'a self, token: &'a Token, purpose: Purpose, now: Now) -> Answer<'a>;
}
