//! Services, as routing needs them. Their endpoints are part of the workloads.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{AppProtocol, Waypoint};
use crate::ObjectName;

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// namespace/name.
    pub name: ObjectName,
    /// By which it is called: `reviews.default.svc.cluster.local`.
    pub hostname: Arc<str>,
    /// Its VIPs, canonical. Empty: headless or ExternalName.
    pub vips: Vec<IpAddr>,
    /// The addresses that it says are its own as well, and that nothing else has; canonical, none of them a VIP of it.
    /// They are the service's at its ports only.
    pub external: Vec<IpAddr>,
    /// TCP ports; others are not carried by the mesh.
    pub ports: Vec<ServicePort>,
    /// `spec.externalName` of an ExternalName service.
    pub external_name: Option<Arc<str>>,
    /// The endpoints that may be reached.
    pub internal_traffic: InternalTraffic,
    /// The preference for near endpoints: the service's own, else its namespace's.
    pub distribution: Distribution,
    /// The session affinity of clients.
    pub affinity: Affinity,
    /// The waypoint that calls of it pass: its own, else its namespace's.
    pub waypoint: Option<Waypoint>,
    /// `underpass.dev/waypoint-failure: allow`: a waypoint that is missing or not ready is bypassed.
    pub waypoint_optional: bool,
}

impl Service {
    /// Its port of this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == number)
    }

    /// This address, which is none of its VIPs, is its own.
    #[must_use]
    pub fn is_external(&self, ip: IpAddr) -> bool {
        self.external.contains(&ip) && !self.vips.contains(&ip)
    }

    /// Every address of it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.vips.iter().chain(&self.external).copied()
    }
}

/// The port of a pod that a service port leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum TargetPort {
    /// This number on every pod.
    Number(u16),
    /// The container port of this name, which may be another number on every pod.
    Name(Arc<str>),
}

/// One TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// `ports[].name`, empty where the service has one port.
    pub name: Arc<str>,
    /// `ports[].port`.
    pub port: u16,
    /// `ports[].targetPort`, the port itself where it is missing.
    pub target: TargetPort,
    /// By `ports[].appProtocol`, else by its name.
    pub protocol: AppProtocol,
}

/// The endpoints of a service that calls from inside the cluster may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum InternalTraffic {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the caller's node, and no others.
    Local,
}

/// The preference for near endpoints. Never a reason of a refusal: where none is near, farther ones are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distribution {
    /// Anywhere.
    #[default]
    Any,
    /// `PreferSameZone` and `PreferClose`: the same subzone, else the same zone, else the same region.
    SameZone,
    /// `PreferSameNode`: the same node, else as [`Distribution::SameZone`].
    SameNode,
}

impl Distribution {
    /// As written in a manifest; `PreferClose` is the old name of `PreferSameZone`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "Any",
            Self::SameZone => "PreferSameZone",
            Self::SameNode => "PreferSameNode",
        }
    }
}

/// The session affinity of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Affinity {
    /// Nothing.
    #[default]
    None,
    /// `ClientIP`: their endpoint, as long as it is there.
    ClientIp,
}
