//! The control plane: reads the API server, and gives every node the facts of the mesh by Istio's workload xDS, and
//! certificates by Istio's certificate API.
//!
//! * [`run`]: the process, its parts wired together. [`config`]: its settings.
//! * [`facts`]: the World's resources on the wire. [`placed`]: which accounts run on which node. [`replicas`]: what
//!   others have read and this one has not.
//! * [`ca`]: the certificate authority, and who may have which certificate.
//! * [`admission`]: policies, before an API server takes them.
//! * [`leader`]: the one replica that leads. [`status`]: what it writes into the status of policies.
//! * [`cleanup`]: at the end of the mesh, the wait for nodes to be clean; a command of its own.
//! * [`self_test`]: the server and the callers of `helm test`; a command of its own.
//! * [`taint`]: the startup taint of nodes.
//! * [`incoming`]: connections. [`metrics`]: numbers.

pub mod admission;
pub mod ca;
pub mod cleanup;
pub mod config;
pub mod facts;
pub mod incoming;
pub mod leader;
pub mod metrics;
pub mod placed;
pub mod replicas;
pub mod run;
pub mod self_test;
pub mod status;
pub mod taint;

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
