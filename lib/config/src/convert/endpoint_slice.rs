//! EndpointSlices: the addresses and ports behind a service, which its label names. Each slice has one address family.

use std::sync::Arc;

use underpass_core::{
    Kind, ObjectName,
    objects::{EndpointSlice, SliceEndpoint, SlicePort},
    world::Hints,
};

use super::{
    Converted, Faults, Rejected, meta, syntax,
    value::{self, Addresses},
};
use crate::{Fault, path::At, shapes};

/// The label that names the service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

const ADDRESS_TYPES: &[&str] = &["IPv4", "IPv6", "FQDN"];

/// `discovery.k8s.io/v1 EndpointSlice`.
///
/// # Errors
/// All of its faults.
pub fn endpoint_slice(shape: &shapes::EndpointSlice) -> Result<Converted<EndpointSlice>, Rejected> {
    let mut faults = Faults::default();
    let name = meta::object_name(Kind::EndpointSlice, &shape.metadata, &mut faults);
    meta::labels(&shape.metadata, &mut faults);
    let metadata = At::ROOT.field("metadata");
    let service = shape.metadata.labels.get(SERVICE_NAME).map_or("", String::as_str);
    let service = faults.check(&metadata.field("labels").field(SERVICE_NAME), syntax::dns_label(service));
    let at = At::ROOT.field("addressType");
    let family = shape.address_type.as_deref().unwrap_or_default();
    match family {
        "IPv4" | "IPv6" => {}
        "FQDN" => faults.push(&at, Fault::FieldNotServed { instead: "the slice has no endpoints" }),
        "" => faults.push(&at, Fault::Missing),
        found => faults.push(&at, Fault::Value { found: found.into(), known: ADDRESS_TYPES }),
    }
    let endpoints = if family == "FQDN" {
        Vec::new()
    } else {
        endpoints(shape, name.as_ref().map_or("", |n| n.namespace()), &mut faults)
    };
    let ports = ports(shape, &mut faults);
    let slice = || {
        let name = name?;
        let service = ObjectName::new(name.namespace(), service?);
        Some(EndpointSlice { name, service, ports, endpoints })
    };
    let slice = slice();
    faults.finish(slice)
}

fn endpoints(shape: &shapes::EndpointSlice, namespace: &str, faults: &mut Faults) -> Vec<SliceEndpoint> {
    let at = At::ROOT.field("endpoints");
    (shape.endpoints.iter().enumerate())
        .map(|(i, endpoint)| self::endpoint(endpoint, namespace, &at.index(i), faults))
        .collect()
}

fn endpoint(endpoint: &shapes::Endpoint, namespace: &str, at: &At<'_>, faults: &mut Faults) -> SliceEndpoint {
    let list = at.field("addresses");
    if endpoint.addresses.is_empty() {
        faults.push(&list, Fault::EmptyList);
    }
    let mut addresses = Addresses::default();
    for (i, text) in endpoint.addresses.iter().enumerate() {
        addresses.add(text, &list.index(i), faults);
    }
    let said = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let node = said(&endpoint.node_name);
    let zone = said(&endpoint.zone);
    // A missing condition has the value that the API defines.
    let conditions = endpoint.conditions;
    let (serving, terminating) = (conditions.serving.unwrap_or(true), conditions.terminating.unwrap_or(false));
    SliceEndpoint {
        addresses: addresses.into_vec().into(),
        target: endpoint.target_ref.as_ref().and_then(|t| target(t, namespace, &at.field("targetRef"), faults)),
        ready: conditions.ready.unwrap_or(true),
        draining: serving && terminating,
        node: node.and_then(|n| faults.check(&at.field("nodeName"), syntax::dns_subdomain(&n))),
        zone: zone.and_then(|z| faults.check(&at.field("zone"), syntax::label_value(&z))),
        hints: hints(&endpoint.hints, &at.field("hints"), faults),
    }
}

/// The pod that is meant, `namespace` being the slice's; none for other kinds, and without a name.
fn target(target: &shapes::ObjectReference, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<ObjectName> {
    if target.kind != Kind::Pod.as_str() || target.name.is_empty() {
        return None;
    }
    let name = faults.check(&at.field("name"), syntax::dns_subdomain(&target.name));
    let namespace = target.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
    let namespace = faults.check(&at.field("namespace"), syntax::dns_label(namespace));
    Some(ObjectName::new(namespace?, name?))
}

fn hints(hints: &shapes::EndpointHints, at: &At<'_>, faults: &mut Faults) -> Option<Arc<Hints>> {
    let mut list = |all: &[shapes::Named], name: &str, check: fn(&str) -> Result<Arc<str>, Fault>| {
        let at = at.field(name);
        let mut one = |(i, named): (usize, &shapes::Named)| {
            let at = at.index(i);
            faults
                .check(&at.field("name"), if named.name.is_empty() { Err(Fault::Missing) } else { check(&named.name) })
        };
        all.iter().enumerate().filter_map(&mut one).collect()
    };
    let hints = Hints {
        zones: list(&hints.for_zones, "forZones", syntax::label_value),
        nodes: list(&hints.for_nodes, "forNodes", syntax::dns_subdomain),
    };
    (hints != Hints::default()).then(|| hints.into())
}

fn ports(shape: &shapes::EndpointSlice, faults: &mut Faults) -> Vec<SlicePort> {
    let at = At::ROOT.field("ports");
    let mut ports = Vec::new();
    for (i, port) in shape.ports.iter().enumerate() {
        let at = at.index(i);
        let is_tcp = faults.check(&at.field("protocol"), value::is_tcp(port.protocol.as_deref()));
        let name = match port.name.as_deref().unwrap_or_default() {
            "" => Some("".into()),
            name => faults.check(&at.field("name"), syntax::dns_label(name)),
        };
        let Some(number) = port.port else {
            faults.push(&at.field("port"), Fault::FieldNotServed { instead: "a port without a number serves nothing" });
            continue;
        };
        let number = faults.check(&at.field("port"), syntax::port(number));
        if let (Some(name), Some(port), Some(true)) = (name, number, is_tcp) {
            ports.push(SlicePort { name, port });
        }
    }
    ports
}
