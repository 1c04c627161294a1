//! The agents that a command asks: the one of this node, or those of a cluster. Which of the two is decided in one place, by
//! flags first, then by the environment, then by what is there.

mod at_once;
mod fleet;
mod local;

use std::{env, ffi::OsString, path::Path, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use underpass_telemetry::admin::Target;

pub(crate) use self::{
    at_once::at_once,
    fleet::{AgentPod, Every, Fleet, connect},
    local::{Local, runtime},
};
use crate::{
    args::{LOCAL_SOCKET, Way},
    error::CliError,
};

/// The variable that names an agent.
const AGENT: &str = "UNDERPASS_AGENT";

/// The agents to ask.
pub(crate) enum Agents {
    /// One that is reached directly.
    Local(Local),
    /// Those of a cluster.
    Cluster(Box<Fleet>),
}

impl Agents {
    /// Finds the way to them; of an agent that is reached directly nothing is asked yet.
    pub(crate) fn open(way: &Way) -> Result<Self, CliError> {
        match decide(way, env::var_os(AGENT), is_there(Path::new(LOCAL_SOCKET)))? {
            Reach::Local(target) => Ok(Self::Local(Local::new(target)?)),
            Reach::Cluster { is_named } => match Fleet::open(way) {
                Ok(fleet) => Ok(Self::Cluster(Box::new(fleet))),
                Err(CliError::Cluster { source }) if !is_named => Err(CliError::NoWay { source }),
                Err(e) => Err(e),
            },
        }
    }

    /// The answer to `GET path` that every agent gives alike.
    pub(crate) fn any<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        match self {
            Self::Local(agent) => agent.get(path),
            Self::Cluster(fleet) => fleet.any(path),
        }
    }

    /// The answer to `GET path` of the agent that has this pod, namespace/name or an address.
    pub(crate) fn beside<T: DeserializeOwned>(&self, pod: &str, path: &str) -> Result<T, CliError> {
        match self {
            Self::Local(agent) => agent.get(path),
            Self::Cluster(fleet) => fleet.beside(pod, path),
        }
    }

    /// What each agent lists under `GET path`, and a line for each that gave no answer.
    pub(crate) fn listed<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
    ) -> Result<(Vec<OnNode<T>>, Vec<String>), CliError> {
        match self {
            Self::Local(agent) => {
                let all: Vec<T> = agent.get(path)?;
                Ok((all.into_iter().map(|item| OnNode { node: None, item }).collect(), Vec::new()))
            }
            Self::Cluster(fleet) => {
                let (answers, silent) = fleet.every::<Vec<T>>(path)?.split()?;
                let of = |(agent, all): (AgentPod, Vec<T>)| {
                    all.into_iter().map(move |item| OnNode { node: Some(Arc::clone(&agent.node)), item })
                };
                Ok((answers.into_iter().flat_map(of).collect(), silent))
            }
        }
    }

    /// The namespace of a name without one: the kubeconfig's, where a cluster is asked.
    pub(crate) fn default_namespace(&self) -> &str {
        match self {
            Self::Local(_) => "default",
            Self::Cluster(fleet) => fleet.context_namespace(),
        }
    }

    /// The one agent that answers for itself: reached directly, or the cluster's on the node that is named.
    pub(crate) fn need_one(&self, command: &'static str) -> Result<(), CliError> {
        match self {
            Self::Cluster(fleet) if fleet.node().is_none() => Err(CliError::NeedsNode { command }),
            _ => Ok(()),
        }
    }
}

/// An item of an agent's list, and its node, where several agents were asked.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OnNode<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Arc<str>>,
    #[serde(flatten)]
    pub(crate) item: T,
}

/// A socket that this user may not even see is there: its owner's error says more than a cluster would.
fn is_there(socket: &Path) -> bool {
    socket.try_exists().unwrap_or(true)
}

/// Where to ask.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    Local(Target),
    /// Named by a flag, or for want of an agent on this node.
    Cluster {
        is_named: bool,
    },
}

/// Flags, then the variable, then the agent of this node where there is one, then the cluster.
fn decide(way: &Way, variable: Option<OsString>, has_local: bool) -> Result<Reach, CliError> {
    if let Some(target) = &way.agent {
        return Ok(Reach::Local(target.clone()));
    }
    if way.names_a_cluster() {
        return Ok(Reach::Cluster { is_named: true });
    }
    if let Some(value) = variable.filter(|value| !value.is_empty()) {
        let value = value.to_string_lossy();
        let target = value.parse().map_err(|source| CliError::Variable { value: value.as_ref().into(), source })?;
        return Ok(Reach::Local(target));
    }
    if has_local {
        return Ok(Reach::Local(Target::Unix(LOCAL_SOCKET.into())));
    }
    Ok(Reach::Cluster { is_named: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cluster;

    #[test]
    fn flags_come_before_what_is_there() {
        let local = |text: &str| Reach::Local(text.parse().unwrap());
        let check = |way: &Way, variable: Option<&str>, has_local: bool, want: Reach| {
            let got = decide(way, variable.map(Into::into), has_local).unwrap();
            assert_eq!(got, want, "{way:?} {variable:?} {has_local}");
        };
        let nothing = Way::default();
        let agent = Way { agent: Some("127.0.0.1:1".parse().unwrap()), ..Way::default() };
        let node = Way { node: Some("n".into()), ..Way::default() };
        let cluster = |cluster| Way { cluster, ..Way::default() };
        let context = cluster(Cluster { context: Some("c".into()), ..Cluster::default() });
        let kubeconfig = cluster(Cluster { kubeconfig: Some("k".into()), ..Cluster::default() });
        let namespace = Way { system_namespace: Some("mesh".into()), ..Way::default() };
        check(&agent, Some("127.0.0.1:2"), true, local("127.0.0.1:1"));
        for named in [&node, &context, &kubeconfig, &namespace] {
            check(named, Some("127.0.0.1:2"), true, Reach::Cluster { is_named: true });
        }
        check(&nothing, Some("127.0.0.1:2"), true, local("127.0.0.1:2"));
        check(&nothing, Some(""), true, local("unix:/run/underpass/admin.sock"));
        check(&nothing, None, true, local("unix:/run/underpass/admin.sock"));
        check(&nothing, None, false, Reach::Cluster { is_named: false });
        assert!(decide(&nothing, Some("nowhere".into()), true).is_err());
    }
}
