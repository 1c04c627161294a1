//! The World: everything the mesh knows, as one immutable value with a version. Doors never change it; they hand a
//! [`Batch`] to the keeper, which builds the next World beside the old one and publishes it. Readers never wait.
//!
//! Invariant: a World is a function of its objects and settings alone. The order in which changes arrived, and through
//! which door, leaves no trace (but the version).

mod batch;
mod endpoint;
mod findings;
mod index;
mod locality;
mod node;
mod policy;
mod service;
mod workload;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::Serialize;

pub use batch::{Batch, Change, Object};
pub use endpoint::{DEFAULT_WEIGHT, Endpoint};
pub use findings::Finding;
pub use locality::{Locality, Nearness};
pub use node::Node;
pub use policy::{Action, AuthorizationPolicy, Created, MtlsMode, PeerAuthentication, Scope, WaypointField};
pub use service::{
    Affinity, Distribution, EndpointSlice, Hints, InternalTraffic, Service, ServicePort, SliceEndpoint, SlicePort,
    TargetPort,
};
pub use workload::{ContainerPort, Namespace, Owner, OwnerKind, Phase, Workload};

use crate::{Kind, ObjectKey, ObjectName, TrustDomain, enrol::Enrolment, world::index::Index};

/// Labels or annotations, ordered.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Every pair of `selector` stands in `labels`. An empty selector selects everything.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// Counts the Worlds that one keeper published. Only equal or later within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What holds for the whole mesh and is not an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeshSettings {
    /// Where mesh-wide policy stands. Default `istio-system`.
    pub root_namespace: Arc<str>,
    /// The trust domain of this mesh. Default `cluster.local`.
    pub trust_domain: TrustDomain,
    /// Trust domains whose identities are accepted as our own.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// The DNS suffix of services. Default `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// `istio-injection` and `sidecar.istio.io/inject` enrol too. Default true.
    pub sidecar_keys: bool,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".into(),
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            cluster_domain: "cluster.local".into(),
            sidecar_keys: true,
        }
    }
}

/// What an address stands for.
#[derive(Clone, Debug)]
pub enum Addressed<'a> {
    /// One pod.
    Workload(&'a Arc<Workload>),
    /// One service's VIP.
    Service(&'a Arc<Service>),
    /// More than one object claims it, which only a mistake or an attack can cause. Nobody gets it.
    Ambiguous(Vec<ObjectKey>),
    /// Nothing that the mesh knows.
    Unknown,
}

/// One immutable picture of the mesh.
#[derive(Clone, Debug)]
pub struct World {
    version: Version,
    settings: Arc<MeshSettings>,
    objects: BTreeMap<ObjectKey, Object>,
    index: Index,
}

impl World {
    /// A World without objects, version 0.
    #[must_use]
    pub fn empty(settings: MeshSettings) -> Self {
        Self::build(Version(0), Arc::new(settings), BTreeMap::new())
    }

    /// The next World: this one after `batch`. Costs the size of the World, not of the batch: changes are batched.
    #[must_use]
    pub fn apply(&self, batch: &Batch) -> Self {
        let mut objects = self.objects.clone();
        for change in &batch.changes {
            match change {
                Change::Put(object) => drop(objects.insert(object.key(), object.clone())),
                Change::Remove(key) => drop(objects.remove(key)),
            }
        }
        Self::build(Version(self.version.0.saturating_add(1)), Arc::clone(&self.settings), objects)
    }

    fn build(version: Version, settings: Arc<MeshSettings>, objects: BTreeMap<ObjectKey, Object>) -> Self {
        let index = Index::build(&settings, &objects);
        Self { version, settings, objects, index }
    }

    /// Which World this is.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What holds for the whole mesh.
    #[must_use]
    pub fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// All objects, by kind and name.
    #[must_use]
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Object> {
        &self.objects
    }

    /// What is wrong or surprising about objects that are served all the same.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.index.findings
    }

    /// What of that is about one object.
    #[must_use]
    pub fn findings_of(&self, object: &ObjectKey) -> &[Finding] {
        let first = self.index.findings.partition_point(|f| f.object < *object);
        let rest = self.index.findings.get(first..).unwrap_or_default();
        let count = rest.partition_point(|f| f.object == *object);
        rest.get(..count).unwrap_or_default()
    }

    /// Whom does this address belong to? `ip` is canonical.
    #[must_use]
    pub fn addressed(&self, ip: IpAddr) -> Addressed<'_> {
        let workloads = self.index.workloads.get(&ip).map_or(&[][..], |v| v);
        let services = self.index.vips.get(&ip).map_or(&[][..], |v| v);
        match (workloads, services) {
            ([], []) => Addressed::Unknown,
            ([w], []) => Addressed::Workload(w),
            ([], [s]) => Addressed::Service(s),
            _ => Addressed::Ambiguous(
                (workloads.iter().map(|w| ObjectKey::new(Kind::Pod, w.name.clone())))
                    .chain(services.iter().map(|s| ObjectKey::new(Kind::Service, s.name.clone())))
                    .collect(),
            ),
        }
    }

    /// The one pod with this address, or nothing where there is none or more than one.
    #[must_use]
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        match self.addressed(ip) {
            Addressed::Workload(w) => Some(w),
            _ => None,
        }
    }

    /// Every address that belongs to some pod or service, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let mut all: Vec<_> = self.index.workloads.keys().chain(self.index.vips.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    /// The pod of this name.
    #[must_use]
    pub fn workload(&self, name: &ObjectName) -> Option<&Arc<Workload>> {
        match self.objects.get(&ObjectKey::new(Kind::Pod, name.clone())) {
            Some(Object::Workload(w)) => Some(w),
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

    /// The namespace of this name, where it was declared.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        match self.objects.get(&ObjectKey::new(Kind::Namespace, ObjectName::cluster(name))) {
            Some(Object::Namespace(n)) => Some(n),
            _ => None,
        }
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        match self.objects.get(&ObjectKey::new(Kind::Node, ObjectName::cluster(name))) {
            Some(Object::Node(n)) => Some(n),
            _ => None,
        }
    }

    /// Where a node is, as far as it is known.
    #[must_use]
    pub fn locality(&self, node: &str) -> Option<&Locality> {
        self.index.localities.get(node)
    }

    /// How near connections to a service prefer to stay: what it says itself, else its namespace.
    #[must_use]
    pub fn distribution(&self, service: &Service) -> Distribution {
        let of_namespace = || self.namespace(service.name.namespace()).and_then(|n| n.distribution);
        service.distribution.or_else(of_namespace).unwrap_or_default()
    }

    /// All pods, by name.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.of_kind(Kind::Pod).filter_map(|o| match o {
            Object::Workload(w) => Some(w),
            _ => None,
        })
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.of_kind(Kind::Service).filter_map(|o| match o {
            Object::Service(s) => Some(s),
            _ => None,
        })
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let first = ObjectKey::new(kind, ObjectName::cluster(""));
        self.objects.range(first..).take_while(move |(k, _)| k.kind == kind).map(|(_, o)| o)
    }

    /// Is this pod in the mesh, and why (not)?
    #[must_use]
    pub fn enrolment(&self, workload: &Workload) -> Enrolment {
        self.index.enrolments.get(&workload.name).cloned().unwrap_or_else(|| {
            crate::enrol::decide(workload, self.namespace(workload.name.namespace()).map(|n| &**n), &self.settings)
        })
    }

    /// Is this pod in the mesh?
    #[must_use]
    pub fn is_enrolled(&self, workload: &Workload) -> bool {
        self.enrolment(workload).is_enrolled()
    }

    /// The endpoints behind a service, ready or not, by slice and position or by pod name.
    #[must_use]
    pub fn endpoints(&self, service: &ObjectName) -> &[Endpoint] {
        self.index.endpoints.get(service).map_or(&[], |v| v)
    }

    /// A service that leads to this port of this pod: the first by name.
    #[must_use]
    pub fn service_at(&self, pod: &ObjectName, port: u16) -> Option<&ObjectName> {
        self.index.services_at.get(pod)?.get(&port)
    }

    /// The AuthorizationPolicies that apply to this workload at L4, mesh-wide ones first, then by name.
    pub fn authorization_policies<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a Arc<AuthorizationPolicy>> {
        let root = self.settings.root_namespace.as_ref();
        let own = workload.name.namespace();
        let of = |ns: &str| self.index.authorization.get(ns).map_or(&[][..], |v| v).iter();
        of(root).chain((own != root).then(|| of(own)).into_iter().flatten()).filter(|p| self.applies(p, workload))
    }

    /// Is this workload judged by this policy at L4?
    #[must_use]
    pub fn applies(&self, policy: &AuthorizationPolicy, workload: &Workload) -> bool {
        let of = policy.name.namespace();
        let selected = match &policy.scope {
            Scope::Namespace => true,
            Scope::Selector(labels) => selects(labels, &workload.labels),
            Scope::Targets(_) => false,
        };
        selected && (of == workload.name.namespace() || of == &*self.settings.root_namespace)
    }

    /// The PeerAuthentications of a namespace, oldest first.
    pub(crate) fn peer_authentications(&self, namespace: &str) -> &[Arc<PeerAuthentication>] {
        self.index.peer_authentication.get(namespace).map_or(&[], |v| v)
    }

    /// Both Worlds have the same policies of both kinds in this namespace: the very same objects.
    pub(crate) fn has_policies_of(&self, other: &Self, namespace: &str) -> bool {
        let (mine, others) = (self.index.authorization.get(namespace), other.index.authorization.get(namespace));
        same(mine.map_or(&[], |v| v), others.map_or(&[], |v| v))
            && same(self.peer_authentications(namespace), other.peer_authentications(namespace))
    }

    /// The host name of a service: `reviews.default.svc.cluster.local`.
    #[must_use]
    pub fn hostname(&self, service: &ObjectName) -> String {
        format!("{}.{}.svc.{}", service.name(), service.namespace(), self.settings.cluster_domain)
    }
}

fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Worlds are equal when they know the same, whatever their version.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.objects == other.objects
    }
}

impl Serialize for World {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut out = s.serialize_struct("World", 4)?;
        out.serialize_field("version", &self.version)?;
        out.serialize_field("settings", &self.settings)?;
        out.serialize_field("objects", &self.objects)?;
        out.serialize_field("findings", &self.index.findings)?;
        out.end()
    }
}

#[cfg(test)]
mod tests;
