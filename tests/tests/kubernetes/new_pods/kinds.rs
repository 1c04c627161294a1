//! Workloads of every kind: each calls from its first moment on by its own identity, and is called by one identity
//! alone.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::socket::{self, Dial, Dialed},
    installed::Installed,
    testbed::wait::{wait_for, wait_until},
};

use super::{NODES, first::SECRET, lines_about, site, until_ready};

/// Accounts of the workloads, and whether the server takes their calls.
const ACCOUNTS: [(&str, bool); 2] = [("worker", true), ("stranger", false)];
/// Kinds, and how many pods an account has of each.
const KINDS: [(&str, usize); 3] = [("StatefulSet", 2), ("DaemonSet", NODES.len()), ("Sidecar", 1)];
const WORKLOADS: &str = include_str!("kinds.yaml");
/// The port of all of them; of the pod on the host's network.
const PORT: u16 = 9080;
const HOST_PORT: u16 = 9555;

/// The namespace, which takes mutual TLS alone, of the client alone; and a pod on the host's network.
const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: kinds, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: kinds}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: client, namespace: kinds}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: of-kinds, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: [cluster.local/ns/kinds/sa/worker]}}]}]
---
";

/// Begins them: what takes a while is to happen meanwhile.
pub(crate) fn begin(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let service = kubectl.get(&["service", "server", "-n", "shop"])?;
    let server = format!("{}:80", service["spec"]["clusterIP"].as_str().context("an address")?);
    let container = |name: &str, does: &str| {
        let image = "image: \"localhost/underpass-testapp:testbed\", imagePullPolicy: Never";
        format!("{{name: {name}, {image}, args: [{does}, \"{server}\", {SECRET}]}}")
    };
    let of = |(account, _): &(&str, bool)| {
        let text = WORKLOADS.replace("ACCOUNT", account);
        text.replace("FIRST", &container("first", "dial")).replace("CALLS", &container("calls", "ask"))
    };
    let host = on_the_host(&container("first", "dial"));
    let all: Vec<_> = ACCOUNTS.iter().map(of).chain([host]).collect();
    kubectl.apply(&[NAMESPACE, &all.join("\n---\n")].concat())
}

/// Every pod has called the server, by its identity; the client calls every pod, and another identity none.
pub(crate) fn call_and_are_called(mesh: &Installed) -> Result<()> {
    let wire = mesh.cluster.bed.capture_wire(NODES[0])?;
    for (account, is_taken) in ACCOUNTS {
        for what in ["statefulset/db", "daemonset/each"] {
            mesh.cluster.wait_for_rollout("kinds", &format!("{what}-{account}"))?;
        }
        until_ready(mesh, "kinds", &format!("aside-{account}"))?;
        for (kind, count) in KINDS {
            let mut pods = mesh.cluster.pods("kinds", &format!("kind={kind}"))?;
            pods.retain(|pod| pod.contains(account));
            ensure!(pods.len() == count, "{kind} of {account}: {pods:?}");
            for pod in &pods {
                has_called(mesh, pod, is_taken)?;
                if !is_taken {
                    is_refused_for_its_identity(mesh, account, pod)?;
                }
                is_called(mesh, pod).with_context(|| format!("{kind} {pod}"))?;
            }
        }
        by_services(mesh, account)?;
    }
    ensure!(!wire.contains(SECRET.as_bytes())?, "a call was in the clear");
    drop(wire);
    by_names(mesh)?;
    the_host_is_outside(mesh)?;
    cron_jobs(mesh)?;
    // Waits until all of it is gone: its CronJobs would call on.
    mesh.cluster.kubectl().run(&["delete", "namespace", "kinds"]).map(drop)
}

/// The one call of a pod's init container came to what its identity may.
fn has_called(mesh: &Installed, pod: &str, is_taken: bool) -> Result<()> {
    let name = pod.rsplit('/').next().unwrap_or_default();
    let said = mesh.cluster.kubectl().run(&["logs", "-n", "kinds", name, "-c", "first"])?;
    let dialed: Dialed = serde_json::from_str(&said).with_context(|| said.clone())?;
    let is_as_expected = matches!(dialed, Dialed::Answered(_)) == is_taken;
    ensure!(is_as_expected, "the first call of {pod}: {dialed:?}\n{}", lines_about(mesh, name));
    Ok(())
}

/// The server's node says that no policy allows what this pod's one call proved to be.
fn is_refused_for_its_identity(mesh: &Installed, account: &str, pod: &str) -> Result<()> {
    let name = pod.rsplit('/').next().unwrap_or_default();
    let all = addresses(&mesh.cluster.kubectl().get(&["pod", name, "-n", "kinds"])?)?;
    let address = all.iter().find(|address| address.is_ipv4()).context("an address of the server's family")?;
    refusal_of(mesh, account, &format!("\"source_address\":\"{address}:"))
}

/// Waits until the server's node says so of a call of this account, in a line with this text.
fn refusal_of(mesh: &Installed, account: &str, source: &str) -> Result<()> {
    let identity = format!("\"source_identity\":\"spiffe://cluster.local/ns/kinds/sa/{account}\"");
    let texts = ["\"direction\":\"inbound\"", "\"reason\":\"not_allowed\"", &*identity, source];
    mesh.wait_for_line(NODES[1], &texts).map(drop)
}

/// By both addresses of a pod.
fn is_called(mesh: &Installed, pod: &str) -> Result<()> {
    let name = pod.rsplit('/').next().unwrap_or_default();
    let addresses = addresses(&mesh.cluster.kubectl().get(&["pod", name, "-n", "kinds"])?)?;
    ensure!(addresses.len() == 2, "{addresses:?}");
    for address in addresses {
        answers_the_client_alone(mesh, SocketAddr::new(address, PORT), &[address])?;
    }
    Ok(())
}

/// By the addresses of Services of both families.
fn by_services(mesh: &Installed, account: &str) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let pods = kubectl.get(&["pods", "-n", "kinds", "-l", &format!("app=each-{account}")])?;
    let mut behind = Vec::new();
    for pod in pods["items"].as_array().context("a list")? {
        behind.extend(addresses(pod)?);
    }
    for (service, families) in [("both", &["v4", "v6"][..]), ("six", &["v6"])] {
        let service = kubectl.get(&["service", &format!("{service}-{account}"), "-n", "kinds"])?;
        let vips: Vec<IpAddr> = serde_json::from_value(service["spec"]["clusterIPs"].clone())?;
        let found: Vec<_> = vips.iter().map(|vip| if vip.is_ipv4() { "v4" } else { "v6" }).collect();
        ensure!(found == families, "{vips:?}");
        for vip in vips {
            answers_the_client_alone(mesh, SocketAddr::new(vip, 80), &behind)?;
        }
    }
    Ok(())
}

/// One of these pods answers the client, and none answers who is no client.
fn answers_the_client_alone(mesh: &Installed, to: SocketAddr, pods: &[IpAddr]) -> Result<()> {
    let dial = || Dial::to(to).say(SECRET);
    let talk =
        site(mesh, "client")?.act(socket::dial, dial())?.answered().with_context(|| format!("client to {to}"))?;
    let by = talk.who()?.local.ip();
    ensure!(pods.contains(&by), "{to} was answered by {by}");
    let refused = site(mesh, "friend")?.act(socket::dial, dial())?;
    ensure!(matches!(refused, Dialed::Failed(_)), "another identity at {to}: {refused:?}");
    Ok(())
}

/// A headless Service's names lead to the addresses of its pods, and to the new ones of a pod that was replaced.
fn by_names(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let client = site(mesh, "client")?;
    let resolved = |name: &str| client.act(resolve, format!("{name}:{PORT}"));
    let of = |pod: &str| addresses(&until_ready(mesh, "kinds", pod)?);
    let (first, second) = (of("db-worker-0")?, of("db-worker-1")?);
    let all = "db-worker.kinds.svc.cluster.local";
    wait_until("the names of a headless Service", || Ok(resolved(all)? == first.union(&second).copied().collect()))?;
    let own = format!("db-worker-0.{all}");
    ensure!(resolved(&own)? == first, "{own}: {:?}, not {first:?}", resolved(&own)?);
    kubectl.run(&["delete", "pod", "db-worker-0", "-n", "kinds"])?;
    let new = of("db-worker-0")?;
    ensure!(new != first, "{first:?} are its addresses still");
    wait_until("the new addresses of a name", || Ok(resolved(&own)? == new))?;
    for address in new {
        answers_the_client_alone(mesh, SocketAddr::new(address, PORT), &[address])?;
    }
    Ok(())
}

fn resolve(name: String) -> Result<BTreeSet<IpAddr>> {
    match name.to_socket_addrs() {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        // Not yet.
        Err(error) => {
            println!("{name}: {error}");
            Ok(BTreeSet::new())
        }
    }
}

/// What is on the host's network is named as outside, is plaintext to those that take nothing else, and is called as
/// without a mesh.
fn the_host_is_outside(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let pod = until_ready(mesh, "kinds", "host")?;
    ensure!(pod["metadata"]["annotations"]["ambient.istio.io/redirection"].is_null(), "{}", pod["metadata"]);
    has_called(mesh, "kinds/host", false)?;
    let address = pod["status"]["hostIP"].as_str().context("an address")?;
    mesh.wait_for_line(NODES[1], &["\"reason\":\"plaintext_refused\"", &format!("\"source_address\":\"{address}:")])?;
    let to: SocketAddr = format!("{address}:{HOST_PORT}").parse()?;
    for caller in ["client", "friend"] {
        let talk = site(mesh, caller)?.act(socket::dial, Dial::to(to).say("anything"))?.answered();
        ensure!(talk.with_context(|| format!("{caller} to the host"))?.who()?.app == "host");
    }
    wait_until("what is outside to be named", || {
        let about = "involvedObject.name=host,reason=OutsideMesh";
        let events = kubectl.get(&["events", "-n", "kinds", "--field-selector", about])?;
        Ok(events["items"].to_string().contains("it uses the host network"))
    })
}

/// A pod of the first node on its network.
fn on_the_host(first: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: host, namespace: kinds}}
spec:
  hostNetwork: true
  nodeSelector: {{kubernetes.io/hostname: {}}}
  terminationGracePeriodSeconds: 0
  initContainers: [{first}]
  containers: [{{name: main, image: \"localhost/underpass-testapp:testbed\", imagePullPolicy: Never, args: [echo, \"[::]:{HOST_PORT}\", host]}}]
",
        NODES[0]
    )
}

/// Each account's CronJob has made a Job, which has ended as its account may call.
fn cron_jobs(mesh: &Installed) -> Result<()> {
    for (account, is_taken) in ACCOUNTS {
        let ended = wait_for(&format!("a Job of cron-{account} to end"), || {
            let jobs = mesh.cluster.kubectl().get(&["jobs", "-n", "kinds"])?;
            let of = |job: &&Value| job["metadata"]["ownerReferences"][0]["name"] == format!("cron-{account}");
            let jobs = jobs["items"].as_array().into_iter().flatten().filter(of);
            let mut conditions = jobs.flat_map(|job| job["status"]["conditions"].as_array().into_iter().flatten());
            let is = |c: &&Value| c["status"] == "True" && (c["type"] == "Complete" || c["type"] == "Failed");
            Ok(conditions.find(is).map(|condition| condition["type"] == "Complete"))
        })
        .with_context(|| mesh.cluster.shown("kinds"))?;
        ensure!(ended == is_taken, "the Job of cron-{account} is complete: {ended}\n{}", mesh.cluster.shown("kinds"));
        if !is_taken {
            refusal_of(mesh, account, &format!("\"source_workload\":\"cron-{account}-"))?;
        }
    }
    Ok(())
}

/// The addresses of a pod.
fn addresses(pod: &Value) -> Result<BTreeSet<IpAddr>> {
    let addresses = pod["status"]["podIPs"].as_array().context("addresses")?;
    let parse = |address: &Value| Ok(address["ip"].as_str().context("an address")?.parse()?);
    addresses.iter().map(parse).collect()
}
