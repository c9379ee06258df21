//! Reads one table of the config key by key. The keys that are asked for are the keys that exist: whatever else stands
//! in the table is unknown.

use std::collections::BTreeSet;
use std::time::Duration;

use super::problem::{Place, Placed, Problem, Report, suggest};
use super::tree::{Entry, Kind, Node, Table};

/// A value that is neither a list nor a table.
#[derive(Clone, Debug)]
pub(super) enum Scalar {
    Boolean(bool),
    Fraction(f64),
    Integer(i64),
    Text(String),
}

/// One table while it is read.
pub(super) struct Section<'a> {
    table: &'a Table,
    /// Its header, or the whole inline table.
    pub(super) place: Place,
    /// Path of its keys without names of elements: `route`, `issuer.key`; empty at the top.
    path: &'static str,
    /// How messages name it: `[[route]]`.
    title: &'static str,
    report: &'a Report,
    asked: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        table: &'a Table,
        place: Place,
        path: &'static str,
        title: &'static str,
        report: &'a Report,
    ) -> Self {
        Self { table, place, path, title, report, asked: BTreeSet::new() }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'a Entry> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        self.report.know(path);
        self.asked.insert(key);
        self.table.get(key)
    }

    fn wrong_kind(&self, key: &str, node: &Node, wanted: &str, example: &str) {
        let problem = if let Place::Env(variable) = &node.place {
            let example = match example.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
                Some(text) => text.to_owned(),
                None if example.contains(['"', ' ']) => format!("'{example}'"),
                None => example.to_owned(),
            };
            // A variable's text is not repeated: it may be something that must not be seen.
            let message = format!("`{key}` takes {wanted}; the variable holds something else");
            Problem::new(&node.place, message).remedy(format!("for example: {variable}={example}"))
        } else {
            let message = format!("`{key}` takes {wanted}, not {}", node.kind.name());
            Problem::new(&node.place, message).remedy(format!("for example: {}", self.line(key, example)))
        };
        self.report.add(problem);
    }

    /// How the key is written with this value: as a line, or, for a table of the whole config, as its header.
    fn line(&self, key: &str, example: &str) -> String {
        match self.path {
            "" => format!("[{key}]"),
            "route.close" => format!("close.{key} = {example}"),
            _ => format!("{key} = {example}"),
        }
    }

    /// A string.
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<Placed<String>> {
        let entry = self.ask(key)?;
        let value = self.text_of(key, &entry.value, "a string", example)?;
        Some(Placed { value, place: entry.value.place.clone() })
    }

    /// Where a secret is, as a string; what is none is not shown, for it may be the secret itself.
    pub(super) fn secret_source(&mut self, key: &'static str, example: &str) -> Option<Placed<String>> {
        let typed = self.text(key, example);
        if let (None, Some(entry)) = (&typed, self.table.get(key)) {
            self.report.mask(&entry.value.place);
        }
        typed
    }

    fn text_of(&self, key: &str, node: &Node, wanted: &str, example: &str) -> Option<String> {
        match (&node.kind, &node.raw) {
            (Kind::Text(text), _) => Some(text.clone()),
            (Kind::List(_) | Kind::Table(_), _) | (_, None) => {
                self.wrong_kind(key, node, wanted, example);
                None
            }
            // A variable whose text happens to be a number, a date or a boolean is still a text where one is wanted.
            (_, Some(raw)) => Some(raw.clone()),
        }
    }

    /// A string that must be there.
    pub(super) fn needed(&mut self, key: &'static str, example: &str) -> Option<Placed<String>> {
        if !self.table.contains_key(key) {
            self.missing(key, example);
        }
        self.text(key, example)
    }

    /// Reports that `key` is not there.
    pub(super) fn missing(&self, key: &str, example: &str) {
        let problem = Problem::new(&self.place, format!("{} has no `{key}`", self.title));
        self.report.add(problem.remedy(format!("add a line: {key} = {example}")));
    }

    /// Reports that there is no such section.
    pub(super) fn missing_section(&self, section: &str, content: &str) {
        let problem = Problem::new(&self.place, format!("{} has no {section}", self.title));
        self.report.add(problem.remedy(format!("add {section}, and under it {content}")));
    }

    /// Whether `key` is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A whole number from `least` to `most`, such as `example`.
    pub(super) fn number(&mut self, key: &'static str, least: i64, most: i64, example: i64) -> Option<Placed<usize>> {
        let node = &self.ask(key)?.value;
        let Kind::Integer(value) = node.kind else {
            self.wrong_kind(key, node, "a whole number", &example.to_string());
            return None;
        };
        let place = node.place.clone();
        match usize::try_from(value) {
            Ok(number) if (least..=most).contains(&value) => Some(Placed { value: number, place }),
            _ => {
                let message = format!("`{key}` must be from {least} to {most}, not {value}");
                self.report.add(Problem::new(&place, message));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<Placed<bool>> {
        let node = &self.ask(key)?.value;
        if let Kind::Boolean(value) = node.kind {
            return Some(Placed { value, place: node.place.clone() });
        }
        self.wrong_kind(key, node, "true or false", "true");
        None
    }

    /// A time with a unit, at most ten years.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Placed<Duration>> {
        let node = &self.ask(key)?.value;
        let text = self.text_of(key, node, "a time with its unit, as a string", "\"10s\"")?;
        let place = node.place.clone();
        match humantime::parse_duration(text.trim()) {
            Ok(value) if value <= FAR => Some(Placed { value, place }),
            Ok(_) => {
                self.report.add(Problem::new(&place, format!("`{key}` is longer than ten years")));
                None
            }
            Err(_) => {
                let problem = Problem::new(&place, format!("`{key}` is no time"));
                self.report.add(problem.remedy("a number with its unit: \"250ms\", \"10s\", \"5m\", \"1h 30m\""));
                None
            }
        }
    }

    /// A number of bytes with a unit.
    pub(super) fn size(&mut self, key: &'static str) -> Option<Placed<u64>> {
        let node = &self.ask(key)?.value;
        let text = self.text_of(key, node, "a size with its unit, as a string", "\"64KiB\"")?;
        let place = node.place.clone();
        let has_unit = text.trim_end().ends_with(|c: char| c.is_ascii_alphabetic());
        match text.trim().parse::<bytesize::ByteSize>() {
            Ok(size) if has_unit => Some(Placed { value: size.as_u64(), place }),
            _ => {
                let problem = Problem::new(&place, format!("`{key}` is no size"));
                self.report.add(problem.remedy("a number with its unit: \"512B\", \"64KiB\", \"1MiB\""));
                None
            }
        }
    }

    /// A list of strings.
    pub(super) fn texts(&mut self, key: &'static str, example: &str) -> Option<Placed<Vec<Placed<String>>>> {
        let node = &self.ask(key)?.value;
        let Kind::List(list) = &node.kind else {
            self.wrong_kind(key, node, "a list of strings", example);
            return None;
        };
        let mut value = Vec::with_capacity(list.len());
        for item in list {
            if let Kind::Text(text) = &item.kind {
                value.push(Placed { value: text.clone(), place: item.place.clone() });
            } else {
                self.wrong_kind(key, item, "strings in its list", example);
            }
        }
        Some(Placed { value, place: node.place.clone() })
    }

    /// A list of which each member is a string, or a table of its own.
    pub(super) fn texts_or_tables<T>(
        &mut self,
        key: &'static str,
        path: &'static str,
        title: &'static str,
        example: &str,
        of_text: impl Fn(Placed<String>) -> T,
        of_table: impl Fn(Section<'a>) -> T,
    ) -> Vec<T> {
        let Some(entry) = self.ask(key) else { return Vec::new() };
        let Kind::List(list) = &entry.value.kind else {
            self.wrong_kind(key, &entry.value, "a list", example);
            return Vec::new();
        };
        let mut members = Vec::with_capacity(list.len());
        for item in list {
            let place = item.place.clone();
            match &item.kind {
                Kind::Text(text) => members.push(of_text(Placed { value: text.clone(), place })),
                Kind::Table(table) => members.push(of_table(Section::new(table, place, path, title, self.report))),
                _ => self.wrong_kind(key, item, "strings and tables in its list", example),
            }
        }
        members
    }

    /// A string, a number or a boolean.
    pub(super) fn scalar(&mut self, key: &'static str, example: &str) -> Option<Placed<Scalar>> {
        let node = &self.ask(key)?.value;
        let value = scalar(node);
        if value.is_none() {
            self.wrong_kind(key, node, "a string, a number or a boolean", example);
        }
        Some(Placed { value: value?, place: node.place.clone() })
    }

    /// A list of strings, numbers and booleans.
    pub(super) fn scalars(&mut self, key: &'static str, example: &str) -> Option<Placed<Vec<Placed<Scalar>>>> {
        let node = &self.ask(key)?.value;
        let Kind::List(list) = &node.kind else {
            self.wrong_kind(key, node, "a list of strings, numbers and booleans", example);
            return None;
        };
        let mut value = Vec::with_capacity(list.len());
        for item in list {
            match scalar(item) {
                Some(scalar) => value.push(Placed { value: scalar, place: item.place.clone() }),
                None => self.wrong_kind(key, item, "strings, numbers and booleans in its list", example),
            }
        }
        (value.len() == list.len()).then(|| Placed { value, place: node.place.clone() })
    }

    /// A table with keys of the user's own choice; each value is made of a string, or of a table of its own.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        path: &'static str,
        title: &'static str,
        example: &str,
        of_text: impl Fn(Placed<String>) -> T,
        of_table: impl Fn(Section<'a>) -> T,
    ) -> Vec<(Placed<String>, T)> {
        let Some(entry) = self.ask(key) else { return Vec::new() };
        let Kind::Table(table) = &entry.value.kind else {
            self.wrong_kind(key, &entry.value, "a table", example);
            return Vec::new();
        };
        let mut named = Vec::with_capacity(table.len());
        for (name, entry) in table {
            let name = Placed { value: name.clone(), place: entry.key.clone() };
            let place = entry.value.place.clone();
            if let Kind::Table(table) = &entry.value.kind {
                named.push((name, of_table(Section::new(table, place, path, title, self.report))));
            } else if let Some(value) = self.text_of(key, &entry.value, "strings or tables as values", example) {
                named.push((name, of_text(Placed { value, place })));
            }
        }
        named
    }

    /// A table of its own, such as `example`.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        path: &'static str,
        title: &'static str,
        example: &str,
    ) -> Option<Section<'a>> {
        let entry = self.ask(key)?;
        let Kind::Table(table) = &entry.value.kind else {
            self.wrong_kind(key, &entry.value, "a table", example);
            return None;
        };
        Some(Section::new(table, entry.value.place.clone(), path, title, self.report))
    }

    /// A table of its own; one that is absent is read as an empty one, so that its keys are known.
    pub(super) fn table_or_empty(&mut self, key: &'static str, path: &'static str, title: &'static str) -> Section<'a> {
        let section = self.table(key, path, title, "");
        section.unwrap_or_else(|| Section::new(&EMPTY, Place::Whole, path, title, self.report))
    }

    /// A list of tables.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        path: &'static str,
        title: &'static str,
    ) -> Option<Vec<Section<'a>>> {
        let entry = self.ask(key)?;
        let Kind::List(list) = &entry.value.kind else {
            let problem = Problem::new(&entry.key, format!("`{key}` is a list of tables"));
            self.report.add(problem.remedy(format!("write {title}, with two brackets on either side")));
            return None;
        };
        let mut sections = Vec::with_capacity(list.len());
        for item in list {
            if let Kind::Table(table) = &item.kind {
                sections.push(Section::new(table, item.place.clone(), path, title, self.report));
            } else {
                self.wrong_kind(key, item, "tables in its list", "[{ ... }]");
            }
        }
        Some(sections)
    }

    /// A list of tables that may be absent.
    pub(super) fn table_list(
        &mut self,
        key: &'static str,
        path: &'static str,
        title: &'static str,
    ) -> Vec<Section<'a>> {
        self.tables(key, path, title).unwrap_or_default()
    }

    /// Reports what was not asked for.
    pub(super) fn finish(self) {
        for (key, entry) in self.table {
            if self.asked.contains(key.as_str()) {
                continue;
            }
            // Someone may have written a secret under a name that is not ours; a slip of the pen in one of our names
            // may be shown.
            let near = super::problem::nearest(key, self.asked.iter().copied());
            if near.is_none_or(|near| near.starts_with("secret_")) {
                mask(&entry.value, self.report);
            }
            let secret = self.path == "issuer.key" && matches!(key.as_str(), "secret" | "key" | "pem" | "value");
            let problem = match &entry.key {
                _ if secret => Problem::new(&entry.key, format!("unknown key `{key}`")).remedy(
                    "secrets and keys do not stand in the config: use secret_file, secret_env, pem_file or pem_env",
                ),
                Place::Env(variable) => {
                    let near = super::problem::nearest(key, self.asked.iter().copied());
                    let remedy = match near {
                        Some(near) => {
                            let end = variable.len().saturating_sub(key.len());
                            let start = variable.get(..end).unwrap_or_default();
                            format!("did you mean `{start}{}`?", near.to_uppercase())
                        }
                        None => suggest(key, self.asked.iter().copied()),
                    };
                    Problem::new(&entry.key, format!("`{variable}` sets no key of {}", self.title)).remedy(remedy)
                }
                _ => Problem::new(&entry.key, format!("unknown key `{key}`"))
                    .label(format!("{} has no such key", self.title))
                    .remedy(suggest(key, self.asked.iter().copied())),
            };
            self.report.add(problem);
        }
    }
}

fn scalar(node: &Node) -> Option<Scalar> {
    match &node.kind {
        Kind::Boolean(value) => Some(Scalar::Boolean(*value)),
        Kind::Fraction(value) => Some(Scalar::Fraction(*value)),
        Kind::Integer(value) => Some(Scalar::Integer(*value)),
        Kind::Text(value) => Some(Scalar::Text(value.clone())),
        Kind::List(_) | Kind::Table(_) | Kind::Other(_) => None,
    }
}

fn mask(node: &Node, report: &Report) {
    match &node.kind {
        Kind::List(list) => list.iter().for_each(|item| mask(item, report)),
        Kind::Table(table) => table.values().for_each(|entry| mask(&entry.value, report)),
        _ => report.mask(&node.place),
    }
}

static EMPTY: Table = Table::new();

/// Longer than any stream lives, short enough that no arithmetic on time overflows.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
