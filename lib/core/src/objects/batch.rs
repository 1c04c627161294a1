//! Changes to objects. A door turns what it saw (a file, a watch event) into a [`Batch`]; the keeper is the only one
//! that resolves it. Changes to different objects commute; of two changes to one object the later counts.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    Kind, ObjectKey, ObjectName,
    objects::{
        DestinationRule, EndpointSlice, Gateway, GatewayRoute, MeshConfig, Namespace, Node, PeerAuthentication, Pod,
        ReferenceGrant, RequestAuthentication, Service, VirtualService,
    },
    world::AuthorizationPolicy,
};

/// Any object, in one shared copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Object {
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// A node.
    Node(Arc<Node>),
    /// A pod.
    Pod(Arc<Pod>),
    /// A service.
    Service(Arc<Service>),
    /// A slice of endpoints.
    EndpointSlice(Arc<EndpointSlice>),
    /// A gateway or waypoint.
    Gateway(Arc<Gateway>),
    /// L4 policy.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// Mutual TLS requirements.
    PeerAuthentication(Arc<PeerAuthentication>),
    /// Routes of requests and connections.
    VirtualService(Arc<VirtualService>),
    /// Subsets of a host, and the policy of its traffic.
    DestinationRule(Arc<DestinationRule>),
    /// Whose tokens requests may have.
    RequestAuthentication(Arc<RequestAuthentication>),
    /// Routes of the Gateway API, of requests: an HTTPRoute or a GRPCRoute.
    GatewayRoute(Arc<GatewayRoute>),
    /// References into a namespace that it allows.
    ReferenceGrant(Arc<ReferenceGrant>),
    /// External authorizers.
    MeshConfig(Arc<MeshConfig>),
}

impl Object {
    /// Kind and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let (kind, name): (Kind, &ObjectName) = match self {
            Self::Namespace(o) => (Kind::Namespace, &o.name),
            Self::Node(o) => (Kind::Node, &o.name),
            Self::Pod(o) => (Kind::Pod, &o.name),
            Self::Service(o) => (Kind::Service, &o.name),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, &o.name),
            Self::Gateway(o) => (Kind::Gateway, &o.name),
            Self::AuthorizationPolicy(o) => (Kind::AuthorizationPolicy, &o.name),
            Self::PeerAuthentication(o) => (Kind::PeerAuthentication, &o.name),
            Self::VirtualService(o) => (Kind::VirtualService, &o.name),
            Self::DestinationRule(o) => (Kind::DestinationRule, &o.name),
            Self::RequestAuthentication(o) => (Kind::RequestAuthentication, &o.name),
            Self::GatewayRoute(o) => (o.kind(), &o.name),
            Self::ReferenceGrant(o) => (Kind::ReferenceGrant, &o.name),
            Self::MeshConfig(o) => (Kind::MeshConfig, &o.name),
        };
        ObjectKey::new(kind, name.clone())
    }
}

macro_rules! from {
    ($($t:ident),*) => { $(impl From<$t> for Object { fn from(o: $t) -> Self { Self::$t(Arc::new(o)) } })* };
}
from!(
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    Gateway,
    AuthorizationPolicy,
    PeerAuthentication,
    VirtualService,
    DestinationRule,
    RequestAuthentication,
    GatewayRoute,
    ReferenceGrant,
    MeshConfig
);

/// One object that appeared, changed or went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is now this.
    Put(Object),
    /// The object is gone. Removing what is not there is no error.
    Remove(ObjectKey),
}

/// Changes that become visible together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order they happened.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Appends: the object is now `object`.
    pub fn put(&mut self, object: impl Into<Object>) {
        self.changes.push(Change::Put(object.into()));
    }

    /// Appends: the object is gone.
    pub fn remove(&mut self, key: ObjectKey) {
        self.changes.push(Change::Remove(key));
    }

    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl FromIterator<Object> for Batch {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        Self { changes: objects.into_iter().map(Change::Put).collect() }
    }
}
