//! Pods that start in the mesh: what they send first, and what starts where no agent is. Level kubernetes.

#[path = "new_pods/addresses.rs"]
mod addresses;
#[path = "new_pods/away.rs"]
mod away;
#[path = "new_pods/daemon_set.rs"]
mod daemon_set;
#[path = "new_pods/ends.rs"]
mod ends;
#[path = "new_pods/first.rs"]
mod first;
#[path = "new_pods/hooks.rs"]
mod hooks;
#[path = "new_pods/joins.rs"]
mod joins;
#[path = "new_pods/kinds.rs"]
mod kinds;
#[path = "new_pods/probes.rs"]
mod probes;
#[path = "new_pods/reboot.rs"]
mod reboot;
#[path = "new_pods/reuse.rs"]
mod reuse;
#[path = "new_pods/rollouts.rs"]
mod rollouts;
#[path = "new_pods/uninstall.rs"]
mod uninstall;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    installed::Installed,
    testbed::{
        Kubernetes, Lab, Site,
        harness::{self, Scenario},
        wait::{wait_for, wait_until},
    },
};

fn main() -> ExitCode {
    // As much as can be is in one cluster.
    harness::main(&[
        Scenario::new("a_new_pod_is_captured_before_it_sends", a_new_pod_is_captured_before_it_sends).lasting(3),
        Scenario::new("nodes_without_an_agent", nodes_without_an_agent).lasting(2),
    ])
}

/// Namespaces, policies, a client and a server.
const APPLICATION: &str = include_str!("new_pods.yaml");
/// The nodes of the cluster: the clients', the server's.
const NODES: [&str; 2] = ["node-1", "node-2"];

/// What both installations set.
const VALUES: [&str; 2] = ["--set", "meshConfig.accessLogEncoding=JSON"];

fn a_new_pod_is_captured_before_it_sends(lab: &Lab) -> Result<()> {
    let mesh = Installed::begin(Kubernetes::start_with_more(lab, NODES.len(), 1)?, &VALUES)?;
    mesh.wait_until_ready()?;
    let mut mesh = begin(mesh)?;
    first::init_containers_call_at_once(&mesh)?;
    first::while_the_primary_plugin_writes_its_configuration(&mesh)?;
    kinds::begin(&mesh)?;
    hooks::begin(&mesh)?;
    probes::reach_their_own_pod(&mesh)?;
    hooks::ask_their_own_pod(&mesh)?;
    kinds::call_and_are_called(&mesh)?;
    rollouts::lose_no_connection(&mesh)?;
    // After the rollouts, which count how connections end: some of these end long after their callers have given up.
    reuse::of_an_address(&mesh)?;
    daemon_set::its_end_releases_no_pod(&mesh)?;
    joins::its_pods_begin_after_its_agent(&mut mesh)
}

/// Installed, upgraded and removed by the command.
fn nodes_without_an_agent(lab: &Lab) -> Result<()> {
    let mut mesh = begin(Installed::by_command(lab, NODES.len(), &VALUES)?)?;
    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    reboot::begin(&mesh)?;
    away::pods_of_the_mesh_wait_and_others_start(&mut mesh)?;
    reboot::with_an_agent(&mut mesh)?;
    daemon_set::a_drained_node_keeps_its_agent(&mesh)?;
    ensure!(!wire.contains(first::SECRET.as_bytes())?, "after a reboot a connection was in the clear");
    uninstall::leaves_the_nodes_as_they_were(&mesh)
}

/// The mesh with the plugin on every node, and the application in it.
fn begin(mesh: Installed) -> Result<Installed> {
    wait_until("the plugin on every node", || {
        let lines = NODES.iter().map(|node| mesh.log(node)).collect::<Result<Vec<_>>>()?;
        Ok(lines.iter().all(|log| log.contains("CNI configuration written")))
    })?;
    mesh.cluster.kubectl().apply(APPLICATION)?;
    for what in ["deployment/server", "deployment/client", "deployment/friend"] {
        mesh.cluster.wait_for_rollout("shop", what)?;
    }
    Ok(mesh)
}

/// The container of the one pod of an application of `shop`.
fn site(mesh: &Installed, application: &str) -> Result<Site> {
    let mut pods = mesh.cluster.pods("shop", &format!("app={application}"))?;
    let pod = pods.pop().with_context(|| format!("{application} has no pod"))?;
    mesh.cluster.container(&pod, "main")
}

/// The lines of both agents that name a pod, for a failed test.
fn lines_about(mesh: &Installed, pod: &str) -> String {
    let logs = NODES.iter().map(|node| mesh.log(node).unwrap_or_else(|error| format!("{node}: {pod}: {error:#}")));
    logs.collect::<Vec<_>>().join("\n").lines().filter(|line| line.contains(pod)).collect::<Vec<_>>().join("\n")
}

/// Waits until a pod is ready; its object.
fn until_ready(mesh: &Installed, namespace: &str, name: &str) -> Result<Value> {
    wait_for(&format!("{namespace}/{name} to be ready"), || {
        let pod = mesh.cluster.kubectl().get(&["pod", name, "-n", namespace, "--ignore-not-found"]).unwrap_or_default();
        Ok(is_ready(&pod).then_some(pod))
    })
    .with_context(|| mesh.cluster.shown(namespace))
}

/// Its conditions say so.
fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A pod of the first node.
fn pod(namespace: &str, name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {}}}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/underpass-testapp:testbed
    imagePullPolicy: Never
    args: [echo, \"[::]:9080\", {name}]
",
        NODES[0]
    )
}
