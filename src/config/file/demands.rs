//! What tokens must have, as it was typed.

use super::{Key, List};
use crate::config::problem::Placed;
use crate::config::section::{Scalar, Section};

/// What tokens must have, by their issuer or by the route.
#[derive(Debug)]
pub(in crate::config) struct Demands {
    pub(in crate::config) scope: Key<List>,
    pub(in crate::config) required_claims: Vec<RequiredClaim>,
}

/// One of `required_claims`.
#[derive(Debug)]
pub(in crate::config) struct RequiredClaim {
    pub(in crate::config) claim: Key<String>,
    pub(in crate::config) equals: Key<Scalar>,
    pub(in crate::config) any_of: Key<Vec<Placed<Scalar>>>,
}

pub(super) fn demands(s: &mut Section<'_>, path: &'static str) -> Demands {
    let name = |claim| RequiredClaim { claim: Some(claim), equals: None, any_of: None };
    let example = "[\"sub\", { claim = \"tier\", any_of = [\"gold\", 2] }]";
    Demands {
        scope: s.texts("scope", "[\"chat\"]"),
        required_claims: s.texts_or_tables("required_claims", path, "a required claim", example, name, required_claim),
    }
}

fn required_claim(mut s: Section<'_>) -> RequiredClaim {
    let required = RequiredClaim {
        claim: s.needed("claim", "\"/realm_access/roles\""),
        equals: s.scalar("equals", "\"admin\""),
        any_of: s.scalars("any_of", "[\"gold\", 2]"),
    };
    s.finish();
    required
}
