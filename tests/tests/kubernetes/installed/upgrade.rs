//! Another agent in the place of one, while pods talk.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use underpass_tests::{cluster::NAMESPACE, installed::Installed, mesh::AgentVersion, testbed::wait::wait_until};

use super::{NODES, labels::destinations, traffic::Traffic};

/// On every node another agent takes over from the one that runs, and no connection fails.
pub(crate) fn loses_no_connection(mesh: &Installed, to: Vec<SocketAddr>) -> Result<()> {
    let agents = || NODES.iter().map(|node| mesh.agent(node)).collect::<Result<Vec<_>>>();
    let before = agents()?;
    let traffic = Traffic::start(mesh, "upgrading", to)?;
    mesh.upgrade(&["--set", "agent.podAnnotations.upgraded=yes"])?;
    mesh.wait_until_ready()?;
    traffic.ends_without_a_failure()?;
    let after = agents()?;
    ensure!(before.iter().all(|agent| !after.contains(agent)), "{before:?} still runs");
    for node in NODES {
        mesh.wait_for_line(node, &["take-over complete"])?;
        let status = mesh.underpass(node, &["status", "-o", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        ensure!(status["waiting"].as_array().is_some_and(Vec::is_empty), "not ready: {status}");
    }
    Ok(())
}

/// While no control plane answers, agents follow each other by the facts that are kept on their node and by the
/// certificates that pass from one to the next.
pub(crate) fn needs_no_control_plane(mesh: &Installed, to: Vec<SocketAddr>) -> Result<()> {
    let (kubectl, control) = (mesh.cluster.kubectl(), "app.kubernetes.io/name=underpass-control");
    let agents = || NODES.iter().map(|node| mesh.agent(node)).collect::<Result<Vec<_>>>();
    let scale = |replicas| {
        kubectl.run(&["scale", "-n", NAMESPACE, "deployment/underpass-control", &format!("--replicas={replicas}")])
    };
    let before = agents()?;
    scale(0)?;
    wait_until("the control plane to be gone", || Ok(mesh.cluster.pods(NAMESPACE, control)?.is_empty()))?;
    let traffic = Traffic::start(mesh, "alone", to)?;
    kubectl.run(&["rollout", "restart", "-n", NAMESPACE, "daemonset/underpass-agent"])?;
    mesh.cluster.wait_for_rollout(NAMESPACE, "daemonset/underpass-agent")?;
    let after = agents()?;
    ensure!(before.iter().all(|agent| !after.contains(agent)), "{before:?} still runs");
    traffic.ends_without_a_failure()?;
    scale(1)?;
    mesh.wait_until_ready()
}

/// An upgrade to an image that does not exist: the agents and the control plane that run go on, and a roll-back ends it.
pub(crate) fn an_image_that_cannot_start_changes_nothing(mesh: &Installed, to: Vec<SocketAddr>) -> Result<()> {
    let before = mesh.agent(NODES[0])?;
    let traffic = Traffic::start(mesh, "broken", to)?;
    // Its first user would be the Job that applies the definitions, and the upgrade would end there.
    mesh.upgrade(&["--set", "global.tag=none-of-this-tag", "--set", "crds.enabled=false"])?;
    wait_until("an agent that cannot start beside the one that runs", || {
        let pods = mesh.cluster.kubectl().get(&["pods", "-n", NAMESPACE])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.iter().any(|pod| {
            let is_agent = pod["metadata"]["labels"]["app.kubernetes.io/name"] == "underpass-agent";
            let init = pod["status"]["initContainerStatuses"][0]["state"]["waiting"]["reason"].as_str();
            is_agent && init.is_some_and(|reason| reason.contains("ImagePull"))
        }))
    })?;
    traffic.ends_without_a_failure()?;
    let traffic = Traffic::start(mesh, "rolled-back", destinations(mesh)?)?;
    mesh.cluster.helm(&["rollback", "underpass", "-n", NAMESPACE])?;
    mesh.wait_until_ready()?;
    traffic.ends_without_a_failure()?;
    ensure!(mesh.agent(NODES[0])? == before, "the agent was replaced");
    Ok(())
}

/// The agent of the client's node is deleted. Nothing gets past the mesh meanwhile, and connections wait for the next agent.
pub(crate) fn a_deleted_agent_is_waited_for(mesh: &Installed, to: Vec<SocketAddr>) -> Result<()> {
    let [node, _] = NODES;
    let agent = mesh.agent(node)?;
    let traffic = Traffic::start(mesh, "deleting", to)?;
    mesh.cluster.kubectl().delete_pod(&agent)?;
    mesh.wait_until_ready()?;
    traffic.ends_without_a_failure()?;
    ensure!(mesh.agent(node)? != agent, "{agent} still runs");
    Ok(())
}

/// An upgrade to agents whose kernel tables have another layout: no connection fails, and the tables of the version
/// before are gone from every node. Then the way back, with as little loss.
pub(crate) fn to_another_version_and_back(mesh: &Installed, to: Vec<SocketAddr>) -> Result<()> {
    tables_are_of(mesh, AgentVersion::This)?;
    mesh.cluster.load_image("underpass-next")?;
    let traffic = Traffic::start(mesh, "next", to)?;
    mesh.upgrade(&["--set", "global.tag=next"])?;
    mesh.wait_until_ready()?;
    tables_are_of(mesh, AgentVersion::Next)?;
    traffic.ends_without_a_failure()?;
    let traffic = Traffic::start(mesh, "back", destinations(mesh)?)?;
    mesh.cluster.helm(&["rollback", "underpass", "-n", NAMESPACE])?;
    mesh.wait_until_ready()?;
    tables_are_of(mesh, AgentVersion::This)?;
    traffic.ends_without_a_failure()
}

/// Waits until on every node the tables of this version count, and there are no others.
fn tables_are_of(mesh: &Installed, version: AgentVersion) -> Result<()> {
    let own = format!("v{}", version.tables());
    for node in NODES {
        let site = mesh.cluster.machine(node)?.service("looking")?;
        let mut last = Vec::new();
        let waited = wait_until(&format!("{node} to have the tables of {own} alone"), || {
            last = site.act(versions, node.to_owned())?;
            Ok(last == [&*format!("current -> {own}"), &*own])
        });
        waited.with_context(|| format!("{last:?}"))?;
    }
    Ok(())
}

/// The marker and the versions that have tables on a node, sorted.
fn versions(node: String) -> Result<Vec<String>> {
    let pins = Path::new("/sys/fs/bpf/underpass/nodes").join(node);
    let mut found = vec![format!("current -> {}", fs::read_link(pins.join("current"))?.display())];
    for entry in fs::read_dir(&pins)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_version = name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
        found.extend(is_version.then_some(name));
    }
    found.sort();
    Ok(found)
}
