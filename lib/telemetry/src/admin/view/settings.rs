//! `GET /config`: the settings in force.

use serde::{Deserialize, Serialize};

/// The settings of a running agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The file they are read from, where there is one.
    pub file: Option<String>,
    /// All of them, in the order of docs/settings.md.
    pub settings: Vec<Setting>,
    /// Changes of the file that need a restart.
    pub needs_restart: Vec<PendingSetting>,
    /// The problem of the file as it is now; the settings before it stay in force.
    pub problem: Option<String>,
}

/// One setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The name: that of the flag, without its dashes.
    pub name: String,
    /// Empty: not set; more than one: a list.
    pub values: Vec<String>,
    /// `flag`, `environment NAME`, `FILE:LINE` or `default`.
    pub source: String,
    /// It can change while the agent runs.
    pub live: bool,
}

/// A change that waits for a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSetting {
    /// The setting.
    pub name: String,
    /// Its values by the source now.
    pub values: Vec<String>,
    /// The source.
    pub source: String,
}
