//! Programs of Debian packages that are unpacked into target/tools: installed, they would start a daemon on a developer's
//! machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::install::{self, Program};
use crate::process::Cmd;
use crate::workspace::Workspace;

/// The folder of a package's programs; fetches the package where one of them is missing.
pub(crate) fn programs(workspace: &Workspace, package: &str, names: &[&str]) -> Result<PathBuf> {
    let folder = workspace.tools().join(package);
    let bin = folder.join("usr/bin");
    let complete = || names.iter().all(|name| bin.join(name).is_file());
    if !complete() {
        fetch(workspace, package, &folder).with_context(|| {
            format!(
                "{package} is missing. On Debian:\n  apt-get download {package} && dpkg-deb -x {package}_*.deb {}",
                folder.display()
            )
        })?;
        ensure!(complete(), "{package} has not all of {} in {}", names.join(", "), bin.display());
    }
    Ok(bin)
}

fn fetch(workspace: &Workspace, package: &str, folder: &Path) -> Result<()> {
    let tools = [Program { name: "apt-get", package: "apt" }, Program { name: "dpkg-deb", package: "dpkg" }];
    install::programs(&tools)?;
    let aside = workspace.tools().join(format!("{package}-download"));
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    let download = || Cmd::new("apt-get").args(["-q", "download", package]).current_dir(&aside);
    if !download().succeeds() {
        // The list of packages may be old or missing.
        Cmd::new("apt-get").args(["-q", "update"]).status()?;
        download().run()?;
    }
    let file = downloaded(&aside)?;
    // Whole or not at all: an unpacking that was interrupted is not taken for an installed one.
    let unpacked = aside.join("unpacked");
    Cmd::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked).run()?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(&unpacked, folder).with_context(|| format!("cannot move {}", unpacked.display()))?;
    fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))
}

fn downloaded(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut packages = entries.filter_map(|entry| Some(entry.ok()?.path()));
    packages.find(|path| path.extension().is_some_and(|end| end == "deb")).context("apt-get left no package")
}
