//! What happens to the client, for a person or a test to read. Nothing here holds a token.

use std::fmt;
use std::time::Duration;

use crate::backend::printable;
use crate::client::{Closed, OpenError, Received, Refusal, SourceError};
use crate::issuer::schedule::Advice;
use crate::secret::SHOWN_TOKEN;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// The target is plaintext on another machine.
    Exposed,
    /// A token was fetched.
    Token {
        /// Its `sub`.
        subject: Option<String>,
        /// How long it is good for.
        expires_in: Option<Duration>,
    },
    /// The source has only a token that is of no use any more; the client waits until it has another.
    Stale {
        /// What to call the token.
        origin: String,
        /// How long ago it expired; `None` if it is the one that the other side has called expired.
        expired: Option<Duration>,
    },
    /// The stream is open.
    Opened {
        /// The subprotocol that was chosen.
        subprotocol: Option<String>,
    },
    /// A message was sent.
    Sent(String),
    /// The token was sent as a message.
    SentToken,
    /// The stream goes on with another token.
    Renewed {
        /// How long it is good for, as the gateway said; `None` = without an end.
        expires_in: Option<Duration>,
    },
    /// The stream was not renewed; it goes on with its old token.
    NotRenewed {
        /// Why not.
        why: String,
        /// What follows.
        next: Next,
    },
    /// A message came.
    Received(Received),
    /// The stream has ended.
    Closed(Closed),
    /// The stream was refused.
    Refused(Refusal),
    /// The stream could not be opened, or no token was to be had.
    Failed(String),
    /// The client waits before it comes back.
    Waiting {
        /// How long.
        wait: Duration,
        /// With a new token, or not.
        advice: Advice,
    },
}

/// What follows a renewal that came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt after this time.
    Again(Duration),
    /// The stream has ended, and says so itself.
    Gone,
    /// No more attempts on this stream.
    Stop,
    /// An attempt would come too late.
    TooLate,
    /// No attempts on any stream.
    Unserved,
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again(wait) => write!(f, "once more in {:.1} s", wait.as_secs_f64()),
            Self::Gone => f.write_str("this stream is at its end"),
            Self::Stop => f.write_str("this stream ends with its token"),
            Self::TooLate => f.write_str("too late for another attempt"),
            Self::Unserved => f.write_str("a stream ends with its token there"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed => f.write_str("note      ws:// to another machine: the token can be read on the way"),
            Self::Token { subject, expires_in } => {
                f.write_str("token     ")?;
                if let Some(subject) = subject {
                    write!(f, "sub: {}, ", printable(subject, 100))?;
                }
                match expires_in {
                    Some(Duration::ZERO) => f.write_str("has expired"),
                    Some(left) => write!(f, "expires in {:.1} s", left.as_secs_f64()),
                    None => f.write_str("without an end"),
                }
            }
            Self::Stale { origin, expired: Some(ago) } => {
                write!(f, "{} expired {} ago; waiting for a new one", printable(origin, 300), whole(*ago))
            }
            Self::Stale { origin, expired: None } => {
                write!(f, "{} is still the one that was refused; waiting for a new one", printable(origin, 300))
            }
            Self::Opened { subprotocol: None } => f.write_str("open"),
            Self::Opened { subprotocol: Some(chosen) } => write!(f, "open      subprotocol {}", printable(chosen, 100)),
            Self::Sent(text) => write!(f, "sent      {}", printable(text, 1000)),
            Self::SentToken => write!(f, "sent      {SHOWN_TOKEN}"),
            Self::Renewed { expires_in: Some(left) } => {
                write!(f, "renewed   on the same stream, at least {} s left", left.as_secs())
            }
            Self::Renewed { expires_in: None } => f.write_str("renewed   on the same stream, without an end"),
            Self::NotRenewed { why, next } => write!(f, "renewal   {}; {next}", printable(why, 300)),
            Self::Received(Received::Text(text)) => write!(f, "received  {}", printable(text, 1000)),
            Self::Received(Received::Binary(bytes)) => write!(f, "received  ({} bytes)", bytes.len()),
            Self::Received(Received::Closed(closed)) | Self::Closed(closed) => write!(f, "{closed}"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Failed(why) => write!(f, "failed    {}", printable(why, 300)),
            Self::Waiting { wait: Duration::ZERO, advice: Advice::NewToken } => {
                f.write_str("back at once with a new token")
            }
            Self::Waiting { wait, advice } => {
                let with = if *advice == Advice::NewToken { " with a new token" } else { "" };
                write!(f, "waiting   {:.1} s, then back{with}", wait.as_secs_f64())
            }
        }
    }
}

/// In whole seconds, and from two minutes on in larger units too.
fn whole(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
    }
}

/// Why the client does not come back.
#[derive(Debug)]
pub enum End {
    /// It was told to stop; the stream was closed with 1000.
    Interrupted,
    /// All was sent, and nothing more came.
    Finished,
    /// The other side closed, and coming back would not help.
    ClosedByPeer(Closed),
    /// Refused, and no new token would cure it.
    Refused(Refusal),
    /// Refused for its token, which was not of the client's own making.
    TokenRefused {
        /// What was answered.
        refusal: Refusal,
        /// What to call the token.
        origin: String,
    },
    /// The stream can never be opened like this.
    Impossible(OpenError),
    /// No token to come back with.
    NoToken(SourceError),
    /// Too many attempts in a row came to nothing.
    GaveUp,
}

impl End {
    /// Whether this is an end that was asked for.
    pub fn is_success(&self) -> bool {
        match self {
            Self::Interrupted | Self::Finished => true,
            Self::ClosedByPeer(closed) => closed.code == Some(1000),
            Self::GaveUp | Self::Impossible(_) | Self::NoToken(_) | Self::Refused(_) | Self::TokenRefused { .. } => {
                false
            }
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::Finished => f.write_str("finished"),
            Self::ClosedByPeer(closed) => write!(f, "{closed}"),
            Self::Refused(refusal) => write!(f, "{refusal}; a new token would not change that"),
            Self::TokenRefused { refusal, origin } => {
                write!(f, "{refusal}: {} is not accepted", printable(origin, 300))
            }
            Self::Impossible(error) => write!(f, "{error}"),
            Self::NoToken(error) => write!(f, "{error}"),
            Self::GaveUp => f.write_str("gave up after too many attempts"),
        }
    }
}
