//! What L4 makes of a rule with fields that only a waypoint can judge. Such a rule must never widen access:
//!
//! * an ALLOW rule with L7 fields does not match;
//! * a DENY rule with L7 fields matches whatever its L4 part matches, also when that part is empty.
//!
//! This is stricter than Istio, where such a DENY can become a no-op; hence the denial names the fields.

use std::sync::Arc;

use super::{Request, Rule};
use crate::world::{Action, MeshSettings};

/// What a rule of a policy with `action` says about a request at L4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    No,
    Yes,
    /// An ALLOW rule that could have matched, had a waypoint judged these fields.
    NotWithout(Vec<Arc<str>>),
    /// A DENY rule that matched the stricter way, because nobody judged these fields.
    Stricter(Vec<Arc<str>>),
}

pub(super) fn match_rule(settings: &MeshSettings, action: Action, rule: &Rule, request: &Request<'_>) -> Matched {
    if !rule.l4_matches(settings, request) {
        return Matched::No;
    }
    match (rule.l7_fields(), action) {
        (fields, _) if fields.is_empty() => Matched::Yes,
        (fields, Action::Allow) => Matched::NotWithout(fields),
        (fields, Action::Deny) => Matched::Stricter(fields),
    }
}
