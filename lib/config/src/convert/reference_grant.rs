//! ReferenceGrants of the Gateway API.

use std::sync::Arc;

use underpass_core::{
    Kind,
    objects::{GrantFrom, GrantTo, ReferenceGrant},
};

use super::{Converted, Faults, Rejected, meta, syntax};
use crate::{Fault, path::At, shapes};

/// `gateway.networking.k8s.io ReferenceGrant`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn reference_grant(shape: &shapes::ReferenceGrant) -> Result<Converted<ReferenceGrant>, Rejected> {
    let mut faults = Faults::default();
    let at = At::ROOT.field("spec");
    let name = meta::object_name(Kind::ReferenceGrant, &shape.metadata, &mut faults);
    let (from_at, to_at) = (at.field("from"), at.field("to"));
    for (is_empty, at) in [(shape.spec.from.is_empty(), &from_at), (shape.spec.to.is_empty(), &to_at)] {
        if is_empty {
            faults.push(at, Fault::Missing);
        }
    }
    let mut from = Vec::new();
    for (i, one) in shape.spec.from.iter().enumerate() {
        let at = from_at.index(i);
        let (group, kind) = (group(&one.group, &at, &mut faults), kind(&one.kind, &at, &mut faults));
        let namespace = faults.check(&at.field("namespace"), syntax::dns_label(&one.namespace));
        let read = || Some(GrantFrom { group: group?, kind: kind?, namespace: namespace? });
        from.extend(read());
    }
    let mut to = Vec::new();
    for (i, one) in shape.spec.to.iter().enumerate() {
        let at = to_at.index(i);
        let (group, kind) = (group(&one.group, &at, &mut faults), kind(&one.kind, &at, &mut faults));
        let name = one.name.as_deref().filter(|name| !name.is_empty());
        let name = name.map(|name| faults.check(&at.field("name"), syntax::dns_subdomain(name)));
        let read =
            || Some(GrantTo { group: group?, kind: kind?, name: name.map_or(Some(None), |name| name.map(Some))? });
        to.extend(read());
    }
    faults.finish(name.map(|name| ReferenceGrant { name, from, to }))
}

/// An API group; empty: Kubernetes' own.
pub(super) fn group(text: &str, at: &At<'_>, faults: &mut Faults) -> Option<Arc<str>> {
    if text.is_empty() {
        return Some(text.into());
    }
    faults.check(&at.field("group"), syntax::dns_subdomain(text))
}

pub(super) fn kind(text: &str, at: &At<'_>, faults: &mut Faults) -> Option<Arc<str>> {
    let is_good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let expected = "a kind: up to 63 of A-Z a-z 0-9 -";
    let read = match text {
        "" => Err(Fault::Missing),
        _ if is_good && text.len() <= 63 => Ok(text.into()),
        _ => Err(super::traffic_value::malformed(text, expected)),
    };
    faults.check(&at.field("kind"), read)
}
