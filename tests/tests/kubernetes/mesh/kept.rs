//! An agent is killed while control and API server are away: the next one serves what was kept on the node.

use std::fs;

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::socket::Dial,
    cluster::Cluster,
    testbed::{Lab, wait::wait_until},
};

use super::{
    PODS,
    policy::{denied, passes, policy},
    support::{PORT, WORLD},
};

/// The node whose agent is killed.
const NODE: &str = "node-2";
/// What an agent says that serves what was kept.
const SERVED: &str = "that were kept on this node are served";
const OF_KEPT: [(&str, &str); 2] = [("reason", "denied"), ("policy", "mesh/kept")];

pub(crate) fn an_agent_serves_what_the_one_before_has_kept(lab: &Lab) -> Result<()> {
    let mut cluster = super::up(lab, &[WORLD])?;
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let servers = [&PODS[..], &["out/o1"]].concat();
    let _servers = cluster.mesh.echo(&servers, PORT)?;
    cluster.kubectl().apply(&policy("kept", "b2", "DENY", "[{}]"))?;
    cluster.wait_for_policy("mesh/kept", true)?;
    denied(&cluster.mesh, "out/o1", "mesh/b2", true, &OF_KEPT)?;
    for object in ["authorization mesh/kept", "pod mesh/b2", "namespace mesh"] {
        wait_until(&format!("{object} to be on the disk of {NODE}"), || has_kept(lab, NODE, object))?;
    }

    println!("control and API server are away, and an agent dies");
    cluster.control.kill()?;
    cluster.server.kill()?;
    cluster.mesh.kill(NODE)?;
    cluster.mesh.launch(NODE)?;
    let agent = cluster.mesh.agent(NODE)?;
    for text in ["the facts that were kept", "the pods and namespaces that were kept", "World applied"] {
        agent.wait_for_log(text)?;
    }
    serves_what_was_kept(&cluster)?;
    no_call_has_a_certificate(&cluster)?;

    println!("the API server is back, and the policy gone; control is not back");
    cluster.server.start_again()?;
    wait_until("the pods to be the API server's again", || is_from_cache(&cluster, "API server", false))?;
    cluster.kubectl().run(&["delete", "authorizationpolicy", "kept", "-n", "mesh"])?;
    serves_what_was_kept(&cluster)?;

    println!("control is back");
    cluster.control.start()?;
    cluster.wait_for_policy("mesh/kept", false)?;
    wait_until("the facts to be control's again", || is_from_cache(&cluster, "control plane", false))?;
    wait_until(&format!("{NODE} to be ready"), || cluster.mesh.is_ready(NODE))?;
    let link = cluster.link(NODE)?;
    ensure!(link["cached_unix_s"].is_null() && link["complete"] == true, "{link}");
    passes(&cluster.mesh, "out/o1", "mesh/b2", true)?;
    passes(&cluster.mesh, "mesh/a", "mesh/b", true)?;
    passes(&cluster.mesh, "mesh/b", "mesh/a", true)?;
    ensure!(cluster.annotated()? == PODS, "annotations are lost");

    println!("an agent that can ask serves nothing older");
    cluster.mesh.kill(NODE)?;
    cluster.kubectl().apply(&policy("late", "b2", "DENY", "[{}]"))?;
    cluster.wait_for_policy("mesh/late", true)?; // by the other node's agent
    cluster.mesh.launch(NODE)?;
    cluster.mesh.agent(NODE)?.wait_for_log("World applied")?;
    denied(&cluster.mesh, "out/o1", "mesh/b2", true, &[("reason", "denied"), ("policy", "mesh/late")])?;
    let log = cluster.mesh.agent(NODE)?.log()?;
    ensure!(!log.contains(SERVED), "{log}");
    Ok(())
}

/// The journal on a node has this key.
pub(crate) fn has_kept(lab: &Lab, node: &str, key: &str) -> Result<bool> {
    let path = lab.directory().join(format!("state-{node}/facts/journal"));
    // It is there a second after the agent has something to keep.
    let journal = fs::read(&path).unwrap_or_default();
    Ok(journal.windows(key.len()).any(|part| part == key.as_bytes()))
}

/// Plaintext calls are judged by the facts that were kept, and the agent says so.
fn serves_what_was_kept(cluster: &Cluster) -> Result<()> {
    ensure!(is_from_cache(cluster, "control plane", true)?, "the facts are not what was kept");
    let link = cluster.link(NODE)?;
    ensure!(link["cached_unix_s"].is_u64() && link["complete"] == false, "{link}");
    denied(&cluster.mesh, "out/o1", "mesh/b2", true, &OF_KEPT)?;
    passes(&cluster.mesh, "out/o1", "mesh/b", true)?;
    passes(&cluster.mesh, "mesh/b", "out/o1", true)?;
    // The agent that was not killed has certificates.
    passes(&cluster.mesh, "mesh/a", "mesh/a2", true)
}

/// There is no certificate for the pods of the node, and nothing is sent without one.
fn no_call_has_a_certificate(cluster: &Cluster) -> Result<()> {
    let mesh = &cluster.mesh;
    let status = mesh.admin(NODE, "/status")?;
    let waiting: Vec<_> = status["waiting"].as_array().context("gates")?.iter().map(|gate| &gate["part"]).collect();
    ensure!(waiting == ["certificates"], "{waiting:?}");
    let lines = mesh.log(NODE)?.len();
    mesh.is_reset("mesh/b", Dial::to(mesh.at("mesh/a", true, PORT)?))?;
    mesh.logged_after(NODE, lines, &[("direction", "outbound"), ("reason", "no_certificate")])?;
    mesh.is_reset("mesh/a", Dial::to(mesh.at("mesh/b", true, PORT)?))
}

/// What the agent's metrics say of a door.
fn is_from_cache(cluster: &Cluster, door: &str, expected: bool) -> Result<bool> {
    let page = cluster.mesh.metrics(NODE)?;
    let series = format!("underpass_facts_cached{{door=\"{door}\"}} {}", u8::from(expected));
    Ok(page.lines().any(|line| line == series))
}
