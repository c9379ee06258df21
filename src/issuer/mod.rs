//! The token issuer's side: mint tokens or fetch them, and know when to come back with the next one.
//!
//! Nothing here verifies a token; that is `token`'s part. Called by `client`, `demo` and the command line.

pub mod fetch;
pub mod mint;
pub mod schedule;

pub use fetch::{ClientAuth, ClientCredentials, Endpoint, Issued, TokenEndpoint, TokenError};
pub use mint::{Mint, MintError, MintKey, Minted};
