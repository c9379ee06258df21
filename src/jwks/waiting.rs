//! The judge of a route, which waits for a key that is not known yet.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Source;
use super::source::{Answer as Asked, Round};
use crate::clock::Now;
use crate::secret::Token;
use crate::token::verify::{Refusal, Verifier};
use crate::token::{Answer, Denial, Grant, Judge, Public, Purpose};

/// Judges by the keys that are known. A token that names one which is not, has the issuer asked once, if the time for that
/// has come, and is judged again by what was found; for every purpose alike. The one who asks bounds the wait.
///
/// That a token is bad is said only if that is known: of a key that could not be looked for, it is said that the issuer is not
/// at hand, because clients give up on a token that is bad.
#[derive(Debug)]
pub struct Waiting {
    verifier: Arc<Verifier>,
    sources: Vec<Arc<Source>>,
}

/// The sources that were asked.
#[derive(Default)]
struct Question {
    rounds: Vec<(Arc<Source>, Round)>,
    /// One of them could not be asked.
    unasked: bool,
}

impl Question {
    fn ask(&mut self, source: &Arc<Source>, kid: Option<&str>, now: Now) {
        match source.ask(kid, now.mono) {
            Asked::Round(round) => self.rounds.push((source.clone(), round)),
            Asked::NotNow => self.unasked = true,
            Asked::NoSuchKey => {}
        }
    }
}

impl Waiting {
    /// A judge with the sources of the verifier's issuers.
    pub fn new(verifier: Arc<Verifier>, sources: &[Arc<Source>]) -> Self {
        let own = |source: &&Arc<Source>| verifier.issuers.iter().any(|issuer| issuer.name == *source.issuer());
        let sources = sources.iter().filter(own).cloned().collect();
        Self { verifier, sources }
    }

    /// The verdict, as soon as one of the rounds gives it. What had begun before the question is asked once more.
    async fn verdict(
        &self,
        token: &Token,
        kid: Option<Box<str>>,
        first: Question,
        mut denial: Denial,
    ) -> Result<Grant, Denial> {
        let mut question = first;
        let mut unsure = question.unasked;
        for turn in 0..TURNS {
            let mut rounds: FuturesUnordered<_> = std::mem::take(&mut question.rounds)
                .into_iter()
                .map(|(source, round)| async move { (source, round.late, round.ended().await) })
                .collect();
            while let Some((source, late, good)) = rounds.next().await {
                // It runs, or it could not have been asked.
                let Some(now) = source.now() else { continue };
                match self.verifier.attempt(token, now) {
                    Ok(grant) => return Ok(grant),
                    Err(Refusal::Denied(denial)) => return Err(denial),
                    Err(Refusal::UnknownKey { denial: same, .. }) => denial = same,
                }
                unsure |= !good;
                if good && late {
                    if turn + 1 < TURNS {
                        question.ask(&source, kid.as_deref(), now);
                    } else {
                        unsure = true;
                    }
                }
            }
            unsure |= question.unasked;
            if question.rounds.is_empty() {
                break;
            }
        }
        Err(told(denial, unsure && kid.is_some()))
    }
}

/// The denial of a token whose key is not known; `unsure`: it names one, which could not be looked for. One that names none
/// is signed by none of the keys that are there, and that much is known.
fn told(denial: Denial, unsure: bool) -> Denial {
    if !unsure || denial.public == Public::IssuerUnavailable {
        return denial;
    }
    let detail = format!("{}; and the issuer cannot be asked for it now", denial.detail);
    Denial::new(Public::IssuerUnavailable, "keys_unavailable", detail)
}

impl Judge for Waiting {
    fn judge<'a>(&'a self, token: &'a Token, _purpose: Purpose, now: Now) -> Answer<'a> {
        let (denial, issuers, kid) = match self.verifier.attempt(token, now) {
            Ok(grant) => return Answer::Ready(Ok(grant)),
            Err(Refusal::Denied(denial)) => return Answer::Ready(Err(denial)),
            Err(Refusal::UnknownKey { denial, issuers, kid }) => (denial, issuers, kid),
        };
        let mut question = Question::default();
        for source in self.sources.iter().filter(|source| issuers.iter().any(|issuer| issuer.name == *source.issuer()))
        {
            question.ask(source, kid.as_deref(), now);
        }
        if question.rounds.is_empty() {
            return Answer::Ready(Err(told(denial, question.unasked && kid.is_some())));
        }
        Answer::Later(Box::pin(self.verdict(token, kid, question, denial)))
    }
}

/// How often the sources are asked for one token.
const TURNS: usize = 2;
