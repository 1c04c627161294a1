//! Errors of commands, with what to do next.

use std::{io, path::PathBuf, sync::Arc};

use underpass_core::{ObjectName, explain::Unknown};
use underpass_telemetry::admin::{ClientError, NO_ROUTE, StatusCode};

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The directory of manifests.
    #[error("cannot read the manifests in {path}: {source}", path = path.display())]
    Manifests { path: PathBuf, source: io::Error },
    /// Probably another kind of directory.
    #[error(
        "no manifests in {path}: of its files ({others}) none ends in .yaml, .yml or .json",
        path = path.display()
    )]
    NoManifests { path: PathBuf, others: usize },
    /// Probably the command before the pipe has failed.
    #[error("no manifests on standard input: it is empty")]
    NoInput,
    /// An unknown source or destination.
    #[error("cannot explain: {source}")]
    Explain { source: Unknown },
    /// Routes are objects, which agents do not have.
    #[error(
        "requests and server names are explained from files alone: name them with -f DIR (agents have no routes: waypoints do)"
    )]
    RequestOfFiles,
    /// No answer at the agent's address.
    #[error("{source}; is an agent running on this node? Use --agent for another address, or -f DIR to read manifests")]
    NoAgent { source: ClientError },
    /// It belongs to another user.
    #[error("{source}; the agent's socket needs root: use sudo, or --agent 127.0.0.1:15000 for read-only access")]
    NotRoot { source: ClientError },
    /// The agent does not know the route: it is older, or something else.
    #[error("{source}; is this address an Underpass agent, of the same version as this command?")]
    OtherAgent { source: ClientError },
    /// The object is unknown to the agent.
    #[error("{says}")]
    NotFound { says: String },
    /// The value of the variable is no address.
    #[error("UNDERPASS_AGENT {value:?}: {source}")]
    Variable { value: String, source: underpass_telemetry::admin::ParseTargetError },
    /// The cluster that flags or the environment name.
    #[error("{source}")]
    Cluster { source: underpass_kube::client::ConnectError },
    /// Neither is there.
    #[error("there is no agent on this node (/run/underpass/admin.sock), and {source}")]
    NoWay { source: underpass_kube::client::ConnectError },
    /// The API server refused, or gave no good answer.
    #[error("{source}{help}")]
    ApiServer { source: Box<underpass_kube::client::Error>, help: String },
    /// The namespace has none.
    #[error(
        "no agent runs in namespace {namespace}: is Underpass installed there? --system-namespace names another one"
    )]
    NoAgents { namespace: String },
    /// The node has none.
    #[error(
        "node {node} has no agent in namespace {namespace} (nodes with one: {nodes}): its pods are not in the mesh; see \
         kubectl get daemonset -n {namespace}"
    )]
    NodeWithoutAgent { node: String, namespace: String, nodes: String },
    /// An agent of a cluster gave no answer.
    #[error("node {node}: agent {pod}: {why}; {help}")]
    Fleet { node: Arc<str>, pod: ObjectName, why: String, help: String },
    /// No agent of a cluster gave one.
    #[error("no agent answers; {last} (and {others} more)")]
    AllSilent { others: usize, last: Box<CliError> },
    /// The answer is one agent's.
    #[error("{command} is about one agent: name its node with --node, or the agent with --agent")]
    NeedsNode { command: &'static str },
    /// Changes go over the socket.
    #[error(
        "changes are accepted over the agent's own socket alone: type \
         kubectl exec -n {namespace} {pod} -- underpass {command}", namespace = pod.namespace(), pod = pod.name()
    )]
    ReadOnly { pod: ObjectName, command: String },
    /// Neither files nor a cluster.
    #[error("nothing to check: name files, or leave out --use-kube=false")]
    NothingToAnalyze,
    /// A label that is another's.
    #[error("{says}")]
    Label { says: String },
    /// A command of Istio's that is none of ours.
    #[error("underpass has no `{said}`: {instead}")]
    Elsewhere { said: String, instead: &'static str },
    /// A kind of the cluster's objects.
    #[error("{source}")]
    Unread { source: underpass_kube::door::Unread },
    /// The agent refused, or the answer is incomplete.
    #[error("{source}")]
    Agent { source: ClientError },
    /// No runtime for requests.
    #[error("cannot start: {source}")]
    Runtime { source: io::Error },
    /// The CA's owner replaces its roots.
    #[error(
        "the CA is plugged in (Secret {namespace}/cacerts): its owner replaces its certificates there, as docs/control.md#the-ca \
         says; underpass ca status shows how far they have come"
    )]
    PluggedIn { namespace: String },
    /// Nothing has made one.
    #[error(
        "there is no CA in namespace {namespace}: the control plane makes one when it starts. Is Underpass installed there? \
         --system-namespace names another one"
    )]
    NoCa { namespace: String },
    /// Another writer was first.
    #[error("{secret} has changed meanwhile: see underpass ca status, and try again")]
    CaChanged { secret: String },
    /// Agents that have not noticed a step.
    #[error(
        "agents were waited for {what}, and are not so far on {}; kubelets bring roots to their node within about a minute. \
         Nothing is changed; --now does not ask", agents.join("; ")
    )]
    Lagging { what: &'static str, agents: Vec<String> },
    /// A CA that cannot be used, or a step of its rotation that cannot be taken.
    #[error(transparent)]
    Ca(#[from] underpass_identity::Error),
    /// What is asked for has to be confirmed, and nothing answers.
    #[error("standard input is no terminal to ask at: {without}")]
    NotConfirmed { without: &'static str },
    /// The chart, or Helm.
    #[error("{source}")]
    Chart { source: crate::chart::ChartError },
    /// Standard output.
    #[error("cannot write the answer: {source}")]
    Write { source: io::Error },
    /// A page of the manual.
    #[error("cannot write {path}: {source}", path = path.display())]
    Page { path: PathBuf, source: io::Error },
    /// The answer as JSON.
    #[error("cannot write the answer as JSON: {source}")]
    Json { source: serde_json::Error },
    /// The answer as YAML.
    #[error("cannot write the answer as YAML: {source}")]
    Yaml { source: serde_saphyr::SerializeError },
}

impl CliError {
    /// An error of the API server, with what to do where it refuses for want of a right.
    pub(crate) fn api_server(source: underpass_kube::client::Error, to: String) -> Self {
        let help = match source.status() {
            Some(401 | 403) => format!("; this needs the right to {to}"),
            _ => String::new(),
        };
        Self::ApiServer { source: Box::new(source), help }
    }
}

impl From<crate::chart::ChartError> for CliError {
    fn from(source: crate::chart::ChartError) -> Self {
        Self::Chart { source }
    }
}

impl From<ClientError> for CliError {
    fn from(source: ClientError) -> Self {
        let not_found = |status: &StatusCode| *status == StatusCode::NOT_FOUND;
        match source {
            ClientError::Connect { source: ref why, .. } if why.kind() == io::ErrorKind::PermissionDenied => {
                Self::NotRoot { source }
            }
            ClientError::Connect { .. } => Self::NoAgent { source },
            // Every Underpass agent has this text for unknown routes.
            ClientError::Refused { ref status, ref says, .. } if not_found(status) && !says.ends_with(NO_ROUTE) => {
                Self::NotFound { says: says.clone() }
            }
            ClientError::Refused { ref status, .. } if not_found(status) => Self::OtherAgent { source },
            ClientError::Json { .. } | ClientError::Http { .. } => Self::OtherAgent { source },
            _ => Self::Agent { source },
        }
    }
}
