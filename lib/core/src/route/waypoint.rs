//! The way through a waypoint: the calls that one stands before, and the instance that takes them. What is to pass a
//! waypoint is refused where that is missing or has no instance to call: L7 policy must not be bypassed.
//! `underpass.dev/waypoint-failure: allow` on the Service opts out.

use std::net::SocketAddr;

use super::{
    Authority, Caller, Destination, Hop, HopKind, balance,
    endpoint::{Candidate, narrowed},
};
use crate::{
    Kind, ObjectKey, Reason, World,
    trace::{Stage, Trace},
    world::{Addressed, Affinity, Service, Waypoint, Workload},
};

/// A waypoint before what is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    waypoint: &'a Waypoint,
    /// The Service that is called; none: a pod by its own address.
    service: Option<&'a Service>,
}

/// The waypoint that a call of `to` by `source` is to pass. The waypoint's own calls do not pass it again.
pub(super) fn wanted<'a>(world: &'a World, source: &Workload, to: SocketAddr) -> Option<Wanted<'a>> {
    let (waypoint, service) = match world.addressed(to.ip()) {
        Addressed::Workload(w) => (w.waypoint.as_ref()?, None),
        // Of an external address the Service's ports alone are its own, and no other port of a VIP leads anywhere.
        Addressed::Service(s) => (s.waypoint.as_ref().filter(|_| s.port(to.port()).is_some())?, Some(&**s)),
        Addressed::Ambiguous(_) | Addressed::Unknown => return None,
    };
    (!world.is_instance(waypoint, source)).then_some(Wanted { waypoint, service })
}

impl Wanted<'_> {
    /// Where there is no instance, calls go on without.
    fn is_optional(&self) -> bool {
        self.service.is_some_and(|s| s.waypoint_optional)
    }

    /// The hop to one instance. None: calls go past the waypoint.
    ///
    /// # Errors
    /// The reason why none can be called.
    pub(super) fn hop(
        &self,
        world: &World,
        caller: &Caller<'_>,
        to: SocketAddr,
        roll: u64,
        trace: &mut impl Trace,
    ) -> Result<Option<Hop>, Reason> {
        let chosen = self.instances(world, caller, to, trace).and_then(|all| self.chosen(world, &all, caller, roll));
        match chosen {
            Ok(address) => Ok(Some(self.to(world, address, to))),
            Err(reason) => self.failed(reason, trace).map(|()| None),
        }
    }

    /// The hops that some random number leads to.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(super) fn hops(&self, world: &World, caller: &Caller<'_>, to: SocketAddr) -> Result<Option<Vec<Hop>>, Reason> {
        let hop = |address: SocketAddr| self.to(world, address, to);
        match self.instances(world, caller, to, &mut ()) {
            Ok(all) if self.affinity(world) == Affinity::None => {
                Ok(Some(all.into_iter().map(|c| hop(c.target)).collect()))
            }
            Ok(all) => self.chosen(world, &all, caller, 0).map(|address| Some(vec![hop(address)])),
            Err(reason) => self.failed(reason, &mut ()).map(|()| None),
        }
    }

    /// The destination as far as it is known before the waypoint chooses: what is called.
    pub(super) fn destination(&self, world: &World, to: SocketAddr) -> Destination {
        let workload = world.workload_at(to.ip()).filter(|_| self.service.is_none()).cloned();
        Destination { target: to, workload, service: self.service.map(|s| s.name.clone()) }
    }

    fn to(&self, world: &World, address: SocketAddr, to: SocketAddr) -> Hop {
        let identities = world.identities_of(self.waypoint);
        Hop { kind: HopKind::Waypoint, address, identities, authority: Authority::Address(to) }
    }

    /// The instances among which chance decides: of the family of the call, because the caller's address is the tunnel's
    /// own. Never empty.
    fn instances<'w>(
        &self,
        world: &'w World,
        caller: &Caller<'_>,
        to: SocketAddr,
        trace: &mut impl Trace,
    ) -> Result<Vec<Candidate<'w>>, Reason> {
        let service = world.service_of(self.waypoint).and_then(|name| world.service(name));
        let instances = world.instances(self.waypoint);
        if service.is_none() && instances.is_empty() {
            return Err(Reason::WaypointMissing);
        }
        let takes = |instance: &crate::world::Instance<'w>| {
            let is_up = instance.endpoint.map_or(instance.workload.ready, |e| e.ready || e.draining);
            is_up && instance.address.is_ipv4() == to.is_ipv4()
        };
        let up = instances.into_iter().filter(takes);
        let all: Vec<_> =
            up.map(|i| Candidate { workload: i.workload, endpoint: i.endpoint, target: i.address }).collect();
        if all.is_empty() {
            return Err(Reason::WaypointNotReady);
        }
        let Some(service) = service else { return Ok(all) };
        narrowed(service, caller, all, trace).map_err(|_| Reason::WaypointNotReady)
    }

    fn chosen(
        &self,
        world: &World,
        all: &[Candidate<'_>],
        caller: &Caller<'_>,
        roll: u64,
    ) -> Result<SocketAddr, Reason> {
        let weight = |c: &Candidate<'_>| c.weight();
        let chosen = match self.affinity(world) {
            Affinity::None => balance::by_dice(all, weight, roll),
            Affinity::ClientIp => balance::by_client(all, weight, |c| c.target.ip(), caller.address),
        };
        chosen.map(|c| c.target).ok_or(Reason::WaypointNotReady)
    }

    fn affinity(&self, world: &World) -> Affinity {
        let service = world.service_of(self.waypoint).and_then(|name| world.service(name));
        service.map_or(Affinity::None, |s| s.affinity)
    }

    fn failed(&self, reason: Reason, trace: &mut impl Trace) -> Result<(), Reason> {
        let key = self.service.map(|s| ObjectKey::new(Kind::Service, s.name.clone()));
        trace.say(Stage::Route, key.as_ref(), || {
            let is = if reason == Reason::WaypointMissing { "is missing" } else { "has no instance that is ready" };
            let then = if self.is_optional() {
                "calls bypass it, as underpass.dev/waypoint-failure allows"
            } else {
                "calls are refused"
            };
            format!("waypoint {} {is}: {then}", self.waypoint)
        });
        if self.is_optional() { Ok(()) } else { Err(reason) }
    }

    pub(super) fn says(&self, hop: &Hop) -> String {
        let Hop { address, identities, authority, .. } = hop;
        format!("HBONE to {address}, of waypoint {}, for {authority}, expecting {identities}", self.waypoint)
    }
}
