//! Services: VIPs, TCP ports and their targets. Fields that are not served yet are reported on the object.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use underpass_core::{
    Kind,
    objects::Service,
    world::{Affinity, AppProtocol, Distribution, InternalTraffic, ServicePort, TargetPort},
};

use super::{
    Converted, Faults, Rejected, meta, syntax,
    value::{self, Addresses},
};
use crate::{Fault, path::At, shapes, shapes::IntOrString};

/// `allow`: a missing waypoint is bypassed.
const WAYPOINT_FAILURE: &str = "underpass.dev/waypoint-failure";

/// Asks the controller that writes EndpointSlices for hints.
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

const INTERNAL_TRAFFIC: &[&str] = &["Cluster", "Local"];
const AFFINITIES: &[&str] = &["None", "ClientIP"];
const TYPES: &[&str] = &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

/// `v1 Service`.
///
/// # Errors
/// All of its faults.
pub fn service(shape: &shapes::Service) -> Result<Converted<Service>, Rejected> {
    let mut faults = Faults::default();
    let at = At::ROOT.field("spec");
    let spec = &shape.spec;
    let name = meta::object_name(Kind::Service, &shape.metadata, &mut faults);
    let labels = meta::labels(&shape.metadata, &mut faults);
    let kind = spec.r#type.as_deref().filter(|t| !t.is_empty()).unwrap_or("ClusterIP");
    if !TYPES.contains(&kind) {
        faults.push(&at.field("type"), Fault::Value { found: kind.into(), known: TYPES });
    }
    let is_external = kind == "ExternalName";
    let external_name = is_external.then(|| external_name(spec, &at, &mut faults)).flatten();
    let vips = vips(spec, &at, &mut faults);
    let external = external(shape, &mut faults);
    let (ports, node_ports) = ports(spec, &at, &mut faults);
    let selector = spec.selector.as_ref().map(|s| meta::label_map(s, &at.field("selector"), &mut faults));
    let waypoint_optional =
        meta::switch(&shape.metadata, WAYPOINT_FAILURE, (&["refuse"], &["allow"]), &["allow", "refuse"], &mut faults);
    let internal = internal_traffic(spec, &at, &mut faults);
    let affinity = affinity(spec, &at, &mut faults);
    let distribution = distribution(shape, &at, &mut faults);
    not_yet(shape, &mut faults);
    let service = || {
        Some(Service {
            name: name?,
            vips: if is_external { Vec::new() } else { vips },
            external: if is_external { Vec::new() } else { external },
            ports,
            node_ports,
            selector: match selector {
                Some(selector) => Some(selector?),
                None => None,
            },
            external_name,
            publish_not_ready: spec.publish_not_ready_addresses,
            internal_traffic: internal?,
            distribution,
            affinity,
            labels: labels?,
            waypoint_optional,
        })
    };
    let service = service();
    faults.finish(service)
}

fn external_name(spec: &shapes::ServiceSpec, at: &At<'_>, faults: &mut Faults) -> Option<Arc<str>> {
    let name = spec.external_name.as_deref().unwrap_or_default();
    // A final dot is allowed, and a name of DNS has no case.
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    faults.check(&at.field("externalName"), syntax::dns_subdomain(&name))
}

fn vips(spec: &shapes::ServiceSpec, at: &At<'_>, faults: &mut Faults) -> Vec<IpAddr> {
    let (list, single) = (at.field("clusterIPs"), at.field("clusterIP"));
    let is_address = |text: &str| !matches!(text, "" | "None");
    let mut vips = Addresses::default();
    for (i, text) in spec.cluster_ips.iter().enumerate().filter(|(_, t)| is_address(t)) {
        vips.add(text, &list.index(i), faults);
    }
    // clusterIP is clusterIPs[0]; only what is written by hand has it alone.
    if let Some(text) = spec.cluster_ip.as_deref().filter(|t| is_address(t)) {
        if spec.cluster_ips.is_empty() {
            vips.add(text, &single, faults);
        } else {
            faults.check(&single, syntax::cluster_address(text));
        }
    }
    vips.into_vec()
}

/// `externalIPs`, and addresses of load balancers that nodes deliver themselves. The address of one that is a proxy is
/// not the Service's, and one with source ranges is not captured: nodes enforce these, and the mesh would bypass them.
fn external(shape: &shapes::Service, faults: &mut Faults) -> Vec<IpAddr> {
    let (spec, status) = (At::ROOT.field("spec"), At::ROOT.field("status"));
    let mut addresses = Addresses::default();
    let list = spec.field("externalIPs");
    for (i, text) in shape.spec.external_ips.iter().enumerate() {
        addresses.add(text, &list.index(i), faults);
    }
    let balancer = status.field("loadBalancer");
    let list = balancer.field("ingress");
    let is_open = shape.spec.load_balancer_source_ranges.is_empty();
    for (i, ingress) in shape.status.load_balancer.ingress.iter().enumerate() {
        let ip = ingress.ip.as_deref().filter(|ip| !ip.is_empty());
        let of_nodes = ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        if let Some(ip) = ip.filter(|_| of_nodes && is_open) {
            addresses.add(ip, &list.index(i).field("ip"), faults);
        }
    }
    addresses.into_vec()
}

/// The TCP ports, and by port the node ports.
fn ports(spec: &shapes::ServiceSpec, at: &At<'_>, faults: &mut Faults) -> (Vec<ServicePort>, BTreeMap<u16, u16>) {
    let at = at.field("ports");
    let (mut ports, mut node_ports) = (Vec::new(), BTreeMap::new());
    let mut numbers = BTreeSet::new();
    for (i, spec_port) in spec.ports.iter().enumerate() {
        let (at, port) = (at.index(i), spec_port);
        let number = faults.check(&at.field("port"), syntax::port(port.port));
        let target = faults.check(&at.field("targetPort"), target(port));
        let is_tcp = faults.check(&at.field("protocol"), value::is_tcp(port.protocol.as_deref()));
        // 0 is how Go writes a missing one.
        let node_port = port.node_port.filter(|n| *n != 0);
        let node_port = node_port.map(|n| faults.check(&at.field("nodePort"), syntax::port(n)));
        let name = port.name.as_deref().unwrap_or_default();
        let name = match name {
            "" if spec.ports.len() > 1 => {
                // a slice could not say which of them it means
                faults.push(&at.field("name"), Fault::Missing);
                None
            }
            "" => Some("".into()),
            name => faults.check(&at.field("name"), syntax::dns_label(name)),
        };
        if let (Some(name), Some(port), Some(target), Some(true)) = (name, number, target, is_tcp) {
            if !numbers.insert(port) {
                faults.push(&at.field("port"), Fault::DuplicatePort { port });
            }
            let protocol = AppProtocol::of_port(spec_port.app_protocol.as_deref(), &name, port);
            ports.push(ServicePort { name, port, target, protocol });
            node_ports.extend(node_port.flatten().map(|node_port| (port, node_port)));
        }
    }
    (ports, node_ports)
}

fn target(port: &shapes::ServicePort) -> Result<TargetPort, Fault> {
    match &port.target_port {
        // 0 is how Go writes a missing one.
        None | Some(IntOrString::Int(0)) => syntax::port(port.port).map(TargetPort::Number),
        Some(IntOrString::Int(n)) => syntax::port(*n).map(TargetPort::Number),
        Some(IntOrString::Text(name)) => syntax::port_name(name).map(TargetPort::Name),
    }
}

/// A requirement on the route of traffic: an unknown value is an error.
fn internal_traffic(spec: &shapes::ServiceSpec, at: &At<'_>, faults: &mut Faults) -> Option<InternalTraffic> {
    match spec.internal_traffic_policy.as_deref().unwrap_or_default() {
        "" | "Cluster" => Some(InternalTraffic::Cluster),
        "Local" => Some(InternalTraffic::Local),
        found => {
            let fault = Fault::Value { found: found.into(), known: INTERNAL_TRAFFIC };
            faults.push(&at.field("internalTrafficPolicy"), fault);
            None
        }
    }
}

/// A preference: an unknown value does not cost the Service.
fn affinity(spec: &shapes::ServiceSpec, at: &At<'_>, faults: &mut Faults) -> Affinity {
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "" | "None" => Affinity::None,
        "ClientIP" => Affinity::ClientIp,
        found => {
            let instead = "a client's connections go to any endpoint";
            let fault = Fault::ValueIgnored { found: found.into(), known: AFFINITIES, instead };
            faults.push(&at.field("sessionAffinity"), fault);
            Affinity::None
        }
    }
}

/// The field, else the annotation.
fn distribution(shape: &shapes::Service, at: &At<'_>, faults: &mut Faults) -> Option<Distribution> {
    let of_annotation = meta::distribution(&shape.metadata, faults);
    let field = shape.spec.traffic_distribution.as_deref().filter(|t| !t.is_empty());
    let of_field = field.and_then(|text| {
        meta::read_distribution(text, meta::FIELD_DISTRIBUTIONS, &at.field("trafficDistribution"), faults)
    });
    of_field.or(of_annotation)
}

/// Fields that change the route of traffic elsewhere, and not here.
fn not_yet(shape: &shapes::Service, faults: &mut Faults) {
    let metadata = At::ROOT.field("metadata");
    if shape.metadata.annotations.contains_key(TOPOLOGY_MODE) {
        let instead = "only hints that EndpointSlices already have are used";
        faults.push(&metadata.field("annotations").field(TOPOLOGY_MODE), Fault::FieldNotServed { instead });
    }
}
