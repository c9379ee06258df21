//! The judge of a route, which waits for a key that is not known yet.

use std::sync::Arc;

use super::Source;
use super::source::Round;
use crate::clock::Now;
use crate::secret::Token;
use crate::token::verify::{Refusal, Verifier};
use crate::token::{Answer, Denial, Grant, Judge, Public, Purpose};

/// Judges by the keys that are known. A token that names one which is not, has the issuer asked once, if the time for that
/// has come, and is judged again by what was found; for every purpose alike. The one who asks bounds the wait.
#[derive(Debug)]
pub struct Waiting {
    verifier: Arc<Verifier>,
    sources: Vec<Arc<Source>>,
}

impl Waiting {
    /// A judge with the sources of the verifier's issuers.
    pub fn new(verifier: Arc<Verifier>, sources: &[Arc<Source>]) -> Self {
        let own = |source: &&Arc<Source>| verifier.issuers.iter().any(|issuer| issuer.name == *source.issuer());
        let sources = sources.iter().filter(own).cloned().collect();
        Self { verifier, sources }
    }

    /// The verdict, when `rounds` have ended.
    async fn again(&self, token: &Token, rounds: Vec<(Arc<Source>, Round)>, now: Now) -> Result<Grant, Denial> {
        let (mut fetched, mut time) = (true, now);
        for (source, round) in rounds {
            fetched &= round.ended().await;
            time = source.now().unwrap_or(time);
        }
        self.verifier.attempt(token, time).map_err(|refusal| match refusal {
            Refusal::UnknownKey { denial, .. } if !fetched => Denial::new(
                Public::IssuerUnavailable,
                "keys_unavailable",
                format!("{}; and the issuer's key set cannot be fetched now", denial.detail),
            ),
            refusal => refusal.into_denial(),
        })
    }
}

impl Judge for Waiting {
    fn judge<'a>(&'a self, token: &'a Token, _purpose: Purpose, now: Now) -> Answer<'a> {
        let (denial, issuers, kid) = match self.verifier.attempt(token, now) {
            Ok(grant) => return Answer::Ready(Ok(grant)),
            Err(Refusal::Denied(denial)) => return Answer::Ready(Err(denial)),
            Err(Refusal::UnknownKey { denial, issuers, kid }) => (denial, issuers, kid),
        };
        let asked = issuers.iter().filter_map(|issuer| {
            let source = self.sources.iter().find(|source| *source.issuer() == issuer.name)?;
            Some((source.clone(), source.ask(kid.as_deref(), now.mono)?))
        });
        let rounds: Vec<_> = asked.collect();
        if rounds.is_empty() {
            return Answer::Ready(Err(denial));
        }
        Answer::Later(Box::pin(self.again(token, rounds, now)))
    }
}
