//! What the chart brings for policies: their definitions, which are none of the release's, and their admission, by its Service.

use anyhow::{Context, Result, ensure};
use underpass_tests::{cluster::NAMESPACE, installed::Installed, testbed::wait::wait_until};

/// The definitions take it, and the converter does not.
const BROKEN: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: shop}
spec: {rules: [{to: [{operation: {ports: [http]}}]}]}
";

/// A hook has defined the kinds and has left nothing else, and a broken policy is refused.
pub(crate) fn are_defined_and_reviewed(mesh: &Installed) -> Result<()> {
    let kubectl = mesh.cluster.kubectl();
    for name in ["authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io"] {
        let found = kubectl.get(&["customresourcedefinition", name])?;
        let metadata = &found["metadata"];
        ensure!(metadata["labels"]["app.kubernetes.io/managed-by"] == "underpass", "{metadata}");
        ensure!(metadata["annotations"]["meta.helm.sh/release-name"].is_null(), "{metadata}");
    }
    for object in ["job/underpass-crds", "serviceaccount/underpass-crds", "clusterrole/underpass-crds"] {
        let found = kubectl.run(&["get", "-n", NAMESPACE, object, "--ignore-not-found", "-o", "name"])?;
        ensure!(found.is_empty(), "{found}");
    }
    let mut last = String::new();
    let refused = wait_until("a broken policy to be refused", || {
        last = kubectl.apply(BROKEN).err().map(|error| format!("{error:#}")).unwrap_or_default();
        Ok(last.contains("denied the request")
            && last.contains("spec.rules[0].to[0].operation.ports[0]: `http` is not a port"))
    });
    refused.with_context(|| format!("{last}\n{}", mesh.cluster.shown(NAMESPACE)))?;
    // It may have gone in before the API server had the roots.
    kubectl.run(&["delete", "authorizationpolicy", "broken", "-n", "shop", "--ignore-not-found"]).map(drop)
}
