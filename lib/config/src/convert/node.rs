//! Namespaces and nodes.

use underpass_core::{
    Kind,
    objects::{AGENT_NOT_READY, Namespace, Node},
};

use super::{Converted, Faults, Rejected, meta, value::Addresses};
use crate::{path::At, shapes};

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
    let awaits_agent = shape.spec.taints.iter().any(|taint| taint.key == AGENT_NOT_READY);
    faults.finish(name.zip(labels).map(|(name, labels)| Node { name, addresses, labels, awaits_agent }))
}
