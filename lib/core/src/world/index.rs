//! What a World looks up often, computed once when it is built. Everything here follows from the objects; nothing is
//! kept from the World before, so that no order of changes can make two Worlds differ.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    ObjectKey, ObjectName,
    enrol::{self, Enrolment},
    world::{
        AuthorizationPolicy, Endpoint, EndpointSlice, Finding, Locality, MeshSettings, Namespace, Object,
        PeerAuthentication, Service, Workload, endpoint::Sources, findings,
    },
};

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) workloads: BTreeMap<IpAddr, Vec<Arc<Workload>>>,
    pub(super) vips: BTreeMap<IpAddr, Vec<Arc<Service>>>,
    pub(super) enrolments: BTreeMap<ObjectName, Enrolment>,
    pub(super) endpoints: BTreeMap<ObjectName, Vec<Endpoint>>,
    /// By pod and target port, the first service by name.
    pub(super) services_at: BTreeMap<ObjectName, BTreeMap<u16, ObjectName>>,
    pub(super) localities: BTreeMap<Arc<str>, Locality>,
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
                Object::Node(n) => drop(index.localities.insert(n.name.name().into(), Locality::of(&n.labels))),
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
        let sources = Sources { owners: &index.workloads, localities: &index.localities, slices, pods };
        for s in services {
            for vip in &s.vips {
                index.vips.entry(*vip).or_default().push(Arc::clone(s));
            }
            let endpoints = sources.endpoints(s);
            for (pod, port) in endpoints
                .iter()
                .filter_map(|e| Some((e.workload.as_ref()?, e)))
                .flat_map(|(pod, e)| s.ports.iter().filter_map(|port| e.port(port)).map(move |port| (&pod.name, port)))
            {
                index.services_at.entry(pod.clone()).or_default().entry(port).or_insert_with(|| s.name.clone());
            }
            index.endpoints.insert(s.name.clone(), endpoints);
        }
        index.findings = findings::find(settings, objects, &index);
        index
    }
}
