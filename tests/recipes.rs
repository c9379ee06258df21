//! Each page of docs/recipes/ has one whole config to paste, which is good, and which a test with the real service runs.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::process::Command;

use common::real::root;
use common::recipe::{Recipe, pages};

#[test]
fn every_recipe_is_a_whole_config_about_which_nothing_is_noted() {
    for page in pages() {
        let config = Recipe::on_page(&page);
        for section in ["[[listener]]\n", "[[issuer]]\n", "[[route]]\n"] {
            assert!(config.contains(section), "{page}: no {section}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        common::doc::write(&config, folder.path());
        let file = folder.path().join("config.toml");
        let check = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["check", "--config"])
            .arg(file)
            .output()
            .expect("check");
        let said = [check.stdout, check.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(check.status.success() && !said.contains("note"), "{page}: {said}");
    }
}

#[test]
fn every_recipe_is_run_with_its_service_and_listed() {
    let folder = root().join("docs/recipes");
    let index = std::fs::read_to_string(folder.join("README.md")).expect("README.md");
    let mut tests = String::new();
    for entry in std::fs::read_dir(root().join("tests")).expect("tests") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("real_")) {
            tests.push_str(&std::fs::read_to_string(path).expect("a test"));
        }
    }
    for page in pages() {
        assert!(tests.contains(&format!("Recipe::of(\"{page}\")")), "no test runs {page}");
        assert!(index.contains(&format!("({page}.md)")), "{page} is not in the list");
    }
}
