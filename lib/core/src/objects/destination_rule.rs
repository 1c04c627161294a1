//! DestinationRules as written: the subsets of a host, and how its connections and requests are treated.

use std::sync::Arc;

use serde::Serialize;

use super::{Created, ExportTo, TrafficPolicy};
use crate::{ObjectName, http::Host, labels::Labels};

/// `networking.istio.io DestinationRule`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DestinationRule {
    /// namespace/name.
    pub name: ObjectName,
    /// Of several for one host the older one's policy counts.
    pub created: Created,
    /// `spec.host`.
    pub host: Host,
    /// `spec.trafficPolicy`.
    pub policy: TrafficPolicy,
    /// `spec.subsets`, in order, each name once.
    pub subsets: Vec<Subset>,
    /// `spec.exportTo`.
    pub export_to: ExportTo,
    /// `spec.workloadSelector.matchLabels`: the callers that it is for.
    pub callers: Option<Labels>,
}

/// An entry of `spec.subsets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subset {
    /// `name`.
    pub name: Arc<str>,
    /// `labels` of its endpoints' pods. Empty: all of them.
    pub labels: Labels,
    /// `trafficPolicy`: what it says counts in the place of the host's.
    pub policy: TrafficPolicy,
}
