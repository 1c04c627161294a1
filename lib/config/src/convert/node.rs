//! Namespaces and nodes.

use ipnet::IpNet;
use underpass_core::{
    Kind,
    objects::{AGENT_NOT_READY, Namespace, Node},
    provision::WAYPOINT_RANGE,
};

use super::{Converted, Faults, Rejected, meta, syntax, value::Addresses};
use crate::{Fault, path::At, shapes};

/// `v1 Namespace`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn namespace(shape: &shapes::Namespace) -> Result<Converted<Namespace>, Rejected> {
    let mut faults = Faults::default();
    let name = meta::object_name(Kind::Namespace, &shape.metadata, &mut faults);
    let labels = meta::labels(&shape.metadata, &mut faults);
    let distribution = meta::distribution(&shape.metadata, &mut faults);
    faults.finish(name.zip(labels).map(|(name, labels)| Namespace { name, labels, distribution }))
}

/// `v1 Node`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn node(shape: &shapes::Node) -> Result<Converted<Node>, Rejected> {
    let mut faults = Faults::default();
    let name = meta::object_name(Kind::Node, &shape.metadata, &mut faults);
    let labels = meta::labels(&shape.metadata, &mut faults);
    let status = At::ROOT.field("status");
    let at = status.field("addresses");
    let mut addresses = Addresses::default();
    for (i, address) in shape.status.addresses.iter().enumerate() {
        // Hostname, InternalDNS, ExternalDNS are names.
        if !matches!(address.r#type.as_str(), "InternalIP" | "ExternalIP") {
            continue;
        }
        addresses.add(&address.address, &at.index(i).field("address"), &mut faults);
    }
    let addresses = addresses.into_vec();
    let waypoint_ranges = waypoint_ranges(&shape.metadata, &mut faults);
    let awaits_agent = shape.spec.taints.iter().any(|taint| taint.key == AGENT_NOT_READY);
    let node = |(name, labels)| Node { name, addresses, labels, awaits_agent, waypoint_ranges };
    faults.finish(name.zip(labels).map(node))
}

/// One or two CIDRs with a comma between them, one of each family at most.
fn waypoint_ranges(meta: &shapes::ObjectMeta, faults: &mut Faults) -> Vec<IpNet> {
    let Some(text) = meta.annotations.get(WAYPOINT_RANGE) else { return Vec::new() };
    let metadata = At::ROOT.field("metadata");
    let annotations = metadata.field("annotations");
    let at = annotations.field(WAYPOINT_RANGE);
    let mut ranges: Vec<IpNet> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let Some(range) = faults.check(&at, syntax::cluster_range(part)) else { continue };
        if ranges.iter().any(|known| known.addr().is_ipv4() == range.addr().is_ipv4()) {
            faults.push(&at, Fault::SecondRange { found: part.into() });
        } else {
            ranges.push(range);
        }
    }
    ranges
}
