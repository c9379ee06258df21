//! What an issuer says of the key set that is fetched: where it is, and how often it is looked at.

use std::time::Duration;

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, suggest};
use super::server::{duration, positive};
use super::upstreams::roots;
use crate::fetch::{Fetcher, Url, discovery};
use crate::jwks::{Config, Origin};
use crate::secret;
use crate::token::keys::SetRules;

/// The source of an issuer's key set, if it has one; `Err` if it has, but what is said of it is wrong.
pub(super) fn key_set(typed: &file::Issuer, rules: SetRules, context: &Context<'_>) -> Result<Option<Config>, ()> {
    let set = &typed.set;
    let origin = origin(typed, context);
    let far = set.url.is_some() || set.discovery.is_some();
    for (key, typed) in [("jwks_ca", &set.ca), ("jwks_bearer_file", &set.bearer_file)] {
        if let Some(typed) = typed.as_ref().filter(|_| !far) {
            let problem = Problem::new(&typed.place, format!("`{key}` counts for keys that are fetched"));
            context.add(problem.remedy("add `discovery` or `jwks_url`, or take the key out"));
        }
    }
    let close_on_removal = match set.on_key_removed.as_ref().map(|typed| (typed, typed.value.as_str())) {
        None | Some((_, "keep")) => false,
        Some((_, "close")) => true,
        Some((typed, other)) => {
            let problem = Problem::new(&typed.place, format!("`{other}` is no choice for `on_key_removed`"));
            context.add(problem.remedy(suggest(other, ["keep", "close"])));
            false
        }
    };
    if let Some(typed) = set.on_key_removed.as_ref().filter(|_| close_on_removal && !set.is_there()) {
        let problem = Problem::new(&typed.place, "`on_key_removed` counts for the keys of a set, and there is none");
        context.add(problem.remedy("add `discovery`, `jwks_url` or `jwks_file`, or take the key out"));
    }
    let min_refresh = positive(set.min_refresh.as_ref(), "jwks_min_refresh", 60_000, context);
    let max_refresh = duration(set.max_refresh.as_ref(), 3_600_000);
    if max_refresh < min_refresh {
        let place = set.max_refresh.as_ref().or(set.min_refresh.as_ref()).map(|typed| &typed.place);
        let problem = Problem::new(place.unwrap_or(&typed.place), "`jwks_max_refresh` is less than `jwks_min_refresh`");
        context
            .add(problem.remedy("the set is fetched between the two, as the issuer says; raise it or lower the other"));
    }
    let stale = positive(set.stale.as_ref(), "jwks_stale", 24 * 3_600_000, context);
    if let Some(typed) = set.stale.as_ref().filter(|_| far && stale < min_refresh.saturating_mul(2)) {
        let problem = Problem::new(&typed.place, "`jwks_stale` is less than twice `jwks_min_refresh`");
        context.add(problem.remedy("a set must be fetched again before it is too old: raise it, or lower the other"));
    }
    let timeout = positive(set.timeout.as_ref(), "jwks_timeout", 5_000, context);
    let fetching = if far { fetcher(set.ca.as_ref(), timeout, typed, context) } else { Ok((None, None)) };
    let bearer_file = set.bearer_file.as_ref().map(|file| context.path(&file.value));
    if let Some(file) = set.bearer_file.as_ref().filter(|_| far) {
        // What is in it is read anew for each fetch.
        context.read(file, "the bearer token", "the file holds the token that the issuer wants to see");
    }
    let Some(origin) = origin? else { return Ok(None) };
    let (fetcher, trust) = fetching?;
    Ok(Some(Config {
        origin,
        rules,
        fetcher,
        trust,
        bearer_file,
        timeout,
        min_refresh,
        max_refresh,
        cooldown: positive(set.cooldown.as_ref(), "jwks_cooldown", 10_000, context),
        stale,
        close_on_removal,
        start_without: set.start_without.as_ref().is_some_and(|start| start.value),
    }))
}

/// Where the set comes from: one place at most.
fn origin(typed: &file::Issuer, context: &Context<'_>) -> Result<Option<Origin>, ()> {
    let set = &typed.set;
    let places = [("discovery", &set.discovery), ("jwks_url", &set.url), ("jwks_file", &set.file)];
    let mut typed_places = places.into_iter().filter_map(|(key, typed)| Some((key, typed.as_ref()?)));
    let (Some((key, first)), second) = (typed_places.next(), typed_places.next()) else { return Ok(None) };
    if let Some((other, second)) = second {
        let problem = Problem::new(&second.place, format!("the key set comes from `{key}` and from `{other}`"));
        context.add(problem.other(&first.place, "the other one").remedy("keep one of the two"));
        return Err(());
    }
    if key == "jwks_file" {
        return Ok(Some(Origin::File(context.path(&first.value))));
    }
    let url = Url::parse(&first.value).map_err(|error| {
        context.add(Problem::new(&first.place, format!("`{key}` cannot be used: {error}")));
    })?;
    if key == "jwks_url" {
        return Ok(Some(Origin::Url(url)));
    }
    let document = discovery::document(&url).map_err(|error| {
        let problem = Problem::new(&first.place, format!("`discovery` cannot be used: {error}"));
        context.add(problem.remedy("it is the issuer's URL, as its tokens name it in `iss`"));
    })?;
    if first.value.contains("/.well-known/") {
        let problem = Problem::new(&first.place, "`discovery` is the URL of the document, not of the issuer");
        context.add(problem.remedy("end it before /.well-known/"));
        return Err(());
    }
    if let Some(iss) = typed.iss.as_ref().filter(|iss| iss.value != first.value) {
        let problem = Problem::new(&iss.place, "`iss` is not the issuer that `discovery` names");
        context.add(problem.other(&first.place, "the issuer's URL").remedy(
            "take `iss` out; if the keys are to be fetched from another address than `iss`, name that with `jwks_url`",
        ));
        return Err(());
    }
    Ok(Some(Origin::Discovery(document, first.value.clone())))
}

/// What fetches the set, and the hash of what it trusts.
fn fetcher(
    ca: Option<&Placed<String>>,
    timeout: Duration,
    typed: &file::Issuer,
    context: &Context<'_>,
) -> Result<(Option<Fetcher>, Option<[u8; 32]>), ()> {
    let (roots, trust) = match ca {
        Some(file) => {
            let roots = roots(file, "jwks_ca", context).ok_or(())?;
            let anchors = roots.roots.iter().flat_map(|root| [&*root.subject, &*root.subject_public_key_info]);
            let hash = secret::sha256(&anchors.flatten().copied().collect::<Vec<u8>>());
            (Some(roots), Some(hash))
        }
        None => (None, None),
    };
    let fetcher = Fetcher::new(roots, timeout).map_err(|error| {
        let problem = Problem::new(&typed.place, format!("keys cannot be fetched: {error}"));
        context.add(problem.remedy("install the package ca-certificates, or name the issuer's CA with jwks_ca"));
    })?;
    Ok((Some(fetcher), trust))
}
