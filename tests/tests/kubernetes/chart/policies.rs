//! Policies: their definitions, which no release owns, and their admission, which nothing depends on.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use underpass_config::definitions;
use underpass_tests::cluster;

use super::{
    helm::{Helm, NAMESPACE, Objects, at, strings},
    programs::{program, says_help},
    values,
};

/// The name of each object of the hook.
const NAME: &str = "underpass-crds";
/// Its moments.
const WHEN: &str = "pre-install,pre-upgrade";

/// A Job with the rights to these definitions alone, by the command that users have.
pub(crate) fn definitions_are_applied_by_a_hook() -> Result<()> {
    let helm = Helm::new()?;
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let objects = helm.render(values)?;
        let weights = [("ServiceAccount", "-10"), ("ClusterRole", "-10"), ("ClusterRoleBinding", "-10"), ("Job", "0")];
        ensure!(objects.hooks(WHEN).count() == weights.len());
        for (kind, weight) in weights {
            let annotations = &objects.one(kind, NAME)?["metadata"]["annotations"];
            ensure!(
                annotations["helm.sh/hook"] == WHEN && annotations["helm.sh/hook-weight"] == *weight,
                "{annotations}"
            );
            let gone = ["before-hook-creation,hook-succeeded,hook-failed", "before-hook-creation,hook-succeeded"];
            ensure!(annotations["helm.sh/hook-delete-policy"] == gone[usize::from(kind == "Job")], "{annotations}");
        }
        // On a cluster of new nodes as well.
        let tolerated = &at(objects.one("Job", NAME)?, "spec.template.spec.tolerations")[0];
        ensure!(*tolerated == json!({"key": "underpass.dev/agent-not-ready", "operator": "Exists"}), "{tolerated}");
        let names: BTreeSet<_> = definitions::all().into_iter().map(|definition| definition.name).collect();
        let rights = strings(&objects.one("ClusterRole", NAME)?["rules"][0]["resourceNames"]);
        ensure!(rights.iter().cloned().collect::<BTreeSet<_>>() == names, "{rights:?}");
        let binding = objects.one("ClusterRoleBinding", NAME)?;
        ensure!(
            binding["subjects"] == json!([{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]),
            "{binding}"
        );

        let job = objects.container("Job", NAME)?;
        let command = strings(&job["command"]);
        ensure!(command == ["/usr/local/bin/underpass", "crd", "apply"], "{command:?}");
        says_help(&program("UNDERPASS_CLI_BIN")?, &command[1..], "Usage: underpass crd apply")?;
        // Nothing of the release is there yet.
        let pod = at(objects.one("Job", NAME)?, "spec.template.spec");
        ensure!(pod["serviceAccountName"] == NAME && pod["volumes"].is_null() && job["env"].is_null(), "{pod}");
        // Nor is a definition among what the release owns.
        ensure!(!objects.0.iter().any(|object| object["kind"] == "CustomResourceDefinition"));
    }
    let without = "crds: {enabled: false}";
    ensure!(helm.render(without)?.hooks(WHEN).count() == 0);
    let [with, without] = [values::NONE, without].map(|values| helm.notes(values));
    let (with, without) = (with?, without?);
    ensure!(with.contains("`underpass crd delete` removes both"), "{with}");
    ensure!(without.contains("`underpass crd apply`"), "{without}");
    Ok(())
}

/// What the chart asks of API servers is what the tests have, and leads to a port of the control plane.
pub(crate) fn admission_cannot_be_in_the_way() -> Result<()> {
    let tested = Objects::parse(&cluster::WEBHOOK.replace(cluster::NAMESPACE, NAMESPACE))?;
    let tested = tested.one("ValidatingWebhookConfiguration", "underpass")?;
    for values in [values::NONE, values::ALL, values::ISTIO] {
        let objects = Helm::new()?.render(values)?;
        let given = objects.one("ValidatingWebhookConfiguration", "underpass")?;
        ensure!(given["webhooks"] == tested["webhooks"], "{given} and {tested}");
        let webhook = &given["webhooks"][0];
        ensure!(
            given["webhooks"].as_array().map(Vec::len) == Some(1) && webhook["failurePolicy"] == "Ignore",
            "{webhook}"
        );
        let resources = strings(&webhook["rules"][0]["resources"]);
        ensure!(resources == ["authorizationpolicies", "peerauthentications"], "{resources:?}");
        let not_in = strings(&webhook["namespaceSelector"]["matchExpressions"][0]["values"]);
        // Not the release's own namespace, which may be the root namespace.
        ensure!(not_in == ["kube-system"], "{not_in:?}");
        // The control plane alone knows the roots, and an upgrade leaves what it wrote.
        ensure!(webhook["clientConfig"]["caBundle"].is_null(), "{webhook}");

        let service = &webhook["clientConfig"]["service"];
        let name = service["name"].as_str().context("a Service")?;
        let named = |list: &Value, key: &str, value: &Value| {
            list.as_array().into_iter().flatten().find(|one| one[key] == *value).cloned()
        };
        let port = named(&objects.one("Service", name)?["spec"]["ports"], "port", &service["port"]);
        let target = port.context("a port of the Service")?["targetPort"].clone();
        let port = named(&objects.container("Deployment", "underpass-control")?["ports"], "name", &target);
        let port = port.context("a port of the container")?["containerPort"].clone();
        ensure!(port == 15017, "{port}");
    }
    let without = Helm::new()?.render("admission: {enabled: false}")?;
    ensure!(without.one("ValidatingWebhookConfiguration", "underpass").is_err());
    Ok(())
}
