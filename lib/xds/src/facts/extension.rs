//! Extensions of our own in Istio's messages.

use prost::Message;
use prost_types::Any;

use crate::contract::{
    istio::workload::Extension,
    underpass::v1::{PolicyExtension, ServiceExtension, WorkloadExtension},
};

/// The name of all of them.
const NAME: &str = "underpass.dev";

/// A message that is the content of an extension.
pub(super) trait Content: Message + Default + PartialEq {
    /// The type URL.
    const TYPE: &str;
}

impl Content for WorkloadExtension {
    const TYPE: &str = "type.googleapis.com/underpass.v1.WorkloadExtension";
}

impl Content for ServiceExtension {
    const TYPE: &str = "type.googleapis.com/underpass.v1.ServiceExtension";
}

impl Content for PolicyExtension {
    const TYPE: &str = "type.googleapis.com/underpass.v1.PolicyExtension";
}

/// The list of extensions with this content; empty, where it says nothing.
pub(super) fn pack<M: Content>(content: &M) -> Vec<Extension> {
    if *content == M::default() {
        return Vec::new();
    }
    let config = Any { type_url: M::TYPE.into(), value: content.encode_to_vec() };
    vec![Extension { name: NAME.into(), config: Some(config) }]
}

/// The bytes of ours among extensions.
pub(super) fn find<M: Content>(all: &[Extension]) -> Option<&[u8]> {
    let ours = all.iter().filter(|extension| extension.name == NAME).filter_map(|e| e.config.as_ref());
    ours.filter(|any| any.type_url == M::TYPE).map(|any| &*any.value).next()
}

/// Ours among extensions. One that cannot be read counts as none: what stands beside it never widens access.
pub(super) fn unpack<M: Content>(all: &[Extension]) -> Option<M> {
    M::decode(find::<M>(all)?).ok()
}
