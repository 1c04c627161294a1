//! AuthorizationPolicies: action, scope and rules ([`super::rule`]). Anything that cannot be understood is an error,
//! never a policy without it.

use std::sync::Arc;

use underpass_core::{
    Kind,
    world::{Action, AuthorizationPolicy, Scope},
};

use super::{Converted, Faults, Rejected, meta, rule, syntax};
use crate::{Fault, path::At, shapes};

/// Logged and counted, never enforced.
pub(super) const DRY_RUN: &str = "istio.io/dry-run";
/// As Go's `strconv.ParseBool`, which Istio reads it with.
const FALSE: [&str; 6] = ["false", "False", "FALSE", "0", "f", "F"];
pub(super) const TRUE: [&str; 6] = ["true", "True", "TRUE", "1", "t", "T"];

const ACTIONS: &[&str] = &["ALLOW", "DENY"];

/// `security.istio.io AuthorizationPolicy`.
///
/// # Errors
/// All of its faults.
pub fn authorization_policy(shape: &shapes::AuthorizationPolicy) -> Result<Converted<AuthorizationPolicy>, Rejected> {
    let mut faults = Faults::default();
    let at = At::ROOT.field("spec");
    let spec = &shape.spec;
    let name = meta::object_name(Kind::AuthorizationPolicy, &shape.metadata, &mut faults);
    meta::labels(&shape.metadata, &mut faults);
    let namespace = name.as_ref().map_or("", |n| n.namespace());
    let action = action(spec.action.as_deref(), &at.field("action"), &mut faults);
    if spec.provider.is_some() && spec.action.as_deref() != Some("CUSTOM") {
        faults.push(&at.field("provider"), Fault::Provider);
    }
    let scope = scope(spec, namespace, &at, &mut faults);
    let list = at.field("rules");
    let rules = spec.rules.iter().enumerate();
    let rules = rules.map(|(i, r)| rule::rule(r, namespace, &list.index(i), &mut faults)).collect();
    let dry_run = meta::switch(&shape.metadata, DRY_RUN, (&FALSE, &TRUE), &["true", "false"], &mut faults);
    let policy = || Some(AuthorizationPolicy { scope: scope?, action: action?, rules, dry_run, name: name.clone()? });
    let policy = policy();
    faults.finish(policy)
}

fn action(text: Option<&str>, at: &At<'_>, faults: &mut Faults) -> Option<Action> {
    let fault = match text {
        None | Some("ALLOW") => return Some(Action::Allow),
        Some("DENY") => return Some(Action::Deny),
        Some("CUSTOM") => Fault::ActionNotServed { action: "CUSTOM" },
        Some("AUDIT") => Fault::ActionNotServed { action: "AUDIT" },
        Some(found) => Fault::Value { found: found.into(), known: ACTIONS },
    };
    faults.push(at, fault);
    None
}

fn scope(spec: &shapes::AuthorizationPolicySpec, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<Scope> {
    let selector = spec.selector.as_ref().map(|s| {
        let at = at.field("selector");
        meta::label_map(&s.match_labels, &at.field("matchLabels"), faults)
    });
    let (one, many) = (at.field("targetRef"), at.field("targetRefs"));
    let mut targets: Vec<String> = Vec::new();
    if let Some(target) = &spec.target_ref {
        targets.extend(target_name(target, namespace, &one, faults));
    }
    for (i, target) in spec.target_refs.iter().flatten().enumerate() {
        targets.extend(target_name(target, namespace, &many.index(i), faults));
    }
    if spec.target_refs.as_ref().is_some_and(Vec::is_empty) {
        faults.push(&many, Fault::EmptyList);
    }
    let has_targets = spec.target_ref.is_some() || spec.target_refs.is_some();
    if spec.target_ref.is_some() && spec.target_refs.is_some() {
        faults.push(&many, Fault::Exclusive { other: "targetRef" });
    }
    if has_targets && selector.is_some() {
        let other = if spec.target_ref.is_some() { "targetRef" } else { "targetRefs" };
        faults.push(&at.field("selector"), Fault::Exclusive { other });
    }
    match selector {
        _ if has_targets => Some(Scope::Targets(targets)),
        // an empty selector is the whole namespace, as no selector is
        Some(labels) => labels.map(|l| if l.is_empty() { Scope::Namespace } else { Scope::Selector(l) }),
        None => Some(Scope::Namespace),
    }
}

fn target_name(
    target: &shapes::PolicyTargetReference,
    namespace: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<String> {
    let name: Option<Arc<str>> = faults.check(&at.field("name"), syntax::dns_subdomain(&target.name));
    if target.kind.is_empty() {
        faults.push(&at.field("kind"), Fault::Missing);
    }
    if let Some(other) = target.namespace.as_deref().filter(|n| !n.is_empty() && *n != namespace) {
        faults.push(&at.field("namespace"), Fault::OtherNamespace { found: other.into() });
    }
    name.map(|name| format!("{} {name}", target.kind))
}
