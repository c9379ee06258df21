//! What `[server]`, `[log]` and `[[listener]]` mean.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::Server;
use super::file;
use super::files::Context;
use super::problem::{Place, Placed, Problem, suggest};
use crate::clock::Clock;
use crate::gateway::waiting;
use crate::listen::validity::{Validity, covers};
use crate::listen::{self, ListenError};
use crate::telemetry::log;

pub(super) fn server(typed: &file::Server, context: &Context<'_>) -> Server {
    let value = |key: &Option<Placed<usize>>, default| key.as_ref().map_or(default, |typed| typed.value);
    let default = waiting::Caps::default();
    let server = Server {
        workers: match value(&typed.workers, 0) {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        },
        max_connections: value(&typed.max_connections, 10_000),
        max_streams: Some(value(&typed.max_streams, 0)).filter(|streams| *streams != 0),
        max_requests: value(&typed.max_requests, 10_000),
        max_tickets: value(&typed.max_tickets, 10_000),
        waiting: waiting::Caps {
            total: value(&typed.max_waiting, default.total),
            per_address: value(&typed.max_waiting_per_address, default.per_address),
        },
        handshake_timeout: positive(typed.handshake_timeout.as_ref(), "handshake_timeout", 10_000, context),
        request_timeout: positive(typed.request_timeout.as_ref(), "request_timeout", 10_000, context),
        max_request_head: max_request_head(typed, context),
        drain_window: duration(typed.drain_window.as_ref(), 2_000),
        drain_timeout: duration(typed.drain_timeout.as_ref(), 15_000),
        trusted_proxies: trusted_proxies(typed, context),
        pid_file: typed.pid_file.as_ref().filter(|file| !file.value.is_empty()).map(|file| context.path(&file.value)),
    };
    if server.drain_timeout < server.drain_window {
        let (window, timeout) = (typed.drain_window.as_ref(), typed.drain_timeout.as_ref());
        if let Some(at) = timeout.or(window) {
            let (long, short) = (server.drain_window, server.drain_timeout);
            let message = format!("`drain_timeout` is shorter than `drain_window`: {short:?} < {long:?}");
            let mut problem = Problem::new(&at.place, message);
            if let (Some(window), Some(_)) = (window, timeout) {
                problem = problem.other(&window.place, "the Closes are spread over this time");
            }
            context
                .add(problem.remedy("the process would leave before every stream was told: make drain_timeout longer"));
        }
    }
    server
}

fn max_request_head(typed: &file::Server, context: &Context<'_>) -> usize {
    let Some(typed) = &typed.max_request_head else { return 32 * 1024 };
    match usize::try_from(typed.value) {
        Ok(size) if (LEAST_HEAD..=LARGEST_HEAD).contains(&size) => size,
        Ok(size) if size < LEAST_HEAD => {
            let problem = Problem::new(&typed.place, "`max_request_head` is too small: a token of 8 KiB must fit");
            context.add(problem.remedy("at least \"16KiB\""));
            LEAST_HEAD
        }
        _ => {
            context.add(Problem::new(&typed.place, "`max_request_head` is too large").remedy("at most \"1MiB\""));
            LARGEST_HEAD
        }
    }
}

fn trusted_proxies(typed: &file::Server, context: &Context<'_>) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for typed in typed.trusted_proxies.iter().flat_map(|list| &list.value) {
        let address = typed.value.parse::<IpAddr>().map(IpNet::from);
        match address.or_else(|_| typed.value.parse::<IpNet>()) {
            Ok(net) => nets.push(net),
            Err(_) => context.add(
                Problem::new(&typed.place, format!("`{}` is no address and no network", typed.value))
                    .remedy("for example \"10.1.2.3\", \"10.0.0.0/8\" or \"fd00::/8\""),
            ),
        }
    }
    nets
}

pub(super) fn log(typed: &file::Log, context: &Context<'_>) -> log::Config {
    let mut config = log::Config::default();
    if let Some(typed) = &typed.level {
        match typed.value.parse::<tracing::Level>() {
            Ok(level) if LEVELS.contains(&typed.value.as_str()) => config.level = level,
            _ => context.add(
                Problem::new(&typed.place, format!("`{}` is no log level", typed.value))
                    .remedy(suggest(&typed.value, LEVELS)),
            ),
        }
    }
    if let Some(typed) = &typed.format {
        match typed.value.as_str() {
            "auto" => config.format = log::Format::Auto,
            "text" => config.format = log::Format::Text,
            "json" => config.format = log::Format::Json,
            other => context.add(
                Problem::new(&typed.place, format!("`{other}` is no log format"))
                    .remedy(suggest(other, ["auto", "text", "json"])),
            ),
        }
    }
    config
}

/// The listeners, and the leaf certificates of all of them.
pub(super) fn listeners(typed: &[file::Listener], context: &Context<'_>) -> (Vec<listen::Config>, Vec<Leaf>) {
    let mut leaves = Vec::new();
    let mut names = BTreeMap::new();
    let mut addresses: BTreeMap<SocketAddr, Place> = BTreeMap::new();
    let mut listeners = Vec::new();
    for typed in typed {
        let name = name(typed.name.as_ref(), "listener", &mut names, context);
        let certificates = certificates(typed, &mut leaves, context);
        let Some(address) = &typed.address else { continue };
        let Ok(parsed) = address.value.parse::<SocketAddr>() else {
            let problem = Problem::new(&address.place, format!("`{}` is no address to listen on", address.value));
            context.add(problem.remedy(
                "an IP address and a port: \"127.0.0.1:8443\", \"0.0.0.0:443\" for every interface, \"[::]:443\" for IPv6",
            ));
            continue;
        };
        if let Some(first) = addresses.get(&parsed).filter(|_| parsed.port() != 0) {
            let problem = Problem::new(&address.place, format!("two listeners have the address {parsed}"));
            context.add(problem.other(first, "the first one").remedy("give each listener an address of its own"));
            continue;
        }
        addresses.insert(parsed, address.place.clone());
        if let Some(name) = name {
            let http2 = typed.http2.as_ref().is_none_or(|http2| http2.value);
            listeners.push(listen::Config { name, address: parsed, certificates, http2 });
        }
    }
    (listeners, leaves)
}

fn certificates(
    typed: &file::Listener,
    leaves: &mut Vec<Leaf>,
    context: &Context<'_>,
) -> Option<Vec<listen::CertificateFiles>> {
    if typed.plaintext.as_ref().is_some_and(|plaintext| plaintext.value) {
        let more = typed.more_certificates.iter().map(|pair| pair.certificate.as_ref());
        for certificate in [typed.certificate.as_ref(), typed.key.as_ref()].into_iter().chain(more).flatten() {
            let at = typed.plaintext.as_ref().map_or(Place::Whole, |plaintext| plaintext.place.clone());
            context.add(
                Problem::new(&certificate.place, "a plaintext listener has no use for certificate and key")
                    .other(&at, "plaintext is asked for here")
                    .remedy("take certificate and key out, or plaintext = true"),
            );
        }
        return None;
    }
    for (key, typed_key, example) in
        [("certificate", &typed.certificate, "\"certs/cert.pem\""), ("key", &typed.key, "\"certs/key.pem\"")]
    {
        if typed_key.is_none() {
            let problem = Problem::new(&typed.place, format!("[[listener]] has no `{key}`"));
            context.add(problem.remedy(format!(
                "add a line: {key} = {example} (`portcullis cert` makes a pair for a first try); behind another TLS end: plaintext = true"
            )));
        }
    }
    let first = (typed.certificate.as_ref(), typed.key.as_ref());
    let more = typed.more_certificates.iter().map(|pair| (pair.certificate.as_ref(), pair.key.as_ref()));
    Some(
        std::iter::once(first)
            .chain(more)
            .filter_map(|(cert, key)| certificate(cert?, key?, leaves, context))
            .collect(),
    )
}

/// A pair whose files are there, can be read and belong together.
pub(super) fn certificate(
    certificate: &Placed<String>,
    key: &Placed<String>,
    leaves: &mut Vec<Leaf>,
    context: &Context<'_>,
) -> Option<listen::CertificateFiles> {
    let remedy = "`portcullis cert` makes a pair for a first try in certs/";
    let chain = context.read(certificate, "the certificate", remedy);
    let private = context.read(key, "the key", remedy);
    chain.and(private)?;
    let (certificate_path, key_path) = (context.path(&certificate.value), context.path(&key.value));
    let files = listen::CertificateFiles { certificate: certificate_path, key: key_path };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let error = match listen::certificates::load(&files, &provider) {
        Ok(certified) => {
            if let Some(leaf) = certified.cert.first() {
                let now = Clock::system().now().wall;
                if let Some(note) = Validity::of(leaf).and_then(|validity| validity.note(&certificate.value, now)) {
                    context.report.note(note);
                }
                leaves.push(leaf.clone());
            }
            return Some(files);
        }
        Err(error) => error,
    };
    let problem = match &error {
        ListenError::EncryptedKey { .. } | ListenError::NoKey { .. } | ListenError::UnusableKey { .. } => {
            Problem::new(&key.place, error.to_string())
        }
        ListenError::Mismatch { .. } => {
            Problem::new(&key.place, error.to_string()).other(&certificate.place, "this certificate")
        }
        ListenError::Read { path, .. } if *path == files.key => Problem::new(&key.place, error.to_string()),
        ListenError::Read { .. }
        | ListenError::BadCertificate { .. }
        | ListenError::Bind { .. }
        | ListenError::NoCertificate { .. }
        | ListenError::Tls(_) => Problem::new(&certificate.place, error.to_string()),
    };
    context.add(problem.remedy(remedy));
    None
}

/// Notes the hosts that routes name and no certificate covers. Without TLS there is nothing to cover.
pub(super) fn note_uncovered(hosts: &[&str], leaves: &[Leaf], context: &Context<'_>) {
    if leaves.is_empty() {
        return;
    }
    for host in hosts.iter().filter(|host| !host.starts_with('*')) {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if !leaves.iter().any(|leaf| covers(leaf, bare)) {
            context.report.note(format!("no certificate covers the route's host {host}"));
        }
    }
}

/// A name that is sane and not taken, else a problem.
pub(super) fn name(
    typed: Option<&Placed<String>>,
    section: &str,
    taken: &mut BTreeMap<String, Place>,
    context: &Context<'_>,
) -> Option<String> {
    let typed = typed?;
    let name = &typed.value;
    let sane = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !super::tree::fold(name).contains("__")
        && name.len() <= 64;
    if !sane {
        let problem = Problem::new(&typed.place, format!("`{name}` cannot be the name of a [[{section}]]"));
        context.add(problem.remedy(
            "1 to 64 letters, digits, \"-\", \"_\" and \".\", with a letter or digit first, last and after each of them",
        ));
        return None;
    }
    if let Some(first) = taken.get(name) {
        let problem = Problem::new(&typed.place, format!("two [[{section}]] are named `{name}`"));
        context.add(
            problem
                .other(first, "the first one")
                .remedy("names are unique: live streams, logs and variables go by them"),
        );
        return None;
    }
    taken.insert(name.clone(), typed.place.clone());
    Some(name.clone())
}

/// The typed time, else the default in milliseconds.
pub(super) fn duration(typed: Option<&Placed<Duration>>, default: u64) -> Duration {
    typed.map_or(Duration::from_millis(default), |typed| typed.value)
}

/// The same for a time that may not be zero.
pub(super) fn positive(typed: Option<&Placed<Duration>>, key: &str, default: u64, context: &Context<'_>) -> Duration {
    if let Some(typed) = typed.filter(|typed| typed.value.is_zero()) {
        let problem = Problem::new(&typed.place, format!("`{key}` cannot be zero: every wait has an end"));
        context.add(
            problem
                .remedy(format!("the default is \"{}\"", humantime::format_duration(Duration::from_millis(default)))),
        );
    }
    duration(typed, default)
}

/// A listener's own certificate, the first one of its chain.
type Leaf = rustls::pki_types::CertificateDer<'static>;

/// A token of 8 KiB and the other headers of a browser.
const LEAST_HEAD: usize = 16 * 1024;
/// More is held for each connection that is in its handshake.
const LARGEST_HEAD: usize = 1024 * 1024;
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
