//! Why a command has no answer.

use std::{io, path::PathBuf};

use underpass_core::explain::Unknown;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The directory of manifests.
    #[error("cannot read the manifests in {path}: {source}", path = path.display())]
    Manifests { path: PathBuf, source: io::Error },
    /// A name that names nothing.
    #[error("cannot explain: {source}")]
    Explain { source: Unknown },
    /// Standard output.
    #[error("cannot write the answer: {source}")]
    Write { source: io::Error },
    /// The answer as JSON.
    #[error("cannot write the answer as JSON: {source}")]
    Json { source: serde_json::Error },
}
