//! Deployments that are rolled over and over while a client calls them: what the mesh must not add to what a rollout
//! costs anyway.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    apps::hammer::{self, Hammer},
    installed::{AgentLogs, Installed},
    testbed::Actor,
};

use super::{
    NODES, addresses,
    ends::Ends,
    first::{SECRET, container},
    site,
};

/// Deployments that are rolled at the same time, and how often.
const DEPLOYMENTS: [&str; 5] = ["rolled-1", "rolled-2", "rolled-3", "rolled-4", "rolled-5"];
const ROLLOUTS: usize = 10;
/// Connections before the first rollout and after the last one.
const MANY: u64 = 100;
/// Between two of them: the rollouts are to have a part of the processor as well.
const PAUSE: Duration = Duration::from_millis(20);

/// Fifty rollouts, of five Deployments with an identity each, all of them under STRICT and a policy of one identity.
/// Each new pod calls from its first moment on, and has an address that a pod of another of the Deployments had just
/// before. No call is lost, none is answered by another Deployment, no connection ends by a reason that is not the
/// applications', and what is said is seen nowhere between the nodes.
///
/// There is no twin without a mesh: a rollout cannot lose less than nothing.
pub(crate) fn lose_no_connection(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let applications: Vec<_> = DEPLOYMENTS.iter().map(|name| application(name)).collect();
    let _lowest = addresses::lowest_first(mesh, NODES[1])?;
    kubectl.apply(&[POLICIES, &applications.concat()].concat())?;
    let wait =
        || DEPLOYMENTS.iter().try_for_each(|name| mesh.cluster.wait_for_rollout("shop", &format!("deployment/{name}")));
    wait()?;
    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    let mut logs = AgentLogs::from_now(&mesh.cluster)?;
    let before = Ends::so_far(mesh)?;
    let mut calls = begin_calls(mesh)?;
    hammer::answers(&mut calls.0, MANY)?;
    let mut had = addresses_of(mesh)?;
    for _ in 0..ROLLOUTS {
        kubectl.run(&["rollout", "restart", "-n", "shop", "deployment", "-l", "group=rolled"])?;
        wait()?;
        for (address, pods) in addresses_of(mesh)? {
            had.entry(address).or_default().extend(pods);
        }
    }
    hammer::answers(&mut calls.0, MANY)?;
    std::fs::write(calls.1, "")?;
    let answered = hammer::ensure_none_failed(calls.0).with_context(|| logs.lines().unwrap_or_default())?;
    let unexplained = Ends::so_far(mesh)?.unexplained_since(&before, &["finished"]);
    ensure!(
        unexplained.is_empty(),
        "{answered} answered; connections that ended otherwise: {unexplained:?}\n{}",
        logs.lines()?
    );
    ensure!(!wire.contains(SECRET.as_bytes())?, "a call was in the clear");
    happened(mesh, &had)
}

/// What the test is about did happen.
fn happened(mesh: &Installed, had: &BTreeMap<String, BTreeSet<String>>) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    for name in DEPLOYMENTS {
        let deployment = kubectl.get(&["deployment", name, "-n", "shop"])?;
        let revision = &deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
        let expected = (ROLLOUTS + 1).to_string();
        ensure!(*revision == *expected, "{name}: revision {revision}");
    }
    ensure!(had.values().any(|deployments| deployments.len() > 1), "no address was used again: {had:?}");
    // Waits for the pods as well, which have addresses until then.
    let of_them = ["deployment,service", "-n", "shop", "-l", "group=rolled"];
    kubectl.run(&[&["delete", "--cascade=foreground"], &of_them[..]].concat()).map(drop)
}

/// Calls of the client to all of the Services in turn, until the file is there.
fn begin_calls(mesh: &Installed) -> Result<(Actor<hammer::Struck>, std::path::PathBuf)> {
    let to = DEPLOYMENTS.iter().map(|name| address_of(mesh, name)).collect::<Result<Vec<_>>>()?;
    let until = mesh.cluster.bed.lab().directory().join("rollouts");
    let client = site(mesh, "client")?.with_files_of_the_lab();
    let order = Hammer::new(to, SECRET, &until).pause(PAUSE).answered_by(&DEPLOYMENTS);
    Ok((hammer::start(&client, order)?, until))
}

/// The address of a Service of `shop`.
fn address_of(mesh: &Installed, name: &str) -> Result<SocketAddr> {
    let service = mesh.cluster.kubectl().get(&["service", name, "-n", "shop"])?;
    let address = service["spec"]["clusterIP"].as_str().with_context(|| format!("{name} has no address"))?;
    Ok(SocketAddr::new(address.parse()?, 80))
}

/// Which Deployments have a pod with an address, by the address.
fn addresses_of(mesh: &Installed) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let pods = mesh.cluster.kubectl().get(&["pods", "-n", "shop", "-l", "group=rolled"])?;
    let mut had = BTreeMap::<_, BTreeSet<_>>::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let restarts = &pod["status"]["initContainerStatuses"][0]["restartCount"];
        let name = &pod["metadata"]["name"];
        ensure!(*restarts == 0, "{name}: its first call failed\n{}", mesh.cluster.shown("shop"));
        let (address, of) = (pod["status"]["podIP"].as_str(), pod["metadata"]["labels"]["app"].as_str());
        if let (Some(address), Some(of)) = (address, of) {
            had.entry(address.to_owned()).or_default().insert(of.to_owned());
        }
    }
    Ok(had)
}

/// The rolled pods take calls of the client alone, and the server takes theirs as well.
const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rolled, namespace: shop}
spec:
  selector: {matchLabels: {group: rolled}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: of-rolled, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/rolled-*]}}]}]
";

/// A Deployment of one pod with its Service and account, in which a new pod calls the server before its main container.
fn application(name: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, labels: {{group: rolled}}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: tcp, port: 80, targetPort: 9080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop, labels: {{group: rolled}}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: {name}, group: rolled}}}}
    spec:
      serviceAccountName: {name}
      nodeSelector: {{kubernetes.io/hostname: {}}}
      # It does not end by a signal. The next rollout does not wait for its end.
      terminationGracePeriodSeconds: 5
      initContainers: [{}]
      containers:
      - name: main
        image: localhost/underpass-testapp:testbed
        imagePullPolicy: Never
        args: [echo, \"[::]:9080\", {name}]
        readinessProbe: {{tcpSocket: {{port: 9080}}, periodSeconds: 1}}
        lifecycle:
          # Without a mesh as well, a client must have heard that the pod goes.
          preStop: {{sleep: {{seconds: 4}}}}
",
        NODES[1],
        container("first"),
    )
}
