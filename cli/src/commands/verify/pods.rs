//! Pods of the mesh that are not captured. Those that their agent knows, with a reason, are among the agent's problems.

use std::collections::BTreeMap;

use super::{super::findings::Finding, seen::Seen};
use crate::table::few;

/// The pods that a finding names.
pub(super) const NAMED: usize = 5;

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut by_node: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for workload in seen.workloads.iter().filter(|workload| workload.in_mesh && workload.state.is_none()) {
        let Some(node) = workload.node.as_deref() else { continue };
        by_node.entry(node).or_default().push(format!("{}/{}", workload.namespace, workload.name));
    }
    let finding = |(node, pods): (&str, Vec<String>)| {
        let agent = seen.agents.iter().find(|agent| *agent.node == *node);
        let (subject, names) = (format!("node {node}"), first(&pods));
        match agent {
            None => {
                let found = format!("pods of the mesh are there without an agent, and not captured: {names}");
                Some(Finding::error(subject, found, "have an agent placed there, or the pods elsewhere"))
            }
            // What it would say is not known.
            Some(agent) if agent.status.is_none() => None,
            Some(_) => {
                let found = format!("its agent does not know pods of the mesh that are there: {names}");
                Some(Finding::warning(
                    subject,
                    found,
                    &format!("new ones take a moment: underpass workloads --node {node}"),
                ))
            }
        }
    };
    by_node.into_iter().filter_map(finding).collect()
}

/// The first few, and how many more.
pub(super) fn first(names: &[String]) -> String {
    few(names, NAMED)
}

#[cfg(test)]
mod tests {
    use super::{
        super::seen::tests::{check as check_with, workload},
        *,
    };
    use crate::commands::nodes::tests::node;

    fn check(change: impl FnOnce(&mut Seen), expected: &[&str]) {
        check_with(change, findings, expected);
    }

    #[test]
    fn pods_are_captured_or_named() {
        check(|_| {}, &[]);
        check(
            |s| s.workloads.extend(["a", "b", "c", "d", "e", "f"].map(|name| workload(name, "n-3", None))),
            &[
                "Error: node n-3: pods of the mesh are there without an agent, and not captured: shop/a, shop/b, shop/c, shop/d, shop/e \
               and 1 more",
            ],
        );
        check(
            |s| s.workloads.push(workload("a", "n-2", None)),
            &["Warning: node n-2: its agent does not know pods of the mesh that are there: shop/a"],
        );
        check(|s| (s.agents[1], s.workloads[1].state) = (node("n-2", None), None), &[]);
        check(
            |s| {
                s.workloads.push(workload("a", "n-3", None));
                s.workloads[2].in_mesh = false;
            },
            &[],
        );
    }
}
