//! A service from Istio's message and, where it is there, our extension.

use std::net::IpAddr;

use underpass_core::world::{
    Affinity, AppProtocol, Distribution, InternalTraffic, MeshSettings, Service, ServicePort, TargetPort,
};
use underpass_door::{Fault, ResourceFault};

use super::{Faulty, workload::waypoint};
use crate::{
    contract::{
        istio::workload::{
            self as istio, LoadBalancing,
            load_balancing::{Mode, Scope},
        },
        underpass::v1::{self, ServiceExtension},
    },
    facts::{extension, names},
};

pub(super) fn service(settings: &MeshSettings, message: &istio::Service) -> Result<Service, Faulty> {
    for (field, value) in [("namespace", &message.namespace), ("hostname", &message.hostname)] {
        if value.is_empty() {
            return Err((field.to_owned(), Fault::Missing));
        }
    }
    let more = extension::unpack::<ServiceExtension>(&message.extensions).unwrap_or_default();
    let external: Vec<IpAddr> = more.external.iter().filter_map(|bytes| names::address(bytes)).collect();
    let (addresses, ports) = (addresses(message)?, ports(message, &more)?);
    let (internal_traffic, distribution) = balancing(message.load_balancing.as_ref());
    Ok(Service {
        name: names::service(settings, &message.namespace, &message.hostname),
        hostname: message.hostname.as_str().into(),
        vips: addresses.iter().copied().filter(|ip| !external.contains(ip)).collect(),
        external: external.into_iter().filter(|ip| addresses.contains(ip)).collect(),
        ports,
        external_name: more.external_name.map(Into::into),
        internal_traffic,
        distribution: more.distribution.map_or(distribution, read),
        affinity: if more.client_ip_affinity { Affinity::ClientIp } else { Affinity::None },
        waypoint: message.waypoint.as_ref().map(|of| waypoint(settings, &message.namespace, of)).transpose()?,
        waypoint_optional: more.waypoint_optional,
    })
}

/// Ranges are passed over: an address belongs to a service, or does not.
fn addresses(message: &istio::Service) -> Result<Vec<IpAddr>, Faulty> {
    let mut all = Vec::new();
    for (i, address) in message.addresses.iter().enumerate() {
        let fault = || {
            let fault = ResourceFault::AddressLength { bytes: address.address.len() };
            (format!("addresses[{i}]"), fault.into())
        };
        let ip = names::address(&address.address).ok_or_else(fault)?;
        let bits = u32::try_from(address.address.len().saturating_mul(8)).unwrap_or(u32::MAX);
        if address.length.is_none_or(|length| length == bits) && !all.contains(&ip) {
            all.push(ip);
        }
    }
    Ok(all)
}

fn ports(message: &istio::Service, more: &ServiceExtension) -> Result<Vec<ServicePort>, Faulty> {
    let has_details = more.ports.len() == message.ports.len();
    let one = |(i, port): (usize, &istio::Port)| {
        let number =
            |n: u32| u16::try_from(n).map_err(|_| (format!("ports[{i}]"), Fault::Port { found: n.to_string().into() }));
        let detail = more.ports.get(i).filter(|_| has_details).cloned().unwrap_or_default();
        let target = match (detail.target_name, number(port.target_port)?) {
            (Some(name), _) => TargetPort::Name(name.into()),
            (None, 0) => TargetPort::Name("".into()),
            (None, number) => TargetPort::Number(number),
        };
        let protocol = protocol(port.app_protocol);
        Ok(ServicePort { name: detail.name.into(), port: number(port.service_port)?, target, protocol })
    };
    message.ports.iter().enumerate().map(one).collect()
}

/// One that this version does not know is found out by looking.
fn protocol(number: i32) -> AppProtocol {
    match istio::AppProtocol::try_from(number).unwrap_or_default() {
        istio::AppProtocol::Unknown => AppProtocol::Unknown,
        istio::AppProtocol::Http11 => AppProtocol::Http11,
        istio::AppProtocol::Http2 => AppProtocol::Http2,
        istio::AppProtocol::Grpc => AppProtocol::Grpc,
        istio::AppProtocol::Tcp => AppProtocol::Tcp,
        istio::AppProtocol::Tls => AppProtocol::Tls,
    }
}

/// What is required and what is preferred. A preference that is not known counts as none; a requirement other than the
/// node's becomes a preference.
pub(crate) fn balancing(message: Option<&LoadBalancing>) -> (InternalTraffic, Distribution) {
    let Some(message) = message else { return Default::default() };
    let has = |scope: Scope| message.routing_preference.contains(&i32::from(scope));
    let near = match () {
        () if has(Scope::Node) => Distribution::SameNode,
        () if has(Scope::Zone) || has(Scope::Subzone) || has(Scope::Region) => Distribution::SameZone,
        () => Distribution::Any,
    };
    match Mode::try_from(message.mode) {
        Ok(Mode::Strict) if has(Scope::Node) => (InternalTraffic::Local, Distribution::Any),
        Ok(Mode::Strict | Mode::Failover) => (InternalTraffic::Cluster, near),
        Ok(Mode::UnspecifiedMode | Mode::Passthrough) | Err(_) => Default::default(),
    }
}

fn read(number: i32) -> Distribution {
    match v1::Distribution::try_from(number).unwrap_or_default() {
        v1::Distribution::Any => Distribution::Any,
        v1::Distribution::SameZone => Distribution::SameZone,
        v1::Distribution::SameNode => Distribution::SameNode,
    }
}
