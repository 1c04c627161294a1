//! The World: everything that decides about connections, as one immutable value with a version. It is made of *facts*
//! ([`Workload`], [`Service`], [`AuthorizationPolicy`], [`NamespaceMtls`]) in persistent ordered maps: the next World
//! shares with the one before what did not change, and costs what changed. Facts are a superset of Istio's workload
//! API; where they come from, objects ([`crate::resolve`]) or a control plane, leaves no trace.
//!
//! Invariant: a World is a function of its facts and settings alone. The order in which changes arrived leaves no trace
//! (but the version). Readers never wait.

mod app_protocol;
mod delta;
mod fact;
mod index;
mod locality;
mod mtls;
mod policy;
mod policy_target;
mod rule_values;
mod service;
mod settings;
mod waypoint;
mod workload;

use std::{fmt, net::IpAddr, sync::Arc};

use imbl::OrdMap;
use serde::Serialize;

pub use app_protocol::{AppProtocol, UnknownAppProtocol};
pub use delta::{Delta, Difference};
pub use fact::{Fact, FactChange, FactKey, Facts};
pub use locality::{Locality, Nearness};
pub use mtls::{Mtls, NamespaceMtls, PortMode, Takes};
pub use policy::{Action, AuthorizationPolicy, Scope, WaypointField};
pub use policy_target::{PolicyTarget, TargetKind};
pub use rule_values::{RuleValue, Value};
pub use service::{Affinity, Distribution, InternalTraffic, Service, ServicePort, TargetPort};
pub use settings::MeshSettings;
pub use waypoint::{Instance, Waypoint, WaypointAt};
pub use workload::{Account, Endpoint, Hints, Owner, OwnerKind, Uid, Workload};

use self::index::{Claimant, Index};
use crate::{Identity, Kind, ObjectKey, ObjectName};

/// Counts the Worlds that one keeper published. Only equal or later within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The owner of an address.
#[derive(Clone, Debug)]
pub enum Addressed<'a> {
    /// One pod.
    Workload(&'a Arc<Workload>),
    /// One service's: a VIP, or an external address that nothing else has.
    Service(&'a Arc<Service>),
    /// More than one object claims it, which only a mistake or an attack can cause. It belongs to none of them.
    Ambiguous(Vec<ObjectKey>),
    /// Nothing that the mesh knows.
    Unknown,
}

/// One immutable state of the mesh. Cheap to clone.
#[derive(Clone, Debug)]
pub struct World {
    version: Version,
    settings: Arc<MeshSettings>,
    workloads: OrdMap<Uid, Arc<Workload>>,
    services: OrdMap<ObjectName, Arc<Service>>,
    policies: OrdMap<ObjectName, Arc<AuthorizationPolicy>>,
    mtls: OrdMap<Arc<str>, Arc<NamespaceMtls>>,
    index: Index,
}

impl World {
    /// A World without facts, version 0.
    #[must_use]
    pub fn empty(settings: MeshSettings) -> Self {
        Self {
            version: Version(0),
            settings: Arc::new(settings),
            workloads: OrdMap::new(),
            services: OrdMap::new(),
            policies: OrdMap::new(),
            mtls: OrdMap::new(),
            index: Index::default(),
        }
    }

    /// The next World: this one after `facts`.
    #[must_use]
    pub fn apply(&self, facts: Facts) -> Self {
        let mut next = self.clone();
        next.version = self.version.next();
        for change in facts.changes {
            match change {
                FactChange::Put(fact) => next.put(fact),
                FactChange::Remove(key) => next.remove(&key),
            }
        }
        next
    }

    /// The next World: this one with other settings.
    #[must_use]
    pub fn with_settings(&self, settings: Arc<MeshSettings>) -> Self {
        let mut next = self.clone();
        next.version = self.version.next();
        if settings.trust_domain != self.settings.trust_domain {
            next.index.rename(&settings.trust_domain);
        }
        next.settings = settings;
        next
    }

    fn put(&mut self, fact: Fact) {
        match fact {
            Fact::Workload(new) => {
                if let Some(old) = put(&mut self.workloads, new.uid.clone(), &new) {
                    self.index.change_workload(old.as_ref(), Some(&new), &self.settings.trust_domain);
                }
            }
            Fact::Service(new) => {
                if let Some(old) = put(&mut self.services, new.name.clone(), &new) {
                    old.iter().for_each(|old| self.index.remove_service(old));
                    self.index.add_service(&new);
                }
            }
            Fact::Policy(new) => {
                if let Some(old) = put(&mut self.policies, new.name.clone(), &new) {
                    old.iter().for_each(|old| self.index.remove_policy(old));
                    self.index.add_policy(&new);
                }
            }
            Fact::Mtls(new) => drop(put(&mut self.mtls, Arc::clone(&new.namespace), &new)),
        }
    }

    fn remove(&mut self, key: &FactKey) {
        match key {
            FactKey::Workload(uid) => {
                let old = self.workloads.remove(uid);
                self.index.change_workload(old.as_ref(), None, &self.settings.trust_domain);
            }
            FactKey::Service(name) => {
                self.services.remove(name).iter().for_each(|old| self.index.remove_service(old));
            }
            FactKey::Policy(name) => self.policies.remove(name).iter().for_each(|old| self.index.remove_policy(old)),
            FactKey::Mtls(namespace) => drop(self.mtls.remove(namespace)),
        }
    }

    /// The version of this World.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The settings of the whole mesh.
    #[must_use]
    pub fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// The owner of an address. `ip` is canonical.
    #[must_use]
    pub fn addressed(&self, ip: IpAddr) -> Addressed<'_> {
        match self.index.claims(ip) {
            [] => Addressed::Unknown,
            [Claimant::Workload(w)] => Addressed::Workload(w),
            [Claimant::Service(s) | Claimant::External(s)] => Addressed::Service(s),
            many => Addressed::Ambiguous(many.iter().map(claimant).collect()),
        }
    }

    /// The one pod with this address, or nothing where there is none or more than one.
    #[must_use]
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        match self.index.claims(ip) {
            [Claimant::Workload(w)] => Some(w),
            _ => None,
        }
    }

    /// Every address that belongs to some pod or service, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.index.addresses()
    }

    /// The workload with this uid.
    #[must_use]
    pub fn workload(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The pod of this name, in this cluster.
    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&Arc<Workload>> {
        self.workload(&Uid::of_pod(&self.settings.cluster, name))
    }

    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The service of a whole hostname, in lower case: `reviews.default.svc.cluster.local`.
    #[must_use]
    pub fn service_of_host(&self, host: &str) -> Option<&Arc<Service>> {
        let rest = host.strip_suffix(&*self.settings.cluster_domain)?.strip_suffix(".svc.")?;
        let (name, namespace) = rest.split_once('.')?;
        self.service(&ObjectName::new(namespace, name))
    }

    /// The AuthorizationPolicy of this name.
    #[must_use]
    pub fn policy(&self, name: &ObjectName) -> Option<&Arc<AuthorizationPolicy>> {
        self.policies.get(name)
    }

    /// All workloads, by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workloads of a namespace of this cluster, by uid.
    pub fn workloads_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<Workload>> {
        Uid::of_namespace(&self.settings.cluster, namespace).into_iter().flat_map(|prefix| {
            let all = self.workloads.range(Uid::new(prefix.as_str())..);
            all.take_while(move |(uid, _)| uid.as_str().starts_with(&prefix)).map(|(_, workload)| workload)
        })
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// All AuthorizationPolicies, by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.policies.values()
    }

    /// The counts of facts: workloads, services, policies.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        [self.workloads.len(), self.services.len(), self.policies.len()]
    }

    /// The identity of a workload; none: it has no identity, or is none of this World's.
    #[must_use]
    pub fn identity(&self, workload: &Workload) -> Option<&Identity> {
        self.index.identity(workload.account.as_ref()?)
    }

    /// Every identity that some workload has.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.index.identities()
    }

    /// The endpoints of a service, ready or not, by address: each with the workload that it is of.
    pub fn endpoints<'a>(
        &'a self,
        service: &'a ObjectName,
    ) -> impl Iterator<Item = (&'a Arc<Workload>, &'a Endpoint)> + 'a {
        self.index.endpoints(service)
    }

    /// Calls of a service's VIP go through the tunnel. One endpoint in the mesh is enough, whether it can be called now
    /// or not: it may be as soon as it is ready.
    #[must_use]
    pub fn is_in_mesh(&self, service: &Service) -> bool {
        service.waypoint.is_some() || self.index.enrolled(&service.name) > 0
    }

    /// The AuthorizationPolicies that apply to this workload at L4: of the mesh, of its namespace, its own; by name
    /// each.
    pub fn authorization_policies<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a Arc<AuthorizationPolicy>> {
        let (root, own) = (&*self.settings.root_namespace, workload.name.namespace());
        let of_namespace = if own == root { &[] } else { self.index.wide(own) };
        let of_workload = workload.policies.iter().filter_map(|name| self.policies.get(name));
        self.index.wide(root).iter().chain(of_namespace).chain(of_workload)
    }

    /// The AuthorizationPolicies of a namespace that name this object of it in `targetRefs`, by name.
    pub fn policies_of_target<'a>(
        &'a self,
        kind: TargetKind,
        name: &'a ObjectName,
    ) -> impl Iterator<Item = &'a Arc<AuthorizationPolicy>> {
        self.index.of_target(name).iter().filter(move |policy| policy.has_target(kind, name.name()))
    }

    /// The AuthorizationPolicies of the root namespace that name this GatewayClass in `targetRefs`, by name. Those of
    /// other namespaces do not count: a class is the mesh's.
    pub fn policies_of_class(&self, class: &str) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.index.of_class(class).iter().filter(|policy| policy.name.namespace() == &*self.settings.root_namespace)
    }

    /// Whether this policy applies to this workload at L4.
    #[must_use]
    pub fn applies(&self, policy: &AuthorizationPolicy, workload: &Workload) -> bool {
        let of = policy.name.namespace();
        match &policy.scope {
            Scope::Namespace => of == workload.name.namespace() || of == &*self.settings.root_namespace,
            Scope::Selector(_) => workload.policies.contains(&policy.name),
            Scope::Targets(_) => false,
        }
    }

    /// The mutual TLS mode of a target port of a workload: its own, else its namespace's, else the mesh's. None: none
    /// is set.
    #[must_use]
    pub fn mtls<'a>(&'a self, workload: &'a Workload, port: u16) -> Option<&'a PortMode> {
        let of = |namespace: &str| self.mtls.get(namespace).map(|of| &of.says);
        (workload.mtls.of(port)).or_else(|| of(workload.name.namespace())).or_else(|| of(&self.settings.root_namespace))
    }
}

impl Version {
    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The value before, where it differs.
fn put<K: Ord + Clone, T: Eq>(map: &mut OrdMap<K, Arc<T>>, key: K, new: &Arc<T>) -> Option<Option<Arc<T>>> {
    if map.get(&key) == Some(new) {
        return None;
    }
    Some(map.insert(key, Arc::clone(new)))
}

fn claimant(claimant: &Claimant) -> ObjectKey {
    match claimant {
        Claimant::Workload(w) => w.object(),
        Claimant::Service(s) | Claimant::External(s) => ObjectKey::new(Kind::Service, s.name.clone()),
    }
}

/// Worlds are equal when their facts and settings are, also where their versions differ.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
            && self.workloads == other.workloads
            && self.services == other.services
            && self.policies == other.policies
            && self.mtls == other.mtls
    }
}

impl Serialize for World {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut out = s.serialize_struct("World", 6)?;
        out.serialize_field("version", &self.version)?;
        out.serialize_field("settings", &self.settings)?;
        out.serialize_field("workloads", &self.workloads.values().collect::<Vec<_>>())?;
        out.serialize_field("services", &self.services.values().collect::<Vec<_>>())?;
        out.serialize_field("policies", &self.policies.values().collect::<Vec<_>>())?;
        out.serialize_field("mtls", &self.mtls.values().collect::<Vec<_>>())?;
        out.end()
    }
}

#[cfg(test)]
mod tests;
