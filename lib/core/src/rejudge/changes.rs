//! What a change cannot concern. A node has many open connections and few pods, and most changes are about others: what a
//! verdict rests on is compared once per pod, and only connections whose verdict may differ are judged again.
//!
//! Objects are shared between Worlds, so that the same object at the same place is the same pointer. What must hold: where
//! [`Changes::may_concern`] says no, [`check`](super::check) answers as before.

use std::{collections::HashMap, sync::Arc};

use super::{Judged, Way};
use crate::{ObjectName, World};

/// From one World to another.
#[derive(Debug)]
pub struct Changes<'a> {
    old: &'a World,
    new: &'a World,
    /// By the pod that was called.
    inbound: HashMap<ObjectName, bool>,
}

impl<'a> Changes<'a> {
    /// From `old` to `new`.
    #[must_use]
    pub fn new(old: &'a World, new: &'a World) -> Self {
        Self { old, new, inbound: HashMap::new() }
    }

    /// May the verdict about a connection that `old` allowed be another one now?
    pub fn may_concern(&mut self, judged: &Judged) -> bool {
        let (old, new) = (self.old, self.new);
        if judged.judged_at != old.version() {
            return true;
        }
        match &judged.way {
            Way::Inbound { .. } => match self.inbound.get(&judged.pod) {
                Some(differs) => *differs,
                None => {
                    let differs = !same_for(old, new, &judged.pod);
                    self.inbound.insert(judged.pod.clone(), differs);
                    differs
                }
            },
            // They rest on whoever was called: to compare is to judge.
            Way::Outbound { .. } => true,
        }
    }
}

/// The pod is the same object, and so is every policy of its namespace and of the root namespace.
fn same_for(old: &World, new: &World, pod: &ObjectName) -> bool {
    let same_pod = match (old.workload(pod), new.workload(pod)) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    let namespaces = [pod.namespace(), &new.settings().root_namespace];
    same_pod && old.settings() == new.settings() && namespaces.iter().all(|ns| old.has_policies_of(new, ns))
}
