//! Objects: what users write, validated, of Kubernetes and Istio, as far as the mesh reads it. Doors make them,
//! [`crate::resolve`] turns them into the facts of a [`World`](crate::World); no decision about a connection looks at
//! one.

mod batch;
mod destination_rule;
mod gateway;
mod gateway_route;
mod http_route;
mod mesh_config;
mod namespace;
mod node;
mod peer_authentication;
mod pod;
mod request_authentication;
mod service;
mod traffic_policy;
mod virtual_service;

pub use batch::{Batch, Change, Object};
pub use destination_rule::{DestinationRule, Subset};
pub use gateway::{Admits, Gateway, HboneListener, Must, Requirement, WAYPOINT_CLASSES, WaypointFor};
pub use gateway_route::{
    Backend, BackendRef, GatewayRoute, GrantFrom, GrantTo, GrpcMethod, ParentRef, ReferenceGrant, Referent, RouteMatch,
    RouteMirror, RouteProtocol, RouteRetry, RouteRule,
};
pub use http_route::{
    Abort, AbortWith, CorsPolicy, Delay, DirectResponse, Fault, HeaderChanges, HeaderOperations, HttpAction, HttpMatch,
    HttpPolicy, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, Mirror, ParseConditionError, PathRewrite,
    RedirectPort, RetryCondition, RetryOn,
};
pub use mesh_config::{Authorizer, MESH_CONFIG, MeshConfig};
pub use namespace::Namespace;
pub use node::{AGENT_NOT_READY, Node};
pub use peer_authentication::{Created, MtlsMode, PeerAuthentication};
pub use pod::{ContainerPort, DEFAULT_WEIGHT, OwnProxy, Phase, Pod};
pub use request_authentication::{ClaimHeader, JwtRule, KeySource, RequestAuthentication, TokenSource};
pub use service::{EndpointSlice, Service, SliceEndpoint, SlicePort};
pub use traffic_policy::{
    Balancing, ClientTls, ConnectionPool, ConsistentHash, Distribute, HashCookie, HashKey, HashRing, HttpPool,
    Keepalive, LoadBalancer, LocalityBalancing, OutlierDetection, PortPolicy, ProxyProtocol, RetryBudget, TcpPool,
    TlsMode, TrafficPolicy, Tunnel, Upgrade, Warmup,
};
pub use virtual_service::{
    ConnectionMatch, ExportTo, Limit, MESH_GATEWAY, RouteTarget, Share, TcpRoute, TlsRoute, VirtualService,
    WeightedTarget,
};
