#![no_main]

#[path = "../bodies/claims.rs"]
mod claims;
#[path = "../bodies/reference.rs"]
#[allow(dead_code)] // other targets use the rest
mod reference;

libfuzzer_sys::fuzz_target!(|script: &[u8]| claims::run(script));
