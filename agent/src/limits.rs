//! The limit of open files, and its part for connections: the rest is kept for control, so that a node full of connections
//! still answers its admin API, takes new pods and resets connections that a policy denies.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use underpass_telemetry::admin::{Response, Router};
use underpass_ztunnel::{Budgets, Limits};

use crate::config::Config;

/// Descriptors that are kept for control, in percent.
const RESERVED_PERCENT: usize = 10;
/// The least number of them: for the files that are open before the first pod, and room to work.
const RESERVED_MIN: usize = 128;

/// Raises the limit of open files as far as it may be: every connection costs descriptors.
pub fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "raising the limit of open files failed");
    }
}

/// The budgets of the node for its pods.
#[must_use]
pub fn of(config: &Config) -> Limits {
    // Unlimited is more than there can be.
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
    Limits {
        sockets: for_connections(files),
        pod_sockets: config.pod_sockets.map_or(usize::MAX, usize::from),
        memory: mib(config.node_memory.get()),
        pod_memory: mib(config.pod_memory.get()),
    }
}

/// The part of the descriptors that connections may have.
fn for_connections(files: usize) -> usize {
    let reserved = (files / 100).saturating_mul(RESERVED_PERCENT).max(RESERVED_MIN);
    files.saturating_sub(reserved)
}

fn mib(n: usize) -> usize {
    n.saturating_mul(1 << 20)
}

/// A budget, and its used part.
#[derive(Serialize)]
struct Use {
    used: usize,
    allowed: usize,
}

impl From<(usize, usize)> for Use {
    fn from((used, allowed): (usize, usize)) -> Self {
        Self { used, allowed }
    }
}

#[derive(Serialize)]
struct View {
    sockets: Use,
    memory: Use,
    pods: BTreeMap<String, PodView>,
}

#[derive(Serialize)]
struct PodView {
    sockets: Use,
    memory: Use,
    pauses: u64,
    refused: u64,
    given_up: u64,
}

/// The route that shows budgets and their use by pods.
#[must_use]
pub fn routes(router: Router, budgets: &Arc<Budgets>) -> Router {
    let budgets = Arc::clone(budgets);
    router.route(Method::GET, "/limits", move |_| {
        let view = view(&budgets);
        async move { Response::json(&view) }
    })
}

fn view(budgets: &Budgets) -> View {
    let pods = budgets.pods().into_iter().map(|pod| {
        let view = PodView {
            sockets: pod.sockets.into(),
            memory: pod.memory.into(),
            pauses: pod.pauses,
            refused: pod.refused,
            given_up: pod.given_up,
        };
        (pod.name.to_string(), view)
    });
    View { sockets: budgets.sockets().into(), memory: budgets.memory().into(), pods: pods.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_descriptors_is_kept() {
        for (files, expect) in [(0, 0), (128, 0), (256, 128), (1024, 896), (20_000, 18_000), (1 << 20, 943_726)] {
            assert_eq!(for_connections(files), expect, "{files}");
        }
        assert!(for_connections(usize::MAX) > usize::MAX / 10 * 8, "unlimited");
    }
}
