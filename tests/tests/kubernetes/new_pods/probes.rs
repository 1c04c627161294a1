//! Probes of a real kubelet, of pods that take mutual TLS alone.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::socket::{self, Dial, Dialed},
    installed::Installed,
    testbed::wait::wait_until,
};

use super::{NODES, is_ready};

/// How often a probe fails before it counts as refused.
const FAILURES: i64 = 3;
/// The request of a probe.
const GET: &str = "GET / HTTP/1.0\r\n\r\n";

/// A Deployment is ready by its probes; what else comes from its node to the same port is refused, and so is the probe of another
/// pod.
pub(crate) fn reach_their_own_pod(mesh: &Installed) -> Result<()> {
    mesh.cluster.wait_for_rollout("shop", "deployment/probed")?;
    let pods = mesh.cluster.pods("shop", "app=probed")?;
    let probed = of(mesh, pods.first().context("it has a pod")?)?;
    let from_node = mesh.cluster.machine(NODES[1])?.service("shell")?;
    let to: SocketAddr = format!("{}:8080", address(&probed)?).parse()?;
    let dialed = from_node.act(socket::dial, Dial::to(to).say(GET))?;
    ensure!(matches!(dialed, Dialed::Failed(_)), "plaintext of the node was answered: {dialed:?}");
    mesh.wait_for_line(NODES[1], &["\"reason\":\"plaintext_refused\"", &format!("{to}\"")])?;

    for namespace in ["shop", "legacy"] {
        mesh.cluster.kubectl().apply(&pod(namespace, "target", ""))?;
        let target = format!("{namespace}/target");
        wait_until(&format!("{target} to be ready"), || Ok(is_ready(&of(mesh, &target)?)))?;
        let probe = format!(
            "readinessProbe: {{httpGet: {{host: \"{}\", path: /, port: 8080}}, periodSeconds: 1}}",
            address(&of(mesh, &target)?)?
        );
        mesh.cluster.kubectl().apply(&pod("legacy", &format!("asks-{namespace}"), &probe))?;
    }
    wait_until("a probe of another pod to be answered outside the mesh", || {
        Ok(is_ready(&of(mesh, "legacy/asks-legacy")?))
    })?;
    wait_until("probes of another pod to fail in the mesh", || {
        let of_pod = "involvedObject.name=asks-shop,reason=Unhealthy";
        let events = mesh.cluster.kubectl().get(&["events", "-n", "legacy", "--field-selector", of_pod])?;
        let counts = events["items"].as_array().into_iter().flatten().filter_map(|event| event["count"].as_i64());
        Ok(counts.sum::<i64>() >= FAILURES)
    })
    .with_context(|| mesh.cluster.shown("legacy"))?;
    ensure!(!is_ready(&of(mesh, "legacy/asks-shop")?));
    let target = of(mesh, "shop/target")?;
    let refused = format!("{}:8080\"", address(&target)?);
    mesh.wait_for_line(NODES[1], &["\"reason\":\"plaintext_refused\"", &refused])?;

    // Meanwhile the first one's own probes went on.
    let now = of(mesh, pods.first().context("it has a pod")?)?;
    let status = &now["status"]["containerStatuses"][0];
    ensure!(is_ready(&now) && status["restartCount"] == 0, "{status}");
    mesh.cluster.kubectl().run(&["delete", "pods", "--now", "-n", "shop", "target"])?;
    mesh.cluster.kubectl().run(&["delete", "pods", "--now", "-n", "legacy", "--all"]).map(drop)
}

/// A pod by `namespace/name`.
fn of(mesh: &Installed, pod: &str) -> Result<Value> {
    let (namespace, name) = pod.split_once('/').context("namespace/name")?;
    mesh.cluster.kubectl().get(&["pod", name, "-n", namespace])
}

fn address(pod: &Value) -> Result<&str> {
    pod["status"]["podIP"].as_str().context("an address")
}

/// A pod of the second node that answers HTTP.
fn pod(namespace: &str, name: &str, probe: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {}}}
  containers:
  - name: main
    image: localhost/underpass-testapp:testbed
    imagePullPolicy: Never
    args: [http, \"[::]:8080\", {name}, v1]
    {probe}
",
        NODES[1]
    )
}
