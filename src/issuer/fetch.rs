//! Fetches tokens of an issuer, by client credentials (RFC 6749, section 4.4).
//!
//! Owns the client's id and secret, and what is known of the issuer's token endpoint. It keeps no token and plans
//! nothing: `schedule` says when to ask again. Called by `client`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::fetch::discovery::{self, DiscoveryError, Why};
use crate::fetch::{FetchError, Fetched, Fetcher, Url, UrlError, form};
use crate::secret::{SHOWN_TOKEN, Secret, Token, mask_tokens};

/// Where tokens are handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Named in an issuer's discovery document; see [`Endpoint::discovered`].
    Discovered {
        /// What the document must call the issuer, exactly.
        issuer: String,
        /// Where the document is.
        document: Url,
    },
    /// Here.
    At(Url),
}

impl Endpoint {
    /// The one that the issuer with this URL names (OpenID Connect Discovery, section 4).
    pub fn discovered(issuer: &str) -> Result<Self, UrlError> {
        let document = discovery::document(&Url::parse(issuer)?)?;
        Ok(Self::Discovered { issuer: issuer.to_owned(), document })
    }
}

/// In which part of the request the client shows who it is (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// In `Authorization`: `client_secret_basic`.
    #[default]
    Basic,
    /// In the form: `client_secret_post`.
    Post,
}

/// Who asks, and for what.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// The client's id.
    pub id: String,
    /// Its secret.
    pub secret: Secret,
    /// Where the two stand.
    pub auth: ClientAuth,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// For which services the token is to be (RFC 8707).
    pub resources: Vec<String>,
    /// The same in the word of issuers that know no `resource`.
    pub audience: Option<String>,
}

/// An issuer that is asked for tokens.
#[derive(Debug)]
pub struct TokenEndpoint {
    fetcher: Fetcher,
    endpoint: Endpoint,
    credentials: ClientCredentials,
    /// The endpoint that the issuer named; forgotten when it fails, since it may have moved.
    found: Mutex<Option<Url>>,
}

/// A token that was just handed out.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: Token,
    /// How long it is good for, as the issuer says beside it.
    pub expires_in: Option<Duration>,
}

/// Why there is no token. None of these holds a token or the secret; the first part of each says what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// An answer that is none: no JSON, or without what must be in it.
    #[error("{0}: {1}")]
    Answer(String, &'static str),
    /// The id or the secret cannot stand in a request.
    #[error("the client's id and secret must be text without control characters")]
    Credentials,
    /// No answer.
    #[error("{0}: {1}")]
    Fetch(String, FetchError),
    /// The discovery document does not say where to ask.
    #[error(transparent)]
    Discovery(DiscoveryError),
    /// The issuer said no.
    #[error("{place}: refused with {status}{said}")]
    Refused {
        /// Who said so.
        place: String,
        /// The HTTP status.
        status: u16,
        /// What it said of it (RFC 6749, section 5.2).
        said: String,
        /// `Retry-After`, as it came.
        retry_after: Option<String>,
    },
}

impl TokenEndpoint {
    /// Asks there, as that client. Nothing is fetched yet.
    pub fn new(fetcher: Fetcher, endpoint: Endpoint, credentials: ClientCredentials) -> Self {
        Self { fetcher, endpoint, credentials, found: Mutex::default() }
    }

    /// What people know it by.
    pub fn shown(&self) -> String {
        match &self.endpoint {
            Endpoint::Discovered { issuer, .. } => issuer.clone(),
            Endpoint::At(url) => url.to_string(),
        }
    }

    /// A fresh token.
    pub async fn fetch(&self) -> Result<Issued, TokenError> {
        let url = match (&self.endpoint, self.remembered()) {
            (Endpoint::At(url), _) => url.clone(),
            (Endpoint::Discovered { .. }, Some(url)) => url,
            (Endpoint::Discovered { issuer, document }, None) => self.discover(issuer, document).await?,
        };
        let issued = self.ask(&url).await;
        self.remember(issued.is_ok().then_some(url));
        issued
    }

    /// The token endpoint, as the issuer's own document names it.
    async fn discover(&self, issuer: &str, document: &Url) -> Result<Url, TokenError> {
        let found = self.fetcher.discover(document, issuer, "token_endpoint", accept_json()).await;
        found.map_err(|error| match &*error.why {
            // What it said of it, and when to come again.
            Why::Refused(fetched) => self.refused(format!("the discovery document {document}"), fetched),
            _ => TokenError::Discovery(error),
        })
    }

    async fn ask(&self, url: &Url) -> Result<Issued, TokenError> {
        let place = || format!("the token endpoint {url}");
        let own = &self.credentials;
        let secret = std::str::from_utf8(own.secret.expose()).map_err(|_| TokenError::Credentials)?;
        let mut headers = accept_json();
        let mut pairs = vec![("grant_type", "client_credentials")];
        match own.auth {
            ClientAuth::Basic => drop(headers.insert(AUTHORIZATION, basic(&own.id, secret)?)),
            ClientAuth::Post => pairs.extend([("client_id", own.id.as_str()), ("client_secret", secret)]),
        }
        pairs.extend(own.scope.iter().map(|scope| ("scope", scope.as_str())));
        pairs.extend(own.resources.iter().map(|resource| ("resource", resource.as_str())));
        pairs.extend(own.audience.iter().map(|audience| ("audience", audience.as_str())));
        let fetched = self.fetcher.post_form(url, headers, &pairs, MAX_ANSWER).await;
        let fetched = fetched.map_err(|error| TokenError::Fetch(place(), error))?;
        if fetched.status != StatusCode::OK {
            return Err(self.refused(place(), &fetched));
        }
        issued(&fetched).map_err(|why| TokenError::Answer(place(), why))
    }

    fn refused(&self, place: String, fetched: &Fetched) -> TokenError {
        let answer = object(fetched).unwrap_or_default();
        let word = |name| answer.get(name).and_then(Value::as_str).map(|text| self.printable(text));
        let mut said = word("error").map_or_else(String::new, |error| format!(" {error}"));
        if let Some(more) = word("error_description") {
            said = format!("{said} ({more})");
        }
        if said.starts_with(" invalid_client") {
            said.push_str("; the id or the secret is wrong, or wanted in the other place (basic or post)");
        }
        let retry_after = fetched.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        TokenError::Refused { place, status: fetched.status.as_u16(), said, retry_after }
    }

    /// What came from outside, fit to be shown: short, in one line, and without a token or the secret in it.
    fn printable(&self, text: &str) -> String {
        let own = &self.credentials;
        let secret = String::from_utf8_lossy(own.secret.expose());
        let mut text = text.to_owned();
        for hidden in [&*secret, form::encode(&secret).as_str(), encoded_pair(&own.id, &secret).as_str()] {
            if !hidden.is_empty() {
                text = text.replace(hidden, "***");
            }
        }
        let text = mask_tokens(&text, SHOWN_TOKEN).unwrap_or(text);
        text.chars().filter(|character| !character.is_control()).take(LONGEST_SAID).collect()
    }

    fn remembered(&self) -> Option<Url> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, url: Option<Url>) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

/// A token answer (RFC 6749, section 5.1).
fn issued(fetched: &Fetched) -> Result<Issued, &'static str> {
    let answer = object(fetched).ok_or(NO_JSON)?;
    let text = answer.get("access_token").and_then(Value::as_str).ok_or("there is no access_token in it")?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("its access_token is no token");
    }
    // Section 7.1: a client must not use a type that it does not know.
    let kind = answer.get("token_type").and_then(Value::as_str).ok_or("there is no token_type in it")?;
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err("its token_type is not Bearer");
    }
    // Some write the number as a string.
    let seconds = answer.get("expires_in").and_then(|value| match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    });
    Ok(Issued { token: Token::new(text.to_owned()), expires_in: seconds.map(Duration::from_secs) })
}

fn object(fetched: &Fetched) -> Option<Map<String, Value>> {
    serde_json::from_slice(&fetched.body).ok()
}

fn accept_json() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))])
}

fn basic(id: &str, secret: &str) -> Result<HeaderValue, TokenError> {
    let text = Zeroizing::new(format!("Basic {}", *encoded_pair(id, secret)));
    let mut value = HeaderValue::from_str(&text).map_err(|_| TokenError::Credentials)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Id and secret as `Basic` has them: each form-encoded before (RFC 6749, section 2.3.1).
fn encoded_pair(id: &str, secret: &str) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{}:{}", *form::encode(id), *form::encode(secret)));
    Zeroizing::new(STANDARD.encode(pair.as_bytes()))
}

/// Bytes; more than any token that a gateway takes.
const MAX_ANSWER: usize = 128 * 1024;
/// Characters.
const LONGEST_SAID: usize = 200;
const NO_JSON: &str = "the answer is no JSON object";

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, secret: &str) -> TokenEndpoint {
        let credentials = ClientCredentials {
            id: id.into(),
            secret: Secret::new(secret.into()),
            auth: ClientAuth::Basic,
            scope: None,
            resources: Vec::new(),
            audience: None,
        };
        let fetcher = Fetcher::new(Some(rustls::RootCertStore::empty()), Duration::from_secs(1)).unwrap();
        TokenEndpoint::new(fetcher, Endpoint::discovered("https://a/").unwrap(), credentials)
    }

    fn answer(body: &str) -> Fetched {
        Fetched { status: StatusCode::OK, headers: HeaderMap::new(), body: body.to_owned().into() }
    }

    #[test]
    fn id_and_secret_are_form_encoded_inside_basic() {
        let value = basic("a:b", "s p+\u{e9}").unwrap();
        let text = STANDARD.decode(value.to_str().unwrap().strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(text, b"a%3Ab:s+p%2B%C3%A9");
        assert!(value.is_sensitive());
    }

    #[test]
    fn an_issuer_is_a_url_to_which_a_path_can_be_added() {
        assert!(Endpoint::discovered("https://a/realms/main").is_ok());
        for bad in ["https://a/?tenant=1", "http://a/", "a", "https://u:p@a/", "https://a/#x"] {
            assert!(Endpoint::discovered(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_an_issuer_says_is_shown_short_and_without_secrets() {
        let endpoint = endpoint("me", "sw ord");
        let basic = encoded_pair("me", "sw ord");
        let said = format!("sw ord\n\u{1b}[31m sw+ord {} eyJh.eyJi.c {}", *basic, "x".repeat(1000));
        let shown = endpoint.printable(&said);
        assert!(shown.starts_with("***[31m *** *** (the token) xxx"), "{shown}");
        assert_eq!(shown.chars().count(), 200);
        assert!(!format!("{endpoint:?}").contains("sw ord"));
    }

    #[test]
    fn only_a_bearer_token_in_json_is_taken() {
        let good = issued(&answer(r#"{"access_token":"abc","token_type":"bearer","expires_in":10}"#)).unwrap();
        assert_eq!((good.token.expose(), good.expires_in), ("abc", Some(Duration::from_secs(10))));
        let text = issued(&answer(r#"{"access_token":"abc","token_type":"Bearer","expires_in":"3599"}"#)).unwrap();
        assert_eq!(text.expires_in, Some(Duration::from_secs(3599)));
        for never in ["null", "-1", "\"soon\"", "1e400", "[]"] {
            let body = format!(r#"{{"access_token":"abc","token_type":"Bearer","expires_in":{never}}}"#);
            let told = issued(&answer(&body)).map(|issued| issued.expires_in);
            assert!(matches!(told, Ok(None)) || never == "1e400", "{never}");
        }
        for bad in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"access_token":"abc"}"#,
            r#"{"token_type":"Bearer"}"#,
            r#"{"access_token":7,"token_type":"Bearer"}"#,
            r#"{"access_token":"","token_type":"Bearer"}"#,
            r#"{"access_token":"a b","token_type":"Bearer"}"#,
            r#"{"access_token":"a\nb","token_type":"Bearer"}"#,
            r#"{"access_token":"abc","token_type":"DPoP"}"#,
            r#"{"access_token":"abc","token_type":null}"#,
        ] {
            assert!(issued(&answer(bad)).is_err(), "{bad}");
        }
    }
}
