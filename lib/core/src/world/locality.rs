//! The locality of nodes and endpoints, and the nearness of two of them.
//!
//! What must hold: what is not known is near to nothing. Two nodes without labels are not in one zone, else a cluster
//! without zones would send all traffic of a node to nowhere but itself.

use std::sync::Arc;

use serde::Serialize;

use crate::labels::Labels;

/// The label of nodes that names their region.
const REGION: &str = "topology.kubernetes.io/region";
/// The label of nodes that names their zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The label of nodes that names a part of their zone, such as a rack.
const SUBZONE: &str = "topology.istio.io/subzone";

/// A locality: a region, a zone in it, a part of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Option<Arc<str>>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `topology.istio.io/subzone`.
    pub subzone: Option<Arc<str>>,
}

/// The nearness of an endpoint, nearest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Nearness {
    /// In another region, or at an unknown locality.
    Elsewhere,
    /// In the same region.
    Region,
    /// In the same zone.
    Zone,
    /// In the same part of the zone.
    Subzone,
    /// On the same node.
    Node,
}

impl Nearness {
    /// For people: `in the same zone`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Region => "in the same region",
            Self::Zone => "in the same zone",
            Self::Subzone => "in the same subzone",
            Self::Node => "on the same node",
        }
    }
}

impl Locality {
    /// The locality in the labels of a node; an empty value counts as none.
    #[must_use]
    pub fn of(labels: &Labels) -> Self {
        let label = |key| labels.get(key).filter(|value| !value.is_empty()).map(Arc::from);
        Self { region: label(REGION), zone: label(ZONE), subzone: label(SUBZONE) }
    }

    /// What the label of this key says; none: no label of a locality has it.
    pub(crate) fn label(&self, key: &str) -> Option<Option<&str>> {
        match key {
            REGION => Some(self.region.as_deref()),
            ZONE => Some(self.zone.as_deref()),
            SUBZONE => Some(self.subzone.as_deref()),
            _ => None,
        }
    }

    /// The nearness of `other`, by labels alone: never [`Nearness::Node`]. Zones of different regions may have one
    /// name; a region that only one of the two knows does not part them.
    #[must_use]
    pub fn nearness(&self, other: &Self) -> Nearness {
        let both = |a: &Option<Arc<str>>, b: &Option<Arc<str>>| a.as_ref().zip(b.as_ref()).map(|(a, b)| a == b);
        let region = both(&self.region, &other.region);
        let zone = both(&self.zone, &other.zone) == Some(true) && region != Some(false);
        match (zone, both(&self.subzone, &other.subzone)) {
            (true, Some(true)) => Nearness::Subzone,
            (true, _) => Nearness::Zone,
            (false, _) if region == Some(true) => Nearness::Region,
            (false, _) => Nearness::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::locality;

    #[test]
    fn nearness_by_labels() {
        let check = |a: &str, b: &str, expect| {
            assert_eq!(locality(a).nearness(&locality(b)), expect, "{a} to {b}");
            assert_eq!(locality(b).nearness(&locality(a)), expect, "{b} to {a}");
        };
        check("r/z/s", "r/z/s", Nearness::Subzone);
        check("r/z/s", "r/z/t", Nearness::Zone);
        check("r/z/s", "r/z", Nearness::Zone);
        check("r/z", "r/z", Nearness::Zone);
        check("r/z", "r/y", Nearness::Region);
        check("r/z/s", "r/y/s", Nearness::Region);
        check("r", "r", Nearness::Region);
        check("r/z", "q/z", Nearness::Elsewhere);
        check("r/z/s", "q/z/s", Nearness::Elsewhere);
        check("r/z", "/z", Nearness::Zone);
        check("r/z", "/y", Nearness::Elsewhere);
        check("r/z", "", Nearness::Elsewhere);
        // what is not known is not the same
        check("", "", Nearness::Elsewhere);
        check("//s", "//s", Nearness::Elsewhere);
    }
}
