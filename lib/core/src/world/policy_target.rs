//! The objects that a policy may name in `targetRefs`. Their own file because they are names of objects that no policy
//! checks: one that does not exist is judged nowhere, and one of a kind that no waypoint serves is refused at the door.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// A kind that `targetRefs` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    /// A `Service`: requests that call it.
    Service,
    /// `networking.istio.io ServiceEntry`: requests that call one of its hosts. Nothing serves them yet.
    ServiceEntry,
    /// `gateway.networking.k8s.io Gateway`: requests that pass this waypoint.
    Gateway,
    /// `gateway.networking.k8s.io GatewayClass`: requests that pass any waypoint of the class. In the root namespace alone.
    GatewayClass,
}

impl TargetKind {
    /// Group and kind as they are written, for errors.
    pub const KNOWN: &[&str] = &[
        "Service",
        "networking.istio.io ServiceEntry",
        "gateway.networking.k8s.io Gateway",
        "gateway.networking.k8s.io GatewayClass",
    ];

    /// From its group, in which `core` and nothing are one, and its kind.
    #[must_use]
    pub fn parse(group: &str, kind: &str) -> Option<Self> {
        Some(match (group, kind) {
            ("" | "core", "Service") => Self::Service,
            ("networking.istio.io", "ServiceEntry") => Self::ServiceEntry,
            ("gateway.networking.k8s.io", "Gateway") => Self::Gateway,
            ("gateway.networking.k8s.io", "GatewayClass") => Self::GatewayClass,
            _ => return None,
        })
    }

    /// The kind's group; empty: the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Service => "",
            Self::ServiceEntry => "networking.istio.io",
            Self::Gateway | Self::GatewayClass => "gateway.networking.k8s.io",
        }
    }

    /// The kind as written in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
        }
    }
}

/// An object that a policy names in `targetRefs`: of the policy's own namespace, or of none where its kind has none.
/// As text: `Service reviews`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyTarget {
    /// Its kind.
    pub kind: TargetKind,
    /// Its name.
    pub name: Arc<str>,
}

impl PolicyTarget {
    /// From its parts.
    #[must_use]
    pub fn new(kind: TargetKind, name: impl Into<Arc<str>>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for PolicyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

impl Serialize for PolicyTarget {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_group() {
        let check = |group: &str, kind: &str, expect: Option<TargetKind>| {
            assert_eq!(TargetKind::parse(group, kind), expect, "{group} {kind}");
        };
        check("", "Service", Some(TargetKind::Service));
        check("core", "Service", Some(TargetKind::Service));
        check("gateway.networking.k8s.io", "Service", None);
        check("", "Gateway", None);
        check("networking.istio.io", "Gateway", None);
        check("", "service", None);
        for (kind, known) in
            [TargetKind::Service, TargetKind::ServiceEntry, TargetKind::Gateway, TargetKind::GatewayClass]
                .into_iter()
                .zip(TargetKind::KNOWN)
        {
            check(kind.group(), kind.as_str(), Some(kind));
            assert_eq!(format!("{} {}", kind.group(), kind.as_str()).trim(), *known);
        }
    }
}
