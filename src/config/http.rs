//! What a route's keys on plain HTTP mean.

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, suggest};
use super::server::positive;
use crate::gateway::route::{Access, Http};
use crate::token::Carrier;

pub(super) fn http(typed: &file::Route, carriers: &[Carrier], context: &Context<'_>) -> Http {
    let access = typed.http.access.as_ref().map_or(Access::Refuse, |typed| access(typed, context));
    let fits = |carrier: &Carrier| matches!(carrier, Carrier::Query(_) | Carrier::Header | Carrier::Cookie(_));
    if let (Access::Require, false, Some(at)) = (access, carriers.iter().any(fits), &typed.http.access) {
        let problem = Problem::new(&at.place, "no plain request can carry a token here: each would be a 401");
        context.add(problem.remedy("add \"header\", \"query:NAME\" or \"cookie:NAME\" to the route's carriers"));
    }
    if access == Access::Pass && typed.strict_path.as_ref().is_some_and(|strict| !strict.value) {
        let route = typed.name.as_ref().map_or("", |name| &name.value);
        context.report.note(format!(
            "the route {route} passes requests without a token, with strict_path = false: /open/../closed may reach what \
             another route closes"
        ));
    }
    Http {
        access,
        response_timeout: positive(typed.http.response_timeout.as_ref(), "http_response_timeout", 60_000, context),
        upload_timeout: positive(typed.http.upload_timeout.as_ref(), "http_upload_timeout", 60_000, context),
    }
}

fn access(typed: &Placed<String>, context: &Context<'_>) -> Access {
    match typed.value.as_str() {
        "refuse" => Access::Refuse,
        "require" => Access::Require,
        "pass" => Access::Pass,
        other => {
            let problem = Problem::new(&typed.place, format!("`{other}` cannot be `http`"));
            context.add(problem.remedy(suggest(other, ["refuse", "require", "pass"])));
            Access::Refuse
        }
    }
}
