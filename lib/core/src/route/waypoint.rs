//! Services and pods that require a waypoint. There are no waypoints yet, so calls of them are refused: L7 policy must
//! not be bypassed. `underpass.dev/waypoint-failure: allow` on the service opts out.

use std::net::IpAddr;

use crate::{World, world::Addressed};

/// A required waypoint that does not exist.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing<'a> {
    name: &'a str,
    /// Calls are refused, not carried without it.
    pub(super) refuses: bool,
}

impl Missing<'_> {
    pub(super) fn says(&self) -> String {
        let then = if self.refuses {
            "calls are refused"
        } else {
            "calls bypass it, as underpass.dev/waypoint-failure allows"
        };
        format!("waypoint {} is missing: {then}", self.name)
    }
}

/// The waypoint that calls of `to` require.
pub(super) fn missing(world: &World, to: IpAddr) -> Option<Missing<'_>> {
    match world.addressed(to) {
        Addressed::Workload(w) => w.waypoint.as_deref().map(|name| Missing { name, refuses: true }),
        Addressed::Service(s) => s.waypoint.as_deref().map(|name| Missing { name, refuses: !s.waypoint_optional }),
        Addressed::Ambiguous(_) | Addressed::Unknown => None,
    }
}
