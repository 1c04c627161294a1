//! `helm test`, as a user runs it.

use anyhow::{Context, Result, ensure};
use underpass_tests::{cluster::NAMESPACE, installed::Installed};

/// The callers.
const CALLERS: [&str; 3] = ["outside", "denied", "allowed"];
/// A policy that lets every identity call the server of the test.
const TOO_WIDE: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: too-wide, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: underpass-test-server}}
  rules: [{}]
";

/// It shows mutual TLS and a denied call, leaves nothing, and fails where a call that must be denied is answered.
pub(crate) fn shows_mutual_tls_and_a_denied_call(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    let test = ["test", "underpass", "-n", NAMESPACE];
    let said = mesh.cluster.helm(&test).with_context(|| mesh.cluster.shown(NAMESPACE))?;
    // The Job of each, and its service account.
    for caller in CALLERS {
        let name = format!("underpass-test-{caller}");
        let suites = said.split("TEST SUITE:").filter(|suite| suite.split_whitespace().next() == Some(&*name));
        ensure!(suites.filter(|suite| suite.contains("Succeeded")).count() == 2, "{caller}: {said}");
    }
    let after = left(mesh)?;
    ensure!(after.is_empty(), "left: {after}");

    kubectl.apply(&TOO_WIDE.replace("NAMESPACE", NAMESPACE))?;
    let failed = mesh.cluster.helm(&test).err().context("a call that is not denied fails the test")?;
    let log = kubectl.run(&["logs", "-n", NAMESPACE, "job/underpass-test-denied"])?;
    ensure!(log.contains("which a policy guards, answers"), "{log}: {failed:#}");
    // Its log stays for a day, and nothing else.
    ensure!(left(mesh)?.lines().eq(["job.batch/underpass-test-denied"]), "left: {}", left(mesh)?);
    kubectl.run(&["delete", "-n", NAMESPACE, "authorizationpolicy/too-wide", "job/underpass-test-denied"]).map(drop)
}

/// The names of what is there of the test, but for pods, which end with their owners.
fn left(mesh: &Installed) -> Result<String> {
    let kinds = "deployments,jobs,services,serviceaccounts,authorizationpolicies,peerauthentications";
    let all = mesh.cluster.kubectl().run(&["get", kinds, "-n", NAMESPACE, "-o", "name"])?;
    Ok(all.lines().filter(|name| name.contains("/underpass-test")).collect::<Vec<_>>().join("\n"))
}
