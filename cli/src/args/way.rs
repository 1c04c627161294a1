//! Where a command asks: the agent of this node, or the agents of a cluster.

use std::path::PathBuf;

use underpass_telemetry::admin::Target;

/// Where an agent serves the whole admin API of its node.
pub(crate) const LOCAL_SOCKET: &str = "/run/underpass/admin.sock";
/// The namespace of the mesh's own pods, by default.
const SYSTEM_NAMESPACE: &str = "underpass-system";

/// Where to ask.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Way {
    /// One agent's admin API: unix:PATH, or ADDRESS:PORT for read-only access; also the variable UNDERPASS_AGENT.
    ///
    /// Without it the agent of this node is asked where there is one (/run/underpass/admin.sock), else the agents of the cluster.
    #[arg(long, value_name = "TARGET", help_heading = HEADING, conflicts_with_all = ["kubeconfig", "context"])]
    pub(crate) agent: Option<Target>,
    /// The cluster's agent on this node alone.
    #[arg(long, value_name = "NODE", help_heading = HEADING, conflicts_with = "agent")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// The namespace of the mesh's own pods; by default underpass-system.
    #[arg(short = 'i', long, visible_alias = "istioNamespace", value_name = "NAMESPACE", help_heading = HEADING, conflicts_with = "agent")]
    pub(crate) system_namespace: Option<String>,
}

const HEADING: &str = "Where to ask";

/// The cluster, as kubectl finds it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Cluster {
    /// The kubeconfig; by default the files of KUBECONFIG, else ~/.kube/config.
    #[arg(short = 'c', long, value_name = "FILE", help_heading = HEADING)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; by default its current one.
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub(crate) context: Option<String>,
}

/// Where the mesh is installed.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// The namespace of the mesh's own pods.
    #[arg(short = 'i', long, visible_alias = "istioNamespace", value_name = "NAMESPACE", help_heading = HEADING, default_value = SYSTEM_NAMESPACE, value_parser = super::mesh::namespace)]
    pub(crate) system_namespace: String,
}

impl Place {
    /// The way to its agents.
    pub(crate) fn way(&self) -> Way {
        let (cluster, system_namespace) = (self.cluster.clone(), Some(self.system_namespace.clone()));
        Way { cluster, system_namespace, ..Way::default() }
    }
}

impl Way {
    /// Its namespace of the mesh's own pods.
    pub(crate) fn system_namespace(&self) -> &str {
        self.system_namespace.as_deref().unwrap_or(SYSTEM_NAMESPACE)
    }

    /// A flag says that a cluster is meant.
    pub(crate) const fn names_a_cluster(&self) -> bool {
        self.node.is_some() || self.system_namespace.is_some() || self.cluster.is_named()
    }
}

impl Cluster {
    /// A flag says which.
    pub(crate) const fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }
}
