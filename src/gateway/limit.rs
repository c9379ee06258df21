//! The stage that turns requests away while the gateway takes no new streams.
//!
//! Cheap and early; the place itself is reserved by `forward`, which is where the limits are exact.

use crate::gateway::Shared;
use crate::gateway::rejection::Rejection;
use crate::gateway::route::Routed;

/// A request that came while there was room.
pub struct Within(Routed);

impl Within {
    /// The request.
    pub fn into_routed(self) -> Routed {
        self.0
    }

    /// The request.
    pub const fn routed(&self) -> &Routed {
        &self.0
    }
}

/// Lets a request through if the gateway is not leaving and is not full.
pub fn check(shared: &Shared, routed: Routed) -> Result<Within, Rejection> {
    if shared.draining() {
        return Err(Rejection::Draining);
    }
    let most = routed.visit.rules.config.max_streams;
    if most.is_some_and(|most| shared.registry.len() >= most) {
        return Err(Rejection::TooMany);
    }
    Ok(Within(routed))
}
