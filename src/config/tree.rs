//! What was typed, as a tree in which each value knows its place; the environment is laid over the file here.
//!
//! Owns the syntax only: which keys there are and what they mean is told by `file`.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Report, nearest};
use crate::names::ENV_PREFIX;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
    /// The text of an environment variable before it was read as TOML.
    pub(super) raw: Option<String>,
}

/// The value of a node.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Text(String),
    Integer(i64),
    /// A number with a fraction or an exponent.
    Fraction(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A kind of value that no key takes, by its name.
    Other(&'static str),
}

impl Kind {
    /// The name of the kind, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Fraction(_) => "a number with a fraction",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

/// The entries of a table by key.
pub(super) type Table = BTreeMap<String, Entry>;

/// One entry of a table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the key stands.
    pub(super) key: Place,
    pub(super) value: Node,
}

/// Reads the text; every mistake of syntax is reported.
pub(super) fn parse(text: &str, report: &Report) -> Table {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error.span().map_or(Place::Whole, Place::File);
        let remedy = match error.message() {
            "duplicate key" => "each key stands once in its table",
            _ => "strings stand in double quotes, lists in [ ], inline tables in { }: see https://toml.io",
        };
        report.add(Problem::new(&place, format!("not TOML: {}", error.message())).remedy(remedy));
    }
    convert_table(table.get_ref(), &Place::File)
}

type PlaceAt<'a> = &'a dyn Fn(std::ops::Range<usize>) -> Place;

fn convert_table(table: &DeTable<'_>, at: PlaceAt<'_>) -> Table {
    let entry = |key: &toml::Spanned<_>, value: &toml::Spanned<DeValue<'_>>| Entry {
        key: at(key.span()),
        value: Node { place: at(value.span()), kind: convert(value.get_ref(), at), raw: None },
    };
    table.iter().map(|(key, value)| (key.get_ref().to_string(), entry(key, value))).collect()
}

fn convert(value: &DeValue<'_>, at: PlaceAt<'_>) -> Kind {
    match value {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Kind::Other("an integer that is out of range"), Kind::Integer),
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(value) if value.is_finite() => Kind::Fraction(value),
            _ => Kind::Other("inf or nan"),
        },
        DeValue::Boolean(value) => Kind::Boolean(*value),
        DeValue::Datetime(_) => Kind::Other("a date"),
        DeValue::Array(list) => Kind::List(
            list.iter()
                .map(|item| Node { place: at(item.span()), kind: convert(item.get_ref(), at), raw: None })
                .collect(),
        ),
        DeValue::Table(table) => Kind::Table(convert_table(table, at)),
    }
}

/// A variable that leads to no key, and the text that says why. It is a mistake unless the config names it as the
/// place of a secret.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) variable: String,
    pub(super) message: String,
    pub(super) remedy: Option<String>,
}

/// Lays the variables over the tree; one that is empty counts as not set. Parents come before their children, so that the more exact variable wins.
pub(super) fn overlay(root: &mut Table, env: &BTreeMap<String, String>) -> Vec<Stray> {
    let names = NAMED.map(|section| (section, element_names(root, section)));
    let mut stray = Vec::new();
    for (variable, raw) in env {
        let Some(rest) = variable.strip_prefix(ENV_PREFIX) else { continue };
        if raw.is_empty() || RESERVED.contains(&rest) || is_service_link(rest) {
            continue;
        }
        if let Err((message, remedy)) = set(root, &names, variable, rest, raw) {
            stray.push(Stray { variable: variable.clone(), message, remedy });
        }
    }
    stray
}

type Names = [(&'static str, Vec<Option<String>>); NAMED.len()];

fn set(root: &mut Table, names: &Names, variable: &str, rest: &str, raw: &str) -> Result<(), (String, Option<String>)> {
    let unknown = || (format!("`{variable}` sets no key of the config"), None);
    let parts: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    let (section, path) = parts.split_first().ok_or_else(unknown)?;
    let place = Place::Env(variable.to_owned());
    let (table, path) = match names.iter().find(|(name, _)| name == section) {
        Some((section, names)) => {
            let [name, path @ ..] = path else { return Err(unknown()) };
            let mut found = names.iter().enumerate().filter(|(_, known)| known.as_deref() == Some(name.as_str()));
            let Some((index, _)) = found.next() else {
                let known: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
                let remedy = match nearest(name, known.iter().copied()) {
                    Some(near) => {
                        let (from, to) = (name.to_uppercase(), near.to_uppercase());
                        format!("did you mean `{}`?", variable.replacen(&from, &to, 1))
                    }
                    None => format!("a variable changes a [[{section}]] that the file has, by its name"),
                };
                return Err((format!("`{variable}`: no [[{section}]] is named `{name}`"), Some(remedy)));
            };
            if found.next().is_some() {
                let message = format!("`{variable}` fits more than one [[{section}]]");
                return Err((message, Some("give them names that differ in more than `-`, `_` and case".to_owned())));
            }
            (element(root, section, index).ok_or_else(unknown)?, path)
        }
        None if TABLES.contains(&section.as_str()) => {
            let entry = root.entry(section.clone()).or_insert_with(|| empty_table(&place));
            let Kind::Table(table) = &mut entry.value.kind else { return Err(unknown()) };
            (table, path)
        }
        None => return Err(unknown()),
    };
    if path.is_empty() || path.iter().any(String::is_empty) {
        return Err(unknown());
    }
    put(table, path, &place, raw).ok_or_else(unknown)
}

/// Puts the value at the end of the path; tables on the way are made, elements of lists go by their number from 0.
fn put(table: &mut Table, path: &[String], place: &Place, raw: &str) -> Option<()> {
    let (key, rest) = path.split_first()?;
    if rest.is_empty() {
        let value = Node { place: place.clone(), kind: read_value(raw, place), raw: Some(raw.to_owned()) };
        table.insert(key.clone(), Entry { key: place.clone(), value });
        return Some(());
    }
    let entry = table.entry(key.clone()).or_insert_with(|| empty_table(place));
    match &mut entry.value.kind {
        Kind::Table(inner) => put(inner, rest, place, raw),
        Kind::List(list) => {
            let (index, rest) = rest.split_first()?;
            let node = list.get_mut(index.parse::<usize>().ok()?)?;
            let Kind::Table(inner) = &mut node.kind else { return None };
            put(inner, rest, place, raw)
        }
        _ => None,
    }
}

/// A value of a variable: TOML if it is that, else a string.
fn read_value(raw: &str, place: &Place) -> Kind {
    match DeValue::parse(raw) {
        Ok(value) => convert(value.get_ref(), &|_| place.clone()),
        Err(_) => Kind::Text(raw.to_owned()),
    }
}

fn empty_table(place: &Place) -> Entry {
    let value = Node { place: place.clone(), kind: Kind::Table(Table::new()), raw: None };
    Entry { key: place.clone(), value }
}

fn element<'a>(root: &'a mut Table, section: &str, index: usize) -> Option<&'a mut Table> {
    let Kind::List(list) = &mut root.get_mut(section)?.value.kind else { return None };
    let Kind::Table(table) = &mut list.get_mut(index)?.kind else { return None };
    Some(table)
}

/// The names of a section's elements as variables write them, in lower case.
fn element_names(root: &Table, section: &str) -> Vec<Option<String>> {
    let Some(Kind::List(list)) = root.get(section).map(|entry| &entry.value.kind) else { return Vec::new() };
    let name = |node: &Node| match &node.kind {
        Kind::Table(table) => match &table.get("name")?.value.kind {
            Kind::Text(name) => Some(fold(name)),
            _ => None,
        },
        _ => None,
    };
    list.iter().map(name).collect()
}

/// A name as variables write it, but in lower case.
pub(super) fn fold(name: &str) -> String {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(fold).collect()
}

/// Kubernetes puts these into the environment of every container, for every service of the namespace: ours are those
/// of services that are named `portcullis` or `portcullis-...`. Docker links did the same. No key of ours looks so,
/// since the parts of its path stand apart by `__`.
fn is_service_link(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let protocol = |text: &str| matches!(text, "TCP" | "UDP" | "SCTP");
    !parts.contains(&"")
        && (0..parts.len()).any(|start| match parts.get(start..).unwrap_or_default() {
            ["PORT"] | ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] => true,
            ["PORT", port, name] => number(port) && protocol(name),
            ["PORT", port, name, "PROTO" | "PORT" | "ADDR"] => number(port) && protocol(name),
            _ => false,
        })
}

/// Sections that stand once.
const TABLES: [&str; 5] = ["admin", "log", "probes", "revocation", "server"];
/// Sections whose elements go by their name.
pub(super) const NAMED: [&str; 4] = ["issuer", "listener", "route", "upstream"];
/// Variables of the command line.
const RESERVED: [&str; 1] = ["CONFIG"];

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_of_our_name_are_left_alone() {
        for name in [
            "PORT",
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_WSS",
            "PORT_8443_TCP",
            "PORT_8443_TCP_ADDR",
            "PUBLIC_SERVICE_HOST",
            "PUBLIC_SERVICE_PORT",
            "PUBLIC_SERVICE_PORT_HTTPS_2",
            "PUBLIC_PORT",
            "PUBLIC_PORT_8443_TCP",
            "PUBLIC_PORT_8443_TCP_PROTO",
            "PUBLIC_PORT_53_UDP_PORT",
            "TWO_WORDS_PORT_53_SCTP_ADDR",
            "SERVICE_SERVICE_HOST",
            "CONFIG",
        ] {
            let stray = overlay(&mut Table::new(), &env(&[(&format!("PORTCULLIS_{name}"), "x")]));
            assert!(stray.is_empty(), "{name}: {stray:?}");
        }
        for name in [
            "PORTS",
            "SERVER_WORKERS",
            "PORT_X_TCP",
            "SERVICE",
            "",
            "SERVER__",
            "LISTENER__X",
            "CONFIGS",
            "LOG_LEVEL",
            "LISTENER__X__SERVICE_HOST",
            "PORT_8443_TCP_X",
            "_PORT",
        ] {
            let stray = overlay(&mut Table::new(), &env(&[(&format!("PORTCULLIS_{name}"), "x")]));
            assert_eq!(stray.len(), 1, "{name}");
        }
        assert!(!is_service_link("SERVER__PORT"), "a slip of the pen in a key of ours is still told");
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let mut root = parse("[log]\nlevel = \"warn\"", &Report::default());
        let stray = overlay(&mut root, &env(&[("PORTCULLIS_LOG__LEVEL", ""), ("PORTCULLIS_LOGLEVEL", "")]));
        assert!(stray.is_empty(), "{stray:?}");
        assert!(format!("{root:?}").contains("Text(\"warn\")"), "{root:?}");
    }

    #[test]
    fn the_more_exact_variable_wins() {
        let report = Report::default();
        let mut root = parse("[[route]]\nname = \"a-b\"\nclose.expired = { code = 1 }", &report);
        let stray = overlay(
            &mut root,
            &env(&[
                ("PORTCULLIS_ROUTE__A_B__CLOSE__EXPIRED", "{ code = 4000, reason = \"r\" }"),
                ("PORTCULLIS_ROUTE__A_B__CLOSE__EXPIRED__CODE", "4001"),
            ]),
        );
        assert!(stray.is_empty() && report.is_empty(), "{stray:?}");
        let text = format!("{root:?}");
        assert!(text.contains("Integer(4001)") && !text.contains("Integer(4000)"), "{text}");
    }
}
