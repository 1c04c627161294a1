//! Nodes without an agent: pods of the mesh wait and say why, others start, and what is captured stays captured.

use anyhow::{Result, ensure};
use underpass_tests::{cluster::NAMESPACE, installed::Installed, testbed::wait::wait_until};

use super::pod;

pub(crate) fn pods_of_the_mesh_wait_and_others_start(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    // No node has this label.
    mesh.upgrade(&["--set-string", "agent.nodeSelector.away=yes"])?;
    wait_until("the agents to be gone", || {
        Ok(mesh.cluster.pods(NAMESPACE, "app.kubernetes.io/name=underpass-agent")?.is_empty())
    })?;
    for namespace in ["shop", "legacy", "kube-system"] {
        kubectl.apply(&pod(namespace, "late"))?;
    }
    for namespace in ["legacy", "kube-system"] {
        wait_until(&format!("the pod of {namespace} to run"), || Ok(phase(mesh, namespace)? == "Running"))?;
    }
    wait_until("the pod of the mesh to say what it waits for", || {
        let events = kubectl.get(&["events", "-n", "shop", "--field-selector", "involvedObject.name=late"])?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        Ok(events.iter().any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "FailedCreatePodSandBox" && message.contains("pod shop/late waits for the mesh")
        }))
    })?;
    ensure!(phase(mesh, "shop")? == "Pending");
    mesh.upgrade(&["--set", "agent.nodeSelector=null"])?;
    mesh.wait_until_ready()?;
    wait_until("the pod of the mesh to run", || Ok(phase(mesh, "shop")? == "Running"))?;
    let late = kubectl.get(&["pod", "late", "-n", "shop"])?;
    ensure!(late["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled", "{late}");
    Ok(())
}

fn phase(mesh: &Installed, namespace: &str) -> Result<String> {
    let pod = mesh.cluster.kubectl().get(&["pod", "late", "-n", namespace])?;
    Ok(pod["status"]["phase"].as_str().unwrap_or_default().to_owned())
}
