//! Documents as guides to Istio have them, applied to a fresh cluster in a guide's order: what is of this mesh goes in,
//! as written, and gets its conditions; a kind that is not defined is refused by kubectl, and by nothing of the mesh.

use anyhow::{Context, Result, ensure};
use underpass_tests::{
    cluster::{self, Cluster, conditions},
    testbed::{Kubectl, Lab, wait::wait_until},
};

/// Where the documents are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/tests/analyze/guide");

/// Whose definitions the cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Definitions {
    /// Ours: AuthorizationPolicy and PeerAuthentication.
    Ours,
    /// Istio's as well.
    Istios,
}

/// What kubectl says of a document.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Goes(&'static [&'static str]),
    /// The kinds, with their versions.
    Unknown(&'static [&'static str]),
    /// The same, while Istio's definitions are not there.
    OfIstio {
        unknown: &'static [&'static str],
        goes: &'static [&'static str],
    },
}

/// In the guide's order: applications, routing, mutual TLS and access, telemetry.
const DOCUMENTS: [(&str, Outcome); 9] = [
    ("deployment.yaml", Outcome::Goes(&["deployment.apps/cart created"])),
    ("pod.yaml", Outcome::Goes(&["pod/batch created"])),
    (
        "canary.yaml",
        Outcome::OfIstio {
            unknown: &[
                "\"VirtualService\" in version \"networking.istio.io/v1beta1\"",
                "\"DestinationRule\" in version \"networking.istio.io/v1beta1\"",
            ],
            goes: &[
                "virtualservice.networking.istio.io/cart created",
                "destinationrule.networking.istio.io/cart created",
            ],
        },
    ),
    (
        "mtls.yaml",
        Outcome::Goes(&[
            "peerauthentication.security.istio.io/default created",
            "peerauthentication.security.istio.io/db created",
            "peerauthentication.security.istio.io/staging created",
        ]),
    ),
    ("authz.yaml", Outcome::Goes(&["authorizationpolicy.security.istio.io/catalogue-readers created"])),
    // Of Istio's installer alone: `underpass install -f` takes it.
    ("operator.yaml", Outcome::Unknown(&["\"IstioOperator\" in version \"install.istio.io/v1alpha1\""])),
    // Istio has this kind in another version.
    ("filter.yaml", Outcome::Unknown(&["\"EnvoyFilter\" in version \"networking.istio.io/v1beta1\""])),
    ("kiali.yaml", Outcome::Goes(&["configmap/kiali created"])),
    ("alerts.yaml", Outcome::Unknown(&["\"PrometheusRule\" in version \"monitoring.coreos.com/v1\""])),
];

/// What a guide takes for granted, and the account that a controller would make.
pub(crate) const BEFORE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: staging}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: default}
";

/// Applies every document, in order.
pub(crate) fn apply(kubectl: &Kubectl, definitions: Definitions) -> Result<()> {
    let labelled = kubectl.run(&["label", "namespace", "default", "istio-injection=enabled"])?;
    ensure!(labelled.contains("namespace/default labeled"), "{labelled}");
    for (file, outcome) in DOCUMENTS {
        let mut applied = Ok(String::new());
        // About a kind that it does not know kubectl asks for the schemas, which take time after new definitions.
        wait_until("the schemas", || {
            applied = kubectl.run(&["apply", "-f", &format!("{FOLDER}/{file}")]);
            Ok(!applied.as_ref().is_err_and(|refused| format!("{refused:#}").contains("/openapi/v2?")))
        })?;
        let (texts, is_in) = match outcome {
            Outcome::Goes(texts) => (texts, true),
            Outcome::OfIstio { goes, .. } if definitions == Definitions::Istios => (goes, true),
            Outcome::OfIstio { unknown, .. } | Outcome::Unknown(unknown) => (unknown, false),
        };
        let (said, went_in) = match applied {
            Ok(said) => (said, true),
            Err(refused) => (format!("{refused:#}"), false),
        };
        let as_expected = went_in == is_in && texts.iter().all(|text| said.contains(text));
        ensure!(as_expected && said.contains("no matches for kind") != is_in, "{file}: {said}");
    }
    Ok(())
}

/// Each policy, and its conditions.
const POLICIES: [(&str, &str, &str, &[&str]); 4] = [
    ("peerauthentication", "istio-system", "default", &["Accepted=True/Accepted"]),
    ("peerauthentication", "shop", "db", &["Accepted=True/Accepted"]),
    ("peerauthentication", "staging", "staging", &["Accepted=True/Accepted"]),
    (
        "authorizationpolicy",
        "shop",
        "catalogue-readers",
        &["Accepted=True/Accepted", "ZtunnelAccepted=True/UnsupportedValue"],
    ),
];

pub(crate) fn goes_in_in_its_order(lab: &Lab) -> Result<()> {
    let mut cluster = Cluster::up(lab, BEFORE)?;
    let kubectl = cluster.kubectl().clone();
    kubectl.apply(cluster::WEBHOOK)?;
    cluster.control.start()?;
    // From now on a policy that the door would not serve would be refused.
    let unserved = lab.directory().join("unserved.yaml");
    std::fs::write(&unserved, UNSERVED)?;
    wait_until("the webhook to be asked", || {
        let asked = kubectl.run(&["apply", "--dry-run=server", "-f", &unserved.to_string_lossy()]);
        Ok(asked.is_err_and(|error| format!("{error:#}").contains("denied the request")))
    })?;
    apply(&kubectl, Definitions::Ours)?;
    for (kind, namespace, name, expected) in POLICIES {
        let mut last = Vec::new();
        let waited = wait_until(&format!("{expected:?} of {kind} {namespace}/{name}"), || {
            last = conditions::short(&conditions::by_type(&kubectl.get(&[kind, name, "-n", namespace])?));
            Ok(last == expected)
        });
        waited.with_context(|| format!("{last:?}"))?;
    }
    Ok(())
}

/// The definitions take it, and admission does not.
const UNSERVED: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: unserved, namespace: kube-public}
spec: {rules: [{to: [{operation: {ports: [http]}}]}]}
";
