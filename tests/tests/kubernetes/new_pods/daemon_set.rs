//! Agents and their DaemonSet: a node that is drained, and a DaemonSet that is deleted. What is captured stays
//! captured.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::socket::{self, Dial, Dialed},
    cluster::NAMESPACE,
    installed::Installed,
    testbed::wait::wait_until,
};

use super::{NODES, first::SECRET, is_ready, site};

/// The object.
const DAEMON_SET: &str = "daemonset/underpass-agent";

/// A node is drained as for its repair, and takes pods again. Its agent is the same all the time.
pub(crate) fn a_drained_node_keeps_its_agent(mesh: &Installed) -> Result<()> {
    let (kubectl, [node, _]) = (mesh.cluster.kubectl(), NODES);
    let agent = mesh.agent(node)?;
    kubectl.run(&["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout", "120s"])?;
    let name = agent.rsplit('/').next().unwrap_or_default();
    ensure!(is_ready(&kubectl.get(&["pod", name, "-n", NAMESPACE])?), "the agent of a drained node is not ready");
    kubectl.run(&["uncordon", node])?;
    mesh.cluster.wait_for_rollout("shop", "deployment/client")?;
    answered(mesh)?;
    ensure!(mesh.agent(node)? == agent, "{agent} was replaced");
    Ok(())
}

/// Deleted alone, it leaves its agents, which the next one takes up. Deleted with them, it leaves what they captured:
/// no call of a pod gets past the mesh, nor through it, until there are agents again.
pub(crate) fn its_end_releases_no_pod(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let agents = || NODES.iter().map(|node| mesh.agent(node)).collect::<Result<Vec<_>>>();
    let before = agents()?;
    kubectl.run(&["delete", "-n", NAMESPACE, DAEMON_SET, "--cascade=orphan"])?;
    answered(mesh)?;
    mesh.upgrade(&[])?;
    mesh.wait_until_ready()?;
    ensure!(agents()? == before, "{before:?} were not taken up: {:?}", agents()?);

    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    kubectl.run(&["delete", "-n", NAMESPACE, DAEMON_SET, "--cascade=foreground"])?;
    wait_until("the agents to be gone", || {
        Ok(mesh.cluster.pods(NAMESPACE, "app.kubernetes.io/name=underpass-agent")?.is_empty())
    })?;
    let dialed = call(mesh)?;
    ensure!(matches!(dialed, Dialed::Failed(_)), "a call without an agent was answered: {dialed:?}");
    mesh.upgrade(&[])?;
    mesh.wait_until_ready()?;
    answered(mesh)?;
    ensure!(!wire.contains(SECRET.as_bytes())?, "a call was in the clear");
    Ok(())
}

/// The client calls the server, until it is answered: after a start its node knows the server a moment later.
fn answered(mesh: &Installed) -> Result<()> {
    let mut last = None;
    let waited = wait_until("the server to answer", || {
        let dialed = call(mesh)?;
        let is_answered = matches!(dialed, Dialed::Answered(_));
        last = Some(dialed);
        Ok(is_answered)
    });
    waited.with_context(|| format!("{last:?}"))
}

fn call(mesh: &Installed) -> Result<Dialed> {
    let service = mesh.cluster.kubectl().get(&["service", "server", "-n", "shop"])?;
    let to: SocketAddr = format!("{}:80", service["spec"]["clusterIP"].as_str().context("an address")?).parse()?;
    site(mesh, "client")?.act(socket::dial, Dial::to(to).say(SECRET))
}
