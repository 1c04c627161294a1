//! Nodes without an agent: pods of the mesh wait and say why, others start, and what is captured stays captured.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use underpass_tests::{cluster::NAMESPACE, installed::Installed, testbed::wait::wait_until};

use super::{NODES, is_ready, pod, reboot};

/// The taint of a node that waits for its agent.
pub(crate) const TAINT: &str = "underpass.dev/agent-not-ready";
/// The pods that agents need: by their names those of the control plane are found.
const NEEDED: [(&str, &str); 2] = [("kube-system", "k8s-app=kube-dns"), (NAMESPACE, CONTROL)];
const CONTROL: &str = "app.kubernetes.io/name=underpass-control";

pub(crate) fn pods_of_the_mesh_wait_and_others_start(mesh: &mut Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl().clone();
    // No node has this label.
    mesh.upgrade(&["--set-string", "agent.nodeSelector.away=yes"])?;
    wait_until("the agents to be gone", || {
        Ok(mesh.cluster.pods(NAMESPACE, "app.kubernetes.io/name=underpass-agent")?.is_empty())
    })?;
    // What agents need starts without them, on nodes whose plugin stands.
    for (namespace, label) in NEEDED {
        starts_again(mesh, namespace, label)?;
    }
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
    starts_again(mesh, NAMESPACE, CONTROL)?;
    waits_for_the_mesh(mesh, "late")?;
    ensure!(phase(mesh, "shop")? == "Pending");
    let restarts = reboot::without_an_agent(mesh)?;
    wait_until("the scheduler to find no node", || {
        Ok(is_kept_away(&kubectl.get(&["pod", "tainted", "-n", "legacy"])?))
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

/// The pods of a namespace that have a label are deleted; waits until as many others are ready.
fn starts_again(mesh: &Installed, namespace: &str, label: &str) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let before = mesh.cluster.pods(namespace, label)?;
    ensure!(!before.is_empty(), "{namespace} has no pod with {label}");
    kubectl.run(&["delete", "pods", "--now", "-n", namespace, "-l", label])?;
    let started = wait_until(&format!("{before:?} to be followed by others"), || {
        let pods = kubectl.get(&["pods", "-n", namespace, "-l", label])?;
        let ready = pods["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod));
        let is_new = |pod: &&Value| {
            !before.contains(&format!("{namespace}/{}", pod["metadata"]["name"].as_str().unwrap_or_default()))
        };
        Ok(ready.filter(is_new).count() == before.len())
    });
    started.with_context(|| mesh.cluster.shown(namespace))
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

/// The scheduler has no node for a pod, because of a taint.
pub(crate) fn is_kept_away(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| {
        condition["reason"] == "Unschedulable" && condition["message"].as_str().is_some_and(|m| m.contains("taint"))
    })
}

/// It began without an agent; those that waited did not.
fn says_that_it_came_late(mesh: &Installed) -> Result<()> {
    wait_until("the pod that began without an agent to say so", || {
        Ok(captured_late(mesh, "kube-system")?.iter().filter(|pod| *pod == "late").count() == 1)
    })?;
    let in_shop = captured_late(mesh, "shop")?;
    ensure!(!in_shop.contains(&"late".to_owned()), "a pod that has waited is captured from its beginning");
    Ok(())
}

/// The names of the pods of a namespace whose events say that they were captured late.
pub(crate) fn captured_late(mesh: &Installed, namespace: &str) -> Result<Vec<String>> {
    let events = mesh.cluster.kubectl().get(&["events", "-n", namespace])?;
    let late = events["items"].as_array().into_iter().flatten().filter(|event| event["reason"] == "CapturedLate");
    Ok(late.filter_map(|event| event["involvedObject"]["name"].as_str().map(str::to_owned)).collect())
}

fn phase(mesh: &Installed, namespace: &str) -> Result<String> {
    let pod = mesh.cluster.kubectl().get(&["pod", "late", "-n", namespace])?;
    Ok(pod["status"]["phase"].as_str().unwrap_or_default().to_owned())
}
