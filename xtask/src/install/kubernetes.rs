//! Kubernetes' own programs for the level `kubernetes`, built from source. etcd is Debian's.
//!
//! The Go module xtask/kubernetes is there because k8s.io/kubernetes takes parts of itself from folders beside it, which
//! `go install` refuses; ours takes the published versions of these parts.
//! Another release: its number in every line of go.mod that has the old one, then `go mod tidy`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::install::go::{self, Programs};
use crate::install::{self, unpacked};
use crate::process::Cmd;
use crate::workspace::Workspace;

const PROGRAMS: Programs = Programs {
    title: "Kubernetes",
    folder: "kubernetes",
    main: "k8s.io/kubernetes",
    packages: &[
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-proxy",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubectl",
        "k8s.io/kubernetes/cmd/kubelet",
    ],
    tags: "",
    linker: linker_flags,
};

/// The packages with the variables by which Kubernetes' programs know their version: `kubectl version`, and the API
/// server's `/version`, by which clients judge it.
const VERSION_PACKAGES: [&str; 2] = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
/// The source of the program in every pod's sandbox, in Kubernetes' own.
const PAUSE: &str = "build/pause/linux/pause.c";

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    bin: PathBuf,
    etcd: PathBuf,
}

impl Kubernetes {
    /// The environment of the tests: the folder of Kubernetes' programs, and the path of etcd.
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 2] {
        [("UNDERPASS_KUBERNETES", &self.bin), ("UNDERPASS_ETCD", &self.etcd)]
    }

    /// The program in every pod's sandbox, without libraries.
    pub(crate) fn pause(&self) -> PathBuf {
        self.bin.join("pause")
    }
}

/// Builds what is missing. The first time takes minutes.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Kubernetes> {
    let etcd = match install::find_program("etcd") {
        Some(etcd) => etcd,
        None => unpacked::programs(workspace, "etcd-server", &["etcd"])?.join("etcd"),
    };
    let kubernetes = Kubernetes { bin: PROGRAMS.ensure(workspace)?, etcd };
    let _lock = go::lock(&kubernetes.bin)?;
    if !kubernetes.pause().is_file() {
        let source = PROGRAMS.sources(workspace)?.join(PAUSE);
        ensure!(source.is_file(), "{} is missing", source.display());
        let aside = kubernetes.bin.join("pause.new");
        let compile = Cmd::new("cc").args(["-static", "-Os", "-DVERSION=testbed", "-o"]).arg(&aside).arg(&source);
        compile.run().context("cannot build the pause program: a C compiler and a static C library are needed")?;
        std::fs::rename(&aside, kubernetes.pause()).context("cannot move the pause program")?;
    }
    Ok(kubernetes)
}

/// With its version, as a release.
fn linker_flags(version: &str) -> String {
    let mut flags = String::new();
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    for package in VERSION_PACKAGES {
        flags += &format!(" -X {package}.gitVersion=v{version}");
        flags += &format!(" -X {package}.gitMajor={major} -X {package}.gitMinor={minor}");
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_knows_its_version() {
        let flags = linker_flags("1.37.2");
        for want in ["version.gitVersion=v1.37.2", "pkg/version.gitMajor=1 ", "base/version.gitMinor=37"] {
            assert!(flags.contains(want), "{flags}");
        }
    }

    #[test]
    fn the_committed_module_has_every_program() {
        go::check_module(&PROGRAMS);
    }
}
