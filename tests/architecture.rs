//! The house stands as src/lib.rs says: one downward order, and pure modules that know no runtime and no clock.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[test]
fn a_module_imports_only_from_modules_before_it() {
    let modules = modules();
    let order: BTreeMap<&str, usize> =
        modules.iter().enumerate().map(|(at, module)| (module.name.as_str(), at)).collect();
    let (mut seen, mut upward) = (0, Vec::new());
    for (at, module) in modules.iter().enumerate() {
        for (file, code) in &module.files {
            for name in imports(code) {
                let Some(&of) = order.get(name.as_str()) else {
                    panic!("{}: crate::{name} is no module of src/lib.rs", file.display())
                };
                seen += 1;
                if of > at {
                    upward.push(format!(
                        "{}: {} imports from {name}, which stands below it",
                        file.display(),
                        module.name
                    ));
                }
            }
        }
    }
    for (file, code) in modules.iter().flat_map(|module| &module.files) {
        // `crate::` is the only way to a sibling, so that the loop above sees them all.
        let root = file.file_name().is_some_and(|name| name == "mod.rs")
            || file.parent().is_some_and(|folder| folder.file_name().is_some_and(|name| name == "src"));
        let way_out = if root { "super::" } else { "super::super::" };
        assert!(!code.contains(way_out), "{}: {way_out} leaves the module; name it by crate::", file.display());
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
    assert!(seen >= 40, "only {seen} imports seen: the test does not read what it should");
}

#[test]
fn pure_modules_know_no_runtime_no_socket_and_no_clock() {
    let modules = modules();
    let pure: Vec<_> = modules.iter().filter(|module| module.pure).collect();
    let names: Vec<_> = pure.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["clock", "secret", "names", "ws", "token", "stream"]);
    let mut seen = 0;
    for module in pure {
        for (file, code) in &module.files {
            seen += 1;
            let reads_clock = module.name == "clock"; // the only reader
            for word in ["tokio", "hyper", "hyper_util", "socket2", "std::net", "tokio_rustls"] {
                assert!(!names_crate(code, word), "{}: names {word}", file.display());
            }
            for call in ["Instant::now", "SystemTime::now", ".elapsed()"] {
                assert!(reads_clock || !code.contains(call), "{}: reads a clock", file.display());
            }
        }
    }
    assert!(seen >= 12, "only {seen} files seen: the test does not read what it should");
}

#[test]
fn every_file_can_be_read_in_one_sitting() {
    let modules = modules();
    for (file, code) in modules.iter().flat_map(|module| &module.files) {
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 440, "{}: {lines} lines of code without comments and tests", file.display());
    }
}

#[test]
fn the_words_of_the_test_are_found_where_they_are() {
    let code = strip(
        "use crate::{token::{Grant, Judge}, ws};\n// crate::demo\nfn f() { crate::clock::Now::default(); }\n/* crate::cli */",
    );
    assert_eq!(imports(&code), ["clock", "token", "ws"]);
    let code = strip(
        "let s = \"crate::demo // no comment\"; use crate::app;\n#[cfg(test)]\nmod tests { use crate::cli; }\nfn g() { crate::names::X; }",
    );
    assert_eq!(imports(&code), ["app", "names"]);
    assert!(names_crate("use tokio::time;", "tokio") && !names_crate("use tokio_rustls::X;", "tokio"));
}

/// A module of src/lib.rs with its sources, comments and tests left out.
struct Module {
    name: String,
    pure: bool,
    files: Vec<(PathBuf, String)>,
}

fn modules() -> Vec<Module> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(src.join("lib.rs")).expect("src/lib.rs");
    let (mut modules, mut doc) = (Vec::new(), String::new());
    for line in lib.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("// ") {
            doc.push_str(text);
        } else if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            let mut files = Vec::new();
            collect(&src.join(format!("{name}.rs")), &mut files);
            collect(&src.join(name), &mut files);
            assert!(!files.is_empty(), "{name}: no source");
            modules.push(Module { name: name.to_owned(), pure: doc.contains("**Pure"), files });
            doc.clear();
        }
    }
    assert!(modules.len() >= 20, "only {} modules seen", modules.len());
    modules
}

fn collect(path: &Path, files: &mut Vec<(PathBuf, String)>) {
    if path.is_dir() {
        let mut entries: Vec<_> =
            std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("entry").path()).collect();
        entries.sort();
        // A `tests.rs` beside a module is compiled for tests only.
        let code = |path: &PathBuf| path.file_name().is_none_or(|name| name != "tests.rs" && name != "tests");
        entries.iter().filter(|path| code(path)).for_each(|path| collect(path, files));
    } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
        files.push((path.to_owned(), strip(&std::fs::read_to_string(path).expect("a source"))));
    }
}

/// Leaves comments, the insides of strings, and `#[cfg(test)] mod ... { }` out.
fn strip(source: &str) -> String {
    let bytes = source.as_bytes();
    let (mut out, mut at) = (String::new(), 0);
    while at < bytes.len() {
        let rest = &source[at..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            rest[start..].find(&end).map_or(rest.len(), |found| start + found + end.len())
        } else if rest.starts_with('"') {
            let mut end = 1;
            while end < rest.len() && rest.as_bytes()[end] != b'"' {
                end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else {
            0
        };
        if skip > 0 {
            at = (at + skip).min(bytes.len());
            continue;
        }
        let next = rest.chars().next().expect("not at the end");
        out.push(next);
        at += next.len_utf8();
    }
    without_tests(&out)
}

/// The number of hashes, if a raw string starts here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn without_tests(code: &str) -> String {
    let Some(start) = code.find("#[cfg(test)]") else { return code.to_owned() };
    let rest = &code[start..];
    let (brace, semicolon) = (rest.find('{').unwrap_or(rest.len()), rest.find(';').unwrap_or(rest.len()));
    let end = if semicolon < brace {
        semicolon + 1
    } else {
        let mut depth = 0;
        rest.char_indices()
            .find(|(_, c)| {
                depth += i32::from(*c == '{') - i32::from(*c == '}');
                *c == '}' && depth == 0
            })
            .map_or(rest.len(), |(end, _)| end + 1)
    };
    without_tests(&format!("{}{}", &code[..start], &rest[end..]))
}

/// The modules of this crate that the code names, sorted.
fn imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(first_names(group));
        } else {
            names.push(ident(rest));
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The first name of each member of a `{a::b, c::{d, e}}` group, whose opening brace is gone.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut fresh) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && depth == 0 && !c.is_whitespace() => {
                names.push(ident(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn ident(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn names_crate(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && !part(after)
    })
}
