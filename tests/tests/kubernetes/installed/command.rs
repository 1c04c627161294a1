//! The command from outside the cluster, with a kubeconfig alone: what it says of both nodes, and of the one that a pod is on. The pods of
//! `shop` are in the mesh, under STRICT and one policy.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_tests::{installed::Installed, testbed::wait::wait_until};

use super::{NODES, PORT, pod};

/// Selects nothing: a likely mistake.
const TYPO: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: typo, namespace: shop}
spec:
  selector: {matchLabels: {app: sever}}
  action: DENY
  rules: [{from: [{source: {namespaces: [legacy]}}]}]
";

pub(crate) fn answers_about_the_whole_cluster(mesh: &Installed) -> Result<()> {
    every_node_has_its_row(mesh)?;
    a_pod_is_asked_about_where_it_runs(mesh)?;
    versions_and_images(mesh)?;
    live_objects_are_analyzed(mesh)?;
    every_node_is_checked(mesh)?;
    the_installation_is_verified(mesh)?;
    the_root_is_replaced(mesh)?;
    a_namespace_is_labelled(mesh)
}

fn rows(of: &Value) -> Vec<&Value> {
    of.as_array().into_iter().flatten().collect()
}

fn nodes(of: &Value) -> Vec<&str> {
    rows(of).iter().filter_map(|row| row["node"].as_str()).collect()
}

fn every_node_has_its_row(mesh: &Installed) -> Result<()> {
    let status = mesh.command(&["status", "-o", "json"])?.json(0)?;
    ensure!(nodes(&status) == NODES && rows(&status).iter().all(|row| row["ready"] == true), "{status:#}");
    let said = |row: &&Value| row["status"]["node"] == row["node"];
    ensure!(rows(&status).iter().all(said), "each agent answers for its own node: {status:#}");
    mesh.command(&["status"])?.says(0, &["NODE", "node-1", "node-2", "connected"])?;
    let beside = mesh.underpass("node-2", &["status"])?;
    ensure!(
        beside.contains("on node-2") && beside.contains("control plane"),
        "the agent of the container's node: {beside}"
    );
    mesh.command(&["status", "--node", "node-3"])?.says(1, &["node node-3 has no agent", "node-1, node-2"])?;

    let facts = mesh.command(&["proxy-status", "-o", "json"])?.json(0)?;
    ensure!(nodes(&facts) == NODES, "{facts:#}");
    for row in rows(&facts) {
        let control = &row["control_plane"];
        let is_current = control["link"] == "connected" && control["complete"] == true && control["version"].is_u64();
        ensure!(is_current && control["applied_unix_s"].is_u64(), "{row:#}");
    }

    // Each state is known to the agent of one node alone.
    let workloads = mesh.command(&["workloads", "-n", "shop", "-o", "json"])?.json(0)?;
    let state = |row: &&Value| json!([row["node"], row["state"]["state"]]);
    let mut states: Vec<String> = rows(&workloads).iter().map(|row| state(row).to_string()).collect();
    states.sort();
    ensure!(states == [r#"["node-1","enrolled"]"#, r#"["node-2","enrolled"]"#], "{workloads:#}");

    let certificates = mesh.command(&["certificates", "-o", "json"])?.json(0)?;
    let of = |node: &str, account: &str| {
        rows(&certificates).iter().any(|row| {
            row["node"] == node && row["identity"].as_str().is_some_and(|identity| identity.ends_with(account))
        })
    };
    ensure!(of("node-1", "/sa/client") && of("node-2", "/sa/server"), "{certificates:#}");
    mesh.command(&["services", "-n", "shop"])?.says(0, &["server"])?;
    mesh.command(&["policies"])?.says(0, &["clients", "strict"])?;
    mesh.command(&["config"])?.says(1, &["--node"])?;
    mesh.command(&["config", "--node", "node-2", "--changed"])?.says(0, &["control-plane"])?;
    mesh.command(&["log", "debug", "--node", "node-2"])?.says(1, &["kubectl exec", "underpass log debug"])
}

fn a_pod_is_asked_about_where_it_runs(mesh: &Installed) -> Result<()> {
    let (client, server) = (pod(mesh, "shop/client")?, pod(mesh, "shop/server")?);
    let name = server.rsplit('/').next().context("a name")?;
    let to_client = format!("{client}:{PORT}");
    mesh.command(&["explain", &server, &to_client])?.says(0, &["allowed", "path hbone"])?;
    mesh.command(&["explain", "-n", "shop", name, &to_client])?.says(0, &["allowed"])?;
    let outsider = pod(mesh, "legacy/outsider")?;
    mesh.command(&["explain", &outsider, "server.shop:80"])?.says(2, &["denied", "shop/strict"])?;

    let described = mesh.command(&["x", "describe", "pod", &format!("{name}.shop"), "-o", "json"])?.json(0)?;
    ensure!(described["in_mesh"] == true && described["state"]["state"] == "enrolled", "{described:#}");
    ensure!(described["mtls"] == json!({"mode": "STRICT", "by": "shop/strict"}), "{described:#}");
    let policies: Vec<_> = rows(&described["policies"]).iter().map(|p| &p["name"]).collect();
    ensure!(policies == ["clients"], "{described:#}");
    mesh.command(&["x", "describe", "pod", &outsider])?.says(0, &["in the mesh   no"])?;
    mesh.command(&["x", "describe", "service", "server.shop"])?.says(0, &[name, "PeerAuthentication shop/strict"])?;
    mesh.command(&["x", "authz", "check", &server])?.says(0, &["ALLOW", "shop/clients"])?;
    mesh.command(&["authn", "tls-check", "server.shop"])?.says(0, &["shop/server:80", "STRICT"])?;
    mesh.command(&["x", "describe", "pod", "nothing.shop"])?.says(1, &["no pod shop/nothing"])?;
    let secret = mesh.command(&["pc", "secret", &server, "-o", "json"])?.json(0)?;
    ensure!(nodes(&secret) == ["node-2"] && rows(&secret)[0]["state"] == "valid", "{secret:#}");
    Ok(())
}

fn versions_and_images(mesh: &Installed) -> Result<()> {
    let versions = mesh.command(&["version", "-o", "json"])?.json(0)?;
    let agents = &versions["dataPlaneVersion"];
    ensure!(nodes(agents) == NODES, "{versions:#}");
    for part in rows(agents).into_iter().chain(rows(&versions["meshVersion"])) {
        ensure!(part["image"] == "localhost/underpass:testbed", "{part:#}");
    }
    ensure!(rows(agents).iter().all(|agent| agent["version"] == versions["clientVersion"]), "{versions:#}");
    ensure!(!rows(&versions["meshVersion"]).is_empty(), "{versions:#}");
    let alone = mesh.command(&["version", "--remote=false", "-o", "json"])?.json(0)?;
    ensure!(alone == json!({"clientVersion": versions["clientVersion"]}), "{alone:#}");
    Ok(())
}

fn live_objects_are_analyzed(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let about = |said: &Value| -> Vec<String> {
        let of = rows(&said["findings"]).into_iter().filter(|f| f["object"] == "AuthorizationPolicy shop/typo");
        of.map(|f| format!("{} {}", f["file"], f["severity"])).collect()
    };
    kubectl.apply(TYPO)?;
    let live = ["analyze", "-n", "shop", "-o", "json"];
    let found = mesh.command(&live)?.json(0)?;
    ensure!(about(&found) == [r#""the cluster" "warning""#], "{found:#}");
    // As if the file were applied.
    let file = mesh.cluster.outside()?.lab().directory().join("corrected.yaml");
    fs::write(&file, TYPO.replace("sever", "server"))?;
    let corrected = mesh.command(&[&live[..], &[&*file.to_string_lossy()]].concat())?.json(0)?;
    ensure!(about(&corrected).is_empty() && corrected["live"].as_u64() > Some(10), "{corrected:#}");
    let alone = mesh.command(&["analyze", "--use-kube=false", "-o", "json", &file.to_string_lossy()])?.json(0)?;
    ensure!(alone["live"].is_null() && alone["served"] == 1, "{alone:#}");
    kubectl.run(&["delete", "-n", "shop", "authorizationpolicy/typo"]).map(drop)
}

/// The findings of a level, as `subject: found`.
fn findings(of: &Value, level: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = rows(&of["findings"]).into_iter().filter(|f| f["level"] == level);
    all.map(|f| format!("{}: {}", text(&f["subject"]), text(&f["found"]))).collect()
}

/// The command before an installation: nothing stands in its way, by the word of the API server and of a pod on each node. The namespace
/// that is made for these goes with them.
pub(crate) fn finds_a_bare_cluster_fit(mesh: &Installed) -> Result<()> {
    let check = mesh.command(&["check", "--image", "localhost/underpass:testbed"])?;
    check.says(0, &["2 nodes: nothing is wrong"])?;
    ensure!(!check.text.contains("warning") && !check.text.contains("info"), "{check:?}");
    mesh.command(&["verify"])?.says(2, &["Namespace underpass-system: Underpass is not installed there"])?;
    let namespaces = mesh.cluster.kubectl().get(&["namespaces"])?;
    let is_own = |of: &&&Value| of["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "underpass-check";
    let namespaces = rows(&namespaces["items"]);
    let is_going = |of: &&Value| !of["metadata"]["deletionTimestamp"].is_null();
    ensure!(namespaces.iter().filter(is_own).all(is_going), "{namespaces:#?}");
    Ok(())
}

/// Beside its agent each node is sound, by the word of a pod there, of which nothing stays; a node that cannot run one is named.
fn every_node_is_checked(mesh: &Installed) -> Result<()> {
    let jobs_are_gone = || {
        let all = mesh.cluster.kubectl().get(&["jobs,pods", "-A", "-l", "app.kubernetes.io/name=underpass-check"])?;
        Ok(rows(&all["items"]).is_empty())
    };
    let check = ["check", "--image", "localhost/underpass:testbed", "-o", "json"];
    let found = mesh.command(&check)?.json(0)?;
    ensure!(found["looked_at"].as_str().is_some_and(|text| text.ends_with("2 nodes")), "{found:#}");
    ensure!(findings(&found, "error").is_empty() && findings(&found, "warning").is_empty(), "{found:#}");
    let installed = "Deployment underpass-system/underpass-control: Underpass is installed";
    ensure!(findings(&found, "info") == [installed], "{found:#}");
    wait_until("the pods of the check to go", jobs_are_gone)?;

    let absent = ["check", "--hub", "localhost", "--tag", "absent", "--timeout", "5", "--node", "node-2", "-o", "json"];
    let found = mesh.command(&absent)?.json(2)?;
    let errors = findings(&found, "error");
    ensure!(errors.len() == 1 && errors[0].starts_with("node node-2: its pod did not end within 5 s: "), "{found:#}");
    ensure!(errors[0].contains("localhost/underpass:absent"), "the kubelet's reason: {found:#}");
    wait_until("the pod of the check to go", jobs_are_gone)?;
    mesh.command(&["x", "precheck"])?.says(0, &["info: the nodes: ", "--image", "2 nodes: nothing is wrong"])
}

/// Selects the server and lets in what the application's port is, as its author saw it before the mesh.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{ports: [{port: 9080}]}]
";

/// Sound as it is; a NetworkPolicy without the port of tunnels is named, with the pods that it closes.
fn the_installation_is_verified(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    mesh.command(&["verify"])?.says(0, &["control plane 2, agents 2, pods in the mesh 2: nothing is wrong"])?;
    kubectl.apply(CLOSED)?;
    let found = mesh.command(&["verify-install", "-n", "shop", "-o", "json"])?.json(2)?;
    let server = pod(mesh, "shop/server")?;
    let name = server.rsplit('/').next().context("a name")?;
    let closed = format!("NetworkPolicy shop/closed: lets no TCP 15008 in, by which pods of the mesh reach {name}");
    ensure!(findings(&found, "error") == [closed], "{found:#}");
    mesh.command(&["verify", "-i", "elsewhere"])?
        .says(2, &["Namespace elsewhere: Underpass is not installed there"])?;
    kubectl.run(&["delete", "-n", "shop", "networkpolicy/closed"]).map(drop)
}

/// Each step asks the agents of both nodes, to which their kubelets bring the roots.
fn the_root_is_replaced(mesh: &Installed) -> Result<()> {
    let status = || mesh.command(&["ca", "status", "-o", "json"])?.json(0);
    let serials = |said: &Value| -> Vec<String> {
        rows(&said["roots"]).into_iter().filter_map(|root| root["serial"].as_str().map(str::to_owned)).collect()
    };
    let before = status()?;
    ensure!(before["agents"] == 2 && serials(&before).len() == 1, "{before:#}");
    mesh.command(&["ca", "activate"])?.says(1, &["no rotation is at this step", "`prepare` begins one"])?;
    mesh.command(&["ca", "prepare"])?.says(0, &["prepared", "next is underpass ca activate"])?;
    mesh.command(&["ca", "activate"])?.says(0, &["activated", "next is underpass ca retire"])?;
    mesh.command(&["ca", "retire"])?.says(1, &["too early"])?;
    mesh.command(&["ca", "retire", "--certificate-lifetime", "0"])?.says(0, &["steady"])?;
    let mut after = Value::Null;
    wait_until("both agents to trust the new root alone", || {
        let said = mesh.command(&["ca", "status", "-o", "json"])?;
        let is_settled = said.exit == 0;
        after = if is_settled { said.json(0)? } else { Value::Null };
        Ok(is_settled)
    })?;
    ensure!(serials(&after).len() == 1 && serials(&after) != serials(&before), "{before:#} {after:#}");
    Ok(())
}

fn a_namespace_is_labelled(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let label = || -> Result<Value> {
        let namespace = kubectl.get(&["namespace", "spare"])?;
        Ok(namespace["metadata"]["labels"]["istio.io/dataplane-mode"].clone())
    };
    kubectl.run(&["create", "namespace", "spare"])?;
    mesh.command(&["label", "namespace", "spare"])?.says(0, &["namespace/spare labeled"])?;
    ensure!(label()? == "ambient", "{}", label()?);
    kubectl.run(&["label", "--overwrite", "namespace", "spare", "istio.io/dataplane-mode=none"])?;
    mesh.command(&["label", "namespace", "spare"])?.says(1, &["none", "--overwrite"])?;
    mesh.command(&["label", "ns", "spare", "--overwrite"])?.says(0, &["labeled"])?;
    mesh.command(&["label", "namespace", "spare", "--remove"])?.says(0, &["unlabeled"])?;
    ensure!(label()?.is_null(), "{}", label()?);
    kubectl.run(&["delete", "namespace", "spare", "--wait=false"])?;
    wait_until("the namespace to go", || {
        let all = kubectl.get(&["namespaces"])?;
        Ok(rows(&all["items"]).iter().all(|of| of["metadata"]["name"] != "spare"))
    })
}
