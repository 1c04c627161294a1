//! Pods: in the mesh or not, the label that decides, and their state on the agent's node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use underpass_core::{World, world};

/// One pod, as the World has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// It is in the mesh.
    pub in_mesh: bool,
    /// The label or rule that decides that.
    pub because: String,
    /// Its identity, a SPIFFE URI. Only of a pod in the mesh.
    pub identity: Option<String>,
    /// The `Ready` condition.
    pub ready: bool,
    /// Its state on the node of the agent that was asked; none for a pod of another node, and without an agent.
    pub state: Option<PodState>,
}

/// The state of a pod of the agent's own node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// `waiting`, `enrolled` or `releasing`.
    pub state: String,
    /// The problem that keeps it from the next state.
    pub problem: Option<String>,
}

impl Workload {
    pub(super) fn of(world: &World, w: &world::Workload) -> Self {
        let in_mesh = w.is_enrolled();
        Self {
            namespace: w.name.namespace().to_owned(),
            name: w.name.name().to_owned(),
            node: w.node.as_deref().map(str::to_owned),
            addresses: w.addresses.to_vec(),
            in_mesh,
            because: w.enrolment.because().as_str().to_owned(),
            identity: world.identity(w).filter(|_| in_mesh).map(ToString::to_string),
            ready: w.ready,
            state: None,
        }
    }
}
