//! Why a command has no answer, and what to do next.

use std::{io, path::PathBuf};

use underpass_core::explain::Unknown;
use underpass_telemetry::admin::{ClientError, NO_ROUTE, StatusCode};

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The directory of manifests.
    #[error("cannot read the manifests in {path}: {source}", path = path.display())]
    Manifests { path: PathBuf, source: io::Error },
    /// A directory of something else, most likely.
    #[error(
        "no manifests in {path}: of its files ({others}) none ends in .yaml, .yml or .json",
        path = path.display()
    )]
    NoManifests { path: PathBuf, others: usize },
    /// The command before the pipe has failed, most likely.
    #[error("no manifests on standard input: it is empty")]
    NoInput,
    /// A name that names nothing.
    #[error("cannot explain: {source}")]
    Explain { source: Unknown },
    /// Nobody answers at the agent's address.
    #[error("{source}; does an agent run on this node? --agent names another address, and many commands take -f DIR")]
    NoAgent { source: ClientError },
    /// It is another user's.
    #[error("{source}; the agent's socket is for root: use sudo, or --agent 127.0.0.1:15000 to look only")]
    NotRoot { source: ClientError },
    /// The agent does not know the route: it is older, or something else.
    #[error("{source}; is this an Underpass agent of this version?")]
    OtherAgent { source: ClientError },
    /// The agent has no such thing.
    #[error("{says}")]
    NotFound { says: String },
    /// The agent said no, or did not say all of it.
    #[error("{source}")]
    Agent { source: ClientError },
    /// No runtime to ask with.
    #[error("cannot start: {source}")]
    Runtime { source: io::Error },
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

impl From<ClientError> for CliError {
    fn from(source: ClientError) -> Self {
        let not_found = |status: &StatusCode| *status == StatusCode::NOT_FOUND;
        match source {
            ClientError::Connect { source: ref why, .. } if why.kind() == io::ErrorKind::PermissionDenied => {
                Self::NotRoot { source }
            }
            ClientError::Connect { .. } => Self::NoAgent { source },
            // Which route there is not, every Underpass agent says in these words.
            ClientError::Refused { ref status, ref says, .. } if not_found(status) && !says.ends_with(NO_ROUTE) => {
                Self::NotFound { says: says.clone() }
            }
            ClientError::Refused { ref status, .. } if not_found(status) => Self::OtherAgent { source },
            ClientError::Json { .. } | ClientError::Http { .. } => Self::OtherAgent { source },
            _ => Self::Agent { source },
        }
    }
}
