//! Routes of the Gateway API as written, of requests and of connections, and the ReferenceGrants beside them. Conditions on
//! requests, header changes, redirects and CORS are those of VirtualServices, because requests mean the same to both; the
//! rest of a route has shapes of its own.

use std::sync::Arc;

use serde::Serialize;

use super::{
    CorsPolicy, Created, HeaderOperations, HttpMatch, HttpRedirect, HttpRewrite,
    virtual_service::{Limit, Share},
};
use crate::{Kind, ObjectKey, ObjectName, http::Host};

/// The API group of routes.
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// `gateway.networking.k8s.io HTTPRoute`, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayRoute {
    /// namespace/name.
    pub name: ObjectName,
    /// Which of them.
    pub protocol: RouteProtocol,
    /// Of matches that are alike, those of the older route come first.
    pub created: Created,
    /// `spec.parentRefs`, in order.
    pub parents: Vec<ParentRef>,
    /// `spec.hostnames`: of a TLSRoute one of these server names must be asked for; of others a matter of gateways alone.
    pub hostnames: Vec<Host>,
    /// `spec.rules`, in order; at least one. Those of connections have backends and a name alone, so that the first counts.
    pub rules: Vec<RouteRule>,
}

/// The protocol of a route; the greater ones are more specific (GEP-1294, "Route types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RouteProtocol {
    /// Of a TCPRoute.
    Tcp,
    /// Of a TLSRoute.
    Tls,
    /// Of an HTTPRoute.
    Http,
    /// Of a GRPCRoute.
    Grpc,
}

impl RouteProtocol {
    /// The kind of such a route.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Tcp => Kind::TcpRoute,
            Self::Tls => Kind::TlsRoute,
            Self::Http => Kind::HttpRoute,
            Self::Grpc => Kind::GrpcRoute,
        }
    }

    /// It routes each request, not connections.
    #[must_use]
    pub const fn is_of_requests(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }

    /// What it routes, in words.
    #[must_use]
    pub const fn carried(self) -> &'static str {
        match self {
            Self::Tcp => "bytes",
            Self::Tls => "TLS",
            Self::Http | Self::Grpc => "HTTP",
        }
    }
}

impl GatewayRoute {
    /// The kind of object.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.protocol.kind()
    }

    /// Kind and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.kind(), self.name.clone())
    }
}

/// An object that another one refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Referent {
    /// `group`; empty: Kubernetes' own.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `namespace`, else the referring object's, and `name`.
    pub name: ObjectName,
}

impl Referent {
    /// The Service, where it is one.
    #[must_use]
    pub fn service(&self) -> Option<&ObjectName> {
        (self.group.is_empty() && &*self.kind == "Service").then_some(&self.name)
    }

    /// It is a Gateway of the Gateway API.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        &*self.group == GATEWAY_API && &*self.kind == "Gateway"
    }
}

/// An entry of `spec.parentRefs`: what a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParentRef {
    /// The parent.
    pub target: Referent,
    /// `sectionName`: of a Service the name of its port.
    pub section: Option<Arc<str>>,
    /// `port`; none: every port.
    pub port: Option<u16>,
}

/// An entry of `spec.rules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteRule {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// `matches`: one of these must hold; none are there: any request does.
    pub matches: Vec<RouteMatch>,
    /// `backendRefs`. Where there is none, and no redirect, requests are refused.
    pub backends: Vec<Backend>,
    /// The filter `RequestRedirect`.
    pub redirect: Option<HttpRedirect>,
    /// The filter `URLRewrite`.
    pub rewrite: Option<HttpRewrite>,
    /// The filters `RequestHeaderModifier` and `ResponseHeaderModifier`.
    pub headers: HeaderOperations,
    /// The filters `RequestMirror`.
    pub mirrors: Vec<RouteMirror>,
    /// The filter `CORS`.
    pub cors: Option<CorsPolicy>,
    /// `timeouts.request`: of the whole request, retries included.
    pub timeout: Limit,
    /// `timeouts.backendRequest`: of each try.
    pub backend_timeout: Limit,
    /// `retry`; none: the mesh's default.
    pub retry: Option<RouteRetry>,
}

/// An entry of `matches`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteMatch {
    /// All that it asks for. A method of gRPC is a path.
    pub condition: HttpMatch,
    /// `method` of a GRPCRoute, as written.
    pub method: Option<GrpcMethod>,
}

/// `method` of a GRPCRoute's match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GrpcMethod {
    /// `service`; none: any.
    pub service: Option<Arc<str>>,
    /// `method`; none: any.
    pub method: Option<Arc<str>>,
}

/// An entry of `backendRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Where requests go.
    pub to: BackendRef,
    /// `weight`, among the sum of all.
    pub weight: u32,
    /// Its own filters `RequestHeaderModifier` and `ResponseHeaderModifier`.
    pub headers: HeaderOperations,
}

/// A backend, which need not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendRef {
    /// The object.
    pub target: Referent,
    /// `port`; a Service has one.
    pub port: Option<u16>,
}

/// The filter `RequestMirror`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteMirror {
    /// Where copies go.
    pub to: BackendRef,
    /// Of how many requests.
    pub share: Share,
}

/// `retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteRetry {
    /// `codes`: statuses that are tried again, in order, each once.
    pub codes: Vec<u16>,
    /// `attempts`, beside the first one; none: as the mesh's default.
    pub attempts: Option<u32>,
    /// `backoff`: the first pause.
    pub backoff: Limit,
}

/// `gateway.networking.k8s.io ReferenceGrant`: references into its own namespace that are allowed to routes of gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReferenceGrant {
    /// namespace/name.
    pub name: ObjectName,
    /// `spec.from`: who may refer.
    pub from: Vec<GrantFrom>,
    /// `spec.to`: to what.
    pub to: Vec<GrantTo>,
}

/// An entry of `spec.from`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantFrom {
    /// `group`.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `namespace`.
    pub namespace: Arc<str>,
}

/// An entry of `spec.to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantTo {
    /// `group`; empty: Kubernetes' own.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `name`; none: every one.
    pub name: Option<Arc<str>>,
}

impl ReferenceGrant {
    /// Whether `from` may refer to `to`, which is in its namespace.
    #[must_use]
    pub fn allows(&self, from: &ObjectKey, to: &Referent) -> bool {
        let is_from = |f: &GrantFrom| {
            &*f.group == GATEWAY_API && &*f.kind == from.kind.as_str() && &*f.namespace == from.name.namespace()
        };
        let is_to = |t: &GrantTo| {
            t.group == to.group && t.kind == to.kind && t.name.as_deref().is_none_or(|name| name == to.name.name())
        };
        self.name.namespace() == to.name.namespace() && self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn references_that_a_grant_allows() {
        let grant = |kind: &str, namespace: &str, to: Option<&str>| ReferenceGrant {
            name: name("back/grant"),
            from: vec![GrantFrom { group: GATEWAY_API.into(), kind: kind.into(), namespace: namespace.into() }],
            to: vec![GrantTo { group: "".into(), kind: "Service".into(), name: to.map(Into::into) }],
        };
        let from = ObjectKey::new(Kind::HttpRoute, name("front/r"));
        let service = |full: &str| Referent { group: "".into(), kind: "Service".into(), name: name(full) };
        for (grant, to, expect) in [
            (grant("HTTPRoute", "front", None), "back/a", true),
            (grant("HTTPRoute", "front", Some("a")), "back/a", true),
            (grant("HTTPRoute", "front", Some("b")), "back/a", false),
            (grant("HTTPRoute", "other", None), "back/a", false),
            (grant("GRPCRoute", "front", None), "back/a", false),
            (grant("HTTPRoute", "front", None), "other/a", false),
        ] {
            assert_eq!(grant.allows(&from, &service(to)), expect, "{grant:?} {to}");
        }
        let secret = Referent { kind: "Secret".into(), ..service("back/a") };
        assert!(!grant("HTTPRoute", "front", None).allows(&from, &secret));
    }
}
