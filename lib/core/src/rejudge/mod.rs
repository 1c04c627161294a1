//! Judging an open connection again after a change. Both ends keep a [`Judged`] for each of their connections, and
//! check it against every new World, with the functions that admitted it.
//!
//! | it was opened | it ends where the World now says that |
//! |---|---|
//! | towards a pod of this node | the pod, or its address, is gone; [`admit`](mod@crate::admit) denies it |
//! | by one, through a tunnel to the target's node | the pod or its address is gone; its identity, or that of the target address's owner, is another; a waypoint is wanted |
//! | by one, through a tunnel to a gateway | the pod or its address is gone; its identity is another; a waypoint is wanted |
//! | by one, through a tunnel to a waypoint | the pod or its address is gone; its identity is another |
//! | by one, plain | the pod or its address is gone; a waypoint is wanted; the target is in the mesh now and would not take it as plaintext |
//!
//! What was chosen once stays chosen: a connection does not end because its endpoint left the service, is not ready, or
//! the service is gone; nor because one of its ends leaves the mesh, whose release ends it, nor because its address is
//! claimed twice, which does not change the other end. A waypoint or a gateway chooses where a
//! connection ends: the owner of the target's address says nothing about the peer that answered, and the hop's own end
//! judges it.
//!
//! The race of a change with a connection being opened: register first, then compare `judged_at` with the current
//! version and check again if it differs. Between the two no change can be missed.

mod at_waypoint;
mod changes;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub use self::{
    at_waypoint::{GateChanges, Reached, check_endpoint},
    changes::Changes,
};
use crate::{
    Identities, Identity, NamedSource, ObjectName, Reason, World, admit,
    authz::{Peer, Request, Verdict},
    route::{Hop, HopKind},
    world::{Uid, Version, Workload},
};

/// An open connection as it was judged: by which pod, on what basis, in which World.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The pod of this node that accepted or opened it.
    pub pod: Uid,
    /// What the verdict rests on.
    pub basis: Basis,
    /// The World that admitted it.
    pub judged_at: Version,
}

/// What the verdict about a connection rests on, by its direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// To the pod.
    Inbound {
        /// Its address that was called.
        address: IpAddr,
        /// The target port.
        port: u16,
        /// The peer's address.
        peer: IpAddr,
        /// The peer's identity; none: plaintext.
        identity: Option<Identity>,
        /// The source that the peer, a waypoint, named, and that was believed when it was opened: who opened it does
        /// not change any more.
        named: Option<NamedSource>,
    },
    /// From the pod.
    Outbound {
        /// Its address that called.
        from: IpAddr,
        /// The service whose VIP was called.
        service: Option<ObjectName>,
        /// The chosen destination: the application's address and target port.
        target: SocketAddr,
        /// How it is carried there.
        path: OutboundPath,
    },
}

/// The path of an outbound connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundPath {
    /// A tunnel to the next hop.
    Tunnel {
        /// The identity of the pod's certificate.
        own: Identity,
        /// The kind of the next hop.
        hop: HopKind,
        /// The identities that may answer there.
        identities: Identities,
    },
    /// Nothing: it goes on as it came.
    Plain,
}

impl OutboundPath {
    /// A tunnel from `own` to `hop`.
    #[must_use]
    pub fn tunnel(own: Identity, hop: &Hop) -> Self {
        Self::Tunnel { own, hop: hop.kind, identities: hop.identities.clone() }
    }

    const fn is_waypoint(&self) -> bool {
        matches!(self, Self::Tunnel { hop: HopKind::Waypoint, .. })
    }
}

const ALLOW: Verdict = Verdict::Allow { policy: None };

const fn deny(reason: Reason) -> Verdict {
    Verdict::Deny { policy: None, reason }
}

/// The verdict of `world` about it.
#[must_use]
pub fn check(world: &World, judged: &Judged) -> Verdict {
    let pod = &judged.pod;
    match &judged.basis {
        Basis::Inbound { address, port, peer, identity, named } => {
            // One that leaves the mesh is judged as before: its open connections go on until its release ends them.
            let Some(workload) = world.workload(pod).filter(|w| w.addresses.contains(address)) else {
                return deny(Reason::PodGone);
            };
            let peer = match identity {
                Some(identity) => Peer::of_tunnel(*peer, identity, named.as_ref()),
                None => Peer::itself(*peer, None),
            };
            admit::admit(world, &Request { peer, workload, address: *address, port: *port }, &mut ())
        }
        Basis::Outbound { from, service, target, path } => match source(world, pod, *from) {
            Err(reason) => deny(reason),
            Ok(source) => match bypassed(world, source, service.as_ref(), target.ip()) {
                Some(reason) if !path.is_waypoint() => deny(reason),
                _ => outbound(world, source, *from, *target, path),
            },
        },
    }
}

fn outbound(world: &World, source: &Workload, from: IpAddr, target: SocketAddr, path: &OutboundPath) -> Verdict {
    // No owner, or more than one: that says nothing about the owner at the time it was opened.
    let destination = world.workload_at(target.ip());
    match path {
        OutboundPath::Tunnel { own, hop, identities } => {
            let may_answer = |w: &Arc<Workload>| world.identity(w).is_some_and(|found| identities.contains(found));
            let is_same_end = match hop {
                HopKind::Workload => destination.is_none_or(may_answer),
                HopKind::Waypoint | HopKind::Gateway => true,
            };
            if world.identity(source) == Some(own) && is_same_end { ALLOW } else { deny(Reason::Identity) }
        }
        OutboundPath::Plain => match destination {
            // It began before the other end was in the mesh, whose node has never seen it: judged for it, as it would. One to its
            // own address leaves no pod, also where a pod on the host's network shares that with another one.
            Some(workload) if workload.is_enrolled() && workload.uid != source.uid && target.ip() != from => {
                let peer = Peer::itself(from, None);
                let request = Request { peer, workload, address: target.ip(), port: target.port() };
                admit::admit(world, &request, &mut ())
            }
            _ => ALLOW,
        },
    }
}

/// The pod that a connection of this node comes from: it is known, and `from` is its address.
///
/// # Errors
/// The reason why it may open none.
pub fn source<'a>(world: &'a World, pod: &Uid, from: IpAddr) -> Result<&'a Arc<Workload>, Reason> {
    let source = world.workload(pod).ok_or(Reason::PodGone)?;
    if source.addresses.contains(&from) { Ok(source) } else { Err(Reason::BadSource) }
}

/// A waypoint stands before the called service or pod, there or not: its L7 policy must not be bypassed. Not so for
/// the waypoint's own calls, and where `underpass.dev/waypoint-failure: allow` makes it optional.
fn bypassed(world: &World, source: &Workload, service: Option<&ObjectName>, target: IpAddr) -> Option<Reason> {
    let waypoint = match service {
        Some(service) => world.service(service).filter(|s| !s.waypoint_optional)?.waypoint.as_ref()?,
        None => world.workload_at(target)?.waypoint.as_ref()?,
    };
    let reason = if waypoint.is_missing() { Reason::WaypointMissing } else { Reason::WaypointBypassed };
    (!world.is_instance(waypoint, source)).then_some(reason)
}

#[cfg(test)]
mod tests;
