//! The reports of doors beside their changes: newest state, not history.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use underpass_door::{Problem, Versions};

/// The reports by door.
pub type Reports = BTreeMap<&'static str, Report>;

/// The report of one door.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The number of updates that the keeper has taken from the door: the World is as new.
    pub taken: u64,
    /// How far its source had been read with the last update.
    #[serde(skip_serializing_if = "Versions::is_empty")]
    pub versions: Versions,
    /// Errors and warnings, on file, object and field.
    pub problems: Vec<Problem>,
    /// Objects that are known and not served yet.
    pub notices: Vec<Problem>,
    /// Kinds that the mesh ignores, with the number of their objects.
    pub ignored: BTreeMap<String, usize>,
}

impl Report {
    /// Logs what was not in `before`.
    pub(super) fn log(&self, door: &str, before: &Self) {
        for problem in self.problems.iter().filter(|problem| !before.problems.contains(problem)) {
            tracing::warn!(door, %problem, "configuration problem");
        }
        // One line per object that is new: its fields are in the reports, and in the output of `underpass analyze`.
        if self.notices != before.notices {
            let known: BTreeSet<String> = before.notices.iter().map(ToString::to_string).collect();
            let objects = self.notices.iter().filter(|n| n.field.is_empty() && n.object.is_some());
            for notice in objects.map(ToString::to_string).filter(|n| !known.contains(n)) {
                tracing::info!(door, %notice, "object not served yet");
            }
        }
    }
}
