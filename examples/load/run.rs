//! One run: its workers, the stretch of it that is measured, and the report.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use portcullis::clock::{Clock, Mono};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::histogram::Histogram;
use crate::usage::{self, Cpu};

/// How long, how much, and whose costs.
pub struct Plan {
    /// The stretch that is measured.
    pub window: Duration,
    /// It ends early after this many messages.
    pub most: u64,
    /// Processes whose costs count.
    pub processes: Vec<u32>,
}

/// What the workers of a run share.
pub struct Run {
    clock: Clock,
    ready: Cell<u32>,
    stage: Cell<Stage>,
    /// Messages that were due in this time have their latency recorded, however late they come.
    window: Cell<Option<(Mono, Mono)>>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    latency: RefCell<Histogram>,
    /// Each message's due time and latency, if that was asked for.
    samples: RefCell<Option<Vec<(Mono, Duration)>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    WarmUp,
    Measured,
    Over,
}

impl Run {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            clock: Clock::system(),
            ready: Cell::new(0),
            stage: Cell::new(Stage::WarmUp),
            window: Cell::new(None),
            messages: Cell::new(0),
            bytes: Cell::new(0),
            errors: Cell::new(0),
            first_error: RefCell::new(None),
            latency: RefCell::new(Histogram::new()),
            samples: RefCell::new(None),
        })
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn now(&self) -> Mono {
        self.clock.now().mono
    }

    /// A worker has its connection.
    pub fn ready(&self) {
        self.ready.set(self.ready.get() + 1);
    }

    /// Whether workers go on.
    pub fn goes_on(&self) -> bool {
        self.stage.get() != Stage::Over
    }

    /// A message of `bytes` came back as it should, which had been due at `due`.
    pub fn done(&self, bytes: usize, due: Mono) {
        if self.stage.get() == Stage::Measured {
            self.messages.set(self.messages.get() + 1);
            self.bytes.set(self.bytes.get() + bytes as u64);
        }
        if self.window.get().is_some_and(|(start, end)| (start..end).contains(&due)) {
            let took = self.now().saturating_since(due);
            self.latency.borrow_mut().record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            if let Some(samples) = &mut *self.samples.borrow_mut() {
                samples.push((due, took));
            }
        }
    }

    /// Has every latency kept, or none.
    pub fn keep_samples(&self, keep: bool) {
        *self.samples.borrow_mut() = keep.then(Vec::new);
    }

    /// The stretch that is measured, once it has begun.
    pub fn window(&self) -> Option<(Mono, Mono)> {
        self.window.get()
    }

    /// The latencies of what was due from `from` until `to`, if they were kept.
    pub fn latencies(&self, from: Mono, to: Mono) -> Histogram {
        let mut latencies = Histogram::new();
        for (_, took) in self.samples.borrow().iter().flatten().filter(|(due, _)| (from..to).contains(due)) {
            latencies.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        latencies
    }

    /// A line for each message in the stretch that is measured: when it was due (Unix time) and what it took, both in
    /// microseconds.
    pub fn samples(&self) -> String {
        let now = self.clock.now();
        let mut lines = String::new();
        for (due, took) in self.samples.borrow().iter().flatten() {
            let due = now.wall.since_epoch().saturating_sub(now.mono.saturating_since(*due));
            // Writing to a String does not fail.
            let _ = writeln!(lines, "{} {}", due.as_micros(), took.as_micros());
        }
        lines
    }

    pub fn fail(&self, error: &anyhow::Error) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
    }

    /// Messages in the stretch that is measured.
    pub fn messages(&self) -> u64 {
        self.messages.get()
    }

    pub fn errors(&self) -> u64 {
        self.errors.get()
    }
}

/// What was measured.
struct Measured {
    seconds: f64,
    cpu: Cpu,
}

/// Runs `workers` (which call [`Run::ready`] once each) and measures a stretch of it. `unit` is the report's word for
/// what they do.
pub async fn measure<W>(run: &Rc<Run>, plan: &Plan, unit: &str, workers: Vec<W>) -> anyhow::Result<(Value, u64)>
where
    W: Future<Output = anyhow::Result<()>> + 'static,
{
    if let Some(pid) = usage::missing(&plan.processes) {
        bail!("there is no process {pid}");
    }
    let wanted = u32::try_from(workers.len())?;
    let mut tasks = JoinSet::new();
    for worker in workers {
        let run = run.clone();
        tasks.spawn_local(async move {
            if let Err(error) = worker.await {
                run.fail(&error);
            }
        });
    }
    let opened = timeout(OPENING, async {
        while run.ready.get() < wanted && run.errors() == 0 {
            sleep(TICK).await;
        }
    });
    if opened.await.is_err() {
        run.fail(&anyhow::anyhow!("only {} of {wanted} connections in time", run.ready.get()));
    }
    let measured =
        if run.errors() == 0 { window(run, plan).await } else { Measured { seconds: 0.0, cpu: Cpu::default() } };
    run.stage.set(Stage::Over);
    let ended = timeout(ENDING, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        run.fail(&anyhow::anyhow!("{} connections still waited for an answer at the end", tasks.len()));
    }
    tasks.abort_all();
    Ok((report(run, unit, &measured), run.errors()))
}

async fn window(run: &Run, plan: &Plan) -> Measured {
    sleep(WARM_UP).await;
    let before = usage::cpu(&plan.processes);
    let start = run.now();
    run.window.set(Some((start, start.saturating_add(plan.window))));
    run.stage.set(Stage::Measured);
    while run.now().saturating_since(start) < plan.window && run.messages.get() < plan.most {
        sleep(TICK.min(plan.window)).await;
    }
    let end = run.now();
    run.window.set(Some((start, end.min(start.saturating_add(plan.window)))));
    run.stage.set(Stage::Over);
    Measured { seconds: end.saturating_since(start).as_secs_f64(), cpu: usage::cpu(&plan.processes).since(before) }
}

#[allow(clippy::cast_precision_loss)] // counts far below 2^52
fn report(run: &Run, unit: &str, measured: &Measured) -> Value {
    let (messages, bytes) = (run.messages.get() as f64, run.bytes.get() as f64);
    let per = |amount: f64, by: f64| if by > 0.0 { rounded(amount / by) } else { Value::Null };
    let latency = run.latency.borrow();
    json!({
        "verb": unit,
        "seconds": rounded(measured.seconds),
        "count": run.messages.get(),
        "bytes": run.bytes.get(),
        "errors": run.errors(),
        "first_error": *run.first_error.borrow(),
        "per_second": per(messages, measured.seconds),
        "mb_per_second": per(bytes / 1e6, measured.seconds),
        "p50_us": latency.quantile(0.5),
        "p99_us": latency.quantile(0.99),
        "p999_us": latency.quantile(0.999),
        "cpu_user_s": rounded(measured.cpu.user),
        "cpu_system_s": rounded(measured.cpu.system),
        "cpu_us_each": per(measured.cpu.total() * 1e6, messages),
        "cpu_user_us_each": per(measured.cpu.user * 1e6, messages),
        "cpu_s_per_gb": per(measured.cpu.total(), bytes / 1e9),
    })
}

/// With as many digits as are worth printing.
pub fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// How long the connections of a run may take to open.
const OPENING: Duration = Duration::from_secs(60);
/// How long what is under way may take to end.
const ENDING: Duration = Duration::from_secs(5);
/// What is left out before the stretch that is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(5);
