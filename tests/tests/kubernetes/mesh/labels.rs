//! A namespace joins the mesh and leaves it while its pods are called without a pause.

use anyhow::{Result, ensure};
use underpass_tests::{
    cluster::Cluster,
    testbed::{Lab, packet::Segment, wait::wait_until},
};

use super::{
    NODES, PODS,
    support::{PORT, WORLD, load::Load, pod_state},
};

/// The label by which a namespace is in the mesh, as kubectl takes it.
const LABEL: &str = "istio.io/dataplane-mode=ambient";
/// The same to take it away.
const UNLABEL: &str = "istio.io/dataplane-mode-";
/// What the callers within the namespace say.
const SAID: &[u8] = b"HAMMERED";

pub(crate) fn a_namespace_joins_and_leaves_under_load(lab: &Lab) -> Result<()> {
    let outside = WORLD.replace("istio.io/dataplane-mode: ambient", "team: a");
    ensure!(outside != WORLD);
    let mut cluster = super::up(lab, &[&outside])?;
    let mut load = Load::begin(&cluster.mesh, lab)?;
    is_outside(&mut cluster, &mut load)?;
    label(&cluster, LABEL)?;
    joins(&cluster)?;
    is_inside(&mut cluster, &mut load)?;
    label(&cluster, UNLABEL)?;
    leaves(&cluster)?;
    is_outside(&mut cluster, &mut load)?;
    let (answered, failed) = load.end()?;
    ensure!(answered > 0 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(())
}

fn label(cluster: &Cluster, label: &str) -> Result<()> {
    cluster.kubectl().run(&["label", "namespace", "mesh", label]).map(drop)
}

/// The state of a pod, as the agent of its node says; none: it is not captured.
fn state(cluster: &Cluster, pod: &str) -> Result<Option<String>> {
    pod_state(&cluster.mesh, cluster.mesh.node_of(pod)?, pod)
}

/// Waits until every pod has its annotation; meanwhile each that has it is captured.
fn joins(cluster: &Cluster) -> Result<()> {
    wait_until("every pod to be annotated", || {
        let annotated = cluster.annotated()?;
        for pod in &annotated {
            let state = state(cluster, pod)?;
            ensure!(state.as_deref() == Some("enrolled"), "{pod} is annotated and {state:?}");
        }
        Ok(annotated == PODS)
    })?;
    cluster.wait_for_enrolled(&PODS)
}

/// Waits until no pod is captured; meanwhile none that is released still has its annotation.
fn leaves(cluster: &Cluster) -> Result<()> {
    wait_until("every pod to be released", || {
        let states = PODS.iter().map(|pod| state(cluster, pod)).collect::<Result<Vec<_>>>()?;
        let annotated = cluster.annotated()?;
        for (pod, state) in PODS.iter().zip(&states) {
            let is_enrolled = state.as_deref() == Some("enrolled");
            ensure!(is_enrolled || !annotated.iter().any(|a| a == pod), "{pod} is annotated and {state:?}");
        }
        Ok(states.iter().all(Option::is_none))
    })?;
    cluster.wait_for_enrolled(&[])
}

/// New connections within the namespace go by tunnels.
fn is_inside(cluster: &mut Cluster, load: &mut Load) -> Result<()> {
    let mut ends = Vec::new();
    for node in NODES {
        ends.push((node, cluster.mesh.log_end(node)?));
    }
    load.goes_on()?;
    for (node, end) in ends {
        for direction in ["outbound", "inbound"] {
            let want = [("direction", direction), ("path", "hbone"), ("reason", "finished")];
            cluster.mesh.logged_since(node, end, &want)?;
        }
    }
    Ok(())
}

/// New connections within the namespace are seen between the nodes as they are, those of each of its pods.
fn is_outside(cluster: &mut Cluster, load: &mut Load) -> Result<()> {
    let wire = cluster.mesh.bed.capture_wire("node-1")?;
    for pod in ["mesh/a", "mesh/a2", "mesh/b"] {
        let address = cluster.mesh.bed.pod(pod)?.address(true)?;
        let is_said = |s: &Segment<'_>| {
            s.source.ip() == address && s.destination.port() == PORT && s.payload.windows(SAID.len()).any(|w| w == SAID)
        };
        wire.wait_for(&format!("{pod} in the clear"), is_said)?;
    }
    load.goes_on()
}
