//! Labels and selectors, which objects have and a policy's scope shows. Its own file because objects and facts share
//! it.

use std::{collections::BTreeMap, sync::Arc};

/// Labels or annotations, ordered.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Whether `labels` has every pair of `selector`. An empty selector selects everything.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}
