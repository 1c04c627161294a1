//! Connections outside the mesh about which something else decides: nodes, which forward node ports and external
//! addresses to endpoints, and Istio's sidecars, which judge for themselves.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Answered, Known, Path, Source, arrive};
use crate::{
    Kind, ObjectKey, Reason, World,
    authz::{Peer, Verdict},
    enrol::EnrolmentReason,
    peer_auth,
    route::{self, Caller, Destination},
    trace::{Stage, Step, Trace as _},
    world::{Service, Takes, Workload},
};

/// The answer for a connection that the mesh does not capture; none: nothing else decides about it.
pub(super) fn left_alone(
    known: Known<'_>,
    from: &Source,
    caller: &Caller<'_>,
    to: SocketAddr,
    steps: &mut Vec<Step>,
) -> Option<Answered> {
    let world = known.world;
    if let Some(entry) = NodeEntry::at(known, to) {
        return entry.follow(world, from, to, steps);
    }
    let destination = route::resolve(world, caller, to, 0, &mut ()).ok()?;
    sidecar_refuses(world, from, Path::Untouched, &destination, steps)
}

/// A pod with a sidecar accepts mutual TLS of other sidecars. What comes from the mesh, or from neither, is plaintext to
/// it.
pub(super) fn sidecar_refuses(
    world: &World,
    from: &Source,
    path: Path,
    destination: &Destination,
    steps: &mut Vec<Step>,
) -> Option<Answered> {
    let has_sidecar = |w: &Arc<Workload>| w.enrolment.because() == EnrolmentReason::Sidecar;
    let workload = destination.workload.as_ref().filter(|w| has_sidecar(w))?;
    if from.workload.as_ref().is_some_and(has_sidecar) {
        return None;
    }
    let mut judged = Vec::new();
    let (takes, policy) = peer_auth::takes(world, workload, destination.target.port(), &mut judged);
    if takes != Takes::MutualTls {
        return None;
    }
    let key = ObjectKey::new(Kind::Pod, workload.name.clone());
    steps.say(Stage::PeerAuthentication, Some(&key), || {
        "the connection reaches its sidecar in plaintext, and the sidecar decides".into()
    });
    steps.append(&mut judged);
    let reason = Reason::PlaintextRefused;
    let says = format!("{reason}: by the sidecar of {}", workload.name);
    Some((path, Verdict::Deny { policy: policy.cloned(), reason }, says))
}

/// An entry into a service that nodes provide, not the mesh: a node port, or an external address that is not the
/// mesh's.
struct NodeEntry<'w> {
    service: &'w Arc<Service>,
    port: u16,
    at_node: bool,
}

impl<'w> NodeEntry<'w> {
    fn at(known: Known<'w>, to: SocketAddr) -> Option<Self> {
        let at_node = is_node(known, to.ip());
        known.world.services().find_map(|service| {
            // The fact has only those external addresses that are the service's alone.
            let object = known.sources.and_then(|sources| sources.service(&service.name));
            let node_ports = object.into_iter().filter(|_| at_node).flat_map(|object| &object.node_ports);
            let node_port = node_ports.filter(|(_, node_port)| **node_port == to.port()).map(|(port, _)| *port).next();
            let is_external = || match object {
                Some(object) => object.external().any(|ip| ip == to.ip()),
                None => service.is_external(to.ip()),
            };
            let external = || service.port(to.port()).filter(|_| is_external()).map(|p| p.port);
            Some(Self { service, port: node_port.or_else(external)?, at_node })
        })
    }

    fn follow(&self, world: &World, from: &Source, to: SocketAddr, steps: &mut Vec<Step>) -> Option<Answered> {
        let vip = self.service.vips.iter().find(|vip| vip.is_ipv4() == to.is_ipv4())?;
        let key = ObjectKey::new(Kind::Service, self.service.name.clone());
        let what = if self.at_node { "a node port" } else { "an external address" };
        steps.say(Stage::Route, Some(&key), || {
            format!(
                "{to} is {what} of this service: the node forwards it to an endpoint, in plaintext and from an address of its own"
            )
        });
        // Nodes replace the source address, lest the answer be routed past them.
        let from = match self.at_node {
            true => Source { address: to.ip(), workload: None },
            false => Source { address: from.address, workload: None },
        };
        let caller = Caller { address: from.address, node: None, locality: None };
        let destination = route::resolve(world, &caller, SocketAddr::new(*vip, self.port), 0, steps).ok()?;
        steps.say(Stage::Route, None, || format!("{to} leads to {}", destination.target));
        if destination.workload.as_ref().is_some_and(|w| w.is_enrolled()) {
            return Some(arrive(world, Path::Plaintext, Peer::itself(from.address, None), &destination, steps));
        }
        sidecar_refuses(world, &from, Path::Untouched, &destination, steps)
    }
}

fn is_node(known: Known<'_>, ip: IpAddr) -> bool {
    let is_declared = || known.sources.is_some_and(|sources| sources.nodes().any(|node| node.addresses.contains(&ip)));
    known.world.workloads().any(|w| w.host_network && w.addresses.contains(&ip)) || is_declared()
}
