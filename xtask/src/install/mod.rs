//! Installation of what a command needs: by xtask where it can, otherwise refused with the exact command to run.
//!
//! xtask can install where it runs as root and apt-get exists. It never asks for a password, so that CI and a script see
//! an error instead of a prompt.

pub(crate) mod bpf_linker;
pub(crate) mod containers;
pub(crate) mod go;
pub(crate) mod h2spec;
pub(crate) mod helm;
pub(crate) mod istiod;
pub(crate) mod kubernetes;
pub(crate) mod prometheus;
mod unpacked;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Cmd;

/// A program and the Debian package that has it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// The path of a program: in PATH, or in the sbin folders that a user's PATH often lacks.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Makes sure that all programs are there.
pub(crate) fn programs(wanted: &[Program]) -> Result<()> {
    let mut missing: Vec<_> = wanted.iter().filter(|program| find_program(program.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|program| program.package).collect();
    packages.sort_unstable();
    packages.dedup();
    debian(&packages)?;
    missing.retain(|program| find_program(program.name).is_none());
    let names: Vec<_> = missing.iter().map(|program| program.name).collect();
    ensure!(names.is_empty(), "{} missing although {} is installed", names.join(", "), packages.join(", "));
    Ok(())
}

/// Installs Debian packages, or names the command that does.
pub(crate) fn debian(packages: &[&str]) -> Result<()> {
    if !is_root() || find_program("apt-get").is_none() {
        bail!("Debian packages are missing. Run:\n  {}", debian_command(packages));
    }
    // A third-party list that cannot be fetched need not hinder a package of Debian's: the install says what is missing.
    apt(&["-q", "update"]).status()?;
    apt(&["-qy", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends"])
        .args(packages)
        .run()
        .with_context(|| format!("cannot install Debian packages. By hand:\n  {}", debian_command(packages)))
}

fn apt(arguments: &[&str]) -> Cmd {
    Cmd::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive")
}

fn debian_command(packages: &[&str]) -> String {
    format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// The rustup components that tidy runs; a minimal profile has neither.
pub(crate) fn rust_components() -> Result<()> {
    for (component, tool) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !Cmd::new("cargo").args([tool, "--version"]).succeeds() {
            let hint = format!("`cargo {tool}` is missing. Run:\n  rustup component add {component}");
            Cmd::new("rustup").args(["component", "add", component]).run().context(hint)?;
        }
    }
    Ok(())
}

/// True if this process may do anything on this machine that a user may.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_uid(&status) == Some(0))
}

/// The second number of the `Uid:` line (proc_pid_status(5): real, effective, saved, file system).
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_counts() {
        assert_eq!(effective_uid("Name:\txtask\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid("Name:\txtask\n"), None);
    }

    #[test]
    fn programs_are_found_or_not() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn the_command_is_exact() {
        assert_eq!(
            debian_command(&["iproute2", "cpio"]),
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends iproute2 cpio"
        );
    }
}
