//! Paths: the checkout and the folders that xtask itself fills.
//!
//! Paths under `target/` that other crates look for (the kernel programs, the tools) are always below the workspace's own
//! `target`, not below `CARGO_TARGET_DIR`: two target folders still share one set of kernel programs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::Cmd;

/// Environment variables by which an outer cargo, or its user, would override what a nested build's own configuration says.
const OUTER_CARGO: &[&str] = &[
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// The checkout.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace this xtask belongs to: cargo names its package folder when it runs it; a copied binary asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let root = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(package) => Path::new(&package).parent().map(Path::to_path_buf),
            None => {
                let manifest =
                    Cmd::new(cargo()).args(["locate-project", "--workspace", "--message-format", "plain"]).read()?;
                Path::new(manifest.trim()).parent().map(Path::to_path_buf)
            }
        };
        let root = root.context("the workspace has no folder")?;
        ensure!(root.join("Cargo.toml").is_file(), "no Cargo.toml in {}: run this as `cargo xtask`", root.display());
        Ok(Self { root })
    }

    /// The folder of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `target/tools`: programs that xtask builds for itself.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// The workspace of the kernel programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.root.join("ebpf/programs")
    }

    /// The one place where `ebpf/loader` looks for the built kernel programs.
    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("target/ebpf")
    }

    /// cargo on the workspace of user space.
    pub(crate) fn cargo(&self) -> Cmd {
        Cmd::new(cargo()).current_dir(&self.root)
    }

    /// cargo on a workspace of its own, as if no other cargo ran around it.
    pub(crate) fn nested_cargo(&self, folder: &Path) -> Cmd {
        nested(cargo()).current_dir(folder)
    }
}

/// A command that sees nothing of the cargo around it.
pub(crate) fn nested(program: impl Into<OsString>) -> Cmd {
    OUTER_CARGO.iter().fold(Cmd::new(program), |command, name| command.env_remove(name))
}

fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
