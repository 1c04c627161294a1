//! The cluster itself: its version, its nodes, the namespace of the installation, the definitions of policies, and an Underpass that is
//! there already.

use std::collections::BTreeSet;

use underpass_config::definitions::VERSION;
use underpass_kube::survey::objects::Node;
use underpass_telemetry::admin::view::Level;

use super::{
    super::findings::Finding,
    seen::{Found, Seen},
};
use crate::chart::POD_SECURITY;

/// The oldest Kubernetes on which the chart's objects mean what they say.
const KUBERNETES: (u32, u32) = (1, 30);
/// The oldest kernel.
const KERNEL: (u32, u32) = (6, 1);
/// The Deployment of a control plane.
const CONTROL: &str = "underpass-control";

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(version(seen));
    findings.extend(seen.nodes.iter().flat_map(node));
    findings.extend(architectures(&seen.nodes));
    findings.extend(namespace(seen));
    findings.extend(seen.definitions.iter().filter_map(definition));
    findings.extend(seen.unanswered.iter().map(|one| one.finding(Level::Warning)));
    findings.extend(installed(seen));
    findings
}

fn version(seen: &Seen) -> Option<Finding> {
    let of = "the API server";
    let says = &seen.version.git_version;
    match seen.version.numbers() {
        Some(numbers) if numbers >= KUBERNETES => None,
        Some(_) => Some(Finding::error(
            of,
            format!("Kubernetes {says} is older than {}.{}", KUBERNETES.0, KUBERNETES.1),
            "upgrade the cluster",
        )),
        None => {
            let found = format!("its version is {says:?}, which says no numbers");
            Some(Finding::warning(of, found, "see that it is Kubernetes 1.30 or later"))
        }
    }
}

fn node(node: &Node) -> Vec<Finding> {
    let (subject, info) = (format!("node {}", node.metadata.name), &node.status.node_info);
    if info.operating_system != "linux" {
        let found = format!("its system is {}: its pods are not in the mesh", info.operating_system);
        return vec![Finding::info(subject, found, "agents run on Linux alone, and are placed nowhere else")];
    }
    let mut findings = Vec::new();
    if kernel(&info.kernel_version).is_none_or(|version| version < KERNEL) {
        let found = format!("kernel {}, and not {}.{} or later", info.kernel_version, KERNEL.0, KERNEL.1);
        findings.push(Finding::error(
            &subject,
            found,
            "run Linux 6.1 or later there, or keep agents away (agent.nodeSelector)",
        ));
    }
    let runtime = info.container_runtime_version.split("://").next().unwrap_or_default();
    if !["containerd", "cri-o"].contains(&runtime) {
        let found = format!("its container runtime is {:?}", info.container_runtime_version);
        findings.push(Finding::warning(
            &subject,
            found,
            "containerd and CRI-O are those whose pods and CNI plugins are known",
        ));
    }
    if !node.is_ready() {
        findings.push(Finding::warning(&subject, "it is not ready", "an agent starts there once it is"));
    }
    findings
}

/// The first two numbers of a kernel's release.
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn architectures(nodes: &[Node]) -> Option<Finding> {
    let linux = nodes.iter().map(|node| &node.status.node_info).filter(|info| info.operating_system == "linux");
    let all: BTreeSet<&str> = linux.map(|info| info.architecture.as_str()).collect();
    let found = format!("they are of {}", all.iter().copied().collect::<Vec<_>>().join(" and "));
    let remedy = "an image is built for one of amd64 and arm64: keep agents to its nodes (agent.nodeSelector)";
    match all.iter().find(|one| !["amd64", "arm64"].contains(one)) {
        Some(_) => Some(Finding::error("the nodes", found, remedy)),
        None if all.len() > 1 => Some(Finding::warning("the nodes", found, remedy)),
        None => None,
    }
}

/// Agents are pods that a namespace with a standard of Pod Security refuses.
fn namespace(seen: &Seen) -> Option<Finding> {
    let namespace = seen.namespaces.iter().find(|one| one.metadata.name == seen.namespace)?;
    let subject = format!("Namespace {}", seen.namespace);
    if namespace.metadata.is_going() {
        return Some(Finding::error(subject, "it is being deleted", "wait until it is gone"));
    }
    let [label, needed] = POD_SECURITY;
    let enforced = namespace.metadata.labels.get(label).filter(|standard| *standard != needed)?;
    let remedy = format!("kubectl label --overwrite namespace {} {label}={needed}", seen.namespace);
    Some(Finding::error(subject, format!("Pod Security enforces {enforced:?} there: agents would be refused"), &remedy))
}

fn definition(found: &Found) -> Option<Finding> {
    let subject = format!("CustomResourceDefinition {}", found.name);
    let serves = |version: &str| found.served.iter().any(|served| served == version);
    if found.is_going {
        return Some(Finding::error(subject, "it is being deleted, with all policies", "wait until it is gone"));
    }
    let upgrade = "upgrade its owner's definitions (Istio 1.22 or later has v1)";
    match &found.owner {
        _ if !serves("v1") && !serves("v1beta1") => {
            let found = format!("it serves {}, of which Underpass reads none", found.served.join(", "));
            Some(Finding::error(subject, found, upgrade))
        }
        _ if !serves("v1") => {
            let found = format!("it serves {} and not v1: policies of v1 are refused", found.served.join(", "));
            Some(Finding::warning(subject, found, upgrade))
        }
        Some(owner) => {
            Some(Finding::info(subject, format!("it is of {owner}"), "it is used as it is, and stays its owner's"))
        }
        None if found.version > VERSION => {
            let says = format!("it is of version {}, later than {VERSION} of this command", found.version);
            Some(Finding::info(subject, says, "it stays as it is"))
        }
        None => None,
    }
}

/// One release serves a cluster.
fn installed(seen: &Seen) -> Vec<Finding> {
    let control = seen.deployments.iter().filter(|one| one.metadata.name == CONTROL);
    let of = |namespace: &str, subject: String| {
        if namespace == seen.namespace {
            Finding::info(subject, "Underpass is installed", "underpass verify looks at an installation")
        } else {
            let found = format!("Underpass is installed in namespace {namespace} already, and one serves a cluster");
            Finding::error(subject, found, &format!("upgrade that one (-i {namespace}), or uninstall it first"))
        }
    };
    control.map(|one| of(&one.metadata.namespace, format!("Deployment {}", one.metadata.object()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::seen::tests::{lines, parsed, sound},
        *,
    };

    fn check(change: impl FnOnce(&mut Seen), expected: &[&str]) {
        let mut seen = sound();
        change(&mut seen);
        assert_eq!(lines(findings(&seen)), expected);
    }

    #[test]
    fn a_sound_cluster_has_no_findings() {
        check(|_| {}, &[]);
    }

    #[test]
    fn versions() {
        let old = json!({"major": "1", "minor": "29+", "gitVersion": "v1.29.1-x"});
        check(|s| s.version = parsed(old), &["Error: the API server: Kubernetes v1.29.1-x is older than 1.30"]);
        let odd = json!({"major": "", "minor": "", "gitVersion": "?"});
        check(|s| s.version = parsed(odd), &["Warning: the API server: its version is \"?\", which says no numbers"]);
    }

    #[test]
    fn nodes() {
        let info = |change: fn(&mut underpass_kube::survey::objects::NodeInfo)| {
            move |s: &mut Seen| change(&mut s.nodes[1].status.node_info)
        };
        check(
            info(|i| i.kernel_version = "5.15.0-1".into()),
            &["Error: node n-2: kernel 5.15.0-1, and not 6.1 or later"],
        );
        check(info(|i| i.kernel_version = "6.12".into()), &[]);
        check(info(|i| i.kernel_version = "10.0.1".into()), &[]);
        check(info(|i| i.kernel_version.clear()), &["Error: node n-2: kernel , and not 6.1 or later"]);
        check(
            info(|i| i.operating_system = "windows".into()),
            &["Info: node n-2: its system is windows: its pods are not in the mesh"],
        );
        check(
            info(|i| i.container_runtime_version = "docker://28.0".into()),
            &["Warning: node n-2: its container runtime is \"docker://28.0\""],
        );
        check(info(|i| i.container_runtime_version = "cri-o://1.33".into()), &[]);
        check(info(|i| i.architecture = "arm64".into()), &["Warning: the nodes: they are of amd64 and arm64"]);
        check(info(|i| i.architecture = "s390x".into()), &["Error: the nodes: they are of amd64 and s390x"]);
        let unready = json!({"metadata": {"name": "n-1"}, "status": {"nodeInfo": {"kernelVersion": "6.1",
            "operatingSystem": "linux", "architecture": "amd64", "containerRuntimeVersion": "containerd://2"}}});
        check(|s| s.nodes[0] = parsed(unready), &["Warning: node n-1: it is not ready"]);
    }

    #[test]
    fn the_namespace_of_the_installation() {
        let of =
            |standard: &str| json!([{"metadata": {"name": "underpass-system", "labels": {POD_SECURITY[0]: standard}}}]);
        check(
            |s| s.namespaces = parsed(of("restricted")),
            &["Error: Namespace underpass-system: Pod Security enforces \"restricted\" there: agents would be refused"],
        );
        check(|s| s.namespaces = parsed(of("privileged")), &[]);
        let going = json!([{"metadata": {"name": "underpass-system", "deletionTimestamp": "2026-01-01T00:00:00Z"}}]);
        check(|s| s.namespaces = parsed(going), &["Error: Namespace underpass-system: it is being deleted"]);
    }

    #[test]
    fn definitions_of_others() {
        let found = |owner: Option<&str>, version, served: &[&str], is_going| Found {
            name: "a.security.istio.io".into(),
            owner: owner.map(Into::into),
            version,
            served: served.iter().map(|s| (*s).to_owned()).collect(),
            is_going,
        };
        let of = "CustomResourceDefinition a.security.istio.io";
        let check_one = |found: Found, expected: Option<&str>| {
            let expected: Vec<String> = expected.iter().map(|e| e.replacen('@', of, 1)).collect();
            check(|s| s.definitions = vec![found], &expected.iter().map(String::as_str).collect::<Vec<_>>());
        };
        check_one(found(None, 1, &["v1", "v1beta1"], false), None);
        check_one(found(Some("istio"), 0, &["v1", "v1beta1"], false), Some("Info: @: it is of istio"));
        check_one(
            found(Some("istio"), 0, &["v1beta1"], false),
            Some("Warning: @: it serves v1beta1 and not v1: policies of v1 are refused"),
        );
        check_one(
            found(None, 0, &["v1alpha1"], false),
            Some("Error: @: it serves v1alpha1, of which Underpass reads none"),
        );
        check_one(found(None, 1, &["v1"], true), Some("Error: @: it is being deleted, with all policies"));
        check_one(found(None, 99, &["v1"], false), Some("Info: @: it is of version 99, later than 1 of this command"));
    }

    #[test]
    fn another_underpass() {
        let of = |namespace: &str| parsed(json!([{"metadata": {"name": CONTROL, "namespace": namespace}}]));
        check(
            |s| s.deployments = of("mesh"),
            &[
                "Error: Deployment mesh/underpass-control: Underpass is installed in namespace mesh already, and one serves a cluster",
            ],
        );
        check(
            |s| s.deployments = of("underpass-system"),
            &["Info: Deployment underpass-system/underpass-control: Underpass is installed"],
        );
    }
}
