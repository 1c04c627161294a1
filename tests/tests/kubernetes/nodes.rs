//! The testbed's whole clusters: real nodes that run containers. Level kubernetes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::http,
    testbed::{Kubernetes, Lab, wait::wait_until},
};

underpass_tests::scenarios! {
    pods_run_on_two_nodes,
}

/// A server on each node behind a Service, and a client.
const APPLICATION: &str = include_str!("nodes.yaml");

fn pods_run_on_two_nodes(lab: &Lab) -> Result<()> {
    let before = settings()?;
    let cluster = Kubernetes::start(lab, 2)?;
    cluster.load_image("underpass-testapp")?;
    cluster.kubectl().apply(APPLICATION)?;
    cluster.wait_for_rollout("default", "daemonset/server")?;
    cluster.wait_for_rollout("default", "deployment/client")?;
    let clients = cluster.pods("default", "app=client")?;
    let client = cluster.container(clients.first().context("a client")?, "main")?;
    // By name and by the Service's address, which kube-proxy knows a moment later, until a pod of each node has answered.
    let (mut nodes, mut last) = (BTreeSet::new(), String::new());
    let waited = wait_until("answers from both nodes", || {
        match client.act(http::fetch, "http://server.default:8080/".to_owned()) {
            Ok(answer) => {
                let answer: serde_json::Value = serde_json::from_str(&answer)?;
                nodes.insert(answer["version"].as_str().context("a version")?.to_owned());
            }
            Err(error) => last = format!("{error:#}"),
        }
        Ok(nodes.len() == 2)
    });
    waited.with_context(|| format!("{nodes:?} answered; {last}"))?;
    ensure!(nodes.iter().eq(["node-1", "node-2"]), "{nodes:?}");
    // Nodes share the machine's kernel, and leave its settings as they were: what a kubelet writes is a file of its node.
    let of_node = ["-f", "-c", "%T", "/proc/sys/vm/overcommit_memory"];
    let kind = cluster.machine("node-1")?.service("shell")?.run("stat", &of_node)?;
    ensure!(kind.trim() != "proc", "the node has the machine's own settings: {kind}");
    ensure!(settings()? == before, "{before:?} and {:?}", settings()?);
    Ok(())
}

/// What a kubelet sets for its node, as the machine has it.
fn settings() -> Result<Vec<String>> {
    let read = |name: &str| Ok(std::fs::read_to_string(format!("/proc/sys/{name}"))?);
    ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys"]
        .map(read)
        .into_iter()
        .collect()
}
