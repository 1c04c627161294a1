//! Pods that start in the mesh: what they send first, and what starts where no agent is. Level kubernetes.

#[path = "new_pods/away.rs"]
mod away;
#[path = "new_pods/first.rs"]
mod first;
#[path = "new_pods/probes.rs"]
mod probes;
#[path = "new_pods/reboot.rs"]
mod reboot;
#[path = "new_pods/rollouts.rs"]
mod rollouts;
#[path = "new_pods/uninstall.rs"]
mod uninstall;

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    installed::Installed,
    testbed::{Lab, Site, wait::wait_until},
};

underpass_tests::scenarios! {
    a_new_pod_is_captured_before_it_sends,
    nodes_without_an_agent,
}

/// Namespaces, policies, a client and a server.
const APPLICATION: &str = include_str!("new_pods.yaml");
/// The nodes of the cluster: the clients', the server's.
const NODES: [&str; 2] = ["node-1", "node-2"];

/// What both installations set.
const VALUES: [&str; 2] = ["--set", "meshConfig.accessLogEncoding=JSON"];

fn a_new_pod_is_captured_before_it_sends(lab: &Lab) -> Result<()> {
    let mesh = begin(Installed::by_chart(lab, NODES.len(), &VALUES)?)?;
    first::init_containers_call_at_once(&mesh)?;
    first::while_the_primary_plugin_writes_its_configuration(&mesh)?;
    probes::reach_their_own_pod(&mesh)?;
    rollouts::lose_no_connection(&mesh)
}

/// Installed, upgraded and removed by the command.
fn nodes_without_an_agent(lab: &Lab) -> Result<()> {
    let mut mesh = begin(Installed::by_command(lab, NODES.len(), &VALUES)?)?;
    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    reboot::begin(&mesh)?;
    away::pods_of_the_mesh_wait_and_others_start(&mut mesh)?;
    reboot::with_an_agent(&mut mesh)?;
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
    for what in ["deployment/server", "deployment/client"] {
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
