//! What `[[route]]` means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::carriers::{carriers, check_cookies, origins, parse_origin};
use super::closes::codes;
use super::demands::demands;
use super::door::{first_message, reject};
use super::file;
use super::files::Context;
use super::http::http;
use super::identity::{introduction, note_in_clear};
use super::issuers::Issuers;
use super::policies::{crowds, policies};
use super::problem::{Place, Placed, Problem, nearest, suggest};
use super::renewal::renewal;
use super::server::{duration, name, positive};
use super::services::{Services, upstream};
use crate::gateway::path::ambiguity;
use crate::gateway::route::{Rewrite, Route};
use crate::jwks::Waiting;
use crate::stream::Limits;
use crate::token::Verifier;
use crate::token::verify::Issuer;

/// The routes, and the verifier of each under the route's name.
pub(super) struct Routes {
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) verifiers: Vec<(Arc<str>, Arc<Verifier>)>,
}

/// `known` are all names of issuers, also of those that have mistakes of their own.
pub(super) fn routes(
    typed: &[file::Route],
    from: &Issuers,
    known: &[&str],
    services: &Services,
    context: &Context<'_>,
) -> Routes {
    let issuers = &from.all;
    let mut names = BTreeMap::new();
    let mut places: BTreeMap<(String, String), Place> = BTreeMap::new();
    let mut all = Routes { routes: Vec::new(), verifiers: Vec::new() };
    for typed in typed {
        let name: Option<Arc<str>> = name(typed.name.as_ref(), "route", &mut names, context).map(Into::into);
        let hosts = hosts(typed.hosts.as_ref(), context);
        let path = path(typed.path.as_ref(), context);
        let place = typed.path.as_ref().map(|path| &path.place).or(typed.hosts.as_ref().map(|hosts| &hosts.place));
        let place = place.unwrap_or(&typed.place);
        for host in &hosts {
            if let Some(first) = places.insert((host.clone(), path.clone()), place.clone()) {
                let problem = Problem::new(place, format!("two routes take host `{host}` and path `{path}`"));
                context.add(
                    problem
                        .other(&first, "the first one")
                        .remedy("the second would never be used: change hosts or path"),
                );
            }
        }
        let verifier = Arc::new(Verifier {
            issuers: accepted(typed, issuers, known, context),
            same: same(typed, context),
            demands: demands(&typed.demands, context),
        });
        let carriers = carriers(typed, context);
        let origins = origins(typed.origins.as_ref(), context);
        check_cookies(typed, &carriers, &origins, context);
        let limits = limits(typed, context);
        let (policies, crowds) = (policies(&typed.policies, context), crowds(&typed.policies, context));
        let codes = codes(&typed.close, context);
        let first_message = first_message(typed, &carriers, context);
        let reject = reject(typed.door.reject.as_ref(), context);
        let renewal = renewal(&typed.renewal, context);
        let ticket_lifetime = positive(typed.ticket_lifetime.as_ref(), "ticket_lifetime", 30_000, context);
        let http = http(typed, &carriers, context);
        let introduction = introduction(&typed.introduction, context);
        let (host, origin) = (host(typed.host.as_ref(), context), origin(typed.origin.as_ref(), context));
        let forwarded = forwarded(typed.forwarded.as_ref(), context);
        let upstream = upstream(typed, services, context);
        let (Some(name), Some(upstream)) = (name, upstream) else { continue };
        for endpoint in upstream.endpoints().iter() {
            note_in_clear(&name, &introduction, endpoint.config(), context);
        }
        all.verifiers.push((name.clone(), verifier.clone()));
        all.routes.push(Arc::new(Route {
            name,
            hosts,
            path,
            strict_path: typed.strict_path.as_ref().is_none_or(|strict| strict.value),
            carriers,
            first_message: first_message.map(Arc::new),
            reject,
            judge: Arc::new(Waiting::new(verifier, &from.sources)),
            origins,
            upstream,
            host,
            origin,
            forwarded,
            strip_prefix: typed.strip_prefix.as_ref().is_some_and(|strip| strip.value),
            http,
            introduction,
            limits: limits.into(),
            policies,
            codes: codes.into(),
            renewal,
            ticket_lifetime,
            crowds,
            max_streams: typed.max_streams.as_ref().map(|streams| streams.value).filter(|streams| *streams != 0),
        }));
    }
    all
}

fn hosts(typed: Option<&Placed<Vec<Placed<String>>>>, context: &Context<'_>) -> Vec<String> {
    let Some(list) = typed else { return vec!["*".to_owned()] };
    if list.value.is_empty() {
        let problem = Problem::new(&list.place, "the route takes no host");
        context.add(problem.remedy("leave `hosts` out, or write [\"*\"], to take any"));
    }
    let mut hosts = Vec::new();
    for typed in &list.value {
        let host = typed.value.to_ascii_lowercase();
        let name = host.strip_prefix("*.").unwrap_or(&host);
        let labels = |name: &str| {
            !name.is_empty()
                && name.split('.').all(|label| {
                    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                })
        };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let address = inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        if host == "*" || address || labels(name) {
            hosts.push(host);
        } else {
            let problem = Problem::new(&typed.place, format!("`{}` is no host name", typed.value));
            context.add(
                problem.remedy(
                    "a name without scheme and port: \"chat.example.com\", \"*.example.com\", or \"*\" for any",
                ),
            );
        }
    }
    hosts
}

/// The prefix without a slash at its end, but for the root.
fn path(typed: Option<&Placed<String>>, context: &Context<'_>) -> String {
    let Some(typed) = typed else { return "/".to_owned() };
    let path = typed.value.as_str();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/%".contains(&b);
    let sane = path.bytes().all(plain) && ambiguity(path).is_none();
    if !sane {
        let problem = Problem::new(&typed.place, format!("`{path}` is no path prefix"));
        context.add(
            problem
                .remedy("it begins with \"/\", and has no query, \"//\", dot segment or \";\": for example \"/chat\""),
        );
    }
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

fn accepted(typed: &file::Route, issuers: &[Arc<Issuer>], known: &[&str], context: &Context<'_>) -> Vec<Arc<Issuer>> {
    let Some(list) = &typed.issuers else { return issuers.to_vec() };
    if list.value.is_empty() {
        let problem = Problem::new(&list.place, "the route accepts no issuer, so no token");
        context.add(problem.remedy("leave `issuers` out to accept them all"));
    }
    let mut accepted: Vec<Arc<Issuer>> = Vec::new();
    for typed in &list.value {
        if !known.contains(&typed.value.as_str()) {
            let problem = Problem::new(&typed.place, format!("no [[issuer]] is named `{}`", typed.value));
            context.add(problem.remedy(suggest(&typed.value, known.iter().copied())));
        }
        if let Some(issuer) = issuers.iter().find(|issuer| *issuer.name == *typed.value) {
            if accepted.iter().any(|other| other.name == issuer.name) {
                context.add(Problem::new(&typed.place, format!("the issuer `{}` stands here twice", typed.value)));
            }
            accepted.push(issuer.clone());
        }
    }
    accepted
}

fn same(typed: &file::Route, context: &Context<'_>) -> Vec<String> {
    let Some(list) = &typed.same else { return vec!["iss".to_owned(), "sub".to_owned()] };
    let claims: Vec<String> = list.value.iter().map(|claim| claim.value.clone()).collect();
    if !claims.iter().any(|claim| claim == "iss") {
        let problem = Problem::new(&list.place, "`same` has no \"iss\": two issuers could name the same subject");
        context.add(problem.remedy("for example [\"iss\", \"sub\"]"));
    } else if !claims.iter().any(|claim| claim != "iss" && !claim.is_empty()) {
        let problem = Problem::new(&list.place, "`same` has \"iss\" only: everyone would be the same principal");
        context.add(problem.remedy("add the claim that tells one user from another: [\"iss\", \"sub\"]"));
    }
    claims
}

fn host(typed: Option<&Placed<String>>, context: &Context<'_>) -> Rewrite {
    let check = |value: &str| match value.parse::<http::uri::Authority>() {
        Ok(authority) if !value.contains('@') && !authority.host().is_empty() => Ok(value.to_owned()),
        _ => Err("\"preserve\", \"upstream\", or a name with or without port: \"service.internal\""),
    };
    rewrite(typed, "host", check, context)
}

fn origin(typed: Option<&Placed<String>>, context: &Context<'_>) -> Rewrite {
    rewrite(typed, "origin", parse_origin, context)
}

fn rewrite(
    typed: Option<&Placed<String>>,
    key: &str,
    check: impl Fn(&str) -> Result<String, &'static str>,
    context: &Context<'_>,
) -> Rewrite {
    let Some(typed) = typed else { return Rewrite::Preserve };
    let remedy = match typed.value.as_str() {
        "preserve" => return Rewrite::Preserve,
        "upstream" => return Rewrite::Upstream,
        other => match (nearest(other, ["preserve", "upstream"]), check(other)) {
            (Some(near), _) => format!("did you mean \"{near}\"?"),
            (None, Err(remedy)) => remedy.to_owned(),
            (None, Ok(value)) => match HeaderValue::from_str(&value) {
                Ok(value) => return Rewrite::Fixed(value),
                Err(_) => "only visible ASCII can stand in a header".to_owned(),
            },
        },
    };
    context.add(Problem::new(&typed.place, format!("`{}` cannot be the `{key}`", typed.value)).remedy(remedy));
    Rewrite::Preserve
}

fn forwarded(typed: Option<&Placed<String>>, context: &Context<'_>) -> bool {
    match typed.map(|typed| (typed.value.as_str(), typed)) {
        None | Some(("on", _)) => true,
        Some(("off", _)) => false,
        Some((_, typed)) => {
            context.add(Problem::new(&typed.place, "`forwarded` is neither \"on\" nor \"off\""));
            true
        }
    }
}

fn limits(typed: &file::Route, context: &Context<'_>) -> Limits {
    let default = Limits::default();
    let or = |typed: &Option<Placed<Duration>>, default| typed.as_ref().map_or(default, |typed| typed.value);
    Limits {
        finish_frame: or(&typed.finish_frame, default.finish_frame),
        finish_bytes: typed.finish_bytes.as_ref().map_or(default.finish_bytes, |typed| typed.value),
        close_timeout: positive(typed.close_timeout.as_ref(), "close_timeout", 5_000, context),
        settle: or(&typed.settle, default.settle),
        max_stream: Some(duration(typed.max_stream.as_ref(), 0)).filter(|longest| !longest.is_zero()),
        expiry_notice: duration(typed.renewal.expiry_notice.as_ref(), 0),
    }
}
