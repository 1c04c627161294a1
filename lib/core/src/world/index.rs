//! What a World looks up often, computed once when it is built. Everything here follows from the objects; nothing is
//! kept from the World before, so that no order of changes can make two Worlds differ.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    ObjectKey, ObjectName,
    enrol::{self, Enrolment},
    world::{
        AuthorizationPolicy, EndpointSlice, Finding, MeshSettings, Namespace, Object, PeerAuthentication, Service,
        ServicePort, TargetPort, Workload, findings, selects,
    },
};

/// A backend of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its addresses: of a slice's endpoint, or of the selected pod.
    pub addresses: Vec<IpAddr>,
    /// It may take new connections.
    pub ready: bool,
    /// The pod that owns the address, where it is one of ours.
    pub workload: Option<Arc<Workload>>,
    slice: Option<Arc<EndpointSlice>>,
}

impl Endpoint {
    /// The port that this endpoint listens on for a service port: the slice's port of that name, or the target port.
    #[must_use]
    pub fn port(&self, port: &ServicePort) -> Option<u16> {
        match (&self.slice, &port.target) {
            (Some(slice), _) => slice.ports.iter().find(|p| p.name == port.name).map(|p| p.port),
            (None, TargetPort::Number(n)) => Some(*n),
            (None, TargetPort::Name(name)) => self.workload.as_ref()?.port_named(name),
        }
    }

    /// Its address of the same family as `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv4() == like.is_ipv4())
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) workloads: BTreeMap<IpAddr, Vec<Arc<Workload>>>,
    pub(super) vips: BTreeMap<IpAddr, Vec<Arc<Service>>>,
    pub(super) enrolments: BTreeMap<ObjectName, Enrolment>,
    pub(super) endpoints: BTreeMap<ObjectName, Vec<Endpoint>>,
    pub(super) authorization: BTreeMap<Arc<str>, Vec<Arc<AuthorizationPolicy>>>,
    pub(super) peer_authentication: BTreeMap<Arc<str>, Vec<Arc<PeerAuthentication>>>,
    pub(super) findings: Vec<Finding>,
}

impl Index {
    pub(super) fn build(settings: &MeshSettings, objects: &BTreeMap<ObjectKey, Object>) -> Self {
        let mut index = Self::default();
        let mut namespaces: BTreeMap<&str, &Arc<Namespace>> = BTreeMap::new();
        let mut slices: BTreeMap<&ObjectName, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
        let mut pods: BTreeMap<&str, Vec<&Arc<Workload>>> = BTreeMap::new();
        let mut services = Vec::new();
        for object in objects.values() {
            match object {
                Object::Namespace(n) => drop(namespaces.insert(n.name.name(), n)),
                Object::Node(_) => {}
                Object::Workload(w) => pods.entry(w.name.namespace()).or_default().push(w),
                Object::Service(s) => services.push(s),
                Object::EndpointSlice(s) => slices.entry(&s.service).or_default().push(s),
                Object::AuthorizationPolicy(p) => {
                    index.authorization.entry(p.name.namespace().into()).or_default().push(Arc::clone(p));
                }
                Object::PeerAuthentication(p) => {
                    index.peer_authentication.entry(p.name.namespace().into()).or_default().push(Arc::clone(p));
                }
            }
        }
        for list in index.peer_authentication.values_mut() {
            list.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        }
        for w in pods.values().flatten() {
            let ns = namespaces.get(w.name.namespace()).map(|n| &***n);
            index.enrolments.insert(w.name.clone(), enrol::decide(w, ns, settings));
            for ip in w.addresses.iter().filter(|_| w.has_own_addresses()) {
                index.workloads.entry(*ip).or_default().push(Arc::clone(w));
            }
        }
        for s in services {
            for vip in &s.vips {
                index.vips.entry(*vip).or_default().push(Arc::clone(s));
            }
            let of_namespace = pods.get(s.name.namespace()).map_or(&[][..], |v| v);
            let endpoints = match slices.get(&s.name) {
                Some(slices) => from_slices(slices, &index.workloads, s),
                None => from_selector(s, of_namespace),
            };
            index.endpoints.insert(s.name.clone(), endpoints);
        }
        index.findings = findings::find(settings, objects, &index);
        index
    }
}

fn from_slices(
    slices: &[&Arc<EndpointSlice>],
    workloads: &BTreeMap<IpAddr, Vec<Arc<Workload>>>,
    service: &Service,
) -> Vec<Endpoint> {
    let owner = |a: &IpAddr| match workloads.get(a).map(Vec::as_slice) {
        Some([w]) => Some(Arc::clone(w)),
        _ => None,
    };
    (slices.iter().copied())
        .flat_map(|slice| slice.endpoints.iter().map(move |e| (slice, e)))
        .map(|(slice, e)| Endpoint {
            addresses: e.addresses.clone(),
            ready: e.ready || service.publish_not_ready,
            workload: e.addresses.iter().find_map(owner),
            slice: Some(Arc::clone(slice)),
        })
        .collect()
}

fn from_selector(service: &Service, pods: &[&Arc<Workload>]) -> Vec<Endpoint> {
    // An empty selector selects nothing: the API server makes no slices for it either.
    let Some(selector) = service.selector.as_ref().filter(|s| !s.is_empty()) else {
        return Vec::new();
    };
    pods.iter()
        .filter(|w| w.has_own_addresses() && selects(selector, &w.labels))
        .map(|w| Endpoint {
            addresses: w.addresses.clone(),
            ready: w.ready || service.publish_not_ready,
            workload: Some(Arc::clone(w)),
            slice: None,
        })
        .collect()
}
