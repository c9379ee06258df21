//! What a route says of its tokens' carriers and of the pages that may open a stream.

use http::Uri;

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, suggest};
use crate::gateway::route::Origins;
use crate::token::Carrier;

/// Where the token may stand, in this order.
pub(super) fn carriers(typed: &file::Route, context: &Context<'_>) -> Vec<Carrier> {
    let prefix = prefix(typed.subprotocol_prefix.as_ref(), "subprotocol_prefix", PREFIX, context);
    let k8s = typed.subprotocol_k8s_prefix.as_ref();
    let k8s = self::prefix(k8s, "subprotocol_k8s_prefix", K8S_PREFIX, context);
    let Some(list) = &typed.carriers else {
        return vec![Carrier::Query("access_token".to_owned()), Carrier::SubprotocolPair, Carrier::Header];
    };
    if list.value.is_empty() {
        let problem = Problem::new(&list.place, "the route has no carrier, so no token can reach it");
        context.add(problem.remedy("for example [\"query:access_token\", \"header\"]"));
    }
    let mut carriers: Vec<Carrier> = Vec::new();
    for typed in &list.value {
        let carrier = carrier(&typed.value, &prefix, &k8s);
        match carrier {
            Ok(carrier) if carriers.contains(&carrier) => {
                context.add(Problem::new(&typed.place, format!("the carrier `{}` stands here twice", typed.value)));
            }
            Ok(carrier) => carriers.push(carrier),
            Err(remedy) => {
                context.add(Problem::new(&typed.place, format!("`{}` is no carrier", typed.value)).remedy(remedy));
            }
        }
    }
    check_tickets(&carriers, list, context);
    carriers
}

/// A ticket stands in the query beside what else does, and a route needs one name for it.
fn check_tickets(carriers: &[Carrier], list: &Placed<Vec<Placed<String>>>, context: &Context<'_>) {
    let tickets: Vec<&String> = carriers
        .iter()
        .filter_map(|carrier| if let Carrier::Ticket(name) = carrier { Some(name) } else { None })
        .collect();
    if tickets.len() > 1 {
        context.add(Problem::new(&list.place, "two carriers for tickets").remedy("keep one of them"));
    }
    let shared = |name: &&&String| carriers.contains(&Carrier::Query((**name).clone()));
    if let Some(name) = tickets.iter().find(shared) {
        let problem = Problem::new(&list.place, format!("`{name}` is the name of a token and of a ticket"));
        context.add(problem.remedy("give them two names: \"query:access_token\" and \"ticket:ticket\""));
    }
}

/// One carrier by its name; the error says what to write instead.
fn carrier(typed: &str, prefix: &str, k8s: &str) -> Result<Carrier, String> {
    match typed.split_once(':') {
        Some(("query", name)) if !name.is_empty() => Ok(Carrier::Query(name.to_owned())),
        Some(("cookie", name)) if is_token(name) => Ok(Carrier::Cookie(name.to_owned())),
        Some(("ticket", name)) if !name.is_empty() => Ok(Carrier::Ticket(name.to_owned())),
        Some(("subprotocol", "pair")) => Ok(Carrier::SubprotocolPair),
        Some(("subprotocol", "prefix")) => Ok(Carrier::SubprotocolPrefix(prefix.to_owned())),
        Some(("subprotocol", "k8s")) => Ok(Carrier::SubprotocolEncoded(k8s.to_owned())),
        None if typed == "header" => Ok(Carrier::Header),
        None if typed == "message" => Ok(Carrier::Message),
        Some(("query", _)) => Err("name the parameter: \"query:access_token\"".to_owned()),
        None if typed == "query" => Err("name the parameter: \"query:access_token\"".to_owned()),
        Some(("cookie", _)) => Err("name the cookie: \"cookie:token\"".to_owned()),
        None if typed == "cookie" => Err("name the cookie: \"cookie:token\"".to_owned()),
        Some(("ticket", _)) => Err("name the parameter: \"ticket:ticket\"".to_owned()),
        None if typed == "ticket" => Err("name the parameter: \"ticket:ticket\"".to_owned()),
        _ => Err(suggest(typed, CARRIERS)),
    }
}

/// One carrier by its name, with the default prefixes.
pub(crate) fn parse_carrier(typed: &str) -> Result<Carrier, String> {
    match carrier(typed, PREFIX, K8S_PREFIX)? {
        Carrier::Ticket(_) => Err("a ticket is not a place for a token: use another carrier".to_owned()),
        carrier => Ok(carrier),
    }
}

/// The part of a subprotocol entry in front of the token.
fn prefix(typed: Option<&Placed<String>>, key: &str, default: &str, context: &Context<'_>) -> String {
    let Some(typed) = typed else { return default.to_owned() };
    if !is_token(&typed.value) {
        let problem = Problem::new(&typed.place, format!("`{key}` cannot stand in front of a subprotocol entry"));
        context.add(problem.remedy(format!("letters, digits and !#$%&'*+-.^_`|~, at least one: \"{default}\"")));
    }
    typed.value.clone()
}

/// Cookies come with every page's requests, so the pages must be named.
pub(super) fn check_cookies(typed: &file::Route, carriers: &[Carrier], origins: &Origins, context: &Context<'_>) {
    if *origins != Origins::Any || !carriers.iter().any(|carrier| matches!(carrier, Carrier::Cookie(_))) {
        return;
    }
    let cookie =
        typed.carriers.iter().flat_map(|list| &list.value).find(|carrier| carrier.value.starts_with("cookie:"));
    let Some(cookie) = cookie else { return };
    let mut problem = Problem::new(&cookie.place, "a cookie carrier needs a list of origins");
    if let Some(origins) = &typed.origins {
        problem = problem.other(&origins.place, "any page may open a stream");
    }
    context.add(problem.remedy(
        "browsers send cookies for every page, so any page could open a stream for its visitor: origins = [\"https://app.example.com\"]",
    ));
}

/// The pages that may open a stream.
pub(super) fn origins(typed: Option<&Placed<Vec<Placed<String>>>>, context: &Context<'_>) -> Origins {
    let Some(list) = typed else { return Origins::Any };
    let any = list.value.iter().find(|origin| origin.value == "*");
    if let Some(any) = any {
        if list.value.len() > 1 {
            let problem = Problem::new(&any.place, "\"*\" beside other origins");
            context.add(problem.remedy("\"*\" lets every page in: take it out, or keep only it"));
        }
        return Origins::Any;
    }
    let mut origins = Vec::new();
    for typed in &list.value {
        match parse_origin(&typed.value) {
            Ok(origin) => origins.push(origin),
            Err(remedy) => {
                context.add(Problem::new(&typed.place, format!("`{}` is no origin", typed.value)).remedy(remedy));
            }
        }
    }
    Origins::Only(origins)
}

/// The origin as browsers write it: lower case, without a default port.
pub(super) fn parse_origin(typed: &str) -> Result<String, &'static str> {
    const EXAMPLE: &str = "scheme, host and, if it is not the default one, port: \"https://app.example.com\"";
    if typed == "null" {
        return Err("\"null\" is what any sandboxed page sends: give the page a real origin");
    }
    let lower = typed.to_ascii_lowercase();
    let uri = lower.parse::<Uri>().map_err(|_| EXAMPLE)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(EXAMPLE) };
    if lower != format!("{scheme}://{authority}") || authority.as_str().contains('@') || authority.host().is_empty() {
        return Err("without path, query and slash at the end: \"https://app.example.com\"");
    }
    let default = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        "ws" | "wss" => return Err("the origin is the page's: https://, not wss://"),
        _ => None,
    };
    match authority.port_u16() {
        Some(port) if Some(port) == default => Ok(format!("{scheme}://{}", authority.host())),
        None if authority.as_str() != authority.host() => Err(EXAMPLE),
        _ => Ok(lower),
    }
}

/// A `token` of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

const PREFIX: &str = "bearer.";
const K8S_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
const CARRIERS: [&str; 8] = [
    "query:access_token",
    "subprotocol:pair",
    "subprotocol:prefix",
    "subprotocol:k8s",
    "header",
    "cookie:token",
    "ticket:ticket",
    "message",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_browsers_write_them() {
        assert_eq!(parse_origin("https://App.example.com").as_deref(), Ok("https://app.example.com"));
        assert_eq!(parse_origin("https://app.example.com:443").as_deref(), Ok("https://app.example.com"));
        assert_eq!(parse_origin("http://localhost:3000").as_deref(), Ok("http://localhost:3000"));
        assert_eq!(parse_origin("http://[::1]:3000").as_deref(), Ok("http://[::1]:3000"));
        for bad in ["", "null", "app.example.com", "https://a/", "https://a/x", "https://u@a", "wss://a", "https://a:"]
        {
            assert!(parse_origin(bad).is_err(), "{bad}");
        }
    }
}
