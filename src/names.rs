//! Every header, path, environment and log field name that portcullis gives to the world, once.

/// Prefix of every header of the gateway's own; whatever a client sends with it, in any spelling, is removed.
pub const HEADER_PREFIX: &str = "portcullis-";
/// In every `101`: whole seconds until the token expires, rounded down.
pub const EXPIRES_IN: &str = "portcullis-expires-in";
/// In the `101`, and in a renewal: the handle of the stream.
pub const STREAM_HANDLE: &str = "portcullis-stream";
/// In the query of an upgrade: the handle that the client has chosen, since a script cannot read the headers of a `101`.
pub const HANDLE_PARAMETER: &str = "portcullis_stream";
/// Where a route's streams are renewed: after any of its paths.
pub const RENEW_PATH: &str = "/.portcullis/renew";
/// Where a route hands out tickets: after any of its paths.
pub const TICKET_PATH: &str = "/.portcullis/ticket";
/// Prefix of every environment variable that overrides a key of the config.
pub const ENV_PREFIX: &str = "PORTCULLIS_";

/// Path of the default config file.
pub const CONFIG_FILE: &str = "config.toml";
/// Where `portcullis cert` and the demo put what they make.
pub const CERTS_DIR: &str = "certs";

/// `sysexits.h` EX_USAGE: the config or the command line is wrong.
pub const EXIT_CONFIG: u8 = 64;
/// Anything else that went wrong.
pub const EXIT_FAILURE: u8 = 1;

/// Log fields: the vocabulary of the two lines a stream writes.
pub mod field {
    /// The route's name.
    pub const ROUTE: &str = "route";
    /// Number of the stream, unique in the process.
    pub const STREAM: &str = "stream";
    /// `jti` of the verified token, if it has one.
    pub const JTI: &str = "jti";
    /// Short hash of the token.
    pub const TOKEN: &str = "token";
    /// The peer's address.
    pub const PEER: &str = "peer";
    /// Who ended the stream: `client`, `upstream` or `gateway`.
    pub const BY: &str = "by";
    /// Why the stream ended or the request was refused.
    pub const CAUSE: &str = "cause";
    /// The Close code.
    pub const CODE: &str = "code";
    /// What exactly was found; never holds a token.
    pub const DETAIL: &str = "detail";
    /// The HTTP status of a refusal.
    pub const STATUS: &str = "status";
    /// Short hash of the principal.
    pub const PRINCIPAL: &str = "principal";
    /// How long the stream lived, seconds, to the millisecond.
    pub const DURATION: &str = "duration_s";
    /// Frames from the client to the service.
    pub const FRAMES_UP: &str = "frames_up";
    /// Frames from the service to the client.
    pub const FRAMES_DOWN: &str = "frames_down";
    /// Bytes from the client to the service, heads included.
    pub const BYTES_UP: &str = "bytes_up";
    /// Bytes from the service to the client, heads included.
    pub const BYTES_DOWN: &str = "bytes_down";
    /// How often the token was renewed on the live stream.
    pub const RENEWALS: &str = "renewals";
    /// The sides that had to be reset: `none`, `downstream`, `upstream` or `both`.
    pub const RESET: &str = "reset";
}
