//! The stage that turns away pages that may not open a stream here.

use http::HeaderMap;
use http::header::ORIGIN;

use crate::gateway::Shared;
use crate::gateway::limit::Within;
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Origins, Route, Routed};
use crate::token::Carrier;

/// A request from a page that may, or from no page.
pub struct Welcome(Routed);

impl Welcome {
    /// The request.
    pub fn into_routed(self) -> Routed {
        self.0
    }
}

/// Lets a request through if its `Origin` is allowed on its route. If not, its ticket is spent all the same: a page has it
/// that should not.
pub fn check(shared: &Shared, within: Within) -> Result<Welcome, Rejection> {
    let Routed { route, request, .. } = within.routed();
    check_page(route, request.headers()).inspect_err(|_| {
        let presented = (request.uri().query(), request.headers());
        shared.tickets.spend_all(route, presented, shared.clock.now().mono);
    })?;
    Ok(Welcome(within.into_routed()))
}

/// Refuses what a page sends that is not allowed on the route.
pub(super) fn check_page(route: &Route, headers: &HeaderMap) -> Result<(), Rejection> {
    let by_cookie = route.carriers.iter().any(|carrier| matches!(carrier, Carrier::Cookie(_)));
    allowed(&route.origins, by_cookie, headers)
}

/// A browser sends cookies along with any page's request, so a route that takes a cookie needs to know the page.
fn allowed(origins: &Origins, by_cookie: bool, headers: &HeaderMap) -> Result<(), Rejection> {
    let mut sent = headers.get_all(ORIGIN).iter();
    match (origins, sent.next()) {
        (_, Some(_)) if sent.next().is_some() => Err(Rejection::ForeignOrigin("Origin stands twice")),
        (_, None) if by_cookie => Err(Rejection::ForeignOrigin("no Origin, on a route that takes a cookie")),
        (Origins::Any, Some(_)) if by_cookie => {
            Err(Rejection::ForeignOrigin("the route takes a cookie and has no list of origins"))
        }
        (Origins::Any, _) | (Origins::Only(_), None) => Ok(()),
        (Origins::Only(list), Some(origin)) => {
            let listed = list.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
            if listed { Ok(()) } else { Err(Rejection::ForeignOrigin("Origin is not in the route's list")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_must_be_in_the_list_and_a_cookie_needs_a_page() {
        let only = Origins::Only(vec!["https://app.example".into()]);
        let table: [(&Origins, bool, &[&str], bool); 12] = [
            (&Origins::Any, false, &[], true),
            (&Origins::Any, false, &["https://evil.example"], true),
            (&Origins::Any, true, &["https://app.example"], false),
            (&only, false, &[], true),
            (&only, true, &[], false),
            (&only, false, &["https://app.example"], true),
            (&only, true, &["https://App.Example"], true),
            (&only, false, &["https://evil.example"], false),
            (&only, false, &["null"], false),
            (&only, false, &["https://app.example.evil.example"], false),
            (&only, false, &["http://app.example"], false),
            (&only, false, &["https://app.example", "https://app.example"], false),
        ];
        for (origins, by_cookie, sent, expected) in table {
            let headers = sent.iter().map(|value| (ORIGIN, value.parse().unwrap())).collect();
            assert_eq!(allowed(origins, by_cookie, &headers).is_ok(), expected, "{origins:?} {by_cookie} {sent:?}");
        }
    }
}
