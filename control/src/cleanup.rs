//! `underpass-control wait-for-cleanup`: at the removal of the mesh, the wait for the DaemonSet that cleans every node. Its pod on a node is
//! ready once that node is clean. Nodes that did not answer in time are named, each with the command that cleans it by hand.
//!
//! What must hold: it ends in time, also where nodes do not answer. A node that is gone is not waited for, one that does not answer is named, and a
//! failed look at the API server is followed by the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use tokio::time::{Instant, sleep, timeout_at};
use underpass_core::ObjectName;
use underpass_kube::{
    Access, Client,
    client::{ConnectError, Error as KubeError},
    daemon_set::DaemonSet,
};

use crate::config::seconds;

/// The time between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// The place of a node's name in the command that cleans it.
const NODE: &str = "NODE";

/// Waits until every node is clean: until every pod of a DaemonSet is ready. Names each node as it becomes clean, and at the end those that
/// did not, each with what it waits for and the command that cleans it by hand.
///
/// Exit status: 0, every node is clean; 1, some are not, or it is not known.
#[derive(Clone, Debug, Parser)]
#[command(name = "underpass-control wait-for-cleanup", bin_name = "underpass-control wait-for-cleanup", version)]
pub struct Command {
    /// The namespace of the DaemonSet.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "underpass-system")]
    namespace: String,

    /// The DaemonSet whose pods clean their nodes.
    #[arg(long, value_name = "NAME", default_value = "underpass-cleanup")]
    daemon_set: String,

    /// The longest wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "240", value_parser = seconds)]
    timeout: Duration,

    /// The command that cleans a node by hand; NODE in it is the node's name.
    #[arg(long, value_name = "COMMAND", default_value = "underpass-agent cleanup --node=NODE")]
    by_hand: String,

    /// A kubeconfig for the API server; by default the service account of its own pod.
    #[arg(long, env = "UNDERPASS_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A wait that ended without every node being clean.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// There is no way to the API server.
    #[error("API server")]
    Connect(#[from] ConnectError),
    /// A runtime for the questions.
    #[error("cannot start a runtime")]
    Runtime(#[source] std::io::Error),
    /// Nothing cleans any more.
    #[error("the DaemonSet {namespace}/{name} is gone", namespace = .0.namespace(), name = .0.name())]
    Gone(ObjectName),
    /// The API server gave no good answer in time, the last time for this reason.
    #[error("not known which nodes are clean")]
    Unknown(#[source] KubeError),
    /// The time is over.
    #[error("within {} s not every node was clean\n{remainder}", .timeout.as_secs())]
    Late { timeout: Duration, remainder: Remainder },
}

impl Command {
    /// Parses the command line, where it is this command's.
    #[must_use]
    pub fn parse_own(mut arguments: impl Iterator<Item = OsString>) -> Option<Result<Self, clap::Error>> {
        let program = arguments.next()?;
        let first = arguments.next()?;
        (first == "wait-for-cleanup").then(|| Self::try_parse_from(std::iter::once(program).chain(arguments)))
    }

    /// Waits, and says on standard output what it sees.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime.map_err(Failure::Runtime).and_then(|runtime| runtime.block_on(self.wait())) {
            Ok(nodes) => {
                println!("every node is clean: {nodes}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("underpass-control wait-for-cleanup: {}", crate::chain(&failure));
                ExitCode::FAILURE
            }
        }
    }

    /// The number of nodes, all clean.
    async fn wait(&self) -> Result<usize, Failure> {
        let until = Instant::now() + self.timeout;
        let access = match &self.kubeconfig {
            Some(path) => Access::Kubeconfig { path: path.clone(), context: None },
            None => Access::InCluster,
        };
        let client = Client::connect(&access, "cleanup").await?;
        let name = ObjectName::new(self.namespace.as_str(), self.daemon_set.as_str());
        let (mut nodes, mut failed) = (Nodes::default(), None);
        loop {
            match timeout_at(until, client.daemon_set(&name)).await {
                Ok(Ok(Some(found))) => {
                    failed = None;
                    nodes.see(found).iter().for_each(|node| println!("clean: {node}"));
                    if let Some(count) = nodes.all_clean() {
                        return Ok(count);
                    }
                }
                Ok(Ok(None)) => return Err(Failure::Gone(name)),
                // Also a right that was given a moment ago may be refused yet.
                Ok(Err(error)) => failed = Some(error),
                Err(_) => {}
            }
            if Instant::now() >= until {
                return Err(match failed {
                    Some(error) if nodes.wanted.is_none() => Failure::Unknown(error),
                    _ => Failure::Late { timeout: self.timeout, remainder: nodes.remainder(&self.by_hand) },
                });
            }
            sleep(LOOK.min(until - Instant::now())).await;
        }
    }
}

/// What is known of the nodes.
#[derive(Debug, Default)]
struct Nodes {
    /// As many there are; none: that is not known yet.
    wanted: Option<usize>,
    /// Those that became clean, also where they are gone since.
    clean: BTreeSet<Arc<str>>,
    /// Those of the newest look that are not, and what each waits for.
    left: BTreeMap<Arc<str>, Arc<str>>,
    /// The number of nodes of the newest look, clean or not.
    seen: usize,
}

/// The nodes that are not clean, for people.
#[derive(Debug, PartialEq, Eq)]
struct Remainder(Vec<String>);

impl Nodes {
    /// Takes the newest look, and answers the nodes that became clean.
    fn see(&mut self, newest: DaemonSet) -> Vec<Arc<str>> {
        self.wanted = newest.wanted;
        let mut became = Vec::new();
        for pod in newest.pods.iter().filter(|pod| pod.waits.is_none()) {
            if self.clean.insert(Arc::clone(&pod.node)) {
                became.push(Arc::clone(&pod.node));
            }
        }
        let all: BTreeMap<_, _> =
            newest.pods.into_iter().map(|pod| (pod.node, pod.waits.unwrap_or_default())).collect();
        self.seen = all.len();
        self.left = all.into_iter().filter(|(node, _)| !self.clean.contains(node)).collect();
        became
    }

    /// How many nodes there are, where all are clean.
    fn all_clean(&self) -> Option<usize> {
        self.wanted.filter(|wanted| self.seen >= *wanted && self.left.is_empty())
    }

    /// What is left to be done. `by_hand`: the command for one node.
    fn remainder(&self, by_hand: &str) -> Remainder {
        let mut lines = Vec::new();
        for (node, waits) in &self.left {
            let waits = if waits.is_empty() { "its pod has not started: is the node ready?" } else { waits };
            lines.push(format!("not clean: {node}: {waits}"));
            lines.push(format!("  by hand: {}", by_hand.replace(NODE, node)));
        }
        match self.wanted {
            None => lines.push("not known: the nodes; no controller has seen the DaemonSet".to_owned()),
            Some(wanted) if wanted > self.seen => {
                lines.push(format!("not known: {} of {wanted} nodes, which have no pod", wanted - self.seen));
            }
            Some(_) => {}
        }
        Remainder(lines)
    }
}

impl fmt::Display for Remainder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use underpass_kube::daemon_set::DaemonPod;

    use super::*;

    /// A look: how many nodes there are, and of each pod the node and what it waits for.
    fn look(wanted: Option<usize>, pods: &[(&str, Option<&str>)]) -> DaemonSet {
        let pod = |&(node, waits): &(&str, Option<&str>)| DaemonPod { node: node.into(), waits: waits.map(Into::into) };
        DaemonSet { wanted, pods: pods.iter().map(pod).collect() }
    }

    /// After these looks: the nodes that the last one says became clean, whether all are, and what is left.
    fn check(looks: &[DaemonSet], became: &[&str], all: Option<usize>, left: &[&str]) {
        let (mut nodes, mut last) = (Nodes::default(), Vec::new());
        for look in looks {
            last = nodes.see(look.clone());
        }
        assert_eq!(last.iter().map(|node| &**node).collect::<Vec<_>>(), became, "{nodes:?}");
        assert_eq!(nodes.all_clean(), all, "{nodes:?}");
        assert_eq!(nodes.remainder("clean --node=NODE --now").0, left, "{nodes:?}");
    }

    #[test]
    fn every_node_is_waited_for() {
        const UNKNOWN: &str = "not known: the nodes; no controller has seen the DaemonSet";
        let half = look(Some(2), &[("a", None), ("b", Some("the agent ends"))]);
        let whole = look(Some(2), &[("a", None), ("b", None)]);
        check(&[look(None, &[])], &[], None, &[UNKNOWN]);
        check(&[look(Some(0), &[])], &[], Some(0), &[]);
        check(
            std::slice::from_ref(&half),
            &["a"],
            None,
            &["not clean: b: the agent ends", "  by hand: clean --node=b --now"],
        );
        check(&[half.clone(), whole.clone()], &["b"], Some(2), &[]);
        check(&[half.clone(), whole.clone(), whole], &[], Some(2), &[]);
        // Made one after the other.
        check(&[look(Some(2), &[("a", None)])], &["a"], None, &["not known: 1 of 2 nodes, which have no pod"]);
        // A clean one stays clean, also where its pod is replaced.
        check(&[half, look(Some(2), &[("a", Some("")), ("b", None)])], &["b"], Some(2), &[]);
    }

    #[test]
    fn a_node_that_is_gone_is_not_waited_for() {
        let two = look(Some(2), &[("a", None), ("b", Some(""))]);
        let silent = ["not clean: b: its pod has not started: is the node ready?", "  by hand: clean --node=b --now"];
        check(std::slice::from_ref(&two), &["a"], None, &silent);
        check(&[two.clone(), look(Some(1), &[("a", None)])], &[], Some(1), &[]);
        // Its pod outlives it for a moment.
        check(&[two, look(Some(1), &[("a", None), ("b", Some(""))])], &[], None, &silent);
    }

    #[test]
    fn its_command_line() {
        let parse = |line: &[&str]| Command::parse_own(line.iter().map(OsString::from)).map(Result::unwrap);
        assert!(parse(&["underpass-control"]).is_none() && parse(&["underpass-control", "--namespace=a"]).is_none());
        let parsed = parse(&["underpass-control", "wait-for-cleanup", "--namespace=a", "--timeout=9"]).unwrap();
        assert_eq!((&*parsed.namespace, &*parsed.daemon_set, parsed.timeout.as_secs()), ("a", "underpass-cleanup", 9));
    }

    #[tokio::test]
    async fn an_api_server_that_does_not_answer_does_not_hold_it() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = std::env::temp_dir().join(format!("underpass-cleanup-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("config");
        let server = silent.local_addr().unwrap();
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, users: [{{name: u, user: {{}}}}], \
             clusters: [{{name: k, cluster: {{server: \"http://{server}\"}}}}], \
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]}}"
        );
        std::fs::write(&file, text).unwrap();
        let line = ["underpass-control", "wait-for-cleanup", "--timeout=1", "--kubeconfig", file.to_str().unwrap()];
        let command = Command::parse_own(line.iter().map(OsString::from)).unwrap().unwrap();
        // It accepts and says nothing.
        let failure = command.wait().await.unwrap_err();
        assert!(matches!(failure, Failure::Late { .. }), "{failure:?}");
        // It refuses.
        drop(silent);
        let failure = command.wait().await.unwrap_err();
        assert!(matches!(failure, Failure::Unknown(_)), "{failure:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
