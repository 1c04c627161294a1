//! Resources for tests.

use std::sync::Arc;

use bytes::Bytes;
use underpass_core::Kind;
use underpass_door::Reached;

use crate::{
    contract::envoy::service::discovery::v3::DeltaDiscoveryResponse,
    resource::{Resource, ResourceKind, Resources},
};

/// A resource whose body is its version.
pub(crate) fn resource(name: &str, version: &str, aliases: &[&str]) -> Resource {
    Resource {
        name: name.into(),
        aliases: aliases.iter().map(|alias| Arc::from(*alias)).collect(),
        version: version.into(),
        body: Bytes::copy_from_slice(version.as_bytes()),
    }
}

/// All resources of a moment: the version of the source, which is that of pods, addresses, authorizations.
pub(crate) fn resources(
    source: &str,
    addresses: impl IntoIterator<Item = Resource>,
    authorizations: impl IntoIterator<Item = Resource>,
) -> Resources {
    let map = |one: Resource| (one.name.clone(), Arc::new(one));
    let reached = |known| (Kind::Pod, Reached { known, changed: known });
    Resources {
        versions: source.parse().ok().map(reached).into_iter().collect(),
        addresses: addresses.into_iter().map(map).collect(),
        authorizations: authorizations.into_iter().map(map).collect(),
        source: source.into(),
    }
}

/// A response in one line: nonce, kind, version of the source, resources, removals.
pub(crate) fn show(response: &DeltaDiscoveryResponse) -> String {
    let kind = ResourceKind::of(&response.type_url);
    let kind = kind.map_or_else(|| response.type_url.clone(), |kind| format!("{kind:?}"));
    let mut text = format!("{} {kind} @{}", response.nonce, response.system_version_info);
    for resource in &response.resources {
        let body = resource.resource.as_ref().map(|any| String::from_utf8_lossy(&any.value));
        assert_eq!(body.as_deref(), Some(resource.version.as_str()), "a body is its version here");
        text.push_str(&format!(" {}={}", resource.name, resource.version));
    }
    for name in &response.removed_resources {
        text.push_str(&format!(" -{name}"));
    }
    text + if response.underpass_partial { " partial" } else { "" }
}
