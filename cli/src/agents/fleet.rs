//! The agents of a cluster: found by their label, one a node, and asked through the API server's port-forward to the admin API on
//! their node's loopback.
//!
//! What must hold: many agents are asked at the same time, and each for a bounded time, so that one which is slow or dead delays the
//! others by that much at most; and it is named.

mod peer_authentications;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio::{runtime::Runtime, time::timeout};
use underpass_core::ObjectName;
use underpass_kube::{
    Access, Client,
    client::{Error, one_line},
    pods::ComponentPod,
};
use underpass_telemetry::admin::{ClientError, json_over, view::Workload};

use super::{at_once::at_once, local::runtime};
use crate::{
    args::{Cluster, Way},
    error::CliError,
};

/// The label of agents.
const AGENTS: &str = "app.kubernetes.io/name=underpass-agent";
/// The label of the control plane.
const CONTROL: &str = "app.kubernetes.io/name=underpass-control";
/// An agent's admin API on its node, on loopback.
const PORT: u16 = 15000;
/// The time for one agent's answer, its connection included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Agents that are asked one after the other where any of them has the answer.
const ATTEMPTS: usize = 3;

/// The agents of a cluster.
pub(crate) struct Fleet {
    runtime: Runtime,
    client: Client,
    namespace: String,
    node: Option<String>,
}

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentPod {
    /// Its node.
    pub(crate) node: Arc<str>,
    /// Its pod.
    pub(crate) pod: ComponentPod,
}

/// What every agent said, by node.
pub(crate) struct Every<T>(pub(crate) Vec<(AgentPod, Result<T, CliError>)>);

/// Answers, each with its agent, and a line for each agent without one.
pub(crate) type Answers<T> = (Vec<(AgentPod, T)>, Vec<String>);

impl<T> Every<T> {
    /// The answers, by node, and a line for each agent without one; an error where there is no answer at all.
    pub(crate) fn split(self) -> Result<Answers<T>, CliError> {
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        for (agent, said) in self.0 {
            match said {
                Ok(said) => answers.push((agent, said)),
                Err(e) => failures.push(e),
            }
        }
        if answers.is_empty()
            && let Some(first) = failures.pop()
        {
            let others = failures.len();
            return Err(if others == 0 { first } else { CliError::AllSilent { others, last: Box::new(first) } });
        }
        Ok((answers, failures.iter().map(ToString::to_string).collect()))
    }
}

/// A client of the cluster that flags or the environment name.
pub(crate) async fn connect(cluster: &Cluster) -> Result<Client, CliError> {
    let access = Access::Kubectl { path: cluster.kubeconfig.clone(), context: cluster.context.clone() };
    Client::connect(&access, "cli").await.map_err(|source| CliError::Cluster { source })
}

impl Fleet {
    pub(crate) fn open(way: &Way) -> Result<Self, CliError> {
        let runtime = runtime()?;
        let client = runtime.block_on(connect(&way.cluster))?;
        Ok(Self { runtime, client, namespace: way.system_namespace().to_owned(), node: way.node.clone() })
    }

    /// What asks the API server itself.
    pub(crate) const fn api_server(&self) -> (&Runtime, &Client) {
        (&self.runtime, &self.client)
    }

    /// The node that is named.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The namespace of the kubeconfig's context.
    pub(crate) fn context_namespace(&self) -> &str {
        self.client.namespace()
    }

    /// That a change cannot be made from here, and how it can.
    pub(crate) fn read_only(&self, command: String) -> CliError {
        let agents = match self.runtime.block_on(self.agents()) {
            Ok(agents) => agents,
            Err(e) => return e,
        };
        match &agents[..] {
            [agent] => CliError::ReadOnly { pod: agent.pod.name.clone(), command },
            _ => CliError::NeedsNode { command: "a change" },
        }
    }

    /// The pods of the control plane.
    pub(crate) fn control_plane(&self) -> Result<Vec<ComponentPod>, CliError> {
        self.runtime.block_on(self.pods(CONTROL))
    }

    /// Asks every agent, or the one of the node that is named.
    pub(crate) fn every<T: DeserializeOwned + Send + 'static>(&self, path: &str) -> Result<Every<T>, CliError> {
        self.every_by(|_| path.to_owned())
    }

    /// The same, with the path that is for a node.
    pub(crate) fn every_by<T: DeserializeOwned + Send + 'static>(
        &self,
        path: impl Fn(&str) -> String,
    ) -> Result<Every<T>, CliError> {
        self.runtime.block_on(async {
            let asking = at_once(self.agents().await?, |agent| {
                let (client, path) = (self.client.clone(), path(&agent.node));
                async move {
                    let said = ask(&client, &agent, &path).await;
                    (agent, said)
                }
            });
            let mut all = asking.await;
            all.sort_by(|(a, _), (b, _)| a.node.cmp(&b.node));
            Ok(Every(all))
        })
    }

    /// Asks any agent, or the one of the node that is named: for what all of them say alike.
    pub(crate) fn any<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.runtime.block_on(async { self.first(&self.agents().await?, path).await })
    }

    /// Asks any of these agents, for what all of them say alike.
    pub(crate) fn any_of<T: DeserializeOwned>(&self, agents: &[AgentPod], path: &str) -> Result<T, CliError> {
        self.runtime.block_on(self.first(agents, path))
    }

    /// Asks the agent of the node that has this pod, namespace/name or an address; any one, where no pod is known by it.
    pub(crate) fn beside<T: DeserializeOwned>(&self, pod: &str, path: &str) -> Result<T, CliError> {
        self.runtime.block_on(async {
            let agents = self.agents().await?;
            if self.node.is_some() {
                return self.first(&agents, path).await;
            }
            let all: Vec<Workload> = self.first(&agents, "/workloads").await?;
            let address = pod.parse().ok();
            let is_it = |w: &&Workload| match address {
                Some(address) => w.addresses.contains(&address),
                None => pod.split_once('/') == Some((&w.namespace, &w.name)),
            };
            match all.iter().find(is_it).and_then(|w| w.node.as_deref()) {
                None => self.first(&agents, path).await,
                Some(node) => ask(&self.client, &of_node(&agents, node, &self.namespace)?, path).await,
            }
        })
    }

    async fn first<T: DeserializeOwned>(&self, agents: &[AgentPod], path: &str) -> Result<T, CliError> {
        let mut agents: Vec<&AgentPod> = agents.iter().collect();
        agents.sort_by_key(|agent| !agent.pod.is_ready());
        let mut last = None;
        for agent in agents.into_iter().take(ATTEMPTS) {
            match ask(&self.client, agent, path).await {
                // It has answered, and others would answer the same.
                Err(e @ CliError::NotFound { .. }) => return Err(e),
                Err(e) => last = Some(e),
                Ok(said) => return Ok(said),
            }
        }
        Err(last.unwrap_or_else(|| CliError::NoAgents { namespace: self.namespace.clone() }))
    }

    /// The agent of each node, by node; of the node that is named alone.
    async fn agents(&self) -> Result<Vec<AgentPod>, CliError> {
        let all = by_node(self.pods(AGENTS).await?);
        if all.is_empty() {
            return Err(CliError::NoAgents { namespace: self.namespace.clone() });
        }
        match &self.node {
            None => Ok(all),
            Some(node) => Ok(vec![of_node(&all, node, &self.namespace)?]),
        }
    }

    async fn pods(&self, label: &str) -> Result<Vec<ComponentPod>, CliError> {
        let found = self.client.component(&self.namespace, label).await;
        found.map_err(|source| CliError::api_server(source, format!("list pods in namespace {}", self.namespace)))
    }
}

fn of_node(agents: &[AgentPod], node: &str, namespace: &str) -> Result<AgentPod, CliError> {
    agents.iter().find(|agent| *agent.node == *node).cloned().ok_or_else(|| CliError::NodeWithoutAgent {
        node: node.to_owned(),
        namespace: namespace.to_owned(),
        nodes: agents.iter().map(|agent| agent.node.to_string()).collect::<Vec<_>>().join(", "),
    })
}

/// One agent a node. While one takes over from another there are two, and whichever serves the node answers for it: the ready one is
/// named, of two the younger.
fn by_node(pods: Vec<ComponentPod>) -> Vec<AgentPod> {
    let mut all: BTreeMap<Arc<str>, ComponentPod> = BTreeMap::new();
    let rank = |pod: &ComponentPod| (pod.is_ready(), pod.is_running, Arc::clone(&pod.created));
    for pod in pods {
        let Some(node) = pod.node.clone() else { continue };
        match all.get(&node) {
            Some(known) if rank(known) >= rank(&pod) => {}
            _ => drop(all.insert(node, pod)),
        }
    }
    all.into_iter().map(|(node, pod)| AgentPod { node, pod }).collect()
}

async fn ask<T: DeserializeOwned>(client: &Client, agent: &AgentPod, path: &str) -> Result<T, CliError> {
    let failed = |why: String, help: String| CliError::Fleet {
        node: Arc::clone(&agent.node),
        pod: agent.pod.name.clone(),
        why,
        help,
    };
    let logs = || format!("see kubectl logs -n {} {}", namespace(agent), agent.pod.name.name());
    if !agent.pod.is_running {
        let waits = agent.pod.waits.as_deref().filter(|waits| !waits.is_empty());
        let why = format!("it does not run: {}", waits.unwrap_or("its pod has not started"));
        return Err(failed(why, format!("see kubectl describe pod -n {} {}", namespace(agent), agent.pod.name.name())));
    }
    let name: Arc<str> = format!("agent {} on {}", agent.pod.name, agent.node).into();
    let answer = async {
        let stream = client.port_forward(&agent.pod.name, PORT).await.map_err(|e| {
            let help = forwarding(&e, &agent.pod.name);
            failed(e.to_string(), help)
        })?;
        json_over(&name, stream, path).await.map_err(|e| match e {
            // Of what is said against the port nothing but the cause is told.
            ClientError::Http { .. } | ClientError::Answer { .. } => failed(one_line(&e), logs()),
            e => CliError::from(e),
        })
    };
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
        let why = format!("no answer to GET {path} within {} s", PATIENCE.as_secs());
        Err(failed(why, logs()))
    })
}

fn namespace(agent: &AgentPod) -> &str {
    agent.pod.name.namespace()
}

/// What to do where a port cannot be forwarded.
fn forwarding(error: &Error, pod: &ObjectName) -> String {
    match error.status() {
        Some(401 | 403) => format!(
            "asking an agent needs the right to create and get pods/portforward in namespace {}; or type \
             kubectl exec -n {} {} -- underpass ...",
            pod.namespace(),
            pod.namespace(),
            pod.name()
        ),
        Some(404) => "the pod is gone: ask again".to_owned(),
        _ => "is its node reachable from the API server?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>, waits: Option<&str>, created: &str) -> ComponentPod {
        ComponentPod {
            name: ObjectName::new("mesh", name),
            node: node.map(Into::into),
            image: "i".into(),
            is_running: true,
            waits: waits.map(Into::into),
            created: created.into(),
        }
    }

    #[test]
    fn each_node_has_one_agent() {
        let pods = vec![
            pod("old", Some("n-2"), None, "2026-01-01T00:00:00Z"),
            pod("starting", Some("n-2"), Some(""), "2026-01-02T00:00:00Z"),
            pod("unplaced", None, Some("no room"), "2026-01-02T00:00:00Z"),
            pod("young", Some("n-1"), None, "2026-01-02T00:00:00Z"),
            pod("older", Some("n-1"), None, "2026-01-01T00:00:00Z"),
        ];
        let all: Vec<String> =
            by_node(pods).iter().map(|agent| format!("{} {}", agent.node, agent.pod.name.name())).collect();
        assert_eq!(all, ["n-1 young", "n-2 old"]);
        let agents = by_node(vec![pod("a", Some("n-1"), None, "")]);
        assert_eq!(&*of_node(&agents, "n-1", "mesh").unwrap().node, "n-1");
        let error = of_node(&agents, "n-3", "mesh").unwrap_err().to_string();
        assert!(error.contains("n-3") && error.contains("n-1") && error.contains("mesh"), "{error}");
    }
}
