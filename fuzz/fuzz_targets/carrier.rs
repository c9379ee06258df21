#![no_main]

#[path = "../bodies/carrier.rs"]
mod carrier;

libfuzzer_sys::fuzz_target!(|script: &[u8]| carrier::run(script));
