//! What the mesh says in a cluster about pods that it cannot capture, and what it does about nodes that wait for it.

use anyhow::{Result, ensure};
use serde_json::Value;
use underpass_tests::{
    cluster::{CONTROL_NODE, Cluster},
    testbed::wait::{wait_for, wait_until},
};

use super::NODES;

/// Pods of node-1: one that no container runtime has started, and one on the host's network. Their namespace is in the mesh.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: nowhere, namespace: mesh}
spec: {nodeName: node-1, containers: [{name: main, image: main}]}
status: {phase: Running, podIP: 10.244.9.9, podIPs: [{ip: 10.244.9.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: mesh}
spec: {nodeName: node-1, hostNetwork: true, containers: [{name: main, image: main}]}
status: {phase: Running, podIP: 172.18.0.11, podIPs: [{ip: 172.18.0.11}]}
";

/// Each says once what keeps it outside, by its agent.
pub(crate) fn name_pods_that_are_not_captured(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.populate(PODS)?;
    let said = wait_for("an event of each pod", || {
        let said = events(cluster)?;
        Ok((said.len() == 2).then_some(said))
    })?;
    for (event, (pod, kind, reason, note)) in said.iter().zip([
        ("host", "Normal", "OutsideMesh", "it uses the host network (spec.hostNetwork)"),
        ("nowhere", "Warning", "NotCaptured", "no cgroup of pod"),
    ]) {
        let found = kubectl.get(&["pod", pod, "-n", "mesh"])?;
        ensure!(event["regarding"]["name"] == pod && event["regarding"]["uid"] == found["metadata"]["uid"], "{event}");
        ensure!(event["type"] == kind && event["reason"] == reason, "{event}");
        ensure!(event["note"].as_str().is_some_and(|text| text.contains(note)), "{event}");
        ensure!(event["reportingInstance"] == "node-1", "{event}");
    }
    kubectl.run(&["delete", "pod", "nowhere", "host", "-n", "mesh", "--grace-period=0", "--force"])?;
    wait_until("the node to be ready without them", || cluster.mesh.is_ready("node-1"))
}

/// Of these pods, by their names. The others had started before their agents.
fn events(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.kubectl().get(&["events.events.k8s.io", "-n", "mesh"])?;
    let mut events = list["items"].as_array().cloned().unwrap_or_default();
    events.retain(|event| {
        let is_one = event["regarding"]["name"] == "host" || event["regarding"]["name"] == "nowhere";
        is_one && event["reportingController"] == "underpass.dev/agent"
    });
    events.sort_by_key(|event| event["regarding"]["name"].to_string());
    Ok(events)
}

/// It goes from a node with an agent, other taints stay, and so does that of a node without an agent.
pub(crate) fn a_startup_taint_goes_with_a_ready_agent(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let [with_agent, _] = NODES;
    for node in [CONTROL_NODE, with_agent] {
        let taints = ["team=a:NoSchedule", "underpass.dev/agent-not-ready=:NoSchedule"];
        kubectl.run(&[&["taint", "node", node][..], &taints].concat())?;
    }
    let taints = |node: &str| -> Result<Vec<String>> {
        let node = kubectl.get(&["node", node])?;
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        let keys = taints.filter_map(|taint| taint["key"].as_str().map(str::to_owned));
        // No kubelet makes these nodes ready.
        Ok(keys.filter(|key| !key.starts_with("node.kubernetes.io/")).collect())
    };
    wait_until("the taint to be gone", || Ok(taints(with_agent)? == ["team"]))?;
    // It was there before the other one.
    ensure!(taints(CONTROL_NODE)? == ["team", "underpass.dev/agent-not-ready"], "{:?}", taints(CONTROL_NODE)?);
    Ok(())
}
