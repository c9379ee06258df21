//! Which keys an issuer has taken back. Pure.
//!
//! A key ends streams only when it was missing at two looks in a row: of a set that several machines serve, one may be out of
//! step with the others for a moment.

use std::collections::BTreeSet;

use crate::token::keys::KeyId;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// What streams may rest on: what was shown at the last look, and what is missing for the first time.
    known: BTreeSet<KeyId>,
    missing: BTreeSet<KeyId>,
}

impl Ledger {
    /// The issuer shows these keys now. Which ones it has taken back; `sure`: one look is enough.
    pub(super) fn look(&mut self, shown: &BTreeSet<KeyId>, sure: bool) -> Vec<KeyId> {
        let gone = self.known.difference(shown).copied();
        let (back, missing): (Vec<KeyId>, BTreeSet<KeyId>) = {
            let (back, missing): (Vec<KeyId>, Vec<KeyId>) = gone.partition(|key| sure || self.missing.contains(key));
            (back, missing.into_iter().collect())
        };
        self.known = shown.union(&missing).copied().collect();
        self.missing = missing;
        back
    }

    /// Whether a second look is due.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::keys::{KeyRing, KeyStore, SetRules};

    fn keys() -> Vec<KeyId> {
        let json = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
        let (ring, report) = KeyRing::from_jwk_set(json.as_bytes(), &SetRules::default()).unwrap();
        let store = KeyStore::with_set("a".into(), KeyRing::default(), false);
        store.install(ring, report, None);
        store.ids().into_iter().collect()
    }

    #[test]
    fn a_key_is_taken_back_when_it_was_missing_twice_in_a_row() {
        let keys = keys();
        let (both, one) = (keys.iter().copied().collect(), BTreeSet::from([keys[0]]));
        let mut ledger = Ledger::default();
        assert!(ledger.look(&both, false).is_empty());
        assert!(ledger.look(&one, false).is_empty() && ledger.is_in_doubt());
        assert!(ledger.look(&both, false).is_empty() && !ledger.is_in_doubt(), "it was one machine's slip");
        assert!(ledger.look(&one, false).is_empty());
        assert_eq!(ledger.look(&one, false), [keys[1]]);
        assert!(ledger.look(&one, false).is_empty() && !ledger.is_in_doubt(), "it is told once");
    }

    #[test]
    fn of_a_file_one_look_is_enough() {
        let keys = keys();
        let mut ledger = Ledger::default();
        ledger.look(&keys.iter().copied().collect(), true);
        assert_eq!(ledger.look(&BTreeSet::new(), true), keys);
    }
}
