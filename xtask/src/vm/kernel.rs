//! The kernel to boot: Debian's cloud flavour, which has BTF, BPF and cgroup v2 and is small, with the modules that a
//! testbed of namespaces needs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Cmd;

const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Below `lib/modules/RELEASE/kernel`, each after those it needs. What is absent is built in.
const MODULES: &[&str] = &[
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "drivers/net/veth",
    "drivers/net/dummy",
    "drivers/net/tun",
    "net/ipv4/inet_diag",
    "net/ipv4/tcp_diag",
    "net/sched/sch_netem",
    "net/packet/af_packet",
];

/// A kernel that tests run on, beside the machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The oldest that is supported.
    V6_1,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V6_1 => f.write_str("6.1"),
        }
    }
}

/// The value of `--kernel`.
pub(crate) fn parse_version(word: &str) -> Result<Version, String> {
    match word {
        "6.1" => Ok(Version::V6_1),
        _ => Err("the only kernel to choose is 6.1, the oldest supported one".to_owned()),
    }
}

/// An unpacked kernel package.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// In the order in which to load them.
    pub(crate) modules: Vec<PathBuf>,
}

impl Kernel {
    /// Downloads the package into `folder` where it is not there yet.
    pub(crate) fn fetch(folder: &Path, version: Version) -> Result<Self> {
        if !folder.is_dir() {
            download(folder, version).with_context(|| format!("cannot fetch the kernel {version}"))?;
        }
        let image = only_entry(&folder.join("boot"), "vmlinuz-")?;
        let release = only_entry(&folder.join("lib/modules"), "")?;
        let modules = MODULES.iter().map(|module| release.join("kernel").join(module).with_extension("ko"));
        Ok(Self { image, modules: modules.filter(|module| module.is_file()).collect() })
    }
}

fn download(folder: &Path, version: Version) -> Result<()> {
    let package = match package(version) {
        Ok(package) => package,
        Err(_) => {
            Cmd::new("apt-get").args(["-q", "update"]).status()?;
            package(version)?
        }
    };
    // Unpacked aside, so that a folder of that name is always whole.
    let aside = folder.with_file_name(format!("{version}-unfinished"));
    if aside.exists() {
        fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
    }
    let unpacked = aside.join("unpacked");
    fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
    Cmd::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
        .current_dir(&aside)
        .run()?;
    Cmd::new("dpkg-deb").arg("-x").arg(only_entry(&aside, &package)?).arg(&unpacked).run()?;
    fs::rename(&unpacked, folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))
}

fn package(version: Version) -> Result<String> {
    let depends = Cmd::new("apt-cache").args(["depends", META_PACKAGE]).read()?;
    match find_package(&depends, version) {
        Some(package) => Ok(package.to_owned()),
        None => bail!("{META_PACKAGE} is not {version} here; Debian 12 has it"),
    }
}

/// The package behind a line like `  Depends: linux-image-6.1.0-37-cloud-amd64`.
fn find_package(depends: &str, version: Version) -> Option<&str> {
    let start = format!("linux-image-{version}.");
    depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|package| package.starts_with(&start))
}

fn only_entry(folder: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
        .collect();
    ensure!(paths.len() == 1, "{} entries {start}* in {}, not one", paths.len(), folder.display());
    Ok(paths.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_that_kernel_is_found() {
        let depends = |package: &str| format!("{META_PACKAGE}\n  Depends: {package}\n");
        for (package, found) in [
            ("linux-image-6.1.0-37-cloud-amd64", true),
            ("linux-image-6.12.9+deb13-cloud-amd64", false),
            ("linux-image-6.10.1-cloud-amd64", false),
        ] {
            assert_eq!(find_package(&depends(package), Version::V6_1), found.then_some(package));
        }
    }
}
