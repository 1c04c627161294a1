//! The control plane dies, and the API server, while pods that are known call each other without a pause.

use anyhow::{Result, ensure};
use underpass_tests::{cluster::Cluster, testbed::Lab};

use super::{
    NODES, PODS,
    policy::{denied, passes, policy},
    support::{
        Family, PORT, WORLD,
        load::{Load, Open},
    },
};

/// A rule for what mesh/a does.
const OF_A: &str = "[{from: [{source: {principals: [cluster.local/ns/mesh/sa/a]}}]}]";

pub(crate) fn nothing_fails_without_control_and_api_server(lab: &Lab) -> Result<()> {
    let mut cluster = super::up(lab, &[WORLD])?;
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let _servers = cluster.mesh.echo(&["mesh/a2", "mesh/b2"], PORT)?;
    let mut open = Open::new(&cluster.mesh, "mesh/a", "mesh/b", Family::V4, 9000)?;
    let mut load = Load::begin(&cluster.mesh, lab)?;
    // Connections go on, and no agent has another World than before.
    let mut goes_on = |cluster: &Cluster, before: [u64; 2]| -> Result<()> {
        load.goes_on()?;
        open.goes_on()?;
        let now = versions(cluster)?;
        ensure!(now == before, "Worlds {now:?}, before {before:?}");
        Ok(())
    };
    let before = versions(&cluster)?;
    goes_on(&cluster, before)?;

    println!("the API server is gone, and comes back");
    cluster.server.kill()?;
    goes_on(&cluster, before)?;
    cluster.server.start_again()?;
    takes_effect(&cluster, "one", "a2")?;
    let before = versions(&cluster)?;
    goes_on(&cluster, before)?;

    println!("control is gone, then the API server");
    cluster.control.kill()?;
    cluster.kubectl().apply(&policy("two", "b2", "DENY", OF_A))?;
    goes_on(&cluster, before)?;
    cluster.server.kill()?;
    goes_on(&cluster, before)?;
    passes(&cluster.mesh, "mesh/a", "mesh/b2", true)?;

    println!("control starts without an API server");
    cluster.control.launch()?;
    cluster.control.running()?.wait_for_log("control plane started")?;
    goes_on(&cluster, before)?;
    ensure!(!cluster.control.is_ready(), "control is ready without an API server");

    println!("both are back");
    cluster.server.start_again()?;
    cluster.control.wait_until_ready()?;
    cluster.wait_for_policy("mesh/two", true)?;
    denied(&cluster.mesh, "mesh/a", "mesh/b2", true, &[("reason", "denied"), ("policy", "mesh/two")])?;
    // A certificate of the same CA as before.
    takes_effect(&cluster, "three", "a2")?;
    goes_on(&cluster, versions(&cluster)?)?;
    ensure!(cluster.annotated()? == PODS, "annotations are lost");

    open.ends_in_order()?;
    let (answered, failed) = load.end()?;
    ensure!(answered > 0 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(())
}

/// A policy that is applied now denies the calls of mesh/a to another pod, in which nothing else is denied.
fn takes_effect(cluster: &Cluster, name: &str, app: &str) -> Result<()> {
    let full_name = format!("mesh/{name}");
    let server = format!("mesh/{app}");
    passes(&cluster.mesh, "mesh/a", &server, true)?;
    cluster.kubectl().apply(&policy(name, app, "DENY", OF_A))?;
    cluster.wait_for_policy(&full_name, true)?;
    denied(&cluster.mesh, "mesh/a", &server, true, &[("reason", "denied"), ("policy", &full_name)])?;
    cluster.kubectl().run(&["delete", "authorizationpolicy", name, "-n", "mesh"])?;
    cluster.wait_for_policy(&full_name, false)?;
    passes(&cluster.mesh, "mesh/a", &server, true)
}

/// The version of the World of each agent.
fn versions(cluster: &Cluster) -> Result<[u64; 2]> {
    let [one, two] = NODES.map(|node| cluster.mesh.version(node));
    Ok([one?, two?])
}
