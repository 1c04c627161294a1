//! The startup taint: a new node takes pods once its agent is ready. Its owner sets it where nodes are made; here it is taken
//! away. Every replica does so: one that comes later finds nothing to do.
//!
//! What must hold: it goes only while a ready agent runs on the node. It never comes back by our hand: an agent that is
//! away for a while needs none, because the CNI plugin stays on the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use underpass_core::{ObjectName, objects::Pod, resolve::Sources};
use underpass_kube::{Client, write::Untainted};

use crate::chain;

/// The label of an agent's pod, and its value.
const AGENT: (&str, &str) = ("app.kubernetes.io/name", "underpass-agent");
/// The pause before another try.
const AGAIN: Duration = Duration::from_secs(5);
/// The pause between two looks at what has changed: pods change far more often than agents.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Takes the taint from nodes whose agent, a pod of `namespace`, is ready, for as long as it is polled.
pub async fn remove(client: Client, namespace: String, mut sources: watch::Receiver<Sources>) {
    let mut told = None;
    loop {
        let due = due(&sources.borrow_and_update().clone(), &namespace);
        let mut failed = None;
        let mut waits = false;
        for (node, agent) in due {
            match client.remove_startup_taint(&node, &agent).await {
                Ok(Untainted::Done) => tracing::info!(%node, "startup taint removed, the agent of the node is ready"),
                Ok(Untainted::Unchanged | Untainted::Gone) => {}
                Ok(Untainted::NotReady) => waits = true,
                Err(error) => failed = Some((node, chain(&error))),
            }
        }
        if let Some((node, error)) = failed.as_ref().filter(|_| failed != told) {
            tracing::warn!(%node, error, "startup taint not removed, pods without a toleration do not start there");
        }
        told = failed;
        tokio::select! {
            changed = sources.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if told.is_some() || waits => {}
        }
        sleep(LOOK_AT_MOST_EVERY).await;
    }
}

/// The nodes whose taint is to go, each with its agent.
fn due(sources: &Sources, namespace: &str) -> BTreeMap<Arc<str>, ObjectName> {
    let tainted: BTreeSet<&str> =
        sources.nodes().filter(|node| node.awaits_agent).map(|node| node.name.name()).collect();
    if tainted.is_empty() {
        return BTreeMap::new();
    }
    let agents = sources.pods_of(namespace).filter(|pod| is_ready_agent(pod));
    let placed = agents.filter_map(|pod| Some((pod.node.clone()?, pod.name.clone())));
    placed.filter(|(node, _)| tainted.contains(&**node)).collect()
}

fn is_ready_agent(pod: &Pod) -> bool {
    let (key, value) = AGENT;
    pod.ready && !pod.deleted && pod.labels.get(key).is_some_and(|of| of == value)
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        objects::{Node, Object},
        resolve::Model,
        testing::{labels, model, node, pod},
    };

    use super::*;

    fn agent(name: &str, on: &str) -> Pod {
        let labels = labels("app.kubernetes.io/name=underpass-agent");
        Pod { node: Some(on.into()), ready: true, host_network: true, labels, ..pod(name, "") }
    }

    #[test]
    fn a_taint_goes_once_its_nodes_agent_is_ready() {
        let tainted = || Object::from(Node { awaits_agent: true, ..node("n1", "") });
        let check = |what: &str, objects: Vec<Object>, expected: &[&str]| {
            let model: Model = model(objects);
            let due = due(model.sources(), "mesh");
            assert_eq!(due.keys().map(|node| &**node).collect::<Vec<_>>(), expected, "{what}");
        };
        let a = || agent("mesh/a", "n1");
        check("ready", vec![tainted(), a().into()], &["n1"]);
        check("two of it, around an upgrade", vec![tainted(), a().into(), agent("mesh/b", "n1").into()], &["n1"]);
        check("no taint", vec![node("n1", "").into(), a().into()], &[]);
        check("no agent", vec![tainted()], &[]);
        check("not ready", vec![tainted(), Pod { ready: false, ..a() }.into()], &[]);
        check("on its way out", vec![tainted(), Pod { deleted: true, ..a() }.into()], &[]);
        check("of another node", vec![tainted(), agent("mesh/a", "n2").into()], &[]);
        check("a pod of another namespace that says so", vec![tainted(), agent("shop/a", "n1").into()], &[]);
        check("another pod of the namespace", vec![tainted(), Pod { labels: labels("a=b"), ..a() }.into()], &[]);
    }
}
