//! One look at where a set comes from. What is found there is bytes until `token::keys` has found it good.

use std::path::Path;

use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::{Config, Origin};
use crate::clock::Mono;
use crate::fetch::{FetchError, Fetched, Fetcher, Url, UrlError};
use crate::token::claims::json::{Dates, object};
use crate::token::keys::KeyError;

/// Why there is no newer set.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file with the bearer token cannot be read, or what is in it is none.
    #[error("the bearer token in {0} cannot be used: {1}")]
    Bearer(String, String),
    /// The discovery document is none.
    #[error("the discovery document {0}")]
    Discovery(String),
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    File(std::io::Error),
    /// Nothing came in time: a file that hangs.
    #[error("nothing came within {} s", .0.as_secs_f64())]
    Hung(std::time::Duration),
    /// The source was stopped meanwhile.
    #[error("another config was put in force meanwhile")]
    Stopped,
    /// The answer is not `200 OK`.
    #[error("{0} answered {1}")]
    Status(Url, StatusCode),
    /// The set has no key that can be used, or is no set.
    #[error(transparent)]
    Set(#[from] KeyError),
}

/// What was found.
pub(super) enum Loaded {
    /// What was there before.
    Same(HeaderMap),
    /// A set, and the headers that it came with.
    Set(Vec<u8>, HeaderMap),
}

/// What is known from the time before.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Where the discovery document says that the set is, and when it was read.
    pub(super) found: Option<(Url, Mono)>,
    /// What names the last set (RFC 9110, section 8.8.3).
    pub(super) etag: Option<HeaderValue>,
    /// The hash of the last set.
    pub(super) hash: Option<[u8; 32]>,
}

/// Gets the set as it is now.
pub(super) async fn load(config: &Config, memory: &mut Memory, now: Mono) -> Result<Loaded, LoadError> {
    let (url, fetcher) = match (&config.origin, &config.fetcher) {
        (Origin::File(path), _) => {
            return Ok(Loaded::Set(read(path, LARGEST).await.map_err(LoadError::File)?, HeaderMap::new()));
        }
        (Origin::Url(url), Some(fetcher)) => (url.clone(), fetcher),
        (Origin::Discovery(issuer, name), Some(fetcher)) => {
            let known = memory.found.as_ref().filter(|(_, at)| now.saturating_since(*at) < config.max_refresh);
            let url = match known {
                Some((url, _)) => url.clone(),
                None => discover(config, fetcher, issuer, name).await?,
            };
            if known.is_none() {
                // What was remembered of another place says nothing of this one.
                let moved = memory.found.as_ref().is_none_or(|(before, _)| *before != url);
                memory.etag = memory.etag.take().filter(|_| !moved);
                memory.found = Some((url.clone(), now));
            }
            (url, fetcher)
        }
        (_, None) => return Err(LoadError::Discovery("cannot be fetched".to_owned())),
    };
    let mut headers = headers(config, &url).await?;
    if let Some(etag) = &memory.etag {
        headers.insert(IF_NONE_MATCH, etag.clone());
    }
    // An issuer elsewhere has no business on this machine, whatever the name of its keys resolves to.
    let far = matches!(&config.origin, Origin::Discovery(issuer, _) if !issuer.is_loopback());
    let fetcher = if far { fetcher.elsewhere() } else { fetcher.clone() };
    let Fetched { status, headers, body } = fetcher.get(&url, headers, LARGEST).await?;
    match status {
        StatusCode::OK => {
            memory.etag = headers.get(ETAG).filter(|etag| etag.len() <= LONGEST_ETAG).cloned();
            Ok(Loaded::Set(body.to_vec(), headers))
        }
        StatusCode::NOT_MODIFIED if memory.etag.is_some() => Ok(Loaded::Same(headers)),
        status => Err(LoadError::Status(url, status)),
    }
}

/// Where the keys are, by the issuer's discovery document (OpenID Connect Discovery 1.0, section 4).
async fn discover(config: &Config, fetcher: &Fetcher, issuer: &Url, name: &str) -> Result<Url, LoadError> {
    let bad = |error: UrlError| LoadError::Discovery(format!("cannot be asked for: {error}"));
    let url = issuer.join_path("/.well-known/openid-configuration").map_err(bad)?;
    let fetched = fetcher.get(&url, headers(config, &url).await?, LARGEST_DOCUMENT).await?;
    if fetched.status != StatusCode::OK {
        return Err(LoadError::Status(url, fetched.status));
    }
    let wrong = |what: String| LoadError::Discovery(format!("{url} {what}"));
    let text = std::str::from_utf8(&fetched.body).map_err(|_| wrong("is not UTF-8".to_owned()))?;
    let document = object(text, Dates::Plain).map_err(|error| wrong(format!("cannot be used: {error}")))?.members;
    match document.get("issuer").and_then(Value::as_str) {
        // Section 4.3: exactly.
        Some(said) if said == name => {}
        Some(said) => {
            let said: String = said.chars().take(200).flat_map(char::escape_debug).collect();
            return Err(wrong(format!("names another issuer: \"{said}\", not \"{name}\"")));
        }
        None => return Err(wrong("names no issuer".to_owned())),
    }
    let keys = document.get("jwks_uri").and_then(Value::as_str).ok_or_else(|| wrong("has no jwks_uri".to_owned()))?;
    let keys = Url::parse(keys).map_err(|error| wrong(format!("has a jwks_uri that cannot be used: {error}")))?;
    // An issuer elsewhere has no business on this machine.
    if keys.is_loopback() && !issuer.is_loopback() {
        return Err(wrong("has a jwks_uri on this machine".to_owned()));
    }
    Ok(keys)
}

/// What is shown where `url` is asked for.
async fn headers(config: &Config, url: &Url) -> Result<HeaderMap, LoadError> {
    let mut headers = HeaderMap::new();
    let own = match &config.origin {
        Origin::Url(own) | Origin::Discovery(own, _) => own.same_origin(url),
        Origin::File(_) => false,
    };
    if let Some(path) = config.bearer_file.as_ref().filter(|_| own) {
        let bad = |why: String| LoadError::Bearer(path.display().to_string(), why);
        let text = Zeroizing::new(read(path, LARGEST_BEARER).await.map_err(|error| bad(error.to_string()))?);
        let text = std::str::from_utf8(&text).map(str::trim).unwrap_or_default();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("one word of visible ASCII is wanted".to_owned()));
        }
        let value = Zeroizing::new(format!("Bearer {text}"));
        let mut value = HeaderValue::from_str(&value).map_err(|error| bad(error.to_string()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// A file of at most `most` bytes.
async fn read(path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
    // One that blocks whoever opens it is not opened.
    if !tokio::fs::metadata(path).await?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > most {
        return Err(std::io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Bytes of a set.
const LARGEST: usize = 512 * 1024;
/// Bytes of a discovery document.
const LARGEST_DOCUMENT: usize = 128 * 1024;
/// Bytes of a bearer token.
const LARGEST_BEARER: usize = 16 * 1024;
const LONGEST_ETAG: usize = 256;
