//! The facts and findings that a changed object takes part in, and that therefore have to be computed anew. The reverse
//! indexes are changed here as well, so that facts that stop depending on it are found before, and those that begin to
//! after.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::Resolver;
use crate::{
    Kind, ObjectKey, ObjectName,
    labels::{Labels, selects},
    objects::{EndpointSlice, Namespace, Node, Object, PeerAuthentication, Pod, Service, SliceEndpoint},
    world::{AuthorizationPolicy, Locality, Scope, Uid},
};

/// The facts and findings that have to be computed anew.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Pods.
    pub(super) pods: BTreeSet<ObjectName>,
    /// Addresses of slices that belong, or belonged, to no pod.
    pub(super) lone: BTreeSet<(ObjectName, IpAddr)>,
    /// Services.
    pub(super) services: BTreeSet<ObjectName>,
    /// AuthorizationPolicies.
    pub(super) policies: BTreeSet<ObjectName>,
    /// Namespaces.
    pub(super) mtls: BTreeSet<Arc<str>>,
    /// Objects whose findings may differ.
    pub(super) findings: BTreeSet<ObjectKey>,
    /// Workloads that have another uid now.
    pub(super) gone: Vec<Uid>,
    /// Pods that these select: by namespace; none: in all of them.
    selected_by: BTreeMap<Option<Arc<str>>, AnyOf>,
}

/// Selectors that came with one batch, by the first pair of each: however many they are, each pod is looked at once.
#[derive(Debug, Default)]
struct AnyOf {
    by_pair: BTreeMap<Box<str>, Vec<Labels>>,
    /// One is empty.
    everything: bool,
}

impl AnyOf {
    fn add(&mut self, selector: &Labels) {
        match selector.pairs().next() {
            Some(first) => self.by_pair.entry(first.into()).or_default().push(selector.clone()),
            None => self.everything = true,
        }
    }

    fn selects(&self, labels: &Labels) -> bool {
        let mut candidates = labels.pairs().filter_map(|pair| self.by_pair.get(pair)).flatten();
        self.everything || candidates.any(|selector| selects(selector, labels))
    }
}

impl Resolver {
    /// An object was `old` and is `new`; the sources have it already, the indexes not yet.
    pub(super) fn mark(&mut self, key: &ObjectKey, old: Option<&Object>, new: Option<&Object>, dirty: &mut Dirty) {
        dirty.findings.insert(key.clone());
        match key.kind {
            Kind::Namespace => {
                self.mark_naming(key, namespace(old).map(|n| &n.labels), namespace(new).map(|n| &n.labels));
                self.mark_namespace(key.name.name(), namespace(old), namespace(new), dirty);
            }
            Kind::Node => self.mark_node(key, node(old), node(new), dirty),
            Kind::Pod => {
                self.mark_naming(key, pod(old).map(|p| &p.labels), pod(new).map(|p| &p.labels));
                self.mark_pod(&key.name, pod(old), pod(new), dirty);
            }
            Kind::Service => {
                self.mark_naming(key, service(old).map(|s| &s.labels), service(new).map(|s| &s.labels));
                self.mark_service(&key.name, service(old), service(new), dirty);
            }
            Kind::Gateway => self.mark_gateway(&key.name, dirty),
            Kind::EndpointSlice => self.mark_slice(&key.name, slice(old), slice(new), dirty),
            Kind::AuthorizationPolicy => self.mark_policy(&key.name, policy(old), policy(new), dirty),
            Kind::PeerAuthentication => {
                self.mark_peer_authentication(&key.name, peer_authentication(old), peer_authentication(new), dirty);
            }
            Kind::VirtualService
            | Kind::DestinationRule
            | Kind::RequestAuthentication
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::ReferenceGrant
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::MeshConfig => {}
        }
    }

    /// Everything.
    pub(super) fn mark_all(&mut self, dirty: &mut Dirty) {
        for (key, object) in self.sources.objects() {
            dirty.findings.insert(key.clone());
            match object {
                Object::Pod(pod) => drop(dirty.pods.insert(pod.name.clone())),
                Object::Service(service) => drop(dirty.services.insert(service.name.clone())),
                Object::AuthorizationPolicy(policy) => drop(dirty.policies.insert(policy.name.clone())),
                Object::PeerAuthentication(policy) => drop(dirty.mtls.insert(policy.name.namespace().into())),
                Object::EndpointSlice(slice) => {
                    dirty.lone.extend(slice.endpoints.iter().filter_map(|e| Some((slice.name.clone(), e.address()?))));
                }
                Object::Namespace(_)
                | Object::Node(_)
                | Object::Gateway(_)
                | Object::VirtualService(_)
                | Object::DestinationRule(_)
                | Object::RequestAuthentication(_)
                | Object::GatewayRoute(_)
                | Object::ReferenceGrant(_)
                | Object::MeshConfig(_) => {}
            }
        }
    }

    /// Every address of a slice, with the slice.
    pub(super) fn lone(&self) -> impl Iterator<Item = (&ObjectName, IpAddr)> {
        let slices = self.sources.of_kind(Kind::EndpointSlice, None).filter_map(|object| slice(Some(object)));
        slices.flat_map(|slice| slice.endpoints.iter().filter_map(move |e| Some((&slice.name, e.address()?))))
    }

    fn mark_namespace(&self, name: &str, old: Option<&Namespace>, new: Option<&Namespace>, dirty: &mut Dirty) {
        if old.map(|n| &n.labels) != new.map(|n| &n.labels) {
            self.mark_labelled(name, dirty);
            dirty.pods.extend(self.pods_of(name).map(|pod| pod.name.clone()));
        }
        let services = self.sources.of_kind(Kind::Service, Some(name)).filter_map(|object| service(Some(object)));
        dirty.services.extend(services.map(|s| s.name.clone()));
    }

    fn mark_node(&mut self, key: &ObjectKey, old: Option<&Node>, new: Option<&Node>, dirty: &mut Dirty) {
        let name = key.name.name();
        let addresses = |node: Option<&Node>| node.map_or_else(Vec::new, |node| node.addresses.clone());
        self.mark_host(key, &addresses(old), &addresses(new), dirty);
        if old.is_some() != new.is_some() {
            self.mark_contested(name, dirty);
        }
        let runs_waypoints = |node: Option<&Node>| node.is_some_and(|node| !node.waypoint_ranges.is_empty());
        if runs_waypoints(old) != runs_waypoints(new) {
            self.mark_ranges(dirty);
        }
        let locality = new.map(|node| Locality::of(&node.labels));
        if self.index.localities.get(name).map(|known| &**known) == locality.as_ref() {
            return;
        }
        match locality {
            Some(locality) => drop(self.index.localities.insert(name.into(), Arc::new(locality))),
            None => drop(self.index.localities.remove(name)),
        }
        dirty.pods.extend(self.index.pods_on.get(name).cloned());
        for slice in self.index.slices_on.get(name) {
            let Some(slice) = self.slice(slice) else { continue };
            let here = slice.endpoints.iter().filter(|e| e.node.as_deref() == Some(name));
            here.filter_map(SliceEndpoint::address).for_each(|ip| self.mark_lone(&slice.name, ip, dirty));
        }
    }

    /// A pod whose node does not exist leaves: the owner of an address that several pods name may depend on it.
    fn mark_contested(&self, node: &str, dirty: &mut Dirty) {
        let nodes = self.sources.of_kind(Kind::Node, None).count();
        if nodes <= 1 {
            // From now on something is known about nodes, or nothing any more.
            self.index.owners.shared().for_each(|ip| self.mark_address(ip, dirty));
            return;
        }
        for pod in self.index.pods_on.get(node).filter_map(|pod| self.sources.pod(pod)) {
            let contested = pod.addresses.iter().filter(|ip| self.index.owners.get(*ip).len() > 1);
            contested.for_each(|ip| self.mark_address(*ip, dirty));
        }
    }

    fn mark_pod(&mut self, name: &ObjectName, old: Option<&Pod>, new: Option<&Pod>, dirty: &mut Dirty) {
        dirty.pods.insert(name.clone());
        let on = |pod: Option<&Pod>| pod.and_then(|pod| pod.node.clone());
        if on(old) != on(new) {
            on(old).iter().for_each(|node| self.index.pods_on.remove(&**node, name));
            on(new).into_iter().for_each(|node| self.index.pods_on.insert(node, name.clone()));
        }
        self.mark_host(&ObjectKey::new(Kind::Pod, name.clone()), hosted(old), hosted(new), dirty);
        let (before, after) = (owned(old), owned(new));
        for ip in before.iter().filter(|ip| !after.contains(ip)) {
            self.mark_address(*ip, dirty);
            self.index.owners.remove(ip, name);
        }
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.index.owners.insert(*ip, name.clone());
            self.mark_address(*ip, dirty);
        }
        let leaving = |pod: Option<&Pod>| pod.map(|pod| (pod.deleted, pod.node.clone()));
        if leaving(old) != leaving(new) {
            after.iter().for_each(|ip| self.mark_address(*ip, dirty));
        }
    }

    /// Another pod has this address, or has it no longer.
    fn mark_address(&self, ip: IpAddr, dirty: &mut Dirty) {
        dirty.pods.extend(self.index.owners.get(&ip).iter().cloned());
        dirty.lone.extend(self.index.listed_by.get(&ip).iter().map(|slice| (slice.clone(), ip)));
        self.mark_claims(ip, dirty);
    }

    /// A node, or a pod of the host's network, had the addresses `before` and has `after`.
    fn mark_host(&mut self, key: &ObjectKey, before: &[IpAddr], after: &[IpAddr], dirty: &mut Dirty) {
        for ip in before.iter().filter(|ip| !after.contains(ip)) {
            self.index.hosts.remove(ip, key);
            self.mark_named(*ip, dirty);
        }
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.index.hosts.insert(*ip, key.clone());
            self.mark_named(*ip, dirty);
        }
    }

    /// Something has this address, or has it no longer: it may be a service's that says so, or be none any more.
    fn mark_named(&self, ip: IpAddr, dirty: &mut Dirty) {
        for service in self.index.external.get(&ip) {
            dirty.services.insert(service.clone());
            dirty.findings.insert(ObjectKey::new(Kind::Service, service.clone()));
        }
    }

    fn mark_claims(&self, ip: IpAddr, dirty: &mut Dirty) {
        self.mark_named(ip, dirty);
        let key = |kind| move |name: &ObjectName| ObjectKey::new(kind, name.clone());
        dirty.findings.extend(self.index.owners.get(&ip).iter().map(key(Kind::Pod)));
        dirty.findings.extend(self.index.vips.get(&ip).iter().map(key(Kind::Service)));
    }

    fn mark_service(&mut self, name: &ObjectName, old: Option<&Service>, new: Option<&Service>, dirty: &mut Dirty) {
        dirty.services.insert(name.clone());
        if old.is_some() != new.is_some() {
            dirty.findings.insert(ObjectKey::new(Kind::Gateway, name.clone()));
        }
        let vips = |s: Option<&Service>| s.map_or_else(Vec::new, |s| s.vips.clone());
        let (before, after) = (vips(old), vips(new));
        for ip in before.iter().filter(|ip| !after.contains(ip)) {
            self.mark_claims(*ip, dirty);
            self.index.vips.remove(ip, name);
        }
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.index.vips.insert(*ip, name.clone());
            self.mark_claims(*ip, dirty);
        }
        self.mark_external(name, old, new, dirty);
        // What its endpoints are made from.
        let of_endpoints = |s: Option<&Service>| {
            s.map(|s| (s.ports.clone(), s.selector.clone(), s.publish_not_ready, s.external_name.is_some()))
        };
        if of_endpoints(old) == of_endpoints(new) {
            return;
        }
        let selector = |s: Option<&Service>| s.and_then(|s| s.selector.clone()).filter(|s| !s.is_empty());
        if selector(old) != selector(new) {
            selector(old).iter().for_each(|selector| self.index.services.remove(name, selector));
            selector(new).iter().for_each(|selector| self.index.services.insert(name, selector));
        }
        if self.index.slices_of.has(name) {
            self.mark_sliced(name, dirty);
        } else {
            self.mark_selected_by(name, selector(old).as_ref(), dirty);
            self.mark_selected_by(name, selector(new).as_ref(), dirty);
        }
    }

    /// The endpoints of a service as they are.
    pub(super) fn mark_behind(&self, service: &ObjectName, dirty: &mut Dirty) {
        self.mark_sliced(service, dirty);
        self.mark_unless_sliced(service, dirty);
    }

    fn mark_sliced(&self, service: &ObjectName, dirty: &mut Dirty) {
        for slice in self.index.slices_of.get(service).filter_map(|slice| self.slice(slice)) {
            slice.endpoints.iter().filter_map(SliceEndpoint::address).for_each(|ip| {
                self.mark_endpoint(&slice.name, ip, dirty);
            });
        }
    }

    fn mark_external(&mut self, name: &ObjectName, old: Option<&Service>, new: Option<&Service>, dirty: &mut Dirty) {
        let external = |s: Option<&Service>| s.map_or_else(Vec::new, |s| s.external().collect());
        let (before, after) = (external(old), external(new));
        for ip in before.iter().filter(|ip| !after.contains(ip)) {
            self.index.external.remove(ip, name);
            self.mark_named(*ip, dirty);
        }
        for ip in after.iter().filter(|ip| !before.contains(ip)) {
            self.index.external.insert(*ip, name.clone());
            self.mark_named(*ip, dirty);
        }
    }

    /// The pods that a service, or a policy of one namespace, selects: looked for when the whole batch is known.
    fn mark_selected_by(&self, name: &ObjectName, selector: Option<&Labels>, dirty: &mut Dirty) {
        let Some(selector) = selector else { return };
        dirty.selected_by.entry(Some(name.namespace().into())).or_default().add(selector);
    }

    /// The pods that selectors of this batch select. Those that differ themselves are known already.
    pub(super) fn mark_selected(&self, dirty: &mut Dirty) {
        for (namespace, any) in std::mem::take(&mut dirty.selected_by) {
            let pods = self.sources.of_kind(Kind::Pod, namespace.as_deref()).filter_map(|object| pod(Some(object)));
            let selected = pods.filter(|pod| !dirty.pods.contains(&pod.name) && any.selects(&pod.labels));
            let selected: Vec<_> = selected.map(|pod| pod.name.clone()).collect();
            dirty.pods.extend(selected);
        }
    }

    fn mark_slice(
        &mut self,
        name: &ObjectName,
        old: Option<&EndpointSlice>,
        new: Option<&EndpointSlice>,
        dirty: &mut Dirty,
    ) {
        let of = |slice: Option<&EndpointSlice>| slice.map(|s| s.service.clone());
        if of(old) != of(new) {
            if let Some(service) = of(old) {
                self.index.slices_of.remove(&service, name);
                self.mark_unless_sliced(&service, dirty);
            }
            if let Some(service) = of(new) {
                self.mark_unless_sliced(&service, dirty);
                self.index.slices_of.insert(service, name.clone());
            }
        }
        let head = |slice: Option<&EndpointSlice>| slice.map(|s| (s.service.clone(), s.ports.clone()));
        let same_head = head(old) == head(new);
        let (before, after) = (listed(old), listed(new));
        for ip in after.keys().filter(|ip| !before.contains_key(ip)) {
            self.index.listed_by.insert(*ip, name.clone());
        }
        // Of endpoints that stay as they are, nothing follows.
        let differs = |other: &Listed<'_>, ip, all: &Vec<&SliceEndpoint>| !same_head || other.get(ip) != Some(all);
        for (ip, _) in before.iter().filter(|(ip, all)| differs(&after, ip, all)) {
            self.mark_endpoint(name, *ip, dirty);
        }
        for (ip, _) in after.iter().filter(|(ip, all)| differs(&before, ip, all)) {
            self.mark_endpoint(name, *ip, dirty);
        }
        for ip in before.keys().filter(|ip| !after.contains_key(ip)) {
            self.index.listed_by.remove(ip, name);
        }
        let (before, after) = (nodes(old), nodes(new));
        before.difference(&after).for_each(|node| self.index.slices_on.remove(&**node, name));
        after.difference(&before).for_each(|node| self.index.slices_on.insert(Arc::clone(node), name.clone()));
    }

    /// Where a service has no slices its selector counts, which ends with the first of them.
    fn mark_unless_sliced(&self, service: &ObjectName, dirty: &mut Dirty) {
        if !self.index.slices_of.has(service) {
            let selector = self.sources.service(service).and_then(|s| s.selector.as_ref());
            self.mark_selected_by(service, selector.filter(|s| !s.is_empty()), dirty);
        }
    }

    /// An address of a slice.
    fn mark_endpoint(&self, slice: &ObjectName, ip: IpAddr, dirty: &mut Dirty) {
        dirty.pods.extend(self.index.owners.get(&ip).iter().cloned());
        self.mark_lone(slice, ip, dirty);
    }

    /// An address of a slice that belongs to no pod. Where a pod had it before or has it later in this batch,
    /// [`Self::mark_address`] marks it.
    fn mark_lone(&self, slice: &ObjectName, ip: IpAddr, dirty: &mut Dirty) {
        if self.index.owners.get(&ip).is_empty() {
            dirty.lone.insert((slice.clone(), ip));
        }
    }

    fn mark_policy(
        &mut self,
        name: &ObjectName,
        old: Option<&AuthorizationPolicy>,
        new: Option<&AuthorizationPolicy>,
        dirty: &mut Dirty,
    ) {
        dirty.policies.insert(name.clone());
        let selector = |p: Option<&AuthorizationPolicy>| match p.map(|p| &p.scope) {
            Some(Scope::Selector(selector)) => Some(selector.clone()),
            _ => None,
        };
        let (before, after) = (selector(old), selector(new));
        if before == after {
            return;
        }
        before.iter().for_each(|selector| self.index.policies.remove(name, selector));
        after.iter().for_each(|selector| self.index.policies.insert(name, selector));
        for selector in before.iter().chain(&after) {
            if name.namespace() == &*self.settings.root_namespace {
                dirty.selected_by.entry(None).or_default().add(selector);
            } else {
                self.mark_selected_by(name, Some(selector), dirty);
            }
        }
    }

    fn mark_peer_authentication(
        &mut self,
        name: &ObjectName,
        old: Option<&PeerAuthentication>,
        new: Option<&PeerAuthentication>,
        dirty: &mut Dirty,
    ) {
        let selector = |p: Option<&PeerAuthentication>| p.and_then(|p| p.selector.clone());
        for (policy, selector) in [(old, selector(old)), (new, selector(new))] {
            match (policy, &selector) {
                (Some(_), Some(selector)) => self.mark_selected_by(name, Some(selector), dirty),
                (Some(_), None) => drop(dirty.mtls.insert(name.namespace().into())),
                (None, _) => {}
            }
        }
        selector(old).iter().for_each(|selector| self.index.peer_authentications.remove(name, selector));
        selector(new).iter().for_each(|selector| self.index.peer_authentications.insert(name, selector));
    }

    pub(super) fn pods_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.sources.of_kind(Kind::Pod, Some(namespace)).filter_map(|object| match object {
            Object::Pod(pod) => Some(pod),
            _ => None,
        })
    }

    pub(super) fn slice(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        slice(self.sources.get(&ObjectKey::new(Kind::EndpointSlice, name.clone())))
    }
}

/// The addresses that a pod has for itself.
fn owned(pod: Option<&Pod>) -> &[IpAddr] {
    pod.filter(|pod| pod.has_own_addresses()).map_or(&[], |pod| &pod.addresses)
}

/// The addresses of its node that a pod names as its own.
fn hosted(pod: Option<&Pod>) -> &[IpAddr] {
    pod.filter(|pod| pod.host_network).map_or(&[], |pod| &pod.addresses)
}

/// The endpoints of a slice by their address.
type Listed<'a> = BTreeMap<IpAddr, Vec<&'a SliceEndpoint>>;

fn listed(slice: Option<&EndpointSlice>) -> Listed<'_> {
    let mut listed = Listed::new();
    for endpoint in slice.into_iter().flat_map(|slice| &slice.endpoints) {
        endpoint.address().into_iter().for_each(|ip| listed.entry(ip).or_default().push(endpoint));
    }
    listed
}

fn nodes(slice: Option<&EndpointSlice>) -> BTreeSet<Arc<str>> {
    slice.into_iter().flat_map(|slice| slice.endpoints.iter().filter_map(|e| e.node.clone())).collect()
}

macro_rules! of_kind {
    ($($function:ident: $variant:ident -> $type:ty),* $(,)?) => {
        $(fn $function(object: Option<&Object>) -> Option<&$type> {
            match object {
                Some(Object::$variant(object)) => Some(object),
                _ => None,
            }
        })*
    };
}
of_kind!(
    namespace: Namespace -> Namespace,
    node: Node -> Node,
    pod: Pod -> Pod,
    service: Service -> Service,
    slice: EndpointSlice -> EndpointSlice,
    policy: AuthorizationPolicy -> AuthorizationPolicy,
    peer_authentication: PeerAuthentication -> PeerAuthentication,
);
