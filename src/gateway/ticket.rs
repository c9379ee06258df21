//! Tickets: for one upgrade, in the query, in the place of a token that would otherwise stand in other people's logs.
//!
//! A ticket is handed out to whoever posts a good token, and spent at its first presentation, whatever follows. It is
//! bound to its route and to the page that it was handed to. Kept and looked up by its hash only. On a route that passes
//! tokens on, the token is kept with it, and wiped when the ticket is spent, or when the next one comes after its end.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use serde_json::json;

use crate::admission;
use crate::clock::Mono;
use crate::gateway::endpoint::{answered, token};
use crate::gateway::rejection::Rejection;
use crate::gateway::route::{Route, Routed};
use crate::gateway::{Body, Shared};
use crate::names;
use crate::secret::{Opaque, OpaqueHash, Token};
use crate::token::{Denial, Grant, Principal, Public, Purpose, carrier};
use crate::ws::handshake::only;

/// The tickets that were handed out and not spent.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    tickets: HashMap<OpaqueHash, Ticket>,
    /// When each of them ends, the first one first.
    ends: BTreeSet<(Mono, OpaqueHash)>,
    by_principal: HashMap<Principal, usize>,
}

/// What a ticket stands for.
#[derive(Debug)]
struct Ticket {
    grant: Grant,
    token: Option<Token>,
    route: std::sync::Arc<str>,
    origin: Option<HeaderValue>,
    handle: Option<OpaqueHash>,
    end: Mono,
}

/// What is left of a ticket that was spent well.
#[derive(Debug)]
pub(super) struct Spent {
    /// What its token grants.
    pub(super) grant: Grant,
    /// The token, if it was kept for the service.
    pub(super) token: Option<Token>,
    /// The handle that the stream was promised.
    pub(super) handle: Option<OpaqueHash>,
}

/// Somebody has as many tickets as there may be, or all together have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooMany;

impl Tickets {
    /// Takes every ticket that stands in the query of a request to this route: they are spent by that, whatever becomes of
    /// the request. And gives, for each, what it stands for.
    pub(super) fn spend_all(
        &self,
        route: &Route,
        (query, headers): (Option<&str>, &HeaderMap),
        now: Mono,
    ) -> Vec<Result<Spent, Denial>> {
        let presented = route.ticket_name().map(|name| carrier::parameters(query, name));
        presented.into_iter().flatten().map(|ticket| self.spend(&ticket, route, headers, now)).collect()
    }

    /// Takes the ticket, which is spent by that; and gives what it stands for if it counts on this route, for a request
    /// with these headers.
    fn spend(&self, ticket: &Opaque, route: &Route, headers: &HeaderMap, now: Mono) -> Result<Spent, Denial> {
        let invalid = |reason, detail| Err(Denial::new(Public::TokenInvalid, reason, detail));
        let mut kept = self.lock();
        let ticket = kept.take(ticket.hash());
        kept.forget_old(now);
        drop(kept);
        let Some(ticket) = ticket else {
            return invalid("ticket_unknown", "there is no such ticket, or it was used before");
        };
        if now >= ticket.end {
            return Err(Denial::new(Public::TokenExpired, "ticket_expired", "the ticket has expired"));
        }
        if ticket.route != route.name {
            return invalid("ticket_route", "the ticket is for another route");
        }
        if ticket.origin.as_ref() != headers.get(ORIGIN) {
            return invalid("ticket_origin", "the ticket was handed to another page");
        }
        Ok(Spent { grant: ticket.grant, token: ticket.token, handle: ticket.handle })
    }

    fn add(&self, hash: OpaqueHash, ticket: Ticket, most: usize, now: Mono) -> Result<(), TooMany> {
        let mut kept = self.lock();
        kept.forget_old(now);
        let principal = ticket.grant.principal;
        let his = kept.by_principal.get(&principal).copied().unwrap_or(0);
        if kept.tickets.len() >= most || his >= MOST_OF_ONE {
            return Err(TooMany);
        }
        kept.by_principal.insert(principal, his + 1);
        kept.ends.insert((ticket.end, hash));
        kept.tickets.insert(hash, ticket);
        Ok(())
    }

    /// A poisoned lock only says that a thread panicked while it held it; every change under it is complete before
    /// anything could panic.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take(&mut self, hash: OpaqueHash) -> Option<Ticket> {
        let ticket = self.tickets.remove(&hash)?;
        self.ends.remove(&(ticket.end, hash));
        let principal = ticket.grant.principal;
        if let Some(count) = self.by_principal.get_mut(&principal) {
            *count -= 1;
            if *count == 0 {
                self.by_principal.remove(&principal);
            }
        }
        Some(ticket)
    }

    fn forget_old(&mut self, now: Mono) {
        while let Some((_, hash)) = self.ends.first().copied().filter(|(end, _)| now >= *end) {
            self.take(hash);
        }
    }
}

/// Hands out a ticket for the token that was posted.
pub(super) async fn answer(shared: &Shared, routed: &Routed) -> Result<Response<Body>, Rejection> {
    let Routed { visit, route, request, .. } = routed;
    if shared.draining() {
        return Err(Rejection::Draining);
    }
    let name = HeaderName::from_static(names::STREAM_HANDLE);
    let headers = request.headers();
    let chosen = only(headers, &name).and_then(|value| Opaque::parse(value.as_bytes()));
    if chosen.is_none() && headers.contains_key(&name) {
        return Err(Rejection::BadRequest("Portcullis-Stream stands twice or is no handle"));
    }
    let token = token(routed)?;
    let grant = admission::verdict(&token, &*route.judge, Purpose::Ticket, shared.clock.now()).await?;
    let grant = shared.unrevoked(grant)?;
    // The verdict may have waited for a key.
    let now = shared.clock.now().mono;
    let handle = route.renewal.out_of_band.then(|| chosen.unwrap_or_else(Opaque::random));
    let ticket = Opaque::random();
    let kept = Ticket {
        grant,
        token: route.afterwards().of(token),
        route: route.name.clone(),
        origin: headers.get(ORIGIN).cloned(),
        handle: handle.as_ref().map(Opaque::hash),
        end: now.saturating_add(route.ticket_lifetime),
    };
    let most = visit.rules.config.max_tickets;
    shared.tickets.add(ticket.hash(), kept, most, now).map_err(|TooMany| Rejection::TooManyTickets)?;
    let mut body = json!({ "ticket": ticket.expose(), "expires_in": route.ticket_lifetime.as_secs() });
    if let (Some(handle), Some(body)) = (handle, body.as_object_mut()) {
        body.insert("stream".to_owned(), handle.expose().into());
    }
    Ok(answered(&body))
}

/// How long a ticket counts if the route says nothing else.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// The most tickets of one principal that are not spent: tabs of one browser that come back together.
const MOST_OF_ONE: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn ticket(who: &str, end: u64) -> Ticket {
        let grant = Grant {
            principal: Principal::new(&[who.to_owned()]),
            expiry: None,
            issuer: "i".into(),
            jti: None,
            marks: crate::token::Marks::default(),
            fingerprint: crate::secret::fingerprint(b"x"),
            claims: Arc::default(),
        };
        Ticket { grant, token: None, route: "r".into(), origin: None, handle: None, end: at(end) }
    }

    fn at(second: u64) -> Mono {
        Mono::from_origin(Duration::from_secs(second))
    }

    #[test]
    fn tickets_are_capped_per_principal_and_in_all_and_old_ones_make_room() {
        let tickets = Tickets::default();
        let add = |who, end, now| tickets.add(Opaque::random().hash(), ticket(who, end), 40, at(now));
        for _ in 0..MOST_OF_ONE {
            assert_eq!(add("ann", 30, 0), Ok(()));
        }
        assert_eq!(add("ann", 30, 0), Err(TooMany));
        for _ in MOST_OF_ONE..40 {
            assert_eq!(add("bob", 40, 0), Ok(()));
        }
        assert_eq!(add("cid", 40, 29), Err(TooMany), "all together");
        assert_eq!(add("ann", 60, 30), Ok(()), "old ones are forgotten");
        let kept = tickets.lock();
        assert_eq!((kept.tickets.len(), kept.ends.len(), kept.by_principal.len()), (9, 9, 2));
    }
}
