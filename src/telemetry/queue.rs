//! The queue between those who log and standard error, with a thread of its own that writes.
//!
//! Whoever logs never waits: standard error may be a pipe that nobody reads, and a stream must end on time all the same.
//! What the queue cannot hold is lost and counted; the count is told once there is room again. Called by `log`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The queue. Clones are the same queue.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a line to write.
    filled: Condvar,
    /// All lines are written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines lost since that was last told.
    lost: u64,
    /// Whether the thread is at a line that it took off the queue.
    writing: bool,
}

impl Queue {
    /// Starts the thread that writes to `out`. It ends with the process.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Self::default();
        let thread = queue.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || thread.drain(out))?;
        Ok(queue)
    }

    /// Waits until all is written, for at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        // Nothing is left to be done with what was not written in time.
        drop(self.0.emptied.wait_timeout_while(self.state(), limit, busy));
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.lines.len() >= MAX_LINES || state.bytes.saturating_add(line.len()) > MAX_BYTES {
            state.lost = state.lost.saturating_add(1);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        self.0.filled.notify_one();
    }

    fn drain(&self, mut out: impl Write) {
        let mut since = 0;
        loop {
            let (line, lost) = self.next(since >= TELL_EVERY);
            // There is nobody to tell that standard error is gone.
            let _ = out.write_all(&line).and_then(|()| out.flush());
            since = if lost > 0 { 0 } else { since.saturating_add(1) };
            if lost > 0 {
                let told =
                    Told::hear(|| tracing::warn!(lost, "log lines were lost: they came faster than they were taken"));
                let _ = out.write_all(&told).and_then(|()| out.flush());
            }
            let mut state = self.state();
            state.writing = false;
            if state.lines.is_empty() {
                self.0.emptied.notify_all();
            }
        }
    }

    /// Waits for the next line. With it comes how many were lost, if that is to be told now: when it is the last line, or
    /// `overdue`.
    fn next(&self, overdue: bool) -> (Vec<u8>, u64) {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes = state.bytes.saturating_sub(line.len());
                state.writing = true;
                let tell = overdue || state.lines.is_empty();
                let lost = if tell { std::mem::take(&mut state.lost) } else { 0 };
                return (line, lost);
            }
            state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line on its way into the queue.
pub struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !Told::catch(line) {
            self.0.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// What the writing thread itself logs does not go through the queue, where it might be lost too.
struct Told;

impl Told {
    /// The lines that this thread logs in `log`.
    fn hear(log: impl FnOnce()) -> Vec<u8> {
        HEARD.set(Some(Vec::new()));
        log();
        HEARD.take().unwrap_or_default()
    }

    /// Whether `line` was heard by [`Told::hear`].
    fn catch(line: &[u8]) -> bool {
        let heard = HEARD.take();
        let caught = heard.is_some();
        HEARD.set(heard.map(|mut heard| {
            heard.extend_from_slice(line);
            heard
        }));
        caught
    }
}

thread_local! {
    static HEARD: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

/// Lines that may wait.
const MAX_LINES: usize = 8192;
/// Bytes that may wait.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Lines after which a loss is told at the latest.
const TELL_EVERY: u32 = 1024;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a line each time it is allowed to.
    struct Slow(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_wait_in_order_within_bounds_and_those_too_many_are_counted() {
        let (go, allowed) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let queue = Queue::start(Slow(allowed, written.clone())).unwrap();
        for line in 0..MAX_LINES + 100 {
            queue.push(format!("{line}\n").as_bytes());
        }
        queue.flush(Duration::from_millis(10));
        let lost = queue.state().lost;
        assert!((99..=100).contains(&lost), "{lost} lost; one may be with the writer");
        queue.push(&vec![b'x'; MAX_BYTES]);
        assert_eq!(queue.state().lost, lost + 1);
        drop(go);
        queue.flush(Duration::from_secs(10));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let expected: Vec<String> = (0..text.lines().count()).map(|line| line.to_string()).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert_eq!(text.lines().count() as u64 + lost, MAX_LINES as u64 + 100);
        assert_eq!(queue.state().lost, 0, "what was lost was told");
    }
}
