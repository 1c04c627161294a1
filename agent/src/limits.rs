//! The limits of a node's pods, as the settings and the limit of open files give them, and their use.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use serde::Serialize;
use underpass_net::open_files;
use underpass_telemetry::admin::{Response, Router};
use underpass_ztunnel::{Budgets, Limits};

use crate::config::Config;

/// The budgets of the node for its pods.
#[must_use]
pub fn of(config: &Config) -> Limits {
    Limits {
        sockets: open_files::for_connections(),
        pod_sockets: config.pod_sockets.map_or(usize::MAX, usize::from),
        memory: mib(config.node_memory.get()),
        pod_memory: mib(config.pod_memory.get()),
    }
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
