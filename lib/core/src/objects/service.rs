//! Services and the slices of endpoints behind them, as written.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::Serialize;

use crate::{
    Few, ObjectName,
    labels::Labels,
    world::{Affinity, Distribution, Hints, InternalTraffic, ServicePort},
};

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// namespace/name.
    pub name: ObjectName,
    /// `spec.clusterIPs` without `None`, canonical. Empty: headless or ExternalName.
    pub vips: Vec<IpAddr>,
    /// `spec.externalIPs`, and those of `status.loadBalancer.ingress` that nodes deliver themselves, canonical: its own
    /// as well, unless they are another's.
    pub external: Vec<IpAddr>,
    /// TCP ports; others are not carried by the mesh.
    pub ports: Vec<ServicePort>,
    /// By port: `ports[].nodePort`, where every node leads there as well.
    pub node_ports: BTreeMap<u16, u16>,
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
    /// `underpass.dev/waypoint-failure: allow`: a missing waypoint is bypassed.
    pub waypoint_optional: bool,
}

impl Service {
    /// The addresses that it says are its own and that are none of its VIPs.
    pub fn external(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.external.iter().copied().filter(|ip| !self.vips.contains(ip))
    }
}

/// A port of a slice: the number that the endpoints listen on, under the service port's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SlicePort {
    /// `ports[].name`, equal to the service port's.
    pub name: Arc<str>,
    /// `ports[].port`: a target port.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SliceEndpoint {
    /// `addresses`, canonical. They stand for one backend; only the first one counts, as for kube-proxy.
    pub addresses: Few<IpAddr>,
    /// `targetRef`, where that is a pod: the one that is meant, whichever pod has the address by now.
    pub target: Option<ObjectName>,
    /// `conditions.ready`; true where it is missing, as the API says.
    pub ready: bool,
    /// `conditions.terminating` and `conditions.serving`: it is terminating, and takes connections where no endpoint is
    /// ready.
    pub draining: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints`; none: it has none.
    pub hints: Option<Arc<Hints>>,
}

impl SliceEndpoint {
    /// Its address. The API gives further ones no meaning.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }
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
