//! The part of `cargo metadata` that xtask reads: packages, their sources, and their dependencies with kinds.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::Cmd;

/// One workspace with every package it builds from.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    resolve: Option<Resolve>,
}

/// One package.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// Absent for a package by path.
    pub(crate) source: Option<String>,
    pub(crate) manifest_path: PathBuf,
    #[serde(default)]
    dependencies: Vec<Declared>,
    /// The features and dependencies that each feature turns on.
    #[serde(default)]
    features: HashMap<String, Vec<String>>,
}

/// A dependency as the manifest has it.
#[derive(Clone, Debug, Deserialize)]
struct Declared {
    name: String,
    rename: Option<String>,
    optional: bool,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDep>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct NodeDep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Debug, Deserialize)]
struct DepKind {
    kind: Option<String>,
}

/// `from` depends on `to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge<'a> {
    pub(crate) from: &'a Package,
    pub(crate) to: &'a Package,
    /// Only for tests, examples and benches of `from`.
    pub(crate) dev_only: bool,
    /// `from` itself uses it, not its tests or its build script alone.
    pub(crate) normal: bool,
}

impl Metadata {
    /// Runs `cargo metadata` (`command` is cargo in the right folder), for one platform where one is named.
    pub(crate) fn load(command: Cmd, platform: Option<&str>) -> Result<Self> {
        let mut command = command.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
        if let Some(platform) = platform {
            command = command.args(["--filter-platform", platform]);
        }
        Self::parse(&command.read()?)
    }

    /// Parses cargo's JSON.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).context("cannot read what `cargo metadata` printed")
    }

    /// The packages of the workspace itself.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.is_member(package))
    }

    /// True for a package of the workspace itself.
    pub(crate) fn is_member(&self, package: &Package) -> bool {
        self.workspace_members.contains(&package.id)
    }

    /// The packages that something is built from: those that a member reaches.
    pub(crate) fn used(&self) -> Vec<&Package> {
        let edges = self.edges();
        let mut reached: HashSet<&str> = self.workspace_members.iter().map(String::as_str).collect();
        let mut next: Vec<&str> = reached.iter().copied().collect();
        while let Some(id) = next.pop() {
            let found = edges.iter().filter(|edge| edge.from.id == id).map(|edge| edge.to.id.as_str());
            next.extend(found.filter(|to| reached.insert(to)));
        }
        self.packages.iter().filter(|package| reached.contains(package.id.as_str())).collect()
    }

    /// Every dependency that is built. Cargo resolves more: an optional dependency that a feature only names weakly
    /// (`ring?/std`) is in its answer although nothing turns it on.
    pub(crate) fn edges(&self) -> Vec<Edge<'_>> {
        let by_id: HashMap<&str, &Package> =
            self.packages.iter().map(|package| (package.id.as_str(), package)).collect();
        let nodes = self.resolve.iter().flat_map(|resolve| &resolve.nodes);
        let pairs = nodes.flat_map(|node| node.deps.iter().map(move |dep| (node, dep)));
        pairs
            .filter_map(|(node, dep)| {
                let dev_only =
                    !dep.dep_kinds.is_empty() && dep.dep_kinds.iter().all(|kind| kind.kind.as_deref() == Some("dev"));
                let normal = dep.dep_kinds.is_empty() || dep.dep_kinds.iter().any(|kind| kind.kind.is_none());
                let (from, to) = (by_id.get(node.id.as_str())?, by_id.get(dep.pkg.as_str())?);
                from.turns_on(&to.name, &node.features).then_some(Edge { from, to, dev_only, normal })
            })
            .collect()
    }
}

impl Package {
    /// True unless the dependency is optional and none of the active features turns it on.
    fn turns_on(&self, dependency: &str, active: &[String]) -> bool {
        let mut declared = self.dependencies.iter().filter(|declared| declared.name == dependency).peekable();
        declared.peek().is_none()
            || declared.any(|declared| {
                let key = declared.rename.as_ref().unwrap_or(&declared.name);
                let names = |value: &String| {
                    value.strip_prefix("dep:") == Some(key)
                        || value.split_once('/').is_some_and(|(before, _)| before == key)
                };
                let turns_on = |feature: &String| {
                    feature == key || self.features.get(feature).is_some_and(|on| on.iter().any(names))
                };
                !declared.optional || active.iter().any(turns_on)
            })
    }

    /// The package's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}

/// Workspaces in a few words, for the tests of what reads them.
#[cfg(test)]
pub(crate) mod fixture {
    use serde_json::{Value, json};

    use super::Metadata;

    /// `packages`: (name, source, licence), a workspace member where the source is "". `edges`: (from, to, kinds), where
    /// kinds are "normal", "dev" and "build", separated by commas.
    pub(crate) fn metadata(packages: &[(&str, &str, &str)], edges: &[(&str, &str, &str)]) -> Metadata {
        let list: Vec<Value> = packages
            .iter()
            .map(|(name, source, license)| {
                json!({
                    "id": name, "name": name, "version": "1.0.0", "manifest_path": format!("/checkout/{name}/Cargo.toml"),
                    "license": if license.is_empty() { Value::Null } else { json!(license) },
                    "source": if source.is_empty() { Value::Null } else { json!(source) },
                })
            })
            .collect();
        let kind = |kind: &str| json!({ "kind": if kind == "normal" { Value::Null } else { json!(kind) } });
        let nodes: Vec<Value> = packages
            .iter()
            .map(|(name, ..)| {
                let deps = edges.iter().filter(|(from, ..)| from == name);
                let deps: Vec<Value> = deps
                    .map(|(_, to, kinds)| json!({ "pkg": to, "dep_kinds": kinds.split(',').map(kind).collect::<Vec<_>>() }))
                    .collect();
                json!({ "id": name, "deps": deps, "features": [] })
            })
            .collect();
        let members: Vec<&str> =
            packages.iter().filter(|(_, source, _)| source.is_empty()).map(|(name, ..)| *name).collect();
        let all = json!({
            "packages": list, "workspace_members": members, "resolve": { "nodes": nodes },
        });
        Metadata::parse(&all.to_string()).expect("the fixture is what cargo prints")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_dev_only_if_all_its_kinds_are() {
        let metadata = fixture::metadata(
            &[("a", "", ""), ("b", "registry", "MIT"), ("c", "registry", "MIT"), ("d", "registry", "MIT")],
            &[("a", "b", "dev"), ("a", "c", "dev,normal"), ("a", "d", "build")],
        );
        let edges: Vec<_> =
            metadata.edges().iter().map(|edge| (edge.to.name.clone(), edge.dev_only, edge.normal)).collect();
        let want = [("b", true, false), ("c", false, true), ("d", false, false)];
        assert_eq!(edges, want.map(|(name, dev_only, normal)| (name.to_owned(), dev_only, normal)));
        assert_eq!(metadata.members().map(|package| package.name.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    fn check_optional(features: &str, active: &str, want: &[&str]) {
        let json = format!(
            r#"{{"workspace_members": ["a"], "packages": [
                {{"id": "a", "name": "a", "version": "1.0.0", "manifest_path": "/a/Cargo.toml", "features": {features},
                  "dependencies": [{{"name": "b", "rename": null, "optional": true}}, {{"name": "c", "rename": null, "optional": false}}]}},
                {{"id": "b", "name": "b", "version": "1.0.0", "manifest_path": "/b/Cargo.toml"}},
                {{"id": "c", "name": "c", "version": "1.0.0", "manifest_path": "/c/Cargo.toml"}}],
              "resolve": {{"nodes": [{{"id": "a", "features": {active},
                "deps": [{{"pkg": "b", "dep_kinds": [{{"kind": null}}]}}, {{"pkg": "c", "dep_kinds": [{{"kind": null}}]}}]}}]}}}}"#
        );
        let metadata = Metadata::parse(&json).unwrap();
        let used: Vec<_> = metadata.used().iter().map(|package| package.name.as_str()).collect();
        assert_eq!(used, want, "{features} {active}");
        assert_eq!(metadata.edges().len() + 1, want.len(), "{features} {active}");
    }

    #[test]
    fn an_optional_dependency_counts_only_if_a_feature_turns_it_on() {
        check_optional(r#"{"std": ["b?/std"], "on": ["dep:b"]}"#, r#"["std"]"#, &["a", "c"]);
        check_optional(r#"{"std": ["b?/std"], "on": ["dep:b"]}"#, r#"["std", "on"]"#, &["a", "b", "c"]);
        check_optional(r#"{"std": ["b/std"]}"#, r#"["std"]"#, &["a", "b", "c"]);
        check_optional(r#"{"b": ["dep:b"]}"#, r#"["b"]"#, &["a", "b", "c"]);
        check_optional(r#"{"b": ["dep:b"]}"#, "[]", &["a", "c"]);
    }

    #[test]
    fn what_is_not_metadata_is_refused() {
        assert!(Metadata::parse("{}").is_err());
    }
}
