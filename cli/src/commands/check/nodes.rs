//! The side of the nodes: a Job on each, many at the same time, and what becomes of it as findings.

use std::{
    io::{self, IsTerminal as _},
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use underpass_kube::{Client, client::Error, look::Looked};
use underpass_telemetry::admin::view::NodeCheck;

use super::{super::findings::Finding, job, seen::Seen};
use crate::{agents::at_once, chart::POD_SECURITY, output::complain, show};

/// The namespace that is made where that of the installation is absent.
const OWN: &str = "underpass-check";

/// How nodes are looked at.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) image: String,
    /// Empty: the CNI plugin is left out.
    pub(super) cni_conf_dir: String,
    /// The time for each node's pod.
    pub(super) patience: Duration,
}

/// Looks at every Linux node.
pub(super) async fn look(client: &Client, seen: &Seen, plan: &Plan) -> Vec<Finding> {
    let is_there = seen.namespaces.iter().any(|one| one.metadata.name == seen.namespace && !one.metadata.is_going());
    let namespace = if is_there { seen.namespace.as_str() } else { OWN };
    let mut findings = Vec::new();
    if !is_there {
        // One that is there is what a command left that was killed.
        let labels = [["app.kubernetes.io/managed-by", OWN], POD_SECURITY];
        if let Err(e) = client.make_namespace(OWN, &labels).await {
            return vec![Finding::unasked("the nodes", &e, &format!("create the namespace {OWN}"))];
        }
    }
    let nodes = seen.nodes.iter().filter(|node| node.status.node_info.operating_system == "linux");
    let nodes: Vec<String> = nodes.map(|node| node.metadata.name.clone()).collect();
    let all = nodes.len();
    progress(&format!("looking at {all} nodes by pods in namespace {namespace}"));
    let (done, run) = (Arc::new(AtomicUsize::new(0)), format!("{:x}-{:x}", show::unix_s(), process::id()));
    let looks = at_once(nodes.into_iter().enumerate(), |(number, node)| {
        let (client, done) = (client.clone(), Arc::clone(&done));
        let (namespace, name, plan) = (namespace.to_owned(), format!("underpass-check-{run}-{number}"), plan.clone());
        async move {
            let job = job::object(&job::Plan {
                namespace: &namespace,
                name: &name,
                node: &node,
                image: &plan.image,
                cni_conf_dir: &plan.cni_conf_dir,
                patience_s: plan.patience.as_secs(),
            });
            let looked = client.look(&job, plan.patience).await;
            progress(&format!("{node}: looked at ({} of {all})", done.fetch_add(1, Relaxed) + 1));
            of_look(&node, &looked, &namespace, &plan)
        }
    });
    findings.extend(looks.await.into_iter().flatten());
    if !is_there && let Err(e) = client.delete_namespace(OWN).await {
        let found = format!("it was made for this and stays: {e}");
        findings.push(Finding::warning(format!("Namespace {OWN}"), found, &format!("kubectl delete namespace {OWN}")));
    }
    findings
}

/// On a terminal alone: programs read both outputs.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        complain(line);
    }
}

/// What a node's pod says.
fn of_look(node: &str, looked: &Result<Looked, Error>, namespace: &str, plan: &Plan) -> Vec<Finding> {
    let subject = format!("node {node}");
    let image = &plan.image;
    let one = match looked {
        Err(e) => {
            let right = format!("create, get and delete jobs, list pods and get pods/log in namespace {namespace}");
            Finding::unasked(subject, e, &right)
        }
        Ok(Looked::Late(reason)) => {
            let reason = if reason.is_empty() { "no reason is known" } else { reason };
            let found = format!("its pod did not end within {} s: {reason}", plan.patience.as_secs());
            Finding::error(subject, found, &format!("can the node pull {image}? --timeout gives it more time"))
        }
        Ok(Looked::Failed(text)) => {
            let last = text.trim().lines().last().unwrap_or("it wrote nothing");
            let remedy = format!("is {image} Underpass' image, of this version?");
            Finding::error(subject, format!("its pod failed: {last}"), &remedy)
        }
        Ok(Looked::Wrote(text)) => {
            match text.lines().rev().find_map(|line| serde_json::from_str::<NodeCheck>(line).ok()) {
                Some(check) => {
                    let finding = |f: underpass_telemetry::admin::view::NodeFinding| Finding {
                        level: f.level,
                        subject: subject.clone(),
                        found: f.found,
                        remedy: f.remedy,
                    };
                    return check.findings.into_iter().map(finding).collect();
                }
                None => {
                    let remedy = format!("is {image} Underpass' image, of this version?");
                    Finding::error(subject, "what its pod wrote cannot be read", &remedy)
                }
            }
        }
    };
    vec![one]
}

#[cfg(test)]
mod tests {
    use super::{super::seen::tests::lines, *};

    fn check(looked: Result<Looked, Error>, expected: &[&str]) {
        let plan = Plan { image: "i:1".into(), cni_conf_dir: String::new(), patience: Duration::from_secs(60) };
        assert_eq!(lines(of_look("n", &looked, "s", &plan)), expected);
    }

    #[test]
    fn what_a_node_says_and_why_it_says_nothing() {
        let wrote = |findings: &str| {
            Ok(Looked::Wrote(format!(
                "a warning\n{{\"version\":\"1\",\"node\":\"n\",\"kernel\":\"6.1\",\"later\":1,\"findings\":[{findings}]}}\n"
            )))
        };
        check(wrote(""), &[]);
        check(
            wrote(r#"{"level":"warning","found":"a","remedy":"b"},{"level":"error","found":"c","remedy":"d"}"#),
            &["Error: node n: c", "Warning: node n: a"],
        );
        check(Ok(Looked::Wrote("hello".into())), &["Error: node n: what its pod wrote cannot be read"]);
        check(Ok(Looked::Failed("a\nno such option\n".into())), &["Error: node n: its pod failed: no such option"]);
        check(
            Ok(Looked::Late("Back-off pulling image".into())),
            &["Error: node n: its pod did not end within 60 s: Back-off pulling image"],
        );
        check(Ok(Looked::Late("".into())), &["Error: node n: its pod did not end within 60 s: no reason is known"]);
        check(
            Err(Error::Name { name: "x".into() }),
            &["Error: node n: could not be asked: \"x\" is no name of an object"],
        );
    }
}
