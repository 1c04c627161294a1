//! The control plane and the agents: whether each is there, of one version, ready, and has what it needs of the others.

use std::collections::BTreeSet;

use underpass_kube::survey::objects::{Node, Workload};
use underpass_telemetry::admin::view::ControlPlane;

use super::{
    super::{
        findings::Finding,
        nodes::{NodeStatus, problems_of},
        proxy_status::link,
    },
    seen::Seen,
};
use crate::table::list;

const CONTROL: &str = "underpass-control";
const AGENT: &str = "underpass-agent";

/// A part of it is there.
pub(super) fn is_installed(seen: &Seen) -> bool {
    named(&seen.deployments, CONTROL).is_some() || named(&seen.daemon_sets, AGENT).is_some()
}

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let (control, agents) = (named(&seen.deployments, CONTROL), named(&seen.daemon_sets, AGENT));
    if !is_installed(seen) {
        let subject = format!("Namespace {}", seen.namespace);
        let remedy = "install Underpass (docs/install.md), or name the namespace that it is in with -i";
        return vec![Finding::error(subject, "Underpass is not installed there", remedy)];
    }
    let mut findings = Vec::new();
    for (kind, name, found) in [("Deployment", CONTROL, control), ("DaemonSet", AGENT, agents)] {
        findings.extend(rollout(seen, kind, name, found));
    }
    findings.extend(versions(seen));
    findings.extend(seen.nodes.iter().filter_map(|node| without_agent(seen, agents, node)));
    findings.extend(seen.agents.iter().flat_map(|agent| of_agent(agent, seen.now)));
    findings
}

fn named<'a>(all: &'a [Workload], name: &str) -> Option<&'a Workload> {
    all.iter().find(|one| one.metadata.name == name)
}

fn rollout(seen: &Seen, kind: &str, name: &str, found: Option<&Workload>) -> Option<Finding> {
    let subject = format!("{kind} {}/{name}", seen.namespace);
    let Some(found) = found else {
        return Some(Finding::error(subject, "it does not exist", "helm upgrade makes it again"));
    };
    let rollout = found.rollout();
    if rollout.is_done() {
        return None;
    }
    let text = format!(
        "of its {} pods {} are of its newest version, and {} available",
        rollout.wanted, rollout.updated, rollout.available
    );
    let kind = kind.to_lowercase();
    let remedy = format!(
        "kubectl -n {} rollout status {kind}/{name}; kubectl describe names what a pod waits for",
        seen.namespace
    );
    Some(Finding::error(subject, text, &remedy))
}

/// One image for all: else an upgrade is under way, or has stopped.
fn versions(seen: &Seen) -> Vec<Finding> {
    let control: BTreeSet<&str> = seen.control_pods.iter().map(|pod| &*pod.image).collect();
    let remedy = "an upgrade is under way, or has stopped: kubectl rollout status";
    let mut findings = Vec::new();
    if control.len() > 1 {
        let subject = format!("Deployment {}/{CONTROL}", seen.namespace);
        findings.push(Finding::warning(subject, format!("its pods run {}", list(&control)), remedy));
    }
    for agent in seen.agents.iter().filter(|agent| !control.is_empty() && !control.contains(&*agent.image)) {
        let found = format!("its agent runs {}, and the control plane {}", agent.image, list(&control));
        findings.push(Finding::warning(format!("node {}", agent.node), found, remedy));
    }
    findings
}

fn without_agent(seen: &Seen, agents: Option<&Workload>, node: &Node) -> Option<Finding> {
    let name = &node.metadata.name;
    let is_linux = node.status.node_info.operating_system == "linux";
    if !is_linux || seen.agents.iter().any(|agent| *agent.node == **name) {
        return None;
    }
    let subject = format!("node {name}");
    let outside =
        "pods there are not in the mesh, and those of its namespaces do not start where the CNI plugin is installed";
    let is_selected = |(key, value): (&String, &String)| node.metadata.labels.get(key) == Some(value);
    Some(match agents {
        Some(set) if !set.node_selector().iter().all(is_selected) => Finding::info(
            subject,
            format!("it has no agent: agent.nodeSelector leaves it out; {outside}"),
            "no pod of the mesh may run there",
        ),
        // Every pod that is to be is there.
        Some(set) if set.rollout().is_done() => Finding::info(
            subject,
            format!("it has no agent: the DaemonSet places none there; {outside}"),
            "see agent.affinity and agent.tolerations",
        ),
        _ if !node.is_ready() => {
            Finding::warning(subject, "it is not ready, and has no agent", "an agent starts there once it is")
        }
        _ => {
            let remedy = format!("kubectl -n {} describe daemonset {AGENT}", seen.namespace);
            Finding::error(subject, format!("it has no agent: {outside}"), &remedy)
        }
    })
}

fn of_agent(agent: &NodeStatus, now: u64) -> Vec<Finding> {
    let subject = format!("node {}", agent.node);
    let help = |status: bool| if status { format!("underpass status --node {}", agent.node) } else { describe(agent) };
    let mut findings: Vec<Finding> = problems_of(agent, now)
        .into_iter()
        .map(|problem| Finding::error(&subject, problem, &help(agent.status.is_some())))
        .collect();
    if let Some(control_plane) = agent.status.as_ref().and_then(|status| status.control_plane.as_ref())
        && !is_current(control_plane)
    {
        let (_, says) = link(control_plane, now);
        findings.push(Finding::error(
            subject,
            format!("its link to the control plane: {says}"),
            "underpass proxy-status",
        ));
    }
    findings
}

/// It is connected, and has all facts of the newest version that it was offered.
fn is_current(c: &ControlPlane) -> bool {
    c.link == ControlPlane::CONNECTED && c.complete && c.behind.is_none()
}

fn describe(agent: &NodeStatus) -> String {
    match agent.agent.split_once('/') {
        Some((namespace, name)) => format!("kubectl -n {namespace} describe pod {name}"),
        None => "kubectl describe its pod".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use underpass_telemetry::admin::view::{Behind, Gate};

    use super::{
        super::seen::tests::{check as check_with, parsed},
        *,
    };
    use crate::commands::nodes::tests::{node, status};

    fn check(change: impl FnOnce(&mut Seen), expected: &[&str]) {
        check_with(change, findings, expected);
    }

    #[test]
    fn a_sound_installation_has_no_findings() {
        check(|_| {}, &[]);
    }

    #[test]
    fn what_is_absent_or_not_done() {
        check(
            |s| (s.deployments, s.daemon_sets, s.agents) = (Vec::new(), Vec::new(), Vec::new()),
            &["Error: Namespace mesh: Underpass is not installed there"],
        );
        check(|s| s.deployments.clear(), &["Error: Deployment mesh/underpass-control: it does not exist"]);
        let half = json!([{"metadata": {"name": "underpass-control", "generation": 2}, "spec": {"replicas": 2},
            "status": {"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 1}}]);
        check(
            |s| s.deployments = parsed(half),
            &["Error: Deployment mesh/underpass-control: of its 2 pods 2 are of its newest version, and 1 available"],
        );
    }

    #[test]
    fn versions_that_differ() {
        check(
            |s| s.agents[1].image = "localhost/underpass:2".into(),
            &["Warning: node n-2: its agent runs localhost/underpass:2, and the control plane localhost/underpass:1"],
        );
        check(
            |s| {
                let mut older = s.control_pods[0].clone();
                older.image = "localhost/underpass:0".into();
                s.control_pods.push(older);
            },
            &["Warning: Deployment mesh/underpass-control: its pods run localhost/underpass:0, localhost/underpass:1"],
        );
    }

    #[test]
    fn nodes_without_an_agent() {
        let outside = "pods there are not in the mesh, and those of its namespaces do not start where the CNI plugin is installed";
        let gone = |s: &mut Seen| drop(s.agents.pop());
        let unfinished = || {
            parsed(json!([{"metadata": {"name": "underpass-agent", "generation": 1},
                "status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 1, "numberAvailable": 1}}]))
        };
        let counted =
            "Error: DaemonSet mesh/underpass-agent: of its 2 pods 1 are of its newest version, and 1 available";
        check(
            |s| {
                gone(s);
                s.daemon_sets = unfinished();
            },
            &[counted, &format!("Error: node n-2: it has no agent: {outside}")],
        );
        check(
            |s| {
                gone(s);
                s.daemon_sets = unfinished();
                s.nodes[1] =
                    parsed(json!({"metadata": {"name": "n-2"}, "status": {"nodeInfo": {"operatingSystem": "linux"}}}));
            },
            &[counted, "Warning: node n-2: it is not ready, and has no agent"],
        );
        check(gone, &[&format!("Info: node n-2: it has no agent: the DaemonSet places none there; {outside}")]);
        check(
            |s| {
                gone(s);
                s.nodes[1].metadata.labels.clear();
            },
            &[&format!("Info: node n-2: it has no agent: agent.nodeSelector leaves it out; {outside}")],
        );
        check(
            |s| {
                gone(s);
                s.nodes[1] = parsed(
                    json!({"metadata": {"name": "n-2"}, "status": {"nodeInfo": {"operatingSystem": "windows"}}}),
                );
            },
            &[],
        );
    }

    #[test]
    fn agents_with_problems() {
        let mut unwell = status("n-2");
        unwell.waiting = vec![Gate { part: "CNI plugin".into(), reason: "no configuration".into() }];
        unwell.pods.problems.insert("shop/cart".into(), "no sandbox".into());
        check(
            |s| s.agents[1] = node("n-2", Some(unwell)),
            &["Error: node n-2: CNI plugin: no configuration", "Error: node n-2: shop/cart: no sandbox"],
        );
        check(
            |s| s.agents[1] = node("n-2", None),
            &["Error: node n-2: node n-2: agent mesh/agent-of-n-2: no answer; see logs"],
        );
        let mut lost = status("n-1");
        lost.control_plane.as_mut().unwrap().link = ControlPlane::LOST.into();
        check(
            |s| s.agents[0] = node("n-1", Some(lost)),
            &["Error: node n-1: its link to the control plane: lost 1 min 40 s ago"],
        );
        let mut behind = status("n-1");
        let lacks = Behind { kind: "Pod".into(), applied: 4_711, known: 4_000 };
        behind.control_plane.as_mut().unwrap().behind = Some(lacks);
        check(
            |s| s.agents[0] = node("n-1", Some(behind)),
            &[
                "Error: node n-1: its link to the control plane: behind for 1 min 40 s, it knows Pod up to version 4000, not 4711",
            ],
        );
    }
}
