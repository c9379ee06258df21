//! `portcullis` enforces a JWT on a WebSocket: at the upgrade, and for as long as the stream lives.
//!
//! The modules stand in one downward order. A module imports only from modules that stand before it in
//! this list; `tests/architecture.rs` holds that. Modules marked **pure** name no runtime, no socket and
//! never read a clock: time comes in as an argument.
//!
//! The path of one connection is told in `docs/architecture.md`.
#![forbid(unsafe_code)]

// Wall and monotonic time as one value; the only reader of the system clock. **Pure** but for that.
pub mod clock;
// Strings that cannot be printed: secrets and the raw bearer token. **Pure.**
pub mod secret;
// Every header, path and log field name, once. **Pure.**
pub mod names;
// What of RFC 6455 is ours: frame heads, the scanner, Close frames, the upgrade. **Pure.**
pub mod ws;
// Find the one token, verify it, say what it grants. **Pure.**
pub mod token;
// The state machine of one stream: its deadlines, its end and who caused it. **Pure.**
pub mod stream;
// Logs: format, redaction, and the one line that opens and the one that ends a stream.
pub mod telemetry;
// Revocations: a local copy that is asked without waiting, and its file.
pub mod revocation;
// Live streams: reserve, signal, count, drain.
pub mod registry;
// The server's end of TLS over any byte stream, with next to no memory of its own.
pub mod tls;
// A byte stream as the relay needs it, over TLS and TCP.
pub mod wire;
// The service's side: connect under a deadline, upgrade, check the answer.
pub mod upstream;
// The one small HTTPS client: key sets, discovery documents, token endpoints.
pub mod fetch;
// One future per stream: signals, deadline, both pumps, the closing handshake.
pub mod relay;
// Key sets by file, URL or OIDC discovery: when they are fetched, and the judge that waits for one.
pub mod jwks;
// The one maker of [`admission::Admitted`].
pub mod admission;
// The tower pipeline from a request to a `101` or a refusal.
pub mod gateway;
// Accept loop, permits, TLS, certificates.
pub mod listen;
// Probes and admin listeners: health, metrics, live streams, revocations, drain.
pub mod admin;
// The token issuer's side: mint or fetch tokens, when to renew, when to come back.
pub mod issuer;
// Two plain WebSocket services to stand behind the gateway: echo and verifier.
pub mod backend;
// The bundled client, which renews its token on the live stream, or comes back with a fresh one.
pub mod client;
// What was typed (TOML, environment) and what it means; all problems at once.
pub mod config;
// Build, run, reload, drain: the only place that knows all parts.
pub mod app;
// The whole exchange in one process, for a person to watch.
pub mod demo;
// The verbs of the command line.
pub mod cli;
