//! The external authorizers of Istio's MeshConfig, from the ConfigMap `istio`. Every other ConfigMap is read for its name alone.
//!
//! What must hold: an authorizer that cannot be used as it is written is not there, with a problem that names the field. What its
//! policies match is refused then.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use underpass_core::{
    Kind,
    authz::{HeaderName, StringMatch},
    http::Host,
    objects::{Authorizer, MESH_CONFIG, MeshConfig},
};

use super::{Converted, Faults, FieldFault, Rejected, meta, syntax, traffic_value as value};
use crate::{
    Fault, Path, RouteFault,
    path::At,
    shapes::{self, ConfigValue},
    yaml::{self, ShapeError, with_unknown_fields},
};

/// The key with the MeshConfig.
const KEY: &str = "mesh";
/// Istio's default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Istio's default of `statusOnError`.
const FORBIDDEN: u16 = 403;
const REFUSED: &str = "what policies with this provider match is refused";

/// `v1 ConfigMap`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn mesh_config(shape: &shapes::ConfigMap) -> Result<Converted<MeshConfig>, Rejected> {
    let mut faults = Faults::default();
    let name = meta::object_name(Kind::MeshConfig, &shape.metadata, &mut faults);
    let text = shape.data.get(KEY).filter(|_| name.as_ref().is_some_and(|name| name.name() == MESH_CONFIG));
    let mut authorizers = Vec::new();
    if let Some(value) = text {
        let data = At::ROOT.field("data");
        let at = data.field(KEY);
        match value {
            ConfigValue::Text(text) => match read(text) {
                Ok(config) => authorizers = all(&config, &at, &mut faults),
                Err(FieldFault { field, fault }) => faults.push_below(&at, field, fault),
            },
            ConfigValue::Other(_) => faults.push(&at, value::malformed("", "a text in YAML")),
        }
    }
    faults.finish(name.map(|name| MeshConfig { name, authorizers }))
}

fn read(text: &str) -> Result<shapes::MeshConfig, FieldFault> {
    let of_whole = |fault| FieldFault { field: Path::default(), fault };
    let documents = yaml::documents(text.as_bytes()).map_err(of_whole)?;
    let Some(document) = documents.into_iter().next() else { return Ok(shapes::MeshConfig::default()) };
    match document.tree {
        Ok(Some(tree)) => {
            let read = with_unknown_fields(&tree);
            read.map(|(shape, _)| shape).map_err(|ShapeError { path, fault }| FieldFault { field: path, fault })
        }
        Ok(None) => Ok(shapes::MeshConfig::default()),
        Err(error) => Err(of_whole(Fault::Syntax { message: error.message })),
    }
}

/// Those that can be used.
fn all(config: &shapes::MeshConfig, at: &At<'_>, faults: &mut Faults) -> Vec<Authorizer> {
    let list = at.field("extensionProviders");
    let (mut names, mut all) = (BTreeSet::new(), Vec::new());
    for (i, provider) in config.extension_providers.iter().enumerate() {
        let at = list.index(i);
        if provider.envoy_ext_authz_grpc.is_some() {
            faults.push(&at.field("envoyExtAuthzGrpc"), Fault::FieldNotServed { instead: REFUSED });
        }
        let Some(http) = &provider.envoy_ext_authz_http else { continue };
        if provider.name.is_empty() {
            faults.push(&at.field("name"), Fault::Missing);
        } else if !names.insert(provider.name.as_str()) {
            let fault = RouteFault::DuplicateName { name: provider.name.as_str().into() };
            faults.push(&at.field("name"), fault.into());
        }
        let at = at.field("envoyExtAuthzHttp");
        let authorizer = authorizer(&provider.name, http, &at, faults);
        if http.include_request_body_in_check.is_some() {
            faults.push(&at.field("includeRequestBodyInCheck"), Fault::FieldNotServed { instead: REFUSED });
            continue;
        }
        all.extend(authorizer);
    }
    all
}

fn authorizer(name: &str, http: &shapes::HttpAuthorizer, at: &At<'_>, faults: &mut Faults) -> Option<Authorizer> {
    // The namespace is for hosts that several registries have: here there is one.
    let host = http.service.split_once('/').map_or(&*http.service, |(_, host)| host);
    let host = faults.check(&at.field("service"), one_host(host));
    let port = faults.check(&at.field("port"), syntax::port(http.port));
    let timeout = value::some_duration(http.timeout.as_ref(), &at.field("timeout"), faults).unwrap_or(TIMEOUT);
    let status = http.status_on_error.as_deref().map_or(Ok(FORBIDDEN), status);
    let status = faults.check(&at.field("statusOnError"), status);
    if !http.path_prefix.is_empty() && !http.path_prefix.starts_with('/') {
        faults.push(&at.field("pathPrefix"), value::malformed(&http.path_prefix, "a path: it begins with /"));
    }
    let mut names = |of: &[String], field: &str| names(of, &at.field(field), faults);
    let mut sends = names(&http.include_request_headers_in_check, "includeRequestHeadersInCheck");
    sends.extend(names(&http.include_headers_in_check, "includeHeadersInCheck"));
    let to_endpoint = names(&http.headers_to_upstream_on_allow, "headersToUpstreamOnAllow");
    let to_client_denied = names(&http.headers_to_downstream_on_deny, "headersToDownstreamOnDeny");
    let to_client_allowed = names(&http.headers_to_downstream_on_allow, "headersToDownstreamOnAllow");
    let adds_at = at.field("includeAdditionalHeadersInCheck");
    let mut adds = Vec::new();
    for (name, text) in &http.include_additional_headers_in_check {
        let at = adds_at.field(name);
        let is_value = text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
        match name.parse::<HeaderName>().ok().filter(|_| !name.starts_with(':')) {
            Some(name) if is_value => adds.push((name.as_str().into(), text.as_str().into())),
            Some(_) => {
                faults.push(&at, value::malformed(text, "the value of a header: text without control characters"))
            }
            None => faults.push(&at, value::malformed(name, "the name of a header")),
        }
    }
    Some(Authorizer {
        name: name.into(),
        host: host?,
        port: port?,
        timeout,
        fails_open: http.fail_open,
        status_on_error: status?,
        path_prefix: http.path_prefix.as_str().into(),
        sends,
        adds,
        to_endpoint,
        to_client_denied,
        to_client_allowed,
    })
}

fn one_host(text: &str) -> Result<Arc<str>, Fault> {
    match value::host(text)? {
        Host::Name(name) => Ok(name),
        Host::Any | Host::Below(_) => Err(value::malformed(text, "the host of one service, without a star")),
    }
}

fn status(text: &str) -> Result<u16, Fault> {
    let status = text.parse().ok().filter(|status| (200..=599).contains(status));
    status.ok_or_else(|| value::malformed(text, "a status of HTTP from 200 to 599"))
}

/// Names of headers: exact, `x*` or `*x`. HTTP knows them in lower case.
fn names(all: &[String], at: &At<'_>, faults: &mut Faults) -> Vec<StringMatch> {
    let one = |text: &str| match StringMatch::parse(&text.to_ascii_lowercase()) {
        StringMatch::Present => Err(value::malformed(text, "the name of a header, or its begin or end with a star")),
        _ if text.is_empty() => Err(Fault::Missing),
        name => Ok(name),
    };
    all.iter().enumerate().filter_map(|(i, text)| faults.check(&at.index(i), one(text))).collect()
}
