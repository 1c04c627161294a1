//! The agent's side of the CNI plugin: a pod of the mesh is captured before its first process starts.
//!
//! * [`install`]: the plugin's program and its configuration on the node.
//! * `server`: its requests. `sandboxes`: the sandboxes that it names. `list`: the namespaces whose pods wait for an agent.
//!
//! ```text
//! runtime -> underpass-cni --ADD, namespace--> server -> node: sandboxes --> pods: enrolled -> Done
//!                 |                                         |
//!                 '-- no agent: list of namespaces <-- list '--> a record of each on the node
//! ```
//! What must hold: a sandbox is answered with Done only once its pod is captured.

use std::path::{Path, PathBuf};

pub mod install;
pub(crate) mod list;
pub(crate) mod sandboxes;
pub(crate) mod server;

/// The file in the state directory with the list of namespaces whose pods wait where no agent answers.
#[must_use]
pub fn list_file(state: &Path) -> PathBuf {
    state.join("cni-namespaces.json")
}
