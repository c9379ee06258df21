//! Mistakes in the config: gathered in one run, each shown with its place and its remedy.
//!
//! Owns how a problem looks. Finding problems is the part of the other files of `config`; printing them is the part of
//! the command line.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::backend::printable;

/// Where a value was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Bytes of the config file.
    File(Range<usize>),
    /// The environment variable of this name.
    Env(String),
    /// The config file as a whole.
    Whole,
}

/// A value and where it was typed.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it was typed.
    pub place: Place,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands at the caret; may be empty.
    pub label: String,
    /// What to do about it; may be empty.
    pub remedy: String,
    /// Another place that has to do with it, and what is there.
    pub other: Option<(Range<usize>, String)>,
}

impl Problem {
    /// A mistake at `place`.
    pub fn new(place: &Place, message: impl Into<String>) -> Self {
        // It may repeat what stands in another file.
        let message = printable(&message.into(), LONGEST_MESSAGE);
        Self { place: place.clone(), message, label: String::new(), remedy: String::new(), other: None }
    }

    /// With this text at the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With this advice.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// With a second place, if that is in the file.
    #[must_use]
    pub fn other(mut self, place: &Place, what: impl Into<String>) -> Self {
        if let Place::File(range) = place {
            self.other = Some((range.clone(), what.into()));
        }
        self
    }
}

/// Every mistake of one config, in the order of the file, then those of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    name: String,
    text: String,
    list: Vec<Problem>,
}

impl Problems {
    /// The one problem of a config that could not even be read.
    pub(crate) fn unreadable(name: &str, message: String, remedy: &str) -> Self {
        let problem = Problem::new(&Place::Whole, message).remedy(remedy);
        Self { name: name.to_owned(), text: String::new(), list: vec![problem] }
    }

    /// The problems themselves.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Where a problem is, in one line: `config.toml:12:5`, or the name of the variable.
    pub fn locate(&self, problem: &Problem) -> String {
        match &problem.place {
            Place::File(range) => {
                let before = self.text.get(..self.within(range).start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                format!("{}:{line}:{column}", self.name)
            }
            Place::Env(name) => name.clone(),
            Place::Whole => self.name.clone(),
        }
    }

    /// All problems as a text for people, with colour for a terminal if `coloured`.
    pub fn render(&self, coloured: bool) -> String {
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for problem in &self.list {
            text.push_str(&renderer.render(&[self.group(problem)]));
            text.push_str("\n\n");
        }
        let count = match self.list.len() {
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        text + &self.name + ": " + &count
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let title = Level::ERROR.primary_title(&problem.message);
        let label = (!problem.label.is_empty()).then_some(problem.label.as_str());
        let group = match &problem.place {
            Place::File(range) => {
                let primary = AnnotationKind::Primary.span(self.within(range)).label(label);
                let mut snippet = Snippet::source(&self.text).path(&self.name).annotation(primary);
                if let Some((range, what)) = &problem.other {
                    snippet = snippet.annotation(AnnotationKind::Context.span(self.within(range)).label(what.as_str()));
                }
                title.element(snippet)
            }
            // Only the name of the variable is shown: its value may be something that must not be seen.
            Place::Env(name) => title.element(Origin::path(format!("the environment variable {name}"))),
            Place::Whole => title.element(Origin::path(&self.name)),
        };
        if problem.remedy.is_empty() { group } else { group.element(Level::HELP.message(&problem.remedy)) }
    }

    /// The range, within the text and on boundaries of its characters, so that rendering cannot fail.
    fn within(&self, range: &Range<usize>) -> Range<usize> {
        let mut start = range.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = range.end.clamp(start, self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

/// Where problems are gathered while a config is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    list: RefCell<Vec<Problem>>,
    masked: RefCell<Vec<Place>>,
    keys: RefCell<BTreeSet<String>>,
    notes: RefCell<Vec<String>>,
}

impl Report {
    /// Adds what is no mistake, but should be known.
    pub(crate) fn note(&self, note: String) {
        self.notes.borrow_mut().push(note);
    }

    /// The notes, each once.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.borrow().clone();
        notes.dedup();
        notes
    }

    /// Adds a problem.
    pub(crate) fn add(&self, problem: Problem) {
        self.list.borrow_mut().push(problem);
    }

    /// Says that what was typed here may be a secret and is not to be shown.
    pub(crate) fn mask(&self, place: &Place) {
        self.masked.borrow_mut().push(place.clone());
    }

    /// Whether what was typed here is not to be shown.
    pub(crate) fn masks(&self, place: &Place) -> bool {
        self.masked.borrow().contains(place)
    }

    /// Notes that `key` is one that this program knows.
    pub(crate) fn know(&self, key: String) {
        self.keys.borrow_mut().insert(key);
    }

    /// The keys that were asked for, such as `route.upstream`.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        self.keys.borrow().clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.borrow().len()
    }

    /// Keeps only the first `count` problems.
    pub(crate) fn truncate(&self, count: usize) {
        self.list.borrow_mut().truncate(count);
    }

    /// All that was gathered, in order.
    pub(crate) fn into_problems(self, name: &str, text: &str) -> Problems {
        let mut list = self.list.into_inner();
        list.sort_by_key(|problem| match &problem.place {
            Place::Whole => (0, 0, String::new()),
            Place::File(range) => (1, range.start, String::new()),
            Place::Env(name) => (2, 0, name.clone()),
        });
        list.dedup();
        let in_file = |place| if let Place::File(range) = place { Some(range) } else { None };
        let masked: Vec<_> = self.masked.into_inner().into_iter().filter_map(in_file).collect();
        Problems { name: name.to_owned(), text: blank(text, &masked), list }
    }
}

/// The text with the characters of these ranges replaced, so that positions stay what they are.
fn blank(text: &str, ranges: &[Range<usize>]) -> String {
    let hidden = |at: usize| ranges.iter().any(|range| range.contains(&at));
    text.char_indices()
        .flat_map(|(at, character)| {
            let (shown, times) = match character {
                '\n' | '\r' => (character, 1),
                _ if hidden(at) => ('*', character.len_utf8()),
                _ => (character, 1),
            };
            std::iter::repeat_n(shown, times)
        })
        .collect()
}

/// The one of `known` that `typed` most likely stands for.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let bound = (typed.len() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::osa_distance(&typed, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "did you mean ...?" if something is near, else the list of what there is.
pub(crate) fn suggest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(typed, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => String::new(),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Characters.
const LONGEST_MESSAGE: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["upstream", "upstream_ca", "path"];
        assert_eq!(nearest("upstrem", known), Some("upstream"));
        assert_eq!(nearest("Upstream", known), Some("upstream"));
        assert_eq!(nearest("banana", known), None);
    }

    #[test]
    fn what_is_masked_is_not_shown_and_nothing_moves() {
        assert_eq!(blank("a = \"é\"\nb", std::slice::from_ref(&(4..8))), "a = ****\nb");
    }

    #[test]
    fn a_range_that_is_not_in_the_text_does_not_panic() {
        let report = Report::default();
        report.add(Problem::new(&Place::File(5..900), "x"));
        report.add(Problem::new(&Place::File(1..2), "y"));
        assert!(report.into_problems("f", "éé").to_string().contains("2 problems"));
    }
}
