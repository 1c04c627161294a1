//! How far each kind has been read, and what is in its way.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use underpass_core::Kind;

/// What is going on with a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its objects are being listed.
    Listing,
    /// Its changes arrive.
    Watching,
    /// It failed, and is asked for again after a while.
    Waiting,
    /// The API server does not have it, and is asked for it from time to time.
    Absent,
}

/// The state of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is going on.
    pub phase: Phase,
    /// The time when it was last listed in whole, or found absent; none: not yet.
    pub synced: Option<Instant>,
    /// The `resourceVersion` up to which it is known; empty: none.
    pub resource_version: Arc<str>,
    /// What failed last, and since when something has; none: it works.
    pub error: Option<(Arc<str>, Instant)>,
}

/// The state of all kinds of a door, as of what it has handed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Each kind that the door was asked for and has heard about.
    pub kinds: BTreeMap<Kind, Health>,
}

impl Progress {
    /// The newest version of any kind. An API server counts all of its objects together; a restored one counts from an
    /// earlier version on, and so does this once every kind has been listed again.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.versions().max()
    }

    /// The version up to which every kind is known at least. Bookmarks move it about once a minute.
    #[must_use]
    pub fn complete(&self) -> Option<u64> {
        self.versions().min()
    }

    fn versions(&self) -> impl Iterator<Item = u64> {
        self.kinds.values().filter_map(|health| number(&health.resource_version))
    }
}

/// A version as a number. Opaque by the API's first rule; since Kubernetes 1.35 its order is a promise (KEP 5504), and
/// in all versions before it is etcd's revision.
pub(crate) fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_kinds() {
        let of = |versions: &[(Kind, &str)]| {
            let health = |version: &str| Health {
                phase: Phase::Watching,
                synced: None,
                resource_version: version.into(),
                error: None,
            };
            let progress = Progress { kinds: versions.iter().map(|(kind, v)| (*kind, health(v))).collect() };
            (progress.newest(), progress.complete())
        };
        assert_eq!(of(&[]), (None, None));
        assert_eq!(of(&[(Kind::Pod, "9"), (Kind::Node, "10")]), (Some(10), Some(9)));
        assert_eq!(of(&[(Kind::Pod, "9"), (Kind::AuthorizationPolicy, "")]), (Some(9), Some(9)));
        assert_eq!(of(&[(Kind::Pod, "x")]), (None, None));
    }
}
