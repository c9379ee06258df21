//! Where the client's tokens come from: its own mint, an issuer, a file, a command, or one fixed token.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::AsyncReadExt as _;

use crate::clock::{Now, Wall};
use crate::issuer::schedule::retry_after;
use crate::issuer::{Mint, MintError, TokenEndpoint, TokenError};
use crate::secret::Token;

/// Where tokens come from.
#[derive(Debug)]
pub enum Source {
    /// Signed by the client itself.
    Mint {
        /// The key and the shared claims.
        mint: Mint,
        /// The `sub` of the first token, the second, and so on; the last one goes on for all that follow.
        subjects: Vec<String>,
    },
    /// Handed out by an issuer.
    Issuer(Box<TokenEndpoint>),
    /// Read from a file, each time anew, so that something else may renew it.
    File(PathBuf),
    /// Printed by a program, given with its arguments; it is run for each token.
    Command(Vec<String>),
    /// One token, and no other after it.
    Fixed(Token),
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The issuer gives none.
    #[error(transparent)]
    Issuer(#[from] TokenError),
    /// It cannot be signed.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// The file cannot be read.
    #[error("the token file {0} cannot be read: {1}")]
    File(PathBuf, std::io::Error),
    /// The program did not run, failed, or took too long. What it wrote is not repeated.
    #[error("the token command {0}")]
    Command(String),
    /// What came is larger than any token, empty, or no text.
    #[error("what came is no token")]
    NoToken,
    /// The only token there was is used up.
    #[error("the token is used up, and there is no other")]
    UsedUp,
}

/// A token and what its holder can read in it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The token.
    pub token: Token,
    /// When it ends by the client's own clock: by what its issuer said beside it, else by its `exp`, read without
    /// verifying anything.
    pub expires: Option<Wall>,
    /// Its `sub`, likewise.
    pub subject: Option<String>,
}

impl SourceError {
    /// How long the source asks to be left alone.
    pub(super) fn asked(&self, now: Now) -> Option<Duration> {
        match self {
            Self::Issuer(TokenError::Refused { retry_after: Some(value), .. }) => retry_after(value, now.wall),
            _ => None,
        }
    }
}

impl Source {
    /// What to call a token that comes from outside, where it may be the same one again; `None` for sources that give
    /// another one each time, or none.
    pub(super) fn origin(&self) -> Option<String> {
        match self {
            Self::File(path) => Some(format!("the token in {}", path.display())),
            // Arguments may hold what is nobody's business.
            Self::Command(words) => Some(format!("the token of `{}`", words.first().map_or("", String::as_str))),
            Self::Issuer(issuer) => Some(format!("the token of {}", issuer.shown())),
            Self::Fixed(_) | Self::Mint { .. } => None,
        }
    }

    /// The `count`-th token, counted from 0.
    pub(super) async fn fetch(&self, count: usize, now: Now) -> Result<Fetched, SourceError> {
        let token = match self {
            Self::Mint { mint, subjects } => {
                let subject = subjects.get(count).or_else(|| subjects.last()).map_or("", String::as_str);
                mint.sign_subject(subject, now)?.token
            }
            Self::Issuer(issuer) => {
                let issued = issuer.fetch().await?;
                let mut fetched = Fetched::of(issued.token);
                fetched.expires = end(fetched.expires, issued.expires_in, now.wall);
                return Ok(fetched);
            }
            Self::File(path) => {
                let failed = |error| SourceError::File(path.clone(), error);
                let mut text = Vec::new();
                let file = tokio::fs::File::open(path).await.map_err(failed)?;
                file.take(MAX_TOKEN).read_to_end(&mut text).await.map_err(failed)?;
                parse(text)?
            }
            Self::Command(words) => parse(run(words).await?)?,
            Self::Fixed(token) if count == 0 => token.clone(),
            Self::Fixed(_) => return Err(SourceError::UsedUp),
        };
        Ok(Fetched::of(token))
    }
}

impl Fetched {
    /// Reads `exp` and `sub` of the holder's own token. Nothing is verified: the client only plans with them.
    pub fn of(token: Token) -> Self {
        let claims = claims(&token).unwrap_or_default();
        let expires = claims.get("exp").and_then(serde_json::Value::as_f64);
        let expires = expires.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(Wall::from_epoch);
        let subject = claims.get("sub").and_then(|sub| sub.as_str().map(str::to_owned));
        Self { token, expires, subject }
    }
}

/// When a token ends that was asked for at `asked`. A span needs no clock that agrees with the issuer's; but issuers count
/// whole seconds, so that `exp` may be earlier by as much as is cut off.
fn end(exp: Option<Wall>, life: Option<Duration>, asked: Wall) -> Option<Wall> {
    let Some(life) = life else { return exp };
    let least = life.saturating_sub(Duration::from_secs(1)).max(life / 2);
    let [least, most] = [least, life].map(|life| asked.saturating_add(life));
    Some(exp.map_or(most, |exp| exp.clamp(least, most)))
}

fn claims(token: &Token) -> Option<serde_json::Value> {
    let payload = token.expose().split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Runs a program and takes what it prints. Its standard error goes to ours.
async fn run(words: &[String]) -> Result<Vec<u8>, SourceError> {
    let (program, arguments) = words.split_first().ok_or_else(|| SourceError::Command("is empty".into()))?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| SourceError::Command(format!("cannot be run: {error}")))?;
    let mut text = Vec::new();
    let read = async {
        if let Some(output) = child.stdout.take() {
            output.take(MAX_TOKEN).read_to_end(&mut text).await?;
        }
        child.wait().await
    };
    match tokio::time::timeout(COMMAND_TIMEOUT, read).await {
        Ok(Ok(status)) if status.success() => Ok(text),
        Ok(Ok(status)) => Err(SourceError::Command(format!("failed: {status}"))),
        Ok(Err(error)) => Err(SourceError::Command(format!("failed: {error}"))),
        Err(_) => Err(SourceError::Command(format!("took longer than {} s", COMMAND_TIMEOUT.as_secs()))),
    }
}

fn parse(text: Vec<u8>) -> Result<Token, SourceError> {
    if u64::try_from(text.len()).is_ok_and(|length| length >= MAX_TOKEN) {
        return Err(SourceError::NoToken);
    }
    let text = String::from_utf8(text).map_err(|_| SourceError::NoToken)?;
    let text = text.trim();
    if text.is_empty() || text.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err(SourceError::NoToken);
    }
    Ok(Token::new(text.to_owned()))
}

/// Bytes; no gateway takes larger ones.
const MAX_TOKEN: u64 = 64 * 1024;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE3MDAwMDAwMDAuNX0.sig";

    #[tokio::test]
    async fn a_file_and_a_command_give_a_token_and_its_end() {
        let now = Clock::system().now();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        let words = ["cat", path.to_str().unwrap()].map(str::to_owned).to_vec();
        for source in [Source::File(path.clone()), Source::Command(words)] {
            let fetched = source.fetch(3, now).await.unwrap();
            assert_eq!(fetched.token.expose(), TOKEN);
            assert_eq!(fetched.expires.unwrap().since_epoch(), Duration::from_millis(1_700_000_000_500));
            assert_eq!(fetched.subject.as_deref(), Some("ann"));
        }
        std::fs::write(&path, "two words").unwrap();
        assert!(matches!(Source::File(path).fetch(0, now).await, Err(SourceError::NoToken)));
    }

    #[tokio::test]
    async fn a_source_that_fails_says_why_and_shows_no_token() {
        let now = Clock::system().now();
        let missing = Source::File("/nonexistent/token".into()).fetch(0, now).await.unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/token"));
        let words = ["sh", "-c", "echo eyJsecret; exit 3"].map(str::to_owned).to_vec();
        let failed = Source::Command(words).fetch(0, now).await.unwrap_err().to_string();
        assert!(failed.contains("exit status: 3") && !failed.contains("eyJ"), "{failed}");
        let fixed = Source::Fixed(Token::new(TOKEN.into()));
        assert!(fixed.fetch(0, now).await.is_ok());
        assert!(matches!(fixed.fetch(1, now).await, Err(SourceError::UsedUp)));
    }

    #[test]
    fn the_end_of_a_token_is_counted_from_when_it_was_asked_for() {
        let at = |ms| Wall::from_epoch(Duration::from_millis(ms));
        for (exp, life, ends) in [
            (Some(109_400), Some(10), Some(109_400)),
            (Some(80_000), Some(10), Some(109_000)),
            (Some(900_000), Some(10), Some(110_000)),
            (Some(80_000), Some(1), Some(100_500)),
            (None, Some(10), Some(110_000)),
            (Some(80_000), None, Some(80_000)),
            (None, None, None),
        ] {
            let end = end(exp.map(at), life.map(Duration::from_secs), at(100_000));
            assert_eq!(end, ends.map(at), "{exp:?} {life:?}");
        }
    }
}
