//! Services and their endpoints.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use underpass_core::{
    World,
    world::{self, Affinity, Distribution, Instance, InternalTraffic, TargetPort, Uid},
};

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The host name by which it is called.
    pub host: String,
    /// `ClusterIP`, `Headless` or `ExternalName`.
    pub r#type: String,
    /// Its VIPs.
    pub vips: Vec<IpAddr>,
    /// TCP ports.
    pub ports: Vec<Port>,
    /// Its endpoints, ready or not.
    pub endpoints: Vec<Endpoint>,
    /// Calls of it from the mesh go through the tunnel.
    pub in_mesh: bool,
    /// The waypoint that it names.
    pub waypoint: Option<String>,
    /// An instance of it is ready; absent from earlier agents.
    #[serde(default)]
    pub waypoint_ready: bool,
    /// While that waypoint is missing or not ready, calls go past it (`underpass.dev/waypoint-failure: allow`) instead of being refused.
    pub waypoint_optional: bool,
    /// What narrows down its endpoints, set by itself or by its namespace: `PreferSameZone`, `Local`, `ClientIP`.
    pub traffic: Vec<String>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name; empty where there is one port.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The number, or the name of a container port, that it leads to.
    pub target: String,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The pod that has them, namespace/name, where it is one of ours.
    pub workload: Option<String>,
    /// It takes new connections.
    pub ready: bool,
    /// It is terminating, and takes new connections only where no other endpoint does.
    pub draining: bool,
    /// Its share of connections, among those that are as near.
    pub weight: u16,
    /// Its node, where that is known.
    pub node: Option<String>,
    /// Its zone, where that is known.
    pub zone: Option<String>,
    /// It is in the mesh.
    pub in_mesh: bool,
}

impl Service {
    pub(super) fn of(world: &World, s: &world::Service) -> Self {
        let endpoints = Endpoint::all(world, s);
        let waypoint = s.waypoint.as_ref().map(ToString::to_string);
        let ready = |i: &Instance<'_>| i.endpoint.map_or(i.workload.ready, |e| e.ready);
        let waypoint_ready = s.waypoint.as_ref().is_some_and(|waypoint| world.instances(waypoint).iter().any(ready));
        let kind = match (&s.external_name, s.vips.is_empty()) {
            (Some(_), _) => "ExternalName",
            (None, true) => "Headless",
            (None, false) => "ClusterIP",
        };
        Self {
            namespace: s.name.namespace().to_owned(),
            name: s.name.name().to_owned(),
            host: s.hostname.to_string(),
            r#type: kind.to_owned(),
            vips: s.vips.clone(),
            ports: s.ports.iter().map(Port::of).collect(),
            in_mesh: world.is_in_mesh(s),
            endpoints,
            waypoint,
            waypoint_ready,
            waypoint_optional: s.waypoint_optional,
            traffic: traffic(s),
        }
    }
}

/// The traffic settings that differ from the default, of the service or its namespace.
fn traffic(s: &world::Service) -> Vec<String> {
    let distribution = Some(s.distribution).filter(|d| *d != Distribution::Any).map(Distribution::as_str);
    let local = (s.internal_traffic == InternalTraffic::Local).then_some("Local");
    let affinity = (s.affinity == Affinity::ClientIp).then_some("ClientIP");
    [distribution, local, affinity].into_iter().flatten().map(str::to_owned).collect()
}

impl Port {
    fn of(port: &world::ServicePort) -> Self {
        let target = match &port.target {
            TargetPort::Number(n) => n.to_string(),
            TargetPort::Name(name) => name.to_string(),
        };
        Self { name: port.name.to_string(), port: port.port, target }
    }
}

impl Endpoint {
    /// The endpoints of a service. A workload whose addresses of both families are alike is shown once.
    fn all(world: &World, s: &world::Service) -> Vec<Self> {
        let mut all: Vec<(&Uid, Self)> = Vec::new();
        for (w, e) in world.endpoints(&s.name) {
            let one = Self::of(w, e);
            let alike = |(uid, other): &&mut (&Uid, Self)| {
                let addresses = other.addresses.clone();
                **uid == w.uid && *other == Self { addresses, ..one.clone() }
            };
            match all.iter_mut().find(alike) {
                Some((_, known)) => known.addresses.push(e.address),
                None => all.push((&w.uid, one)),
            }
        }
        all.into_iter().map(|(_, endpoint)| endpoint).collect()
    }

    fn of(w: &world::Workload, e: &world::Endpoint) -> Self {
        Self {
            addresses: vec![e.address],
            workload: w.is_pod().then(|| w.name.to_string()),
            ready: e.ready,
            draining: e.draining,
            weight: e.weight,
            node: w.node.as_deref().map(str::to_owned),
            zone: w.locality.zone.as_deref().map(str::to_owned),
            in_mesh: w.is_enrolled(),
        }
    }
}
