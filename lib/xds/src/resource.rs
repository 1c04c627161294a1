//! Resources: the unit in which facts travel.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use underpass_door::Versions;

/// The kinds of resources that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `istio.workload.Address`: a workload or a service.
    Address,
    /// `istio.security.Authorization`: L4 policy.
    Authorization,
}

impl ResourceKind {
    /// All of them, in the order in which an update of both is applied: policies before the workloads that name them.
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Address];

    /// The type URL of its messages.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The kind of this type URL, if it is served.
    #[must_use]
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

/// One resource, encoded once and shared by all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name: a workload's uid, `namespace/hostname` of a service, `namespace/name` of a policy.
    pub name: Arc<str>,
    /// Other names under which it is subscribed to: `network/address` for each of its addresses.
    pub aliases: Vec<Arc<str>>,
    /// The hash of its encoding, the same on all replicas.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
}

/// A change of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name.
    pub name: Arc<str>,
    /// The version of the message; empty where it is gone.
    pub version: Arc<str>,
    /// The encoded message; none: it is gone.
    pub body: Option<Bytes>,
}

/// All resources of one World, by kind and name. Cheap to clone; two of them are compared by what they do not share.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// `Address`.
    pub addresses: OrdMap<Arc<str>, Arc<Resource>>,
    /// `Authorization`.
    pub authorizations: OrdMap<Arc<str>, Arc<Resource>>,
    /// The version of the source behind it (`system_version_info`), for people: the API server's `resourceVersion`.
    pub source: Arc<str>,
    /// How far the source has been read.
    pub versions: Versions,
}

impl Resources {
    /// The resources of one kind.
    #[must_use]
    pub const fn of(&self, kind: ResourceKind) -> &OrdMap<Arc<str>, Arc<Resource>> {
        match kind {
            ResourceKind::Address => &self.addresses,
            ResourceKind::Authorization => &self.authorizations,
        }
    }
}
