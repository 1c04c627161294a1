//! What a change cannot concern. A node has many open connections, few pods and few destinations, and most changes are about
//! others: what verdicts rest on is compared once, and only connections whose verdict may differ are judged again.
//!
//! Objects are shared between Worlds, so that the same object at the same place is the same pointer. What must hold: where
//! [`Changes::may_concern`] says no, [`check`](super::check) answers as before.

use std::{collections::HashMap, hash::Hash, net::IpAddr, sync::Arc};

use super::{Judged, Way};
use crate::{ObjectName, World, world::Version};

/// From one World to another. Remembers what it has compared.
#[derive(Debug)]
pub struct Changes<'a> {
    old: &'a World,
    new: &'a World,
    settings: bool,
    /// Pods, as somebody whose address calls.
    callers: HashMap<ObjectName, bool>,
    /// Pods, as somebody who is called: they, and every policy that could be about them.
    called: HashMap<ObjectName, bool>,
    services: HashMap<ObjectName, bool>,
    targets: HashMap<IpAddr, bool>,
}

impl<'a> Changes<'a> {
    /// From `old` to `new`.
    #[must_use]
    pub fn new(old: &'a World, new: &'a World) -> Self {
        let settings = old.settings() != new.settings();
        let (callers, called, services, targets) = Default::default();
        Self { old, new, settings, callers, called, services, targets }
    }

    /// May the verdict about a connection that `old` allowed be another one now?
    pub fn may_concern(&mut self, judged: &Judged) -> bool {
        self.settings || self.is_behind(judged.judged_at) || self.differs(&judged.pod, &judged.way)
    }

    /// It was not judged by `old`, so that nothing is known about it.
    fn is_behind(&self, judged_at: Version) -> bool {
        judged_at != self.old.version()
    }

    fn differs(&mut self, pod: &ObjectName, way: &Way) -> bool {
        let (old, new) = (self.old, self.new);
        match way {
            Way::Inbound { .. } => once(&mut self.called, pod, || called(old, new, pod)),
            Way::Outbound { service, target, .. } => {
                let service = service.as_ref();
                once(&mut self.callers, pod, || caller(old, new, pod))
                    || service.is_some_and(|name| once(&mut self.services, name, || served(old, new, name)))
                    || once(&mut self.targets, &target.ip(), || owner(old, new, target.ip()))
            }
        }
    }
}

fn once<K: Clone + Eq + Hash>(known: &mut HashMap<K, bool>, key: &K, compare: impl FnOnce() -> bool) -> bool {
    match known.get(key) {
        Some(differs) => *differs,
        None => *known.entry(key.clone()).or_insert_with(compare),
    }
}

/// Another object, or none where there was one.
fn other<T>(old: Option<&Arc<T>>, new: Option<&Arc<T>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
        (old, new) => old.is_some() != new.is_some(),
    }
}

fn caller(old: &World, new: &World, pod: &ObjectName) -> bool {
    other(old.workload(pod), new.workload(pod))
}

fn called(old: &World, new: &World, pod: &ObjectName) -> bool {
    let namespaces = [pod.namespace(), &new.settings().root_namespace];
    caller(old, new, pod) || namespaces.iter().any(|ns| !old.has_policies_of(new, ns))
}

/// A service and its namespace, which may both name a waypoint.
fn served(old: &World, new: &World, service: &ObjectName) -> bool {
    let ns = service.namespace();
    other(old.service(service), new.service(service)) || other(old.namespace(ns), new.namespace(ns))
}

/// Who has an address, whether it is in the mesh, and what it takes.
fn owner(old: &World, new: &World, ip: IpAddr) -> bool {
    let (before, after) = (old.workload_at(ip), new.workload_at(ip));
    let enrolled = |world: &World| before.is_some_and(|w| world.is_enrolled(w));
    other(before, after)
        || enrolled(old) != enrolled(new)
        || before.is_some_and(|w| enrolled(new) && called(old, new, &w.name))
}
