//! Replicas that have read more than this one, as agents tell: what they had applied from another one is waited for by the
//! door, which lists the kind anew unless the API server tells it in time.
//!
//! What must hold: only the accounts of agents are heard, because a list costs; and what is known already costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, watch};
use underpass_core::{Kind, world::Account};
use underpass_kube::Overtaken;
use underpass_xds::{access::Caller, resource::Resources, server::Heard};

/// The ears for what agents had applied.
#[derive(Debug)]
pub struct Replicas {
    /// The accounts of agents.
    pub agents: BTreeSet<Account>,
    /// What is known here.
    pub resources: watch::Receiver<Resources>,
    /// What is not, and others have. What finds no room is said again by the next agent.
    pub overtaken: mpsc::Sender<Overtaken>,
}

impl Heard for Replicas {
    fn heard(&self, caller: &Caller, applied: &BTreeMap<Kind, u64>) {
        let account = Account { namespace: caller.namespace.clone(), name: caller.service_account.clone() };
        if !self.agents.contains(&account) {
            return;
        }
        let known = self.resources.borrow().versions.clone();
        let is_news = |(kind, version): &(&Kind, &u64)| known.of(**kind).is_some_and(|of| of.known < **version);
        let news: Overtaken = applied.iter().filter(is_news).map(|(kind, version)| (*kind, *version)).collect();
        if !news.is_empty() {
            tracing::info!(%caller, kinds = ?news, "an agent has applied newer changes from another replica");
            let _ = self.overtaken.try_send(news);
        }
    }
}

#[cfg(test)]
mod tests {
    use underpass_door::Reached;

    use super::*;

    #[test]
    fn agents_are_heard_where_they_know_more() {
        let versions = [(Kind::Pod, 10), (Kind::Service, 5)];
        let reached = |(kind, known)| (kind, Reached { known, changed: 1 });
        let resources = Resources { versions: versions.map(reached).into_iter().collect(), ..Resources::default() };
        let account = |name: &str| Account { namespace: "system".into(), name: name.into() };
        let (overtaken, mut told) = mpsc::channel(1);
        let agents = [account("agent")].into();
        let replicas = Replicas { agents, resources: watch::channel(resources).1, overtaken };
        let mut check = |caller: &str, applied: &[(Kind, u64)], expected: Option<&[(Kind, u64)]>| {
            let caller = Caller { namespace: "system".into(), service_account: caller.into(), pod: None, node: None };
            replicas.heard(&caller, &applied.iter().copied().collect());
            let expected = expected.map(|all| all.iter().copied().collect());
            assert_eq!(told.try_recv().ok(), expected, "{caller}: {applied:?}");
        };
        check("agent", &[(Kind::Pod, 10), (Kind::Service, 4)], None);
        check("agent", &[(Kind::Node, 99)], None);
        check("other", &[(Kind::Pod, 11)], None);
        check("agent", &[(Kind::Pod, 11), (Kind::Service, 5)], Some(&[(Kind::Pod, 11)]));
        check("agent", &[(Kind::Pod, 11), (Kind::Service, 7)], Some(&[(Kind::Pod, 11), (Kind::Service, 7)]));
    }
}
