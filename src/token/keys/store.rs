//! The keys of one issuer at any moment: those of the config, which stay, and a set that is replaced as a whole whenever a
//! newer one was found good.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{Algorithm, JwkSetReport, Key, KeyRing};
use crate::clock::Now;
use crate::secret;

/// A key that came in a set, for as long as it stands there: 64 bits of a hash over the issuer's name and the key itself.
/// Another `kid` for the same key is the same key; two issuers never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(NonZeroU64);

impl KeyId {
    fn new(issuer: &str, key: &Key) -> Option<Self> {
        let text = [key.algorithm.as_str().as_bytes(), &key.thumbprint?, issuer.as_bytes()].concat();
        let hash = secret::sha256(&text);
        hash.first_chunk::<8>().and_then(|first| NonZeroU64::new(u64::from_be_bytes(*first))).map(Self)
    }
}

/// A set of keys that was found good.
#[derive(Debug)]
pub struct KeySet {
    ring: KeyRing,
    ids: Vec<Option<KeyId>>,
    /// What became of each of its members.
    pub report: JwkSetReport,
    /// From when, by either clock, it is too old to be trusted; `None` = never. Monotonic time stands still while the machine
    /// is suspended, and wall time can be set back.
    until: Option<Now>,
}

impl KeySet {
    fn counts(&self, now: Now) -> bool {
        self.until.is_none_or(|until| now.wall < until.wall && now.mono < until.mono)
    }

    /// From when, by either clock, it is too old to be trusted; `None` = never.
    pub const fn until(&self) -> Option<Now> {
        self.until
    }

    fn known(&self) -> BTreeSet<KeyId> {
        self.ids.iter().copied().flatten().collect()
    }
}

/// What a new set has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Keys that are there and were not.
    pub added: Vec<KeyId>,
    /// Keys that were there and are not.
    pub removed: Vec<KeyId>,
}

/// The keys of one issuer.
#[derive(Debug, Default)]
pub struct KeyStore {
    issuer: Arc<str>,
    fixed: KeyRing,
    /// Whether there is a set at all, be it fetched yet or not; and whether it may hold shared secrets.
    fetched: Option<SetKind>,
    /// Where the set stands, for people: a file, a URL.
    origin: Arc<str>,
    set: ArcSwapOption<KeySet>,
}

#[derive(Clone, Copy, Debug)]
struct SetKind {
    secrets: bool,
}

/// A key that a token may be signed with.
pub(in crate::token) struct Candidate<'a> {
    pub(in crate::token) key: &'a Key,
    /// Its name, if it came in a set.
    pub(in crate::token) id: Option<KeyId>,
}

impl KeyStore {
    /// Keys that stay as they are.
    pub fn fixed(ring: KeyRing) -> Self {
        Self { fixed: ring, ..Self::default() }
    }

    /// Keys that stay, and a set that is still to come. `secrets`: whether shared secrets in it count.
    pub fn with_set(issuer: Arc<str>, ring: KeyRing, secrets: bool) -> Self {
        Self { issuer, fixed: ring, fetched: Some(SetKind { secrets }), ..Self::default() }
    }

    /// With the place of its set, for people: a file or a URL.
    #[must_use]
    pub fn set_stands_in(self, origin: impl Into<Arc<str>>) -> Self {
        Self { origin: origin.into(), ..self }
    }

    /// Whether a set belongs to it.
    pub const fn has_set(&self) -> bool {
        self.fetched.is_some()
    }

    /// Puts a set in the place of the one before; it counts until `until`.
    pub fn install(&self, ring: KeyRing, report: JwkSetReport, until: Option<Now>) -> Change {
        let ids = ring.keys.iter().map(|key| KeyId::new(&self.issuer, key)).collect();
        let set = Arc::new(KeySet { ring, ids, report, until });
        let before = self.set.swap(Some(set.clone()));
        change(before.as_deref(), Some(&set))
    }

    /// The same set was seen again: it counts until `until`.
    pub fn extend(&self, until: Option<Now>) {
        if let Some(set) = self.set.load_full() {
            let KeySet { ring, ids, report, .. } = &*set;
            let (ring, ids, report) = (ring.clone(), ids.clone(), report.clone());
            self.set.store(Some(Arc::new(KeySet { ring, ids, report, until })));
        }
    }

    /// Takes over the set of another store of the same issuer.
    pub fn adopt(&self, other: &Self) {
        self.set.store(other.set.load_full());
    }

    /// The keys of its set, whether that still counts or not.
    pub fn ids(&self) -> BTreeSet<KeyId> {
        self.set.load_full().map(|set| set.known()).unwrap_or_default()
    }

    /// The set, if it came and has not become too old.
    pub fn set(&self, now: Now) -> Option<Arc<KeySet>> {
        self.set.load_full().filter(|set| set.counts(now))
    }

    /// The set, whether it still counts or not.
    pub fn last_set(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    /// The keys of the config.
    pub const fn ring(&self) -> &KeyRing {
        &self.fixed
    }

    /// Whether no token can be verified with it at `now`.
    pub fn is_empty(&self, now: Now) -> bool {
        self.fixed.is_empty() && self.set(now).is_none()
    }

    /// How many keys count at `now`.
    pub fn len(&self, now: Now) -> usize {
        self.fixed.keys.len() + self.set(now).map_or(0, |set| set.ring.keys.len())
    }

    /// Whether a newer set could hold the key of a token that none here has signed: the set is not there, or has no key of
    /// the name, or the token names none.
    pub(in crate::token) fn may_come(&self, algorithm: Algorithm, kid: Option<&str>, set: Option<&KeySet>) -> bool {
        let Some(kind) = self.fetched else { return false };
        if algorithm.is_hmac() && !kind.secrets {
            return false;
        }
        match (set, kid) {
            (None, _) => true,
            // A key of this name for another algorithm is an answer.
            (Some(set), Some(kid)) => !set.ring.keys.iter().any(|key| key.kid.as_deref() == Some(kid)),
            // Which of its keys it is signed with, such a token does not say: it may be one of the next set.
            (Some(_), None) => true,
        }
    }

    /// The keys that a token with this algorithm and `kid` may be signed with: those of the config, then those of `set`.
    pub(in crate::token) fn candidates<'a>(
        &'a self,
        set: Option<&'a KeySet>,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = Candidate<'a>> {
        let fixed = self.fixed.candidates(algorithm, kid).map(|(_, key)| Candidate { key, id: None });
        let fetched = set.into_iter().flat_map(move |set| {
            let found = set.ring.candidates(algorithm, kid);
            found.map(|(at, key)| Candidate { key, id: set.ids.get(at).copied().flatten() })
        });
        fixed.chain(fetched)
    }

    /// Every key, in the order in which they are tried.
    pub(in crate::token) fn all<'a>(&'a self, set: Option<&'a KeySet>) -> impl Iterator<Item = &'a Key> {
        self.fixed.keys.iter().chain(set.into_iter().flat_map(|set| &set.ring.keys))
    }

    /// What a key is, for people; never anything of a secret.
    pub(in crate::token) fn describe(&self, key: &Key) -> String {
        key.describe(&self.origin)
    }

    /// Whether there is a key for this algorithm.
    pub(in crate::token) fn allows(&self, set: Option<&KeySet>, algorithm: Algorithm) -> bool {
        self.fixed.allows(algorithm) || set.is_some_and(|set| set.ring.allows(algorithm))
    }
}

impl From<KeyRing> for Arc<KeyStore> {
    fn from(ring: KeyRing) -> Self {
        Self::new(KeyStore::fixed(ring))
    }
}

fn change(before: Option<&KeySet>, after: Option<&KeySet>) -> Change {
    let (before, after) = (before.map(KeySet::known).unwrap_or_default(), after.map(KeySet::known).unwrap_or_default());
    Change {
        added: after.difference(&before).copied().collect(),
        removed: before.difference(&after).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::SetRules;
    use super::super::tests::pairs;
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::default().after(Duration::from_secs(seconds))
    }

    fn key(algorithm: Algorithm, kid: &str) -> Value {
        let mut jwk = pairs().jwk(algorithm);
        jwk["kid"] = kid.into();
        jwk
    }

    fn ring(keys: &[Value]) -> (KeyRing, JwkSetReport) {
        KeyRing::from_jwk_set(json!({ "keys": keys }).to_string().as_bytes(), &SetRules::default()).unwrap()
    }

    fn install(store: &KeyStore, keys: &[Value], until: Option<Now>) -> Change {
        let (ring, report) = ring(keys);
        store.install(ring, report, until)
    }

    fn count(store: &KeyStore, algorithm: Algorithm, kid: Option<&str>, now: Now) -> usize {
        store.candidates(store.set(now).as_deref(), algorithm, kid).count()
    }

    #[test]
    fn a_set_takes_the_place_of_the_one_before_and_says_what_it_changed() {
        let store = KeyStore::with_set("a".into(), KeyRing::default(), false);
        assert!(store.is_empty(at(0)) && store.has_set());
        let first = install(&store, &[key(Algorithm::ES256, "1")], None);
        assert_eq!((first.added.len(), first.removed.len()), (1, 0));
        let renamed = install(&store, &[key(Algorithm::ES256, "2")], None);
        assert_eq!(renamed, Change::default(), "the same key under another name");
        assert_eq!(count(&store, Algorithm::ES256, Some("1"), at(0)), 0);
        assert_eq!(count(&store, Algorithm::ES256, Some("2"), at(0)), 1);
        let rotated = install(&store, &[key(Algorithm::RS256, "3")], None);
        assert_eq!(rotated.removed, first.added);
        assert_eq!(count(&store, Algorithm::ES256, Some("2"), at(0)), 0);

        let other = KeyStore::with_set("b".into(), KeyRing::default(), false);
        assert_ne!(install(&other, &[key(Algorithm::ES256, "1")], None), first, "two issuers never share a key");
    }

    #[test]
    fn a_set_that_is_too_old_counts_no_longer_and_does_again_when_it_was_seen_again() {
        let store = KeyStore::with_set("a".into(), KeyRing::default(), false);
        install(&store, &[key(Algorithm::ES256, "1")], Some(at(10)));
        assert_eq!(count(&store, Algorithm::ES256, Some("1"), at(9)), 1);
        assert!(store.is_empty(at(10)) && store.len(at(10)) == 0);
        store.extend(Some(at(20)));
        assert_eq!(store.len(at(19)), 1);
        assert!(store.is_empty(at(20)));
        for suspended in [Now { wall: at(20).wall, ..at(11) }, Now { mono: at(20).mono, ..at(11) }] {
            assert!(store.is_empty(suspended), "either clock counts");
        }
    }

    #[test]
    fn only_a_key_that_a_newer_set_could_have_is_worth_a_look() {
        let may_come = |store: &KeyStore, algorithm, kid| store.may_come(algorithm, kid, store.set(at(0)).as_deref());
        let store = KeyStore::with_set("a".into(), KeyRing::default(), false);
        assert!(may_come(&store, Algorithm::ES256, None), "nothing was fetched yet");
        assert!(!may_come(&store, Algorithm::HS256, Some("1")), "a shared secret never comes over the network");
        install(&store, &[key(Algorithm::ES256, "1")], None);
        for (algorithm, kid, expected) in [
            (Algorithm::ES256, Some("2"), true),
            (Algorithm::RS256, Some("2"), true),
            (Algorithm::ES256, Some("1"), false),
            (Algorithm::RS256, Some("1"), false),
            (Algorithm::ES256, None, true),
            (Algorithm::HS256, Some("2"), false),
        ] {
            assert_eq!(may_come(&store, algorithm, kid), expected, "{algorithm} {kid:?}");
        }
        assert!(!may_come(&KeyStore::fixed(KeyRing::default()), Algorithm::ES256, Some("2")));
    }
}
