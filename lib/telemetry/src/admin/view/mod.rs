//! Views of a running mesh, as values: made by the agent from its state, or by the command from a directory of manifests,
//! sent as JSON, read by the command. One shape for both, so that `-f DIR` and a running agent can be compared.
//!
//! Facts of the World are always there; the state of an agent (its own pods, certificates, open connections) is absent from
//! a view that is made of manifests.

mod agent;
mod check;
mod describe;
mod policy;
mod service;
mod settings;
mod workload;

use underpass_core::{ObjectName, World, resolve::Sources};

pub use agent::{
    Behind, Certificate, Connection, ControlPlane, Gate, Party, PodCount, ProblemCount, RefusedHandshake, Roots,
    RunningWaypoint, Status,
};
pub use check::{Level, NodeCheck, NodeFinding};
pub use describe::{Backend, PodDescription, PortMtls, ServiceDescription};
pub use policy::Policy;
pub use service::{Endpoint, Port, Service};
pub use settings::{PendingSetting, Setting, Settings};
pub use workload::{PodState, Workload};

/// Every pod, by name.
#[must_use]
pub fn workloads(world: &World) -> Vec<Workload> {
    world.workloads().filter(|w| w.is_pod()).map(|w| Workload::of(world, w)).collect()
}

/// Every service, by name.
#[must_use]
pub fn services(world: &World) -> Vec<Service> {
    world.services().map(|s| Service::of(world, s)).collect()
}

/// Every policy: AuthorizationPolicies by name, then PeerAuthentications, which are objects and no facts.
#[must_use]
pub fn policies(world: &World, sources: &Sources) -> Vec<Policy> {
    Policy::all(world, sources)
}

/// One pod and all that concerns it; none: the World has no such pod.
#[must_use]
pub fn describe_pod(world: &World, sources: &Sources, name: &ObjectName) -> Option<PodDescription> {
    PodDescription::of(world, sources, name)
}

/// One service with its pods and all that concerns them; none: the World has no such service.
#[must_use]
pub fn describe_service(world: &World, sources: &Sources, name: &ObjectName) -> Option<ServiceDescription> {
    ServiceDescription::of(world, sources, name)
}

/// `app=a,version=v1`; `-` for none.
fn labels(labels: &underpass_core::labels::Labels) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
