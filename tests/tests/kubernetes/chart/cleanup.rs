//! The objects of `helm uninstall`: made when the release is gone, in order, and with nothing of it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    helm::{Helm, NAMESPACE, at, containers, strings},
    programs::{program, says_help},
    values,
};

/// The name of each of them.
const NAME: &str = "underpass-cleanup";
/// Their moment.
pub(crate) const WHEN: &str = "post-delete";
/// The chart without them.
const DISABLED: &str = "cleanup: {enabled: false}";
const AGENT: &str = "/usr/local/bin/underpass-agent";

/// They are hooks after the deletion, and refer to each other alone.
pub(crate) fn needs_nothing_of_the_release() -> Result<()> {
    let helm = Helm::new()?;
    for values in [values::NONE, values::ALL, values::ISTIO, "cni: {enabled: false}"] {
        let objects = helm.render(values)?;
        let weights =
            [("ServiceAccount", "-10"), ("Role", "-10"), ("RoleBinding", "-10"), ("DaemonSet", "0"), ("Job", "10")];
        let hooks: BTreeSet<_> =
            objects.hooks(WHEN).map(|object| object["kind"].as_str().unwrap_or_default()).collect();
        ensure!(
            hooks == weights.map(|(kind, _)| kind).into() && objects.hooks(WHEN).count() == weights.len(),
            "{hooks:?}"
        );
        for (kind, weight) in weights {
            let object = objects.one(kind, NAME)?;
            let annotations = &object["metadata"]["annotations"];
            ensure!(annotations["helm.sh/hook"] == WHEN, "{annotations}");
            ensure!(annotations["helm.sh/hook-weight"] == *weight, "{annotations}");
            let policy = &annotations["helm.sh/hook-delete-policy"];
            ensure!(policy == "before-hook-creation,hook-succeeded" && object["metadata"]["namespace"] == NAMESPACE);
        }
        let binding = objects.one("RoleBinding", NAME)?;
        ensure!(binding["roleRef"]["kind"] == "Role" && binding["roleRef"]["name"] == NAME, "{binding}");
        for kind in ["DaemonSet", "Job"] {
            let pod = at(objects.one(kind, NAME)?, "spec.template.spec");
            ensure!(pod["serviceAccountName"] == NAME && pod["hostNetwork"] == true, "{pod}");
            let class = pod["priorityClassName"].as_str();
            ensure!(class.is_some_and(|class| class.starts_with("system-")), "{pod}");
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                let kinds: Vec<_> = volume.as_object().context("a volume")?.keys().collect();
                ensure!(kinds == ["hostPath", "name"], "{volume}");
            }
            for container in containers(pod) {
                ensure!(container["envFrom"].is_null(), "{container}");
                for variable in container["env"].as_array().into_iter().flatten() {
                    ensure!(!at(variable, "valueFrom.fieldRef.fieldPath").is_null(), "{variable}");
                }
            }
        }
    }
    // The twin: what the search finds in what does refer to the release.
    let agent = helm.render(values::NONE)?;
    let volumes = at(agent.one("DaemonSet", "underpass-agent")?, "spec.template.spec.volumes").to_string();
    ensure!(volumes.contains("configMap"), "{volumes}");
    Ok(())
}

/// A node is cleaned where agents were, with their rights, and not beside one.
pub(crate) fn follows_the_agents() -> Result<()> {
    let helm = Helm::new()?;
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let objects = helm.render(values)?;
        let agent = objects.one("DaemonSet", "underpass-agent")?;
        let cleanup = objects.one("DaemonSet", NAME)?;
        let (agent, cleanup) = (at(agent, "spec.template"), at(cleanup, "spec.template"));
        for same in ["nodeSelector", "hostPID", "imagePullSecrets"] {
            ensure!(agent["spec"][same] == cleanup["spec"][same], "{same}: {cleanup}");
        }
        let near = |pod: &Value| at(pod, "spec.affinity.nodeAffinity").clone();
        ensure!(near(agent) == near(cleanup), "{cleanup}");
        ensure!(cleanup["spec"]["tolerations"] == json!([{"operator": "Exists"}]), "{cleanup}");
        let apart = at(cleanup, "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution");
        ensure!(apart.as_array().is_some_and(|apart| apart.len() == 1), "{apart}");
        ensure!(apart[0]["topologyKey"] == "kubernetes.io/hostname", "{apart}");
        let wanted = at(&apart[0], "labelSelector.matchLabels").as_object().context("labels")?;
        let selects = |pod: &Value| wanted.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value);
        ensure!(selects(agent) && !selects(cleanup), "{apart}");

        let [first, ..] = &cleanup["spec"]["initContainers"].as_array().context("an init container")?[..] else {
            anyhow::bail!("no init container: {cleanup}")
        };
        let of_agent = &agent["spec"]["containers"][0];
        for same in ["appArmorProfile", "seccompProfile", "seLinuxOptions", "privileged", "runAsUser", "capabilities"] {
            let [ours, its] = [first, of_agent].map(|container| &container["securityContext"][same]);
            ensure!(ours == its, "{same}: {ours} and {its}");
        }
        let mounts = |container: &Value| container["volumeMounts"].as_array().cloned().unwrap_or_default();
        let its = mounts(of_agent);
        for mount in mounts(first) {
            ensure!(its.contains(&mount), "{mount} of {its:?}");
        }
    }
    // A plugin that an earlier release installed goes as well.
    let without = helm.render("cni: {enabled: false}")?;
    let first = at(without.one("DaemonSet", NAME)?, "spec.template.spec.initContainers")[0].clone();
    let arguments = strings(&first["args"]);
    ensure!(arguments.contains(&"--cni-config-dir=/etc/cni/net.d".to_owned()), "{arguments:?}");
    Ok(())
}

/// What runs on the nodes, and what is named for those that did not answer, are the same command, and programs take them.
pub(crate) fn is_what_programs_take() -> Result<()> {
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let objects = Helm::new()?.render(values)?;
        let pod = at(objects.one("DaemonSet", NAME)?, "spec.template.spec");
        let first = &pod["initContainers"][0];
        ensure!(strings(&first["command"]) == [AGENT, "cleanup"], "{first}");
        let arguments = strings(&first["args"]);
        let agent = program("UNDERPASS_AGENT_BIN")?;
        says_help(&agent, &[&["cleanup".to_owned()], &arguments[..]].concat(), "Usage: underpass-agent cleanup")?;
        ensure!(first["env"][0]["name"] == "NODE_NAME", "{first}");
        ensure!(strings(&pod["containers"][0]["command"]) == [AGENT, "pause"], "{pod}");

        let wait = objects.container("Job", NAME)?;
        ensure!(strings(&wait["command"]) == ["/usr/local/bin/underpass-control", "wait-for-cleanup"], "{wait}");
        let waits = strings(&wait["args"]);
        let control = program("UNDERPASS_CONTROL_BIN")?;
        let usage = "Usage: underpass-control wait-for-cleanup";
        says_help(&control, &[&["wait-for-cleanup".to_owned()], &waits[..]].concat(), usage)?;
        let by_hand = waits.iter().find_map(|one| one.strip_prefix("--by-hand=")).context("a command by hand")?;
        ensure!(by_hand == format!("underpass-agent cleanup --node=NODE {}", arguments.join(" ")), "{by_hand}");
    }
    Ok(())
}

/// It can be left out and given more time, and the notes say which.
pub(crate) fn can_be_left_out() -> Result<()> {
    let helm = Helm::new()?;
    let with = helm.render(values::NONE)?;
    let without = helm.render(DISABLED)?;
    ensure!(without.hooks(WHEN).count() == 0);
    let others: Vec<_> =
        with.0.iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"] != WHEN).collect();
    ensure!(others.len() + 5 == with.0.len() && others == without.0.iter().collect::<Vec<_>>(), "only hooks differ");
    let check = |values: &str, seconds: u64| -> Result<()> {
        let objects = helm.render(values)?;
        let arguments = strings(&objects.container("Job", NAME)?["args"]);
        ensure!(arguments.contains(&format!("--timeout={seconds}")), "{arguments:?}");
        ensure!(objects.one("Job", NAME)?["spec"]["activeDeadlineSeconds"] == seconds + 30);
        Ok(())
    };
    check(values::NONE, 240)?;
    check("cleanup: {timeoutSeconds: 1000000}", 1_000_000)?;
    let [with, without] = [values::NONE, DISABLED].map(|values| helm.notes(values));
    let (with, without) = (with?, without?);
    ensure!(with.contains("names those that do not answer"), "{with}");
    ensure!(without.contains("leaves captured pods and the CNI plugin"), "{without}");
    Ok(())
}
