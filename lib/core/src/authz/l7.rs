//! Rules with fields that only a waypoint can judge, as L4 evaluates them. Such a rule must never widen access:
//!
//! * an ALLOW rule with L7 fields does not match;
//! * a DENY rule with L7 fields matches all that its L4 part matches, also when that part is empty, and so does every rule of a
//!   CUSTOM policy, whose provider a waypoint asks.
//!
//! What a waypoint carries on for a source that it names has been judged there: then the L4 part is all that is left of an
//! ALLOW rule, and a rule of the others does not match. Only waypoints of ours name a source, and only those that are before the
//! workload are believed.
//!
//! This is stricter than Istio, where such a DENY can become a no-op; hence the denial names the fields.

use std::sync::Arc;

use super::{Request, Rule};
use crate::world::{Action, MeshSettings};

/// The result of a rule for a request at L4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    No,
    Yes,
    /// An ALLOW rule that could have matched, had a waypoint judged these fields.
    NotWithout(Vec<Arc<str>>),
    /// A rule that refuses, and matched without these fields, which no waypoint judged.
    Stricter(Vec<Arc<str>>),
}

pub(super) fn match_rule(settings: &MeshSettings, action: Action, rule: &Rule, request: &Request<'_>) -> Matched {
    if !rule.l4_matches(settings, request.ends()) {
        return Matched::No;
    }
    let is_judged = request.peer.via.is_some();
    match (rule.l7_fields(), action) {
        (_, Action::Audit) => Matched::No,
        (_, Action::Custom) if is_judged => Matched::No,
        (mut fields, Action::Custom) => {
            fields.insert(0, Action::Custom.as_str().into());
            Matched::Stricter(fields)
        }
        (fields, _) if fields.is_empty() => Matched::Yes,
        (_, Action::Allow) if is_judged => Matched::Yes,
        (_, Action::Deny) if is_judged => Matched::No,
        (fields, Action::Allow) => Matched::NotWithout(fields),
        (fields, Action::Deny) => Matched::Stricter(fields),
    }
}
