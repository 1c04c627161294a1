//! A node that joins, while pods of the mesh wait for room: they begin after its agent. What begins before is captured
//! late, and named.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::socket::{self, Dial, Dialed},
    cluster::NAMESPACE,
    installed::Installed,
    testbed::wait::wait_until,
};

use super::{
    away::{TAINT, captured_late, is_kept_away},
    first, is_ready,
};

/// The node.
const NODE: &str = "node-3";
/// The pods that wait for it.
const ARRIVALS: usize = 3;
/// A pod that its taint does not keep away, as a DaemonSet's that tolerates everything.
const EARLY: &str = "early";
/// The port of HBONE.
const TUNNEL_PORT: u16 = 15008;

pub(crate) fn its_pods_begin_after_its_agent(mesh: &mut Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl().clone();
    let wire = mesh.cluster.bed.capture_wire(NODE)?;
    kubectl.apply(&arrivals())?;
    kubectl.apply(&early())?;
    mesh.cluster.join(&[TAINT])?;
    mesh.cluster.load_image_on(NODE, "underpass-testapp")?;

    // Without its image the agent does not come yet.
    wait_until("a pod to run before the agent", || Ok(is_ready(&kubectl.get(&["pod", EARLY, "-n", "shop"])?)))
        .with_context(|| mesh.cluster.shown("shop"))?;
    let service = kubectl.get(&["service", "server", "-n", "shop"])?;
    let to: SocketAddr = format!("{}:80", service["spec"]["clusterIP"].as_str().context("an address")?).parse()?;
    let early = mesh.cluster.container(&format!("shop/{EARLY}"), "main")?;
    let dialed = early.act(socket::dial, Dial::to(to).say("before-the-agent"))?;
    ensure!(matches!(dialed, Dialed::Failed(_)), "plaintext was answered: {dialed:?}");
    wait_until("the scheduler to keep the others away", || {
        let waiting = pods(mesh)?;
        ensure!(waiting.iter().all(|pod| pod["spec"]["nodeName"].is_null()), "{waiting:?}");
        Ok(waiting.len() == ARRIVALS && waiting.iter().all(is_kept_away))
    })?;

    mesh.cluster.load_image_on(NODE, "underpass")?;
    // The next one looks for the image at once.
    kubectl.delete_pod(&mesh.agent(NODE)?)?;
    mesh.cluster.wait_for_rollout("shop", "deployment/arrivals")?;
    let agent = mesh.agent(NODE)?;
    let name = agent.rsplit('/').next().unwrap_or_default();
    let agent = kubectl.get(&["pod", name, "-n", NAMESPACE])?;
    let started = agent["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].as_str();
    let started = started.with_context(|| agent["status"].to_string())?;
    for pod in pods(mesh)? {
        ensure!(*scheduled(&pod)? >= *started, "before the agent ({started}): {}", pod["status"]);
        let first = &pod["status"]["initContainerStatuses"][0];
        ensure!(first["restartCount"] == 0, "its first call failed: {first}");
    }
    wait_until("the early pod to be captured, and to say that it was late", || {
        let pod = kubectl.get(&["pod", EARLY, "-n", "shop"])?;
        let is_captured = pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled";
        Ok(is_captured && captured_late(mesh, "shop")?.contains(&EARLY.to_owned()))
    })?;
    let late = captured_late(mesh, "shop")?;
    ensure!(late == [EARLY], "{late:?}");
    early.act(socket::dial, Dial::to(to).say(first::SECRET))?.answered()?;
    ensure!(wire.count(|s| s.is_opening() && s.has_port(TUNNEL_PORT))? > 0, "the capture sees no tunnel");
    ensure!(!wire.contains(first::SECRET.as_bytes())?, "a connection of the new node was in the clear");
    let node = kubectl.get(&["node", NODE])?;
    ensure!(!node["spec"]["taints"].to_string().contains(TAINT), "{}", node["spec"]);
    kubectl.run(&["delete", "-n", "shop", "--now", "deployment/arrivals", &format!("pod/{EARLY}")]).map(drop)
}

/// Those that wait, or have waited.
fn pods(mesh: &Installed) -> Result<Vec<Value>> {
    let pods = mesh.cluster.kubectl().get(&["pods", "-n", "shop", "-l", "app=arrivals"])?;
    pods["items"].as_array().cloned().context("a list")
}

/// The time when a node was found for a pod.
fn scheduled(pod: &Value) -> Result<String> {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "True");
    let time = found.and_then(|one| one["lastTransitionTime"].as_str()).map(str::to_owned);
    time.with_context(|| format!("not on a node: {}", pod["status"]))
}

/// Each calls from its init container.
fn arrivals() -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: arrivals, namespace: shop}}
spec:
  replicas: {ARRIVALS}
  selector: {{matchLabels: {{app: arrivals}}}}
  template:
    metadata: {{labels: {{app: arrivals}}}}
    spec:
      serviceAccountName: client
      nodeSelector: {{kubernetes.io/hostname: {NODE}}}
      terminationGracePeriodSeconds: 0
      initContainers: [{}]
      containers: [{}]
",
        first::container("first"),
        echo()
    )
}

fn early() -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {EARLY}, namespace: shop}}
spec:
  serviceAccountName: client
  nodeSelector: {{kubernetes.io/hostname: {NODE}}}
  tolerations: [{{key: {TAINT}, operator: Exists}}]
  terminationGracePeriodSeconds: 0
  containers: [{}]
",
        echo()
    )
}

fn echo() -> String {
    "{name: main, image: \"localhost/underpass-testapp:testbed\", imagePullPolicy: Never, args: [echo, \"[::]:9080\", late]}"
        .to_owned()
}
