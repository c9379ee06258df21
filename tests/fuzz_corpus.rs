//! What fuzzing has found worth keeping stays true: every script of the corpora is played.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

#[path = "../fuzz/bodies/carrier.rs"]
mod carrier;
#[path = "../fuzz/bodies/claims.rs"]
mod claims;
#[path = "../fuzz/bodies/header.rs"]
mod header;
#[path = "../fuzz/bodies/jwk_set.rs"]
mod jwk_set;
#[path = "../fuzz/bodies/reference.rs"]
mod reference;
#[path = "../fuzz/bodies/tls_server.rs"]
mod tls_server;

use std::path::Path;

#[test]
fn every_script_of_the_corpus_ends_well() {
    play("tls_server", tls_server::run);
}

#[test]
fn every_request_of_the_corpus_loses_its_token_and_nothing_else() {
    play("carrier", carrier::run);
}

#[test]
fn every_claims_set_of_the_corpus_is_judged_as_its_digits_say() {
    play("claims", claims::run);
}

#[test]
fn every_header_of_the_corpus_is_judged_as_it_reads() {
    play("header", header::run);
}

#[test]
fn every_key_set_of_the_corpus_gives_only_keys_that_fit() {
    play("jwk_set", jwk_set::run);
}

fn play(corpus: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(corpus);
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).expect("the corpus").map(|entry| entry.expect("an entry").path()).collect();
    scripts.sort();
    for path in &scripts {
        println!("{}", path.display()); // the last one is the one that failed
        run(&std::fs::read(path).expect("a script"));
    }
    assert!(scripts.len() >= 50, "only {} scripts: this is not the corpus", scripts.len());
}
