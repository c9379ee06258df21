//! Which pages may send plain requests with a token.
//!
//! A browser sends cookies along with any page's request, and `Origin` with those that change something, or that a script of
//! another origin makes (Fetch standard, section 3.1). The page that a service serves itself, behind this gateway, need not be
//! listed: it is of the origin that the request is for.

use http::header::ORIGIN;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::plain::Plain;
use crate::gateway::endpoint::Page;
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Origins, Route, Routed};
use crate::token::Carrier;
use crate::ws::handshake::only;

/// Refuses what a page sends that may not; and what may come from a page that does not say which, where cookies count.
pub(super) fn check(plain: &Plain) -> Result<(), Rejection> {
    let headers = &plain.headers;
    if headers.contains_key(ORIGIN) {
        let may = may(&plain.route, &plain.host, plain.secure(), headers);
        let foreign = Rejection::ForeignOrigin("Origin is neither the request's own nor in the route's list");
        return if may { Ok(()) } else { Err(foreign) };
    }
    if plain.method.is_safe() || !takes_cookies(&plain.route) {
        return Ok(());
    }
    // Browsers send `Origin` with such a method; this one says where it comes from in another way.
    match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Rejection::ForeignOrigin("a page of another site sends it, with a method that is not safe")),
    }
}

/// Whether the page that sends these headers may send requests here: it is named once, and of the request's own origin or one
/// that the route allows. A route that takes cookies must have a list.
pub(super) fn may(route: &Route, host: &HeaderValue, secure: bool, headers: &HeaderMap) -> bool {
    let Some(origin) = only(headers, &ORIGIN) else { return false };
    let listed = match &route.origins {
        Origins::Any => !takes_cookies(route),
        Origins::Only(list) => list.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(origin.as_bytes())),
    };
    listed || is_own(origin, host, secure)
}

/// The page that may read a refusal, if the request is one of a page's.
pub(super) fn reader(routed: &Routed) -> Option<Page> {
    let Routed { visit, route, host, request } = routed;
    may(route, host, visit.peer.tls.is_some(), request.headers()).then(|| Page::of(route, request.headers()))?
}

fn takes_cookies(route: &Route) -> bool {
    route.carriers.iter().any(|carrier| matches!(carrier, Carrier::Cookie(_)))
}

/// Whether `origin` is the one that a request for `host` is sent to. Who ends TLS before a plaintext listener is not known
/// here, so there both schemes are.
fn is_own(origin: &HeaderValue, host: &HeaderValue, secure: bool) -> bool {
    let Ok(origin) = Uri::try_from(origin.as_bytes()) else { return false };
    let (Some(scheme), Some(authority)) = (origin.scheme_str(), origin.authority()) else { return false };
    let port = match scheme {
        "https" => ":443",
        "http" if !secure => ":80",
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    host.to_str().is_ok_and(|host| bare(host) == bare(authority.as_str()))
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_of_the_requests_own_origin_by_scheme_host_and_port() {
        let table = [
            ("https://gate.example", "gate.example", true, true),
            ("https://gate.example", "Gate.Example:443", true, true),
            ("https://gate.example:8443", "gate.example:8443", true, true),
            ("https://gate.example:8443", "gate.example", true, false),
            ("https://gate.example", "gate.example:8443", true, false),
            ("https://evil.example", "gate.example", true, false),
            ("https://gate.example.evil.example", "gate.example", true, false),
            ("http://gate.example", "gate.example", true, false),
            ("http://gate.example", "gate.example", false, true),
            ("https://gate.example", "gate.example", false, true),
            ("null", "gate.example", true, false),
        ];
        for (origin, host, secure, own) in table {
            let (origin, host) = (HeaderValue::from_static(origin), HeaderValue::from_static(host));
            assert_eq!(is_own(&origin, &host, secure), own, "{origin:?} {host:?} {secure}");
        }
    }
}
