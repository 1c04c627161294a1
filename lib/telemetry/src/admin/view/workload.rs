//! Pods as people ask about them: in the mesh or not, and which label decides.

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
    /// What decides that.
    pub because: String,
    /// Who it proves to be: a SPIFFE URI. Only of a pod in the mesh.
    pub identity: Option<String>,
    /// The `Ready` condition.
    pub ready: bool,
    /// How it stands on the node of the agent that was asked; none: it is elsewhere, or nobody knows.
    pub state: Option<PodState>,
}

/// How a pod of the agent's own node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// `waiting`, `enrolled` or `releasing`.
    pub state: String,
    /// Why it does not get on.
    pub problem: Option<String>,
}

impl Workload {
    pub(super) fn of(world: &World, w: &world::Workload) -> Self {
        let in_mesh = w.is_enrolled();
        Self {
            namespace: w.name.namespace().to_owned(),
            name: w.name.name().to_owned(),
            node: w.node.as_deref().map(str::to_owned),
            addresses: w.addresses.clone(),
            in_mesh,
            because: w.enrolment.because().as_str().to_owned(),
            identity: world.identity(w).filter(|_| in_mesh).map(ToString::to_string),
            ready: w.ready,
            state: None,
        }
    }
}
