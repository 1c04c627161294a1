//! bpf-linker, linked to the very LLVM of the compiler whose bitcode it links.
//!
//! Its build looks for an LLVM installation below LLVM_PREFIX and needs of it nothing but the shared library under its
//! plain name: a symlink to the library that the compiler itself uses replaces several hundred megabytes of LLVM
//! development files. Each compiler gets a bpf-linker of its own below target/tools.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::Cmd;
use crate::workspace::{Workspace, nested};

/// Works with LLVM 21 to 23, and with the BTF that the loader's library reads.
const VERSION: &str = "0.13.0";
/// The `llvm-*` features of that version (its Cargo.toml).
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// The LLVM of a compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Llvm {
    /// Names the compiler in target/tools.
    pub(crate) of: &'static str,
    pub(crate) major: u32,
    /// The folder of its libLLVM.so.MAJOR.*
    pub(crate) libraries: PathBuf,
    /// False where the dynamic linker finds that folder by itself.
    pub(crate) needs_rpath: bool,
}

/// Installs bpf-linker where it is missing or does not start, and returns the folder to put on PATH.
pub(crate) fn ensure(workspace: &Workspace, llvm: &Llvm) -> Result<PathBuf> {
    let home = workspace.tools().join(format!("bpf-linker-{VERSION}-{}-llvm-{}", llvm.of, llvm.major));
    let bin = home.join("bin");
    // It does not start when the LLVM it was linked to has been replaced by another minor version.
    if Cmd::new(bin.join("bpf-linker")).arg("--version").succeeds() {
        return Ok(bin);
    }
    ensure!(
        LLVM_MAJORS.contains(&llvm.major),
        "bpf-linker {VERSION} knows LLVM {} to {}, and {} has LLVM {}",
        LLVM_MAJORS.start(),
        LLVM_MAJORS.end(),
        llvm.of,
        llvm.major
    );
    let prefix = home.join("llvm");
    link_library(llvm, &prefix.join("lib"))?;
    let build = workspace.tools().join("build");
    let mut install = nested("cargo")
        .env("LLVM_PREFIX", &prefix)
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{}", llvm.major)])
        .arg("--root")
        .arg(&home)
        .arg("--target-dir")
        .arg(&build);
    if llvm.needs_rpath {
        install = install.env("RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", llvm.libraries.display()));
    }
    install.run()?;
    // Some 300 MB that only another version would use again.
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(bin)
}

fn link_library(llvm: &Llvm, folder: &Path) -> Result<()> {
    let library = find_library(llvm)?;
    let link = folder.join("libLLVM.so");
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    symlink(&library, &link).with_context(|| format!("cannot link {} to {}", link.display(), library.display()))
}

fn find_library(llvm: &Llvm) -> Result<PathBuf> {
    let start = format!("libLLVM.so.{}.", llvm.major);
    let folder = fs::read_dir(&llvm.libraries).with_context(|| format!("cannot list {}", llvm.libraries.display()))?;
    let mut found: Vec<PathBuf> = folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)))
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no {start}* in {}", llvm.libraries.display()))
}

/// The major number in the `LLVM version: 22.1.8` line of `rustc -vV`.
pub(crate) fn llvm_major(rustc_verbose_version: &str) -> Result<u32> {
    let line = rustc_verbose_version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = line.and_then(|version| version.split('.').next()).and_then(|major| major.parse().ok());
    major.with_context(|| format!("no LLVM version in: {rustc_verbose_version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_rustc() {
        assert_eq!(llvm_major("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8\n").unwrap(), 22);
        assert!(llvm_major("rustc 1.96.0\nhost: x\n").is_err());
        assert!(llvm_major("LLVM version: unknown\n").is_err());
    }

    #[test]
    fn only_the_library_of_that_major_version_is_linked() {
        let folder = std::env::temp_dir().join(format!("underpass-xtask-llvm-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in [
            "libLLVM.so.21.9",
            "libLLVM.so.22.0",
            "libLLVM.so.22.1-rust-1.97.0",
            "libLLVM-22-rust.so",
            "libLLVM.so.221.0",
        ] {
            fs::write(folder.join(name), "").unwrap();
        }
        let find = |major| find_library(&Llvm { of: "test", major, libraries: folder.clone(), needs_rpath: false });
        assert!(find(22).unwrap().ends_with("libLLVM.so.22.1-rust-1.97.0"));
        assert!(find(21).unwrap().ends_with("libLLVM.so.21.9"));
        assert!(find(23).unwrap_err().to_string().contains("libLLVM.so.23."));
        fs::remove_dir_all(folder).unwrap();
    }
}
