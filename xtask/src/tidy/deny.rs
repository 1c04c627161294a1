//! deny.toml: which licences and sources a dependency may have, and which crates may depend on which others.
//!
//! The file has cargo-deny's format and meaning, and `cargo deny check bans licenses sources` reads it as well; reading it
//! here saves every machine the minutes that building cargo-deny takes. A key that is not enforced here is refused, so
//! that the file never promises more than is checked.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Finding, licence};
use crate::metadata::{Metadata, Package};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Graph {
    /// Platforms whose dependencies are looked at.
    targets: Vec<String>,
    /// Tests may use what programs may not: their peers are other people's implementations.
    exclude_dev: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bans {
    deny: Vec<Ban>,
}

/// `name` may be depended on by `wrappers` only.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    #[serde(default)]
    wrappers: Vec<String>,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: Level,
    unknown_git: Level,
    allow_registry: Vec<String>,
}

/// Only what is enforced can be written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Deny,
}

impl Rules {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("cannot read deny.toml")
    }

    /// The platforms to look at.
    pub(crate) fn platforms(&self) -> impl Iterator<Item = &str> {
        self.graph.targets.iter().map(String::as_str)
    }

    /// Everything in a workspace that breaks a rule.
    pub(crate) fn check(&self, metadata: &Metadata) -> Vec<Finding> {
        let packages = metadata.used();
        let each = packages
            .iter()
            .flat_map(|package| self.check_licence(package).into_iter().chain(self.check_source(package)));
        let bans = self.bans.deny.iter().flat_map(|ban| self.check_ban(ban, metadata));
        each.chain(bans).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn check_licence(&self, package: &Package) -> Option<Finding> {
        let name = format!("{} {}", package.name, package.version);
        let Some(expression) = &package.license else {
            return Some(format!("{name} names no licence"));
        };
        match licence::allowed(expression, &|licence| self.licenses.allow.iter().any(|allowed| allowed == licence)) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name} is licensed `{expression}`, which is not allowed")),
            Err(error) => Some(format!("{name} has no valid licence: {error}")),
        }
    }

    fn check_source(&self, package: &Package) -> Option<Finding> {
        let Sources { unknown_registry: Level::Deny, unknown_git: Level::Deny, allow_registry } = &self.sources;
        let source = package.source.as_deref()?; // a package by path is in this checkout
        let registry = source.strip_prefix("registry+").or_else(|| source.strip_prefix("sparse+"));
        let known = registry.is_some_and(|registry| allow_registry.iter().any(|allowed| allowed == registry));
        (!known).then(|| format!("{} {} comes from {source}, which is not allowed", package.name, package.version))
    }

    fn check_ban(&self, ban: &Ban, metadata: &Metadata) -> Vec<Finding> {
        let edges = metadata.edges();
        let users = edges.iter().filter(|edge| edge.to.name == ban.name && edge.from.name != ban.name);
        let users = users.filter(|edge| !(edge.dev_only && self.graph.exclude_dev));
        let foreign = users.filter(|edge| !ban.wrappers.contains(&edge.from.name));
        foreign.map(|edge| format!("{} depends on {}: {}", edge.from.name, ban.name, ban.reason)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::fixture;

    const RULES: &str = r#"
        [graph]
        targets = ["x86_64-unknown-linux-gnu"]
        exclude-dev = true
        [licenses]
        allow = ["MIT"]
        [bans]
        deny = [{ crate = "aya", wrappers = ["underpass-loader"], reason = "one loader" }, { crate = "ring", reason = "no" }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
        allow-registry = ["https://index"]
    "#;
    const INDEX: &str = "registry+https://index";

    fn check(packages: &[(&str, &str, &str)], edges: &[(&str, &str, &str)], want: &[&str]) {
        let findings = Rules::parse(RULES).unwrap().check(&fixture::metadata(packages, edges));
        assert_eq!(findings, want, "{packages:?} {edges:?}");
    }

    /// A member that depends on one package.
    fn check_package(source: &str, licence: &str, want: &[&str]) {
        check(&[("m", "", "MIT"), ("a", source, licence)], &[("m", "a", "normal")], want);
    }

    #[test]
    fn licences() {
        check_package(INDEX, "MIT", &[]);
        check_package(INDEX, "GPL-3.0-only OR MIT", &[]);
        check_package(INDEX, "GPL-3.0-only", &["a 1.0.0 is licensed `GPL-3.0-only`, which is not allowed"]);
        check_package(INDEX, "", &["a 1.0.0 names no licence"]);
        check_package(INDEX, "MIT OR", &["a 1.0.0 has no valid licence: a licence is missing"]);
    }

    #[test]
    fn sources() {
        check_package("", "MIT", &[]);
        check_package(
            "registry+https://other",
            "MIT",
            &["a 1.0.0 comes from registry+https://other, which is not allowed"],
        );
        check_package("git+https://index", "MIT", &["a 1.0.0 comes from git+https://index, which is not allowed"]);
    }

    #[test]
    fn what_nothing_is_built_from_does_not_count() {
        check(&[("m", "", "MIT"), ("a", "git+https://index", "GPL-3.0-only")], &[], &[]);
    }

    #[test]
    fn bans() {
        let packages = [
            ("underpass-loader", "", "MIT"),
            ("underpass-net", "", "MIT"),
            ("aya", INDEX, "MIT"),
            ("ring", INDEX, "MIT"),
        ];
        check(&packages, &[("underpass-loader", "aya", "normal")], &[]);
        check(&packages, &[("underpass-net", "aya", "dev")], &[]);
        check(&packages, &[("underpass-net", "aya", "normal")], &["underpass-net depends on aya: one loader"]);
        check(&packages, &[("underpass-net", "aya", "dev,build")], &["underpass-net depends on aya: one loader"]);
        check(&packages, &[("aya", "ring", "normal")], &["aya depends on ring: no"]);
    }

    #[test]
    fn a_rule_that_is_not_enforced_is_refused() {
        assert!(
            Rules::parse(&RULES.replace("allow = [\"MIT\"]", "allow = [\"MIT\"]\nconfidence-threshold = 0.8")).is_err()
        );
        assert!(Rules::parse(&RULES.replace("unknown-git = \"deny\"", "unknown-git = \"warn\"")).is_err());
        assert!(Rules::parse(&RULES.replace("reason = \"no\"", "version = \"1\"")).is_err());
    }
}
