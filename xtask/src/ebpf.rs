//! Builds the kernel programs, which need a compiler of their own: stable Rust has no `core` for the BPF target.
//!
//! Two compilers will do. A nightly toolchain with the component rust-src builds `core` itself; where there is none,
//! Debian's rustc-web comes with a prebuilt one. A nightly without the sources is no use, so the sources are looked for,
//! not the toolchain. The result is copied only where it differs: an unchanged object rebuilds nothing that embeds it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::install::bpf_linker::{self, Llvm};
use crate::process::Cmd;
use crate::workspace::{Workspace, nested};

const TARGET: &str = "bpfel-unknown-none";
const PACKAGED_RUSTC: &str = "/usr/bin/rustc";
/// A rustc that is as new as Firefox needs, and its `core` for BPF (Debian 12 and later).
const PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
const BY_HAND: &str = "the kernel programs need a compiler with `core` for BPF: Debian's packages above, or on any system\n  \
                       rustup toolchain install nightly --component rust-src";

/// A compiler that can build for BPF.
#[derive(Debug, PartialEq, Eq)]
enum Compiler {
    /// A toolchain folder of rustup's, with the sources of `core`.
    Nightly(PathBuf),
    /// Debian's.
    Packaged,
}

/// A build of the kernel programs: the file name of its object, and the cargo features that make it.
struct Build {
    object: &'static str,
    features: &'static [&'static str],
}

/// The one that an agent loads, the one that `--kernel-log` loads, and the one that tests upgrade to.
const BUILDS: [Build; 3] = [
    Build { object: "underpass-programs", features: &[] },
    Build { object: "underpass-programs-log", features: &[LOG] },
    Build { object: "underpass-programs-next", features: &[NEXT] },
];
/// The cargo feature by which the programs say what they decide.
pub(crate) const LOG: &str = "log";
/// The cargo feature by which programs and agent are of the version after this one.
pub(crate) const NEXT: &str = "next";

/// Builds the kernel programs, every build of them.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let compiler = choose()?;
    let linker = bpf_linker::ensure(workspace, &compiler.llvm()?)?;
    BUILDS.iter().try_for_each(|build| build_one(workspace, &compiler, &linker, build))
}

fn build_one(workspace: &Workspace, compiler: &Compiler, linker: &Path, build: &Build) -> Result<()> {
    let target = workspace.objects().join("build");
    let command = match compiler {
        Compiler::Nightly(toolchain) => nested(toolchain.join("bin/cargo"))
            .env("RUSTC", toolchain.join("bin/rustc"))
            .args(["build", "-Zbuild-std=core"]),
        Compiler::Packaged => workspace.nested_cargo(&workspace.programs()).arg("build"),
    };
    command
        .current_dir(&workspace.programs())
        .env("PATH", first_on_path(linker)?)
        .args(["--release", "--locked", "--target", TARGET])
        .args(["--features", &build.features.join(",")])
        .arg("--target-dir")
        .arg(&target)
        .run()?;
    let built = target.join(TARGET).join("release/underpass-programs");
    let object = workspace.objects().join(build.object);
    let state = if copy_if_different(&built, &object)? { "new" } else { "unchanged" };
    eprintln!("kernel programs: {} ({state})", object.display());
    Ok(())
}

fn choose() -> Result<Compiler> {
    if let Some(toolchain) = rustup_toolchains().as_deref().and_then(nightly_with_sources) {
        return Ok(Compiler::Nightly(toolchain));
    }
    if !packaged_has_core() {
        install::debian(PACKAGES).context(BY_HAND)?;
        ensure!(
            packaged_has_core(),
            "{PACKAGED_RUSTC} has no `core` for {TARGET} although {} are installed",
            PACKAGES.join(" and ")
        );
    }
    Ok(Compiler::Packaged)
}

impl Compiler {
    fn llvm(&self) -> Result<Llvm> {
        let (of, rustc, libraries) = match self {
            Self::Nightly(toolchain) => ("nightly", toolchain.join("bin/rustc"), toolchain.join("lib")),
            Self::Packaged => {
                let libraries = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
                ("packaged", PACKAGED_RUSTC.into(), libraries.into())
            }
        };
        let major = bpf_linker::llvm_major(&nested(rustc).arg("-vV").read()?)?;
        Ok(Llvm { of, major, libraries, needs_rpath: matches!(self, Self::Nightly(_)) })
    }
}

fn rustup_toolchains() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".rustup")))?;
    Some(home.join("toolchains"))
}

/// The nightly toolchain that can build `core`; the undated one wins over a pinned one.
fn nightly_with_sources(toolchains: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(toolchains).ok()?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly-")))
        .filter(|path| path.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file())
        .collect();
    found.sort(); // digits sort before letters: nightly-2026-05-20-x86_64 before nightly-x86_64
    found.pop()
}

fn packaged_has_core() -> bool {
    let Ok(folder) = nested(PACKAGED_RUSTC).args(["--print", "target-libdir", "--target", TARGET]).read() else {
        return false;
    };
    let Ok(entries) = fs::read_dir(folder.trim()) else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn first_on_path(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths([folder.to_path_buf()].into_iter().chain(env::split_paths(&path)))
        .with_context(|| format!("{} cannot be on PATH", folder.display()))
}

/// True if the content was new. The copy is renamed into place, so that no build ever embeds half an object.
fn copy_if_different(from: &Path, to: &Path) -> Result<bool> {
    let content = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    match fs::read(to) {
        Ok(present) if present == content => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", to.display())),
    }
    let unfinished = to.with_extension("unfinished");
    fs::create_dir_all(to.parent().unwrap_or(to))
        .with_context(|| format!("cannot make the folder of {}", to.display()))?;
    fs::write(&unfinished, content).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, to).with_context(|| format!("cannot replace {}", to.display()))?;
    Ok(true)
}

/// Cargo in the kernel programs' folder, with the compiler of this machine's user space: for what needs no `core` for BPF,
/// which a bare machine does not have yet.
pub(crate) fn host_cargo(workspace: &Workspace) -> Result<Cmd> {
    let rustc = nested("rustc").args(["--print", "sysroot"]).read()?;
    Ok(workspace.nested_cargo(&workspace.programs()).env("RUSTC", Path::new(rustc.trim()).join("bin/rustc")))
}

/// Host clippy for the kernel programs, every build of them: `core` for BPF has no clippy of its own, the lints are the same.
pub(crate) fn host_clippy(workspace: &Workspace) -> Result<Vec<Cmd>> {
    let host = nested("rustc").args(["--print", "host-tuple"]).read()?;
    let of_build = |build: &Build| {
        let command = host_cargo(workspace)?
            .args(["clippy", "--quiet", "--locked", "--target", host.trim()])
            .args(["--features", &build.features.join(",")]);
        Ok(command.arg("--target-dir").arg(workspace.objects().join("clippy")))
    };
    BUILDS.iter().map(of_build).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("underpass-xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_nightly_counts_only_with_the_sources() {
        let folder = Folder::new("toolchains");
        let with_sources = |name: &str| {
            let core = folder.0.join(name).join("lib/rustlib/src/rust/library/core");
            fs::create_dir_all(&core).unwrap();
            fs::write(core.join("Cargo.toml"), "").unwrap();
        };
        fs::create_dir_all(folder.0.join("nightly-x86_64-unknown-linux-gnu")).unwrap();
        with_sources("stable-x86_64-unknown-linux-gnu");
        assert_eq!(nightly_with_sources(&folder.0), None);
        with_sources("nightly-2026-05-20-x86_64-unknown-linux-gnu");
        assert!(nightly_with_sources(&folder.0).unwrap().ends_with("nightly-2026-05-20-x86_64-unknown-linux-gnu"));
        with_sources("nightly-x86_64-unknown-linux-gnu");
        assert!(nightly_with_sources(&folder.0).unwrap().ends_with("nightly-x86_64-unknown-linux-gnu"));
        assert_eq!(nightly_with_sources(&folder.0.join("absent")), None);
    }

    #[test]
    fn an_unchanged_object_is_left_alone() {
        let folder = Folder::new("copy");
        let (from, to) = (folder.0.join("built"), folder.0.join("ebpf/object"));
        assert!(copy_if_different(&from, &to).unwrap_err().to_string().contains("the build left no"));
        fs::write(&from, "one").unwrap();
        assert!(copy_if_different(&from, &to).unwrap());
        let written = fs::metadata(&to).unwrap().modified().unwrap();
        assert!(!copy_if_different(&from, &to).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), written);
        fs::write(&from, "two").unwrap();
        assert!(copy_if_different(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
    }
}
