//! From objects to facts. Pure: a [`Batch`] of changed objects goes in, the facts that follow from what it touches come
//! out.
//!
//! ```text
//! Batch --> objects, reverse indexes --> what is dirty --> facts computed anew --> World::apply (an equal one is no
//! change)
//! ```
//! What must hold: a fact is a function of the objects and settings alone, and all that an object takes part in is
//! marked dirty when it changes. A property compares every step of a random walk with a resolver that is built from
//! nothing.

mod claim;
mod dirty;
mod endpoint;
mod external;
mod findings;
mod index;
mod local;
mod mtls;
mod naming;
mod shared;
mod waypoint;
mod workload;

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};

pub use findings::Finding;
pub use local::{Local, LocalPod};

use self::{dirty::Dirty, index::Index, naming::Naming, shared::Shared};
use crate::{
    Kind, ObjectKey, ObjectName, World,
    bulk::alternating,
    objects::{
        Authorizer, Batch, Change, MESH_CONFIG, Namespace, Node, Object, PeerAuthentication, Pod,
        RequestAuthentication, Service,
    },
    world::{self, Fact, FactKey, Facts, MeshSettings, Uid, Workload},
};

/// The objects behind a World, with their findings. Cheap to clone: the agent's
/// answers and `underpass explain` look at one while the next is made.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    objects: OrdMap<ObjectKey, Object>,
    findings: OrdMap<ObjectKey, Arc<[Finding]>>,
    naming: Naming,
}

impl Sources {
    /// All objects, by kind and name.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        self.objects.iter()
    }

    /// The count of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key)
    }

    /// All findings, by object, field and text.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.values().flat_map(|all| all.iter())
    }

    /// The objects that differ in `newer`, each before and after: costs what differs.
    pub fn differences<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = [Option<&'a Object>; 2]> {
        self.objects.diff(&newer.objects).map(|item| match item {
            DiffItem::Add(_, new) => [None, Some(new)],
            DiffItem::Update { old: (_, old), new: (_, new) } => [Some(old), Some(new)],
            DiffItem::Remove(_, old) => [Some(old), None],
        })
    }

    /// The findings about one object.
    #[must_use]
    pub fn findings_of(&self, object: &ObjectKey) -> &[Finding] {
        self.findings.get(object).map_or(&[], |all| all)
    }

    /// The namespace of this name, where it was declared.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        match self.objects.get(&ObjectKey::new(Kind::Namespace, ObjectName::cluster(name))) {
            Some(Object::Namespace(n)) => Some(n),
            _ => None,
        }
    }

    /// All namespaces that were declared, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.of_kind(Kind::Namespace, None).filter_map(|object| match object {
            Object::Namespace(namespace) => Some(namespace),
            _ => None,
        })
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        match self.objects.get(&ObjectKey::new(Kind::Node, ObjectName::cluster(name))) {
            Some(Object::Node(n)) => Some(n),
            _ => None,
        }
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.of_kind(Kind::Node, None).filter_map(|object| match object {
            Object::Node(node) => Some(node),
            _ => None,
        })
    }

    /// The pod of this name.
    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&Arc<Pod>> {
        match self.objects.get(&ObjectKey::new(Kind::Pod, name.clone())) {
            Some(Object::Pod(pod)) => Some(pod),
            _ => None,
        }
    }

    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        match self.objects.get(&ObjectKey::new(Kind::Service, name.clone())) {
            Some(Object::Service(s)) => Some(s),
            _ => None,
        }
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.of_kind(Kind::Pod, None).filter_map(as_pod)
    }

    /// The pods of a namespace, by name.
    pub fn pods_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.of_kind(Kind::Pod, Some(namespace)).filter_map(as_pod)
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.of_kind(Kind::Service, None).filter_map(|object| match object {
            Object::Service(service) => Some(service),
            _ => None,
        })
    }

    /// All PeerAuthentications, by name.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Arc<PeerAuthentication>> {
        self.of_kind(Kind::PeerAuthentication, None).filter_map(|object| match object {
            Object::PeerAuthentication(policy) => Some(policy),
            _ => None,
        })
    }

    /// All RequestAuthentications, by name.
    pub fn request_authentications(&self) -> impl Iterator<Item = &Arc<RequestAuthentication>> {
        self.of_kind(Kind::RequestAuthentication, None).filter_map(|object| match object {
            Object::RequestAuthentication(policy) => Some(policy),
            _ => None,
        })
    }

    /// The external authorizer of this name, by the MeshConfig of the root namespace.
    #[must_use]
    pub fn authorizer(&self, root_namespace: &str, name: &str) -> Option<&Authorizer> {
        match self.get(&ObjectKey::new(Kind::MeshConfig, ObjectName::new(root_namespace, MESH_CONFIG)))? {
            Object::MeshConfig(config) => config.authorizers.iter().find(|authorizer| &*authorizer.name == name),
            _ => None,
        }
    }

    /// The objects of a kind, of one namespace or of all.
    fn of_kind<'a>(&'a self, kind: Kind, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Object> {
        let first = ObjectKey::new(kind, ObjectName::new(namespace.unwrap_or_default(), ""));
        let is_one = move |key: &ObjectKey| key.kind == kind && namespace.is_none_or(|ns| key.name.namespace() == ns);
        self.objects.range(first..).take_while(move |(key, _)| is_one(key)).map(|(_, object)| object)
    }
}

const fn as_pod(object: &Object) -> Option<&Arc<Pod>> {
    match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

/// Facts that follow from a batch.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Computed anew; many may be as they were.
    pub facts: Facts,
    /// The pods that the batch may have changed something about: what their own nodes go by.
    pub pods: BTreeSet<ObjectName>,
    /// The objects whose findings may differ.
    pub findings: BTreeSet<ObjectKey>,
}

/// The objects, and the pure step from their changes to facts.
#[derive(Clone, Debug)]
pub struct Resolver {
    settings: Arc<MeshSettings>,
    sources: Sources,
    index: Index,
    shared: Shared,
}

impl Resolver {
    /// Without objects.
    #[must_use]
    pub fn new(settings: Arc<MeshSettings>) -> Self {
        Self { settings, sources: Sources::default(), index: Index::default(), shared: Shared::default() }
    }

    /// The objects, and what was found about them.
    #[must_use]
    pub const fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The settings of the whole mesh.
    #[must_use]
    pub const fn settings(&self) -> &Arc<MeshSettings> {
        &self.settings
    }

    /// Takes changes of objects, and answers the facts that they touch.
    pub fn apply(&mut self, batch: &Batch) -> Resolved {
        let mut dirty = Dirty::default();
        for change in &batch.changes {
            let (key, new) = match change {
                Change::Put(object) => (object.key(), Some(object)),
                Change::Remove(key) => (key.clone(), None),
            };
            let old = match new {
                Some(new) => self.sources.objects.insert(key.clone(), new.clone()),
                None => self.sources.objects.remove(&key),
            };
            if old.as_ref() != new {
                self.sources.naming.change(old.as_ref(), new);
                self.mark(&key, old.as_ref(), new, &mut dirty);
            }
        }
        self.resolve(dirty)
    }

    /// Applies other settings. They stand beside the facts, which are computed anew only where they depend on them.
    pub fn set_settings(&mut self, settings: Arc<MeshSettings>) -> Resolved {
        let beside = |s: &MeshSettings| {
            let (trust_domain, trust_domain_aliases) = Default::default();
            MeshSettings { trust_domain, trust_domain_aliases, ..s.clone() }
        };
        let is_beside = beside(&self.settings) == beside(&settings);
        let mut dirty = Dirty::default();
        if !is_beside {
            self.gone(&settings, &mut dirty);
            self.mark_all(&mut dirty);
        }
        self.settings = settings;
        self.resolve(dirty)
    }

    /// Another name of the cluster is another uid of everything.
    fn gone(&self, settings: &MeshSettings, dirty: &mut Dirty) {
        if self.settings.cluster != settings.cluster {
            dirty.gone.extend(self.sources.pods().map(|pod| self.uid(&pod.name)));
            dirty.gone.extend(self.lone().map(|(slice, ip)| Uid::of_slice(&self.settings.cluster, slice, ip)));
        }
    }

    fn uid(&self, pod: &ObjectName) -> Uid {
        Uid::of_pod(&self.settings.cluster, pod)
    }

    /// The facts about everything that is dirty.
    fn resolve(&mut self, mut dirty: Dirty) -> Resolved {
        self.mark_selected(&mut dirty);
        let mut facts = Facts::default();
        dirty.gone.into_iter().for_each(|uid| facts.remove(FactKey::Workload(uid)));
        for name in alternating(dirty.pods.iter()) {
            match self.sources.pod(name).and_then(|pod| self.workload(pod)) {
                Some(workload) => facts.put(Fact::Workload(self.shared(workload))),
                None => facts.remove(FactKey::Workload(self.uid(name))),
            }
        }
        for (slice, address) in &dirty.lone {
            match self.lone_workload(slice, *address) {
                Some(workload) => facts.put(Fact::Workload(self.shared(workload))),
                None => facts.remove(FactKey::Workload(Uid::of_slice(&self.settings.cluster, slice, *address))),
            }
        }
        for name in alternating(dirty.services.iter()) {
            match self.sources.service(name) {
                Some(service) => facts.put(Fact::Service(Arc::new(self.service(service)))),
                None => facts.remove(FactKey::Service(name.clone())),
            }
        }
        for name in &dirty.policies {
            match self.sources.get(&ObjectKey::new(Kind::AuthorizationPolicy, name.clone())) {
                Some(Object::AuthorizationPolicy(policy)) => facts.put(Fact::Policy(Arc::clone(policy))),
                _ => facts.remove(FactKey::Policy(name.clone())),
            }
        }
        for namespace in &dirty.mtls {
            match self.namespace_mtls(namespace) {
                Some(mtls) => facts.put(Fact::Mtls(Arc::new(mtls))),
                None => facts.remove(FactKey::Mtls(Arc::clone(namespace))),
            }
        }
        for key in &dirty.findings {
            let found = self.find(key);
            match found.is_empty() {
                true => drop(self.sources.findings.remove(key)),
                false => drop(self.sources.findings.insert(key.clone(), found.into())),
            }
        }
        Resolved { facts, pods: dirty.pods, findings: dirty.findings }
    }

    fn shared(&mut self, mut workload: Workload) -> Arc<Workload> {
        self.shared.workload(&mut workload);
        Arc::new(workload)
    }

    fn service(&self, service: &Service) -> world::Service {
        let namespace = self.sources.namespace(service.name.namespace());
        let (name, of) = (service.name.name(), service.name.namespace());
        world::Service {
            name: service.name.clone(),
            hostname: format!("{name}.{of}.svc.{}", self.settings.cluster_domain).into(),
            vips: service.vips.clone(),
            external: service.external().filter(|ip| self.is_external(service, *ip)).collect(),
            ports: service.ports.clone(),
            external_name: service.external_name.clone(),
            internal_traffic: service.internal_traffic,
            distribution: service.distribution.or_else(|| namespace?.distribution).unwrap_or_default(),
            affinity: service.affinity,
            waypoint: self.waypoint_of_service(service),
            waypoint_optional: service.waypoint_optional,
        }
    }
}

/// Objects, and the World that follows from them: what a directory of manifests comes to.
#[derive(Clone, Debug)]
pub struct Model {
    resolver: Resolver,
    world: World,
}

impl Model {
    /// Without objects; the World is version 0.
    #[must_use]
    pub fn empty(settings: MeshSettings) -> Self {
        let world = World::empty(settings.clone());
        Self { resolver: Resolver::new(Arc::new(settings)), world }
    }

    /// Takes changes of objects.
    pub fn apply(&mut self, batch: &Batch) -> Resolved {
        let mut resolved = self.resolver.apply(batch);
        self.world = self.world.apply(std::mem::take(&mut resolved.facts));
        resolved
    }

    /// Applies other settings.
    pub fn set_settings(&mut self, settings: MeshSettings) -> Resolved {
        let settings = Arc::new(settings);
        let mut resolved = self.resolver.set_settings(Arc::clone(&settings));
        self.world = self.world.with_settings(settings).apply(std::mem::take(&mut resolved.facts));
        resolved
    }

    /// The World.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// The objects.
    #[must_use]
    pub const fn sources(&self) -> &Sources {
        self.resolver.sources()
    }

    /// The fact that would follow from this pod beside the objects that are there; none: it has ended.
    #[must_use]
    pub fn workload_of(&self, pod: &Pod) -> Option<Workload> {
        self.resolver.workload(pod)
    }

    /// The pods of a node, as the node itself is to know them.
    #[must_use]
    pub fn local_pods(&self, node: &str) -> Vec<LocalPod> {
        self.resolver.local_pods(node)
    }
}

#[cfg(test)]
mod tests;
