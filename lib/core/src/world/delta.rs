//! The difference of any two Worlds. Followers (kernel tables, open connections, metrics) keep the World that they last
//! finished and ask for its difference to the newest: there is no list of changes that one could fall behind of.
//!
//! Worlds share what did not change, and comparing two of them walks past what they share: it costs what differs.

use std::{net::IpAddr, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};

use crate::world::{AuthorizationPolicy, MeshSettings, NamespaceMtls, Service, Workload, World};

/// A fact before and after. One of the two at least is there.
#[derive(Debug)]
pub struct Difference<'a, T> {
    /// None: it has appeared.
    pub old: Option<&'a Arc<T>>,
    /// None: it is gone.
    pub new: Option<&'a Arc<T>>,
}

impl<'a, T> Difference<'a, T> {
    /// The fact before and after, where it exists.
    pub fn both(&self) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.old.into_iter().chain(self.new)
    }
}

/// Everything that differs between two Worlds, by key.
#[derive(Debug)]
pub struct Delta<'a> {
    /// The settings before and after, where they differ.
    pub settings: Option<(&'a MeshSettings, &'a MeshSettings)>,
    /// Workloads.
    pub workloads: Vec<Difference<'a, Workload>>,
    /// Services. The endpoints of one are its workloads'.
    pub services: Vec<Difference<'a, Service>>,
    /// AuthorizationPolicies.
    pub policies: Vec<Difference<'a, AuthorizationPolicy>>,
    /// Mutual TLS modes of namespaces.
    pub mtls: Vec<Difference<'a, NamespaceMtls>>,
}

impl<'a> Delta<'a> {
    /// From `old` to `new`.
    #[must_use]
    pub fn between(old: &'a World, new: &'a World) -> Self {
        let differ = !Arc::ptr_eq(&old.settings, &new.settings) && old.settings != new.settings;
        Self {
            settings: differ.then_some((&*old.settings, &*new.settings)),
            workloads: differs(&old.workloads, &new.workloads),
            services: differs(&old.services, &new.services),
            policies: differs(&old.policies, &new.policies),
            mtls: differs(&old.mtls, &new.mtls),
        }
    }

    /// The addresses that a workload had and has no longer, also where another workload has them now.
    pub fn given_up(&self) -> impl Iterator<Item = IpAddr> {
        let old = self.workloads.iter().filter_map(|differ| Some((differ.old?, differ.new)));
        old.filter(|(old, _)| old.owns_addresses()).flat_map(|(old, new)| {
            let has = move |ip: &IpAddr| new.is_some_and(|new| new.owns_addresses() && new.addresses.contains(ip));
            old.addresses.iter().copied().filter(move |ip| !has(ip))
        })
    }

    /// Something differs between two Worlds: what the first difference costs, not all of them.
    #[must_use]
    pub fn is_any(old: &World, new: &World) -> bool {
        fn differ<K: Ord, T: Eq>(old: &OrdMap<K, Arc<T>>, new: &OrdMap<K, Arc<T>>) -> bool {
            old.diff(new).next().is_some()
        }
        old.settings != new.settings
            || differ(&old.workloads, &new.workloads)
            || differ(&old.services, &new.services)
            || differ(&old.policies, &new.policies)
            || differ(&old.mtls, &new.mtls)
    }

    /// Nothing differs.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.settings.is_none()
            && self.workloads.is_empty()
            && self.services.is_empty()
            && self.policies.is_empty()
            && self.mtls.is_empty()
    }
}

fn differs<'a, K: Ord, T: Eq>(old: &'a OrdMap<K, Arc<T>>, new: &'a OrdMap<K, Arc<T>>) -> Vec<Difference<'a, T>> {
    let each = |item| match item {
        DiffItem::Add(_, new) => Difference { old: None, new: Some(new) },
        DiffItem::Update { old: (_, old), new: (_, new) } => Difference { old: Some(old), new: Some(new) },
        DiffItem::Remove(_, old) => Difference { old: Some(old), new: None },
    };
    old.diff(new).map(each).collect()
}
