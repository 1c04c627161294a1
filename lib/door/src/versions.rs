//! How far a source has been read, by kind of its objects.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use underpass_core::Kind;

/// How far one kind has been read. The numbers are an API server's `resourceVersion`: all objects of a cluster are
/// counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// Every change up to this version is known.
    pub known: u64,
    /// Known when its objects changed last, as far as they count: a reader who knows the kind up to here lacks no
    /// change.
    pub changed: u64,
}

/// How far each kind has been read; empty: the source has no versions. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Versions(Arc<BTreeMap<Kind, Reached>>);

impl Versions {
    /// How far this kind has been read; none: the source has none of that kind, or no versions of it.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<Reached> {
        self.0.get(&kind).copied()
    }

    /// Each kind, and how far it has been read.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, Reached)> {
        self.0.iter().map(|(kind, reached)| (*kind, *reached))
    }

    /// The newest version that is known of any kind.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.iter().map(|(_, reached)| reached.known).max()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Kind, Reached)> for Versions {
    fn from_iter<I: IntoIterator<Item = (Kind, Reached)>>(all: I) -> Self {
        Self(Arc::new(all.into_iter().collect()))
    }
}
