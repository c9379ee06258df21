//! The config as it was typed: the keys of `config.toml`, each with its place, nothing decided yet.
//!
//! The reading code below is the one list of keys. serde is not used: it stops at the first mistake, and all of them
//! are to be told in one run.

mod close;
mod demands;
mod introduction;
mod issuer;
mod policies;
mod upstream;

use std::time::Duration;

pub(super) use close::Close;
pub(super) use demands::{Demands, RequiredClaim};
pub(super) use introduction::{Identity, Introduction};
pub(super) use issuer::{Issuer, IssuerKey};
pub(super) use policies::Policies;
pub(super) use upstream::{Health, Upstream};

use super::problem::{Place, Placed, Report};
use super::section::Section;
use super::tree::Table;

/// A key that may be absent.
type Key<T> = Option<Placed<T>>;
/// A list of strings.
type List = Vec<Placed<String>>;

/// The whole file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) server: Server,
    pub(super) log: Log,
    pub(super) probes: Probes,
    pub(super) admin: Admin,
    pub(super) revocation: Revocation,
    pub(super) listeners: Vec<Listener>,
    pub(super) issuers: Vec<Issuer>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) routes: Vec<Route>,
}

/// `[server]`
#[derive(Debug)]
pub(super) struct Server {
    pub(super) workers: Key<usize>,
    pub(super) max_connections: Key<usize>,
    pub(super) max_streams: Key<usize>,
    pub(super) max_requests: Key<usize>,
    pub(super) max_tickets: Key<usize>,
    pub(super) max_waiting: Key<usize>,
    pub(super) max_waiting_per_address: Key<usize>,
    pub(super) handshake_timeout: Key<Duration>,
    pub(super) request_timeout: Key<Duration>,
    pub(super) max_request_head: Key<u64>,
    pub(super) drain_window: Key<Duration>,
    pub(super) drain_timeout: Key<Duration>,
    pub(super) trusted_proxies: Key<List>,
    pub(super) pid_file: Key<String>,
}

/// `[log]`
#[derive(Debug)]
pub(super) struct Log {
    pub(super) level: Key<String>,
    pub(super) format: Key<String>,
}

/// `[probes]`
#[derive(Debug)]
pub(super) struct Probes {
    pub(super) address: Key<String>,
}

/// `[admin]`
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) address: Key<String>,
    pub(super) hosts: Key<List>,
    pub(super) secret_file: Key<String>,
    pub(super) secret_env: Key<String>,
    pub(super) certificate: Key<String>,
    pub(super) key: Key<String>,
    pub(super) client_ca: Key<String>,
}

/// `[revocation]`
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) file: Key<String>,
    pub(super) max_entries: Key<usize>,
}

/// `[[listener]]`
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) place: Place,
    pub(super) name: Key<String>,
    pub(super) address: Key<String>,
    pub(super) certificate: Key<String>,
    pub(super) key: Key<String>,
    pub(super) more_certificates: Vec<Certificate>,
    pub(super) plaintext: Key<bool>,
    pub(super) http2: Key<bool>,
}

/// One of `more_certificates`.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) certificate: Key<String>,
    pub(super) key: Key<String>,
}

/// `[[route]]`
#[derive(Debug)]
pub(super) struct Route {
    pub(super) place: Place,
    pub(super) name: Key<String>,
    pub(super) hosts: Key<List>,
    pub(super) path: Key<String>,
    pub(super) upstream: Key<String>,
    pub(super) upstream_ca: Key<String>,
    pub(super) upstream_name: Key<String>,
    pub(super) connect_timeout: Key<Duration>,
    pub(super) response_timeout: Key<Duration>,
    pub(super) issuers: Key<List>,
    pub(super) carriers: Key<List>,
    pub(super) subprotocol_prefix: Key<String>,
    pub(super) subprotocol_k8s_prefix: Key<String>,
    pub(super) door: Door,
    pub(super) origins: Key<List>,
    pub(super) same: Key<List>,
    pub(super) demands: Demands,
    pub(super) host: Key<String>,
    pub(super) origin: Key<String>,
    pub(super) forwarded: Key<String>,
    pub(super) strip_prefix: Key<bool>,
    pub(super) strict_path: Key<bool>,
    pub(super) http: Http,
    pub(super) introduction: Introduction,
    pub(super) max_streams: Key<usize>,
    pub(super) max_stream: Key<Duration>,
    pub(super) renewal: Renewal,
    pub(super) ticket_lifetime: Key<Duration>,
    pub(super) finish_frame: Key<Duration>,
    pub(super) finish_bytes: Key<u64>,
    pub(super) close_timeout: Key<Duration>,
    pub(super) settle: Key<Duration>,
    pub(super) policies: Policies,
    pub(super) close: Close,
}

/// What a route says of first messages, and of how refusals are told.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) first_message: Option<FirstMessage>,
    pub(super) first_message_cap: Key<u64>,
    pub(super) auth_timeout: Key<Duration>,
    pub(super) subprotocols: Key<List>,
    pub(super) reject: Key<String>,
}

/// What a route says of plain HTTP.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) access: Key<String>,
    pub(super) response_timeout: Key<Duration>,
    pub(super) upload_timeout: Key<Duration>,
}

/// `first_message` of a route.
#[derive(Debug)]
pub(super) struct FirstMessage {
    pub(super) place: Place,
    pub(super) pointer: Key<String>,
    pub(super) kind: Key<String>,
    pub(super) type_at: Key<String>,
    pub(super) forward: Key<bool>,
}

/// What a route says of renewals.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) renew: Key<bool>,
    pub(super) renew_in_band: Key<String>,
    pub(super) prefix: Key<String>,
    pub(super) interval: Key<Duration>,
    pub(super) max_renewals: Key<usize>,
    pub(super) allow_shorter: Key<bool>,
    pub(super) expiry_notice: Key<Duration>,
}

/// Reads the tree key by key.
pub(super) fn read(root: &Table, report: &Report) -> File {
    let mut top = Section::new(root, Place::Whole, "", "the config", report);
    let server = server(top.table_or_empty("server", "server", "[server]"));
    let log = log(top.table_or_empty("log", "log", "[log]"));
    let probes = probes(top.table_or_empty("probes", "probes", "[probes]"));
    let admin = admin(top.table_or_empty("admin", "admin", "[admin]"));
    let revocation = revocation(top.table_or_empty("revocation", "revocation", "[revocation]"));
    let listeners = top.tables("listener", "listener", "[[listener]]");
    if listeners.is_none() && !root.contains_key("listener") {
        top.missing_section("[[listener]]", "name, address, certificate and key");
    }
    let issuers = top.tables("issuer", "issuer", "[[issuer]]");
    if issuers.is_none() && !root.contains_key("issuer") {
        top.missing_section("[[issuer]]", "a name and a [[issuer.key]]");
    }
    let upstreams = top.table_list("upstream", "upstream", "[[upstream]]");
    let routes = top.tables("route", "route", "[[route]]");
    if routes.is_none() && !root.contains_key("route") {
        top.missing_section("[[route]]", "a name and an upstream");
    }
    let listeners = listeners.unwrap_or_default().into_iter().map(listener).collect();
    let issuers = issuers.unwrap_or_default().into_iter().map(issuer::issuer).collect();
    let upstreams = upstreams.into_iter().map(upstream::upstream).collect();
    let routes = routes.unwrap_or_default().into_iter().map(route).collect();
    top.finish();
    File { server, log, probes, admin, revocation, listeners, issuers, upstreams, routes }
}

fn server(mut s: Section<'_>) -> Server {
    let server = Server {
        workers: s.number("workers", 0, 1024, 4),
        max_connections: s.number("max_connections", 1, 10_000_000, 10_000),
        max_streams: s.number("max_streams", 0, 10_000_000, 5_000),
        max_requests: s.number("max_requests", 1, 10_000_000, 10_000),
        max_tickets: s.number("max_tickets", 1, 10_000_000, 10_000),
        max_waiting: s.number("max_waiting", 1, 10_000_000, 1_000),
        max_waiting_per_address: s.number("max_waiting_per_address", 1, 10_000_000, 100),
        handshake_timeout: s.duration("handshake_timeout"),
        request_timeout: s.duration("request_timeout"),
        max_request_head: s.size("max_request_head"),
        drain_window: s.duration("drain_window"),
        drain_timeout: s.duration("drain_timeout"),
        trusted_proxies: s.texts("trusted_proxies", "[\"10.0.0.0/8\"]"),
        pid_file: s.text("pid_file", "\"/run/portcullis.pid\""),
    };
    s.finish();
    server
}

fn log(mut s: Section<'_>) -> Log {
    let log = Log { level: s.text("level", "\"info\""), format: s.text("format", "\"auto\"") };
    s.finish();
    log
}

fn probes(mut s: Section<'_>) -> Probes {
    let probes = Probes { address: s.text("address", "\"0.0.0.0:9090\"") };
    s.finish();
    probes
}

fn admin(mut s: Section<'_>) -> Admin {
    let admin = Admin {
        address: s.text("address", "\"127.0.0.1:9443\""),
        hosts: s.texts("hosts", "[\"gateway.internal\"]"),
        secret_file: s.secret_source("secret_file", "\"certs/admin.secret\""),
        secret_env: s.secret_source("secret_env", "\"ADMIN_SECRET\""),
        certificate: s.text("certificate", "\"certs/cert.pem\""),
        key: s.text("key", "\"certs/key.pem\""),
        client_ca: s.text("client_ca", "\"certs/operators.pem\""),
    };
    s.finish();
    admin
}

fn revocation(mut s: Section<'_>) -> Revocation {
    let revocation = Revocation {
        file: s.text("file", "\"/var/lib/portcullis/revocations\""),
        max_entries: s.number("max_entries", 1, 10_000_000, 100_000),
    };
    s.finish();
    revocation
}

fn listener(mut s: Section<'_>) -> Listener {
    let more = s.table_list("more_certificates", "listener.more_certificates", "more_certificates");
    let listener = Listener {
        place: s.place.clone(),
        name: s.needed("name", "\"public\""),
        address: s.needed("address", "\"127.0.0.1:8443\""),
        certificate: s.text("certificate", "\"certs/cert.pem\""),
        key: s.text("key", "\"certs/key.pem\""),
        more_certificates: more.into_iter().map(certificate).collect(),
        plaintext: s.boolean("plaintext"),
        http2: s.boolean("http2"),
    };
    s.finish();
    listener
}

fn certificate(mut s: Section<'_>) -> Certificate {
    let pair = Certificate {
        certificate: s.needed("certificate", "\"certs/other.pem\""),
        key: s.needed("key", "\"certs/other-key.pem\""),
    };
    s.finish();
    pair
}

fn route(mut s: Section<'_>) -> Route {
    let close = s.table("close", "route.close", "close", CLOSE).map(close::close).unwrap_or_default();
    let route = Route {
        place: s.place.clone(),
        name: s.needed("name", "\"default\""),
        hosts: s.texts("hosts", "[\"chat.example.com\"]"),
        path: s.text("path", "\"/chat\""),
        upstream: s.needed("upstream", "\"ws://127.0.0.1:9001\""),
        upstream_ca: s.text("upstream_ca", "\"certs/upstream-ca.pem\""),
        upstream_name: s.text("upstream_name", "\"service.internal\""),
        connect_timeout: s.duration("connect_timeout"),
        response_timeout: s.duration("response_timeout"),
        issuers: s.texts("issuers", "[\"default\"]"),
        carriers: s.texts("carriers", "[\"query:access_token\", \"header\"]"),
        subprotocol_prefix: s.text("subprotocol_prefix", "\"bearer.\""),
        subprotocol_k8s_prefix: s.text("subprotocol_k8s_prefix", "\"base64url.bearer.authorization.k8s.io.\""),
        door: door(&mut s),
        origins: s.texts("origins", "[\"https://app.example.com\"]"),
        same: s.texts("same", "[\"iss\", \"sub\"]"),
        demands: demands::demands(&mut s, "route.required_claims"),
        host: s.text("host", "\"preserve\""),
        origin: s.text("origin", "\"preserve\""),
        forwarded: s.text("forwarded", "\"on\""),
        strip_prefix: s.boolean("strip_prefix"),
        strict_path: s.boolean("strict_path"),
        http: http(&mut s),
        introduction: introduction::introduction(&mut s),
        max_streams: s.number("max_streams", 0, 10_000_000, 5_000),
        max_stream: s.duration("max_stream"),
        renewal: renewal(&mut s),
        ticket_lifetime: s.duration("ticket_lifetime"),
        finish_frame: s.duration("finish_frame"),
        finish_bytes: s.size("finish_bytes"),
        close_timeout: s.duration("close_timeout"),
        settle: s.duration("settle"),
        policies: policies::policies(&mut s),
        close,
    };
    s.finish();
    route
}

fn http(s: &mut Section<'_>) -> Http {
    Http {
        access: s.text("http", "\"require\""),
        response_timeout: s.duration("http_response_timeout"),
        upload_timeout: s.duration("http_upload_timeout"),
    }
}

fn door(s: &mut Section<'_>) -> Door {
    Door {
        first_message: s.table("first_message", "route.first_message", "first_message", FIRST).map(first_message),
        first_message_cap: s.size("first_message_cap"),
        auth_timeout: s.duration("auth_timeout"),
        subprotocols: s.texts("subprotocols", "[\"graphql-transport-ws\"]"),
        reject: s.text("reject", "\"close\""),
    }
}

fn first_message(mut s: Section<'_>) -> FirstMessage {
    let message = FirstMessage {
        place: s.place.clone(),
        pointer: s.text("pointer", "\"/payload/token\""),
        kind: s.text("type", "\"connection_init\""),
        type_at: s.text("type_at", "\"/type\""),
        forward: s.boolean("forward"),
    };
    s.finish();
    message
}

fn renewal(s: &mut Section<'_>) -> Renewal {
    Renewal {
        renew: s.boolean("renew"),
        renew_in_band: s.text("renew_in_band", "\"consume\""),
        prefix: s.text("renewal_prefix", "\"renew:\""),
        interval: s.duration("renewal_interval"),
        max_renewals: s.number("max_renewals", 0, 1_000_000_000, 1_000),
        allow_shorter: s.boolean("allow_shorter"),
        expiry_notice: s.duration("expiry_notice"),
    }
}

const CLOSE: &str = "{ drain = { code = 1012, reason = \"service restart\" } }";
const FIRST: &str = "{ pointer = \"/payload/token\", type = \"connection_init\" }";
