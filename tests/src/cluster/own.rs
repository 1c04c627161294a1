//! Underpass' own objects in a cluster: its place, its accounts and their rights, its pods, and what their kubelets would mount.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    mesh::Credentials,
    testbed::{ApiServer, describe::NodeSpec},
};

/// The node of the control plane, and namespaces.
pub(super) const PLACE: &str = include_str!("place.yaml");
/// Accounts and their rights.
pub const RIGHTS: &str = include_str!("rights.yaml");
/// The namespace of Underpass itself.
pub const NAMESPACE: &str = "underpass-system";
/// The node of API server and control plane.
pub const CONTROL_NODE: &str = "control-plane";
/// The audience of tokens for the control plane, as in Istio.
pub const AUDIENCE: &str = "istio-ca";

/// The pod of a node's agent, `namespace/name`.
#[must_use]
pub fn agent_pod(node: &str) -> String {
    format!("{NAMESPACE}/underpass-agent-{node}")
}

/// The pods of the control plane and of the agents of these nodes.
pub(super) fn pods(nodes: &[NodeSpec]) -> String {
    let mut text = pod("underpass-control", "underpass-control", CONTROL_NODE, "172.18.0.10");
    for node in nodes {
        let _ = write!(text, "---\n{}", agent(node));
    }
    text
}

/// The pod of the agent of this node.
pub(super) fn agent(node: &NodeSpec) -> String {
    let address = node.addresses.first().map(ToString::to_string).unwrap_or_default();
    pod(&format!("underpass-agent-{}", node.name), "underpass-agent", &node.name, &address)
}

/// Later than any node of a test is made.
const READY: &str = "2100-01-01T00:00:00Z";

fn pod(name: &str, account: &str, node: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app.kubernetes.io/name: {account}}}}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {account}, hostNetwork: true, containers: [{{name: main, image: main}}]}}\n\
         status:\n  phase: Running\n  conditions: [{{type: Ready, status: \"True\", lastTransitionTime: {READY}}}]\n  podIP: \"{address}\"\n  podIPs: [{{ip: \"{address}\"}}]\n"
    )
}

/// A kubeconfig with the token of a pod of [`NAMESPACE`].
pub(super) fn kubeconfig(server: &ApiServer, pod: &str) -> Result<std::path::PathBuf> {
    let token = server.kubectl().token_of_pod(&format!("{NAMESPACE}/{pod}"), ApiServer::AUDIENCE)?;
    Ok(server.kubectl_as(pod, &token)?.kubeconfig().to_owned())
}

/// What the agent of a node has. `files`: where its token is.
pub(super) fn credentials(server: &ApiServer, node: &str, files: &Path) -> Result<Credentials> {
    let pod = agent_pod(node);
    let token = files.join(format!("token-{node}"));
    let text = server.kubectl().token_of_pod(&pod, AUDIENCE)?;
    fs::write(&token, text).with_context(|| format!("write {}", token.display()))?;
    let name = pod.rsplit('/').next().unwrap_or_default();
    Ok(Credentials { kubeconfig: kubeconfig(server, name)?, pod, token })
}
