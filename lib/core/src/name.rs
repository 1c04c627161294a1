//! Names of objects: those that appear in logs, errors and verdicts. Its own file because every module uses
//! them and nothing else may decide how an object is printed.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The kinds of Kubernetes and Istio objects that make up a [`World`](crate::World).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// `v1 Pod`.
    Pod,
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `gateway.networking.k8s.io Gateway`.
    Gateway,
    /// `security.istio.io AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `security.istio.io PeerAuthentication`.
    PeerAuthentication,
    /// `networking.istio.io VirtualService`.
    VirtualService,
    /// `networking.istio.io DestinationRule`.
    DestinationRule,
    /// `security.istio.io RequestAuthentication`.
    RequestAuthentication,
    /// `gateway.networking.k8s.io HTTPRoute`.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// `gateway.networking.k8s.io GRPCRoute`.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// `gateway.networking.k8s.io TLSRoute`.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    /// `gateway.networking.k8s.io TCPRoute`.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// `gateway.networking.k8s.io ReferenceGrant`.
    ReferenceGrant,
    /// `v1 ConfigMap`, of which Istio's MeshConfig is read.
    #[serde(rename = "ConfigMap")]
    MeshConfig,
}

impl Kind {
    /// Every kind, in the order of their names' first use: containers before what they contain.
    pub const ALL: [Self; 17] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::Gateway,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::VirtualService,
        Self::DestinationRule,
        Self::RequestAuthentication,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
        Self::MeshConfig,
    ];

    /// The kind as written in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Gateway => "Gateway",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::MeshConfig => "ConfigMap",
        }
    }

    /// Objects of this kind live in a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Objects of this kind say what a waypoint does with requests: no fact follows from them.
    #[must_use]
    pub const fn is_of_waypoints(self) -> bool {
        matches!(
            self,
            Self::VirtualService
                | Self::DestinationRule
                | Self::RequestAuthentication
                | Self::HttpRoute
                | Self::GrpcRoute
                | Self::TlsRoute
                | Self::TcpRoute
                | Self::ReferenceGrant
                | Self::MeshConfig
        )
    }
}

/// The text is no name of an object, as objects print theirs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no object: write Kind namespace/name")]
pub struct ParseKeyError(String);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Between namespace and name, where an [`ObjectName`] has them in one text. Before every other character, so that texts are
/// ordered as pairs are.
const BETWEEN: &str = "\0";

/// `namespace/name`. Cheap to clone, and one pointer away from its text: the maps of a World have millions of them.
/// Cluster-scoped objects have an empty namespace and print their name alone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectName(Arc<str>);

impl ObjectName {
    /// A name in a namespace. Neither has a NUL in Kubernetes; where one has, it stands as U+FFFD.
    #[must_use]
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        let (namespace, name) = (namespace.as_ref(), name.as_ref());
        let text = [namespace, BETWEEN, name].concat();
        if text.matches(BETWEEN).nth(1).is_some() {
            let known = |part: &str| part.replace(BETWEEN, "\u{FFFD}");
            return Self::new(known(namespace), known(name));
        }
        Self(text.into())
    }

    /// The name of a cluster-scoped object.
    #[must_use]
    pub fn cluster(name: impl AsRef<str>) -> Self {
        Self::new("", name)
    }

    /// Empty for cluster-scoped objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(BETWEEN).unwrap_or(("", &self.0))
    }
}

impl Ord for ObjectName {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for ObjectName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            ("", name) => f.write_str(name),
            (namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for ObjectName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Ok(match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::cluster(text),
        })
    }
}

/// Kind and name: what identifies an object. Prints as `AuthorizationPolicy default/reviews-viewer`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// Its name, and namespace if it has one.
    pub name: ObjectName,
}

impl ObjectKey {
    /// The key of an object.
    #[must_use]
    pub const fn new(kind: Kind, name: ObjectName) -> Self {
        Self { kind, name }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromStr for ObjectKey {
    type Err = ParseKeyError;

    /// As it prints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (kind, name) = text.split_once(' ')?;
            let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind)?;
            let name = match (kind.is_namespaced(), name.split_once('/')) {
                (true, Some((namespace, name))) => ObjectName::new(namespace, name),
                (false, None) => ObjectName::cluster(name),
                _ => return None,
            };
            Some(Self::new(kind, name))
        };
        read().ok_or_else(|| ParseKeyError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_pairs_and_none_reads_as_another() {
        let pairs = [("", ""), ("", "a"), ("a", ""), ("a", "b"), ("a", "b-c"), ("a-b", "a"), ("a.b", "a"), ("b", "")];
        let names: Vec<_> = pairs.iter().map(|(namespace, name)| ObjectName::new(namespace, name)).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(names.iter().map(|n| (n.namespace(), n.name())).collect::<Vec<_>>(), pairs);
        let (a, b) = (ObjectName::new("a\0b", "c"), ObjectName::new("a", "b\0c"));
        assert_eq!([a.namespace(), a.name(), b.namespace(), b.name()], ["a\u{FFFD}b", "c", "a", "b\u{FFFD}c"]);
    }

    #[test]
    fn keys_are_read_as_they_print() {
        for text in ["Pod default/a", "Node node-1", "AuthorizationPolicy istio-system/x"] {
            assert_eq!(text.parse::<ObjectKey>().unwrap().to_string(), text);
        }
        for text in ["", "Pod", "Pod a", "Node a/b", "pod default/a", "Gadget default/a"] {
            assert!(text.parse::<ObjectKey>().is_err(), "{text:?}");
        }
    }
}
