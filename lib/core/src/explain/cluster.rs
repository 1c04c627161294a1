//! The part of an explanation that is about a cluster: its endpoints, how one of them is chosen, and the objects behind it. Its own
//! file because a route of requests and one of connections lead to the same.

use std::net::SocketAddr;

use super::{Behind, balance};
use crate::{
    Kind, ObjectKey, ObjectName, World,
    http::{Cluster, ClusterEndpoint, ClusterKey, Clusters, RequestHead},
    resolve::Sources,
    trace::{Stage, Step, Trace as _},
    world::{Service, WaypointAt, Workload},
};

/// The most endpoints that are listed.
const MOST_LISTED: usize = 16;

/// What clusters are looked at with.
pub(super) struct Looking<'a> {
    pub(super) world: &'a World,
    pub(super) sources: &'a Sources,
    pub(super) is_ipv4: bool,
    pub(super) caller: balance::Caller,
    pub(super) stage: Stage,
}

/// The endpoints of a cluster, in words.
pub(super) struct Endpoints {
    pub(super) all: Vec<String>,
    /// How one of them is chosen, where there are several.
    pub(super) balancing: Option<String>,
    /// The one that is, where the call decides it.
    pub(super) one: Option<String>,
}

impl Looking<'_> {
    pub(super) fn endpoints(&self, clusters: &Clusters, key: &ClusterKey) -> Vec<ClusterEndpoint<'_>> {
        let labels = |w: &Workload| self.sources.pod(&w.name).map(|pod| &pod.labels);
        let of = |cluster: &Cluster| cluster.endpoints(self.world, key.port, self.is_ipv4, labels);
        clusters.get(key).map_or_else(Vec::new, of)
    }

    /// Says what a cluster is; `head` is missing of what is no request.
    pub(super) fn cluster(
        &self,
        clusters: &Clusters,
        key: &ClusterKey,
        head: Option<&RequestHead<'_>>,
        objects: &mut Vec<Behind>,
        steps: &mut Vec<Step>,
    ) -> Endpoints {
        let nothing = Endpoints { all: Vec::new(), balancing: None, one: None };
        let Some(cluster) = clusters.get(key) else { return nothing };
        let labels = |w: &Workload| self.sources.pod(&w.name).map(|pod| &pod.labels);
        let endpoints = self.endpoints(clusters, key);
        let balanced = balance::balanced(self.world, cluster, &endpoints, labels, &self.caller, head);
        let all: Vec<_> = endpoints.iter().map(endpoint).collect();
        let object = cluster.defined_by.as_ref().map(|(name, _)| destination_rule(name));
        if let Some((name, at)) = &cluster.defined_by {
            add(objects, destination_rule(name), format!("spec.subsets[{at}]"));
        }
        steps.say(self.stage, object.as_ref(), || format!("{key}: {}", says(cluster, &all)));
        for level in &cluster.levels {
            let object = destination_rule(&level.rule);
            steps.say(self.stage, Some(&object), || format!("{}: {}", level.field, level.parts.join(", ")));
            add(objects, object, level.field.clone());
        }
        let Some(balanced) = balanced else { return Endpoints { all, ..nothing } };
        balanced.say(self.stage, cluster, steps);
        Endpoints { all, balancing: Some(balanced.by), one: balanced.endpoint }
    }
}

fn add(objects: &mut Vec<Behind>, object: ObjectKey, field: String) {
    let behind = Behind { object, field, place: None };
    if !objects.contains(&behind) {
        objects.push(behind);
    }
}

/// Whether a waypoint does what is said; where none stands before the Service, that is said too.
pub(super) fn is_enforced(service: &Service, stage: Stage, steps: &mut Vec<Step>) -> bool {
    let name = &service.name;
    let (is_enforced, says) = match service.waypoint.as_ref().map(|waypoint| &waypoint.at) {
        Some(WaypointAt::Missing(gateway)) => {
            (false, format!("waypoint {gateway} is missing: nothing of this happens"))
        }
        Some(WaypointAt::Service(gateway)) => (true, format!("waypoint {gateway} does this")),
        Some(WaypointAt::Address(..)) => (true, "the waypoint does this".to_owned()),
        None => {
            (false, format!("no waypoint stands before Service {name}: the connection goes as the stages above say"))
        }
    };
    steps.say(stage, None, || says);
    is_enforced
}

pub(super) fn destination_rule(name: &ObjectName) -> ObjectKey {
    ObjectKey::new(Kind::DestinationRule, name.clone())
}

fn says(cluster: &Cluster, endpoints: &[String]) -> String {
    if let Err(why) = &cluster.service {
        return format!("{why}: 503, response flag NR");
    }
    let labels: Vec<_> = cluster.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let with = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(",")) };
    let listed: Vec<_> = endpoints.iter().take(MOST_LISTED).map(String::as_str).collect();
    let more = match endpoints.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    match endpoints.len() {
        0 => format!("no ready endpoint{with}: 503, response flag UH"),
        1 => format!("1 endpoint{with}: {}", listed.join("")),
        n => format!("{n} endpoints{with}: {}{more}", listed.join(", ")),
    }
}

pub(super) fn endpoint(endpoint: &ClusterEndpoint<'_>) -> String {
    let target: SocketAddr = endpoint.target;
    if endpoint.workload.is_pod() { format!("{target} ({})", endpoint.workload.name) } else { target.to_string() }
}
