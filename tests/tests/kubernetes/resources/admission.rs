//! Admission: a policy that the control plane could not serve is refused at `kubectl apply`, and nothing depends on that.

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    cluster::{self, Cluster},
    testbed::{Kubectl, Lab, wait::wait_until},
};

/// An AuthorizationPolicy `NAMESPACE/web` with this spec.
fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: web, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// The definitions take it, and the converter does not.
const BAD: &str = "{rules: [{to: [{operation: {ports: [http]}}]}]}";
const GOOD: &str = "{rules: [{to: [{operation: {ports: ['80']}}]}]}";
/// It is served, and not as its author expects.
const L7: &str = "{rules: [{to: [{operation: {methods: [GET]}}]}]}";

const FIELD: &str = "AuthorizationPolicy shop/web: spec.rules[0].to[0].operation.ports[0]: `http` is not a port";
const WARNING: &str =
    "AuthorizationPolicy shop/web: spec.rules[0].to[0].operation.methods: methods can only be judged by a waypoint";

/// kubectl's answer, warnings included: they are errors of the command here, although the object went in.
fn apply(lab: &Lab, kubectl: &Kubectl, manifest: &str, more: &[&str]) -> Result<String> {
    let file = lab.directory().join("policy.yaml");
    std::fs::write(&file, manifest)?;
    let apply = ["apply", "--warnings-as-errors", "-f", &*file.to_string_lossy()];
    kubectl.run(&[&apply[..], more].concat())
}

fn bundle(kubectl: &Kubectl) -> Result<Option<String>> {
    let found = kubectl.get(&["validatingwebhookconfiguration", "underpass"])?;
    Ok(found["webhooks"][0]["clientConfig"]["caBundle"].as_str().map(str::to_owned))
}

/// How often the lease of the control plane's replicas has changed hands.
fn transitions(kubectl: &Kubectl) -> Result<u64> {
    let lease = kubectl.get(&["lease", "underpass-control", "-n", cluster::NAMESPACE])?;
    lease["spec"]["leaseTransitions"].as_u64().with_context(|| format!("no transitions: {lease}"))
}

fn says(outcome: &Result<String>) -> String {
    outcome.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default()
}

pub(crate) fn refuses_what_the_door_would_not_serve(lab: &Lab) -> Result<()> {
    let mut cluster = Cluster::up(lab, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")?;
    let kubectl = cluster.kubectl().clone();
    let apply = |manifest: &str, more: &[&str]| apply(lab, &kubectl, manifest, more);
    kubectl.apply(cluster::WEBHOOK)?;
    cluster.control.start()?;
    wait_until("the roots of the webhook", || Ok(bundle(&kubectl)?.is_some()))?;

    println!("refused, with field and reason");
    // The API server hears of the roots a moment after they were written.
    wait_until("the webhook to be asked", || {
        Ok(says(&apply(&policy("shop", BAD), &["--dry-run=server"])).contains("denied the request"))
    })?;
    let refused = says(&apply(&policy("shop", BAD), &[]));
    ensure!(
        refused.contains("admission webhook \"policies.underpass.dev\" denied the request") && refused.contains(FIELD),
        "{refused}"
    );
    kubectl.get(&["authorizationpolicy", "web", "-n", "shop"]).err().context("it went in")?;

    println!("taken, with and without a warning");
    let warned = says(&apply(&policy("shop", L7), &[]));
    ensure!(warned.contains(WARNING) && !warned.contains("denied"), "{warned}");
    apply(&policy("shop", GOOD), &[])?;
    let refused = says(&apply(&policy("shop", BAD), &[]));
    ensure!(refused.contains(FIELD), "an update as well: {refused}");
    apply(&policy("kube-system", BAD), &[]).context("kube-system is left alone")?;
    for (result, at_least) in [("refused", 3), ("warned", 1), ("accepted", 1)] {
        let count = cluster.control.metric("underpass_admission_reviews_total", &format!("result=\"{result}\""))?;
        ensure!(count >= at_least, "{result}: {count}");
    }

    println!("without the control plane");
    cluster.control.kill()?;
    apply(&policy("shop", BAD), &[]).context("a policy goes in while there is no answer")?;

    println!("roots that are taken away come back, and what is broken can be changed for the better");
    let without = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    kubectl.run(&["patch", "validatingwebhookconfiguration", "underpass", "--type", "json", "-p", without])?;
    ensure!(bundle(&kubectl)?.is_none());
    let before = transitions(&kubectl)?;
    cluster.control.start()?;
    wait_until("the roots of the webhook", || Ok(bundle(&kubectl)?.is_some()))?;
    // The one that was killed could not give the lease back: nothing was written before it was taken over.
    let after = transitions(&kubectl)?;
    ensure!(after > before, "written without the lease: {before} transitions, then {after}");
    let worse = "{rules: [{to: [{operation: {ports: [http, https]}}]}]}";
    wait_until("the webhook to be asked", || {
        Ok(says(&apply(&policy("shop", worse), &["--dry-run=server"])).contains("denied the request"))
    })?;
    let labelled = policy("shop", BAD).replace("name: web", "name: web, labels: {a: b}");
    let warned = says(&apply(&labelled, &[]));
    ensure!(warned.contains(FIELD) && !warned.contains("denied"), "{warned}");
    apply(&policy("shop", GOOD), &[])?;
    cluster.control.running()?.ended()?.map_or(Ok(()), |exit| anyhow::bail!("the control plane ended: {exit}"))
}
