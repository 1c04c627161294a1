//! The part of an explanation that is about the choice among a cluster's endpoints: by which method, and which one where
//! the request decides it.

use std::{net::IpAddr, time::Duration};

use super::{
    cluster::{destination_rule, endpoint},
    resolve::Source,
};
use crate::{
    World,
    http::{Ask, Balancer, Cluster, ClusterEndpoint, ClusterPolicy, RequestHead, Viewpoint, hash_of, hash_of_ip},
    labels::Labels,
    objects::{Balancing, HashKey},
    trace::{Stage, Step, Trace as _},
    world::Workload,
};

/// The sender of a request, or of a connection. Where no waypoint is, its place is taken for the waypoint's.
pub(super) struct Caller {
    address: IpAddr,
    viewpoint: Viewpoint,
}

impl Caller {
    /// Of a call to this address.
    pub(super) fn of(source: &Source, called: IpAddr, labels: Option<&Labels>) -> Self {
        let of_workload = source.workload.as_ref().map(|workload| {
            let address = workload.addresses.iter().copied().find(|a| a.is_ipv4() == called.is_ipv4());
            (address, Viewpoint::of(workload, labels))
        });
        let (address, viewpoint) = of_workload.unwrap_or_default();
        Self { address: address.unwrap_or(source.address), viewpoint }
    }
}

/// How one of a cluster's endpoints is chosen.
pub(super) struct Balanced {
    pub(super) by: String,
    /// The one that is, where the request decides it.
    pub(super) endpoint: Option<String>,
    parts: Option<String>,
}

/// Of a cluster with several endpoints.
pub(super) fn balanced<'l>(
    world: &World,
    cluster: &Cluster,
    endpoints: &[ClusterEndpoint<'_>],
    labels: impl Fn(&Workload) -> Option<&'l Labels>,
    caller: &Caller,
    head: Option<&RequestHead<'_>>,
) -> Option<Balanced> {
    if endpoints.len() < 2 {
        return None;
    }
    let service = world.service(cluster.service.as_ref().ok()?)?;
    let mut balancer = Balancer::new(&cluster.policy, service.distribution, caller.viewpoint.clone());
    balancer.update(endpoints, labels, Duration::ZERO, 0);
    let key = key(&cluster.policy, head, caller.address);
    let chosen = key.and_then(|key| {
        let (key, now, dice) = (Some(key), Duration::ZERO, 0);
        let ask = Ask { key, called: None, tried: &[], avoids_tried: false, remote_localities: false, now, dice };
        let id = balancer.pick(&ask).ok()?;
        let target = balancer.target(id)?;
        endpoints.iter().find(|one| one.target == target).map(endpoint)
    });
    Some(Balanced { by: cluster.policy.balancing(), endpoint: chosen, parts: balancer.parts() })
}

/// What the request says; none: it says nothing, or chance decides. Of what is no request the address alone is known.
fn key(policy: &ClusterPolicy, head: Option<&RequestHead<'_>>, source: IpAddr) -> Option<u64> {
    let Balancing::Hash(hash) = &policy.port.load_balancer.as_ref()?.method else { return None };
    let Some(head) = head else { return (hash.key == HashKey::SourceIp).then(|| hash_of_ip(source)) };
    let hashed = hash_of(hash, head, source, 0);
    hashed.key.filter(|_| hashed.set_cookie.is_none())
}

impl Balanced {
    /// Behind the fields of its cluster.
    pub(super) fn say(&self, stage: Stage, cluster: &Cluster, steps: &mut Vec<Step>) {
        let level = cluster.levels.iter().rfind(|level| level.parts.contains(&"loadBalancer"));
        let object = level.map(|level| destination_rule(&level.rule));
        let chosen = self.endpoint.as_ref().map_or_else(String::new, |endpoint| format!(": {endpoint}"));
        let parts = self.parts.as_ref().map_or_else(String::new, |parts| format!(" ({parts})"));
        steps.say(stage, object.as_ref(), || format!("one of them by {}{chosen}{parts}", self.by));
    }
}
