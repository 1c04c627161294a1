//! What both ends of a delta stream write and read in the same way.

use prost_types::Any;

use crate::{
    contract::envoy::service::discovery::v3 as discovery,
    resource::{ContentHash, Resource, ResourceKind},
};

/// The name that stands for all resources of a type.
pub(crate) const WILDCARD: &str = "*";

/// The feature (`Node.client_features`) of a client that understands responses which are a part of a state.
pub(crate) const PARTIAL: &str = "underpass.partial";

/// The message of one resource.
pub(crate) fn message(kind: ResourceKind, resource: &Resource) -> discovery::Resource {
    discovery::Resource {
        version: resource.version.to_string(),
        resource: Some(Any { type_url: kind.type_url().into(), value: resource.body.to_vec() }),
        name: resource.name.as_ref().into(),
        aliases: resource.aliases.iter().map(|alias| alias.as_ref().into()).collect(),
        ttl: None,
        cache_control: None,
    }
}

/// About the bytes of [`message`], at most a few too many.
pub(crate) fn size(kind: ResourceKind, resource: &Resource) -> usize {
    // Each field has a tag and a length of up to four bytes.
    let aliases: usize = resource.aliases.iter().map(|alias| alias.len().saturating_add(5)).sum();
    let names = resource.name.len().saturating_add(ContentHash::DIGITS).saturating_add(kind.type_url().len());
    resource.body.len().saturating_add(names).saturating_add(aliases).saturating_add(30)
}

/// One value for each kind of resources.
#[derive(Clone, Debug, Default)]
pub(crate) struct PerKind<T> {
    address: T,
    authorization: T,
}

impl<T> PerKind<T> {
    pub(crate) const fn of(&self, kind: ResourceKind) -> &T {
        match kind {
            ResourceKind::Address => &self.address,
            ResourceKind::Authorization => &self.authorization,
        }
    }

    pub(crate) const fn of_mut(&mut self, kind: ResourceKind) -> &mut T {
        match kind {
            ResourceKind::Address => &mut self.address,
            ResourceKind::Authorization => &mut self.authorization,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn the_size_of_a_resource_is_never_underestimated() {
        for body in [0, 1, 200, 20_000] {
            for aliases in [0, 1, 40] {
                let resource = Resource {
                    name: "cluster//Pod/default/reviews".into(),
                    aliases: (0..aliases).map(|alias| format!("network/10.0.0.{alias}").into()).collect(),
                    version: ContentHash::of(&[]),
                    body: vec![7; body].into(),
                };
                let encoded = message(ResourceKind::Address, &resource).encoded_len();
                let estimate = size(ResourceKind::Address, &resource);
                assert!((encoded..encoded + 200).contains(&estimate), "{estimate} for {encoded}");
            }
        }
    }
}
