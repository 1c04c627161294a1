//! How far each kind has been read, and what is in its way.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use underpass_core::Kind;
use underpass_door::{Reached, Versions};

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
    /// The version that was known when what is served of a kind changed last.
    pub changed: BTreeMap<Kind, u64>,
}

impl Progress {
    /// How far each kind is known, where its version is a number. An API server counts all of its objects together; a
    /// restored one counts from an earlier version on, and so does a kind once it has been listed again.
    #[must_use]
    pub fn versions(&self) -> Versions {
        let reached = |(kind, health): (&Kind, &Health)| {
            let known = number(&health.resource_version)?;
            let changed = self.changed.get(kind).copied().unwrap_or_default();
            Some((*kind, Reached { known, changed }))
        };
        self.kinds.iter().filter_map(reached).collect()
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
            let progress = Progress {
                kinds: versions.iter().map(|(kind, v)| (*kind, health(v))).collect(),
                ..Progress::default()
            };
            let versions = progress.versions();
            (versions.newest(), versions.iter().map(|(kind, reached)| (kind, reached.known)).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), (None, vec![]));
        assert_eq!(of(&[(Kind::Pod, "9"), (Kind::Node, "10")]), (Some(10), vec![(Kind::Node, 10), (Kind::Pod, 9)]));
        assert_eq!(of(&[(Kind::Pod, "9"), (Kind::AuthorizationPolicy, "")]), (Some(9), vec![(Kind::Pod, 9)]));
        assert_eq!(of(&[(Kind::Pod, "x")]), (None, vec![]));
    }
}
