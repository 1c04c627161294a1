//! The effect of PeerAuthentications: whether a port accepts plaintext. Three layers, each beside the other so that a
//! change of one rewrites no other: the workload's own, its namespace's, the mesh's. The most specific that says
//! something decides.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::ObjectName;

/// What a port accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Takes {
    /// Mutual TLS only.
    MutualTls,
    /// Mutual TLS and plaintext.
    Plaintext,
}

/// The mutual TLS mode of a port, and the PeerAuthentication that sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortMode {
    /// What it accepts.
    pub takes: Takes,
    /// The PeerAuthentication.
    pub by: ObjectName,
}

/// The modes that PeerAuthentications with a selector set for one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mtls {
    /// Of every port that is not among `ports`; none: its namespace's.
    pub default: Option<PortMode>,
    /// By target port.
    pub ports: BTreeMap<u16, PortMode>,
}

impl Mtls {
    /// The mode of a port, if one is set.
    #[must_use]
    pub fn of(&self, port: u16) -> Option<&PortMode> {
        self.ports.get(&port).or(self.default.as_ref())
    }
}

/// The mode for every workload of a namespace; in the root namespace, of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamespaceMtls {
    /// The namespace.
    pub namespace: Arc<str>,
    /// What its ports accept.
    pub says: PortMode,
}
