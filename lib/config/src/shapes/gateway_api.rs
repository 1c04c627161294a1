//! Routes of the Gateway API, `gateway.networking.k8s.io`, whose versions have the same shape: HTTPRoute, GRPCRoute, TLSRoute,
//! TCPRoute and ReferenceGrant. Fields of its experimental channel are here too, so that they can be named.

use serde::{Deserialize, de::IgnoredAny};

use super::{ObjectMeta, virtual_service::shapes};

/// Whole objects with such a `spec`.
macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident: $spec:ident,)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        pub struct $name {
            /// `apiVersion`.
            pub api_version: String,
            /// `kind`.
            pub kind: String,
            /// `metadata`.
            pub metadata: ObjectMeta,
            /// `spec`.
            pub spec: $spec,
            /// `status`, not read.
            pub status: Option<IgnoredAny>,
        }
    )* };
}

objects! {
    /// `HTTPRoute`.
    GatewayHttpRoute: GatewayHttpRouteSpec,
    /// `GRPCRoute`.
    GatewayGrpcRoute: GatewayGrpcRouteSpec,
    /// `TLSRoute`.
    GatewayTlsRoute: GatewayTlsRouteSpec,
    /// `TCPRoute`.
    GatewayTcpRoute: GatewayTcpRouteSpec,
    /// `ReferenceGrant`.
    ReferenceGrant: ReferenceGrantSpec,
}

shapes! {
    /// `spec` of an HTTPRoute.
    GatewayHttpRouteSpec {
        parent_refs: Vec<ParentReference>,
        use_default_gateways: Option<String>,
        hostnames: Vec<String>,
        rules: Vec<HttpRouteRule>,
    }
    /// `spec` of a GRPCRoute.
    GatewayGrpcRouteSpec {
        parent_refs: Vec<ParentReference>,
        use_default_gateways: Option<String>,
        hostnames: Vec<String>,
        rules: Vec<GrpcRouteRule>,
    }
    /// `spec` of a TLSRoute.
    GatewayTlsRouteSpec {
        parent_refs: Vec<ParentReference>,
        use_default_gateways: Option<String>,
        hostnames: Vec<String>,
        rules: Vec<ConnectionRouteRule>,
    }
    /// `spec` of a TCPRoute.
    GatewayTcpRouteSpec {
        parent_refs: Vec<ParentReference>,
        use_default_gateways: Option<String>,
        rules: Vec<ConnectionRouteRule>,
    }
    /// An entry of `rules` of a TLSRoute or TCPRoute.
    ConnectionRouteRule {
        name: Option<String>,
        backend_refs: Vec<ConnectionBackendRef>,
    }
    /// An entry of `backendRefs` of those.
    ConnectionBackendRef {
        group: Option<String>,
        kind: Option<String>,
        name: String,
        namespace: Option<String>,
        port: Option<i64>,
        weight: Option<i64>,
    }
    /// An entry of `parentRefs`.
    ParentReference {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
        section_name: Option<String>,
        port: Option<i64>,
    }
    /// An entry of `rules` of an HTTPRoute.
    HttpRouteRule {
        name: Option<String>,
        matches: Vec<HttpRouteMatch>,
        filters: Vec<HttpRouteFilter>,
        backend_refs: Vec<HttpBackendRef>,
        timeouts: Option<HttpRouteTimeouts>,
        retry: Option<HttpRouteRetry>,
        session_persistence: Option<IgnoredAny>,
    }
    /// An entry of `rules` of a GRPCRoute.
    GrpcRouteRule {
        name: Option<String>,
        matches: Vec<GrpcRouteMatch>,
        filters: Vec<GrpcRouteFilter>,
        backend_refs: Vec<GrpcBackendRef>,
        session_persistence: Option<IgnoredAny>,
    }
    /// An entry of `matches` of an HTTPRoute.
    HttpRouteMatch {
        path: Option<TypedMatch>,
        headers: Vec<NamedMatch>,
        query_params: Vec<NamedMatch>,
        method: Option<String>,
    }
    /// `path`.
    TypedMatch {
        r#type: Option<String>,
        value: Option<String>,
    }
    /// An entry of `headers` or `queryParams`.
    NamedMatch {
        r#type: Option<String>,
        name: String,
        value: Option<String>,
    }
    /// An entry of `matches` of a GRPCRoute.
    GrpcRouteMatch {
        method: Option<GrpcMethodMatch>,
        headers: Vec<NamedMatch>,
    }
    /// `method` of a GRPCRoute.
    GrpcMethodMatch {
        r#type: Option<String>,
        service: Option<String>,
        method: Option<String>,
    }
    /// An entry of `filters` of an HTTPRoute.
    HttpRouteFilter {
        r#type: String,
        request_header_modifier: Option<HeaderModifier>,
        response_header_modifier: Option<HeaderModifier>,
        request_mirror: Option<RequestMirror>,
        request_redirect: Option<RequestRedirect>,
        url_rewrite: Option<UrlRewrite>,
        cors: Option<CorsFilter>,
        external_auth: Option<IgnoredAny>,
        extension_ref: Option<IgnoredAny>,
    }
    /// An entry of `filters` of a GRPCRoute.
    GrpcRouteFilter {
        r#type: String,
        request_header_modifier: Option<HeaderModifier>,
        response_header_modifier: Option<HeaderModifier>,
        request_mirror: Option<RequestMirror>,
        extension_ref: Option<IgnoredAny>,
    }
    /// `requestHeaderModifier`, `responseHeaderModifier`.
    HeaderModifier {
        set: Vec<HttpHeader>,
        add: Vec<HttpHeader>,
        remove: Vec<String>,
    }
    /// An entry of `set` or `add`.
    HttpHeader {
        name: String,
        value: String,
    }
    /// `requestMirror`.
    RequestMirror {
        backend_ref: Option<BackendObjectReference>,
        percent: Option<i64>,
        fraction: Option<Fraction>,
    }
    /// `fraction`.
    Fraction {
        numerator: Option<i64>,
        denominator: Option<i64>,
    }
    /// `requestRedirect`.
    RequestRedirect {
        scheme: Option<String>,
        hostname: Option<String>,
        path: Option<PathModifier>,
        port: Option<i64>,
        status_code: Option<i64>,
    }
    /// `urlRewrite`.
    UrlRewrite {
        hostname: Option<String>,
        path: Option<PathModifier>,
    }
    /// `path` of a redirect or rewrite.
    PathModifier {
        r#type: String,
        replace_full_path: Option<String>,
        replace_prefix_match: Option<String>,
    }
    /// `cors`.
    CorsFilter {
        allow_origins: Vec<String>,
        allow_credentials: Option<bool>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<i64>,
    }
    /// `backendRef` of a mirror.
    BackendObjectReference {
        group: Option<String>,
        kind: Option<String>,
        name: String,
        namespace: Option<String>,
        port: Option<i64>,
    }
    /// An entry of `backendRefs` of an HTTPRoute.
    HttpBackendRef {
        group: Option<String>,
        kind: Option<String>,
        name: String,
        namespace: Option<String>,
        port: Option<i64>,
        weight: Option<i64>,
        filters: Vec<HttpRouteFilter>,
    }
    /// An entry of `backendRefs` of a GRPCRoute.
    GrpcBackendRef {
        group: Option<String>,
        kind: Option<String>,
        name: String,
        namespace: Option<String>,
        port: Option<i64>,
        weight: Option<i64>,
        filters: Vec<GrpcRouteFilter>,
    }
    /// `timeouts`.
    HttpRouteTimeouts {
        request: Option<String>,
        backend_request: Option<String>,
    }
    /// `retry`.
    HttpRouteRetry {
        codes: Vec<i64>,
        attempts: Option<i64>,
        backoff: Option<String>,
    }
    /// `spec` of a ReferenceGrant.
    ReferenceGrantSpec {
        from: Vec<ReferenceGrantFrom>,
        to: Vec<ReferenceGrantTo>,
    }
    /// An entry of `from`.
    ReferenceGrantFrom {
        group: String,
        kind: String,
        namespace: String,
    }
    /// An entry of `to`.
    ReferenceGrantTo {
        group: String,
        kind: String,
        name: Option<String>,
    }
}

impl From<&GrpcRouteFilter> for HttpRouteFilter {
    /// What a GRPCRoute's filter has, an HTTPRoute's has too.
    fn from(filter: &GrpcRouteFilter) -> Self {
        let GrpcRouteFilter {
            r#type,
            request_header_modifier,
            response_header_modifier,
            request_mirror,
            extension_ref,
        } = filter.clone();
        Self {
            r#type,
            request_header_modifier,
            response_header_modifier,
            request_mirror,
            extension_ref,
            ..Self::default()
        }
    }
}

impl From<&GrpcBackendRef> for HttpBackendRef {
    /// The same.
    fn from(backend: &GrpcBackendRef) -> Self {
        let GrpcBackendRef { group, kind, name, namespace, port, weight, filters } = backend.clone();
        let filters = filters.iter().map(Into::into).collect();
        Self { group, kind, name, namespace, port, weight, filters }
    }
}

impl From<&ConnectionBackendRef> for HttpBackendRef {
    /// The same, without filters.
    fn from(backend: &ConnectionBackendRef) -> Self {
        let ConnectionBackendRef { group, kind, name, namespace, port, weight } = backend.clone();
        Self { group, kind, name, namespace, port, weight, filters: Vec::new() }
    }
}
