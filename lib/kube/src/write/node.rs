//! One taint of one node, taken away: the startup taint, once the agent of the node is ready.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use underpass_core::objects::AGENT_NOT_READY;

use super::{ATTEMPTS, FIELD_MANAGER, MERGE};
use crate::client::{Call, Client, Collection, Error, MAX_BYTES, is_name};

/// What became of the wish to take the startup taint away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untainted {
    /// It is taken away.
    Done,
    /// It was not there.
    Unchanged,
    /// There is no such node.
    Gone,
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    taints: Vec<Value>,
}

impl Client {
    /// Takes the taint [`AGENT_NOT_READY`] away from a node, with any value and effect. Its other taints stay, those that
    /// another writer adds meanwhile included.
    ///
    /// # Errors
    /// Where the API server gives no good answer, or other writers are always first.
    pub async fn remove_startup_taint(&self, node: &str) -> Result<Untainted, Error> {
        if !is_name(node) {
            return Err(Error::Name { name: node.into() });
        }
        let mut attempt = 1;
        loop {
            match self.try_remove_startup_taint(node).await {
                Err(e) if e.status() == Some(409) && attempt < ATTEMPTS => attempt = attempt.saturating_add(1),
                Err(e) if e.status() == Some(404) => return Ok(Untainted::Gone),
                done => return done,
            }
        }
    }

    async fn try_remove_startup_taint(&self, node: &str) -> Result<Untainted, Error> {
        let path = Collection::NODES.named(node);
        let found: Node = self.json(&Call::get(path.clone())).await?;
        let rest: Vec<_> = found.spec.taints.iter().filter(|taint| taint["key"] != AGENT_NOT_READY).collect();
        if rest.len() == found.spec.taints.len() {
            return Ok(Untainted::Unchanged);
        }
        // The version that was read: a taint that came in between is not lost.
        let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": {"taints": rest}});
        let call = Call::new(Method::PATCH, path).with("fieldManager", FIELD_MANAGER).body(MERGE, &patch)?;
        self.text(&call, MAX_BYTES).await.map(|_| Untainted::Done)
    }
}
