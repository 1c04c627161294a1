//! An agent that was away for longer than its tokens live: a machine that was suspended, whose kubelet renews them a
//! while later.

use anyhow::{Result, ensure};
use underpass_tests::testbed::{Lab, wait::wait_until};

use super::{
    PODS,
    kept::has_kept,
    policy::{denied, passes, policy},
    support::{PORT, WORLD},
};

/// The node whose agent is away.
const NODE: &str = "node-2";
/// What an agent says of the API server, and of the control plane: that they take no token of its own, and that they
/// answer.
const REFUSED: [&str; 2] = ["kind cannot be read", "token has expired"];
const ANSWERED: [&str; 2] = ["kind is read", "control plane answers"];

/// It serves what was kept, and takes up a policy of meanwhile once it has other tokens, without another start.
pub(crate) fn an_agent_goes_on_where_its_tokens_had_expired(lab: &Lab) -> Result<()> {
    let mut cluster = super::up(lab, &[WORLD])?;
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let _servers = cluster.mesh.echo(&[&PODS[..], &["out/o1"]].concat(), PORT)?;
    cluster.kubectl().apply(&policy("before", "b2", "DENY", "[{}]"))?;
    cluster.wait_for_policy("mesh/before", true)?;
    passes(&cluster.mesh, "mesh/a", "mesh/b", true)?;
    wait_until("the policy to be on the disk", || has_kept(lab, NODE, "authorization mesh/before"))?;

    cluster.mesh.kill(NODE)?;
    cluster.exchange_tokens(NODE, -60)?;
    cluster.kubectl().apply(&policy("meanwhile", "b", "DENY", "[{}]"))?;
    cluster.wait_for_policy("mesh/meanwhile", true)?; // by the other node's agent
    cluster.mesh.launch(NODE)?;
    let agent = cluster.mesh.agent(NODE)?;
    for text in REFUSED.into_iter().chain(["that were kept on this node are served", "World applied"]) {
        agent.wait_for_log(text)?;
    }
    let to_before = [("reason", "denied"), ("policy", "mesh/before")];
    denied(&cluster.mesh, "out/o1", "mesh/b2", true, &to_before)?;
    passes(&cluster.mesh, "out/o1", "mesh/b", true)?;
    let log = cluster.mesh.agent(NODE)?.log()?;
    ensure!(ANSWERED.iter().all(|text| !log.contains(text)), "{log}");

    cluster.exchange_tokens(NODE, 3600)?;
    cluster.wait_for_policy("mesh/meanwhile", true)?;
    denied(&cluster.mesh, "out/o1", "mesh/b", true, &[("reason", "denied"), ("policy", "mesh/meanwhile")])?;
    // Its pods are those of the API server, which takes its word about them.
    cluster.kubectl().run(&["label", "pod", "b2", "-n", "mesh", "istio.io/dataplane-mode=none"])?;
    cluster.wait_for_annotated(&["mesh/a", "mesh/a2", "mesh/b"])?;
    wait_until(&format!("{NODE} to be ready"), || cluster.mesh.is_ready(NODE))?;
    passes(&cluster.mesh, "mesh/a", "mesh/a2", true)?;
    let agent = cluster.mesh.agent(NODE)?;
    for text in ANSWERED {
        agent.wait_for_log(text)?;
    }
    Ok(())
}
