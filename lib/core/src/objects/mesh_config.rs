//! Istio's MeshConfig, as the ConfigMap `istio` of the root namespace has it: of it the external authorizers that policies of action
//! CUSTOM name.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{ObjectName, authz::StringMatch};

/// The ConfigMap's name.
pub const MESH_CONFIG: &str = "istio";

/// A ConfigMap. One of another name than [`MESH_CONFIG`] has no authorizers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeshConfig {
    /// namespace/name.
    pub name: ObjectName,
    /// Of `extensionProviders`, those of `envoyExtAuthzHttp`; no two of one name.
    pub authorizers: Vec<Authorizer>,
}

/// An external authorizer by HTTP (`extensionProviders[].envoyExtAuthzHttp`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Authorizer {
    /// `name`.
    pub name: Arc<str>,
    /// The host of `service`, in lower case.
    pub host: Arc<str>,
    /// `port`.
    pub port: u16,
    /// `timeout`.
    pub timeout: Duration,
    /// `failOpen`: what it cannot be asked about passes.
    pub fails_open: bool,
    /// `statusOnError`: the answer to what it cannot be asked about.
    pub status_on_error: u16,
    /// `pathPrefix`, before the path of the request; empty: none.
    pub path_prefix: Arc<str>,
    /// `includeRequestHeadersInCheck`, of the request.
    pub sends: Vec<StringMatch>,
    /// `includeAdditionalHeadersInCheck`: names in lower case, and values.
    pub adds: Vec<(Arc<str>, Arc<str>)>,
    /// `headersToUpstreamOnAllow`, of its answer.
    pub to_endpoint: Vec<StringMatch>,
    /// `headersToDownstreamOnDeny`; none: all.
    pub to_client_denied: Vec<StringMatch>,
    /// `headersToDownstreamOnAllow`.
    pub to_client_allowed: Vec<StringMatch>,
}
