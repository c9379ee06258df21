//! How the story looks in a terminal: one aligned line per step, short enough for a terminal of 80 columns, colour only where it is
//! welcome.

use std::io::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};

/// Writes the story, and counts what did not come out as expected.
pub(super) struct Printer<W> {
    out: W,
    steps: usize,
    failed: usize,
}

impl<W: Write> Printer<W> {
    /// A printer to `out`, which takes out the colours if they are not wanted there.
    pub(super) fn new(out: W) -> Self {
        Self { out, steps: 0, failed: 0 }
    }

    /// The head of a part of the story.
    pub(super) fn heading(&mut self, text: &str) {
        let bold = Style::new().bold();
        self.line(&format!("\n{bold}{text}{bold:#}"));
    }

    /// A plain line.
    pub(super) fn text(&mut self, text: &str) {
        self.line(text);
    }

    /// A name and what it stands for.
    pub(super) fn entry(&mut self, name: &str, text: &str) {
        self.line(&format!("  {name:<10} {text}"));
    }

    /// Something that happened, `at` after the token was issued, and that is nobody's success or failure.
    pub(super) fn note(&mut self, at: Duration, who: &str, text: &str) {
        let dim = Style::new().dimmed();
        self.line(&format!("    {dim}{}{dim:#}  {who:<9} {text}", stamp(at)));
    }

    /// A step that either came out as expected or did not.
    pub(super) fn step(&mut self, good: bool, at: Duration, who: &str, text: &str) {
        self.count(good);
        let dim = Style::new().dimmed();
        self.line(&format!("  {} {dim}{}{dim:#}  {who:<9} {text}", mark(good), stamp(at)));
    }

    /// A step without a time.
    pub(super) fn check(&mut self, good: bool, name: &str, text: &str) {
        self.count(good);
        self.line(&format!("  {} {name:<18} {text}", mark(good)));
    }

    /// The last line; true if every step came out as expected.
    pub(super) fn verdict(&mut self) -> bool {
        let (steps, failed) = (self.steps, self.failed);
        if failed == 0 && steps > 0 {
            self.line(&format!("\n{GOOD}All {steps} steps came out as expected.{GOOD:#}"));
        } else {
            self.line(&format!("\n{BAD}{failed} of {steps} steps did not come out as expected.{BAD:#}"));
        }
        failed == 0 && steps > 0
    }

    fn count(&mut self, good: bool) {
        self.steps = self.steps.saturating_add(1);
        self.failed = self.failed.saturating_add(usize::from(!good));
    }

    fn line(&mut self, text: &str) {
        // A reader that has gone away is no reason to stop the exchange; the exit code still tells how it went.
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }
}

fn mark(good: bool) -> String {
    if good { format!("{GOOD}✓{GOOD:#}") } else { format!("{BAD}✗{BAD:#}") }
}

/// `+ 0.000 s`.
fn stamp(at: Duration) -> String {
    format!("+{:>6.3} s", at.as_secs_f64())
}

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stand_in_columns_and_one_failure_fails_the_whole() {
        let mut out = anstream::StripStream::new(Vec::new());
        let mut printer = Printer::new(&mut out);
        printer.step(true, Duration::ZERO, "issuer", "a token");
        printer.note(Duration::from_millis(10_003), "clock", "it expires");
        printer.step(false, Duration::from_millis(120_003), "gateway", "late");
        assert!(!printer.verdict());
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert_eq!(
            text,
            "  ✓ + 0.000 s  issuer    a token\n    +10.003 s  clock     it expires\n  ✗ +120.003 s  gateway   late\n\
             \n1 of 2 steps did not come out as expected.\n"
        );
    }

    #[test]
    fn a_story_without_steps_is_no_success() {
        assert!(!Printer::new(Vec::new()).verdict());
    }
}
