//! Pods as written, as far as the mesh reads them.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Few, ObjectName, labels::Labels, world::Owner};

/// The weight of an endpoint that says nothing about it.
pub const DEFAULT_WEIGHT: u16 = 1;

/// `status.phase` of a pod, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, not all containers started.
    Pending,
    /// The usual state.
    #[default]
    Running,
    /// `Succeeded` or `Failed`: its address may already belong to another pod.
    Terminal,
}

/// A port that a container declares; with a name it is the target of a Service's `targetPort: name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// `ports[].name`; empty where it has none.
    pub name: Arc<str>,
    /// `ports[].containerPort`.
    pub port: u16,
}

/// The role of an Istio proxy in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnProxy {
    /// It carries the connections of the application beside it: the pod has a mesh already.
    Sidecar,
    /// It is the application: what comes from outside goes into the mesh from here.
    Gateway,
    /// It is a waypoint, and ends HBONE itself.
    Waypoint,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// namespace/name of the pod.
    pub name: ObjectName,
    /// `metadata.uid`: finds its cgroup.
    pub uid: Arc<str>,
    /// `status.podIPs`, canonical, without duplicates.
    pub addresses: Few<IpAddr>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostname` and `spec.subdomain`: its name below a headless Service of the second name.
    pub hostname: Option<Box<(Arc<str>, Arc<str>)>>,
    /// `spec.hostNetwork`: it has the node's addresses, not its own.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: Phase,
    /// The `Ready` condition, unless it is being deleted.
    pub ready: bool,
    /// It is being deleted, and its `Ready` condition still holds.
    pub draining: bool,
    /// `metadata.deletionTimestamp`: it is being deleted, and another pod may have its addresses already.
    pub deleted: bool,
    /// `underpass.dev/weight`: its share of a service's new connections, relative to the other endpoints'.
    pub weight: u16,
    /// Labels.
    pub labels: Labels,
    /// Annotations that the mesh reads; others are not kept.
    pub annotations: Labels,
    /// `spec.serviceAccountName`, `default` where it is missing.
    pub service_account: Arc<str>,
    /// Its owner; none: it was made by hand.
    pub owner: Option<Owner>,
    /// TCP ports that its containers declare. They may listen on others.
    pub ports: Vec<ContainerPort>,
    /// Ports of its own addresses that probes and lifecycle hooks of its containers name: its kubelet asks there. Sorted,
    /// each once.
    pub probes: Few<u16>,
    /// The proxy of Istio's that runs in it.
    pub proxy: Option<OwnProxy>,
}

impl Pod {
    /// The pod owns addresses: traffic can be sent to them, and as source they identify it.
    #[must_use]
    pub fn has_own_addresses(&self) -> bool {
        !self.host_network && self.phase != Phase::Terminal && !self.addresses.is_empty()
    }

    /// The number of the container port called `name`.
    #[must_use]
    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|p| &*p.name == name && !name.is_empty()).map(|p| p.port)
    }

    /// The workload name in Istio's metrics: the pod's owner, else the pod.
    #[must_use]
    pub fn workload_name(&self) -> &str {
        self.owner.as_ref().map_or(self.name.name(), |owner| &owner.name)
    }

    /// The canonical service in Istio's metrics: the first of three labels, else the workload's name.
    #[must_use]
    pub fn canonical_service(&self) -> &str {
        self.label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or(self.workload_name())
    }

    /// The canonical revision in Istio's metrics: the first of three labels, else `latest`.
    #[must_use]
    pub fn canonical_revision(&self) -> &str {
        self.label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]).unwrap_or("latest")
    }

    fn label(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.labels.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{labels, pod},
        world::OwnerKind,
    };

    #[test]
    fn names_in_metrics() {
        let check = |with: &str, owner: Option<&str>, want: [&str; 3]| {
            let owner = owner.map(|name| Owner { kind: OwnerKind::Deployment, name: name.into() });
            let w = Pod { labels: labels(with), owner, ..pod("default/web-5fd8-x", "10.0.0.1") };
            assert_eq!([w.workload_name(), w.canonical_service(), w.canonical_revision()], want, "{with}");
        };
        check("", None, ["web-5fd8-x", "web-5fd8-x", "latest"]);
        check("", Some("web"), ["web", "web", "latest"]);
        check("app=shop version=v2", Some("web"), ["web", "shop", "v2"]);
        check(
            "app=shop app.kubernetes.io/name=store app.kubernetes.io/version=v3 version=v2",
            None,
            ["web-5fd8-x", "store", "v3"],
        );
        check(
            "app.kubernetes.io/name=store service.istio.io/canonical-name=mall service.istio.io/canonical-revision=v4",
            None,
            ["web-5fd8-x", "mall", "v4"],
        );
    }
}
