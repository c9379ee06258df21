//! Live streams beside forged tokens: what those who are in feel of those who are kept out, and what keeping them out costs.
//!
//! Everything is an open loop: messages and forgeries are due at fixed times, and latency counts from then. A calm stretch of the
//! same length comes first, so that there is something to hold the other against.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::clock::Mono;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoint::{Endpoint, ISSUER};
use crate::expiry::quantiles;
use crate::histogram::Histogram;
use crate::run::{Plan, Run, measure, rounded};
use crate::usage::{self, Cpu};
use crate::verbs::{Pacer, QUEUE, Report, asked, echo_when_due};

/// How many streams and forgeries.
pub struct Forgery {
    pub streams: u32,
    /// Messages a second, over all streams.
    pub rate: u32,
    /// Bytes of a message.
    pub size: usize,
    /// Forged tokens a second.
    pub forged: u32,
    /// How many of a hundred of them name a key that is not there.
    pub unknown: u32,
}

/// What became of the forgeries.
#[derive(Default)]
struct Tally {
    /// When the first was due.
    since: Option<Mono>,
    /// Answered with 401, or, where a key is not known, with 503.
    refused: u64,
    took: Histogram,
    /// Answered with anything else, or not at all.
    otherwise: u64,
    first_otherwise: Option<String>,
    /// CPU time of the calm stretch, and of the other.
    calm: Stretch,
    busy: Stretch,
}

/// What a stretch of time cost the proxy.
#[derive(Clone, Copy, Default)]
struct Stretch {
    cpu: Cpu,
    seconds: f64,
}

/// A live stream, or the one who shows forged tokens.
type Worker = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// `plan.window` is the length of each of the two stretches.
pub async fn forge(endpoint: Endpoint, plan: &Plan, how: Forgery) -> Report {
    let forger = Forger::new(&endpoint, how.unknown)?;
    let (run, endpoint, tally) = (Run::new(), Rc::new(endpoint), Rc::new(RefCell::new(Tally::default())));
    run.keep_samples(true);
    let streams = how.streams.min(how.rate);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..streams).map(|_| mpsc::channel(QUEUE)).unzip();
    let pacer = Pacer::start(run.clock().clone(), how.rate, senders);
    let mut workers: Vec<Worker> = Vec::new();
    for (seed, due) in (0..).zip(receivers) {
        let (run, endpoint, size) = (run.clone(), endpoint.clone(), how.size);
        workers.push(Box::pin(async move { echo_when_due(&endpoint, &run, size, seed, due).await }));
    }
    let stretch = |count| Plan { window: plan.window * count, most: u64::MAX, processes: plan.processes.clone() };
    workers.push(Box::pin(show_all(run.clone(), endpoint, tally.clone(), forger, how.forged, stretch(1))));
    let (whole, closed) = measure(&run, &stretch(2), "forge", workers).await?;
    drop(pacer);

    let tally = tally.borrow();
    let Some((start, end)) = run.window() else { return Ok((whole, closed.max(1))) };
    let since = tally.since.unwrap_or(end);
    let (calm, busy) = (run.latencies(start, since), run.latencies(since, end));
    let sent = tally.refused + tally.otherwise;
    let echoes = calm.count().min(busy.count());
    let slow = echoes < asked(how.rate, plan.window) || sent < asked(how.forged, plan.window);
    let first = whole.get("first_error").filter(|error| !error.is_null()).cloned();
    let first = first.or(tally.first_otherwise.clone().map(Value::from));
    let first = first.or(slow.then(|| "the rate was not reached: what was due and not sent is in no quantile".into()));
    let errors = closed + tally.otherwise + u64::from(slow);
    let report = json!({
        "verb": "forge",
        "streams": streams,
        "seconds": rounded(plan.window.as_secs_f64()),
        "errors": errors,
        "first_error": first,
        "closed": closed,
        "calm_ms": quantiles(&calm),
        "forged_ms": quantiles(&busy),
        "refused": tally.refused,
        "otherwise": tally.otherwise,
        "refused_ms": quantiles(&tally.took),
        "calm_cpu_s": rounded(tally.calm.cpu.total()),
        "forged_cpu_s": rounded(tally.busy.cpu.total()),
        "cpu_us_each": rounded(tally.cpu_each() * 1e6),
    });
    Ok((report, errors))
}

impl Tally {
    /// Seconds of CPU time that each refusal cost beside what the streams cost anyway.
    #[allow(clippy::cast_precision_loss)] // counts far below 2^52
    fn cpu_each(&self) -> f64 {
        let anyway = self.calm.cpu.total() / self.calm.seconds.max(f64::EPSILON) * self.busy.seconds;
        (self.busy.cpu.total() - anyway) / self.refused.max(1) as f64
    }

    fn note(&mut self, answer: anyhow::Result<u16>, took: Duration) {
        match answer {
            // 503: a key of that name could not be looked for just now.
            Ok(401 | 503) => {
                self.refused += 1;
                self.took.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            other => {
                self.otherwise += 1;
                self.first_otherwise.get_or_insert_with(|| match other {
                    Ok(status) => format!("a forged token was answered with {status}"),
                    Err(error) => format!("a forged token was not answered: {error:#}"),
                });
            }
        }
    }
}

/// Lets the calm stretch pass, and shows forged tokens for the rest.
async fn show_all(
    run: Rc<Run>,
    endpoint: Rc<Endpoint>,
    tally: Rc<RefCell<Tally>>,
    forger: Forger,
    rate: u32,
    Plan { window: calm, processes, .. }: Plan,
) -> anyhow::Result<()> {
    run.ready();
    while run.window().is_none() && run.goes_on() {
        sleep(Duration::from_millis(1)).await;
    }
    let Some((start, _)) = run.window() else { return Ok(()) };
    let before = usage::cpu(&processes);
    sleep(start.saturating_add(calm).saturating_since(run.now())).await;
    let (began, between) = (run.now(), usage::cpu(&processes));
    {
        let mut tally = tally.borrow_mut();
        let seconds = began.saturating_since(start).as_secs_f64();
        tally.since = Some(began);
        tally.calm = Stretch { cpu: between.since(before), seconds };
    }
    let (sender, mut due) = mpsc::channel(QUEUE);
    let pacer = Pacer::start(run.clock().clone(), rate, vec![sender]);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut under_way = JoinSet::new();
    for number in 0.. {
        let place = places.clone().acquire_owned().await?;
        let (Some(due), true) = (due.recv().await, run.goes_on()) else { break };
        let (run, endpoint, tally, token) = (run.clone(), endpoint.clone(), tally.clone(), forger.token(number));
        under_way.spawn_local(async move {
            let answer = timeout(PATIENCE, endpoint.status("/", &token)).await.context("no answer in time");
            let took = run.now().saturating_since(due);
            tally.borrow_mut().note(answer.and_then(|answer| answer), took);
            drop(place);
        });
        while under_way.try_join_next().is_some() {}
    }
    drop((due, pacer));
    while under_way.join_next().await.is_some() {}
    let seconds = run.now().saturating_since(began).as_secs_f64();
    tally.borrow_mut().busy = Stretch { cpu: usage::cpu(&processes).since(between), seconds };
    Ok(())
}

/// Makes tokens that look right and are not.
struct Forger {
    /// Headers and signatures of good tokens.
    good: Vec<(String, String)>,
    algorithm: String,
    unknown: u32,
}

impl Forger {
    fn new(endpoint: &Endpoint, unknown: u32) -> anyhow::Result<Self> {
        let good = endpoint.tokens().iter().filter_map(|token| {
            let (signed, signature) = token.rsplit_once('.')?;
            Some((signed.split_once('.')?.0.to_owned(), signature.to_owned()))
        });
        let good: Vec<_> = good.collect();
        let Some((header, _)) = good.first() else { bail!("name the key of the live streams' tokens with --key") };
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header)?)?;
        let algorithm = header.get("alg").and_then(Value::as_str).context("alg")?.to_owned();
        if !header.get("kid").is_some_and(Value::is_string) {
            bail!("say how tokens name their key with --kid");
        }
        Ok(Self { good, algorithm, unknown })
    }

    /// The forgery of this number: claims that nobody has signed, under a good token's signature and header, or under a header
    /// that names another key each time. So all of a signature's check is done, if there is a key to check it with.
    fn token(&self, number: u64) -> String {
        let at = usize::try_from(number).unwrap_or_default().checked_rem(self.good.len());
        let (header, signature) = at.and_then(|at| self.good.get(at)).cloned().unwrap_or_default();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = if self.names_another_key(number) {
            part(json!({"typ": "JWT", "alg": self.algorithm, "kid": format!("{:032x}", rand::random::<u128>())}))
        } else {
            header
        };
        let claims = json!({"iss": ISSUER, "aud": "ws", "sub": format!("forger-{number}"), "exp": FAR});
        format!("{header}.{}.{signature}", part(claims))
    }

    /// So many of a hundred, spread evenly.
    fn names_another_key(&self, number: u64) -> bool {
        let so_far = |number: u64| number.wrapping_mul(u64::from(self.unknown)) / 100;
        so_far(number) != so_far(number + 1)
    }
}

/// Late in this century; whoever looks at it has believed the signature.
const FAR: u64 = 4_000_000_000;
/// Forgeries that are under way at a time: then they wait, and the wait counts as latency.
const AT_ONCE: usize = 2_000;
/// How long one answer may take; less than a run waits for what is under way at its end.
const PATIENCE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgery_has_a_good_header_or_another_key_and_never_its_own_signature() {
        let good = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.e30.c2ln".to_owned();
        let endpoint = Endpoint::new(1, None, false, vec![good], None).unwrap();
        let forger = Forger::new(&endpoint, 30).unwrap();
        let headers: Vec<Value> = (0..100)
            .map(|number| {
                let token = forger.token(number);
                let parts: Vec<&str> = token.split('.').collect();
                assert_eq!((parts.len(), parts[2]), (3, "c2ln"));
                assert_ne!(parts[1], "e30");
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap()
            })
            .collect();
        assert!(headers.iter().all(|header| header["alg"] == "RS256"));
        assert_eq!(headers.iter().filter(|header| header["kid"] != "k").count(), 30);
    }

    #[test]
    fn whoever_has_no_key_or_no_name_for_it_is_told() {
        let none = Endpoint::new(1, None, false, Vec::new(), None).unwrap();
        assert!(Forger::new(&none, 50).is_err());
        let unnamed = Endpoint::new(1, None, false, vec!["eyJhbGciOiJSUzI1NiJ9.e30.c2ln".to_owned()], None).unwrap();
        assert!(Forger::new(&unnamed, 50).is_err());
    }
}
