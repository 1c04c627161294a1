//! Instances of waypoints where nothing else makes them: from files no controller runs, so the objects that one would write
//! are derived from those that are there. Pure, and a function of the objects alone, so that every node and every command
//! derives the same.
//!
//! | a waypoint's Gateway | derived |
//! |---|---|
//! | a Service of its name is there | nothing: its instances are someone else's business |
//! | a Pod of its name is there | the Service, for that Pod |
//! | its HBONE listeners have several ports | nothing: an instance has one |
//! | no Node has [`Node::waypoint_ranges`] with a free address | nothing |
//! | else | a headless Service, and one Pod on one of these Nodes, with a free address of each of its ranges that has one |
//!
//! The Node is the first by rendezvous hash of Gateway and Node that has a free address of each of its ranges, where none has the first
//! that has any; the address stands where the Gateway's hash says, or behind what has it already. What must hold: an object of a file keeps its name and its addresses; no two
//! instances have one address; another Gateway, Node or pod moves an instance only where it takes its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    Few, Kind, ObjectKey, ObjectName,
    enrol::DATAPLANE_MODE,
    labels::Labels,
    objects::{ContainerPort, DEFAULT_WEIGHT, Gateway, Node, Object, Phase, Pod, Service},
    resolve::Sources,
    route::mix,
    world::{Affinity, AppProtocol, InternalTraffic, ServicePort, TargetPort},
};

/// The annotation of a Node with the addresses of the waypoints that it may run.
pub const WAYPOINT_RANGE: &str = "underpass.dev/waypoint-range";
/// The label with the name of the Gateway whose instance a pod is.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The annotation by which a derived pod is known. No door reads it, so that no object of a user has it.
const PROVISIONED: &str = "underpass.dev/provisioned";
/// The name of its port.
const PORT_NAME: &str = "mesh";

/// An instance that the agent of its node is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The node that runs it.
    pub node: Arc<str>,
    /// Its pod, of the same name as its service account.
    pub pod: ObjectName,
    /// Of its name: what its node makes for it is named by it.
    pub number: u64,
    /// The waypoint.
    pub gateway: ObjectName,
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// The port of its tunnels.
    pub port: u16,
    /// Its addresses, canonical: one of each family at most.
    pub addresses: Few<IpAddr>,
}

/// The objects to add to these, by name. `is_claimed`: the source has an object of this name, served or not.
pub fn derived<'a>(
    objects: impl IntoIterator<Item = &'a Object>,
    is_claimed: impl Fn(&ObjectKey) -> bool,
) -> BTreeMap<ObjectKey, Object> {
    let mut found = Found::default();
    objects.into_iter().for_each(|object| found.add(object));
    let Found { gateways, nodes, mut taken } = found;
    let mut all = BTreeMap::new();
    let mut add = |object: Object| drop(all.insert(object.key(), object));
    for (name, gateway) in gateways {
        let [service, pod] = [Kind::Service, Kind::Pod].map(|kind| is_claimed(&ObjectKey::new(kind, name.clone())));
        let Some(port) = gateway.port().filter(|_| !service) else { continue };
        if pod {
            add(service_of(gateway, port).into());
        } else if let Some((node, addresses)) = place(gateway, &nodes, &mut taken) {
            add(service_of(gateway, port).into());
            add(pod_of(gateway, port, node, addresses).into());
        }
    }
    all
}

/// The instance that a pod of these is; none: it was not derived.
#[must_use]
pub fn instance(sources: &Sources, pod: &ObjectName) -> Option<Instance> {
    let pod = sources.pod(pod).filter(|pod| pod.annotations.get(PROVISIONED).is_some())?;
    let Some(Object::Gateway(gateway)) = sources.get(&ObjectKey::new(Kind::Gateway, pod.name.clone())) else {
        return None;
    };
    Some(Instance {
        node: pod.node.clone()?,
        pod: pod.name.clone(),
        number: number(gateway),
        gateway: gateway.name.clone(),
        class: Arc::clone(&gateway.class),
        port: gateway.port()?,
        addresses: pod.addresses.clone(),
    })
}

/// Why a waypoint without a Service has no instance, as the end of a sentence.
pub(crate) fn lacks<'a>(gateway: &Gateway, mut nodes: impl Iterator<Item = &'a Arc<Node>>) -> &'static str {
    if gateway.port().is_none() {
        "its HBONE listeners have several ports, and an instance has one"
    } else if nodes.any(|node| !node.waypoint_ranges.is_empty()) {
        "no Node has a free address for one (annotation underpass.dev/waypoint-range)"
    } else {
        "no Node has addresses for one (annotation underpass.dev/waypoint-range)"
    }
}

/// What counts of the objects.
#[derive(Default)]
struct Found<'a> {
    gateways: BTreeMap<&'a ObjectName, &'a Gateway>,
    nodes: Vec<&'a Node>,
    taken: BTreeSet<IpAddr>,
}

impl<'a> Found<'a> {
    fn add(&mut self, object: &'a Object) {
        match object {
            Object::Gateway(gateway) if gateway.is_waypoint() => drop(self.gateways.insert(&gateway.name, gateway)),
            Object::Node(node) => {
                self.taken.extend(&node.addresses);
                if !node.waypoint_ranges.is_empty() {
                    self.nodes.push(node);
                }
            }
            Object::Pod(pod) => self.taken.extend(&pod.addresses),
            Object::Service(service) => self.taken.extend(service.vips.iter().copied().chain(service.external())),
            Object::EndpointSlice(slice) => {
                self.taken.extend(slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses));
            }
            _ => {}
        }
    }
}

/// The node of an instance, and its addresses, which are taken from then on.
fn place<'a>(gateway: &Gateway, nodes: &[&'a Node], taken: &mut BTreeSet<IpAddr>) -> Option<(&'a Node, Vec<IpAddr>)> {
    let own = number(gateway);
    let mut nodes: Vec<_> = nodes.iter().map(|node| (hash(node.name.name(), own), *node)).collect();
    nodes.sort_unstable_by(|a, b| (b.0, &a.1.name).cmp(&(a.0, &b.1.name)));
    let free_of = |(_, node): (u64, &'a Node)| {
        let addresses: Vec<_> = node.waypoint_ranges.iter().filter_map(|range| free(*range, own, taken)).collect();
        (node, addresses)
    };
    let all: Vec<_> = nodes.into_iter().map(free_of).collect();
    let whole = |(node, addresses): &&(&Node, Vec<IpAddr>)| addresses.len() == node.waypoint_ranges.len();
    let found = all.iter().find(whole).or_else(|| all.iter().find(|(_, addresses)| !addresses.is_empty()));
    let (node, addresses) = found?.clone();
    taken.extend(&addresses);
    Some((node, addresses))
}

/// The first address of a range that is not taken, from where `hash` says.
fn free(range: IpNet, hash: u64, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let (first, count) = hosts(range);
    let start = u128::from(hash) % count;
    // One of so many different addresses is free, if any is.
    let most = count.min(u128::try_from(taken.len()).unwrap_or(u128::MAX).saturating_add(1));
    let mut at = (0..most).map(|step| start.saturating_add(step) % count).map(|at| first.saturating_add(at));
    at.find_map(|bits| {
        let ip = match range {
            IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).ok()?).into(),
            IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
        };
        (!taken.contains(&ip)).then_some(ip)
    })
}

/// The first address of a range that a host may have, and the count of them: without those of the network and of all hosts
/// (RFC 1122, 3.2.1.3), or of any router (RFC 4291, 2.6.1), where the range is large enough to have them.
fn hosts(range: IpNet) -> (u128, u128) {
    let bits = match range.network() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let length = u32::from(range.max_prefix_len().saturating_sub(range.prefix_len()));
    let count = 1_u128.checked_shl(length).unwrap_or(u128::MAX);
    match range {
        _ if length < 2 => (bits, count),
        IpNet::V4(_) => (bits.saturating_add(1), count.saturating_sub(2)),
        IpNet::V6(_) => (bits.saturating_add(1), count.saturating_sub(1)),
    }
}

/// Of a text behind what `seed` stands for.
fn hash(text: &str, seed: u64) -> u64 {
    text.bytes().fold(mix(seed), |hash, byte| mix(hash ^ u64::from(byte)))
}

fn number(gateway: &Gateway) -> u64 {
    hash(gateway.name.name(), hash(gateway.name.namespace(), 0))
}

fn labels_of(gateway: &Gateway) -> Labels {
    [(GATEWAY_NAME, gateway.name.name())].into_iter().collect()
}

fn service_of(gateway: &Gateway, port: u16) -> Service {
    let target = TargetPort::Number(port);
    Service {
        name: gateway.name.clone(),
        vips: Vec::new(),
        external: Vec::new(),
        ports: vec![ServicePort { name: PORT_NAME.into(), port, target, protocol: AppProtocol::default() }],
        node_ports: BTreeMap::new(),
        selector: Some(labels_of(gateway)),
        external_name: None,
        publish_not_ready: false,
        internal_traffic: InternalTraffic::Cluster,
        distribution: None,
        affinity: Affinity::None,
        labels: labels_of(gateway),
        waypoint_optional: false,
    }
}

fn pod_of(gateway: &Gateway, port: u16, node: &Node, addresses: Vec<IpAddr>) -> Pod {
    let mut labels = labels_of(gateway);
    // What takes HBONE itself is not captured.
    labels.insert(DATAPLANE_MODE.into(), "none".into());
    Pod {
        name: gateway.name.clone(),
        uid: format!("waypoint-{:016x}", number(gateway)).into(),
        addresses: addresses.into(),
        node: Some(node.name.name().into()),
        hostname: None,
        host_network: false,
        phase: Phase::Running,
        ready: true,
        draining: false,
        deleted: false,
        weight: DEFAULT_WEIGHT,
        labels,
        annotations: [(PROVISIONED, gateway.name.name())].into_iter().collect(),
        service_account: gateway.name.name().into(),
        owner: None,
        ports: vec![ContainerPort { name: PORT_NAME.into(), port }],
        probes: Few::new(),
        proxy: None,
    }
}

#[cfg(test)]
mod tests;
