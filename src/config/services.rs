//! What `[[upstream]]` means, and the `upstream` of a route: a name of one of them, or a URL of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::uri::PathAndQuery;

use super::demands::claim;
use super::file;
use super::files::Context;
use super::problem::{Place, Placed, Problem, suggest};
use super::server::{name, positive};
use super::upstreams::{Reach, places};
use crate::gateway::path::ambiguity;
use crate::gateway::route::Route;
use crate::upstream::check::Check;
use crate::upstream::endpoint::Rules;
use crate::upstream::health::{Passive, Turns};
use crate::upstream::service::{Balance, Options};
use crate::upstream::{Config, Service};

/// The services that have names.
pub(super) struct Services {
    all: Vec<Arc<Service>>,
    /// All names, also of those that have mistakes of their own.
    known: Vec<String>,
}

pub(super) fn services(typed: &[file::Upstream], context: &Context<'_>) -> Services {
    let mut names = BTreeMap::new();
    let mut services = Services { all: Vec::new(), known: Vec::new() };
    for typed in typed {
        services.known.extend(typed.name.as_ref().map(|name| name.value.clone()));
        let name = name(typed.name.as_ref(), "upstream", &mut names, context);
        let options = options(typed, context);
        let endpoints = endpoints(typed, context);
        if let (Some(name), Some(endpoints)) = (name, endpoints) {
            services.all.push(Arc::new(Service::new(name.into(), options, endpoints)));
        }
    }
    services
}

impl Services {
    /// Notes those that nobody uses.
    pub(super) fn note_unused(&self, routes: &[Arc<Route>], context: &Context<'_>) {
        let used = |service: &Arc<Service>| routes.iter().any(|route| Arc::ptr_eq(&route.upstream, service));
        for name in self.all.iter().filter(|service| !used(service)).filter_map(|service| service.name()) {
            context.report.note(format!("no route uses the upstream {name}"));
        }
    }
}

/// The service of a route, if it is said right.
pub(super) fn upstream(typed: &file::Route, services: &Services, context: &Context<'_>) -> Option<Arc<Service>> {
    let by = Reach {
        urls: "upstream",
        ca: ("upstream_ca", typed.upstream_ca.as_ref()),
        name: ("upstream_name", typed.upstream_name.as_ref()),
        connect_timeout: typed.connect_timeout.as_ref(),
        response_timeout: typed.response_timeout.as_ref(),
    };
    let Some(said) = typed.upstream.as_ref().filter(|said| services.takes(&said.value)) else {
        let places = places(typed.upstream.as_slice(), &by, context)?;
        return places.into_iter().next().map(|config| Arc::new(Service::single(config)));
    };
    let (ca, server_name) = (by.ca.1.map(|typed| &typed.place), by.name.1.map(|typed| &typed.place));
    let times = [by.connect_timeout, by.response_timeout].map(|typed| typed.map(|typed| &typed.place));
    let keys = [
        ("upstream_ca", "ca", ca),
        ("upstream_name", "server_name", server_name),
        ("connect_timeout", "connect_timeout", times[0]),
        ("response_timeout", "response_timeout", times[1]),
    ];
    for (key, there, place) in keys {
        if let Some(place) = place {
            let problem = Problem::new(place, format!("`{key}` counts for a URL of the route's own only"));
            context.add(problem.other(&said.place, "an [[upstream]]").remedy(format!("say `{there}` there")));
        }
    }
    let service = services.all.iter().find(|service| service.name().is_some_and(|name| **name == *said.value));
    if service.is_none() && !services.known.contains(&said.value) {
        // A variable's text is not repeated: it may be something that must not be seen.
        let problem = match &said.place {
            Place::Env(_) => Problem::new(&said.place, "no [[upstream]] is named so"),
            _ => Problem::new(&said.place, format!("no [[upstream]] is named `{}`", said.value)),
        };
        context.add(problem.remedy(suggest(&said.value, services.known.iter().map(String::as_str))));
    }
    service.cloned()
}

impl Services {
    /// Whether this is meant as a name, and not as a URL.
    fn takes(&self, said: &str) -> bool {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !self.known.is_empty() && !said.is_empty() && said.bytes().all(named)
    }
}

fn endpoints(typed: &file::Upstream, context: &Context<'_>) -> Option<Vec<Config>> {
    let by = Reach {
        urls: "endpoints",
        ca: ("ca", typed.ca.as_ref()),
        name: ("server_name", typed.server_name.as_ref()),
        connect_timeout: typed.connect_timeout.as_ref(),
        response_timeout: typed.response_timeout.as_ref(),
    };
    let urls = typed.endpoints.as_ref().map_or(&[][..], |list| &list.value);
    if let Some(list) = typed.endpoints.as_ref().filter(|list| list.value.is_empty()) {
        let problem = Problem::new(&list.place, "`endpoints` is empty: there is nobody to dial");
        context.add(problem.remedy("for example [\"ws://10.0.0.1:9001\", \"ws://10.0.0.2:9001\"]"));
    }
    if let Some(one) = urls.get(MOST_ENDPOINTS) {
        let problem = Problem::new(&one.place, format!("`endpoints` has more than {MOST_ENDPOINTS} members"));
        context.add(problem.remedy("a name that has many addresses is one member"));
        return None;
    }
    let places = places(urls, &by, context).filter(|places| !places.is_empty())?;
    let mut taken: BTreeMap<(&str, u16), &Place> = BTreeMap::new();
    let (first, mut good) = (urls.first()?, true);
    for (config, url) in places.iter().zip(urls) {
        if config.tls.is_some() != places.first()?.tls.is_some() {
            let problem = Problem::new(&url.place, "`endpoints` has both ws:// and wss://");
            context.add(problem.other(&first.place, "another scheme").remedy("one service is reached in one way"));
            good = false;
        }
        if let Some(first) = taken.insert((&config.host, config.port), &url.place) {
            let problem = Problem::new(&url.place, format!("the endpoint `{}` stands here twice", url.value));
            context.add(problem.other(first, "the first one").remedy("take one of them out"));
            good = false;
        }
    }
    good.then_some(places)
}

fn options(typed: &file::Upstream, context: &Context<'_>) -> Options {
    let number = |typed: &Option<Placed<usize>>, default| typed.as_ref().map_or(default, |typed| typed.value);
    let passive = Passive {
        fail_after: small(number(&typed.fail_after, 3)),
        fail_pause: positive(typed.fail_pause.as_ref(), "fail_pause", 10_000, context),
    };
    let max_streams = Some(number(&typed.max_streams, 0)).filter(|most| *most != 0);
    Options {
        balance: balance(typed.balance.as_ref(), context),
        retries: number(&typed.retries, 2),
        rules: Rules { max_streams, passive },
        check: check(&typed.health, context),
        resolve_interval: positive(typed.resolve_interval.as_ref(), "resolve_interval", 30_000, context),
    }
}

fn balance(typed: Option<&Placed<String>>, context: &Context<'_>) -> Balance {
    let Some(typed) = typed else { return Balance::LeastStreams };
    match typed.value.as_str() {
        "least_streams" => Balance::LeastStreams,
        "address" => Balance::Address,
        other => {
            if let Some(name) = other.strip_prefix("claim:") {
                let name = Placed { value: name.to_owned(), place: typed.place.clone() };
                return claim(&name, context).map_or(Balance::LeastStreams, Balance::Claim);
            }
            let problem = Problem::new(&typed.place, format!("`{other}` is no way to choose an endpoint"));
            context.add(problem.remedy(suggest(other, ["least_streams", "address", "claim:sub"])));
            Balance::LeastStreams
        }
    }
}

fn check(typed: &file::Health, context: &Context<'_>) -> Option<Check> {
    let path = typed.path.as_ref().filter(|path| !path.value.is_empty());
    let check = Check {
        path: None,
        interval: positive(typed.interval.as_ref(), "health_interval", 5_000, context),
        timeout: positive(typed.timeout.as_ref(), "health_timeout", 2_000, context),
        turns: Turns {
            rise: typed.rise.as_ref().and_then(|typed| small(typed.value)).unwrap_or(2),
            fall: typed.fall.as_ref().and_then(|typed| small(typed.value)).unwrap_or(3),
        },
    };
    let kind = typed.kind.as_ref().map(|kind| (kind.value.as_str(), &kind.place));
    match (kind, path) {
        (Some(("http", _)), None) => Some(Check { path: Some(PathAndQuery::from_static("/")), ..check }),
        (None | Some(("http", _)), Some(path)) => Some(Check { path: Some(health_path(path, context)?), ..check }),
        (Some(("connect", _)), None) => Some(check),
        (None | Some(("off", _)), None) => None,
        (Some((kind @ ("connect" | "off"), place)), Some(path)) => {
            let problem = Problem::new(&path.place, "`health_path` counts for health = \"http\" only");
            context.add(problem.other(place, format!("\"{kind}\"")).remedy("take one of them out"));
            None
        }
        (Some((other, place)), _) => {
            let problem = Problem::new(place, format!("`{other}` is no kind of check"));
            context.add(problem.remedy(suggest(other, ["off", "connect", "http"])));
            None
        }
    }
}

/// A path with or without a query, as it is asked for.
fn health_path(typed: &Placed<String>, context: &Context<'_>) -> Option<PathAndQuery> {
    let parsed = typed.value.parse::<PathAndQuery>().ok();
    let sane = |path: &PathAndQuery| typed.value.starts_with('/') && ambiguity(path.path()).is_none();
    let path = parsed.filter(sane);
    if path.is_none() {
        let problem = Problem::new(&typed.place, format!("`{}` is no path to ask for", typed.value));
        context.add(problem.remedy("it begins with \"/\", for example \"/healthz\""));
    }
    path
}

/// A number of times; 0 is none.
fn small(number: usize) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number != 0)
}

/// Addresses of one service that are typed by hand.
const MOST_ENDPOINTS: usize = 256;
