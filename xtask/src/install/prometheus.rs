//! Prometheus and promtool, which scrape the agents of the kernel level and of the demo.

use std::path::PathBuf;

use anyhow::Result;

use crate::install::unpacked;
use crate::workspace::Workspace;

/// The paths of the two programs.
#[derive(Debug)]
pub(crate) struct Prometheus {
    pub(crate) server: PathBuf,
    pub(crate) promtool: PathBuf,
}

impl Prometheus {
    /// The environment of the tests and the demo.
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 2] {
        [("UNDERPASS_PROMETHEUS", &self.server), ("UNDERPASS_PROMTOOL", &self.promtool)]
    }
}

/// Fetches the package where it is missing.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Prometheus> {
    let bin = unpacked::programs(workspace, "prometheus", &["prometheus", "promtool"])?;
    Ok(Prometheus { server: bin.join("prometheus"), promtool: bin.join("promtool") })
}
