//! `underpass-agent check`: what it says of a node before an agent starts there, and beside one.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_tests::{
    apps::foreign::{NAME, Rewriter, attach_alone},
    mesh::{AgentVersion, Mesh},
    testbed::{Exit, Lab, wait::wait_until},
};

use super::support::WORLD;

/// Level and text of each finding about the node.
fn findings(mesh: &Mesh, name: &str) -> Result<Vec<(String, String)>> {
    let (node, agent) = (mesh.bed.node(name)?, AgentVersion::This.program()?);
    let (cgroup, bpffs) = (node.cgroup().to_string_lossy(), mesh.bed.lab().bpffs().to_string_lossy());
    let arguments = ["check", "--json", "--node", name, "--bpffs", &bpffs, "--cgroup-root", &cgroup];
    let text = node.service("check")?.run(&agent.to_string_lossy(), &arguments)?;
    let check: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(check["node"] == name && check["kernel"] != json!(""), "{check}");
    let all = check["findings"].as_array().context("findings")?;
    let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|f| (of(&f["level"]), of(&f["found"]))).collect())
}

/// A sound node has no findings, with an agent or without: its programs and ports are no others'. A program that lets none be attached
/// beside it is an error, and an agent does not start there; one that runs after ours is a warning. A port of the agent's that another
/// process has is named with it.
pub(crate) fn a_node_is_checked_before_its_agent_and_beside_it(lab: &Lab) -> Result<()> {
    let mut mesh = Mesh::up(lab, &[("world.yaml", WORLD)])?;
    let [one, other] = ["node-1", "node-2"];
    ensure!(findings(&mesh, one)?.is_empty(), "{:?}", findings(&mesh, one)?);
    let holder = mesh.bed.node(one)?.shell()?;
    let holder = underpass_tests::apps::servers::echo(&holder, "127.0.0.1:15020".parse()?)?;
    let found = findings(&mesh, one)?;
    ensure!(found.len() == 1 && found[0].0 == "error", "{found:?}");
    ensure!(found[0].1.contains("listens on 127.0.0.1:15020: an agent's metrics-address is [::]:15020"), "{found:?}");
    drop(holder);
    wait_until("the port to be free", || Ok(findings(&mesh, one)?.is_empty()))?;

    mesh.start_on(one)?;
    ensure!(findings(&mesh, one)?.is_empty(), "{:?}", findings(&mesh, one)?);
    let cgroup = mesh.bed.node(one)?.cgroup().to_owned();
    let rewriter = Rewriter::attach(&cgroup, [10, 99, 9, 9].into(), "10.99.9.8:1".parse()?)?;
    let found = findings(&mesh, one)?;
    ensure!(found.len() == 1 && found[0].0 == "warning", "{found:?}");
    ensure!(found[0].1.contains(NAME) && found[0].1.contains("at connect4 after Underpass"), "{found:?}");
    drop(rewriter);
    wait_until("the program to go", || Ok(findings(&mesh, one)?.is_empty()))?;

    let cgroup = mesh.bed.node(other)?.cgroup().to_owned();
    attach_alone(&cgroup)?;
    let found = findings(&mesh, other)?;
    let error = found.iter().find(|(level, _)| level == "error").with_context(|| format!("{found:?}"))?;
    ensure!(error.1.contains(NAME) && error.1.contains("at connect4 and allows no other"), "{found:?}");
    mesh.launch(other)?;
    let agent = mesh.agent(other)?;
    ensure!(agent.wait()? == Exit::Code(1), "{}", agent.log()?);
    ensure!(agent.log()?.contains("attach"), "{}", agent.log()?);
    Ok(())
}
