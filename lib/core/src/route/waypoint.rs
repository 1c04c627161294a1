//! Who wants a waypoint. There are none yet, so whoever wants one is refused: L7 policy that nobody judges must not be
//! passed by. `underpass.dev/waypoint-failure: allow` on the service opts out.

use std::net::IpAddr;

use crate::{
    World,
    world::{Addressed, Labels, Service, Workload},
};

/// The label that names a waypoint, or `none`.
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// The waypoint that calls of a service pass: its own label, else its namespace's.
#[must_use]
pub fn of_service<'a>(world: &'a World, service: &'a Service) -> Option<&'a str> {
    let of_namespace = || world.namespace(service.name.namespace()).and_then(|n| n.labels.get(USE_WAYPOINT));
    named(service.labels.get(USE_WAYPOINT).or_else(of_namespace))
}

/// The waypoint that calls of a pod's own address pass. A namespace's waypoint is for services, as in Istio.
pub(crate) fn of_workload(workload: &Workload) -> Option<&str> {
    let labels: &Labels = &workload.labels;
    named(labels.get(USE_WAYPOINT))
}

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
        Addressed::Workload(w) => of_workload(w).map(|name| Missing { name, refuses: true }),
        Addressed::Service(s) => of_service(world, s).map(|name| Missing { name, refuses: !s.waypoint_optional }),
        Addressed::Ambiguous(_) | Addressed::Unknown => None,
    }
}

fn named(label: Option<&std::sync::Arc<str>>) -> Option<&str> {
    label.map(|l| &**l).filter(|l| *l != "none")
}
