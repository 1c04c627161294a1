//! Lifecycle hooks and gRPC probes of a real kubelet, of pods that take mutual TLS alone.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{installed::Installed, testbed::wait::wait_until};

use super::{NODES, is_ready, until_ready};

/// Paths of the hooks.
const HOOKS: [&str; 2] = ["/hello", "/goodbye"];
/// What a container has to be while it serves. A startup probe may ask before it listens.
const PROBES: [&str; 2] = ["Readiness", "Liveness"];

/// Both pods: one whose kubelet asks what is there, and its twin, of which it asks gRPC where HTTP/1 is spoken, and
/// that it says goodbye to where nothing listens.
pub(crate) fn begin(mesh: &Installed) -> Result<()> {
    let [hello, goodbye] = HOOKS;
    let asked = format!(
        "
    startupProbe: {{grpc: {{port: 9000}}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60}}
    readinessProbe: {{grpc: {{port: 9000}}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}}
    livenessProbe: {{grpc: {{port: 9000}}, periodSeconds: 1, timeoutSeconds: 10}}
    lifecycle:
      postStart: {{httpGet: {{path: {hello}, port: 8080}}}}
      preStop: {{httpGet: {{path: {goodbye}, port: 8080}}}}"
    );
    let in_vain = "
    readinessProbe: {grpc: {port: 8080}, periodSeconds: 1}
    lifecycle: {preStop: {httpGet: {path: /, port: 8081}}}";
    mesh.cluster.kubectl().apply(&[pod("hooked", &asked), pod("unhooked", in_vain)].join("---"))
}

/// What was asked of them since they began was answered, and the hooks at their end are.
pub(crate) fn ask_their_own_pod(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let hooked = until_ready(mesh, "shop", "hooked")?;
    let statuses = [&hooked["status"]["containerStatuses"], &hooked["status"]["initContainerStatuses"]];
    ensure!(statuses.iter().all(|status| status[0]["restartCount"] == 0), "{}", hooked["status"]);
    ensure!(failed_probes(mesh, "hooked")? == 0, "{}", mesh.cluster.shown("shop"));
    wait_until("the twin's probe to fail", || Ok(failed_probes(mesh, "unhooked")? > 0))?;
    ensure!(
        !is_ready(&kubectl.get(&["pod", "unhooked", "-n", "shop"])?),
        "a gRPC probe succeeds at a server of HTTP/1"
    );
    // The container outlives its hook by the pod's grace period: the sidecar is there to be asked what it has seen.
    kubectl.run(&["delete", "pod", "-n", "shop", "hooked", "unhooked", "--wait=false"])?;
    for path in HOOKS {
        wait_until(&format!("the sidecar to be asked for {path}"), || {
            let asked = kubectl.run(&["logs", "-n", "shop", "hooked", "-c", "http"])?;
            Ok(asked.lines().any(|line| line == path))
        })
        .with_context(|| mesh.cluster.shown("shop"))?;
    }
    wait_until("the twin's hook to fail", || Ok(!events(mesh, "unhooked", "FailedPreStopHook")?.is_empty()))?;
    for reason in ["FailedPostStartHook", "FailedPreStopHook"] {
        ensure!(events(mesh, "hooked", reason)?.is_empty(), "{reason}: {}", mesh.cluster.shown("shop"));
    }
    kubectl.run(&["delete", "pod", "-n", "shop", "hooked", "unhooked", "--now", "--ignore-not-found"]).map(drop)
}

/// How many events say that a probe of a pod's running containers has failed.
fn failed_probes(mesh: &Installed, pod: &str) -> Result<usize> {
    let all = events(mesh, pod, "Unhealthy")?;
    let messages = all.iter().filter_map(|event| event["message"].as_str());
    Ok(messages.filter(|message| PROBES.iter().any(|probe| message.starts_with(probe))).count())
}

/// The events of this reason of a pod.
fn events(mesh: &Installed, pod: &str, reason: &str) -> Result<Vec<Value>> {
    let about = format!("involvedObject.name={pod},reason={reason}");
    let events = mesh.cluster.kubectl().get(&["events", "-n", "shop", "--field-selector", &about])?;
    events["items"].as_array().cloned().context("a list")
}

/// A pod of the second node. HTTP is a sidecar's, which answers before the container with the hooks begins, and after
/// it has ended. Neither program ends because it is asked to.
fn pod(name: &str, asked: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {}}}
  terminationGracePeriodSeconds: 120
  initContainers:
  - name: http
    image: localhost/underpass-testapp:testbed
    imagePullPolicy: Never
    restartPolicy: Always
    args: [http, \"[::]:8080\", {name}, v1]
    startupProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1, failureThreshold: 60}}
  containers:
  - name: main
    image: localhost/underpass-testapp:testbed
    imagePullPolicy: Never
    args: [grpc-health, \"[::]:9000\"]{asked}
",
        NODES[1]
    )
}
