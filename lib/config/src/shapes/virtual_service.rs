//! VirtualServices: `networking.istio.io` v1, v1beta1 and v1alpha3, which have the same shape.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use super::ObjectMeta;

/// `VirtualService`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct VirtualService {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `spec`.
    pub spec: VirtualServiceSpec,
    /// `status`, not read.
    pub status: Option<IgnoredAny>,
}

/// Shapes whose fields are the API's, under their names.
macro_rules! shapes {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        #[allow(missing_docs, reason = "the fields are Istio's, under their names")]
        pub struct $name { $(pub $field: $type,)* }
    )* };
}
pub(super) use shapes;

shapes! {
    /// `spec` of a VirtualService.
    VirtualServiceSpec {
        hosts: Vec<String>,
        gateways: Vec<String>,
        http: Vec<HttpRoute>,
        tls: Vec<TlsRoute>,
        tcp: Vec<TcpRoute>,
        export_to: Vec<String>,
    }
    /// An entry of `http`.
    HttpRoute {
        name: Option<String>,
        r#match: Vec<HttpMatch>,
        route: Vec<HttpTarget>,
        redirect: Option<HttpRedirect>,
        direct_response: Option<DirectResponse>,
        delegate: Option<Delegate>,
        rewrite: Option<HttpRewrite>,
        timeout: Option<String>,
        retries: Option<HttpRetry>,
        fault: Option<HttpFault>,
        mirror: Option<Destination>,
        mirrors: Vec<Mirror>,
        mirror_percent: Option<i64>,
        mirror_percentage: Option<Percentage>,
        cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }
    /// An entry of `match`.
    HttpMatch {
        name: Option<String>,
        uri: Option<StringMatch>,
        scheme: Option<StringMatch>,
        method: Option<StringMatch>,
        authority: Option<StringMatch>,
        headers: BTreeMap<String, StringMatch>,
        port: Option<i64>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        query_params: BTreeMap<String, StringMatch>,
        ignore_uri_case: bool,
        without_headers: BTreeMap<String, StringMatch>,
        source_namespace: Option<String>,
        stat_prefix: Option<String>,
    }
    /// A condition on a text.
    StringMatch {
        exact: Option<String>,
        prefix: Option<String>,
        regex: Option<String>,
    }
    /// An entry of `route`.
    HttpTarget {
        destination: Option<Destination>,
        weight: Option<i64>,
        headers: Option<Headers>,
    }
    /// `destination`.
    Destination {
        host: String,
        subset: Option<String>,
        port: Option<PortSelector>,
    }
    /// `port`.
    PortSelector {
        number: Option<i64>,
    }
    /// `headers`.
    Headers {
        request: Option<HeaderOperations>,
        response: Option<HeaderOperations>,
    }
    /// Changes to headers.
    HeaderOperations {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }
    /// `redirect`.
    HttpRedirect {
        uri: Option<String>,
        authority: Option<String>,
        port: Option<i64>,
        derive_port: Option<String>,
        scheme: Option<String>,
        redirect_code: Option<i64>,
    }
    /// `directResponse`.
    DirectResponse {
        status: Option<i64>,
        body: Option<ResponseBody>,
    }
    /// `body`.
    ResponseBody {
        string: Option<String>,
        bytes: Option<String>,
    }
    /// `delegate`.
    Delegate {
        name: String,
        namespace: Option<String>,
    }
    /// `rewrite`.
    HttpRewrite {
        uri: Option<String>,
        authority: Option<String>,
        uri_regex_rewrite: Option<RegexRewrite>,
    }
    /// `uriRegexRewrite`.
    RegexRewrite {
        r#match: String,
        rewrite: String,
    }
    /// `retries`.
    HttpRetry {
        attempts: Option<i64>,
        per_try_timeout: Option<String>,
        retry_on: Option<String>,
        retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>,
        backoff: Option<String>,
    }
    /// `fault`.
    HttpFault {
        delay: Option<FaultDelay>,
        abort: Option<FaultAbort>,
    }
    /// `delay`.
    FaultDelay {
        percent: Option<i64>,
        percentage: Option<Percentage>,
        fixed_delay: Option<String>,
        exponential_delay: Option<String>,
    }
    /// `abort`.
    FaultAbort {
        http_status: Option<i64>,
        grpc_status: Option<String>,
        http2_error: Option<String>,
        percentage: Option<Percentage>,
    }
    /// A share of requests.
    Percentage {
        value: f64,
    }
    /// An entry of `mirrors`.
    Mirror {
        destination: Option<Destination>,
        percentage: Option<Percentage>,
    }
    /// `corsPolicy`.
    CorsPolicy {
        allow_origin: Vec<String>,
        allow_origins: Vec<StringMatch>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<String>,
        allow_credentials: Option<bool>,
        unmatched_preflights: Option<String>,
    }
    /// An entry of `tls`.
    TlsRoute {
        r#match: Vec<TlsMatch>,
        route: Vec<ConnectionTarget>,
    }
    /// An entry of its `match`.
    TlsMatch {
        sni_hosts: Vec<String>,
        destination_subnets: Vec<String>,
        port: Option<i64>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: Option<String>,
    }
    /// An entry of `tcp`.
    TcpRoute {
        r#match: Vec<TcpMatch>,
        route: Vec<ConnectionTarget>,
    }
    /// An entry of its `match`.
    TcpMatch {
        destination_subnets: Vec<String>,
        port: Option<i64>,
        source_subnet: Option<String>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: Option<String>,
    }
    /// An entry of `route`, of connections.
    ConnectionTarget {
        destination: Option<Destination>,
        weight: Option<i64>,
    }
}
