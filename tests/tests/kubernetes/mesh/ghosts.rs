//! A node that is gone: its objects stay for a while, and name addresses that the network gives to others.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::socket::Dial,
    cluster::Cluster,
    testbed::{Lab, wait::wait_until},
};

use super::{
    NODES, PODS,
    support::{BRIEFLY, PORT, WORLD},
};

/// A pod of the first node with the address of mesh/b.
const SUCCESSOR: &str = "
apiVersion: v1
kind: Pod
metadata: {name: next, namespace: mesh, labels: {app: next}}
spec: {nodeName: node-1, serviceAccountName: next, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: 10.244.2.10, podIPs: [{ip: 10.244.2.10}]}
";

/// The connections to its pods end for a reason (one whose power fails: `every_wait_has_an_end`); an address of theirs
/// belongs to the pod that has it by now as soon as the node is deleted; and when their objects are gone no agent knows
/// them.
pub(crate) fn of_a_deleted_node(lab: &Lab) -> Result<()> {
    let mut cluster = super::up(lab, &[WORLD])?;
    cluster.wait_for_annotated(&PODS)?;
    cluster.wait_for_enrolled(&PODS)?;
    let (address, [here, there]) = (cluster.mesh.bed.pod("mesh/b")?.v4()?, NODES);
    let mut to_b = cluster.mesh.pair("mesh/a", "mesh/b", true)?;
    let mut to_b2 = cluster.mesh.pair("mesh/a2", "mesh/b2", true)?;
    to_b.exchange()?;
    to_b2.exchange()?;

    println!("it ends");
    let before = cluster.mesh.log(here)?.len();
    cluster.mesh.kill(there)?;
    to_b.is_reset()?;
    to_b2.is_reset()?;
    for pod in ["a", "a2"] {
        cluster.mesh.logged_after(here, before, &[("source_workload", pod), ("reason", "tunnel_closed")])?;
    }
    cluster.kubectl().populate(SUCCESSOR)?;
    wait_until("an address of two pods to be barred", || is_barred(&cluster, address))?;

    println!("it is deleted");
    cluster.kubectl().run(&["delete", "node", there])?;
    wait_until("the address to be the other pod's", || {
        Ok(has(&cluster, "mesh/next", address)? && !has(&cluster, "mesh/b", address)?)
    })?;
    wait_until("the address to be called", || Ok(!is_barred(&cluster, address)?))?;
    ensure!(names(&cluster)?.contains(&"mesh/b2".to_owned()), "its pods have objects still");

    println!("its pods are");
    for pod in ["mesh/b", "mesh/b2", "out/o2"] {
        cluster.kubectl().delete_pod(pod)?;
    }
    wait_until("no pod of it to be known", || {
        let names = names(&cluster)?;
        Ok(["mesh/b", "mesh/b2", "out/o2"].iter().all(|pod| !names.contains(&(*pod).to_owned())))
    })?;
    ensure!(has(&cluster, "mesh/next", address)?, "it has lost {address}");
    let open = cluster.mesh.connections(here, &[])?;
    ensure!(open.is_empty(), "open still: {open:?}");
    Ok(())
}

/// The kernel lets mesh/a make no connection to an address: it belongs to no single pod.
fn is_barred(cluster: &Cluster, address: IpAddr) -> Result<bool> {
    let failure = cluster.mesh.call("mesh/a", Dial::to((address, PORT)).patience(BRIEFLY))?.failed()?;
    Ok(failure.step == "connect" && failure.errno == libc::EPERM)
}

/// What the agent that is left knows.
fn workloads(cluster: &Cluster) -> Result<Vec<Value>> {
    let workloads = cluster.mesh.admin(NODES[0], "/workloads")?;
    workloads.as_array().cloned().context("a list of workloads")
}

fn names(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(workloads(cluster)?.iter().map(name).collect())
}

fn name(workload: &Value) -> String {
    [&workload["namespace"], &workload["name"]].map(|part| part.as_str().unwrap_or_default()).join("/")
}

fn has(cluster: &Cluster, pod: &str, address: IpAddr) -> Result<bool> {
    let workloads = workloads(cluster)?;
    let workload = workloads.iter().find(|workload| name(workload) == pod);
    Ok(workload.is_some_and(|workload| workload["addresses"].to_string().contains(&format!("\"{address}\""))))
}
