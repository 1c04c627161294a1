//! `metadata` and everything made of labels.

use std::{collections::BTreeMap, sync::Arc};

use underpass_core::{Kind, ObjectName, labels::Labels, objects::Created, world::Distribution};

use super::{Faults, syntax};
use crate::{Fault, path::At, shapes::ObjectMeta};

/// `spec.trafficDistribution`, where that field does not exist: on namespaces, and in older clusters.
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
/// Its values.
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode", "Any"];
/// The values of the field.
pub(super) const FIELD_DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];

/// The namespace of an object that names none, as kubectl has it.
const DEFAULT_NAMESPACE: &str = "default";

/// The name of an object of a kind.
pub(crate) fn object_name(kind: Kind, meta: &ObjectMeta, faults: &mut Faults) -> Option<ObjectName> {
    let at = At::ROOT.field("metadata");
    let name = faults.check(
        &at.field("name"),
        match kind {
            Kind::Namespace => syntax::dns_label(&meta.name),
            Kind::Service => syntax::service_name(&meta.name),
            _ => syntax::dns_subdomain(&meta.name),
        },
    );
    if !kind.is_namespaced() {
        return name.map(ObjectName::cluster);
    }
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(DEFAULT_NAMESPACE);
    let namespace = faults.check(&at.field("namespace"), syntax::dns_label(namespace));
    Some(ObjectName::new(namespace?, name?))
}

/// When the object was made; an object that does not say counts as the newest.
pub(super) fn created(meta: &ObjectMeta, faults: &mut Faults) -> Option<Created> {
    match meta.creation_timestamp.as_deref().filter(|t| !t.is_empty()) {
        None => Some(Created::UNKNOWN),
        Some(text) => {
            let at = At::ROOT.field("metadata");
            faults.check(&at.field("creationTimestamp"), syntax::seconds(text)).map(Created)
        }
    }
}

/// `metadata.labels`.
pub(super) fn labels(meta: &ObjectMeta, faults: &mut Faults) -> Option<Labels> {
    label_map(&meta.labels, &At::ROOT.field("metadata").field("labels"), faults)
}

/// A map of labels: `labels`, `selector`, `matchLabels`.
pub(super) fn label_map(map: &BTreeMap<String, String>, at: &At<'_>, faults: &mut Faults) -> Option<Labels> {
    let pairs = map.iter().map(|(key, value)| {
        let at = at.field(key);
        let key = faults.check(&at, syntax::label_key(key));
        let value = faults.check(&at, syntax::label_value(value));
        key.zip(value)
    });
    // every pair is looked at before one that is missing counts
    let pairs: Vec<Option<(Arc<str>, Arc<str>)>> = pairs.collect();
    pairs.into_iter().collect()
}

/// Those of an object's annotations that `wanted` names; their values are free text.
pub(super) fn annotations(meta: &ObjectMeta, wanted: &[&str]) -> Labels {
    let known = meta.annotations.iter().filter(|(key, _)| wanted.contains(&key.as_str()));
    known.collect()
}

/// An annotation that says yes or no, in one of `words` (no first).
pub(super) fn switch(
    meta: &ObjectMeta,
    key: &str,
    words: (&[&str], &[&str]),
    known: &'static [&'static str],
    faults: &mut Faults,
) -> bool {
    let Some(value) = meta.annotations.get(key) else { return false };
    let (no, yes) = words;
    if !no.contains(&value.as_str()) && !yes.contains(&value.as_str()) {
        let at = At::ROOT.field("metadata");
        faults.push(&at.field("annotations").field(key), Fault::Value { found: value.as_str().into(), known });
    }
    yes.contains(&value.as_str())
}

/// The annotation that says how near connections prefer to stay. Istio reads it in any case of its letters.
pub(super) fn distribution(meta: &ObjectMeta, faults: &mut Faults) -> Option<Distribution> {
    let value = meta.annotations.get(DISTRIBUTION)?;
    let at = At::ROOT.field("metadata");
    let known = DISTRIBUTIONS.iter().find(|k| k.eq_ignore_ascii_case(value)).copied();
    read_distribution(known.unwrap_or(value), DISTRIBUTIONS, &at.field("annotations").field(DISTRIBUTION), faults)
}

/// One of `known`. It is a wish, and no reason to be without the object that has it.
pub(super) fn read_distribution(
    text: &str,
    known: &'static [&'static str],
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<Distribution> {
    match text {
        "PreferClose" | "PreferSameZone" => Some(Distribution::SameZone),
        "PreferSameNode" => Some(Distribution::SameNode),
        "Any" if known.contains(&"Any") => Some(Distribution::Any),
        found => {
            let instead = "connections go to endpoints anywhere";
            faults.push(at, Fault::ValueIgnored { found: found.into(), known, instead });
            None
        }
    }
}
