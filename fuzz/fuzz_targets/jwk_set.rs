#![no_main]

#[path = "../bodies/jwk_set.rs"]
mod jwk_set;
#[path = "../bodies/reference.rs"]
#[allow(dead_code)] // other targets use the rest
mod reference;

libfuzzer_sys::fuzz_target!(|script: &[u8]| jwk_set::run(script));
