//! A workload from Istio's message and, where it is there, our extension.

use std::{net::IpAddr, sync::Arc};

use underpass_core::{
    Few, ObjectName, TrustDomain,
    addr::{HBONE_PORT, is_loopback},
    enrol::{Enrolment, EnrolmentReason},
    objects::DEFAULT_WEIGHT,
    world::{
        Account, Endpoint, Hints, Locality, MeshSettings, Mtls, Owner, OwnerKind, Uid, Waypoint, WaypointAt, Workload,
    },
};
use underpass_door::{Fault, ResourceFault};

use super::Faulty;
use crate::{
    contract::{
        istio::workload::{
            self as istio, GatewayAddress, NetworkMode, TunnelProtocol, WorkloadStatus, WorkloadType,
            gateway_address::Destination,
        },
        underpass::v1::{self, MtlsSources, WorkloadExtension},
    },
    facts::{extension, names},
};

/// The weight of an endpoint that none is given for.
pub(crate) const WEIGHT: u16 = DEFAULT_WEIGHT;
/// A service account that is left out.
const DEFAULT_ACCOUNT: &str = "default";
/// A waypoint that cannot be read: calls are refused as those of one that is missing.
const UNKNOWN_WAYPOINT: &str = "(unknown)";

/// A workload, but for its mutual TLS modes.
pub(super) struct Read {
    /// `policies` and `mtls` are empty.
    pub(super) workload: Workload,
    /// As they stand there, converted ones among them.
    pub(super) policies: Vec<ObjectName>,
    pub(super) by: Option<MtlsSources>,
    /// What is worth a report though it is served.
    pub(super) warnings: Vec<Faulty>,
}

pub(super) fn workload(settings: &MeshSettings, message: &istio::Workload) -> Result<Read, Faulty> {
    let missing = |field: &str| (field.to_owned(), Fault::Missing);
    if message.uid.is_empty() {
        return Err(missing("uid"));
    }
    // Without it the policies that apply are not known.
    if message.namespace.is_empty() {
        return Err(missing("namespace"));
    }
    let namespace: Arc<str> = message.namespace.as_str().into();
    let name = if message.name.is_empty() { &message.uid } else { &message.name };
    let ours = extension::unpack::<WorkloadExtension>(&message.extensions);
    let more = ours.clone().unwrap_or_default();
    let policy = |(i, text): (usize, &String)| {
        let fault = || {
            (
                format!("authorization_policies[{i}]"),
                Fault::Name { found: text.as_str().into(), rule: "namespace/name" },
            )
        };
        names::split(text).ok_or_else(fault)
    };
    let (addresses, mut warnings) = addresses(message)?;
    warnings.extend(foreign_trust_domain(settings, message));
    let endpoints = match &more.endpoints {
        Some(all) => all.all.iter().enumerate().map(endpoint).collect::<Result<_, _>>()?,
        None => endpoints(settings, message),
    };
    let text = |text: &str| Some(text).filter(|t| !t.is_empty()).map(Arc::<str>::from);
    let place = message.locality.clone().unwrap_or_default();
    let (service, revision): (Arc<str>, Arc<str>) =
        (message.canonical_name.as_str().into(), message.canonical_revision.as_str().into());
    let workload = Workload {
        uid: Uid::new(message.uid.as_str()),
        name: ObjectName::new(Arc::clone(&namespace), name.as_str()),
        addresses: addresses.into(),
        account: account(message, ours.as_ref())
            .map(|name| Account { namespace: Arc::clone(&namespace), name: name.into() }),
        enrolment: enrolment(message, &more),
        host_network: NetworkMode::try_from(message.network_mode) == Ok(NetworkMode::HostNetwork),
        waypoint: message.waypoint.as_ref().map(|of| waypoint(settings, &namespace, of)).transpose()?,
        policies: Few::new(),
        mtls: Mtls::default(),
        endpoints: endpoints.into(),
        node: text(&message.node),
        locality: Arc::new(Locality {
            region: text(&place.region),
            zone: text(&place.zone),
            subzone: text(&place.subzone),
        }),
        ready: is_healthy(message),
        draining: more.draining,
        owner: owner(message),
        app: more.app.map_or_else(|| Arc::clone(&service), Into::into),
        version: more.version.map_or_else(|| Arc::clone(&revision), Into::into),
        canonical_service: service,
        canonical_revision: revision,
    };
    let policies = message.authorization_policies.iter().enumerate().map(policy).collect::<Result<_, _>>()?;
    Ok(Read { workload, policies, by: more.mtls, warnings })
}

/// The addresses that a workload can have. Others are passed over, and told.
fn addresses(message: &istio::Workload) -> Result<(Vec<IpAddr>, Vec<Faulty>), Faulty> {
    let (mut all, mut warnings) = (Vec::new(), Vec::new());
    for (i, bytes) in message.addresses.iter().enumerate() {
        let field = format!("addresses[{i}]");
        match names::address(bytes) {
            None => return Err((field, ResourceFault::AddressLength { bytes: bytes.len() }.into())),
            Some(found) if is_loopback(found) || found.is_multicast() => {
                warnings.push((field, Fault::LocalAddress { found }));
            }
            Some(ip) if !all.contains(&ip) => all.push(ip),
            Some(_) => {}
        }
    }
    Ok((all, warnings))
}

/// Its certificate proves another identity than the one that it has here, and calls of it are refused.
fn foreign_trust_domain(settings: &MeshSettings, message: &istio::Workload) -> Option<Faulty> {
    let found = Some(message.trust_domain.as_str()).filter(|td| !td.is_empty())?;
    let is_own = found.parse::<TrustDomain>().is_ok_and(|td| settings.is_own(&td));
    let fault = || ("trust_domain".to_owned(), ResourceFault::TrustDomain { found: found.into() }.into());
    (!is_own).then(fault)
}

/// None: it proves no identity.
fn account<'a>(message: &'a istio::Workload, ours: Option<&WorkloadExtension>) -> Option<&'a str> {
    let is_slice = || message.uid.split('/').nth(2) == Some("EndpointSlice");
    let without = ours.map_or_else(is_slice, |ours| ours.without_identity);
    let name = Some(message.service_account.as_str()).filter(|name| !name.is_empty());
    (!without).then(|| name.unwrap_or(DEFAULT_ACCOUNT))
}

fn is_healthy(message: &istio::Workload) -> bool {
    WorkloadStatus::try_from(message.status) == Ok(WorkloadStatus::Healthy)
}

/// A protocol that is not known is some tunnel: never plaintext.
fn enrolment(message: &istio::Workload, more: &WorkloadExtension) -> Enrolment {
    let enrolled = match TunnelProtocol::try_from(message.tunnel_protocol) {
        Ok(TunnelProtocol::None | TunnelProtocol::LegacyIstioMtls) => false,
        Ok(TunnelProtocol::Hbone) | Err(_) => true,
    };
    Enrolment::decided(enrolled, reason(more.enrolment))
}

fn reason(number: i32) -> EnrolmentReason {
    use v1::EnrolmentReason as Wire;
    match Wire::try_from(number).unwrap_or_default() {
        Wire::ControlPlane => EnrolmentReason::ControlPlane,
        Wire::PodMode => EnrolmentReason::PodMode,
        Wire::PodInjectLabel => EnrolmentReason::PodInjectLabel,
        Wire::PodInjectAnnotation => EnrolmentReason::PodInjectAnnotation,
        Wire::NamespaceMode => EnrolmentReason::NamespaceMode,
        Wire::NamespaceInjection => EnrolmentReason::NamespaceInjection,
        Wire::HostNetwork => EnrolmentReason::HostNetwork,
        Wire::Ended => EnrolmentReason::Ended,
        Wire::Sidecar => EnrolmentReason::Sidecar,
        Wire::Gateway => EnrolmentReason::Gateway,
        Wire::Waypoint => EnrolmentReason::Waypoint,
        Wire::NoAddress => EnrolmentReason::NoAddress,
        Wire::NoPod => EnrolmentReason::NoPod,
        Wire::NoKey => EnrolmentReason::NoKey,
        Wire::Redirection => EnrolmentReason::Redirection,
        Wire::NotRedirected => EnrolmentReason::NotRedirected,
    }
}

/// The waypoint of a service or workload of this namespace. What cannot be read is missing.
pub(super) fn waypoint(settings: &MeshSettings, namespace: &str, gateway: &GatewayAddress) -> Result<Waypoint, Faulty> {
    let unknown = || WaypointAt::Missing(ObjectName::new(namespace, UNKNOWN_WAYPOINT));
    let at = match &gateway.destination {
        Some(Destination::Hostname(of)) => match names::missing_in(&of.namespace, &of.hostname) {
            Some(name) => WaypointAt::Missing(ObjectName::new(&of.namespace, name)),
            None => WaypointAt::Service(names::service(settings, &of.namespace, &of.hostname)),
        },
        Some(Destination::Address(of)) => names::address(&of.address).map_or_else(unknown, WaypointAt::Address),
        None => unknown(),
    };
    let port = match gateway.hbone_mtls_port {
        0 => HBONE_PORT,
        number => u16::try_from(number)
            .map_err(|_| ("waypoint.hbone_mtls_port".to_owned(), Fault::Port { found: number.to_string().into() }))?,
    };
    Ok(Waypoint { at, port })
}

fn owner(message: &istio::Workload) -> Option<Owner> {
    let kind = match WorkloadType::try_from(message.workload_type) {
        Ok(WorkloadType::Deployment) => OwnerKind::Deployment,
        Ok(WorkloadType::Job) => OwnerKind::Job,
        Ok(WorkloadType::Cronjob) => OwnerKind::CronJob,
        Ok(WorkloadType::Pod) | Err(_) if message.workload_name == message.name => return None,
        Ok(WorkloadType::Pod) | Err(_) => OwnerKind::Other,
    };
    let name = Some(message.workload_name.as_str()).filter(|name| !name.is_empty())?;
    Some(Owner { kind, name: name.into() })
}

/// The endpoints that Istio's fields say: each address with the ports of each service, in order.
pub(crate) fn endpoints(settings: &MeshSettings, message: &istio::Workload) -> Vec<Endpoint> {
    let addresses: Vec<IpAddr> = message.addresses.iter().filter_map(|bytes| names::address(bytes)).collect();
    let ready = is_healthy(message);
    let mut all = Vec::new();
    for (key, list) in &message.services {
        let Some((namespace, hostname)) = key.split_once('/') else { continue };
        let service = names::service(settings, namespace, hostname);
        let port = |port: &istio::Port| {
            let [service, target] =
                [port.service_port, port.target_port].map(|n| u16::try_from(n).ok().filter(|n| *n > 0));
            Some((service?, target?))
        };
        let ports: Arc<[(u16, u16)]> = list.ports.iter().filter_map(port).collect();
        all.extend(addresses.iter().map(|address| Endpoint {
            service: service.clone(),
            address: *address,
            ports: Arc::clone(&ports),
            ready,
            draining: false,
            weight: WEIGHT,
            hints: None,
            outdated: false,
        }));
    }
    all.sort_by(|a, b| (&a.service, a.address).cmp(&(&b.service, b.address)));
    all
}

fn endpoint((i, e): (usize, &v1::Endpoint)) -> Result<Endpoint, Faulty> {
    let at = |fault: Fault| (format!("extensions.endpoints.all[{i}]"), fault);
    let number = |n: u32| u16::try_from(n).map_err(|_| at(Fault::Port { found: n.to_string().into() }));
    let length = ResourceFault::AddressLength { bytes: e.address.len() };
    let texts = |all: &[String]| all.iter().map(|t| Arc::from(t.as_str())).collect();
    let ports = e.ports.iter().map(|p| Ok((number(p.service_port)?, number(p.target_port)?)));
    Ok(Endpoint {
        service: ObjectName::new(e.service_namespace.as_str(), e.service_name.as_str()),
        address: names::address(&e.address).ok_or_else(|| at(length.into()))?,
        ports: ports.collect::<Result<_, _>>()?,
        ready: e.ready,
        draining: e.draining,
        weight: e.weight.map_or(WEIGHT, |weight| u16::try_from(weight).unwrap_or(u16::MAX)),
        hints: Some(Hints { zones: texts(&e.hint_zones), nodes: texts(&e.hint_nodes) })
            .filter(|hints| *hints != Hints::default())
            .map(Arc::new),
        outdated: e.outdated,
    })
}
