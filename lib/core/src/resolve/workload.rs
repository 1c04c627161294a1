//! A pod as a fact.

use std::{net::IpAddr, sync::Arc};

use super::Resolver;
use crate::{
    Kind, ObjectKey, ObjectName, enrol,
    labels::selects,
    objects::{Object, PeerAuthentication, Phase, Pod},
    world::{Account, Locality, Scope, Uid, Workload},
};

impl Resolver {
    /// None: the pod has ended, and its addresses may be those of another one.
    pub(super) fn workload(&self, pod: &Pod) -> Option<Workload> {
        if pod.phase == Phase::Terminal {
            return None;
        }
        let namespace: Arc<str> = pod.name.namespace().into();
        // Mostly the same, and then one text.
        let label = |key: &str, other: &Arc<str>| match pod.labels.get(key) {
            Some(value) if value != &**other => value.into(),
            _ => Arc::clone(other),
        };
        let owns = pod.has_own_addresses();
        let is_own = |ip: &IpAddr| !owns || self.holds(pod, *ip);
        // Mostly all of them, and then one list.
        let addresses = match pod.addresses.iter().all(is_own) {
            true => pod.addresses.clone(),
            false => pod.addresses.iter().copied().filter(is_own).collect(),
        };
        let (service, revision) = (pod.canonical_service().into(), pod.canonical_revision().into());
        let endpoints = self.endpoints_of(pod);
        Some(Workload {
            uid: Uid::of_pod(&self.settings.cluster, &pod.name),
            name: pod.name.clone(),
            addresses,
            account: Some(Account { namespace, name: Arc::clone(&pod.service_account) }),
            enrolment: self.enrolment(pod),
            host_network: pod.host_network,
            waypoint: self.waypoint_of_pod(pod, &endpoints),
            policies: self.policies_of(pod).into(),
            mtls: self.mtls_of(pod),
            endpoints,
            node: pod.node.clone(),
            locality: self.locality_of(pod),
            ready: pod.ready,
            draining: pod.draining,
            owner: pod.owner.clone(),
            app: label("app", &service),
            version: label("version", &revision),
            canonical_service: service,
            canonical_revision: revision,
        })
    }

    pub(super) fn enrolment(&self, pod: &Pod) -> enrol::Enrolment {
        enrol::decide(pod, self.sources.namespace(pod.name.namespace()).map(|n| &**n), &self.settings)
    }

    /// The locality of its node, else the zone in a slice.
    fn locality_of(&self, pod: &Pod) -> Arc<Locality> {
        let of_node = pod.node.as_deref().and_then(|node| self.locality(node));
        of_node.unwrap_or_else(|| {
            let zone = self.listings(pod).find_map(|(_, endpoint)| endpoint.zone.clone());
            Locality { zone, ..Locality::default() }.into()
        })
    }

    /// The locality of a node, as far as it is known.
    pub(super) fn locality(&self, node: &str) -> Option<Arc<Locality>> {
        self.index.localities.get(node).cloned()
    }

    /// The AuthorizationPolicies that select it, those of the root namespace first, then by name.
    fn policies_of(&self, pod: &Pod) -> Vec<ObjectName> {
        let (root, own) = (&*self.settings.root_namespace, pod.name.namespace());
        let mut of_root = self.selecting(root, pod);
        if own != root {
            of_root.extend(self.selecting(own, pod));
        }
        of_root
    }

    fn selecting(&self, namespace: &str, pod: &Pod) -> Vec<ObjectName> {
        let selects_it = |name: &&ObjectName| {
            let policy = self.sources.get(&ObjectKey::new(Kind::AuthorizationPolicy, (*name).clone()));
            let Some(Object::AuthorizationPolicy(policy)) = policy else { return false };
            matches!(&policy.scope, Scope::Selector(selector) if selects(selector, &pod.labels))
        };
        let mut all: Vec<_> =
            self.index.policies.candidates(namespace, &pod.labels).filter(selects_it).cloned().collect();
        all.sort_unstable();
        all
    }

    /// The PeerAuthentications of its namespace that select it, oldest first. Those of the root namespace do not count.
    pub(super) fn peer_authentications_of(&self, pod: &Pod) -> Vec<&PeerAuthentication> {
        let namespace = pod.name.namespace();
        if namespace == &*self.settings.root_namespace {
            return Vec::new();
        }
        let selecting = |name: &ObjectName| {
            let policy = self.sources.get(&ObjectKey::new(Kind::PeerAuthentication, name.clone()));
            let Some(Object::PeerAuthentication(policy)) = policy else { return None };
            policy.selector.as_ref().is_some_and(|s| selects(s, &pod.labels)).then_some(&**policy)
        };
        let candidates = self.index.peer_authentications.candidates(namespace, &pod.labels);
        let mut all: Vec<_> = candidates.filter_map(selecting).collect();
        all.sort_unstable_by_key(|policy| (policy.created, &policy.name));
        all
    }
}
