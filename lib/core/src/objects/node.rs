//! A node: where pods run, and the addresses a kubelet speaks from.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::{ObjectName, labels::Labels};

/// The taint of a new node whose first agent is not ready yet: pods are to come after it. The control plane takes it away.
pub const AGENT_NOT_READY: &str = "underpass.dev/agent-not-ready";

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name; cluster-scoped.
    pub name: ObjectName,
    /// `status.addresses` that are IP addresses, canonical.
    pub addresses: Vec<IpAddr>,
    /// Labels; `topology.kubernetes.io/region` and `zone` among them.
    pub labels: Labels,
    /// It has the taint [`AGENT_NOT_READY`], of any effect.
    pub awaits_agent: bool,
    /// The annotation [`WAYPOINT_RANGE`](crate::provision::WAYPOINT_RANGE): the addresses of waypoints that its agent may run,
    /// which lead to this node. One of each family at most, without host bits.
    pub waypoint_ranges: Vec<IpNet>,
}
