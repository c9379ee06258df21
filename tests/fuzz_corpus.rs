//! What fuzzing has found worth keeping stays true: every script of the corpora is played.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

#[path = "../fuzz/bodies/tls_server.rs"]
mod tls_server;

use std::path::Path;

#[test]
fn every_script_of_the_corpus_ends_well() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tls_server");
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).expect("the corpus").map(|entry| entry.expect("an entry").path()).collect();
    scripts.sort();
    for path in &scripts {
        println!("{}", path.display()); // the last one is the one that failed
        tls_server::run(&std::fs::read(path).expect("a script"));
    }
    assert!(scripts.len() >= 50, "only {} scripts: this is not the corpus", scripts.len());
}
