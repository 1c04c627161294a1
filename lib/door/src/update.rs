//! The updates that a door hands on: changes, and all current problems.

use std::collections::BTreeMap;

use underpass_core::{objects::Batch, world::Facts};

use crate::{Problem, Severity, Versions};

/// The result of one reading of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The changes of objects since the reading before; empty where there are none.
    pub batch: Batch,
    /// The changes of facts, of a door that hands on facts.
    pub facts: Facts,
    /// How far the source has been read with these changes.
    pub versions: Versions,
    /// All current errors and warnings, by source, whether new or not.
    pub problems: Vec<Problem>,
    /// Every object that is known and not yet served.
    pub notices: Vec<Problem>,
    /// The counts of objects of other kinds, by `apiVersion kind`.
    pub ignored: BTreeMap<String, usize>,
}

impl Update {
    /// `told` has all current problems and notices, in any order.
    #[must_use]
    pub fn new(batch: Batch, mut told: Vec<Problem>, ignored: BTreeMap<String, usize>) -> Self {
        told.sort_by(Problem::order);
        let (notices, problems) = told.into_iter().partition(|p| p.severity() == Severity::Notice);
        Self { batch, problems, notices, ignored, ..Self::default() }
    }

    /// Errors only.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity() == Severity::Error)
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::testing::pod;

    use super::*;
    use crate::{Fault, Source};

    #[test]
    fn problems_are_sorted() {
        let told = |file: &str, reason| Problem::new(Source::file(&file.into()), reason);
        let (error, warning, notice) =
            (Fault::Missing, Fault::PassedOver { meant: "spec" }, Fault::NoObject { looks: None });
        let batch: Batch = [pod("a/x", "10.0.0.1").into()].into_iter().collect();
        let all = vec![told("c", error.clone()), told("b", notice.clone()), told("a", warning.clone())];
        let update = Update::new(batch.clone(), all, BTreeMap::new());
        assert_eq!(update.batch, batch);
        assert_eq!(update.problems, [told("a", warning), told("c", error.clone())]);
        assert_eq!(update.notices, [told("b", notice)]);
        assert_eq!(update.errors().collect::<Vec<_>>(), [&told("c", error)]);
    }
}
