//! The first steps: from nothing to the sample in a cluster that has the mesh, none of its pods in it yet.

use std::collections::BTreeSet;

use anyhow::Result;
use underpass_tests::{
    cluster::NAMESPACE,
    installed::{self, Installed},
    testbed::{Kubernetes, Lab, wait},
};

use super::{
    super::{link, page, screen::Screen},
    stage::{CLIENT, Containers, NODES, SAMPLE, Stage, get, typed},
};

/// The demo reads the access log.
const VALUES: [&str; 2] = ["--set", "meshConfig.accessLogEncoding=JSON"];

/// Step 1.
pub(crate) fn a_cluster(lab: &Lab, screen: &mut Screen) -> Result<Kubernetes> {
    screen.step("A cluster: real components, two nodes that are namespaces of this machine");
    screen.does("etcd, API server, controllers; on each node containerd, kubelet, kube-proxy; CoreDNS");
    let cluster = Kubernetes::start(lab, NODES.len())?;
    let shown = shown(&cluster, screen, &["get", "nodes"])?;
    let ready: BTreeSet<_> =
        shown.lines().filter(|line| line.contains(" Ready ")).filter_map(|line| line.split(' ').next()).collect();
    screen.expect("both nodes are ready", ready == BTreeSet::from(NODES), ready)?;
    Ok(cluster)
}

/// Step 2.
pub(crate) fn the_chart(cluster: Kubernetes, screen: &mut Screen) -> Result<Installed> {
    screen.step("The chart: a control plane, and an agent on each node");
    screen.does("kubectl apply -f (Istio's definitions of AuthorizationPolicy and PeerAuthentication)");
    screen.does(&typed("helm", &installed::install(&VALUES)));
    let mesh = Installed::begin(cluster, &VALUES)?;
    mesh.wait_until_ready()?;
    shown(&mesh.cluster, screen, &["get", "pods", "-n", NAMESPACE])?;
    let agents = NODES.iter().map(|node| mesh.agent(node)).collect::<Result<BTreeSet<_>>>()?;
    screen.expect("an agent on every node is ready, and the control plane", agents.len() == NODES.len(), agents)?;
    Ok(mesh)
}

/// Step 3.
pub(crate) fn the_sample(mesh: Installed, screen: Screen) -> Result<Stage> {
    let mut stage = Stage { screen, mesh, began_with: Containers::new() };
    stage.screen.step("The sample, without the mesh: plaintext on the link");
    stage.kubectl(&["apply", "-f", SAMPLE])?;
    for namespace in ["bookinfo", "client", "legacy"] {
        let kubectl = stage.mesh.cluster.kubectl();
        let deployments = kubectl.run(&["get", "deployments", "-n", namespace, "-o", "name"])?;
        deployments.lines().try_for_each(|name| stage.mesh.cluster.wait_for_rollout(namespace, name))?;
    }
    stage.kubectl_shown(&["get", "pods", "-n", "bookinfo", "-o", PLACES])?;
    // A Service has its endpoints on every node a moment after its pods are ready.
    wait::wait_until("every service of the sample to answer", || {
        Ok(page::tour(|| get(&stage.mesh, CLIENT, &page::url()))?.is_ok())
    })?;
    stage.began_with = stage.containers()?;
    let wire = stage.mesh.cluster.bed.capture_wire("node-1")?;
    stage.visit()?;
    link::shows_plaintext(&mut stage.screen, &wire)?;
    Ok(stage)
}

const PLACES: &str = "custom-columns=POD:.metadata.name,NODE:.spec.nodeName,IP:.status.podIP,PHASE:.status.phase";

fn shown(cluster: &Kubernetes, screen: &Screen, arguments: &[&str]) -> Result<String> {
    screen.does(&typed("kubectl", arguments));
    let output = cluster.kubectl().run(arguments)?;
    output.lines().for_each(|line| screen.quote(line.trim_end()));
    Ok(output)
}
