//! What doors have to say beside their changes: newest state, not history.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use underpass_door::Problem;

/// By door.
pub type Reports = BTreeMap<&'static str, Report>;

/// Of one door.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// How often the keeper has taken what the door had to say: the World is as new.
    pub taken: u64,
    /// Errors and warnings, on file, object and field.
    pub problems: Vec<Problem>,
    /// Objects that are known and not served yet.
    pub notices: Vec<Problem>,
    /// Kinds that are none of the mesh's business, and how many objects of them there are.
    pub ignored: BTreeMap<String, usize>,
}

impl Report {
    /// Writes to the log what was not in `before`.
    pub(super) fn log(&self, door: &str, before: &Self) {
        for problem in self.problems.iter().filter(|problem| !before.problems.contains(problem)) {
            tracing::warn!(door, "{problem}");
        }
        // One line per object that is new: its fields are in the reports, and in what `underpass analyze` says.
        if self.notices != before.notices {
            let told: BTreeSet<String> = before.notices.iter().map(ToString::to_string).collect();
            let objects = self.notices.iter().filter(|n| n.field.is_empty() && n.object.is_some());
            for notice in objects.map(ToString::to_string).filter(|n| !told.contains(n)) {
                tracing::info!(door, "{notice}");
            }
        }
    }
}
