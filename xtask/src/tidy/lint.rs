//! rustfmt, clippy and rustdoc over both halves: user space, and the workspaces of their own (kernel programs, fuzz targets).
//!
//! These tools print their findings themselves; a finding here only names the command that failed.

use super::Finding;
use super::sources::Source;
use crate::ebpf;
use crate::process::Cmd;
use crate::test::{KUBERNETES_TESTS, QUICK_BENCH, TESTBED};
use crate::workspace::Workspace;

pub(crate) fn format(workspace: &Workspace, sources: &[Source]) -> Vec<Finding> {
    let own = own_workspaces(sources)
        .map(|folder| workspace.nested_cargo(&workspace.root().join(folder)).args(["fmt", "--check"]));
    let user_space = workspace.cargo().args(["fmt", "--all", "--check"]);
    std::iter::once(user_space).chain(own).filter_map(failed).collect()
}

pub(crate) fn clippy(workspace: &Workspace) -> Vec<Finding> {
    let user_space = ["--workspace", "--all-targets"];
    // Tests that run by name alone are none of all targets.
    let by_name = ["-p", TESTBED, "--test", QUICK_BENCH, "--test", KUBERNETES_TESTS];
    let user_space = [&user_space[..], &by_name[..]].into_iter().map(|targets| {
        let command = workspace.cargo().args(["clippy", "--keep-going"]).args(targets);
        command.args(["--", "-D", "warnings"])
    });
    let programs = match ebpf::host_clippy(workspace) {
        Ok(builds) => builds.into_iter().map(|build| build.args(["--", "-D", "warnings"])).filter_map(failed).collect(),
        Err(error) => vec![format!("{error:#}")],
    };
    user_space.filter_map(failed).chain(programs).collect()
}

pub(crate) fn docs(workspace: &Workspace) -> Vec<Finding> {
    let command =
        workspace.cargo().env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--no-deps", "--workspace", "--keep-going"]);
    failed(command).into_iter().collect()
}

/// The folders that are workspaces beside the main one.
fn own_workspaces(sources: &[Source]) -> impl Iterator<Item = &str> {
    let manifests = sources.iter().filter(|source| source.text.lines().any(|line| line.trim_end() == "[workspace]"));
    manifests.filter_map(|source| source.path.strip_suffix("/Cargo.toml"))
}

fn failed(command: Cmd) -> Option<Finding> {
    command.run().err().map(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::super::sources::fixture::source;
    use super::*;

    #[test]
    fn workspaces_of_their_own_are_found() {
        let sources = [
            source("Cargo.toml", "[workspace]\nmembers = []\n"),
            source("ebpf/programs/Cargo.toml", "[package]\n[workspace]\n"),
            source("lib/core/Cargo.toml", "[package]\n[lints]\nworkspace = true\n"),
            source("notes.md", "[workspace]\n"),
        ];
        assert_eq!(own_workspaces(&sources).collect::<Vec<_>>(), ["ebpf/programs"]);
    }

    #[test]
    fn a_failing_tool_is_a_finding() {
        assert_eq!(failed(Cmd::new("true")), None);
        assert!(failed(Cmd::new("false")).is_some_and(|finding| finding.contains("`false`")));
    }
}
