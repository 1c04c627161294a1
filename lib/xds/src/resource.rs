//! Resources: the unit in which facts travel.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use imbl::OrdMap;
use underpass_core::Few;
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

/// 64 bits of a SHA-256: the same in every process and release. Prints as [`ContentHash::DIGITS`]
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHash(u64);

impl ContentHash {
    /// The length of its text.
    pub const DIGITS: usize = 16;

    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest(&SHA256, bytes);
        Self(digest.as_ref().iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte)))
    }

    /// It prints so.
    #[must_use]
    pub fn is(self, text: &str) -> bool {
        text.len() == Self::DIGITS && u64::from_str_radix(text, 16) == Ok(self.0)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0digits$x}", self.0, digits = Self::DIGITS)
    }
}

/// One resource, encoded once and shared by all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name: a workload's uid, `namespace/hostname` of a service, `namespace/name` of a policy.
    pub name: Arc<str>,
    /// Other names under which it is subscribed to: `network/address` for each of its addresses.
    pub aliases: Few<Arc<str>>,
    /// The hash of its encoding, the same on all replicas.
    pub version: ContentHash,
    /// The encoded message.
    pub body: Box<[u8]>,
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
