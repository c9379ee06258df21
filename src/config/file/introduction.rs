//! What a route tells its service, as it was typed.

use super::Key;
use crate::config::problem::Placed;
use crate::config::section::Section;

/// What a route tells its service.
#[derive(Debug)]
pub(in crate::config) struct Introduction {
    pub(in crate::config) identity: Vec<(Placed<String>, Identity)>,
    pub(in crate::config) pass_token: Key<bool>,
    pub(in crate::config) credential_file: Key<String>,
    pub(in crate::config) credential_header: Key<String>,
}

/// One of `identity`.
#[derive(Debug)]
pub(in crate::config) struct Identity {
    pub(in crate::config) claim: Key<String>,
    pub(in crate::config) list: Key<String>,
    pub(in crate::config) separator: Key<String>,
    pub(in crate::config) encoding: Key<String>,
}

pub(super) fn introduction(s: &mut Section<'_>) -> Introduction {
    let name = |name| Identity { claim: Some(name), list: None, separator: None, encoding: None };
    Introduction {
        identity: s.named("identity", "route.identity.*", "a claim", "{ \"X-User\" = \"sub\" }", name, claim),
        pass_token: s.boolean("pass_token"),
        credential_file: s.secret_source("upstream_credential_file", "\"certs/upstream.credential\""),
        credential_header: s.text("upstream_credential_header", "\"Authorization\""),
    }
}

fn claim(mut s: Section<'_>) -> Identity {
    let claim = Identity {
        claim: s.needed("claim", "\"sub\""),
        list: s.text("list", "\"join\""),
        separator: s.text("separator", "\",\""),
        encoding: s.text("encoding", "\"percent\""),
    };
    s.finish();
    claim
}
