//! Shared parts: the mesh, policies as text, and calls that pass or are denied.

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::socket::Dial,
    mesh::Mesh,
    testbed::{Actor, Lab},
};

pub(crate) const WORLD: &str = include_str!("../manifests/two-nodes.yaml");

pub(crate) const FILE: &str = "policy.yaml";

pub(crate) const PORT: u16 = 8080;

/// The callers of mesh/b: from the other node, from its own node, and from outside of the mesh.
pub(crate) const CALLERS: [&str; 4] = ["mesh/a", "mesh/a2", "mesh/b2", "out/o1"];

/// The mesh with echo servers on all of its pods.
pub(crate) fn mesh(lab: &Lab) -> Result<(Mesh, Vec<Actor<()>>)> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    mesh.start()?;
    let servers = mesh.echo(&["mesh/a", "mesh/a2", "mesh/b", "mesh/b2"], PORT)?;
    Ok((mesh, servers))
}

/// An AuthorizationPolicy of namespace mesh for the pods labelled `app`.
pub(crate) fn policy(name: &str, app: &str, action: &str, rules: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: mesh}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  action: {action}
  rules: {rules}
---
"
    )
}

/// One that denies this principal's calls to mesh/b.
pub(crate) fn deny(name: &str, service_account: &str) -> String {
    policy(
        name,
        "b",
        "DENY",
        &format!("[{{from: [{{source: {{principals: [cluster.local/ns/mesh/sa/{service_account}]}}}}]}}]"),
    )
}

/// A PeerAuthentication of namespace mesh.
pub(crate) fn mutual_tls(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: mesh}}
spec: {spec}
---
"
    )
}

pub(crate) fn pod_name(pod: &str) -> &str {
    pod.rsplit_once('/').map_or(pod, |(_, name)| name)
}

/// A call that passes.
pub(crate) fn passes(mesh: &Mesh, from: &str, to: &str, ipv4: bool) -> Result<()> {
    let talk = mesh.call(from, Dial::to(mesh.at(to, ipv4, PORT)?))?.answered();
    let who = talk.and_then(|talk| talk.who()).with_context(|| format!("{from} to {to}"))?;
    ensure!(who.peer.ip() == mesh.bed.pod(from)?.address(ipv4)?, "{who:?}");
    Ok(())
}

/// A call that is denied: reset for the application, and named by both nodes.
pub(crate) fn denied(mesh: &Mesh, from: &str, to: &str, ipv4: bool, why: &[(&str, &str)]) -> Result<()> {
    let (here, there) = (mesh.node_of(from)?, mesh.node_of(to)?);
    let before = (mesh.log(here)?.len(), mesh.log(there)?.len());
    mesh.is_reset(from, Dial::to(mesh.at(to, ipv4, PORT)?))?;
    let at = mesh.at(to, ipv4, PORT)?.to_string();
    let of = [("source_workload", pod_name(from)), ("destination_address", at.as_str())];
    let inbound = [&of[..], &[("direction", "inbound")], why].concat();
    mesh.logged_after(there, before.1, &inbound).with_context(|| format!("{from} to {to}"))?;
    if from.starts_with("mesh/") {
        let detail = [("direction", "outbound"), ("reason", "refused"), ("reason_detail", "refused with status 401")];
        mesh.logged_after(here, before.0, &[&of[..], &detail].concat()).with_context(|| format!("{from} to {to}"))?;
    }
    Ok(())
}

/// Exactly these callers of mesh/b pass, in both families; the others are denied for `why`.
pub(crate) fn exactly(mesh: &Mesh, passing: &[&str], why: &[(&str, &str)]) -> Result<()> {
    for from in CALLERS {
        for ipv4 in [true, false] {
            match passing.contains(&from) {
                true => passes(mesh, from, "mesh/b", ipv4)?,
                false => denied(mesh, from, "mesh/b", ipv4, why)?,
            }
        }
    }
    Ok(())
}

/// A policy that selects no pod.
pub(crate) fn policy_of_no_pod(after: &str) -> String {
    policy(&format!("after-{}", pod_name(after)), "none", "DENY", "[{}]")
}
