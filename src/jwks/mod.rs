//! Key sets that come from outside the config: a file that is watched, a URL, or OIDC discovery.
//!
//! Owns when a set is fetched, what replaces what, and for how long the last good one counts; and the [`Judge`] that waits
//! when a token names a key which is not known yet. Which keys of a set are good is `token::keys`' part; how bytes get here
//! is `fetch`'s. A set replaces the one before only if it was found good. Where a set is fetched from stands in the config
//! alone: nothing in a token leads anywhere (RFC 8725, section 3.10). Called by the routes (to judge), by the app (to run).
//!
//! [`Judge`]: crate::token::Judge

mod cache;
mod desk;
mod ledger;
mod load;
mod source;
mod waiting;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

pub use load::LoadError;
pub use source::{Context, Source, Status};
pub use waiting::Waiting;

use crate::clock::Clock;
use crate::fetch::{Fetcher, Url};
use crate::token::keys::SetRules;

/// Where a set comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file; looked at every few seconds, since what puts it there may rename or link it.
    File(PathBuf),
    /// A URL.
    Url(Url),
    /// The `jwks_uri` of the issuer's OIDC discovery document at this URL; the text is the issuer's own, which the document
    /// must name.
    Discovery(Url, String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => write!(f, "{url}"),
            Self::Discovery(_, issuer) => f.write_str(issuer),
        }
    }
}

/// One source of keys.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the set comes from.
    pub origin: Origin,
    /// Which of its keys count.
    pub rules: SetRules,
    /// Gets what is not a file.
    pub fetcher: Option<Fetcher>,
    /// What the fetcher trusts, by its hash; `None` = the system's roots.
    pub trust: Option<[u8; 32]>,
    /// A file with a bearer token that is shown where the set, or the discovery document, is fetched: only to the origin that
    /// stands in the config.
    pub bearer_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// The set is not fetched again sooner, whatever the issuer says.
    pub min_refresh: Duration,
    /// It is fetched again by then, whatever the issuer says.
    pub max_refresh: Duration,
    /// Tokens that name an unknown key cause at most one fetch in this time.
    pub cooldown: Duration,
    /// For how long the last good set counts while no newer one can be had.
    pub stale: Duration,
    /// Whether a key that goes from the set ends the live streams whose tokens it has signed.
    pub close_on_removal: bool,
    /// Whether the gateway may start without the set.
    pub start_without: bool,
}

impl Config {
    /// Whether the other one leads to the same keys.
    fn same_keys(&self, other: &Self) -> bool {
        (&self.origin, &self.rules, self.trust) == (&other.origin, &other.rules, other.trust)
    }
}

/// The keys of an issuer could not be had.
#[derive(Debug, thiserror::Error)]
#[error("the keys of issuer `{issuer}` cannot be had from {origin}: {error}")]
pub struct Missing {
    /// The issuer's name in the config.
    pub issuer: Arc<str>,
    /// Where they were to come from.
    pub origin: Origin,
    /// What went wrong.
    pub error: LoadError,
}

/// Gets what is to be there before `sources` are put in force: takes over what `before` has, and fetches the rest, all at
/// the same time. Names each issuer whose keys must be there and are not.
pub async fn prepare(sources: &[Arc<Source>], before: &[Arc<Source>], clock: &Clock) -> Result<(), Vec<Missing>> {
    take_over(sources, before);
    // At the start nobody is served until this is done; later the old config serves meanwhile.
    let wanted = sources.iter().filter(|source| !before.is_empty() || !source.start_without());
    let mut missing = fetch(wanted, clock).await;
    let may_be_missing =
        |missing: &Missing| sources.iter().any(|source| *source.issuer() == missing.issuer && source.start_without());
    missing.retain(|missing| !may_be_missing(missing));
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// Fetches those sets that are not there yet, all at the same time. Names each issuer whose keys cannot be had.
pub async fn fetch(sources: impl IntoIterator<Item = &Arc<Source>>, clock: &Clock) -> Vec<Missing> {
    let absent = sources.into_iter().filter(|source| !source.is_loaded());
    let fetched = join_all(absent.map(|source| source.first(clock))).await;
    fetched.into_iter().filter_map(Result::err).collect()
}

/// Has each of `sources` begin with what an older one of the same issuer, with the same origin, has fetched.
pub fn take_over(sources: &[Arc<Source>], before: &[Arc<Source>]) {
    for source in sources {
        if let Some(older) = before.iter().find(|older| older.issuer() == source.issuer()) {
            source.adopt(older);
        }
    }
}
