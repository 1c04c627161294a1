//! A workload as Istio's message, and in our extension what that lacks.

use std::{collections::BTreeMap, sync::Arc};

use underpass_core::{
    ObjectName, TrustDomain,
    enrol::EnrolmentReason,
    world::{Endpoint, MeshSettings, Mtls, OwnerKind, Waypoint, WaypointAt, Workload},
};

use crate::{
    contract::{
        istio::workload::{
            self as istio, GatewayAddress, Locality, NamespacedHostname, NetworkAddress, NetworkMode, Port, PortList,
            TunnelProtocol, WorkloadStatus, WorkloadType, gateway_address::Destination,
        },
        underpass::v1::{self, EndpointPort, Endpoints, MtlsSources, WorkloadExtension},
    },
    facts::{decode, extension, names},
};

/// `mtls` is effective; `converted` the policy that it comes to.
pub(super) fn workload(
    settings: &MeshSettings,
    workload: &Workload,
    mtls: &Mtls,
    converted: Option<String>,
) -> istio::Workload {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let namespace = workload.name.namespace();
    let (workload_type, workload_name) = owner(workload);
    let status = if workload.ready { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
    let mode = if workload.host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard };
    let tunnel = if workload.is_enrolled() { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    let place = Locality {
        region: text(&workload.locality.region),
        zone: text(&workload.locality.zone),
        subzone: text(&workload.locality.subzone),
    };
    let mut message = istio::Workload {
        uid: workload.uid.to_string(),
        name: workload.name.name().into(),
        namespace: namespace.into(),
        addresses: workload.addresses.iter().copied().map(names::bytes).collect(),
        tunnel_protocol: tunnel.into(),
        // Data planes take an empty one for this name.
        trust_domain: Some(settings.trust_domain.as_str())
            .filter(|td| *td != TrustDomain::LOCAL)
            .unwrap_or_default()
            .into(),
        service_account: workload.account.as_ref().map(|account| account.name.to_string()).unwrap_or_default(),
        waypoint: workload.waypoint.as_ref().map(|of| waypoint(settings, of)),
        node: text(&workload.node),
        canonical_name: workload.canonical_service.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        workload_type: workload_type.into(),
        workload_name,
        services: services(settings, workload),
        authorization_policies: workload.policies.iter().map(names::slashed).chain(converted).collect(),
        status: status.into(),
        cluster_id: settings.cluster.to_string(),
        locality: (place != Locality::default()).then_some(place),
        network_mode: mode.into(),
        ..istio::Workload::default()
    };
    let differs = |text: &str, from: &str| (text != from).then(|| text.to_owned());
    let endpoints = *decode::endpoints(settings, &message) != *workload.endpoints;
    message.extensions = extension::pack(&WorkloadExtension {
        enrolment: reason(workload.enrolment.because()).into(),
        draining: workload.draining,
        without_identity: workload.account.is_none(),
        app: differs(&workload.app, &workload.canonical_service),
        version: differs(&workload.version, &workload.canonical_revision),
        endpoints: endpoints.then(|| Endpoints { all: workload.endpoints.iter().map(endpoint).collect() }),
        mtls: sources(mtls),
    });
    message
}

/// A waypoint by the hostname of its Service, or by its address. One that is missing has a hostname that nothing has: a data
/// plane that does not know this then refuses, too.
pub(super) fn waypoint(settings: &MeshSettings, waypoint: &Waypoint) -> GatewayAddress {
    let named = |name: &ObjectName, hostname| {
        Destination::Hostname(NamespacedHostname { namespace: name.namespace().into(), hostname })
    };
    let destination = match &waypoint.at {
        WaypointAt::Service(name) => named(name, names::hostname_of(settings, name)),
        WaypointAt::Missing(name) => named(name, names::missing(name)),
        WaypointAt::Address(ip) => {
            Destination::Address(NetworkAddress { network: String::new(), address: names::bytes(*ip), length: None })
        }
    };
    GatewayAddress { destination: Some(destination), hbone_mtls_port: waypoint.port.into() }
}

fn owner(workload: &Workload) -> (WorkloadType, String) {
    let kind = match workload.owner.as_ref().map(|owner| owner.kind) {
        Some(OwnerKind::Deployment) => WorkloadType::Deployment,
        Some(OwnerKind::Job) => WorkloadType::Job,
        Some(OwnerKind::CronJob) => WorkloadType::Cronjob,
        Some(OwnerKind::Other) | None => WorkloadType::Pod,
    };
    (kind, workload.workload_name().into())
}

/// The ports by service, of endpoints that are as ready as the workload: one that is not must not be called.
fn services(settings: &MeshSettings, workload: &Workload) -> BTreeMap<String, PortList> {
    let mut all: BTreeMap<String, PortList> = BTreeMap::new();
    for e in workload.endpoints.iter().filter(|e| !e.outdated && (e.ready || !workload.ready)) {
        let (namespace, name) = (e.service.namespace(), e.service.name());
        let list = all.entry(format!("{namespace}/{}", names::hostname(settings, namespace, name))).or_default();
        for (service, target) in e.ports.iter() {
            let port = Port { service_port: (*service).into(), target_port: (*target).into(), app_protocol: 0 };
            if list.ports.iter().all(|known| known.service_port != port.service_port) {
                list.ports.push(port);
            }
        }
    }
    all
}

fn endpoint(e: &Endpoint) -> v1::Endpoint {
    let port = |(service, target): &(u16, u16)| EndpointPort {
        service_port: (*service).into(),
        target_port: (*target).into(),
    };
    v1::Endpoint {
        service_namespace: e.service.namespace().into(),
        service_name: e.service.name().into(),
        address: names::bytes(e.address),
        ports: e.ports.iter().map(port).collect(),
        ready: e.ready,
        draining: e.draining,
        weight: (e.weight != decode::WEIGHT).then(|| e.weight.into()),
        hint_zones: texts(e.hints.as_ref().map(|hints| &*hints.zones)),
        hint_nodes: texts(e.hints.as_ref().map(|hints| &*hints.nodes)),
        outdated: e.outdated,
    }
}

fn texts(all: Option<&[Arc<str>]>) -> Vec<String> {
    all.unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn sources(mtls: &Mtls) -> Option<MtlsSources> {
    let by = mtls.default_mode().map(|mode| names::slashed(&mode.by));
    let ports = mtls.ports().map(|(port, mode)| (u32::from(port), names::slashed(&mode.by))).collect();
    let sources = MtlsSources { by, ports };
    (sources != MtlsSources::default()).then_some(sources)
}

const fn reason(reason: EnrolmentReason) -> v1::EnrolmentReason {
    use v1::EnrolmentReason as Wire;
    match reason {
        EnrolmentReason::ControlPlane => Wire::ControlPlane,
        EnrolmentReason::PodMode => Wire::PodMode,
        EnrolmentReason::PodInjectLabel => Wire::PodInjectLabel,
        EnrolmentReason::PodInjectAnnotation => Wire::PodInjectAnnotation,
        EnrolmentReason::NamespaceMode => Wire::NamespaceMode,
        EnrolmentReason::NamespaceInjection => Wire::NamespaceInjection,
        EnrolmentReason::HostNetwork => Wire::HostNetwork,
        EnrolmentReason::Ended => Wire::Ended,
        EnrolmentReason::Sidecar => Wire::Sidecar,
        EnrolmentReason::Gateway => Wire::Gateway,
        EnrolmentReason::Waypoint => Wire::Waypoint,
        EnrolmentReason::NoAddress => Wire::NoAddress,
        EnrolmentReason::NoPod => Wire::NoPod,
        EnrolmentReason::NoKey => Wire::NoKey,
        EnrolmentReason::Redirection => Wire::Redirection,
        EnrolmentReason::NotRedirected => Wire::NotRedirected,
    }
}
