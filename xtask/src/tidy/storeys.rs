//! The house has storeys, and a crate depends on lower ones only: never sideways, never up.
//!
//! A type that two rooms need moves down a storey instead. Tests may look sideways (one program driving another), never up.

use std::path::Path;

use super::Finding;
use crate::metadata::{Edge, Metadata};

/// A crate's storey and folder. ARCHITECTURE.md draws the same house.
struct Row {
    package: &'static str,
    folder: &'static str,
    storey: u8,
}

const ROOF: u8 = 6;

const HOUSE: &[Row] = &[
    row("underpass-tests", "tests", ROOF),
    row(XTASK, "xtask", ROOF),
    row("underpass-agent", "agent", 5),
    row("underpass-control", "control", 5),
    row("underpass-cli", "cli", 5),
    row("underpass-ztunnel", "ztunnel", 4),
    row("underpass-waypoint", "waypoint", 4),
    row("underpass-proxy", "lib/proxy", 3),
    row("underpass-loader", "ebpf/loader", 3),
    row("underpass-kube", "lib/kube", 3),
    row("underpass-xds", "lib/xds", 3),
    row("underpass-net", "lib/net", 2),
    row("underpass-config", "lib/config", 2),
    row("underpass-keeper", "lib/keeper", 2),
    row("underpass-identity", "lib/identity", 1),
    row("underpass-telemetry", "lib/telemetry", 1),
    row("underpass-door", "lib/door", 1),
    row("underpass-cni", "cni", 1),
    row("underpass-core", "lib/core", 0),
    row("underpass-hbone", "lib/hbone", 0),
    row("underpass-abi", "ebpf/abi", 0),
];

/// On the roof, but it builds the house: it uses none of our crates.
const XTASK: &str = "xtask";

const fn row(package: &'static str, folder: &'static str, storey: u8) -> Row {
    Row { package, folder, storey }
}

pub(crate) fn check(metadata: &Metadata, root: &Path) -> Vec<Finding> {
    let members = metadata.members().filter_map(|member| check_member(&member.name, member.folder(), root));
    let absent = HOUSE.iter().filter(|row| metadata.members().all(|member| member.name != row.package));
    let absent = absent.map(|row| format!("{} is in the table of storeys, but there is no such crate", row.package));
    let edges = metadata.edges();
    let edges = edges.iter().filter(|edge| metadata.is_member(edge.from) && metadata.is_member(edge.to));
    members.chain(absent).chain(edges.filter_map(check_edge)).collect()
}

fn check_member(package: &str, folder: &Path, root: &Path) -> Option<Finding> {
    match find(package) {
        None => Some(format!("{package} is missing in the table of storeys (xtask, tidy/storeys.rs)")),
        Some(row) if root.join(row.folder) != folder => Some(format!("{package} belongs in {}/", row.folder)),
        Some(_) => None,
    }
}

fn check_edge(edge: &Edge<'_>) -> Option<Finding> {
    let (from, to) = (find(&edge.from.name)?, find(&edge.to.name)?);
    if from.package == to.package && edge.dev_only {
        return None; // a crate's own tests, with its features for testing
    }
    if from.package == XTASK {
        return Some(format!("{XTASK} uses {}, but uses no crate of ours", to.package));
    }
    let allowed = to.storey < from.storey || (edge.dev_only && to.storey == from.storey);
    let direction = if to.storey == from.storey { "sideways" } else { "up" };
    (!allowed).then(|| {
        format!(
            "{} (storey {}) depends {direction} on {} (storey {})",
            from.package, from.storey, to.package, to.storey
        )
    })
}

fn find(package: &str) -> Option<&'static Row> {
    HOUSE.iter().find(|row| row.package == package)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::fixture;

    /// The findings about edges alone: the fixture's house has only the crates that the edge needs.
    fn check_house(edge: (&str, &str, &str), want: &[&str]) {
        let mut packages = vec![(edge.0, "", "")];
        if edge.1 != edge.0 {
            packages.push((edge.1, "", ""));
        }
        let metadata = fixture::metadata(&packages, &[edge]);
        let findings: Vec<_> = metadata.edges().iter().filter_map(check_edge).collect();
        assert_eq!(findings, want, "{edge:?}");
    }

    #[test]
    fn dependencies_point_down() {
        check_house(("underpass-agent", "underpass-core", "normal"), &[]);
        check_house(("underpass-tests", "underpass-agent", "normal"), &[]);
        check_house(
            ("underpass-core", "underpass-config", "normal"),
            &["underpass-core (storey 0) depends up on underpass-config (storey 2)"],
        );
        check_house(
            ("underpass-net", "underpass-config", "build"),
            &["underpass-net (storey 2) depends sideways on underpass-config (storey 2)"],
        );
    }

    #[test]
    fn tests_may_look_sideways_but_not_up() {
        check_house(("underpass-agent", "underpass-cli", "dev"), &[]);
        check_house(("underpass-core", "underpass-core", "dev"), &[]);
        check_house(
            ("underpass-net", "underpass-ztunnel", "dev"),
            &["underpass-net (storey 2) depends up on underpass-ztunnel (storey 4)"],
        );
        check_house(
            ("underpass-agent", "underpass-cli", "dev,normal"),
            &["underpass-agent (storey 5) depends sideways on underpass-cli (storey 5)"],
        );
    }

    #[test]
    fn xtask_uses_none_of_ours() {
        check_house(("xtask", "underpass-core", "normal"), &["xtask uses underpass-core, but uses no crate of ours"]);
        check_house(("xtask", "underpass-core", "dev"), &["xtask uses underpass-core, but uses no crate of ours"]);
    }

    #[test]
    fn every_crate_has_its_storey() {
        let root = Path::new("/checkout");
        assert_eq!(check_member("underpass-core", Path::new("/checkout/lib/core"), root), None);
        assert!(
            check_member("underpass-core", Path::new("/checkout/core"), root)
                .is_some_and(|finding| finding.contains("lib/core/"))
        );
        assert!(check_member("underpass-attic", Path::new("/checkout/attic"), root).is_some());
        let findings = check(&fixture::metadata(&[("underpass-attic", "", "")], &[]), root);
        assert_eq!(findings.len(), 1 + HOUSE.len(), "{findings:?}");
    }
}
