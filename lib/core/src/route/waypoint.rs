//! Who wants a waypoint. There are none yet, so whoever wants one is refused: L7 policy that nobody judges must not be
//! passed by. `underpass.dev/waypoint-failure: allow` on the service opts out.

use std::net::IpAddr;

use crate::{World, world::Addressed};

/// A waypoint that calls are to pass, and that is not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing<'a> {
    name: &'a str,
    /// No call goes past it.
    pub(super) refuses: bool,
}

impl Missing<'_> {
    pub(super) fn says(&self) -> String {
        let then = if self.refuses { "calls are refused" } else { "calls go past it, as the service says" };
        format!("waypoint {} is missing: {then}", self.name)
    }
}

/// What calls of `to` are to pass.
pub(super) fn missing(world: &World, to: IpAddr) -> Option<Missing<'_>> {
    match world.addressed(to) {
        Addressed::Workload(w) => w.waypoint.as_deref().map(|name| Missing { name, refuses: true }),
        Addressed::Service(s) => s.waypoint.as_deref().map(|name| Missing { name, refuses: !s.waypoint_optional }),
        Addressed::Ambiguous(_) | Addressed::Unknown => None,
    }
}
