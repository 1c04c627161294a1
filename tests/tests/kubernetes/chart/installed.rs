//! The chart at a real API server: every object is taken as it is, and the release can be changed and removed.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use underpass_tests::{
    cluster,
    testbed::{ApiServer, Description, Lab, Testbed, wait::wait_until},
};

use super::{
    helm::{CHART, Helm, NAMESPACE},
    values,
};

/// A node with an API server, and Helm there.
pub(crate) fn up(lab: &Lab) -> Result<(Testbed, ApiServer, Helm)> {
    let description = Description::default().node("control-plane", &["172.18.0.10", "fd00:172:18::10"])?;
    let bed = Testbed::up(lab, &description)?;
    let server = ApiServer::start(bed.node("control-plane")?)?;
    let helm = Helm::of(bed.node("control-plane")?.shell()?, server.kubectl().kubeconfig())?;
    Ok((bed, server, helm))
}

const HERE: [&str; 2] = ["--namespace", NAMESPACE];

/// Strictly: an unknown field, a duplicate one or a warning is an error.
pub(crate) fn an_api_server_takes_every_object(lab: &Lab) -> Result<()> {
    let (_bed, server, helm) = up(lab)?;
    let kubectl = server.kubectl();
    kubectl.define(&cluster::definitions())?;
    kubectl.run(&["create", "namespace", NAMESPACE])?;
    let apply = |objects: &str| -> Result<String> {
        let file = lab.directory().join("rendered.yaml");
        fs::write(&file, objects)?;
        let strictly = ["apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f"];
        kubectl.run(&[&strictly[..], &[&*file.to_string_lossy()]].concat())
    };
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let said = apply(&helm.text(values)?)?;
        for object in ["daemonset.apps/underpass-agent created", "deployment.apps/underpass-control created"] {
            ensure!(said.contains(object), "{said}");
        }
    }
    let misspelt = helm.text(values::NONE)?.replace("hostPID:", "hostPid:");
    let refused = format!("{:#}", apply(&misspelt).err().context("hostPid is taken")?);
    ensure!(refused.contains("hostPid"), "{refused}");

    // As a user does. No controller is here that would run a hook.
    let installed = helm.run(&[&["install", "underpass", CHART, "--no-hooks"][..], &HERE].concat())?;
    ensure!(installed.contains("STATUS: deployed") && installed.contains("underpass status"), "{installed}");
    let agent = || kubectl.get(&["daemonset", "underpass-agent", "-n", NAMESPACE]);
    let before = agent()?["metadata"]["generation"].clone();
    let set =
        |value: &str| helm.run(&[&["upgrade", "underpass", CHART, "--no-hooks", "--set", value][..], &HERE].concat());
    set("agent.settings.release-drain=1m")?;
    ensure!(agent()?["metadata"]["generation"] == before, "a running agent follows this one");
    let file = kubectl.get(&["configmap", "underpass-agent", "-n", NAMESPACE])?;
    ensure!(file["data"]["agent.yaml"].as_str().is_some_and(|text| text.contains("release-drain: 1m")), "{file}");
    set("agent.settings.workers=2")?;
    ensure!(agent()?["metadata"]["generation"] != before, "a running agent cannot follow this one");
    let misspelt = set("agent.settings.wokers=2").err().context("it is taken")?;
    ensure!(format!("{misspelt:#}").contains("wokers"), "{misspelt:#}");
    Ok(())
}

/// It is made where there is none and stays when the release goes; one that was there is left as it is.
pub(crate) fn the_root_namespace_is_made_and_kept(lab: &Lab) -> Result<()> {
    let (_bed, server, helm) = up(lab)?;
    let kubectl = server.kubectl();
    let root = |name: &str| kubectl.get(&["namespace", name]);
    let install = ["install", "underpass", CHART, "--no-hooks", "--create-namespace"];
    // No controller is there that would run a hook.
    let uninstall = [&["uninstall", "underpass", "--no-hooks"][..], &HERE].concat();
    helm.run(&[&install[..], &HERE].concat())?;
    let made = root("istio-system")?;
    ensure!(made["metadata"]["annotations"]["meta.helm.sh/release-name"] == "underpass", "{made}");
    helm.run(&[&["upgrade", "underpass", CHART, "--no-hooks"][..], &HERE].concat())?;
    ensure!(root("istio-system")?["metadata"]["uid"] == made["metadata"]["uid"]);
    helm.run(&uninstall)?;
    ensure!(root("istio-system")?["metadata"]["uid"] == made["metadata"]["uid"], "it is kept");
    kubectl.get(&["daemonset", "underpass-agent", "-n", NAMESPACE]).err().context("it is removed")?;
    // Again: now it is there already.
    helm.run(&[&["install", "underpass", CHART, "--no-hooks"][..], &HERE].concat())?;
    helm.run(&uninstall)?;

    // Without a cluster it could be another's.
    ensure!(!helm.text(values::NONE)?.contains("kind: Namespace"), "its owner is not known");

    kubectl.run(&["create", "namespace", "policies"])?;
    let before = root("policies")?;
    let other = ["--set", "meshConfig.rootNamespace=policies"];
    helm.run(&[&["install", "underpass", CHART, "--no-hooks"][..], &HERE, &other].concat())?;
    ensure!(root("policies")? == before, "another's namespace is left as it is");
    let manifest = helm.run(&[&["get", "manifest", "underpass"][..], &HERE].concat())?;
    ensure!(!manifest.contains("kind: Namespace"), "{manifest}");
    // The release's own namespace can be the root as well.
    let own = ["--set", &format!("meshConfig.rootNamespace={NAMESPACE}")];
    helm.run(&[&["upgrade", "underpass", CHART, "--no-hooks"][..], &HERE, &own].concat())?;
    Ok(())
}

/// An agent may write one annotation, on pods of its node, and nothing else of a pod.
pub(crate) fn an_agent_may_write_one_annotation(lab: &Lab) -> Result<()> {
    let (_bed, server, helm) = up(lab)?;
    let kubectl = server.kubectl();
    helm.run(&[&["install", "underpass", CHART, "--no-hooks", "--create-namespace"][..], &HERE].concat())?;
    kubectl.populate(&PODS.replace("NAMESPACE", NAMESPACE))?;
    let token = kubectl.token_of_pod(&format!("{NAMESPACE}/agent-1"), ApiServer::AUDIENCE)?;
    let agent = server.kubectl_as("agent-1", &token)?;
    let patch = |pod: &str, patch: &str| {
        agent.run(&["patch", "pod", pod, "-n", "shop", "-p", patch]).map_err(|e| format!("{e:#}"))
    };
    const REDIRECTION: &str = r#"{"metadata":{"annotations":{"ambient.istio.io/redirection":"enabled"}}}"#;
    const UNDONE: &str = r#"{"metadata":{"annotations":{"ambient.istio.io/redirection":null}}}"#;
    const IMAGE: &str = r#"{"spec":{"containers":[{"name":"main","image":"another"}]}}"#;
    // The API server hears of a policy a moment after it was made; the right itself is RBAC's, and there from the beginning.
    // A dry run, because a change that got through once would be none from then on, and none is permitted.
    wait_until("the policy to be in force", || {
        let asked = agent.run(&["patch", "pod", "here", "-n", "shop", "-p", IMAGE, "--dry-run=server"]);
        Ok(asked.is_err_and(|e| format!("{e:#}").contains(NOTHING_ELSE)))
    })?;
    for (pod, what, expected) in [
        ("here", REDIRECTION, None),
        ("here", UNDONE, None),
        ("here", IMAGE, Some(NOTHING_ELSE)),
        ("here", r#"{"metadata":{"labels":{"app":"another"}}}"#, Some(NOTHING_ELSE)),
        ("here", r#"{"metadata":{"labels":null}}"#, Some(NOTHING_ELSE)),
        ("here", r#"{"metadata":{"finalizers":["a/b"]}}"#, Some(NOTHING_ELSE)),
        ("here", r#"{"metadata":{"annotations":{"another":"x"}}}"#, Some("no annotation of a pod but")),
        ("here", r#"{"metadata":{"annotations":{"note":null}}}"#, Some("no annotation of a pod but")),
        ("there", REDIRECTION, Some("pods of its own node alone")),
    ] {
        match (patch(pod, what), expected) {
            (Ok(_), None) => {}
            (Err(refused), Some(reason)) => ensure!(refused.contains(reason), "{pod} {what}: {refused}"),
            (outcome, _) => bail!("{pod} {what}: {outcome:?}"),
        }
    }
    // The twin: the same by another user.
    kubectl.run(&["patch", "pod", "here", "-n", "shop", "-p", IMAGE]).map(drop)
}

/// The control plane may take one taint from a node, and do nothing else to it.
pub(crate) fn control_may_remove_one_taint(lab: &Lab) -> Result<()> {
    let (_bed, server, helm) = up(lab)?;
    let kubectl = server.kubectl();
    helm.run(&[&["install", "underpass", CHART, "--create-namespace", "--no-hooks"][..], &HERE].concat())?;
    kubectl.populate(&NODE.replace("NAMESPACE", NAMESPACE))?;
    let token = kubectl.token_of_pod(&format!("{NAMESPACE}/control-1"), ApiServer::AUDIENCE)?;
    let control = server.kubectl_as("control-1", &token)?;
    let patch = |patch: &str, more: &[&str]| {
        let arguments = [&["patch", "node", "new", "--type=merge", "-p", patch][..], more].concat();
        control.run(&arguments).map_err(|e| format!("{e:#}"))
    };
    // The API server adds one to a new node.
    let before = kubectl.get(&["node", "new"])?["spec"]["taints"].as_array().cloned().context("taints")?;
    let mut rest = before.clone();
    rest.retain(|taint| taint["key"] != "underpass.dev/agent-not-ready");
    ensure!(before.len() == rest.len() + 1, "{before:?}");
    let taints = |taints: &[Value]| json!({"spec": {"taints": taints}}).to_string();
    let another = [&rest[..], &[json!({"key": "c", "effect": "NoSchedule"})]].concat();
    const ALL: &str = r#"{"spec":{"taints":[]}}"#;
    wait_until("the policy to be in force", || {
        Ok(patch(ALL, &["--dry-run=server"]).is_err_and(|e| e.contains(ONE_TAINT)))
    })?;
    for (what, is_allowed) in [
        (ALL, false),
        (&*taints(&another), false),
        (r#"{"spec":{"unschedulable":true}}"#, false),
        (r#"{"metadata":{"labels":{"zone":"a"}}}"#, false),
        (r#"{"metadata":{"annotations":{"note":"x"}}}"#, false),
        (&*taints(&rest), true),
        // What is gone cannot be set again.
        (&*taints(&before), false),
    ] {
        match (patch(what, &[]), is_allowed) {
            (Ok(_), true) => {}
            (Err(refused), false) => ensure!(refused.contains(ONE_TAINT), "{what}: {refused}"),
            (outcome, _) => bail!("{what}: {outcome:?}"),
        }
    }
    // The twin: the same by another user.
    kubectl.run(&["patch", "node", "new", "--type=merge", "-p", ALL]).map(drop)
}

/// The policy's words for any other change.
const ONE_TAINT: &str = "nothing of a node but takes its taint underpass.dev/agent-not-ready away";

/// A node that waits for its agent, and a pod of the control plane.
const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: new}
spec: {taints: [{key: a/b, effect: NoSchedule}, {key: underpass.dev/agent-not-ready, effect: NoSchedule}]}
---
apiVersion: v1
kind: Pod
metadata: {name: control-1, namespace: NAMESPACE}
spec: {nodeName: old, serviceAccountName: underpass-control, containers: [{name: main, image: main}]}
";

/// The policy's words for any other change.
const NOTHING_ELSE: &str = "nothing of a pod but its annotation";

/// An agent's pod, one of its node, and one of another.
const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-1, namespace: NAMESPACE}
spec: {nodeName: node-1, serviceAccountName: underpass-agent, containers: [{name: main, image: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: here, namespace: shop, labels: {app: here}, annotations: {note: x}}
spec: {nodeName: node-1, containers: [{name: main, image: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: there, namespace: shop}
spec: {nodeName: node-2, containers: [{name: main, image: main}]}
";
