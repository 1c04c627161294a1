//! What the agents of a mesh take it from: a directory of manifests, or an API server and a control plane.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The source of every agent.
#[derive(Debug)]
pub enum Source {
    /// A directory. The agents share their state directory, and with it one embedded CA.
    Manifests(PathBuf),
    /// An API server and a control plane.
    ControlPlane(ControlPlane),
}

/// What leads agents to their control plane and to the API server.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where it answers.
    pub address: SocketAddr,
    /// The name in its certificate.
    pub name: String,
    /// The file of the mesh's roots.
    pub roots: PathBuf,
    /// By the names of their nodes.
    pub agents: BTreeMap<String, Credentials>,
}

/// Who an agent is in its cluster, and what proves it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Its own pod: `namespace/name`.
    pub pod: String,
    /// The file of its token, for the control plane.
    pub token: PathBuf,
    /// The file of its credentials, for the API server.
    pub kubeconfig: PathBuf,
}

impl Source {
    /// The arguments that name it to the agent of `node`; directories of the scenario's own are in `directory`.
    pub(super) fn arguments(&self, directory: &Path, node: &str) -> Result<Vec<OsString>> {
        let state = OsString::from("--state");
        match self {
            Self::Manifests(manifests) => {
                Ok(vec!["--manifests".into(), manifests.into(), state, directory.join("state").into()])
            }
            Self::ControlPlane(ControlPlane { address, name, roots, agents }) => {
                let Credentials { token, kubeconfig, .. } =
                    agents.get(node).with_context(|| format!("{node} has no credentials"))?;
                let mut arguments = vec![state, directory.join(format!("state-{node}")).into()];
                for (flag, value) in [
                    ("--control-plane", OsString::from(address.to_string())),
                    ("--control-plane-name", name.into()),
                    ("--control-plane-roots", roots.into()),
                    ("--control-plane-token", token.into()),
                    ("--kubeconfig", kubeconfig.into()),
                ] {
                    arguments.extend([flag.into(), value]);
                }
                Ok(arguments)
            }
        }
    }

    /// The environment of the agent of `node`: what a container is told of its pod.
    pub(super) fn environment(&self, node: &str) -> Vec<(&'static str, String)> {
        let Self::ControlPlane(ControlPlane { agents, .. }) = self else { return Vec::new() };
        let pod = agents.get(node).and_then(|own| own.pod.split_once('/'));
        let named =
            pod.map(|(namespace, name)| [("POD_NAMESPACE", namespace.to_owned()), ("POD_NAME", name.to_owned())]);
        named.into_iter().flatten().collect()
    }

    /// The directory of manifests.
    pub(super) fn manifests(&self) -> Result<&Path> {
        match self {
            Self::Manifests(directory) => Ok(directory),
            Self::ControlPlane(_) => anyhow::bail!("a mesh with a control plane has no directory of manifests"),
        }
    }
}
