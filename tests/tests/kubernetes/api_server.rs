//! The testbed's API server: it is a real one, which the nodes reach, which says who a token belongs to, which comes back
//! with all it had, and of which nothing is left. Level kubernetes; no mesh.

#[path = "../support/victim.rs"]
mod victim;

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use underpass_tests::{
    cluster,
    testbed::{
        ApiServer, Description, Kubectl, Lab, Testbed,
        harness::{self, Scenario},
        wait::wait_until,
    },
};

use victim::{UP, VICTIM};

fn main() -> ExitCode {
    harness::main(&[
        Scenario::new(SAMPLES, samples_are_served_as_in_a_cluster),
        Scenario::new("nodes_reach_it_as_far_as_rbac_lets_them", nodes_reach_it_as_far_as_rbac_lets_them),
        Scenario::new("tokens_are_of_one_pod_for_one_audience", tokens_are_of_one_pod_for_one_audience),
        Scenario::new("comes_back_with_all_it_had", comes_back_with_all_it_had),
        Scenario::outside("nothing_is_left_of_a_killed_scenario", nothing_is_left_of_a_killed_scenario),
        Scenario::outside("without_its_programs_it_says_so", without_its_programs_it_says_so),
        Scenario::new(VICTIM, victim).hidden(),
    ])
}

const SAMPLES: &str = "samples_are_served_as_in_a_cluster";

/// Two pods, the second of an account that has no other.
const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: node-1, serviceAccountName: web, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: 10.244.1.10, podIPs: [{ip: 10.244.1.10}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop}
spec: {nodeName: node-1, serviceAccountName: db, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: 10.244.1.11, podIPs: [{ip: 10.244.1.11}]}
";

/// A node for the API server, and another one.
fn up(lab: &Lab) -> Result<(Testbed, ApiServer)> {
    let description = Description::default()
        .node("control-plane", &["172.18.0.10", "fd00:172:18::10"])?
        .node("node-1", &["172.18.0.2", "fd00:172:18::2"])?;
    let bed = Testbed::up(lab, &description)?;
    let server = ApiServer::start(bed.node("control-plane")?)?;
    Ok((bed, server))
}

/// The manifests of the bookinfo sample.
fn samples() -> Result<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples/bookinfo");
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {folder}"))? {
        texts.push(fs::read_to_string(entry?.path())?);
    }
    Ok(texts.join("\n---\n"))
}

/// The names of what `kubectl get` lists, sorted.
fn names(kubectl: &Kubectl, what: &[&str]) -> Result<Vec<String>> {
    let listed = kubectl.get(what)?;
    let items = listed["items"].as_array().with_context(|| format!("a list, not {listed}"))?;
    let mut names: Vec<_> =
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    Ok(names)
}

fn samples_are_served_as_in_a_cluster(lab: &Lab) -> Result<()> {
    let (_bed, server) = up(lab)?;
    println!("ready after {:?}", server.started_in());
    let kubectl = server.kubectl();
    kubectl.define(&cluster::definitions())?;
    kubectl.populate(&samples()?)?;

    let pods = names(kubectl, &["pods", "-n", "bookinfo"])?;
    ensure!(pods == ["details-v1", "productpage-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3"]);
    let pod = kubectl.get(&["pod", "reviews-v2", "-n", "bookinfo"])?;
    ensure!(pod["spec"]["nodeName"] == "node-1" && pod["spec"]["serviceAccountName"] == "bookinfo-reviews", "{pod}");
    let status = &pod["status"];
    ensure!(status["phase"] == "Running" && status["podIPs"][1]["ip"] == "fd00:10:244:1::11", "{status}");
    ensure!(status["conditions"][0]["type"] == "Ready" && status["conditions"][0]["status"] == "True", "{status}");
    // The API server's own doing: a uid that no manifest has.
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    ensure!(uid.len() == 36 && !uid.starts_with("00000000"), "{pod}");

    let service = kubectl.get(&["service", "reviews", "-n", "bookinfo"])?;
    ensure!(service["spec"]["clusterIPs"] == json!(["10.96.0.12", "fd00:10:96::12"]), "{service}");
    let node = kubectl.get(&["node", "node-2"])?;
    ensure!(node["status"]["addresses"][1]["address"] == "fd00:172:18::3", "{node}");
    for kind in ["authorizationpolicies.v1.security.istio.io", "authorizationpolicies.v1beta1.security.istio.io"] {
        let policies = names(kubectl, &[kind, "-n", "bookinfo"])?;
        ensure!(policies.len() == 5 && policies[0] == "allow-nothing", "{kind}: {policies:?}");
    }
    let policy = kubectl.get(&["authorizationpolicy", "details-viewer", "-n", "bookinfo"])?;
    let principals = &policy["spec"]["rules"][0]["from"][0]["source"]["principals"];
    ensure!(*principals == json!(["cluster.local/ns/bookinfo/sa/bookinfo-productpage"]), "{policy}");
    let strict = kubectl.get(&["peerauthentication", "default", "-n", "bookinfo"])?;
    ensure!(strict["spec"]["mtls"]["mode"] == "STRICT", "{strict}");
    // Once more, with a change.
    kubectl.populate(&samples()?.replace("version: v2", "version: v4"))?;
    let changed = kubectl.get(&["pod", "reviews-v2", "-n", "bookinfo"])?;
    ensure!(changed["metadata"]["labels"]["version"] == "v4" && changed["metadata"]["uid"] == uid, "{changed}");
    ensure!(changed["status"]["podIPs"] == status["podIPs"], "{changed}");
    // An API server judges what it is given, as a directory of files does not.
    let refused = kubectl.apply("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 0}]}");
    let refused = format!("{:#}", refused.err().context("a port 0 is taken")?);
    ensure!(refused.contains("spec.ports[0].port"), "{refused}");
    Ok(())
}

fn nodes_reach_it_as_far_as_rbac_lets_them(lab: &Lab) -> Result<()> {
    const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reads-pods}
rules: [{apiGroups: [''], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: web-reads-pods}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reads-pods}
subjects: [{kind: ServiceAccount, name: web, namespace: shop}]
";
    let (bed, server) = up(lab)?;
    server.kubectl().populate(PODS)?;
    let node = bed.node("node-1")?.shell()?;
    let web = server.kubectl().token_of_account("shop/web", "https://kubernetes.default.svc.cluster.local")?;
    let web = server.kubectl_as("web", &web)?.at(&node);
    let refusal = |kubectl: &Kubectl, what: &str| -> Result<String> {
        Ok(format!("{:#}", kubectl.run(&["get", what, "-A"]).err().context("it is let")?))
    };
    let said = refusal(&web, "pods")?;
    ensure!(said.contains("system:serviceaccount:shop:web") && said.contains("forbidden"), "{said}");
    server.kubectl().apply(ROLE)?;
    wait_until("the role to have its effect", || Ok(web.run(&["get", "pods", "-A"]).is_ok()))?;
    ensure!(names(&web, &["pods", "-A"])? == ["db", "web"]);
    let said = refusal(&web, "secrets")?;
    ensure!(said.contains("forbidden"), "{said}");
    let said = refusal(&server.kubectl_as("forged", "forged")?.at(&node), "pods")?;
    ensure!(said.contains("Unauthorized") || said.contains("logged in"), "{said}");
    // By the link between the nodes, which a test can cut.
    bed.fabric().cut()?;
    web.run(&["get", "pods", "-A", "--request-timeout", "1s"]).err().context("the link is cut")?;
    ensure!(names(server.kubectl(), &["pods", "-A"])? == ["db", "web"]);
    bed.fabric().heal()?;
    ensure!(names(&web, &["pods", "-A"])? == ["db", "web"]);
    Ok(())
}

/// What the API server says of a token and an audience.
fn review(kubectl: &Kubectl, token: &str, audience: &str) -> Result<Value> {
    let review = kubectl.create(&json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": { "token": token, "audiences": [audience] },
    }))?;
    Ok(review["status"].clone())
}

fn tokens_are_of_one_pod_for_one_audience(lab: &Lab) -> Result<()> {
    let (_bed, server) = up(lab)?;
    let kubectl = server.kubectl();
    kubectl.populate(PODS)?;
    let token = kubectl.token_of_pod("shop/web", "istio-ca")?;
    let status = review(kubectl, &token, "istio-ca")?;
    ensure!(status["authenticated"] == true && status["audiences"] == json!(["istio-ca"]), "{status}");
    let user = &status["user"];
    ensure!(user["username"] == "system:serviceaccount:shop:web", "{user}");
    let pod = kubectl.get(&["pod", "web", "-n", "shop"])?;
    let extra = |key: &str| user["extra"][format!("authentication.kubernetes.io/{key}")][0].clone();
    ensure!(extra("pod-name") == "web" && extra("pod-uid") == pod["metadata"]["uid"], "{user}");
    ensure!(extra("node-name") == "node-1", "{user}");

    let other = review(kubectl, &token, "another")?;
    ensure!(other["authenticated"] != true, "{other}");
    let (head, _) = token.rsplit_once('.').context("a JWT")?;
    let forged = review(kubectl, &format!("{head}.AAAA"), "istio-ca")?;
    ensure!(forged["authenticated"] != true, "{forged}");
    // It ends with its pod, not with its account. Another one, because a token that was just accepted is so from a cache.
    let token = kubectl.token_of_pod("shop/web", "istio-ca")?;
    let account = kubectl.token_of_account("shop/web", "istio-ca")?;
    kubectl.delete_pod("shop/web")?;
    let status = review(kubectl, &token, "istio-ca")?;
    ensure!(status["authenticated"] != true, "{status}");
    let status = review(kubectl, &account, "istio-ca")?;
    ensure!(status["authenticated"] == true, "{status}");
    Ok(())
}

fn comes_back_with_all_it_had(lab: &Lab) -> Result<()> {
    let (_bed, mut server) = up(lab)?;
    server.kubectl().populate(PODS)?;
    let token = server.kubectl().token_of_pod("shop/db", "istio-ca")?;
    let before = server.kubectl().get(&["pods", "-n", "shop"])?["items"].clone();
    let exit = server.kill()?;
    ensure!(exit.shell_code() == 128 + libc::SIGKILL, "{exit}");
    let gone = server.kubectl().is_ready().err().context("it is ready although it was killed")?;
    ensure!(format!("{gone:#}").contains("refused"), "{gone:#}");
    server.start_again()?;
    let after = server.kubectl().get(&["pods", "-n", "shop"])?["items"].clone();
    ensure!(before == after, "{before} {after}");
    let status = review(server.kubectl(), &token, "istio-ca")?;
    ensure!(status["authenticated"] == true, "{status}");

    server.pause_etcd()?;
    wait_until("the API server to miss etcd", || Ok(server.kubectl().is_ready().is_err()))?;
    server.resume_etcd()?;
    server.wait_until_ready()?;
    ensure!(names(server.kubectl(), &["pods", "-n", "shop"])? == ["db", "web"]);
    Ok(())
}

/// Has an API server, says so, and waits for what is done to it.
fn victim(lab: &Lab) -> Result<()> {
    let (_bed, server) = up(lab)?;
    server.kubectl().populate(PODS)?;
    println!("{UP}");
    loop {
        std::thread::park();
    }
}

fn nothing_is_left_of_a_killed_scenario() -> Result<()> {
    let mut child = victim::start("wait", "60")?;
    let (cgroups, processes) = victim::wait(&mut child)?;
    let names: Vec<_> =
        processes.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok()).collect();
    for name in ["etcd", "kube-apiserver"] {
        ensure!(names.iter().any(|running| running.trim() == name), "{name} does not run: {names:?}");
    }
    kill(Pid::from_raw(*processes.iter().min().context("processes")?), Signal::SIGKILL)?;
    let (status, said) = victim::finish(child)?;
    ensure!(status.code() == Some(101) && said.contains("killed by SIGKILL"), "{status}: {said}");
    // What failed shows what the two said.
    ensure!(said.contains("-- etcd.log") && said.contains("-- kube-apiserver.log"), "{said}");
    victim::check_nothing_left(&cgroups, &processes)
}

fn without_its_programs_it_says_so() -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["--exact", SAMPLES]).env_remove("UNDERPASS_KUBERNETES").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(101), "{}: {said}", output.status);
    ensure!(said.contains("run `cargo xtask test kubernetes`") && said.contains("0 passed; 1 failed"), "{said}");
    Ok(())
}
