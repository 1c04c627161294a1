//! VirtualServices as written, with their routes of HTTP ([`HttpRoute`]) and of connections.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use serde::Serialize;

use super::{Created, HeaderOperations, HttpRoute};
use crate::{ObjectName, http::Host, labels::Labels};

/// `networking.istio.io VirtualService`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualService {
    /// namespace/name.
    pub name: ObjectName,
    /// Of several for one host the older one's routes come first.
    pub created: Created,
    /// `spec.hosts`. Empty: only other VirtualServices delegate to it.
    pub hosts: Vec<Host>,
    /// `spec.gateways`, as written; empty: the mesh.
    pub gateways: Vec<Arc<str>>,
    /// `spec.exportTo`: the namespaces whose callers it is for.
    pub export_to: ExportTo,
    /// `spec.http`, in order.
    pub http: Vec<HttpRoute>,
    /// `spec.tls`, in order.
    pub tls: Vec<TlsRoute>,
    /// `spec.tcp`, in order.
    pub tcp: Vec<TcpRoute>,
}

/// The name of all callers inside the mesh, among gateways.
pub const MESH_GATEWAY: &str = "mesh";

impl VirtualService {
    /// Calls inside the mesh follow it, not those through gateways alone.
    #[must_use]
    pub fn is_for_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|g| &**g == MESH_GATEWAY)
    }

    /// Callers in this namespace follow it; none: a caller of which nothing is known.
    #[must_use]
    pub fn is_exported_to(&self, namespace: Option<&str>) -> bool {
        self.export_to.includes(self.name.namespace(), namespace)
    }
}

/// `exportTo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ExportTo {
    /// Every namespace.
    #[default]
    All,
    /// These, and perhaps the object's own.
    Namespaces {
        /// `.` among them.
        own: bool,
        /// By name.
        others: Vec<Arc<str>>,
    },
}

impl ExportTo {
    /// Whether an object of the namespace `own` is exported to `namespace`.
    #[must_use]
    pub fn includes(&self, own: &str, namespace: Option<&str>) -> bool {
        match (self, namespace) {
            (Self::All, _) => true,
            (Self::Namespaces { .. }, None) => false,
            (Self::Namespaces { own: has_own, others }, Some(asked)) => {
                (*has_own && own == asked) || others.iter().any(|other| &**other == asked)
            }
        }
    }
}

/// A place that requests or connections go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteTarget {
    /// `host`.
    pub host: Host,
    /// `subset`, of the host's DestinationRules.
    pub subset: Option<Arc<str>>,
    /// `port.number`; none: the called one.
    pub port: Option<u16>,
}

/// One of several targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightedTarget {
    /// `destination`.
    pub target: RouteTarget,
    /// `weight`, among the sum of all. One alone has 1: it gets everything.
    pub weight: u32,
    /// `headers`; none of a connection.
    pub headers: HeaderOperations,
}

/// An entry of `spec.tls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsRoute {
    /// `match`: one of these must hold.
    pub matches: Vec<ConnectionMatch>,
    /// `route`.
    pub targets: Vec<WeightedTarget>,
}

/// An entry of `spec.tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpRoute {
    /// `match`: one of these must hold; none are there: any connection does.
    pub matches: Vec<ConnectionMatch>,
    /// `route`.
    pub targets: Vec<WeightedTarget>,
}

/// Conditions on a connection: all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionMatch {
    /// `sniHosts`: one of these server names. Only of TLS.
    pub server_names: Vec<Host>,
    /// `destinationSubnets`: the called address is in one of these.
    pub destinations: Vec<IpNet>,
    /// `sourceSubnet`: the caller's address is in it. Only of TCP.
    pub source: Option<IpNet>,
    /// `port`.
    pub port: Option<u16>,
    /// `sourceLabels`.
    pub source_labels: Labels,
    /// `sourceNamespace`.
    pub source_namespace: Option<Arc<str>>,
    /// `gateways`, in the place of the VirtualService's.
    pub gateways: Vec<Arc<str>>,
}

/// A share, in millionths: what a percentage with four decimals says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Share(pub u32);

impl Share {
    /// All.
    pub const ALL: Self = Self(1_000_000);

    /// Of a percentage from 0 to 100.
    #[must_use]
    pub fn of_percent(percent: f64) -> Option<Self> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked, and what is finer than a millionth is rounded"
        )]
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 10_000.0).round() as u32))
    }

    /// In percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

/// A limit of time; zero, where Istio reads it as none, is none.
pub type Limit = Option<Duration>;
