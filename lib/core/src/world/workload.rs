//! A workload: a pod, or an address of a slice that belongs to no pod, with everything about it that decides about
//! connections.
//!
//! | field | workload API (`istio.workload.Workload`) |
//! |---|---|
//! | `uid`, `name`, `addresses`, `node`, `locality` | `uid`, `namespace` and `name`, `addresses`, `node`, `locality` |
//! | `account` | `namespace`, `service_account`; none: no identity |
//! | `enrolment` | `tunnel_protocol`: HBONE is in the mesh; why is not on the wire |
//! | `host_network` | `network_mode` |
//! | `waypoint` | `waypoint` |
//! | `policies` | `authorization_policies` |
//! | `mtls` | the two names of converted policies among `authorization_policies` |
//! | `endpoints` | `services` (ports); readiness, weight and hints per endpoint travel in `extensions` |
//! | `owner`, `canonical_service`, `canonical_revision` | `workload_type` and `workload_name`, `canonical_name`, `canonical_revision` |
//! | `app`, `version` | `extensions`; without it as the canonical ones |
//! | `ready`, `draining` | `status`; draining in `extensions` |
//! | not served | `trust_domain`, `network`, `network_gateway`, `application_tunnel`, `cluster_id`, `capacity`, `hostname` |

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Few, Kind, ObjectKey, ObjectName,
    enrol::Enrolment,
    world::{Locality, Mtls, Waypoint},
};

/// The key of a workload: `cluster//Pod/namespace/name`, as Istio writes it. It may be used again for another pod
/// of the same name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Uid(Arc<str>);

impl Ord for Uid {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        #[cfg(test)]
        super::tests::compared();
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Uid {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Uid {
    /// As it stands in a fact.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Of a pod of this cluster.
    #[must_use]
    pub fn of_pod(cluster: &str, pod: &ObjectName) -> Self {
        Self([cluster, "//Pod/", pod.namespace(), "/", pod.name()].concat().into())
    }

    /// Of an address of a slice that belongs to no pod.
    #[must_use]
    pub fn of_slice(cluster: &str, slice: &ObjectName, address: IpAddr) -> Self {
        let (namespace, name) = (slice.namespace(), slice.name());
        Self(format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{address}").into())
    }

    /// What the uids of a namespace of this cluster begin with: of its pods, and of addresses of its slices.
    pub(super) fn of_namespace(cluster: &str, namespace: &str) -> [String; 2] {
        ["/Pod", "discovery.k8s.io/EndpointSlice"].map(|kind| format!("{cluster}/{kind}/{namespace}/"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, to be kept.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Uid {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// The identity of a workload without its trust domain, which is the mesh's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Account {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The service account.
    pub name: Arc<str>,
}

/// The kind of the object that made a pod, as far as it is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnerKind {
    /// `apps/v1 Deployment`, through one of its ReplicaSets.
    Deployment,
    /// `batch/v1 Job`.
    Job,
    /// `batch/v1 CronJob`, through one of its Jobs.
    CronJob,
    /// Any other: StatefulSet, DaemonSet, a ReplicaSet of its own.
    Other,
}

/// The object that made a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its name, in the pod's namespace.
    pub name: Arc<str>,
}

/// The callers for which an endpoint is meant, as the controller of its slice has worked out. Rarely there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hints {
    /// `hints.forZones[].name`; empty: it says nothing.
    pub zones: Vec<Arc<str>>,
    /// `hints.forNodes[].name`; empty: it says nothing.
    pub nodes: Vec<Arc<str>>,
}

/// A workload as one backend of a service: one address of it, with the port that it listens on for each of the
/// service's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The service.
    pub service: ObjectName,
    /// The address, canonical.
    pub address: IpAddr,
    /// By service port: the target port.
    pub ports: Arc<[(u16, u16)]>,
    /// It may take new connections.
    pub ready: bool,
    /// It is on its way out and still serves: it takes new connections where none is ready.
    pub draining: bool,
    /// Its share of new connections, relative to the others'. 0: none, while others are there.
    pub weight: u16,
    /// For which callers its slice says that it is meant; none: all.
    pub hints: Option<Arc<Hints>>,
    /// Its slice, or its own object, names an address that another pod has by now: it takes no connections. It stays
    /// all the same, so that calls of the service are refused instead of going past the mesh.
    pub outdated: bool,
}

impl Endpoint {
    /// Both are the same address of the same service; all else may differ.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.address == other.address && self.service == other.service
    }

    /// The port that it listens on for a service port.
    #[must_use]
    pub fn target_port(&self, port: u16) -> Option<u16> {
        self.ports.iter().find(|(service, _)| *service == port).map(|(_, target)| *target)
    }
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Its key.
    pub uid: Uid,
    /// namespace/name: of the pod; of a slice's address the slice's name and the address.
    pub name: ObjectName,
    /// The addresses that it has, canonical, without duplicates: not those that its object still names and another pod
    /// has.
    pub addresses: Few<IpAddr>,
    /// Its identity without the trust domain; none: an address of a slice, which proves nothing.
    pub account: Option<Account>,
    /// Whether it is in the mesh, and the reason.
    pub enrolment: Enrolment,
    /// It has the node's addresses, not its own.
    pub host_network: bool,
    /// The waypoint that calls of its own addresses pass.
    pub waypoint: Option<Waypoint>,
    /// The AuthorizationPolicies that select it by labels: mesh-wide ones and those of its namespace are not among
    /// them.
    pub policies: Few<ObjectName>,
    /// The modes that PeerAuthentications with a selector set for it.
    pub mtls: Mtls,
    /// The services that it is a backend of, in order.
    pub endpoints: Box<[Endpoint]>,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// The locality of its node, shared by all that are there.
    pub locality: Arc<Locality>,
    /// The `Ready` condition, unless it is being deleted.
    pub ready: bool,
    /// It is being deleted, and its `Ready` condition still holds.
    pub draining: bool,
    /// Its owner; none: it was made by hand.
    pub owner: Option<Owner>,
    /// The canonical service in Istio's metrics.
    pub canonical_service: Arc<str>,
    /// The canonical revision in Istio's metrics.
    pub canonical_revision: Arc<str>,
    /// The label `app`, else the canonical service.
    pub app: Arc<str>,
    /// The label `version`, else the canonical revision.
    pub version: Arc<str>,
}

impl Workload {
    /// The object that the fact follows from.
    #[must_use]
    pub fn object(&self) -> ObjectKey {
        let kind = if self.is_pod() { Kind::Pod } else { Kind::EndpointSlice };
        ObjectKey::new(kind, self.name.clone())
    }

    /// A pod, as against an address of a slice.
    #[must_use]
    pub const fn is_pod(&self) -> bool {
        self.account.is_some()
    }

    /// It is about the pod that its node knows by these addresses and this account. Until it is, neither says anything
    /// about the other: a name may be used again.
    #[must_use]
    pub fn is_of(&self, addresses: &[IpAddr], account: &Account) -> bool {
        let within = |some: &[IpAddr], all: &[IpAddr]| some.iter().all(|ip| all.contains(ip));
        self.account.as_ref() == Some(account)
            && within(&self.addresses, addresses)
            && within(addresses, &self.addresses)
    }

    /// In the mesh.
    #[must_use]
    pub const fn is_enrolled(&self) -> bool {
        self.enrolment.is_enrolled()
    }

    /// Traffic to one of its addresses is traffic to it. Not so for pods of the host's network, nor for addresses of
    /// slices.
    #[must_use]
    pub const fn owns_addresses(&self) -> bool {
        self.is_pod() && !self.host_network
    }

    /// The workload name in Istio's metrics: the pod's owner, else the pod.
    #[must_use]
    pub fn workload_name(&self) -> &str {
        self.owner.as_ref().map_or(self.name.name(), |owner| &owner.name)
    }

    /// A service that leads to this port of it: the first by name.
    #[must_use]
    pub fn service_at(&self, port: u16) -> Option<&ObjectName> {
        let mut current = self.endpoints.iter().filter(|e| !e.outdated);
        current.find(|e| e.ports.iter().any(|(_, target)| *target == port)).map(|e| &e.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ambient, workload};

    #[test]
    fn a_fact_is_of_the_pod_whose_addresses_and_account_it_has() {
        let fact = workload(&ambient("default/b", "10.0.0.2 fd00::2", ""));
        let check = |addresses: &str, (namespace, account): (&str, &str), expect| {
            let addresses: Vec<IpAddr> = addresses.split_whitespace().map(|a| a.parse().unwrap()).collect();
            let account = Account { namespace: namespace.into(), name: account.into() };
            assert_eq!(fact.is_of(&addresses, &account), expect, "{addresses:?} {account:?}");
        };
        let own = ("default", "b");
        check("10.0.0.2 fd00::2", own, true);
        check("fd00::2 10.0.0.2", own, true);
        check("10.0.0.2", own, false);
        check("10.0.0.2 fd00::2 fd00::3", own, false);
        check("10.0.0.3 fd00::2", own, false);
        check("", own, false);
        check("10.0.0.2 fd00::2", ("default", "x"), false);
        check("10.0.0.2 fd00::2", ("other", "b"), false);
    }
}
