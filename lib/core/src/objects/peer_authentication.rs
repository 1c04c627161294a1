//! PeerAuthentications as written. What they mean for a port is a fact: [`crate::world::Mtls`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{ObjectName, labels::Labels};

/// `metadata.creationTimestamp`, seconds since the epoch. A missing one (manifests) counts as the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Created(pub i64);

impl Created {
    /// Of an object that does not say.
    pub const UNKNOWN: Self = Self(i64::MAX);
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum MtlsMode {
    /// Inherited from the next wider policy.
    #[default]
    Unset,
    /// As `Permissive`, and reported: a destination in the mesh cannot forbid mutual TLS.
    Disable,
    /// Plaintext and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// `security.istio.io PeerAuthentication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerAuthentication {
    /// namespace/name.
    pub name: ObjectName,
    /// `spec.selector.matchLabels`; none: the namespace or, in the root namespace, the mesh.
    pub selector: Option<Labels>,
    /// `spec.mtls.mode`.
    pub mode: MtlsMode,
    /// `spec.portLevelMtls`, by target port. Needs a selector.
    pub ports: BTreeMap<u16, MtlsMode>,
    /// The oldest wins among equals.
    pub created: Created,
}
