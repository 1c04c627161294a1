//! `ConfigMap`, of which `data.mesh` is read where its name is `istio`: Istio's MeshConfig (`istio.mesh.v1alpha1`), as far as it names
//! external authorizers.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use super::ObjectMeta;

/// `v1 ConfigMap`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `data`.
    pub data: BTreeMap<String, ConfigValue>,
    /// `binaryData`, not read.
    pub binary_data: Option<IgnoredAny>,
    /// `immutable`, not read.
    pub immutable: Option<IgnoredAny>,
}

/// A value of `data`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum ConfigValue {
    /// As it should be.
    Text(String),
    /// What no API server takes.
    Other(IgnoredAny),
}

/// `data.mesh`. It has many fields more.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// `extensionProviders`.
    pub extension_providers: Vec<ExtensionProvider>,
}

/// An entry of `extensionProviders`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProvider {
    /// `name`.
    pub name: String,
    /// `envoyExtAuthzHttp`.
    pub envoy_ext_authz_http: Option<HttpAuthorizer>,
    /// `envoyExtAuthzGrpc`, not read.
    pub envoy_ext_authz_grpc: Option<IgnoredAny>,
}

/// `envoyExtAuthzHttp`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpAuthorizer {
    /// `service`: `host` or `namespace/host`.
    pub service: String,
    /// `port`.
    pub port: i64,
    /// `timeout`.
    pub timeout: Option<String>,
    /// `pathPrefix`.
    pub path_prefix: String,
    /// `failOpen`.
    pub fail_open: bool,
    /// `statusOnError`.
    pub status_on_error: Option<String>,
    /// `includeRequestHeadersInCheck`.
    pub include_request_headers_in_check: Vec<String>,
    /// `includeHeadersInCheck`, its older name.
    pub include_headers_in_check: Vec<String>,
    /// `includeAdditionalHeadersInCheck`.
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    /// `includeRequestBodyInCheck`, not read.
    pub include_request_body_in_check: Option<IgnoredAny>,
    /// `headersToUpstreamOnAllow`.
    pub headers_to_upstream_on_allow: Vec<String>,
    /// `headersToDownstreamOnDeny`.
    pub headers_to_downstream_on_deny: Vec<String>,
    /// `headersToDownstreamOnAllow`.
    pub headers_to_downstream_on_allow: Vec<String>,
    /// `clearRouteCache`, not read: routes are found after it has answered.
    pub clear_route_cache: Option<IgnoredAny>,
}
