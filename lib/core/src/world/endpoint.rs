//! The backends of a service, from its EndpointSlices or its selector.
//!
//! In Kubernetes slices are the only truth, and a controller makes them from the selector. So slices count alone where
//! a service has any; without one (manifests that nobody has run) its selector does what the controller would do.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    ObjectName,
    world::{
        EndpointSlice, Hints, Locality, Phase, Service, ServicePort, SliceEndpoint, SlicePort, TargetPort, Workload,
        selects,
    },
};

/// The weight of an endpoint that says nothing about it.
pub const DEFAULT_WEIGHT: u16 = 1;

/// A backend of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its addresses: of a slice's endpoint, or of the selected pod.
    pub addresses: Vec<IpAddr>,
    /// It may take new connections.
    pub ready: bool,
    /// It is on its way out and still serves: it takes new connections where none is ready.
    pub draining: bool,
    /// Its share of new connections, relative to the others'. 0: none, while others are there.
    pub weight: u16,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// Where it is: of its node, where that is known.
    pub locality: Locality,
    /// For whom its slice says that it is meant.
    pub hints: Hints,
    /// The pod that owns the address, where it is one of ours.
    pub workload: Option<Arc<Workload>>,
    ports: Ports,
}

#[derive(Clone, Debug)]
enum Ports {
    /// Those that the slice lists.
    Slice(Arc<EndpointSlice>),
    /// Target ports, by name those of this pod.
    Pod(Arc<Workload>),
}

impl Endpoint {
    /// The port that this endpoint listens on for a service port: the slice's port of that name, or the target port.
    #[must_use]
    pub fn port(&self, port: &ServicePort) -> Option<u16> {
        match (&self.ports, &port.target) {
            (Ports::Slice(slice), _) => slice.ports.iter().find(|p| p.name == port.name).map(|p| p.port),
            (Ports::Pod(_), TargetPort::Number(n)) => Some(*n),
            (Ports::Pod(pod), TargetPort::Name(name)) => pod.port_named(name),
        }
    }

    /// Its address of the same family as `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv4() == like.is_ipv4())
    }
}

/// What endpoints are made from.
pub(super) struct Sources<'a> {
    pub(super) owners: &'a BTreeMap<IpAddr, Vec<Arc<Workload>>>,
    pub(super) localities: &'a BTreeMap<Arc<str>, Locality>,
    pub(super) slices: BTreeMap<&'a ObjectName, Vec<&'a Arc<EndpointSlice>>>,
    pub(super) pods: BTreeMap<&'a str, Vec<&'a Arc<Workload>>>,
}

impl Sources<'_> {
    /// The endpoints of a service. An ExternalName service has none, whatever it selects.
    pub(super) fn endpoints(&self, service: &Service) -> Vec<Endpoint> {
        match self.slices.get(&service.name) {
            _ if service.external_name.is_some() => Vec::new(),
            Some(slices) => self.of_slices(slices, service),
            None => self.of_selector(service),
        }
    }

    /// The one pod with this address, as [`crate::World::workload_at`] has it but for VIPs.
    fn owner(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        match self.owners.get(&address).map(Vec::as_slice) {
            Some([w]) => Some(w),
            _ => None,
        }
    }

    fn locality(&self, node: Option<&str>) -> Option<&Locality> {
        self.localities.get(node?)
    }

    fn of_slices(&self, slices: &[&Arc<EndpointSlice>], service: &Service) -> Vec<Endpoint> {
        let mut all: Vec<Endpoint> = Vec::new();
        // While a controller moves an endpoint from one slice to another it stands in both: it is one all the same.
        let mut seen: BTreeMap<(&[IpAddr], &[SlicePort]), usize> = BTreeMap::new();
        for slice in slices {
            for e in &slice.endpoints {
                match seen.entry((&e.addresses, &slice.ports)) {
                    Entry::Vacant(entry) => {
                        entry.insert(all.len());
                        all.push(self.of_slice(slice, e, service));
                    }
                    Entry::Occupied(entry) => {
                        if let Some(known) = all.get_mut(*entry.get()) {
                            known.ready |= e.ready;
                            known.draining |= e.draining;
                        }
                    }
                }
            }
        }
        all
    }

    fn of_slice(&self, slice: &Arc<EndpointSlice>, e: &SliceEndpoint, service: &Service) -> Endpoint {
        let workload = e.addresses.iter().find_map(|a| self.owner(*a));
        let node = workload.and_then(|w| w.node.as_ref()).or(e.node.as_ref());
        let of_zone = || Locality { zone: e.zone.clone(), ..Locality::default() };
        Endpoint {
            addresses: e.addresses.clone(),
            ready: e.ready || service.publish_not_ready,
            draining: e.draining,
            weight: workload.map_or(DEFAULT_WEIGHT, |w| w.weight),
            locality: self.locality(node.map(|n| &**n)).cloned().unwrap_or_else(of_zone),
            node: node.cloned(),
            hints: e.hints.clone(),
            workload: workload.cloned(),
            ports: Ports::Slice(Arc::clone(slice)),
        }
    }

    fn of_selector(&self, service: &Service) -> Vec<Endpoint> {
        // An empty selector selects nothing: the API server makes no slices for it either.
        let Some(selector) = service.selector.as_ref().filter(|s| !s.is_empty()) else {
            return Vec::new();
        };
        let pods = self.pods.get(service.name.namespace()).map_or(&[][..], |v| v);
        pods.iter()
            .filter(|w| w.phase != Phase::Terminal && !w.addresses.is_empty() && selects(selector, &w.labels))
            .map(|w| self.of_pod(w, service))
            .collect()
    }

    fn of_pod(&self, pod: &Arc<Workload>, service: &Service) -> Endpoint {
        // A pod of the host's network has the node's addresses, and is an endpoint all the same.
        let workload = match pod.host_network {
            true => pod.addresses.iter().find_map(|a| self.owner(*a)),
            false => Some(pod),
        };
        Endpoint {
            addresses: pod.addresses.clone(),
            ready: pod.ready || service.publish_not_ready,
            draining: pod.draining,
            weight: pod.weight,
            node: pod.node.clone(),
            locality: self.locality(pod.node.as_deref()).cloned().unwrap_or_default(),
            hints: Hints::default(),
            workload: workload.cloned(),
            ports: Ports::Pod(Arc::clone(pod)),
        }
    }
}
