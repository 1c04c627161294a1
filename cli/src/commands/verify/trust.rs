//! What makes parts trust each other and policies count: definitions, the roots of the admission webhook, and the roots in namespaces.

use std::collections::BTreeSet;

use underpass_kube::write::{DefinitionState, POLICY_WEBHOOK, ROOT_CONFIG_MAP};
use underpass_telemetry::admin::view::Level;

use super::{
    super::{check::certificates, findings::Finding},
    seen::Seen,
};

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        seen.definitions.iter().filter_map(|(name, state)| definition(name, state.as_ref())).collect();
    findings.extend(seen.unanswered.iter().map(|one| one.finding(Level::Error)));
    let own = seen.roots.iter().find(|map| map.metadata.namespace == seen.namespace && map.metadata.is_ours());
    let Some(own) = own.map(|map| certificates(map.roots()).collect::<BTreeSet<_>>()) else {
        let subject = format!("ConfigMap {}/{ROOT_CONFIG_MAP}", seen.namespace);
        let found = "it does not exist, or is another owner's: agents have no root to know the control plane by";
        let remedy = "the control plane writes it: see its log; another owner's has to go first";
        findings.push(Finding::error(subject, found, remedy));
        return findings;
    };
    findings.extend(webhook(seen, &own));
    findings.extend(namespaces(seen, &own));
    findings
}

fn definition(name: &str, state: Option<&DefinitionState>) -> Option<Finding> {
    let subject = format!("CustomResourceDefinition {name}");
    match state {
        Some(DefinitionState::Established) => None,
        Some(DefinitionState::Waiting(why)) => {
            let found = if why.is_empty() {
                "it is not established".to_owned()
            } else {
                format!("it is not established: {why}")
            };
            Some(Finding::error(subject, found, "kubectl describe it; another definition may have its names"))
        }
        Some(DefinitionState::Deleting) => Some(Finding::error(
            subject,
            "it is being deleted, with all policies",
            "underpass crd apply once it is gone",
        )),
        None => Some(Finding::warning(
            subject,
            "it does not exist: no policy of this kind can be written",
            "underpass crd apply",
        )),
    }
}

fn webhook(seen: &Seen, own: &BTreeSet<String>) -> Option<Finding> {
    let of_ours = seen.webhooks.iter().flat_map(|one| one.webhooks.iter().map(move |webhook| (one, webhook)));
    let Some((configuration, webhook)) = of_ours.into_iter().find(|(_, webhook)| webhook.name == POLICY_WEBHOOK) else {
        let subject = "ValidatingWebhookConfiguration underpass";
        let found = "it does not exist: policies are judged once they are in, and not before";
        return Some(Finding::info(subject, found, "admission.enabled=true makes it"));
    };
    let subject = format!("ValidatingWebhookConfiguration {}", configuration.metadata.name);
    let known: BTreeSet<String> = certificates(&webhook.roots()).collect();
    if known.is_empty() {
        let found = "it has no roots yet: policies go in unseen";
        return Some(Finding::warning(subject, found, "the control plane writes them: see its log"));
    }
    if known.is_disjoint(own) {
        let found = "its roots are not the mesh's: the API server cannot ask, and policies go in unseen";
        return Some(Finding::error(subject, found, "the control plane writes them: see its log"));
    }
    None
}

/// Of those with pods in the mesh: their programs may ask for the mesh's root there.
fn namespaces(seen: &Seen, own: &BTreeSet<String>) -> Vec<Finding> {
    let in_mesh = seen.workloads.iter().filter(|workload| workload.in_mesh);
    let spaces: BTreeSet<&str> = in_mesh.map(|workload| workload.namespace.as_str()).collect();
    let finding = |space: &str| {
        let subject = format!("ConfigMap {space}/{ROOT_CONFIG_MAP}");
        match seen.roots.iter().find(|map| map.metadata.namespace == space) {
            None => Some(Finding::error(subject, "it does not exist", "the control plane writes it: see its log")),
            Some(map) if certificates(map.roots()).any(|certificate| own.contains(&certificate)) => None,
            Some(map) if map.metadata.is_ours() => {
                let found = "its root is not the mesh's";
                Some(Finding::error(subject, found, "the control plane writes it: see its log"))
            }
            Some(_) => {
                let found = "it is another owner's, with another root: programs that read it do not know the mesh";
                Some(Finding::warning(subject, found, "delete it, or give both meshes one CA (docs/control.md)"))
            }
        }
    };
    spaces.into_iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::seen::tests::{check as check_with, parsed},
        *,
    };

    fn check(change: impl FnOnce(&mut Seen), expected: &[&str]) {
        check_with(change, findings, expected);
    }

    #[test]
    fn a_sound_installation_has_no_findings() {
        check(|_| {}, &[]);
    }

    #[test]
    fn definitions() {
        let of = |state| move |s: &mut Seen| s.definitions[0].1 = state;
        check(
            of(None),
            &[
                "Warning: CustomResourceDefinition a.security.istio.io: it does not exist: no policy of this kind can be written",
            ],
        );
        check(
            of(Some(DefinitionState::Waiting("names are taken".into()))),
            &["Error: CustomResourceDefinition a.security.istio.io: it is not established: names are taken"],
        );
        check(
            of(Some(DefinitionState::Deleting)),
            &["Error: CustomResourceDefinition a.security.istio.io: it is being deleted, with all policies"],
        );
    }

    #[test]
    fn roots_of_the_webhook() {
        let of = |bundle: serde_json::Value| {
            parsed(
                json!([{"metadata": {"name": "underpass"}, "webhooks": [{"name": POLICY_WEBHOOK, "clientConfig": bundle}]}]),
            )
        };
        check(
            |s| s.webhooks = of(json!({})),
            &["Warning: ValidatingWebhookConfiguration underpass: it has no roots yet: policies go in unseen"],
        );
        // -----BEGIN CERTIFICATE-----BBBB
        let other = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tQkJCQg==";
        check(
            |s| s.webhooks = of(json!({"caBundle": other})),
            &[
                "Error: ValidatingWebhookConfiguration underpass: its roots are not the mesh's: the API server cannot ask, and policies \
               go in unseen",
            ],
        );
        check(
            |s| s.webhooks.clear(),
            &[
                "Info: ValidatingWebhookConfiguration underpass: it does not exist: policies are judged once they are in, and not before",
            ],
        );
    }

    #[test]
    fn roots_of_namespaces() {
        let map = |by: &str| {
            let pem = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";
            parsed(
                json!({"metadata": {"namespace": "shop", "labels": {"app.kubernetes.io/managed-by": by}}, "data": {"root-cert.pem": pem}}),
            )
        };
        check(|s| drop(s.roots.remove(0)), &["Error: ConfigMap shop/istio-ca-root-cert: it does not exist"]);
        check(
            |s| s.roots[0] = map("underpass"),
            &["Error: ConfigMap shop/istio-ca-root-cert: its root is not the mesh's"],
        );
        check(
            |s| s.roots[0] = map("istiod"),
            &[
                "Warning: ConfigMap shop/istio-ca-root-cert: it is another owner's, with another root: programs that read it do not know \
               the mesh",
            ],
        );
        check(
            |s| drop(s.roots.remove(1)),
            &[
                "Error: ConfigMap mesh/istio-ca-root-cert: it does not exist, or is another owner's: agents have no root to know the \
               control plane by",
            ],
        );
    }
}
