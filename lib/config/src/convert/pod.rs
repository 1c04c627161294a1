//! Pods: addresses, labels and identity as the mesh needs them, and whether a proxy of Istio's is inside ([`super::own_proxy`]). Everything else of a pod
//! is left unread.

use std::{net::IpAddr, sync::Arc};

use underpass_core::{
    Few, Kind,
    enrol::{REDIRECTION, SIDECAR_INJECT},
    objects::{ContainerPort, DEFAULT_WEIGHT, Phase, Pod},
};

use super::{
    Converted, Faults, Rejected, meta, own_proxy, owner, probes, syntax,
    value::{self, Addresses},
};
use crate::{Fault, path::At, shapes};

/// Its share of the new connections of a service, relative to the other endpoints'.
const WEIGHT: &str = "underpass.dev/weight";
/// The annotations that core asks for.
const ANNOTATIONS: [&str; 2] = [SIDECAR_INJECT, REDIRECTION];

const PHASES: &[&str] = &["Pending", "Running", "Succeeded", "Failed", "Unknown"];

/// `v1 Pod`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn pod(shape: &shapes::Pod) -> Result<Converted<Pod>, Rejected> {
    let mut faults = Faults::default();
    let meta = &shape.metadata;
    let (spec, status, metadata) = (At::ROOT.field("spec"), At::ROOT.field("status"), At::ROOT.field("metadata"));
    let name = meta::object_name(Kind::Pod, meta, &mut faults);
    let labels = meta::labels(meta, &mut faults);
    let uid = faults.check(&metadata.field("uid"), syntax::uid(meta.uid.as_deref().unwrap_or_default()));
    let node = shape.spec.node_name.as_deref().filter(|n| !n.is_empty());
    let node = node.map(|n| faults.check(&spec.field("nodeName"), syntax::dns_subdomain(n)));
    let account = shape.spec.service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let account = faults.check(&spec.field("serviceAccountName"), syntax::dns_subdomain(account));
    let phase = phase(&shape.status, &status, &mut faults);
    let addresses = addresses(&shape.status, &status, &mut faults);
    let ports = ports(&shape.spec, &spec, &mut faults);
    let weight = weight(meta, &metadata, &mut faults);
    let is_deleted = meta.deletion_timestamp.is_some();
    let hostname = hostname(&shape.spec, &spec, &mut faults);
    let probes = probes::ports(&shape.spec, &addresses);
    let workload = || {
        Some(Pod {
            name: name?,
            uid: uid?,
            addresses,
            node: match node {
                Some(node) => Some(node?),
                None => None,
            },
            hostname,
            host_network: shape.spec.host_network,
            phase: phase?,
            ready: is_ready(shape, phase?) && !is_deleted,
            draining: is_ready(shape, phase?) && is_deleted,
            deleted: is_deleted,
            weight,
            labels: labels?,
            annotations: meta::annotations(meta, &ANNOTATIONS),
            service_account: account?,
            owner: owner::owner(meta),
            ports,
            probes,
            proxy: own_proxy::of(shape),
        })
    };
    let workload = workload();
    faults.finish(workload)
}

/// Both names, or none: either alone gives a pod no name in DNS.
fn hostname(shape: &shapes::PodSpec, at: &At<'_>, faults: &mut Faults) -> Option<Box<(Arc<str>, Arc<str>)>> {
    let mut label = |text: &Option<String>, field: &str| {
        let text = text.as_deref().filter(|t| !t.is_empty())?;
        faults.check(&at.field(field), syntax::dns_label(text))
    };
    label(&shape.hostname, "hostname").zip(label(&shape.subdomain, "subdomain")).map(Box::new)
}

fn phase(status: &shapes::PodStatus, at: &At<'_>, faults: &mut Faults) -> Option<Phase> {
    match status.phase.as_deref().unwrap_or_default() {
        "Pending" => Some(Phase::Pending),
        // `Unknown`: its node does not answer, it may well run. Missing: written by hand.
        "" | "Running" | "Unknown" => Some(Phase::Running),
        "Succeeded" | "Failed" => Some(Phase::Terminal),
        found => {
            faults.push(&at.field("phase"), Fault::Value { found: found.into(), known: PHASES });
            None
        }
    }
}

/// The `Ready` condition; a pod written by hand has none and counts as ready while it runs. While it is being deleted it
/// serves, but takes new connections only where no other pod does, as in the slices that Kubernetes makes.
fn is_ready(shape: &shapes::Pod, phase: Phase) -> bool {
    let condition = shape.status.conditions.iter().find(|c| c.r#type == "Ready");
    condition.map_or(phase == Phase::Running, |c| c.status == "True")
}

/// An invalid weight is ignored: a pod must not leave the mesh for it.
fn weight(meta: &shapes::ObjectMeta, at: &At<'_>, faults: &mut Faults) -> u16 {
    let Some(text) = meta.annotations.get(WEIGHT) else { return DEFAULT_WEIGHT };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let weight = text.parse().ok().filter(|_| digits);
    let fault = || Fault::Weight { found: text.as_str().into(), max: u16::MAX, instead: DEFAULT_WEIGHT };
    let annotations = at.field("annotations");
    faults.check(&annotations.field(WEIGHT), weight.ok_or_else(fault)).unwrap_or(DEFAULT_WEIGHT)
}

fn addresses(status: &shapes::PodStatus, at: &At<'_>, faults: &mut Faults) -> Few<IpAddr> {
    let mut addresses = Addresses::default();
    let (list, single) = (at.field("podIPs"), at.field("podIP"));
    for (i, entry) in status.pod_ips.iter().enumerate() {
        addresses.add(&entry.ip, &list.index(i).field("ip"), faults);
    }
    // podIP is podIPs[0]; only what is written by hand has it alone.
    if let Some(ip) = status.pod_ip.as_deref().filter(|ip| !ip.is_empty()) {
        if status.pod_ips.is_empty() {
            addresses.add(ip, &single, faults);
        } else {
            faults.check(&single, syntax::cluster_address(ip));
        }
    }
    addresses.into_vec().into()
}

/// Ports of the containers that stay: the ones a service can ask for by name, and those without one.
fn ports(spec: &shapes::PodSpec, at: &At<'_>, faults: &mut Faults) -> Vec<ContainerPort> {
    let (containers, init) = (at.field("containers"), at.field("initContainers"));
    let stays = |c: &&shapes::Container| c.restart_policy.as_deref() == Some("Always");
    let all = (spec.containers.iter().enumerate().map(|(i, c)| (containers.index(i), c)))
        .chain(spec.init_containers.iter().enumerate().filter(|(_, c)| stays(c)).map(|(i, c)| (init.index(i), c)));
    let mut found = Vec::new();
    for (at, container) in all {
        let at = at.field("ports");
        for (i, port) in container.ports.iter().enumerate() {
            let at = at.index(i);
            let number = faults.check(&at.field("containerPort"), syntax::port(port.container_port));
            let is_tcp = faults.check(&at.field("protocol"), value::is_tcp(port.protocol.as_deref()));
            let name = match port.name.as_deref().filter(|n| !n.is_empty()) {
                Some(name) => faults.check(&at.field("name"), syntax::port_name(name)),
                None => Some("".into()),
            };
            if let (Some(name), Some(port), Some(true)) = (name, number, is_tcp) {
                let name: Arc<str> = name;
                found.push(ContainerPort { name, port });
            }
        }
    }
    found
}
