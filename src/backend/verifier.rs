//! A WebSocket service that receives tokens as messages, and says what is in them or why it refuses them.
//!
//! Each text message is one compact JWT. The answer is one JSON object: `{"ok": true, "message": <sub>, "expires_in":
//! <seconds>}`, or `{"ok": false, "reason": <public reason>}`; after a refusal the stream goes on. Verification is
//! `token`'s part. What was decided goes to a [`Sink`] too, never with the token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::backend::{Handshake, Service, Settings, printable};
use crate::clock::Clock;
use crate::secret::{Secret, Token};
use crate::token::keys::{Algorithm, KeyError};
use crate::token::verify::Issuer;
use crate::token::{Answer, Grant, Judge, KeyRing, Purpose, Verifier};

/// What the service decided on one message.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The token is good.
    Confirmed {
        /// Its `sub`: the message. `None` if the token has none.
        message: Option<String>,
        /// How long it is good for from now on; `None` if it has no end.
        expires_in: Option<Duration>,
    },
    /// The token is not good, or the message is no token.
    Refused {
        /// What the sender was told.
        reason: &'static str,
        /// The whole reason.
        why: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed { message, expires_in } => {
                let message = message.as_deref().map_or("(none)".into(), |text| printable(text, 200));
                write!(f, "confirmed  message: {message}")?;
                match expires_in {
                    Some(left) => write!(f, "  (expires in {:.3} s)", left.as_secs_f64()),
                    None => f.write_str("  (does not expire)"),
                }
            }
            Self::Refused { reason, why } => write!(f, "refused    {reason}  ({})", printable(why, 200)),
        }
    }
}

/// Where verdicts go, one by one as they are made.
pub type Sink = Arc<dyn Fn(&Verdict) + Send + Sync>;

/// Verifies on `listener` until `shutdown` is cancelled. For the command line, `sink` prints a line per verdict.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    judge: Arc<dyn Judge>,
    clock: Clock,
    sink: Sink,
    shutdown: CancellationToken,
) {
    super::serve(listener, settings, Arc::new(Verify { judge, clock, sink }), shutdown).await;
}

/// The judge of tokens that are signed with a shared secret (HS256), with this `iss` and one of these `aud`s.
pub fn shared_secret(secret: &Secret, iss: Option<String>, aud: Vec<String>) -> Result<Verifier, KeyError> {
    let mut keys = KeyRing::default();
    keys.add_secret(Algorithm::HS256, None, secret)?;
    let issuer = Issuer { iss, aud, max_lifetime: None, ..Issuer::new("verifier".into(), keys) };
    Ok(Verifier::new(vec![Arc::new(issuer)]))
}

struct Verify {
    judge: Arc<dyn Judge>,
    clock: Clock,
    sink: Sink,
}

impl Service for Verify {
    async fn answer(&self, _handshake: &Handshake, message: Message) -> Option<Message> {
        let verdict = self.verdict(message).await;
        (self.sink)(&verdict);
        Some(Message::text(reply(&verdict).to_string()))
    }
}

impl Verify {
    async fn verdict(&self, message: Message) -> Verdict {
        let Message::Text(text) = message else {
            return Verdict::Refused { reason: "not_text", why: "a token is a text message".into() };
        };
        let text = text.as_str().trim();
        if text.len() > MAX_TOKEN {
            return Verdict::Refused { reason: "bad_request", why: format!("{} bytes are no token", text.len()) };
        }
        let token = Token::new(text.to_owned());
        let now = self.clock.now();
        let judged = match self.judge.judge(&token, Purpose::FirstMessage, now) {
            Answer::Ready(judged) => judged,
            Answer::Later(judged) => judged.await,
        };
        match judged {
            Ok(grant) => Verdict::Confirmed {
                message: subject(&grant),
                expires_in: grant.expiry.map(|expiry| expiry.saturating_since(now.wall)),
            },
            Err(denial) => Verdict::Refused { reason: denial.public.as_str(), why: denial.to_string() },
        }
    }
}

fn subject(grant: &Grant) -> Option<String> {
    grant.claims.get("sub").and_then(Value::as_str).map(str::to_owned)
}

fn reply(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Confirmed { message, expires_in } => {
            let seconds = expires_in.map(|left| (left.as_secs_f64() * 1000.0).floor() / 1000.0);
            json!({ "ok": true, "message": message, "expires_in": seconds })
        }
        Verdict::Refused { reason, .. } => json!({ "ok": false, "reason": reason }),
    }
}

/// Bytes; larger ones are refused before anything is decoded.
const MAX_TOKEN: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::Map;

    use super::super::tests::{ask, ask_with, close_code, open, start};
    use super::*;
    use crate::issuer::{Mint, MintKey};

    const SECRET: &[u8] = b"an example secret of enough bytes";

    fn mint(secret: &[u8], ttl: u64) -> Mint {
        let key = MintKey::from_secret(Algorithm::HS256, None, &Secret::new(secret.to_vec())).unwrap();
        let mut claims = Map::new();
        claims.insert("iss".into(), "demo".into());
        claims.insert("aud".into(), "gate".into());
        Mint::new(key, claims, Duration::from_secs(ttl))
    }

    #[tokio::test]
    async fn a_token_is_decoded_and_a_bad_one_refused_and_the_stream_goes_on() {
        let judge = shared_secret(&Secret::new(SECRET.to_vec()), Some("demo".into()), vec!["gate".into()]).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&seen);
        let sink: Sink = Arc::new(move |verdict: &Verdict| lines.lock().unwrap().push(verdict.to_string()));
        let clock = Clock::system();
        let service = Verify { judge: Arc::new(judge), clock: clock.clone(), sink };
        let (address, _shutdown) = start(service, Settings::default()).await;
        let mut client = open(address, "/").await;

        let good = mint(SECRET, 30).sign_subject("good \u{1b}morning", clock.now()).unwrap().token;
        let forged = mint(b"another secret, also long enough", 30).sign_subject("x", clock.now()).unwrap().token;
        let expired = mint(SECRET, 0).sign_subject("x", clock.now()).unwrap().token;
        for (token, reason) in [
            (forged.expose(), "token_invalid"),
            (expired.expose(), "token_expired"),
            ("", "token_invalid"),
            ("no token", "token_invalid"),
        ] {
            let answer: Value = serde_json::from_str(&ask(&mut client, token).await).unwrap();
            assert_eq!(answer, json!({"ok": false, "reason": reason}));
        }
        let answer: Value = serde_json::from_str(&ask_with(&mut client, Message::binary(vec![1])).await).unwrap();
        assert_eq!(answer["reason"], "not_text");
        let answer: Value = serde_json::from_str(&ask(&mut client, &"x".repeat(9000)).await).unwrap();
        assert_eq!(answer["reason"], "bad_request");
        let answer: Value = serde_json::from_str(&ask(&mut client, &format!("{}\n", good.expose())).await).unwrap();
        assert_eq!(answer["ok"], true);
        assert_eq!(answer["message"], "good \u{1b}morning");
        let left = answer["expires_in"].as_f64().unwrap();
        assert!(left > 25.0 && left <= 30.0, "{left}");

        client.close(None).await.unwrap();
        close_code(&mut client).await;
        let lines = seen.lock().unwrap().join("\n");
        assert!(lines.contains("confirmed  message: good \\u{1b}morning"), "{lines}");
        assert!(!lines.contains("eyJ"), "{lines}");
    }
}
