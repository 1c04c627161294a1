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
    /// Labels; `istio.io/use-waypoint` among them.
    pub labels: Labels,
    /// `underpass.dev/waypoint-failure: allow`: a missing waypoint is passed over.
    pub waypoint_optional: bool,
}

/// A port of a slice: the number that the endpoints listen on, under the service port's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlicePort {
    /// `ports[].name`, equal to the service port's.
    pub name: Arc<str>,
    /// `ports[].port`: a target port.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SliceEndpoint {
    /// `addresses`, canonical. They stand for one backend.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; true where it is missing, as the API says.
    pub ready: bool,
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
