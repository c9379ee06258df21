//! An issuer's own document (OpenID Connect Discovery 1.0, section 4), and an address in it.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{FetchError, Fetched, Fetcher, Url, UrlError};
use crate::token::claims::json::{Dates, JsonError, object};

/// Why no address was found. Its text names the document.
#[derive(Debug, thiserror::Error)]
#[error("the discovery document {document}: {why}")]
pub struct DiscoveryError {
    /// Where the document is.
    pub document: Url,
    /// What is wrong.
    pub why: Box<Why>,
}

/// What is wrong with a discovery document.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The answer is not `200 OK`.
    #[error("refused with {}", .0.status.as_u16())]
    Refused(Fetched),
    /// The answer is not UTF-8.
    #[error("the answer is not UTF-8")]
    Text,
    /// The answer is no strict JSON object.
    #[error("the answer cannot be used: {0}")]
    Json(#[from] JsonError),
    /// It is another issuer's.
    #[error("it is of the issuer {0}, and that is not exactly the one that was named")]
    OtherIssuer(String),
    /// It is nobody's.
    #[error("it names no issuer")]
    NoIssuer,
    /// The address that is wanted does not stand in it.
    #[error("it names no {0}")]
    Absent(&'static str),
    /// Or cannot be used.
    #[error("its {0} cannot be used: {1}")]
    Address(&'static str, UrlError),
    /// Or would have us go on without the TLS that the document came by.
    #[error("its {0} has no TLS")]
    InClear(&'static str),
    /// Or is on this machine, where an issuer elsewhere has no business.
    #[error("its {0} is on this machine")]
    Here(&'static str),
}

/// Where the document of this issuer is; a `/` at the end of its URL goes first. `Err` if the URL has a query.
pub fn document(issuer: &Url) -> Result<Url, UrlError> {
    issuer.join_path("/.well-known/openid-configuration")
}

impl Fetcher {
    /// The address that stands under `member` in the document of the issuer that calls itself exactly `issuer` (section
    /// 4.3). `headers` are sent along.
    pub async fn discover(
        &self,
        document: &Url,
        issuer: &str,
        member: &'static str,
        headers: HeaderMap,
    ) -> Result<Url, DiscoveryError> {
        let found = self.look_up(document, issuer, member, headers).await;
        found.map_err(|why| DiscoveryError { document: document.clone(), why: why.into() })
    }

    async fn look_up(
        &self,
        document: &Url,
        issuer: &str,
        member: &'static str,
        headers: HeaderMap,
    ) -> Result<Url, Why> {
        let fetched = self.get(document, headers, LARGEST).await?;
        if fetched.status != StatusCode::OK {
            return Err(Why::Refused(fetched));
        }
        let text = std::str::from_utf8(&fetched.body).map_err(|_| Why::Text)?;
        let members = object(text, Dates::Plain)?.members;
        let word = |name| members.get(name).and_then(Value::as_str);
        match word("issuer") {
            Some(said) if said == issuer => {}
            Some(said) => {
                return Err(Why::OtherIssuer(said.chars().take(LONGEST).flat_map(char::escape_debug).collect()));
            }
            None => return Err(Why::NoIssuer),
        }
        let url = Url::parse(word(member).ok_or(Why::Absent(member))?).map_err(|error| Why::Address(member, error))?;
        match () {
            () if document.is_secure() && !url.is_secure() => Err(Why::InClear(member)),
            () if url.is_loopback() && !document.is_loopback() => Err(Why::Here(member)),
            () => Ok(url),
        }
    }
}

/// Bytes of a document.
const LARGEST: usize = 128 * 1024;
/// Characters of another issuer's name that are shown.
const LONGEST: usize = 200;
