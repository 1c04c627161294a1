//! Prometheus and promtool, unpacked from Debian's package: installed, it would start a daemon on a developer's machine.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::install::{self, Program};
use crate::process::Cmd;
use crate::workspace::Workspace;

const PACKAGE: &str = "prometheus";
const HINT: &str =
    "Prometheus is missing. On Debian:\n  apt-get download prometheus && dpkg-deb -x prometheus_*.deb FOLDER";

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
    let folder = workspace.tools().join(PACKAGE);
    let bin = folder.join("usr/bin");
    let found = Prometheus { server: bin.join("prometheus"), promtool: bin.join("promtool") };
    if found.server.is_file() && found.promtool.is_file() {
        return Ok(found);
    }
    let tools = [Program { name: "apt-get", package: "apt" }, Program { name: "dpkg-deb", package: "dpkg" }];
    install::programs(&tools).context(HINT)?;
    let aside = workspace.tools().join(format!("{PACKAGE}-download"));
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    let download = || Cmd::new("apt-get").args(["-q", "download", PACKAGE]).current_dir(&aside);
    if !download().succeeds() {
        // The list of packages may be old or missing.
        Cmd::new("apt-get").args(["-q", "update"]).status()?;
        download().run().context(HINT)?;
    }
    let package = downloaded(&aside)?;
    // Whole or not at all: an unpacking that was interrupted is not taken for an installed one.
    let unpacked = aside.join("unpacked");
    Cmd::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked).run().context(HINT)?;
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(&unpacked, &folder).with_context(|| format!("cannot move {}", unpacked.display()))?;
    fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
    ensure!(found.server.is_file() && found.promtool.is_file(), "no programs in {}", bin.display());
    Ok(found)
}

fn downloaded(folder: &std::path::Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut packages = entries.filter_map(|entry| Some(entry.ok()?.path()));
    packages.find(|path| path.extension().is_some_and(|end| end == "deb")).context("apt-get left no package")
}
