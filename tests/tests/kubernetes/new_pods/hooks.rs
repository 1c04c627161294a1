//! Lifecycle hooks and gRPC probes of a real kubelet, of pods that take mutual TLS alone.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{installed::Installed, testbed::wait::wait_until};

use super::{NODES, is_ready, until_ready};

/// Both pods: one whose kubelet asks what is there, and its twin, of which it asks gRPC where HTTP/1 is spoken, and that it says
/// goodbye to where nothing listens.
pub(crate) fn begin(mesh: &Installed) -> Result<()> {
    let asked = "
    startupProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {grpc: {port: 9000}, periodSeconds: 1}
    lifecycle:
      postStart: {httpGet: {path: /, port: 8080}}
      preStop: {httpGet: {path: /, port: 8080}}";
    let in_vain = "
    readinessProbe: {grpc: {port: 8080}, periodSeconds: 1}
    lifecycle: {preStop: {httpGet: {path: /, port: 8081}}}";
    mesh.cluster.kubectl().apply(&[pod("hooked", asked), pod("unhooked", in_vain)].join("---"))
}

/// What was asked of them since they began was answered, and the hooks at their end are.
pub(crate) fn ask_their_own_pod(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let hooked = until_ready(mesh, "shop", "hooked")?;
    let statuses = [&hooked["status"]["containerStatuses"], &hooked["status"]["initContainerStatuses"]];
    ensure!(statuses.iter().all(|status| status[0]["restartCount"] == 0), "{}", hooked["status"]);
    ensure!(of(mesh, "hooked", "Unhealthy")? == 0, "{}", mesh.cluster.shown("shop"));
    wait_until("the twin's probe to fail", || Ok(of(mesh, "unhooked", "Unhealthy")? > 0))?;
    ensure!(
        !is_ready(&kubectl.get(&["pod", "unhooked", "-n", "shop"])?),
        "a gRPC probe succeeds at a server of HTTP/1"
    );
    kubectl.run(&["delete", "pod", "-n", "shop", "hooked", "unhooked"])?;
    wait_until("the twin's hook to fail", || Ok(of(mesh, "unhooked", "FailedPreStopHook")? > 0))?;
    for reason in ["FailedPostStartHook", "FailedPreStopHook"] {
        ensure!(of(mesh, "hooked", reason)? == 0, "{reason}: {}", mesh.cluster.shown("shop"));
    }
    Ok(())
}

/// How many events of this reason a pod has.
fn of(mesh: &Installed, pod: &str, reason: &str) -> Result<usize> {
    let about = format!("involvedObject.name={pod},reason={reason}");
    let events: Value = mesh.cluster.kubectl().get(&["events", "-n", "shop", "--field-selector", &about])?;
    Ok(events["items"].as_array().context("a list")?.len())
}

/// A pod of the second node. HTTP is a sidecar's, which answers before the container with the hooks begins, and after it has ended.
fn pod(name: &str, asked: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {}}}
  terminationGracePeriodSeconds: 2
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
