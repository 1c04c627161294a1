//! The agent's side of the CNI plugin: a pod of the mesh is captured before its first process starts.
//!
//! * [`install`]: the plugin's program and its configuration on the node.

use std::path::{Path, PathBuf};

pub mod install;

/// The file in the state directory with the list of namespaces whose pods wait where no agent answers.
#[must_use]
pub fn list_file(state: &Path) -> PathBuf {
    state.join("cni-namespaces.json")
}
