//! What PeerAuthentications come to: does a port take plaintext? Three layers, each beside the other so that a change of one
//! rewrites no other: the workload's own, its namespace's, the mesh's. The most specific that says something decides.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::ObjectName;

/// What a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Takes {
    /// Mutual TLS only.
    MutualTls,
    /// Mutual TLS and plaintext.
    Plaintext,
}

/// What a port takes, and the PeerAuthentication that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Says {
    /// What it takes.
    pub takes: Takes,
    /// Who says so.
    pub by: ObjectName,
}

/// What is said about one workload by labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mtls {
    /// About every port that is not among `ports`; none: as its namespace says.
    pub default: Option<Says>,
    /// By target port.
    pub ports: BTreeMap<u16, Says>,
}

impl Mtls {
    /// What is said about a port.
    #[must_use]
    pub fn of(&self, port: u16) -> Option<&Says> {
        self.ports.get(&port).or(self.default.as_ref())
    }
}

/// What is said about every workload of a namespace; in the root namespace, of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamespaceMtls {
    /// The namespace.
    pub namespace: Arc<str>,
    /// What its ports take.
    pub says: Says,
}
