//! The effect of PeerAuthentications: whether a port accepts plaintext. Three layers, each beside the other so that a
//! change of one rewrites no other: the workload's own, its namespace's, the mesh's. The most specific that says
//! something decides.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer};

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

/// The modes that PeerAuthentications with a selector set for one workload. Few have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mtls(Option<Box<Modes>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Modes {
    default: Option<PortMode>,
    ports: BTreeMap<u16, PortMode>,
}

impl Mtls {
    /// `default` is the mode of every port that is not among `ports`; none: its namespace's. `ports` are by target port.
    #[must_use]
    pub fn new(default: Option<PortMode>, ports: BTreeMap<u16, PortMode>) -> Self {
        let is_set = default.is_some() || !ports.is_empty();
        Self(is_set.then(|| Modes { default, ports }.into()))
    }

    /// The mode of a port, if one is set.
    #[must_use]
    pub fn of(&self, port: u16) -> Option<&PortMode> {
        self.of_port(port).or(self.default_mode())
    }

    /// The mode of every port that has none of its own, if one is set.
    #[must_use]
    pub fn default_mode(&self) -> Option<&PortMode> {
        self.0.as_ref()?.default.as_ref()
    }

    /// The mode of this port alone.
    #[must_use]
    pub fn of_port(&self, port: u16) -> Option<&PortMode> {
        self.0.as_ref()?.ports.get(&port)
    }

    /// The target ports with a mode of their own, in order.
    pub fn ports(&self) -> impl Iterator<Item = (u16, &PortMode)> {
        self.0.iter().flat_map(|modes| &modes.ports).map(|(port, mode)| (*port, mode))
    }
}

impl Serialize for Mtls {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(modes) => modes.serialize(s),
            None => Modes::default().serialize(s),
        }
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
