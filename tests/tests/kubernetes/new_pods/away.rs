//! Nodes without an agent: pods of the mesh wait and say why, others start, and what is captured stays captured.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use underpass_tests::{cluster::NAMESPACE, installed::Installed, testbed::wait::wait_until};

use super::{NODES, pod, reboot};

/// The taint of a node that waits for its agent.
const TAINT: &str = "underpass.dev/agent-not-ready";

pub(crate) fn pods_of_the_mesh_wait_and_others_start(mesh: &mut Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl().clone();
    // No node has this label.
    mesh.upgrade(&["--set-string", "agent.nodeSelector.away=yes"])?;
    wait_until("the agents to be gone", || {
        Ok(mesh.cluster.pods(NAMESPACE, "app.kubernetes.io/name=underpass-agent")?.is_empty())
    })?;
    for namespace in ["shop", "legacy", "kube-system"] {
        kubectl.apply(&pod(namespace, "late"))?;
    }
    // Excluded from waiting, and in the mesh by a label of its own.
    kubectl.run(&["label", "pod", "late", "-n", "kube-system", "istio.io/dataplane-mode=ambient"])?;
    for namespace in ["legacy", "kube-system"] {
        wait_until(&format!("the pod of {namespace} to run"), || Ok(phase(mesh, namespace)? == "Running"))?;
    }
    // As on new nodes: pods that are not bound to one yet are to come after the agent.
    for node in NODES {
        kubectl.run(&["taint", "node", node, &format!("{TAINT}=:NoSchedule")])?;
    }
    kubectl.apply(&pod("legacy", "tainted"))?;
    waits_for_the_mesh(mesh, "late")?;
    ensure!(phase(mesh, "shop")? == "Pending");
    let restarts = reboot::without_an_agent(mesh)?;
    wait_until("the scheduler to find no node", || {
        let tainted = kubectl.get(&["pod", "tainted", "-n", "legacy"])?;
        let conditions = tainted["status"]["conditions"].as_array().into_iter().flatten();
        let is_unschedulable = |condition: &Value| {
            condition["reason"] == "Unschedulable" && condition["message"].as_str().is_some_and(|m| m.contains("taint"))
        };
        Ok(conditions.into_iter().any(is_unschedulable))
    })?;
    // It keeps the other values: the image would be one that is not there.
    let said = mesh.command(&["upgrade", "-y", "--set", "agent.nodeSelector=null"])?;
    said.says(0, &["is applied and ready"]).with_context(|| mesh.cluster.shown(NAMESPACE))?;
    mesh.wait_until_ready()?;
    wait_until("the pod of the mesh to run", || Ok(phase(mesh, "shop")? == "Running"))?;
    let late = kubectl.get(&["pod", "late", "-n", "shop"])?;
    ensure!(late["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled", "{late}");
    reboot::comes_back(mesh, restarts)?;
    wait_until("the tainted node to take pods again", || {
        Ok(kubectl.get(&["pod", "tainted", "-n", "legacy"])?["status"]["phase"] == "Running")
    })?;
    wait_until("no node to have the taint", || Ok(!kubectl.get(&["nodes"])?["items"].to_string().contains(TAINT)))?;
    says_that_it_came_late(mesh)
}

/// Waits until the events of a pod of `shop` say what it waits for.
pub(crate) fn waits_for_the_mesh(mesh: &Installed, pod: &str) -> Result<()> {
    let (about, waits) = (format!("involvedObject.name={pod}"), format!("pod shop/{pod} waits for the mesh"));
    wait_until(&format!("{pod} to say what it waits for"), || {
        let events = mesh.cluster.kubectl().get(&["events", "-n", "shop", "--field-selector", &about])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        Ok(events.iter().any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "FailedCreatePodSandBox" && message.contains(&waits)
        }))
    })
}

/// It began without an agent; those that waited did not.
fn says_that_it_came_late(mesh: &Installed) -> Result<()> {
    let late = |namespace: &str| -> Result<usize> {
        let events = mesh.cluster.kubectl().get(&["events", "-n", namespace])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let is_late = |event: &&Value| event["reason"] == "CapturedLate" && event["involvedObject"]["name"] == "late";
        Ok(events.iter().filter(is_late).count())
    };
    wait_until("the pod that began without an agent to say so", || Ok(late("kube-system")? == 1))?;
    ensure!(late("shop")? == 0, "a pod that has waited is captured from its beginning");
    Ok(())
}

fn phase(mesh: &Installed, namespace: &str) -> Result<String> {
    let pod = mesh.cluster.kubectl().get(&["pod", "late", "-n", namespace])?;
    Ok(pod["status"]["phase"].as_str().unwrap_or_default().to_owned())
}
