//! Builds user space and says where the executables are, by cargo's own account: no guess about target folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::ebpf;
use crate::process::Cmd;
use crate::workspace::{Workspace, nested};

/// An executable that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The target's name: of a binary, an integration test, or of the library or binary whose unit tests it holds.
    pub(crate) name: String,
    /// The package's folder, where cargo runs its tests.
    pub(crate) package: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) is_test: bool,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Runs cargo (with its subcommand and packages) and collects the executables.
pub(crate) fn executables(command: Cmd) -> Result<Vec<Executable>> {
    let line = command.line();
    let mut found = Vec::new();
    let status = command.args(["--message-format", "json-render-diagnostics"]).lines(|line| {
        found.extend(executable(line));
        false
    })?;
    ensure!(status.success(), "`{line}` ended with {status}");
    Ok(found)
}

fn executable(line: &str) -> Option<Executable> {
    let message: Message = serde_json::from_str(line).ok()?;
    if message.reason != "compiler-artifact" {
        return None;
    }
    Some(Executable {
        name: message.target?.name,
        package: message.manifest_path?.parent()?.to_path_buf(),
        path: message.executable?,
        is_test: message.profile?.test,
    })
}

const PACKAGES: [&str; 12] = [
    "-p",
    "underpass-agent",
    "-p",
    "underpass-cli",
    "-p",
    "underpass-cni",
    "-p",
    "underpass-control",
    "-p",
    "underpass-waypoint",
    "-p",
    "underpass-tests",
];
/// The CNI plugin: its package and its program.
pub(crate) const PLUGIN: &str = "underpass-cni";
/// The agent of the version after this one.
pub(crate) const NEXT_AGENT: &str = "underpass-agent-next";

/// The programs that the demo, the kernel tests and those with an API server start.
pub(crate) struct Programs {
    by_name: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// Builds the agent, the waypoint, the CNI plugin, the control plane, the command line tool and the testbed's own binaries.
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let found = executables(workspace.cargo().args(["build", "--bins"]).args(PACKAGES))?;
        let mut by_name: BTreeMap<_, _> =
            found.into_iter().map(|executable| (executable.name, executable.path)).collect();
        // The one beside the agent is for an agent of this machine alone.
        by_name.insert(PLUGIN.to_owned(), plugin(workspace)?);
        Ok(Self { by_name })
    }

    /// Builds the agent of the version after this one as well, which tests upgrade to.
    pub(crate) fn with_next(mut self, workspace: &Workspace) -> Result<Self> {
        // The same packages, so that what they depend on is built with the same features, once.
        let feature = format!("underpass-agent/{}", ebpf::NEXT);
        let build = workspace.cargo().args(["build", "--bin", NEXT_AGENT, "--features", &feature]).args(PACKAGES);
        let found = executables(build)?;
        self.by_name.extend(found.into_iter().map(|executable| (executable.name, executable.path)));
        Ok(self)
    }

    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        let built = || format!("no binary `{name}` was built, only: {:?}", self.by_name.keys().collect::<Vec<_>>());
        self.by_name.get(name).map(PathBuf::as_path).with_context(built)
    }

    /// Everything that was built.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.by_name.values().map(PathBuf::as_path)
    }

    /// The environment of a child: `UNDERPASS_AGENT_BIN`, `UNDERPASS_CONTROL_BIN`, `UNDERPASS_WAYPOINT_BIN`, `UNDERPASS_CLI_BIN` and
    /// `UNDERPASS_CNI_BIN`, the paths of the agent, the control plane, the waypoint, `underpass` and the CNI plugin, and where it was built `UNDERPASS_NEXT_AGENT_BIN`.
    pub(crate) fn environment(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let mut environment = vec![
            ("UNDERPASS_AGENT_BIN", self.path("underpass-agent")?.to_path_buf()),
            ("UNDERPASS_CONTROL_BIN", self.path("underpass-control")?.to_path_buf()),
            ("UNDERPASS_WAYPOINT_BIN", self.path("underpass-waypoint")?.to_path_buf()),
            ("UNDERPASS_CLI_BIN", self.path("underpass")?.to_path_buf()),
            ("UNDERPASS_CNI_BIN", self.path(PLUGIN)?.to_path_buf()),
        ];
        environment.extend(self.by_name.get(NEXT_AGENT).map(|path| ("UNDERPASS_NEXT_AGENT_BIN", path.clone())));
        Ok(environment)
    }
}

/// Builds the CNI plugin as it is published, linked to no library: it runs on the node, whose glibc may be older than that of this
/// machine, or another libc. In a target folder of its own, because everything in it is built with other flags.
pub(crate) fn plugin(workspace: &Workspace) -> Result<PathBuf> {
    let build = workspace
        .cargo()
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // With a target the flags are those of the program alone, not of macros, which cannot be linked like this.
        .args(["build", "--release", "--locked", "-p", PLUGIN, "--bin", PLUGIN, "--target", &compiler("host: ")?])
        .arg("--target-dir")
        .arg(workspace.root().join("target/static"));
    let found = executables(build)?.into_iter().find(|executable| executable.name == PLUGIN);
    Ok(found.with_context(|| format!("cargo built no {PLUGIN}"))?.path)
}

/// What the compiler says of itself behind this start of a line: `host: ` or `release: `.
pub(crate) fn compiler(start: &str) -> Result<String> {
    let verbose = nested("rustc").arg("-vV").read()?;
    let found = verbose.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
    found.with_context(|| format!("no line `{start}` of rustc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let artifact = r#"{"reason":"compiler-artifact","manifest_path":"/x/tests/Cargo.toml","target":{"kind":["test"],"name":"capture"},
            "profile":{"test":true},"executable":"/x/target/debug/deps/capture-1","fresh":true}"#;
        let want = Executable {
            name: "capture".into(),
            package: "/x/tests".into(),
            path: "/x/target/debug/deps/capture-1".into(),
            is_test: true,
        };
        assert_eq!(executable(artifact), Some(want));
        let library = r#"{"reason":"compiler-artifact","manifest_path":"/x/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":null}"#;
        for line in [library, r#"{"reason":"build-finished","success":true}"#, "", "warning: something"] {
            assert_eq!(executable(line), None, "{line}");
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let programs = Programs { by_name: [("underpass-agent".to_owned(), PathBuf::from("/a"))].into() };
        let error = programs.environment().unwrap_err().to_string();
        assert!(error.contains("`underpass-control`") && error.contains("underpass-agent"), "{error}");
    }
}
