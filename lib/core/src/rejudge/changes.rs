//! The connections that a change may concern. A node has many open connections, few pods and few destinations, and most
//! changes are about others: the difference from one World to the next names the few pods, addresses, services and
//! policies on which another verdict may rest, and only their connections are judged again.
//!
//! What must hold: where [`Changes::may_concern`] says no, [`check`](super::check) answers as before. And what an index
//! of connections finds by the lists here is all that it says yes to.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Basis, Judged, OutboundPath};
use crate::{
    ObjectName, World,
    world::{Delta, Scope, Uid, Version, Workload},
};

/// What differs between two Worlds, as far as verdicts rest on it.
#[derive(Debug)]
pub struct Changes<'a> {
    new: &'a World,
    from: Version,
    settings: bool,
    pods: BTreeSet<&'a Uid>,
    addresses: BTreeSet<IpAddr>,
    services: BTreeSet<&'a ObjectName>,
    /// Namespaces all of whose workloads other policies apply to, or other modes of mutual TLS.
    namespaces: BTreeSet<&'a str>,
    /// Policies that apply to the workloads which name them.
    selecting: BTreeSet<&'a ObjectName>,
}

impl<'a> Changes<'a> {
    /// From `old` to `new`.
    #[must_use]
    pub fn new(old: &'a World, new: &'a World) -> Self {
        let delta = Delta::between(old, new);
        let workloads = || delta.workloads.iter().flat_map(|w| w.both());
        let services = || delta.services.iter().flat_map(|s| s.both());
        let policies = || delta.policies.iter().flat_map(|p| p.both());
        let mtls = delta.mtls.iter().flat_map(|m| m.both()).map(|m| &*m.namespace);
        let owned = workloads().filter(|w| w.owns_addresses()).flat_map(|w| w.addresses.iter().copied());
        let wide = policies().filter(|p| p.scope == Scope::Namespace).map(|p| p.name.namespace());
        Self {
            new,
            from: old.version(),
            settings: delta.settings.is_some(),
            pods: workloads().map(|w| &w.uid).collect(),
            addresses: owned.chain(services().flat_map(|s| s.addresses())).collect(),
            services: services().map(|s| &s.name).collect(),
            namespaces: mtls.chain(wide).collect(),
            selecting: policies().filter(|p| p.scope != Scope::Namespace).map(|p| &p.name).collect(),
        }
    }

    /// Settings differ, or what holds for the whole mesh: everything is concerned.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.settings || self.namespaces.contains(&*self.new.settings().root_namespace)
    }

    /// Settings differ: nothing that was judged by them stands.
    #[must_use]
    pub const fn has_settings(&self) -> bool {
        self.settings
    }

    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.settings
            && self.pods.is_empty()
            && self.services.is_empty()
            && self.namespaces.is_empty()
            && self.selecting.is_empty()
    }

    /// The workloads that differ.
    pub fn pods(&self) -> impl Iterator<Item = &'a Uid> + '_ {
        self.pods.iter().copied()
    }

    /// The addresses that may have another owner, or whose owner differs.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied()
    }

    /// The services that differ.
    pub fn services(&self) -> impl Iterator<Item = &'a ObjectName> + '_ {
        self.services.iter().copied()
    }

    /// Some policy or mode of mutual TLS differs: [`Self::judges_otherwise`] says of which workloads.
    #[must_use]
    pub fn has_policies(&self) -> bool {
        !self.namespaces.is_empty() || !self.selecting.is_empty()
    }

    /// The namespaces of all workloads of which [`Self::judges_otherwise`] says yes; none: they may be in any. A policy
    /// selects in its own namespace, one of the root namespace in all.
    #[must_use]
    pub fn scopes(&self) -> Option<BTreeSet<&'a str>> {
        let root = &*self.new.settings().root_namespace;
        let selecting = || self.selecting.iter().map(|name| name.namespace());
        let are_known = !self.is_everywhere() && selecting().all(|namespace| namespace != root);
        are_known.then(|| self.namespaces.iter().copied().chain(selecting()).collect())
    }

    /// Another policy, or another mode of mutual TLS, applies to this workload of the new World.
    #[must_use]
    pub fn judges_otherwise(&self, workload: &Workload) -> bool {
        self.is_everywhere()
            || self.namespaces.contains(workload.name.namespace())
            || workload.policies.iter().any(|name| self.selecting.contains(name))
    }

    /// May the verdict about a connection that the old World allowed be another one now?
    #[must_use]
    pub fn may_concern(&self, judged: &Judged) -> bool {
        // One that the old World has not judged: nothing is known about it.
        judged.judged_at != self.from || self.settings || self.pods.contains(&judged.pod) || self.differs(judged)
    }

    fn differs(&self, judged: &Judged) -> bool {
        let otherwise = |workload: Option<&Workload>| workload.is_none_or(|w| self.judges_otherwise(w));
        match &judged.basis {
            Basis::Inbound { .. } => self.has_policies() && otherwise(self.new.workload(&judged.pod).map(|w| &**w)),
            Basis::Outbound { service, target, path, .. } => {
                service.as_ref().is_some_and(|name| self.services.contains(name))
                    || self.addresses.contains(&target.ip())
                    || (*path == OutboundPath::Plain && self.has_policies() && self.owner_judges_otherwise(target.ip()))
            }
        }
    }

    /// Of a plain connection: the owner of the target's address may be in the mesh now, where policies apply to it.
    #[must_use]
    pub fn owner_judges_otherwise(&self, target: IpAddr) -> bool {
        self.new.workload_at(target).is_some_and(|owner| self.judges_otherwise(owner))
    }
}
