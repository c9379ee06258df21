//! All live streams at once: to list them, to sum them up, to end those that a ban names.
//!
//! Nothing here holds the registry's lock for longer than it takes to copy numbers, or to find a few hundred of its places:
//! clients come and go meanwhile. A stream that comes after the numbers were copied is not seen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Now, Wall};
use crate::registry::{Guard, Kind, Place, Registry, Signals, Standing, lock};
use crate::revocation::{Ban, Cause, Revocations};
use crate::secret::Fingerprint;
use crate::stream::{Signal, Traffic};
use crate::token::Marks;
use crate::token::keys::store::Change;

/// A live stream, for its operator.
#[derive(Clone, Debug)]
pub struct Glimpse {
    /// Its number, unique in the process.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// The route's name.
    pub route: Arc<str>,
    /// The client's address.
    pub peer: SocketAddr,
    /// Short hash of who it belongs to.
    pub principal: Fingerprint,
    /// When it was let in.
    pub since: Wall,
    /// `jti` of its present token.
    pub jti: Option<Box<str>>,
    /// When that expires, leeway included.
    pub expiry: Option<Wall>,
    /// How many tokens it has had before.
    pub renewals: u32,
    /// From the client to the service so far.
    pub upward: Traffic,
    /// From the service to the client so far.
    pub downward: Traffic,
}

/// Sums over all streams.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Live streams of each route that has any.
    pub routes: Vec<(Arc<str>, usize)>,
    /// From clients to services, streams that have ended included.
    pub upward: Traffic,
    /// From services to clients, likewise.
    pub downward: Traffic,
}

/// What has passed on a stream, as its task last told: written by that task alone.
#[derive(Debug, Default)]
pub(super) struct Meter([AtomicU64; 4]);

impl Meter {
    fn set(&self, upward: Traffic, downward: Traffic) {
        let Self(cells) = self;
        for (cell, value) in cells.iter().zip([upward.frames, upward.bytes, downward.frames, downward.bytes]) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> (Traffic, Traffic) {
        let [frames_up, bytes_up, frames_down, bytes_down] = self.0.each_ref().map(|cell| cell.load(Ordering::Relaxed));
        (Traffic { frames: frames_up, bytes: bytes_up }, Traffic { frames: frames_down, bytes: bytes_down })
    }
}

impl Registry {
    /// The live streams with the lowest numbers above `after`, at most `most`, in their order.
    pub fn glimpses(&self, after: u64, most: usize) -> Vec<Glimpse> {
        let mut ids = self.ids();
        ids.retain(|id| *id > after);
        if ids.len() > most {
            ids.select_nth_unstable(most);
            ids.truncate(most);
        }
        ids.sort_unstable();
        let mut glimpses = Vec::with_capacity(ids.len());
        self.walk(&ids, |id, place| glimpses.push(glimpse(id, place)));
        glimpses
    }

    /// Sums. A stream that ends meanwhile may be missed in them, and is there the next time.
    pub fn tally(&self) -> Tally {
        let mut tally = {
            let live = self.lock();
            let routes = live.by_route.iter().map(|(route, count)| (route.clone(), *count)).collect();
            let (upward, downward) = live.ended;
            Tally { routes, upward, downward }
        };
        self.walk(&self.ids(), |_, place| {
            if place.kind == Kind::Http {
                return;
            }
            let (upward, downward) = place.meter.read();
            tally.upward.add(upward);
            tally.downward.add(downward);
        });
        tally
    }

    /// The bans that streams are judged by.
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Tells the streams whose present token the ban names to end; how many. To be called when the ban is in force already:
    /// then no stream slips through, because whoever comes later asks for bans after it has taken its place.
    pub fn revoke(&self, ban: &Ban) -> usize {
        let (target, mut told) = (self.0.revocations.target(ban), 0);
        self.walk(&self.ids(), |_, place| {
            // Under this lock a renewal changes the token: either it sees the signal, or its new token is judged here.
            let standing = lock(&place.standing);
            if target.names(&standing.marks) {
                self.put(place, Signal::Revoke);
                told += 1;
            }
        });
        told
    }

    /// Has the streams whose present token was signed with a key that is gone end; how many. Tokens of such keys that were
    /// verified before are refused from now on.
    pub fn keys_changed(&self, change: &Change) -> usize {
        self.0.revocations.keys_changed(change);
        let mut told = 0;
        if !change.removed.is_empty() {
            self.walk(&self.ids(), |_, place| {
                // As for bans: under this lock a renewal changes the token.
                let standing = lock(&place.standing);
                if standing.marks.key().is_some_and(|key| change.removed.contains(&key)) {
                    self.put(place, Signal::KeyRemoved);
                    told += 1;
                }
            });
        }
        told
    }

    /// `jti` and marks of a live stream's present token.
    pub fn token_of(&self, id: u64) -> Option<(Option<Box<str>>, Marks)> {
        let place = self.lock().places.get(&id).cloned()?;
        let standing = lock(&place.standing);
        Some((standing.jti.clone(), standing.marks))
    }

    /// Why a token with these marks no longer counts, if it does not.
    pub fn revoked(&self, marks: &Marks, now: Now) -> Option<Cause> {
        self.0.revocations.find(marks, now.wall)
    }

    /// Looks at the places of these streams that are still there.
    fn walk(&self, ids: &[u64], mut each: impl FnMut(u64, &Arc<Place>)) {
        for some in ids.chunks(AT_ONCE) {
            let places: Vec<_> = {
                let live = self.lock();
                some.iter().filter_map(|id| Some((*id, live.places.get(id)?.clone()))).collect()
            };
            for (id, place) in &places {
                each(*id, place);
            }
        }
    }
}

impl Guard {
    /// Why the stream's present token no longer counts, if it does not.
    pub fn revoked(&self, now: Now) -> Option<Cause> {
        let marks = lock(&self.place.standing).marks;
        self.registry.revocations.find(&marks, now.wall)
    }

    /// Why a fresh token with these marks does not count, if it does not.
    pub fn bans(&self, marks: &Marks, now: Now) -> Option<Cause> {
        self.registry.revocations.find(marks, now.wall)
    }

    /// Whether this signal waits for the stream.
    pub fn is_told(&self, signal: Signal) -> bool {
        Signals(self.place.mailbox.signals.load(Ordering::Acquire)).contains(signal)
    }

    /// Has the stream stand by a new token, if `change` succeeds and no ban of the present one has come first; the lock
    /// under which both are seen is the one under which bans look for streams.
    pub fn stand<T, E>(&self, change: impl FnOnce() -> Result<(Standing, T), E>, revoked: E) -> Result<T, E> {
        let mut standing = lock(&self.place.standing);
        if self.is_told(Signal::Revoke) || self.is_told(Signal::KeyRemoved) {
            return Err(revoked);
        }
        let (new, changed) = change()?;
        *standing = new;
        Ok(changed)
    }

    /// Tells what has passed so far.
    pub fn meter(&self, upward: Traffic, downward: Traffic) {
        self.place.meter.set(upward, downward);
    }

    /// By which somebody else than the task of the guard can tell what has passed.
    pub fn gauge(&self) -> Gauge {
        Gauge(self.place.clone())
    }

    /// Counts the answer to a renewal: `renewed`, or why not.
    pub fn count_renewal(&self, result: &'static str) {
        self.registry.metrics.renewal(&self.place.route, result);
    }
}

/// See [`Guard::gauge`]. Keeps no place.
#[derive(Debug)]
pub struct Gauge(Arc<Place>);

impl Gauge {
    /// Tells what has passed so far.
    pub fn set(&self, upward: Traffic, downward: Traffic) {
        self.0.meter.set(upward, downward);
    }

    /// What was last told.
    pub fn read(&self) -> (Traffic, Traffic) {
        self.0.meter.read()
    }
}

fn glimpse(id: u64, place: &Place) -> Glimpse {
    let Standing { jti, expiry, renewals, .. } = lock(&place.standing).clone();
    let (upward, downward) = place.meter.read();
    Glimpse {
        id,
        kind: place.kind,
        route: place.route.clone(),
        peer: place.peer,
        principal: place.principal.fingerprint(),
        since: place.since,
        jti,
        expiry,
        renewals,
        upward,
        downward,
    }
}

/// Places that are found under one hold of the lock.
const AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Clock;
    use crate::registry::{Caps, Entry};
    use crate::secret::fingerprint;
    use crate::token::Principal;
    use crate::token::marks::Kind;

    fn standing(jti: &str) -> Standing {
        let marks = Marks::new("i", json!({ "jti": jti }).as_object().unwrap(), None);
        Standing { jti: Some(jti.into()), marks, token: fingerprint(b"x"), expiry: None, renewals: 0 }
    }

    fn place(registry: &Registry, jti: &str) -> Guard {
        let entry = Entry {
            route: "a".into(),
            peer: ([192, 0, 2, 1], 1).into(),
            principal: Principal::new(&["x".into()]),
            handle: None,
            since: Wall::default(),
            standing: standing(jti),
        };
        registry.reserve(entry, Caps::default()).unwrap()
    }

    fn ban(jti: &str) -> Ban {
        Ban { iss: "i".into(), kind: Kind::Jti, value: jti.into(), issued_before: None, until: None }
    }

    #[tokio::test]
    async fn a_renewal_and_a_ban_of_the_old_token_see_each_other_whichever_comes_first() {
        let registry = Registry::new(&Clock::system());
        let (first, second) = (place(&registry, "old"), place(&registry, "old"));
        let renew = |guard: &Guard| guard.stand(|| Ok((standing("new"), ())), "told");
        assert_eq!(renew(&first), Ok(()));
        assert_eq!(registry.revoke(&ban("old")), 1, "one of them has another token by now");
        assert_eq!(renew(&second), Err("told"), "its end is on its way");
        assert!(second.is_told(Signal::Revoke) && !first.is_told(Signal::Revoke));
        assert_eq!(registry.token_of(second.id()).unwrap().0.as_deref(), Some("old"));
        assert_eq!(first.stand(|| Err::<(Standing, ()), _>("refused"), "told"), Err("refused"));
        assert_eq!(registry.token_of(first.id()).unwrap().0.as_deref(), Some("new"));
    }

    #[tokio::test]
    async fn sums_and_pages_hold_what_is_there_and_what_has_ended() {
        let registry = Registry::new(&Clock::system());
        let guards: Vec<Guard> = (0..5).map(|_| place(&registry, "x")).collect();
        let traffic = |frames| Traffic { frames, bytes: frames * 10 };
        for guard in &guards {
            guard.meter(traffic(2), traffic(3));
        }
        let ids = |after, most| registry.glimpses(after, most).iter().map(|glimpse| glimpse.id).collect::<Vec<_>>();
        assert_eq!((ids(0, 2), ids(2, 2), ids(4, 2), ids(5, 2)), (vec![1, 2], vec![3, 4], vec![5], vec![]));
        drop(guards);
        let _late = place(&registry, "x");
        let tally = registry.tally();
        assert_eq!((tally.upward, tally.downward), (traffic(10), traffic(15)));
        assert_eq!(tally.routes, [("a".into(), 1)]);
    }
}
