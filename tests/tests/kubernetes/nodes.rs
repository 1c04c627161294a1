//! The testbed's whole clusters: real nodes that run containers. Level kubernetes.

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::http,
    testbed::{Kubernetes, Lab, wait::wait_for},
};

underpass_tests::scenarios! {
    pods_run_on_two_nodes,
}

/// A server on each node behind a Service, and a client.
const APPLICATION: &str = include_str!("nodes.yaml");

fn pods_run_on_two_nodes(lab: &Lab) -> Result<()> {
    let cluster = Kubernetes::start(lab, 2)?;
    cluster.load_image("underpass-testapp")?;
    cluster.kubectl().apply(APPLICATION)?;
    cluster.wait_for_rollout("default", "daemonset/server")?;
    cluster.wait_for_rollout("default", "deployment/client")?;
    let clients = cluster.pods("default", "app=client")?;
    let client = cluster.container(clients.first().context("a client")?, "main")?;
    // By name and by the Service's address, until a pod of each node has answered.
    let mut nodes = std::collections::BTreeSet::new();
    wait_for("answers from both nodes", || {
        let answer = client.act(http::fetch, "http://server.default:8080/".to_owned())?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        nodes.insert(answer["version"].as_str().context("a version")?.to_owned());
        Ok((nodes.len() == 2).then_some(()))
    })?;
    ensure!(nodes.iter().eq(["node-1", "node-2"]), "{nodes:?}");
    Ok(())
}
