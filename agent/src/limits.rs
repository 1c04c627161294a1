//! What the process may use, and what of it is for connections: the rest is kept for control, so that a node full of
//! connections still answers its admin API, takes new pods and closes what a policy denies.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use underpass_telemetry::admin::{Response, Router};
use underpass_ztunnel::{Budgets, Limits};

use crate::config::Config;

/// Descriptors that are kept for control, in percent.
const RESERVED_PERCENT: usize = 10;
/// And at least so many: what the agent has open before its first pod, and room to work.
const RESERVED_MIN: usize = 128;

/// Every connection costs descriptors: as many as we may have.
pub fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "open files: the soft limit stays");
    }
}

/// What the node has for its pods.
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

/// How many of so many descriptors connections may have.
fn for_connections(files: usize) -> usize {
    let reserved = (files / 100).saturating_mul(RESERVED_PERCENT).max(RESERVED_MIN);
    files.saturating_sub(reserved)
}

fn mib(n: usize) -> usize {
    n.saturating_mul(1 << 20)
}

/// A budget, and what of it is used.
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

/// The route that shows what pods hold and may hold.
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
