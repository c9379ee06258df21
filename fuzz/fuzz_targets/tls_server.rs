#![no_main]

#[path = "../bodies/tls_server.rs"]
mod tls_server;

libfuzzer_sys::fuzz_target!(|script: &[u8]| tls_server::run(script));
