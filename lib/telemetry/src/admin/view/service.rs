//! Services and what is behind them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use underpass_core::{
    World,
    route::waypoint_of,
    world::{self, TargetPort},
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
    /// Who is behind it, ready or not.
    pub endpoints: Vec<Endpoint>,
    /// Calls of it from the mesh go through the tunnel.
    pub in_mesh: bool,
    /// The waypoint that it wants.
    pub waypoint: Option<String>,
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
    /// It is in the mesh.
    pub in_mesh: bool,
}

impl Service {
    pub(super) fn of(world: &World, s: &world::Service) -> Self {
        let endpoints: Vec<_> = world.endpoints(&s.name).iter().map(|e| Endpoint::of(world, e)).collect();
        let waypoint = waypoint_of(world, s).map(str::to_owned);
        let kind = match (&s.external_name, s.vips.is_empty()) {
            (Some(_), _) => "ExternalName",
            (None, true) => "Headless",
            (None, false) => "ClusterIP",
        };
        Self {
            namespace: s.name.namespace().to_owned(),
            name: s.name.name().to_owned(),
            host: world.hostname(&s.name),
            r#type: kind.to_owned(),
            vips: s.vips.clone(),
            ports: s.ports.iter().map(Port::of).collect(),
            in_mesh: waypoint.is_some() || endpoints.iter().any(|e| e.in_mesh),
            endpoints,
            waypoint,
        }
    }
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
    fn of(world: &World, e: &world::Endpoint) -> Self {
        Self {
            addresses: e.addresses.clone(),
            workload: e.workload.as_ref().map(|w| w.name.to_string()),
            ready: e.ready,
            in_mesh: e.workload.as_ref().is_some_and(|w| world.is_enrolled(w)),
        }
    }
}
