//! Crowds: the streams of one principal, or from one address, on one route.
//!
//! Counted only where the route bounds them. Where the newest is to have the place of the oldest, that one is told to go
//! when the newest begins, not before: a stream that comes to nothing takes nobody's place. It is always one of the same
//! principal, also where an address is full: whoever shares an address with others cannot push them out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::registry::{Guard, Refused, Registry, lock};
use crate::stream::Signal;
use crate::token::Principal;

/// How many streams one principal and one address may have on the stream's route; `None` for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrowdCaps {
    /// Of its principal.
    pub per_principal: Option<usize>,
    /// From its address, which is this.
    pub per_address: Option<(IpAddr, usize)>,
    /// What becomes of one more.
    pub when_full: WhenFull,
}

/// What becomes of a stream for which there is no place in its crowd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused.
    #[default]
    RejectNew,
    /// The oldest of the same principal goes.
    CloseOldest,
}

/// Whose streams they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Address(IpAddr),
    Principal(Principal),
}

/// The crowds of all routes that have any.
#[derive(Debug, Default)]
pub(super) struct Crowds(HashMap<(Arc<str>, Whose), Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    /// By their numbers, which grow: the first one is the oldest.
    members: BTreeMap<u64, Member>,
    /// Of them, those that have begun, and those that were told to go.
    live: usize,
    going: usize,
}

#[derive(Debug)]
struct Member {
    principal: Principal,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Coming,
    Live,
    Going,
}

/// What a stream has joined, and how many may be there.
#[derive(Debug)]
pub(super) struct Membership {
    crowds: Vec<((Arc<str>, Whose), usize)>,
    when_full: WhenFull,
}

impl Crowds {
    /// Joins the crowds that the route bounds: all of them, or none.
    pub(super) fn join(
        &mut self,
        id: u64,
        route: &Arc<str>,
        principal: Principal,
        caps: CrowdCaps,
    ) -> Result<Option<Box<Membership>>, Refused> {
        let principals = caps.per_principal.map(|most| (Whose::Principal(principal), most, Refused::PrincipalFull));
        let addresses = caps.per_address.map(|(address, most)| (Whose::Address(address), most, Refused::AddressFull));
        let mut crowds = Vec::new();
        for (whose, most, refused) in principals.into_iter().chain(addresses) {
            let key = (route.clone(), whose);
            if !self.0.get(&key).is_none_or(|crowd| crowd.has_room(principal, most, caps.when_full)) {
                return Err(refused);
            }
            crowds.push((key, most));
        }
        if crowds.is_empty() {
            return Ok(None);
        }
        for (key, _) in &crowds {
            let member = Member { principal, stage: Stage::Coming };
            self.0.entry(key.clone()).or_default().members.insert(id, member);
        }
        Ok(Some(Box::new(Membership { crowds, when_full: caps.when_full })))
    }

    /// The stream has begun: answers those that have to go for it.
    fn begin(&mut self, id: u64, membership: &Membership) -> Vec<u64> {
        let mut oldest: Vec<u64> = Vec::new();
        for (key, most) in &membership.crowds {
            if let Some(crowd) = self.0.get_mut(key) {
                oldest.extend(crowd.begin(id, *most, membership.when_full));
            }
        }
        oldest.dedup();
        oldest
    }

    /// The stream has ended, or never begun.
    pub(super) fn leave(&mut self, id: u64, membership: &Membership) {
        for (key, _) in &membership.crowds {
            if let Some(crowd) = self.0.get_mut(key) {
                crowd.shift(id, None);
                if crowd.members.is_empty() {
                    self.0.remove(key);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Crowd {
    fn has_room(&self, principal: Principal, most: usize, when_full: WhenFull) -> bool {
        let count = self.members.len();
        match when_full {
            WhenFull::RejectNew => count < most,
            WhenFull::CloseOldest => {
                let own = |member: &Member| member.principal == principal && member.stage != Stage::Going;
                let replaces = || count - self.going < most || self.members.values().any(own);
                // Those that come and go are bounded too: one that is told to go may take a while.
                count < most.saturating_add(most.max(BESIDE)) && replaces()
            }
        }
    }

    fn begin(&mut self, id: u64, most: usize, when_full: WhenFull) -> Option<u64> {
        self.shift(id, Some(Stage::Live));
        if when_full == WhenFull::RejectNew || self.live <= most {
            return None;
        }
        let principal = self.members.get(&id)?.principal;
        let own = |member: &Member| member.principal == principal && member.stage == Stage::Live;
        let (&oldest, _) = self.members.iter().find(|(other, member)| **other != id && own(member))?;
        self.shift(oldest, Some(Stage::Going));
        Some(oldest)
    }

    /// Moves a member to another stage, or out.
    fn shift(&mut self, id: u64, to: Option<Stage>) {
        let before = match to {
            Some(to) => self.members.get_mut(&id).map(|member| std::mem::replace(&mut member.stage, to)),
            None => self.members.remove(&id).map(|member| member.stage),
        };
        if before.is_some() {
            let is = |stage: Option<Stage>, wanted| usize::from(stage == Some(wanted));
            self.live = self.live + is(to, Stage::Live) - is(before, Stage::Live);
            self.going = self.going + is(to, Stage::Going) - is(before, Stage::Going);
        }
    }
}

impl Guard {
    /// The stream begins. Where its crowd is full, the oldest of its principal is told to go.
    pub fn begin(&self) {
        let Some(membership) = &self.membership else { return };
        let oldest = lock(&self.registry.live).crowds.begin(self.id, membership);
        let registry = Registry(self.registry.clone());
        for id in oldest {
            registry.signal(id, Signal::Replace);
        }
    }
}

/// How many streams beside those of a crowd may come and go, at least.
const BESIDE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const A: u8 = 1;
    const B: u8 = 2;

    /// The crowds of one route, with streams that begin at once unless they are told otherwise.
    struct World {
        crowds: Crowds,
        next: u64,
        members: HashMap<u64, Box<Membership>>,
    }

    impl World {
        fn new() -> Self {
            Self { crowds: Crowds::default(), next: 0, members: HashMap::new() }
        }

        fn comes(&mut self, who: u8, caps: CrowdCaps) -> Result<u64, Refused> {
            self.next += 1;
            let principal = Principal::new(&[who.to_string()]);
            let membership = self.crowds.join(self.next, &"a".into(), principal, caps)?;
            self.members.insert(self.next, membership.unwrap());
            Ok(self.next)
        }

        fn begins(&mut self, id: u64) -> Vec<u64> {
            self.crowds.begin(id, &self.members[&id])
        }

        fn opens(&mut self, who: u8, caps: CrowdCaps) -> Result<Vec<u64>, Refused> {
            self.comes(who, caps).map(|id| self.begins(id))
        }

        fn ends(&mut self, id: u64) {
            let membership = self.members.remove(&id).unwrap();
            self.crowds.leave(id, &membership);
        }
    }

    fn principal(most: usize, when_full: WhenFull) -> CrowdCaps {
        CrowdCaps { per_principal: Some(most), per_address: None, when_full }
    }

    fn address(most: usize, when_full: WhenFull) -> CrowdCaps {
        CrowdCaps { per_principal: None, per_address: Some(([192, 0, 2, 1].into(), most)), when_full }
    }

    #[test]
    fn a_full_crowd_refuses_and_another_one_does_not_care() {
        let mut world = World::new();
        let caps = principal(2, WhenFull::RejectNew);
        assert_eq!(world.opens(A, caps), Ok(vec![]));
        // One that has not begun has a place too.
        let second = world.comes(A, caps).unwrap();
        assert_eq!(world.opens(A, caps), Err(Refused::PrincipalFull));
        assert_eq!(world.opens(B, caps), Ok(vec![]));
        world.ends(second);
        assert_eq!(world.opens(A, caps), Ok(vec![]));
        for id in world.members.keys().copied().collect::<Vec<_>>() {
            world.ends(id);
        }
        assert!(world.crowds.is_empty(), "nothing stays behind");
    }

    #[test]
    fn the_oldest_goes_when_the_newest_begins_and_not_before() {
        let mut world = World::new();
        let caps = principal(2, WhenFull::CloseOldest);
        assert_eq!([world.opens(A, caps), world.opens(A, caps)], [Ok(vec![]), Ok(vec![])]);
        let (third, fourth) = (world.comes(A, caps).unwrap(), world.comes(A, caps).unwrap());
        // One that comes to nothing takes nobody's place.
        world.ends(third);
        assert_eq!(world.begins(fourth), [1]);
        assert_eq!(world.opens(A, caps), Ok(vec![2]), "each goes once");
        world.ends(fourth);
        assert_eq!(world.opens(A, caps), Ok(vec![]), "there is room again");
    }

    #[test]
    fn those_that_come_and_go_are_bounded() {
        let mut world = World::new();
        let caps = principal(1, WhenFull::CloseOldest);
        let begun = (0..100).take_while(|_| world.opens(A, caps).is_ok()).count();
        assert_eq!(begun, 1 + BESIDE, "those that were told to go are still there");
        assert_eq!(world.opens(A, caps), Err(Refused::PrincipalFull));
        world.ends(1);
        assert_eq!(world.opens(A, caps), Ok(vec![9]));
    }

    #[test]
    fn a_full_address_closes_nobody_elses_stream() {
        let mut world = World::new();
        let caps = address(2, WhenFull::CloseOldest);
        assert_eq!([world.opens(A, caps), world.opens(B, caps)], [Ok(vec![]), Ok(vec![])]);
        assert_eq!(world.opens(3, caps), Err(Refused::AddressFull), "it has none of its own to give");
        assert_eq!(world.opens(B, caps), Ok(vec![2]));
        assert_eq!(world.opens(A, caps), Ok(vec![1]));
    }

    #[test]
    fn one_stream_may_have_to_go_for_both_crowds() {
        let mut world = World::new();
        let caps = CrowdCaps { per_principal: Some(1), ..address(1, WhenFull::CloseOldest) };
        assert_eq!([world.opens(A, caps), world.opens(A, caps)], [Ok(vec![]), Ok(vec![1])]);
        assert_eq!(world.opens(B, caps), Err(Refused::AddressFull));
        assert!(world.crowds.0.keys().all(|(_, whose)| *whose != Whose::Principal(Principal::new(&[B.to_string()]))));
    }
}
