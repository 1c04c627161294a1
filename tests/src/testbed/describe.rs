//! The description of a testbed: nodes, pods, services, as plain data. A [`World`] gives one, so that the manifests
//! which the mesh reads also build what it runs on; tests write smaller ones by hand.
//!
//! What must hold after [`Description::layout`]: every pod has a node, every name and address is there once, the pods
//! of a node share a subnet that overlaps with no other node's, and nodes can route to each other what pods use.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use underpass_core::{
    World,
    objects::{Object, Phase},
    provision,
    resolve::Model,
    world::Endpoint,
};

use super::cgroup::{Driver, Qos};

/// The longest prefix of a node's pod subnet, IPv4 and IPv6: what cluster networks usually hand to a node.
const LONGEST: (u8, u8) = (24, 64);

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `metadata.name`.
    pub name: String,
    /// Its addresses on the link between the nodes; the first of each family is the one that pods are reached by.
    pub addresses: Vec<IpAddr>,
    /// The cgroup driver of its kubelet.
    pub driver: Driver,
    /// Addresses that lead to it beside those of its pods: of waypoints, which its agent makes.
    pub waypoints: Vec<IpNet>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`.
    pub node: String,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its device that no object mentions.
    pub extra_addresses: Vec<IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `status.qosClass`.
    pub qos: Qos,
    /// `spec.hostNetwork`: it shares its node's network namespace.
    pub host_network: bool,
}

impl PodSpec {
    /// A pod with a uid derived from its name.
    pub fn new(namespace: &str, name: &str, node: &str, addresses: &[&str]) -> Result<Self> {
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid(namespace, name),
            node: node.into(),
            addresses: parse(addresses)?,
            extra_addresses: Vec::new(),
            labels: BTreeMap::new(),
            qos: Qos::default(),
            host_network: false,
        })
    }

    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// One port of a service and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `ports[].port`.
    pub port: u16,
    /// Ready endpoints.
    pub backends: Vec<SocketAddr>,
}

/// A service: a name that pods resolve, and VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIPs`; for a headless service the addresses of its endpoints.
    pub addresses: Vec<IpAddr>,
    /// It has VIPs (is not headless).
    pub has_vips: bool,
    /// TCP ports.
    pub ports: Vec<ServicePort>,
}

/// Everything a testbed contains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Nodes, in the order in which they are connected.
    pub nodes: Vec<NodeSpec>,
    /// Pods.
    pub pods: Vec<PodSpec>,
    /// Services.
    pub services: Vec<ServiceSpec>,
}

impl Description {
    /// One more node. Addresses are text; tests write them as literals.
    pub fn node(mut self, name: &str, addresses: &[&str]) -> Result<Self> {
        let (name, addresses, driver) = (name.into(), parse(addresses)?, Driver::default());
        self.nodes.push(NodeSpec { name, addresses, driver, waypoints: Vec::new() });
        Ok(self)
    }

    /// One more pod, `namespace/name`.
    pub fn pod(mut self, full_name: &str, node: &str, addresses: &[&str]) -> Result<Self> {
        let (namespace, name) = full_name.split_once('/').context("a pod is namespace/name")?;
        self.pods.push(PodSpec::new(namespace, name, node, addresses)?);
        Ok(self)
    }

    /// One more service with VIPs and one port, `namespace/name`.
    pub fn service(mut self, full_name: &str, vips: &[&str], port: u16, backends: &[SocketAddr]) -> Result<Self> {
        let (namespace, name) = full_name.split_once('/').context("a service is namespace/name")?;
        let ports = vec![ServicePort { port, backends: backends.to_vec() }];
        let (namespace, name) = (namespace.into(), name.into());
        self.services.push(ServiceSpec { namespace, name, addresses: parse(vips)?, has_vips: true, ports });
        Ok(self)
    }

    /// `node-1` with cgroups as systemd lays them out and `node-2` as cgroupfs, each with `pods` pods: `default/a1`,
    /// `default/a2`, ... on the first (10.244.1.11, fd00:10:244:1::11, ...) and `default/b1`, ... on the second.
    pub fn two_nodes(pods: usize) -> Result<Self> {
        let mut it =
            Self::default().node("node-1", &["172.30.0.1", "fd30::1"])?.node("node-2", &["172.30.0.2", "fd30::2"])?;
        it.nodes.iter_mut().skip(1).for_each(|n| n.driver = Driver::Cgroupfs);
        for (node, letter) in [(1, 'a'), (2, 'b')] {
            for n in 1..=pods {
                let host = 10 + n;
                let addresses = [format!("10.244.{node}.{host}"), format!("fd00:10:244:{node}::{host}")];
                let addresses = addresses.each_ref().map(String::as_str);
                it = it.pod(&format!("default/{letter}{n}"), &format!("node-{node}"), &addresses)?;
            }
        }
        Ok(it)
    }

    /// The testbed that objects describe. Pods that have no node or no address yet, or have ended, are left out, and waypoints that agents
    /// make; the QoS class is no part of them and stays the default.
    pub fn from_model(model: &Model) -> Result<Self> {
        let (world, sources) = (model.world(), model.sources());
        let mut it = Self::default();
        for (_, object) in sources.objects() {
            if let Object::Node(node) = object {
                let name = node.name.name().to_owned();
                it.nodes.push(NodeSpec {
                    name,
                    addresses: node.addresses.clone(),
                    driver: Driver::default(),
                    waypoints: node.waypoint_ranges.clone(),
                });
            }
        }
        for pod in sources.pods().filter(|p| p.phase != Phase::Terminal && !p.addresses.is_empty()) {
            let Some(node) = pod.node.as_ref().filter(|_| provision::instance(sources, &pod.name).is_none()) else {
                continue;
            };
            it.pods.push(PodSpec {
                namespace: pod.name.namespace().into(),
                name: pod.name.name().into(),
                uid: pod.uid.to_string(),
                node: node.to_string(),
                addresses: pod.addresses.to_vec(),
                extra_addresses: Vec::new(),
                labels: pod.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                qos: Qos::default(),
                host_network: pod.host_network,
            });
        }
        it.services = world.services().filter_map(|s| service(world, s)).collect();
        it.layout()?;
        Ok(it)
    }

    /// Checks the description and divides the addresses into subnets.
    pub fn layout(&self) -> Result<Layout> {
        self.check_names()?;
        let mut subnets = BTreeMap::new();
        for node in &self.nodes {
            for is_ipv4 in [true, false] {
                let pods = self.pods.iter().filter(|p| p.node == node.name && !p.host_network);
                let all = pods.flat_map(|p| p.addresses.iter().chain(&p.extra_addresses));
                let addresses: Vec<_> = all.copied().filter(|a| a.is_ipv4() == is_ipv4).collect();
                let Some(net) = enclosing(&addresses) else { continue };
                ensure!(
                    node.addresses.iter().any(|a| a.is_ipv4() == is_ipv4),
                    "node {} has no address of the family of its pods' {net}",
                    node.name
                );
                let gateway = net.hosts().find(|a| !addresses.contains(a) && Some(*a) != first(&net));
                let gateway = gateway.with_context(|| format!("no address of {net} is left for node {}", node.name))?;
                subnets.insert((node.name.clone(), is_ipv4), Subnet { net, gateway });
            }
        }
        for (a, of_a) in &subnets {
            for (b, of_b) in subnets.range(a..).skip(1) {
                ensure!(
                    !of_a.net.contains(&of_b.net) && !of_b.net.contains(&of_a.net),
                    "the pods of {} ({}) and of {} ({}) have no subnets of their own",
                    a.0,
                    of_a.net,
                    b.0,
                    of_b.net
                );
            }
        }
        Ok(Layout { subnets })
    }

    fn check_names(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        let all = self.nodes.iter().map(|n| format!("node {}", n.name));
        for name in all.chain(self.pods.iter().map(|p| format!("pod {}", p.full_name()))) {
            if let Some(again) = names.replace(name) {
                bail!("{again} is there twice");
            }
        }
        let mut addresses: BTreeSet<IpAddr> = self.nodes.iter().flat_map(|n| n.addresses.clone()).collect();
        for pod in &self.pods {
            ensure!(self.nodes.iter().any(|n| n.name == pod.node), "pod {}: no node {}", pod.full_name(), pod.node);
            for address in pod.addresses.iter().chain(&pod.extra_addresses).filter(|_| !pod.host_network) {
                ensure!(addresses.insert(*address), "pod {}: {address} is taken", pod.full_name());
            }
        }
        Ok(())
    }
}

/// The pods' subnet of one family on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Contains the pods.
    pub net: IpNet,
    /// The bridge's own address.
    pub gateway: IpAddr,
}

/// The networks of a description's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    subnets: BTreeMap<(String, bool), Subnet>,
}

impl Layout {
    /// The subnets of a node, of both families, as far as it has pods.
    pub fn subnets(&self, node: &str) -> impl Iterator<Item = Subnet> + '_ {
        let node = node.to_owned();
        [true, false].into_iter().filter_map(move |is_ipv4| self.subnets.get(&(node.clone(), is_ipv4)).copied())
    }
}

/// The zero host of a subnet: no host in IPv4, the routers' anycast address in IPv6 (RFC 4291, 2.6.1).
fn first(net: &IpNet) -> Option<IpAddr> {
    (!net.addr().is_ipv4()).then(|| net.network())
}

/// The longest usual prefix that contains all of them.
fn enclosing(addresses: &[IpAddr]) -> Option<IpNet> {
    let (first, rest) = addresses.split_first()?;
    let longest = if first.is_ipv4() { LONGEST.0 } else { LONGEST.1 };
    (0..=longest)
        .rev()
        .filter_map(|length| IpNet::new(*first, length).ok())
        .find(|net| rest.iter().all(|a| net.contains(a)))
        .map(|net| net.trunc())
}

fn service(world: &World, service: &underpass_core::world::Service) -> Option<ServiceSpec> {
    let endpoints: Vec<_> = world.endpoints(&service.name).map(|(_, e)| e).filter(|e| e.ready).collect();
    let has_vips = !service.vips.is_empty();
    let addresses: Vec<IpAddr> = match has_vips {
        true => service.vips.clone(),
        false => endpoints.iter().map(|e| e.address).collect(),
    };
    let backends = |port: &underpass_core::world::ServicePort| {
        let of = |e: &&Endpoint| Some(SocketAddr::new(e.address, e.target_port(port.port)?));
        endpoints.iter().filter_map(of).collect()
    };
    let ports = service.ports.iter().map(|p| ServicePort { port: p.port, backends: backends(p) }).collect();
    let (namespace, name) = (service.name.namespace().into(), service.name.name().into());
    (!addresses.is_empty()).then_some(ServiceSpec { namespace, name, addresses, has_vips, ports })
}

fn parse(addresses: &[&str]) -> Result<Vec<IpAddr>> {
    addresses.iter().map(|a| a.parse().with_context(|| format!("address {a}"))).collect()
}

/// A uid of the usual form, the same for the same name.
fn uid(namespace: &str, name: &str) -> String {
    let h = super::pod::hex_of(&["uid", namespace, name]);
    let part = |from: usize, to: usize| h.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        Few, ObjectName,
        labels::Labels,
        objects::{Batch, DEFAULT_WEIGHT, Node, Pod, Service},
        world::{Affinity, AppProtocol, InternalTraffic, MeshSettings, TargetPort},
    };

    use super::*;

    #[test]
    fn subnets_hold_all_pods_of_a_node() {
        let layout = Description::two_nodes(3).and_then(|d| d.layout()).expect("valid");
        let shown = |node| layout.subnets(node).map(|s| format!("{} via {}", s.net, s.gateway)).collect::<Vec<_>>();
        assert_eq!(shown("node-1"), ["10.244.1.0/24 via 10.244.1.1", "fd00:10:244:1::/64 via fd00:10:244:1::1"]);
        assert_eq!(shown("node-2"), ["10.244.2.0/24 via 10.244.2.1", "fd00:10:244:2::/64 via fd00:10:244:2::1"]);
    }

    #[test]
    fn a_gateway_is_no_address_of_a_pod_or_node() {
        let one = Description::default().node("n", &["172.30.0.1"]).expect("node");
        let d = one.pod("x/a", "n", &["10.0.0.1"]).and_then(|d| d.pod("x/b", "n", &["10.0.1.7"])).expect("pods");
        let layout = d.layout().expect("valid");
        let subnet = layout.subnets("n").next().expect("IPv4");
        assert_eq!((subnet.net.to_string(), subnet.gateway.to_string()), ("10.0.0.0/23".into(), "10.0.0.2".into()));
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        fn check(pods: &[(&str, &str, &str)], expected: &str) {
            let mut d = Description::default().node("n1", &["172.30.0.1"]).expect("node");
            d = d.node("n2", &["172.30.0.2"]).expect("node");
            for (name, node, address) in pods {
                d = d.pod(name, node, &[address]).expect("pod");
            }
            let error = d.layout().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        check(&[("x/a", "n3", "10.0.0.5")], "pod x/a: no node n3");
        check(&[("x/a", "n1", "10.0.0.5"), ("x/b", "n1", "10.0.0.5")], "10.0.0.5 is taken");
        check(&[("x/a", "n1", "10.0.0.5"), ("x/a", "n1", "10.0.0.6")], "pod x/a is there twice");
        check(&[("x/a", "n1", "10.0.0.5"), ("x/b", "n2", "10.0.0.6")], "have no subnets of their own");
        check(&[("x/a", "n1", "fd00::5")], "no address of the family");
        check(&[("x/a", "n1", "172.30.0.2")], "172.30.0.2 is taken");
    }

    fn workload(name: &str, node: Option<&str>, addresses: &[&str]) -> Pod {
        Pod {
            name: ObjectName::new("shop", name),
            uid: format!("uid-{name}").into(),
            addresses: parse(addresses).expect("addresses").into(),
            node: node.map(Into::into),
            hostname: None,
            host_network: false,
            phase: Phase::Running,
            ready: true,
            draining: false,
            deleted: false,
            weight: DEFAULT_WEIGHT,
            labels: Labels::from([("app".into(), name.into())]),
            annotations: Labels::new(),
            service_account: "default".into(),
            ports: Vec::new(),
            probes: Few::new(),
            owner: None,
            proxy: None,
        }
    }

    #[test]
    fn a_world_describes_what_it_runs_on() {
        let mut batch = Batch::default();
        for (name, addresses) in [("n1", ["172.30.0.1", "fd30::1"]), ("n2", ["172.30.0.2", "fd30::2"])] {
            let addresses = parse(&addresses).expect("addresses");
            batch.put(Node {
                name: ObjectName::cluster(name),
                addresses,
                labels: Labels::new(),
                awaits_agent: false,
                waypoint_ranges: Vec::new(),
            });
        }
        batch.put(workload("db", Some("n2"), &["10.1.2.5", "fd01:2::5"]));
        batch.put(workload("web", Some("n1"), &["10.1.1.5"]));
        batch.put(workload("unscheduled", None, &["10.1.1.6"]));
        batch.put(Pod { phase: Phase::Terminal, ..workload("done", Some("n1"), &["10.1.1.5"]) });
        batch.put(Service {
            name: ObjectName::new("shop", "db"),
            vips: parse(&["10.96.0.1"]).expect("addresses"),
            external: Vec::new(),
            ports: vec![underpass_core::world::ServicePort {
                name: "".into(),
                port: 80,
                target: TargetPort::Number(5432),
                protocol: AppProtocol::default(),
            }],
            node_ports: BTreeMap::new(),
            selector: Some(Labels::from([("app".into(), "db".into())])),
            external_name: None,
            publish_not_ready: false,
            internal_traffic: InternalTraffic::default(),
            distribution: None,
            affinity: Affinity::default(),
            labels: Labels::new(),
            waypoint_optional: false,
        });
        let mut model = Model::empty(MeshSettings::default());
        model.apply(&batch);
        let description = Description::from_model(&model).expect("can be built");
        let names: Vec<_> = description.pods.iter().map(|p| (p.full_name(), p.node.clone(), p.uid.clone())).collect();
        let pod = |name: &str, node: &str| (format!("shop/{name}"), node.to_owned(), format!("uid-{name}"));
        assert_eq!(names, [pod("db", "n2"), pod("web", "n1")]);
        assert_eq!(description.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
        let [service] = description.services.as_slice() else { panic!("{:?}", description.services) };
        assert!(service.has_vips && service.addresses == parse(&["10.96.0.1"]).expect("addresses"));
        let backends: Vec<_> = service.ports.iter().flat_map(|p| &p.backends).map(ToString::to_string).collect();
        assert_eq!(backends, ["10.1.2.5:5432", "[fd01:2::5]:5432"]);
    }
}
