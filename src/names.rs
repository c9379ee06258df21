//! Every header, path, environment, log field and metric name that portcullis gives to the world, once.

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

/// Metrics, by their whole names.
pub mod metric {
    /// Live streams, by route.
    pub const STREAMS: &str = "portcullis_streams";
    /// Requests answered, by route, result and public reason.
    pub const UPGRADES: &str = "portcullis_upgrades_total";
    /// Plain requests that were passed on, by route and result.
    pub const HTTP: &str = "portcullis_http_requests_total";
    /// Streams that have ended, by route and cause.
    pub const CLOSED: &str = "portcullis_stream_closed_total";
    /// Frames passed on, by direction.
    pub const FRAMES: &str = "portcullis_frames_total";
    /// Bytes of frames passed on, by direction.
    pub const BYTES: &str = "portcullis_bytes_total";
    /// Renewals of live streams, by route and result.
    pub const RENEWALS: &str = "portcullis_token_renewals_total";
    /// Life that tokens still have at admission.
    pub const REMAINING: &str = "portcullis_token_remaining_seconds";
    /// From a token's expiry to its Close being handed to the kernel.
    pub const LATENESS: &str = "portcullis_expiry_lateness_seconds";
    /// From dialling a service to its answer to the upgrade.
    pub const CONNECT: &str = "portcullis_upstream_connect_seconds";
    /// Whether the last config that was read is in force.
    pub const RELOAD_SUCCESSFUL: &str = "portcullis_config_last_reload_successful";
    /// When the config in force was read.
    pub const RELOAD_TIME: &str = "portcullis_config_last_reload_success_timestamp_seconds";
    /// Attempts to fetch an issuer's key set, by issuer and result.
    pub const KEY_FETCHES: &str = "portcullis_jwks_refresh_total";
    /// When an issuer's key set was last seen.
    pub const KEYS_SEEN: &str = "portcullis_jwks_last_success_timestamp_seconds";
    /// Keys that count, by issuer.
    pub const KEYS: &str = "portcullis_issuer_keys";
    /// When the first certificate of a listener ends.
    pub const CERTIFICATE: &str = "portcullis_tls_cert_expiry_timestamp_seconds";
    /// Whether nothing is known against an endpoint, by upstream and endpoint.
    pub const ENDPOINT_UP: &str = "portcullis_upstream_endpoint_up";
    /// Streams on an endpoint, by upstream and endpoint.
    pub const ENDPOINT_STREAMS: &str = "portcullis_upstream_endpoint_streams";
    /// Attempts to connect to an endpoint, by upstream, endpoint and result.
    pub const DIALS: &str = "portcullis_upstream_dials_total";
    /// Revocations in force.
    pub const REVOCATIONS: &str = "portcullis_revocations";
    /// How many revocations there may be.
    pub const REVOCATIONS_CAPACITY: &str = "portcullis_revocations_capacity";
    /// Revocations for which there was no room.
    pub const REVOCATIONS_REFUSED: &str = "portcullis_revocations_refused_total";
    /// The version that runs.
    pub const BUILD: &str = "portcullis_build_info";
    /// When the process began; the name that all exporters use.
    pub const PROCESS_START: &str = "process_start_time_seconds";

    /// All of them.
    pub const ALL: [&str; 24] = [
        KEY_FETCHES,
        KEYS_SEEN,
        KEYS,
        STREAMS,
        UPGRADES,
        HTTP,
        CLOSED,
        FRAMES,
        BYTES,
        RENEWALS,
        REMAINING,
        LATENESS,
        CONNECT,
        RELOAD_SUCCESSFUL,
        RELOAD_TIME,
        CERTIFICATE,
        ENDPOINT_UP,
        ENDPOINT_STREAMS,
        DIALS,
        REVOCATIONS,
        REVOCATIONS_CAPACITY,
        REVOCATIONS_REFUSED,
        BUILD,
        PROCESS_START,
    ];
}
