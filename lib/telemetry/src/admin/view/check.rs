//! What `underpass-agent check` finds on a node: printed by it, read by `underpass check` from the log of a pod.

use serde::{Deserialize, Serialize};

/// The state of a node before an agent starts, or beside one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCheck {
    /// The version of the program.
    pub version: String,
    /// The node.
    pub node: String,
    /// The release of its kernel.
    pub kernel: String,
    /// What was found; none: an agent can start here.
    pub findings: Vec<NodeFinding>,
}

/// Something about a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFinding {
    /// How bad it is.
    pub level: Level,
    /// What it is.
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The mesh does not work where it is found.
    Error,
    /// The mesh works, and not as its user may think.
    Warning,
    /// To know.
    Info,
}
