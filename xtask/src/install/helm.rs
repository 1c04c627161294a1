//! Helm, built from source, for the tests that install the chart.

use std::path::PathBuf;

use anyhow::Result;

use crate::install::go;
use crate::workspace::Workspace;

/// The release, and the oldest Go that builds it.
const HELM: (&str, &str, (u32, u32)) = ("helm.sh/helm/v4/cmd/helm", "4.3.1", (1, 26));

/// Builds Helm where it is missing; its path.
pub(crate) fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let (package, version, oldest) = HELM;
    go::installed(workspace, package, version, oldest)
}
