//! A node: where pods run, and the addresses a kubelet speaks from.

use std::net::IpAddr;

use serde::Serialize;

use crate::{ObjectName, labels::Labels};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name; cluster-scoped.
    pub name: ObjectName,
    /// `status.addresses` that are IP addresses, canonical.
    pub addresses: Vec<IpAddr>,
    /// Labels; `topology.kubernetes.io/region` and `zone` among them.
    pub labels: Labels,
}
