//! Other meshes and networks in a cluster: what of them stands in the way of this one. They are known by the names and labels that their
//! own charts give.

use std::collections::BTreeSet;

use underpass_kube::{
    survey::objects::{ConfigMap, Metadata, PodSeen},
    write::ROOT_CONFIG_MAP,
};

use super::{super::findings::Finding, seen::Seen};
use crate::table::few;

/// The namespaces that a finding names.
const NAMED: usize = 5;
/// Containers that take the connections of their own pod.
const SIDECARS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];
/// Other meshes, by the name of a Deployment, without those that have a rule of their own.
const MESHES: [(&str, &str); 4] = [
    ("linkerd-destination", "Linkerd"),
    ("kuma-control-plane", "Kuma"),
    ("consul-connect-injector", "Consul"),
    ("osm-controller", "Open Service Mesh"),
];
/// What Istio's CNI agent is called.
const ISTIO_CNI: &str = "istio-cni-node";

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut findings = roots(seen);
    findings.extend(istio(seen));
    findings.extend(others(seen));
    findings.extend(networks(seen));
    findings.extend(sidecars(&seen.pods));
    findings
}

/// A chart's object: its label `app`, or its name.
fn is(metadata: &Metadata, app: &str) -> bool {
    metadata.labels.get("app").is_some_and(|label| label == app) || metadata.name == app
}

/// Whose roots are in the ConfigMaps that pods of a mesh read.
fn roots(seen: &Seen) -> Vec<Finding> {
    let (ours, foreign): (Vec<_>, Vec<_>) = seen.roots.iter().partition(|map| map.metadata.is_ours());
    let own: BTreeSet<String> = ours.iter().flat_map(|map| certificates(map.roots())).collect();
    let shares = |map: &&ConfigMap| certificates(map.roots()).any(|certificate| own.contains(&certificate));
    let others: Vec<&ConfigMap> = foreign.into_iter().filter(|map| !shares(map)).collect();
    if others.is_empty() {
        return Vec::new();
    }
    let spaces: Vec<&str> = others.iter().map(|map| map.metadata.namespace.as_str()).collect();
    let in_namespaces = namespaces(&spaces);
    if let Some(istiod) = seen.deployments.iter().find(|one| is(&one.metadata, "istiod")) {
        let subject = format!("Deployment {}", istiod.metadata.object());
        let found = format!("its root certificate is in the ConfigMaps {ROOT_CONFIG_MAP} of {in_namespaces}");
        let remedy = format!(
            "give both the same CA: the Secret cacerts in namespace {}, with istiod's root (docs/control.md); or uninstall istiod",
            seen.namespace
        );
        return vec![if seen.has_own_ca && own.is_empty() {
            let found = format!("{found}; Underpass will take its root from the Secret cacerts");
            Finding::warning(subject, found, "see that this Secret has istiod's root")
        } else {
            Finding::error(subject, format!("{found}, and Underpass has another one"), &remedy)
        }];
    }
    let left = "they are of a mesh that is gone: delete them, and Underpass writes its own";
    let mut findings = Vec::new();
    if spaces.contains(&seen.namespace.as_str()) {
        let subject = format!("ConfigMap {}/{ROOT_CONFIG_MAP}", seen.namespace);
        findings.push(Finding::error(subject, "it is another owner's: agents would trust its root", "delete it"));
    }
    if spaces.iter().any(|space| *space != seen.namespace) {
        let found = format!("they have another root, in {in_namespaces}");
        findings.push(Finding::warning(format!("ConfigMaps {ROOT_CONFIG_MAP}"), found, left));
    }
    findings
}

/// The certificates of a PEM text, as one line of base64 each.
pub(in crate::commands) fn certificates(pem: &str) -> impl Iterator<Item = String> {
    let body = |part: &str| part.split("-----END").next().unwrap_or_default().split_whitespace().collect::<String>();
    let all: Vec<String> = pem.split("-----BEGIN CERTIFICATE-----").skip(1).map(body).collect();
    all.into_iter()
}

fn namespaces(all: &[&str]) -> String {
    format!("namespace{} {}", if all.len() == 1 { "" } else { "s" }, few(all, NAMED))
}

fn istio(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in seen.deployments.iter().filter(|one| is(&one.metadata, "istiod")) {
        findings.push(Finding::warning(
            format!("Deployment {}", one.metadata.object()),
            "Istio is installed: its sidecars and Underpass' pods reach each other where both have one root and trust domain",
            "uninstall Istio once its workloads have moved",
        ));
    }
    for one in &seen.webhooks {
        let is_injector = |name: &str| name.contains("sidecar-injector") && name.ends_with("istio.io");
        if one.webhooks.iter().any(|webhook| is_injector(&webhook.name)) {
            findings.push(Finding::warning(
                format!("MutatingWebhookConfiguration {}", one.metadata.name),
                "it gives sidecars to new pods of namespaces labelled istio-injection=enabled, which Underpass enrols: pods with a \
                 sidecar stay outside",
                "uninstall it, or label namespaces with istio.io/dataplane-mode=ambient alone",
            ));
        }
    }
    for one in &seen.daemon_sets {
        let subject = || format!("DaemonSet {}", one.metadata.object());
        if is(&one.metadata, "ztunnel") {
            findings.push(Finding::error(
                subject(),
                "Istio's ambient mesh takes the connections of pods with the same labels",
                "uninstall ztunnel and istio-cni first",
            ));
        } else if one.metadata.name == ISTIO_CNI {
            findings.push(Finding::warning(
                subject(),
                "Istio's CNI agent changes the CNI configuration that Underpass follows",
                "uninstall it once no pod has a sidecar of its",
            ));
        }
    }
    findings
}

fn others(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in &seen.deployments {
        if let Some((_, mesh)) = MESHES.iter().find(|(name, _)| *name == one.metadata.name) {
            findings.push(Finding::warning(
                format!("Deployment {}", one.metadata.object()),
                format!("{mesh} is installed: a pod in both meshes has its connections taken twice"),
                "put each pod into one mesh alone",
            ));
        }
    }
    findings
}

fn networks(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in &seen.daemon_sets {
        let subject = || format!("DaemonSet {}", one.metadata.object());
        if one.metadata.name == "cilium" {
            let is_on = |key: &str| seen.cilium.get(key).is_some_and(|value| value == "true");
            if is_on("cni-exclusive") {
                findings.push(Finding::error(
                    subject(),
                    "Cilium renames every CNI configuration but its own (cni-exclusive): pods would start without the mesh",
                    "set Cilium's value cni.exclusive=false, or install without the plugin (cni.enabled=false)",
                ));
            }
            let replaces =
                seen.cilium.get("kube-proxy-replacement").is_some_and(|value| ["true", "strict"].contains(&&**value));
            if (is_on("bpf-lb-sock") || replaces) && !is_on("bpf-lb-sock-hostns-only") {
                findings.push(Finding::warning(
                    subject(),
                    "Cilium's socket load balancer turns services' addresses into pods' before Underpass sees them",
                    "set Cilium's value socketLB.hostNamespaceOnly=true",
                ));
            }
        } else if one.metadata.name.contains("multus") {
            findings.push(Finding::warning(
                subject(),
                "Multus delegates to the first CNI configuration, which is Underpass' once it is installed",
                "name the other plugin's file in Multus' settings (docs/install.md)",
            ));
        }
    }
    findings
}

fn sidecars(pods: &[PodSeen]) -> Option<Finding> {
    let has_sidecar = |pod: &&PodSeen| pod.containers().any(|container| SIDECARS.contains(&&*container.name));
    let with = pods.iter().filter(|pod| !pod.has_ended()).filter(has_sidecar);
    let spaces: Vec<&str> = with.map(|pod| pod.metadata.namespace.as_str()).collect();
    let unique: Vec<&str> = spaces.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let count = spaces.len();
    (count > 0).then(|| {
        let found = format!("{count} with a sidecar of another mesh, in {}: they stay outside", namespaces(&unique));
        Finding::info("the pods", found, "they come in once they are started without it")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::seen::tests::{lines, parsed, sound},
        *,
    };

    fn check(change: impl FnOnce(&mut Seen), expected: &[&str]) {
        let mut seen = sound();
        change(&mut seen);
        let lines = lines(findings(&seen));
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}\n{expected}");
        }
    }

    fn named(namespace: &str, name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace}})
    }

    fn roots(namespace: &str, certificate: &str, is_ours: bool) -> Value {
        let by = if is_ours { "underpass" } else { "istiod" };
        let pem = format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n");
        json!({"metadata": {"name": "istio-ca-root-cert", "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": by}},
            "data": {"root-cert.pem": pem}})
    }

    #[test]
    fn nothing_else_is_there() {
        check(|s| s.roots = parsed(json!([roots("a", "AA", true)])), &[]);
        check(|s| s.deployments = parsed(json!([named("a", "web")])), &[]);
    }

    #[test]
    fn an_istiod_with_another_root_is_refused() {
        let istiod = || {
            parsed(
                json!([{"metadata": {"name": "istiod-1-26", "namespace": "istio-system", "labels": {"app": "istiod"}}}]),
            )
        };
        let refused = "Error: Deployment istio-system/istiod-1-26: its root certificate is in the ConfigMaps istio-ca-root-cert of \
                       namespaces a, b, and Underpass has another one";
        let beside = "Warning: Deployment istio-system/istiod-1-26: Istio is installed";
        let foreign = || json!([roots("a", "BB", false), roots("b", "BB", false)]);
        check(|s| (s.deployments, s.roots) = (istiod(), parsed(foreign())), &[refused, beside]);
        let with_ours = json!([roots("a", "BB", false), roots("b", "BB", false), roots("c", "AA", true)]);
        check(|s| (s.deployments, s.roots, s.has_own_ca) = (istiod(), parsed(with_ours), true), &[refused, beside]);
        let plugged = "Warning: Deployment istio-system/istiod-1-26: its root certificate";
        check(|s| (s.deployments, s.roots, s.has_own_ca) = (istiod(), parsed(foreign()), true), &[beside, plugged]);
        // The same CA in both.
        let shared = json!([roots("a", "A\nA", false), roots("b", "AA", true)]);
        check(|s| (s.deployments, s.roots) = (istiod(), parsed(shared)), &[beside]);
    }

    #[test]
    fn roots_of_a_mesh_that_is_gone() {
        check(
            |s| s.roots = parsed(json!([roots("a", "BB", false)])),
            &["Warning: ConfigMaps istio-ca-root-cert: they have another root, in namespace a"],
        );
        check(
            |s| s.roots = parsed(json!([roots("underpass-system", "BB", false)])),
            &["Error: ConfigMap underpass-system/istio-ca-root-cert: it is another owner's"],
        );
    }

    #[test]
    fn other_meshes() {
        let webhook = |name: &str| parsed(json!([{"metadata": {"name": "w"}, "webhooks": [{"name": name}]}]));
        check(
            |s| s.webhooks = webhook("rev.namespace.sidecar-injector.istio.io"),
            &["Warning: MutatingWebhookConfiguration w: "],
        );
        check(|s| s.webhooks = webhook("linkerd-proxy-injector.linkerd.io"), &[]);
        check(|s| s.daemon_sets = parsed(json!([named("i", "ztunnel")])), &["Error: DaemonSet i/ztunnel: "]);
        check(
            |s| s.daemon_sets = parsed(json!([named("i", "istio-cni-node")])),
            &["Warning: DaemonSet i/istio-cni-node: "],
        );
        check(
            |s| s.deployments = parsed(json!([named("l", "linkerd-destination")])),
            &["Warning: Deployment l/linkerd-destination: Linkerd is installed"],
        );
        let pod = |name: &str, phase: &str| {
            json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"containers": [{"name": "x"}], "initContainers": [{"name": name}]},
                "status": {"phase": phase}})
        };
        check(
            |s| {
                s.pods =
                    parsed(json!([pod("istio-proxy", "Running"), pod("istio-proxy", "Failed"), pod("y", "Running")]))
            },
            &["Info: the pods: 1 with a sidecar of another mesh, in namespace a: they stay outside"],
        );
    }

    #[test]
    fn networks() {
        let cilium = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            move |s: &mut Seen| {
                (s.daemon_sets, s.cilium) = (parsed(json!([named("kube-system", "cilium")])), settings);
            }
        };
        let exclusive = "Error: DaemonSet kube-system/cilium: Cilium renames";
        let balancer = "Warning: DaemonSet kube-system/cilium: Cilium's socket load balancer";
        check(cilium(&[]), &[]);
        check(cilium(&[("cni-exclusive", "false"), ("kube-proxy-replacement", "false")]), &[]);
        check(cilium(&[("cni-exclusive", "true")]), &[exclusive]);
        check(cilium(&[("bpf-lb-sock", "true")]), &[balancer]);
        check(cilium(&[("kube-proxy-replacement", "true")]), &[balancer]);
        check(cilium(&[("bpf-lb-sock", "true"), ("bpf-lb-sock-hostns-only", "true")]), &[]);
        check(
            |s| s.daemon_sets = parsed(json!([named("kube-system", "kube-multus-ds")])),
            &["Warning: DaemonSet kube-system/kube-multus-ds: Multus"],
        );
    }
}
