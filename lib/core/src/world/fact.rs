//! Facts, of which a World is made, and their changes. Their source (resolve, from objects; a control plane) hands over
//! a [`Facts`]; a put of a fact that is there already, or a removal of one that is not, is no change.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    ObjectName,
    world::{AuthorizationPolicy, NamespaceMtls, Service, Uid, Workload},
};

/// One fact, shared by all Worlds that contain it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// A workload.
    Workload(Arc<Workload>),
    /// A service.
    Service(Arc<Service>),
    /// L4 policy.
    Policy(Arc<AuthorizationPolicy>),
    /// The mutual TLS mode of a namespace.
    Mtls(Arc<NamespaceMtls>),
}

/// The key of a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactKey {
    /// A workload.
    Workload(Uid),
    /// A service.
    Service(ObjectName),
    /// L4 policy.
    Policy(ObjectName),
    /// The mutual TLS mode of a namespace.
    Mtls(Arc<str>),
}

impl Fact {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> FactKey {
        match self {
            Self::Workload(w) => FactKey::Workload(w.uid.clone()),
            Self::Service(s) => FactKey::Service(s.name.clone()),
            Self::Policy(p) => FactKey::Policy(p.name.clone()),
            Self::Mtls(m) => FactKey::Mtls(Arc::clone(&m.namespace)),
        }
    }
}

/// One fact that appeared, changed or went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactChange {
    /// The fact is now this.
    Put(Fact),
    /// There is no such fact any more.
    Remove(FactKey),
}

/// Changes that become visible together: of two changes to one fact the later counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// In the order they happened.
    pub changes: Vec<FactChange>,
}

impl Facts {
    /// Appends: the fact is now this.
    pub fn put(&mut self, fact: Fact) {
        self.changes.push(FactChange::Put(fact));
    }

    /// Appends: there is no such fact any more.
    pub fn remove(&mut self, key: FactKey) {
        self.changes.push(FactChange::Remove(key));
    }
}
