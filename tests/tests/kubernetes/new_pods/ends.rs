//! How the connections of both nodes have ended, counted by their agents: what became of a connection that no
//! application saw fail.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use underpass_tests::{apps::http, installed::Installed};

use super::NODES;

/// Connections that have ended, by node and the labels of the counter: direction and reason.
#[derive(Debug)]
pub(crate) struct Ends(BTreeMap<String, u64>);

impl Ends {
    /// So far.
    pub(crate) fn so_far(mesh: &Installed) -> Result<Self> {
        let mut ends = BTreeMap::new();
        for node in NODES {
            let site = mesh.cluster.machine(node)?.service("shell")?;
            let page = site.act(http::fetch, "http://127.0.0.1:15020/metrics".to_owned())?;
            for line in page.lines().filter_map(|line| line.strip_prefix("underpass_connection_ends_total")) {
                let (labels, count) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
                ends.insert(format!("{node} {labels}"), count.parse().with_context(|| line.to_owned())?);
            }
        }
        ensure!(!ends.is_empty(), "no agent counts the ends of connections");
        Ok(Self(ends))
    }

    /// Those since these that ended by another reason than one of these words.
    pub(crate) fn unexplained_since(&self, before: &Self, explained: &[&str]) -> BTreeMap<String, u64> {
        let since = self.0.iter().map(|(ends, count)| (ends.clone(), count - before.0.get(ends).unwrap_or(&0)));
        let is_explained = |ends: &str| explained.iter().any(|reason| ends.contains(&format!("reason=\"{reason}\"")));
        since.filter(|(ends, count)| *count > 0 && !is_explained(ends)).collect()
    }
}
