#![no_main]

#[path = "../bodies/header.rs"]
mod header;
#[path = "../bodies/reference.rs"]
#[allow(dead_code)] // other targets use the rest
mod reference;

libfuzzer_sys::fuzz_target!(|script: &[u8]| header::run(script));
