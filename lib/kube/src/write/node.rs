//! One taint of one node, taken away: the startup taint, once the agent of the node is ready.
//!
//! What must hold: ready on this very node. One that is made anew under the name of an earlier node has that one's pods at first, with
//! what was true of them there.

use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::{Value, json};
use underpass_core::{ObjectName, objects::AGENT_NOT_READY};

use super::{ATTEMPTS, FIELD_MANAGER, MERGE};
use crate::client::{Call, Client, Collection, Error, MAX_BYTES, is_name};

/// What became of the wish to take the startup taint away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untainted {
    /// It is taken away.
    Done,
    /// It was not there.
    Unchanged,
    /// There is no such node, or no such pod.
    Gone,
    /// The pod has not become ready since the node was made.
    NotReady,
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
    creation_timestamp: Option<Time>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    taints: Vec<Value>,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    last_transition_time: Option<Time>,
}

impl Pod {
    /// When it became ready; none: it is not.
    fn ready_since(&self) -> Option<&Time> {
        let ready =
            self.status.conditions.iter().find(|condition| condition.r#type == "Ready" && condition.status == "True");
        ready?.last_transition_time.as_ref()
    }
}

impl Client {
    /// Takes the taint [`AGENT_NOT_READY`] away from a node, with any value and effect, if this pod has become ready there. Its
    /// other taints stay, those that another writer adds meanwhile included.
    ///
    /// # Errors
    /// Where the API server gives no good answer, or other writers are always first.
    pub async fn remove_startup_taint(&self, node: &str, agent: &ObjectName) -> Result<Untainted, Error> {
        for name in [node, agent.namespace(), agent.name()] {
            if !is_name(name) {
                return Err(Error::Name { name: name.into() });
            }
        }
        let mut attempt = 1;
        loop {
            match self.try_remove_startup_taint(node, agent).await {
                Err(e) if e.status() == Some(409) && attempt < ATTEMPTS => attempt = attempt.saturating_add(1),
                Err(e) if e.status() == Some(404) => return Ok(Untainted::Gone),
                done => return done,
            }
        }
    }

    async fn try_remove_startup_taint(&self, node: &str, agent: &ObjectName) -> Result<Untainted, Error> {
        let path = Collection::NODES.named(node);
        let found: Node = self.json(&Call::get(path.clone())).await?;
        let rest: Vec<_> = found.spec.taints.iter().filter(|taint| taint["key"] != AGENT_NOT_READY).collect();
        if rest.len() == found.spec.taints.len() {
            return Ok(Untainted::Unchanged);
        }
        let agent: Pod = self.json(&Call::get(Collection::PODS.one(agent.namespace(), agent.name()))).await?;
        let made = found.metadata.creation_timestamp.as_ref();
        let is_earlier = |since: &Time| made.is_some_and(|made| since.0 < made.0);
        if agent.ready_since().is_none_or(is_earlier) {
            return Ok(Untainted::NotReady);
        }
        // The version that was read: a taint that came in between is not lost.
        let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": {"taints": rest}});
        let call = Call::new(Method::PATCH, path).with("fieldManager", FIELD_MANAGER).body(MERGE, &patch)?;
        self.text(&call, MAX_BYTES).await.map(|_| Untainted::Done)
    }
}
