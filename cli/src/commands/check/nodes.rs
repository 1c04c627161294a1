//! The side of the nodes: a Job on each, many at the same time, and what becomes of it as findings.

use std::{
    io::{self, IsTerminal as _},
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    pin, select,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use underpass_kube::{
    Client,
    look::{Look, Looked},
};
use underpass_telemetry::admin::view::NodeCheck;

use super::{super::findings::Finding, job, seen::Seen};
use crate::{agents::at_once, chart::POD_SECURITY, error::CliError, output::complain};

/// Who has made a namespace, and the beginning of the names of all that is made.
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

/// Looks at every Linux node. A Ctrl-C ends the looks, and what they made is removed.
pub(super) async fn look(client: &Client, seen: &Seen, plan: &Plan) -> Result<Vec<Finding>, CliError> {
    let interrupted = signal(SignalKind::interrupt()).map_err(|source| CliError::Runtime { source })?;
    // Two commands at a time do not share anything.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = format!("{OWN}-{:x}-{:x}", since.as_nanos(), process::id());
    let is_there = seen.namespaces.iter().any(|one| one.metadata.name == seen.namespace && !one.metadata.is_going());
    let namespace = if is_there { &seen.namespace } else { &run };
    if !is_there {
        let labels = [["app.kubernetes.io/managed-by", OWN], POD_SECURITY];
        match client.make_namespace(namespace, &labels).await {
            Ok(true) => {}
            Ok(false) => {
                let (subject, found) = (format!("Namespace {namespace}"), "it is another's");
                return Ok(vec![Finding::error(subject, found, "ask again; nothing is known about the nodes")]);
            }
            Err(e) => return Ok(vec![Finding::unasked("the nodes", &e, "create namespaces")]),
        }
    }
    let mut findings = of_nodes(client, seen, (namespace, &run), plan, interrupted).await;
    if !is_there && let Err(e) = client.delete_namespace(namespace).await {
        let found = format!("it was made for this and stays: {e}");
        let remedy = format!("kubectl delete namespace {namespace}");
        findings.push(Finding::warning(format!("Namespace {namespace}"), found, &remedy));
    }
    Ok(findings)
}

/// Looks by Jobs of this run in this namespace.
async fn of_nodes(
    client: &Client,
    seen: &Seen,
    (namespace, run): (&str, &str),
    plan: &Plan,
    mut interrupted: Signal,
) -> Vec<Finding> {
    let nodes = seen.nodes.iter().filter(|node| node.status.node_info.operating_system == "linux");
    let nodes: Vec<String> = nodes.map(|node| node.metadata.name.clone()).collect();
    let all = nodes.len();
    progress(&format!("looking at {all} nodes by pods in namespace {namespace}"));
    let (done, (stop, stopped)) = (Arc::new(AtomicUsize::new(0)), watch::channel(false));
    let looks = at_once(nodes.into_iter().enumerate(), |(number, node)| {
        let (client, done, mut stopped) = (client.clone(), Arc::clone(&done), stopped.clone());
        let (namespace, name, plan) = (namespace.to_owned(), format!("{run}-{number}"), plan.clone());
        async move {
            let job = job::object(&job::Plan {
                namespace: &namespace,
                name: &name,
                node: &node,
                image: &plan.image,
                cni_conf_dir: &plan.cni_conf_dir,
                patience_s: plan.patience.as_secs(),
            });
            let is_stopped = *stopped.borrow();
            let look = if is_stopped {
                Look { looked: Ok(Looked::Stopped), stays: None }
            } else {
                let stop = async move { drop(stopped.wait_for(|is_stopped| *is_stopped).await) };
                client.look(&job, plan.patience, stop).await
            };
            progress(&format!("{node}: looked at ({} of {all})", done.fetch_add(1, Relaxed) + 1));
            of_look(&node, &look, (&namespace, &name), &plan)
        }
    });
    let interrupted = async move {
        let _ = interrupted.recv().await; // None does not come
    };
    unless(interrupted, &stop, looks).await.into_iter().flatten().collect()
}

/// What the looks give, which are stopped once this is ready.
async fn unless<T>(
    interrupted: impl Future<Output = ()>,
    stop: &watch::Sender<bool>,
    looks: impl Future<Output = T>,
) -> T {
    pin!(looks);
    select! {
        found = &mut looks => return found,
        () = interrupted => {}
    }
    complain("- the pods of the check are removed");
    stop.send_replace(true);
    looks.await
}

/// On a terminal alone: programs read both outputs.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        complain(line);
    }
}

/// What a node's pod says, and the Job that stays.
fn of_look(node: &str, look: &Look, job: (&str, &str), plan: &Plan) -> Vec<Finding> {
    let mut findings = of_pod(node, look, job.0, plan);
    if let Some(e) = &look.stays {
        let (namespace, name) = job;
        let found = format!("it could not be deleted, and goes by itself within minutes of its end: {e}");
        let remedy = format!("kubectl -n {namespace} delete job {name}");
        findings.push(Finding::warning(format!("Job {namespace}/{name}"), found, &remedy));
    }
    findings
}

fn of_pod(node: &str, look: &Look, namespace: &str, plan: &Plan) -> Vec<Finding> {
    let subject = format!("node {node}");
    let image = &plan.image;
    let one = match &look.looked {
        Err(e) => {
            let right = format!("create, get and delete jobs, list pods and get pods/log in namespace {namespace}");
            Finding::unasked(subject, e, &right)
        }
        Ok(Looked::Stopped) => {
            Finding::error(subject, "the look was stopped before it ended", "ask again; nothing is known about it")
        }
        Ok(Looked::Late(reason)) => {
            let reason = if reason.is_empty() { "no reason is known" } else { reason };
            let found = format!("its pod did not end within {} s: {reason}", plan.patience.as_secs());
            // The kubelet's words for a directory that is not there.
            let remedy = match reason.contains("hostPath") {
                true => "name the runtime's directory with --cni-conf-dir, or install a network".to_owned(),
                false => format!("can the node pull {image}? --timeout gives it more time"),
            };
            Finding::error(subject, found, &remedy)
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
    use underpass_kube::client::Error;

    use super::{super::seen::tests::lines, *};

    fn of(look: Look) -> Vec<Finding> {
        let plan = Plan { image: "i:1".into(), cni_conf_dir: String::new(), patience: Duration::from_secs(60) };
        of_look("n", &look, ("s", "c-1"), &plan)
    }

    fn check(looked: Result<Looked, Error>, expected: &[&str]) {
        assert_eq!(lines(of(Look { looked, stays: None })), expected);
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
        check(Ok(Looked::Stopped), &["Error: node n: the look was stopped before it ended"]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_matter_of_the_image() {
        let remedy = |reason: &str| of(Look { looked: Ok(Looked::Late(reason.into())), stays: None }).remove(0).remedy;
        assert!(remedy("hostPath type check failed: /etc/cni/net.d is not a directory").contains("--cni-conf-dir"));
        assert!(remedy("Back-off pulling image").contains("i:1"));
    }

    #[test]
    fn a_job_that_stays_is_named_beside_what_its_pod_found() {
        let stays = Some(Error::Name { name: "x".into() });
        assert_eq!(
            lines(of(Look { looked: Ok(Looked::Failed("no".into())), stays })),
            [
                "Error: node n: its pod failed: no",
                "Warning: Job s/c-1: it could not be deleted, and goes by itself within minutes of its end: \"x\" is no name of an \
                 object",
            ]
        );
    }

    #[test]
    fn looks_that_are_stopped_are_waited_for() {
        let runtime = crate::agents::runtime().unwrap();
        let (stop, mut stopped) = watch::channel(false);
        let looks = async { stopped.wait_for(|is_stopped| *is_stopped).await.is_ok() };
        assert!(runtime.block_on(unless(std::future::ready(()), &stop, looks)));
        assert!(!runtime.block_on(unless(std::future::pending(), &watch::channel(false).0, async { false })));
    }
}
