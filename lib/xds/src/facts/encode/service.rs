//! A service as Istio's message, and in our extension what that lacks.

use underpass_core::world::{
    Affinity, AppProtocol, Distribution, InternalTraffic, MeshSettings, Service, ServicePort, TargetPort,
};

use super::workload::waypoint;
use crate::{
    contract::{
        istio::workload::{
            self as istio, LoadBalancing, NetworkAddress, Port,
            load_balancing::{Mode, Scope},
        },
        underpass::v1::{self, PortDetail, ServiceExtension},
    },
    facts::{decode, extension, names},
};

pub(super) fn service(settings: &MeshSettings, service: &Service) -> istio::Service {
    let namespace = service.name.namespace();
    let address = |ip| NetworkAddress { network: String::new(), address: names::bytes(ip), length: None };
    let balancing = balancing(service);
    let distribution =
        (decode::balancing(balancing.as_ref()).1 != service.distribution).then(|| wire(service.distribution).into());
    let details: Vec<PortDetail> = service.ports.iter().map(detail).collect();
    let content = ServiceExtension {
        external: service.external.iter().copied().map(names::bytes).collect(),
        ports: if details.iter().all(|d| *d == PortDetail::default()) { Vec::new() } else { details },
        external_name: service.external_name.as_deref().map(String::from),
        distribution,
        client_ip_affinity: service.affinity == Affinity::ClientIp,
        waypoint_optional: service.waypoint_optional,
    };
    istio::Service {
        name: service.name.name().into(),
        namespace: namespace.into(),
        hostname: service.hostname.to_string(),
        addresses: service.addresses().map(address).collect(),
        ports: service.ports.iter().map(port).collect(),
        waypoint: service.waypoint.as_ref().map(|of| waypoint(settings, of)),
        load_balancing: balancing,
        extensions: extension::pack(&content),
        canonical: true,
        ..istio::Service::default()
    }
}

/// As istiod does: what is required goes before what is preferred.
fn balancing(service: &Service) -> Option<LoadBalancing> {
    let (mode, scopes): (Mode, &[Scope]) = match (service.internal_traffic, service.distribution) {
        (InternalTraffic::Local, _) => (Mode::Strict, &[Scope::Node]),
        (InternalTraffic::Cluster, Distribution::Any) => return None,
        (InternalTraffic::Cluster, Distribution::SameZone) => {
            (Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone])
        }
        (InternalTraffic::Cluster, Distribution::SameNode) => {
            (Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node])
        }
    };
    let routing_preference = scopes.iter().map(|scope| (*scope).into()).collect();
    Some(LoadBalancing { routing_preference, mode: mode.into(), health_policy: 0 })
}

const fn wire(distribution: Distribution) -> v1::Distribution {
    match distribution {
        Distribution::Any => v1::Distribution::Any,
        Distribution::SameZone => v1::Distribution::SameZone,
        Distribution::SameNode => v1::Distribution::SameNode,
    }
}

fn port(port: &ServicePort) -> Port {
    let target = match port.target {
        TargetPort::Number(number) => number.into(),
        TargetPort::Name(_) => 0,
    };
    let protocol = match port.protocol {
        AppProtocol::Unknown => istio::AppProtocol::Unknown,
        AppProtocol::Http11 => istio::AppProtocol::Http11,
        AppProtocol::Http2 => istio::AppProtocol::Http2,
        AppProtocol::Grpc => istio::AppProtocol::Grpc,
        AppProtocol::Tcp => istio::AppProtocol::Tcp,
        AppProtocol::Tls => istio::AppProtocol::Tls,
    };
    Port { service_port: port.port.into(), target_port: target, app_protocol: protocol.into() }
}

fn detail(port: &ServicePort) -> PortDetail {
    let target_name = match &port.target {
        TargetPort::Number(_) => None,
        TargetPort::Name(name) => Some(name.to_string()),
    };
    PortDetail { name: port.name.to_string(), target_name }
}
