//! The container runtime of the testbed's nodes: containerd with its shim and `ctr`, runc, and the CNI plugins `ptp`,
//! `host-local` and `loopback`, built from source; and the cluster's DNS server.

use std::path::PathBuf;

use anyhow::Result;

use crate::install::go::{self, Programs};
use crate::install::{self, Program};
use crate::workspace::Workspace;

const PROGRAMS: Programs = Programs {
    title: "containerd, runc and CNI plugins",
    folder: "containers",
    main: "github.com/containerd/containerd/v2",
    packages: &[
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        "github.com/containernetworking/plugins/plugins/main/loopback",
        "github.com/containernetworking/plugins/plugins/main/ptp",
        "github.com/opencontainers/runc",
    ],
    // Without seccomp no sandbox starts; file systems that are not used here need further libraries.
    tags: "seccomp no_btrfs no_zfs no_devmapper no_aufs",
    linker: |_| String::new(),
};

/// The module of the DNS server, its version, and the oldest Go that builds it.
const COREDNS: (&str, &str, (u32, u32)) = ("github.com/coredns/coredns", "1.15.0", (1, 26));

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Containers {
    bin: PathBuf,
    pub(crate) coredns: PathBuf,
}

impl Containers {
    /// The environment of the tests: the folder of the programs.
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 1] {
        [("UNDERPASS_CONTAINERS", &self.bin)]
    }
}

/// Builds what is missing. The first time takes minutes.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Containers> {
    install::programs(&[
        Program { name: "nft", package: "nftables" },
        Program { name: "pkg-config", package: "pkg-config" },
    ])?;
    if !crate::process::Cmd::new("pkg-config").args(["--exists", "libseccomp"]).succeeds() {
        install::debian(&["libseccomp-dev"])?;
    }
    let (package, version, oldest) = COREDNS;
    Ok(Containers { bin: PROGRAMS.ensure(workspace)?, coredns: go::installed(workspace, package, version, oldest)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_module_has_every_program() {
        go::check_module(&PROGRAMS);
    }
}
