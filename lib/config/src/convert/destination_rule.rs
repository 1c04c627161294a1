//! DestinationRules: the host, its subsets, and a traffic policy at each level.

use std::collections::BTreeSet;

use underpass_core::{
    Kind,
    objects::{DestinationRule, Subset},
};

use super::{Converted, Faults, Rejected, meta, traffic_policy, traffic_value as value, virtual_service::subset_name};
use crate::{RouteFault, path::At, shapes};

/// The most subsets of a host.
const MAX_SUBSETS: usize = 1000;

/// `networking.istio.io DestinationRule`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn destination_rule(shape: &shapes::DestinationRule) -> Result<Converted<DestinationRule>, Rejected> {
    let mut faults = Faults::default();
    let (spec, at) = (&shape.spec, At::ROOT.field("spec"));
    let name = meta::object_name(Kind::DestinationRule, &shape.metadata, &mut faults);
    meta::labels(&shape.metadata, &mut faults);
    let created = meta::created(&shape.metadata, &mut faults);
    let host = faults.check(&at.field("host"), value::host(&spec.host));
    let policy = traffic_policy::policy(spec.traffic_policy.as_ref(), &at, &mut faults);
    let subsets_at = at.field("subsets");
    if spec.subsets.len() > MAX_SUBSETS {
        faults.push(&subsets_at, RouteFault::TooManyEntries { max: MAX_SUBSETS }.into());
        return faults.finish(None);
    }
    let (mut names, mut subsets) = (BTreeSet::new(), Vec::new());
    for (i, subset) in spec.subsets.iter().enumerate() {
        let at = subsets_at.index(i);
        let name = faults.check(&at.field("name"), subset_name(&subset.name));
        if !names.insert(&*subset.name) {
            faults.push(&at.field("name"), RouteFault::DuplicateName { name: subset.name.as_str().into() }.into());
        }
        let labels = meta::label_map(&subset.labels, &at.field("labels"), &mut faults);
        let policy = traffic_policy::policy(subset.traffic_policy.as_ref(), &at, &mut faults);
        subsets.extend(name.zip(labels).map(|(name, labels)| Subset { name, labels, policy }));
    }
    let export_to = value::export_to(&spec.export_to, &at.field("exportTo"), &mut faults);
    let selector = spec.workload_selector.as_ref();
    let callers = selector.and_then(|selector| {
        let at = at.field("workloadSelector");
        meta::label_map(&selector.match_labels, &at.field("matchLabels"), &mut faults)
    });
    let object =
        || Some(DestinationRule { name: name?, created: created?, host: host?, policy, subsets, export_to, callers });
    let object = object();
    faults.finish(object)
}
