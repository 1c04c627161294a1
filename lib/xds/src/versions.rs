//! What a client has applied, by kind of the objects behind it, so that another control plane can tell whether it knows
//! as much.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

/// The version of the last change that was applied, by the name of its kind. The numbers are those of the control plane's
/// source: an API server's `resourceVersion`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied(BTreeMap<Arc<str>, u64>);

/// The text says nothing about what was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of a kind: write Kind=number")]
pub struct NotApplied(String);

impl Applied {
    /// Of a kind.
    #[must_use]
    pub fn of(&self, kind: &str) -> Option<u64> {
        self.0.get(kind).copied()
    }

    /// Each kind and version.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.0.iter().map(|(kind, version)| (kind, *version))
    }

    /// The newest of all kinds.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.0.values().copied().max()
    }

    /// Nothing was, as far as is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A change of a kind was applied. An earlier one is no news.
    pub fn add(&mut self, kind: &Arc<str>, version: u64) {
        match self.0.get_mut(kind) {
            Some(known) => *known = version.max(*known),
            None => drop(self.0.insert(Arc::clone(kind), version)),
        }
    }

    /// All of these were applied.
    pub fn join(&mut self, others: &Self) {
        others.iter().for_each(|(kind, version)| self.add(kind, version));
    }
}

impl<K: Into<Arc<str>>> FromIterator<(K, u64)> for Applied {
    fn from_iter<I: IntoIterator<Item = (K, u64)>>(all: I) -> Self {
        Self(all.into_iter().map(|(kind, version)| (kind.into(), version)).collect())
    }
}

/// `Pod=4711 Service=60`.
impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (kind, version)) in self.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{kind}={version}")?;
        }
        Ok(())
    }
}

impl FromStr for Applied {
    type Err = NotApplied;

    fn from_str(text: &str) -> Result<Self, NotApplied> {
        let one = |word: &str| {
            let (kind, version) = word.split_once('=')?;
            Some((Arc::from(kind), version.parse().ok()?))
        };
        text.split_whitespace().map(|word| one(word).ok_or_else(|| NotApplied(word.to_owned()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_kind_counts() {
        let mut applied: Applied = [("Pod", 7), ("Service", 3)].into_iter().collect();
        applied.join(&[("Pod", 5), ("Node", 9), ("Service", 4)].into_iter().collect());
        assert_eq!(applied.to_string(), "Node=9 Pod=7 Service=4");
        assert_eq!((applied.newest(), applied.of("Pod"), applied.of("Namespace")), (Some(9), Some(7), None));
    }

    #[test]
    fn its_text_is_read_again() {
        for text in ["", "Pod=4711", "Node=0 Pod=18446744073709551615"] {
            assert_eq!(text.parse::<Applied>().map(|applied| applied.to_string()).as_deref(), Ok(text));
        }
        for bad in ["7", "Pod", "Pod=", "Pod=-1", "Pod=1,Node=2"] {
            assert!(bad.parse::<Applied>().is_err(), "{bad}");
        }
    }
}
