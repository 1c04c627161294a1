//! Resources for tests.

use std::sync::Arc;

use underpass_core::Kind;
use underpass_door::Reached;

use crate::{
    contract::envoy::service::discovery::v3::DeltaDiscoveryResponse,
    resource::{ContentHash, Resource, ResourceKind, Resources},
};

/// A resource with this text as its body.
pub(crate) fn resource(name: &str, body: &str, aliases: &[&str]) -> Resource {
    Resource {
        name: name.into(),
        aliases: aliases.iter().map(|alias| Arc::from(*alias)).collect(),
        version: ContentHash::of(body.as_bytes()),
        body: body.as_bytes().into(),
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

/// A response in one line: nonce, kind, version of the source, resources with their bodies, removals.
pub(crate) fn show(response: &DeltaDiscoveryResponse) -> String {
    let kind = ResourceKind::of(&response.type_url);
    let kind = kind.map_or_else(|| response.type_url.clone(), |kind| format!("{kind:?}"));
    let mut text = format!("{} {kind} @{}", response.nonce, response.system_version_info);
    for resource in &response.resources {
        let body = resource.resource.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        assert!(ContentHash::of(body).is(&resource.version), "{resource:?}");
        text.push_str(&format!(" {}={}", resource.name, String::from_utf8_lossy(body)));
    }
    for name in &response.removed_resources {
        text.push_str(&format!(" -{name}"));
    }
    text + if response.underpass_partial { " partial" } else { "" }
}
