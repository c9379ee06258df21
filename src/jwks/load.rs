//! One look at where a set comes from. What is found there is bytes until `token::keys` has found it good.

use std::path::Path;

use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::{Config, Origin};
use crate::clock::Mono;
use crate::fetch::discovery::DiscoveryError;
use crate::fetch::{FetchError, Fetched, Url};
use crate::token::keys::KeyError;

/// Why there is no newer set.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file with the bearer token cannot be read, or what is in it is none.
    #[error("the bearer token in {0} cannot be used: {1}")]
    Bearer(String, String),
    /// The discovery document does not say where the set is.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// There is no way to fetch it.
    #[error("nothing can be fetched for this issuer")]
    NoFetcher,
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
        (Origin::Discovery(document, name), Some(fetcher)) => {
            let known = memory.found.as_ref().filter(|(_, at)| now.saturating_since(*at) < config.max_refresh);
            let url = match known {
                Some((url, _)) => url.clone(),
                None => fetcher.discover(document, name, "jwks_uri", headers(config, document).await?).await?,
            };
            if known.is_none() {
                // What was remembered of another place says nothing of this one.
                let moved = memory.found.as_ref().is_none_or(|(before, _)| *before != url);
                memory.etag = memory.etag.take().filter(|_| !moved);
                memory.found = Some((url.clone(), now));
            }
            (url, fetcher)
        }
        (_, None) => return Err(LoadError::NoFetcher),
    };
    let mut headers = headers(config, &url).await?;
    if let Some(etag) = &memory.etag {
        headers.insert(IF_NONE_MATCH, etag.clone());
    }
    // An issuer elsewhere has no business on this machine, whatever the name of its keys resolves to.
    let far = matches!(&config.origin, Origin::Discovery(document, _) if !document.is_loopback());
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
    let metadata = tokio::fs::metadata(path).await?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    // A buffer that need not grow: growing leaves copies of a secret behind that nobody wipes.
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX).min(most);
    let mut bytes = Vec::with_capacity(length.saturating_add(1));
    let file = tokio::fs::File::open(path).await?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > most {
        return Err(std::io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Bytes of a set.
const LARGEST: usize = 512 * 1024;
/// Bytes of a bearer token.
const LARGEST_BEARER: usize = 16 * 1024;
const LONGEST_ETAG: usize = 256;
