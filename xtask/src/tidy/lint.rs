//! rustfmt, clippy and rustdoc over both halves: user space, and the workspaces of their own (kernel programs, fuzz targets).
//!
//! These tools print their findings themselves; a finding here only names the command that failed.

use super::Finding;
use super::sources::Source;
use crate::ebpf;
use crate::process::Cmd;
use crate::workspace::Workspace;

pub(crate) fn format(workspace: &Workspace, sources: &[Source]) -> Vec<Finding> {
    let own = own_workspaces(sources)
        .map(|folder| workspace.nested_cargo(&workspace.root().join(folder)).args(["fmt", "--check"]));
    let user_space = workspace.cargo().args(["fmt", "--all", "--check"]);
    std::iter::once(user_space).chain(own).filter_map(failed).collect()
}

pub(crate) fn clippy(workspace: &Workspace) -> Vec<Finding> {
    let user_space =
        workspace.cargo().args(["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"]);
    let programs = ebpf::host_clippy(workspace).map(|command| command.args(["--", "-D", "warnings"]));
    let programs = programs.map_or_else(|error| Some(format!("{error:#}")), failed);
    failed(user_space).into_iter().chain(programs).collect()
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
