//! What was typed and what it means.
//!
//! Owns the way from `config.toml` and the environment to a [`Config`] in which nothing is left open, or to all
//! [`Problems`] at once. It opens no port and keeps no file open; `app` runs what stands here.
//!
//! Two layers: `tree`, `section` and `file` hold what was typed, each value with its place; `server`, `issuers`,
//! `services`, `routes` and `upstreams` make of it what it means.

mod admin;
mod carriers;
mod closes;
mod demands;
mod door;
mod file;
mod files;
mod http;
mod identity;
mod issuers;
mod key_sets;
mod policies;
mod problem;
mod renewal;
mod routes;
mod section;
mod server;
mod services;
mod tree;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use carriers::parse_carrier;
pub(crate) use files::{said, trim_newline};
pub use problem::{Place, Placed, Problem, Problems};

use crate::gateway::route::Route;
use crate::gateway::waiting;
use crate::jwks::Source;
use crate::listen;
use crate::secret::Secret;
use crate::token::Verifier;
use crate::token::keys::Algorithm;
use crate::token::verify::Issuer;
use files::Context;
use problem::{Report, nearest};

/// The whole config, checked: nothing in it is optional that must be there.
pub struct Config {
    /// Process-wide settings.
    pub server: Server,
    /// What is listened on.
    pub listeners: Vec<listen::Config>,
    /// The routes.
    pub routes: Vec<Arc<Route>>,
    /// The judge of each route under the route's name, in the order of `routes`: for explanations.
    pub verifiers: Vec<(Arc<str>, Arc<Verifier>)>,
    /// The issuers.
    pub issuers: Vec<Arc<Issuer>>,
    /// Where their key sets come from.
    pub sources: Vec<Arc<Source>>,
    /// The shared secrets of the issuers: with these, tokens can be made.
    pub signing: Vec<SigningKey>,
    /// The probes and admin listeners.
    pub admin: crate::admin::Config,
    /// Where revocations are kept.
    pub revocation: crate::revocation::Config,
    /// How logs are written.
    pub log: crate::telemetry::log::Config,
    /// What is no mistake, but should be known: keys of a set that are not used, and why.
    pub notes: Vec<String>,
}

/// Process-wide settings.
#[derive(Clone, Debug)]
pub struct Server {
    /// Runtime threads; already resolved, at least 1.
    pub workers: usize,
    /// Connections at a time, whatever their state.
    pub max_connections: usize,
    /// Streams at a time; `None` for no limit of its own.
    pub max_streams: Option<usize>,
    /// Plain requests that are passed on at a time.
    pub max_requests: usize,
    /// Tickets that were handed out and not used, at a time.
    pub max_tickets: usize,
    /// Streams that wait for their first message, or for the end of their refusal.
    pub waiting: waiting::Caps,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the request head.
    pub request_timeout: Duration,
    /// Largest request head, bytes.
    pub max_request_head: usize,
    /// Over how long the Closes are spread when the gateway leaves.
    pub drain_window: Duration,
    /// When the gateway leaves even if streams are still there, counted from the signal.
    pub drain_timeout: Duration,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Where the process id is written, for `portcullis reload`.
    pub pid_file: Option<PathBuf>,
}

/// A shared secret of an issuer.
#[derive(Clone, Debug)]
pub struct SigningKey {
    /// The issuer's name in the config.
    pub issuer: Arc<str>,
    /// The algorithm that it counts for: HS256, HS384 or HS512.
    pub algorithm: Algorithm,
    /// The name that tokens give the key, if it has one.
    pub kid: Option<String>,
    /// The secret.
    pub secret: Secret,
}

/// Reads the config file at `path` with `env` over it.
pub fn load(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Config, Problems> {
    let name = path.display().to_string();
    let text = std::fs::read(path).map_err(|error| {
        let remedy = "name the file with --config, or run in the folder that has a config.toml";
        Problems::unreadable(&name, format!("cannot read the config {name}: {}", said(&error)), remedy)
    })?;
    let text = String::from_utf8(text).map_err(|error| {
        let message = format!("the config is not UTF-8 (byte {})", error.utf8_error().valid_up_to());
        Problems::unreadable(&name, message, "save the file as UTF-8")
    })?;
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&text, &name, base, env)
}

/// Reads a config that is called `name` in messages; relative paths in it are relative to `base`.
pub fn parse(
    text: &str,
    name: &str,
    base: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, Problems> {
    read(text, name, base, env).0
}

/// The environment of this process, without what is not UTF-8.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Every key that the config knows, such as `route.upstream` and `route.close.expired`, as the reading of `text` has
/// asked for them; a text that uses every table gets all of them.
pub fn keys(text: &str) -> BTreeSet<String> {
    read(text, "", Path::new(""), std::iter::empty()).1
}

fn read(
    text: &str,
    name: &str,
    base: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> (Result<Config, Problems>, BTreeSet<String>) {
    let env: BTreeMap<String, String> = env.collect();
    let report = Report::default();
    let mut root = tree::parse(text, &report);
    let broken = report.len();
    let stray = tree::overlay(&mut root, &env);
    let file = file::read(&root, &report);
    // What else there is to say of a text that is not TOML may be untrue. It was read even so, because that tells
    // which of its lines may hold a secret.
    if broken > 0 {
        report.truncate(broken);
        let keys = report.keys();
        return (Err(report.into_problems(name, text)), keys);
    }
    report_stray(stray, &file, &report);
    let context = Context { base, env: &env, report: &report };
    let config = mean(&file, &context);
    let keys = report.keys();
    if report.is_empty() {
        return (Ok(config), keys);
    }
    (Err(report.into_problems(name, text)), keys)
}

fn mean(file: &file::File, context: &Context<'_>) -> Config {
    let server = server::server(&file.server, context);
    let log = server::log(&file.log, context);
    let (listeners, leaves) = server::listeners(&file.listeners, context);
    let issuers = issuers::issuers(&file.issuers, context);
    let known: Vec<&str> = file.issuers.iter().filter_map(|typed| Some(typed.name.as_ref()?.value.as_str())).collect();
    let services = services::services(&file.upstreams, context);
    let routes::Routes { routes, verifiers } = routes::routes(&file.routes, &issuers, &known, &services, context);
    services.note_unused(&routes, context);
    let hosts: Vec<&str> = routes.iter().flat_map(|route| &route.hosts).map(String::as_str).collect();
    server::note_uncovered(&hosts, &leaves, context);
    let (admin, revocation) = (admin::admin(file, context), admin::revocation(&file.revocation, context));
    let notes = context.report.notes();
    let issuers::Issuers { all: issuers, sources, signing } = issuers;
    Config { server, listeners, routes, verifiers, issuers, sources, signing, admin, revocation, log, notes }
}

/// Variables of our prefix that set nothing are mistakes, unless the config names them as the place of a secret.
fn report_stray(stray: Vec<tree::Stray>, file: &file::File, report: &Report) {
    let keys = file.issuers.iter().flat_map(|issuer| &issuer.keys);
    let named = keys.flat_map(|key| [&key.secret_env, &key.pem_env]).flatten();
    let named = named.chain(&file.admin.secret_env).map(|name| name.value.as_str()).collect::<BTreeSet<_>>();
    let variables = variables(file, &report.keys());
    for stray in stray.into_iter().filter(|stray| !named.contains(stray.variable.as_str())) {
        let near = || {
            nearest(&stray.variable, variables.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"))
        };
        let remedy = stray.remedy.or_else(near).unwrap_or_else(|| {
            "PORTCULLIS_, then the path of the key with \"__\" between its parts: PORTCULLIS_SERVER__WORKERS".to_owned()
        });
        report.add(Problem::new(&Place::Env(stray.variable), stray.message).remedy(remedy));
    }
}

/// The names of all variables that would set a key of this file.
fn variables(file: &file::File, keys: &BTreeSet<String>) -> Vec<String> {
    let mut variables = vec!["PORTCULLIS_CONFIG".to_owned()];
    for key in keys {
        let Some((section, rest)) = key.split_once('.') else { continue };
        let names: Vec<&str> = match section {
            "listener" => file.listeners.iter().filter_map(|typed| Some(typed.name.as_ref()?.value.as_str())).collect(),
            "issuer" => file.issuers.iter().filter_map(|typed| Some(typed.name.as_ref()?.value.as_str())).collect(),
            "upstream" => file.upstreams.iter().filter_map(|typed| Some(typed.name.as_ref()?.value.as_str())).collect(),
            "route" => file.routes.iter().filter_map(|typed| Some(typed.name.as_ref()?.value.as_str())).collect(),
            _ => Vec::new(),
        };
        // Keys of an issuer have no names: they go by their number.
        let rest = match (section, rest.strip_prefix("key.")) {
            ("issuer", Some(key)) => format!("key__0__{key}"),
            _ => rest.replace('.', "__"),
        };
        if !tree::NAMED.contains(&section) {
            variables.push(format!("PORTCULLIS_{section}__{rest}").to_uppercase());
        }
        for name in names {
            variables.push(format!("PORTCULLIS_{section}__{}__{rest}", tree::fold(name)).to_uppercase());
        }
    }
    variables
}
