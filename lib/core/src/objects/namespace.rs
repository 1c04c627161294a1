//! Namespaces as written: what their pods and services inherit.

use serde::{Deserialize, Serialize};

use crate::{ObjectName, labels::Labels, world::Distribution};

/// A namespace: what its pods inherit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name; cluster-scoped.
    pub name: ObjectName,
    /// Its labels: enrolment, waypoint.
    pub labels: Labels,
    /// The annotation `networking.istio.io/traffic-distribution`, for its services that say nothing themselves.
    pub distribution: Option<Distribution>,
}
