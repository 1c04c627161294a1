//! Services and the slices of endpoints behind them, as written. What a connection to one means is [`crate::route`].

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;

use crate::{ObjectName, world::Labels};

/// Where traffic for a service port goes on a pod.
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
}

/// Which of a service's endpoints calls from inside the cluster may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum InternalTraffic {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the caller's node, and no others.
    Local,
}

/// How near connections prefer to stay. Never a reason to be refused: where nothing is near they go further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

/// What the connections of one client have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Affinity {
    /// Nothing.
    #[default]
    None,
    /// `ClientIP`: their endpoint, as long as it is there.
    ClientIp,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// namespace/name.
    pub name: ObjectName,
    /// `spec.clusterIPs` without `None`, canonical. Empty: headless or ExternalName.
    pub vips: Vec<IpAddr>,
    /// TCP ports; others are not the mesh's.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; without one only EndpointSlices name endpoints.
    pub selector: Option<Labels>,
    /// `spec.externalName` of an ExternalName service.
    pub external_name: Option<Arc<str>>,
    /// `spec.publishNotReadyAddresses`: pods that are not ready are endpoints too.
    pub publish_not_ready: bool,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic: InternalTraffic,
    /// `spec.trafficDistribution`, else the annotation `networking.istio.io/traffic-distribution`; none: as the
    /// namespace says.
    pub distribution: Option<Distribution>,
    /// `spec.sessionAffinity`.
    pub affinity: Affinity,
    /// Labels; `istio.io/use-waypoint` among them.
    pub labels: Labels,
    /// `underpass.dev/waypoint-failure: allow`: a missing waypoint is passed over.
    pub waypoint_optional: bool,
}

/// A port of a slice: the number that the endpoints listen on, under the service port's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SlicePort {
    /// `ports[].name`, equal to the service port's.
    pub name: Arc<str>,
    /// `ports[].port`: a target port.
    pub port: u16,
}

/// For whom an endpoint is meant, as the controller that wrote the slice has worked out. Empty: for everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hints {
    /// `hints.forZones[].name`.
    pub zones: Vec<Arc<str>>,
    /// `hints.forNodes[].name`.
    pub nodes: Vec<Arc<str>>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SliceEndpoint {
    /// `addresses`, canonical. They stand for one backend.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; true where it is missing, as the API says.
    pub ready: bool,
    /// `conditions.terminating` and `conditions.serving`: it goes, and still takes what nobody else can.
    pub draining: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints`.
    pub hints: Hints,
}

/// A `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointSlice {
    /// namespace/name of the slice.
    pub name: ObjectName,
    /// The service it belongs to, by label `kubernetes.io/service-name`.
    pub service: ObjectName,
    /// TCP ports.
    pub ports: Vec<SlicePort>,
    /// Endpoints, ready or not.
    pub endpoints: Vec<SliceEndpoint>,
}
