//! AuthorizationPolicies: action, scope and rules ([`super::rule`]). Anything that cannot be understood is an error,
//! never a policy without it.

use std::sync::Arc;

use underpass_core::{
    Kind,
    world::{Action, AuthorizationPolicy, PolicyTarget, Scope, TargetKind},
};

use super::{Converted, Faults, Rejected, meta, rule, syntax};
use crate::{Fault, path::At, shapes};

/// Logged and counted, never enforced.
pub(super) const DRY_RUN: &str = "istio.io/dry-run";
/// As Go's `strconv.ParseBool`, which Istio reads it with.
const FALSE: [&str; 6] = ["false", "False", "FALSE", "0", "f", "F"];
pub(super) const TRUE: [&str; 6] = ["true", "True", "TRUE", "1", "t", "T"];

const ACTIONS: &[&str] = &["ALLOW", "DENY", "CUSTOM", "AUDIT"];

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
    let provider = provider(spec, action, &at.field("provider"), &mut faults);
    let scope = ScopeShape {
        selector: spec.selector.as_ref(),
        target: spec.target_ref.as_ref(),
        targets: spec.target_refs.as_ref(),
    };
    let scope = self::scope(&scope, namespace, &at, &mut faults);
    let list = at.field("rules");
    let rules = spec.rules.iter().enumerate();
    let rules = rules.map(|(i, r)| rule::rule(r, namespace, &list.index(i), &mut faults)).collect();
    let dry_run = meta::switch(&shape.metadata, DRY_RUN, (&FALSE, &TRUE), &["true", "false"], &mut faults);
    let policy = || {
        Some(AuthorizationPolicy {
            scope: scope?,
            action: action?,
            provider: provider?,
            rules,
            dry_run,
            name: name.clone()?,
        })
    };
    let policy = policy();
    faults.finish(policy)
}

fn action(text: Option<&str>, at: &At<'_>, faults: &mut Faults) -> Option<Action> {
    let fault = match text {
        None | Some("ALLOW") => return Some(Action::Allow),
        Some("DENY") => return Some(Action::Deny),
        Some("CUSTOM") => return Some(Action::Custom),
        Some("AUDIT") => return Some(Action::Audit),
        Some(found) => Fault::Value { found: found.into(), known: ACTIONS },
    };
    faults.push(at, fault);
    None
}

/// `provider`, which CUSTOM has and no other action. None: it is wrong.
fn provider(
    spec: &shapes::AuthorizationPolicySpec,
    action: Option<Action>,
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<Option<Arc<str>>> {
    let name = spec.provider.as_ref().map(|provider| provider.name.as_str());
    match (action?, name) {
        (Action::Custom, Some(name)) if !name.is_empty() => Some(Some(name.into())),
        (Action::Custom, _) => {
            faults.push(&at.field("name"), Fault::Missing);
            None
        }
        (_, None) => Some(None),
        (_, Some(_)) => {
            faults.push(at, Fault::Provider);
            None
        }
    }
}

/// The three fields by which policies say what they are about.
pub(super) struct ScopeShape<'s> {
    pub(super) selector: Option<&'s shapes::WorkloadSelector>,
    pub(super) target: Option<&'s shapes::PolicyTargetReference>,
    pub(super) targets: Option<&'s Vec<shapes::PolicyTargetReference>>,
}

pub(super) fn scope(spec: &ScopeShape<'_>, namespace: &str, at: &At<'_>, faults: &mut Faults) -> Option<Scope> {
    let selector = spec.selector.map(|s| {
        let at = at.field("selector");
        meta::label_map(&s.match_labels, &at.field("matchLabels"), faults)
    });
    let (one, many) = (at.field("targetRef"), at.field("targetRefs"));
    let mut targets = Vec::new();
    if let Some(target) = spec.target {
        targets.extend(target_of(target, namespace, &one, faults));
    }
    for (i, target) in spec.targets.into_iter().flatten().enumerate() {
        targets.extend(target_of(target, namespace, &many.index(i), faults));
    }
    if spec.targets.is_some_and(Vec::is_empty) {
        faults.push(&many, Fault::EmptyList);
    }
    let has_targets = spec.target.is_some() || spec.targets.is_some();
    if spec.target.is_some() && spec.targets.is_some() {
        faults.push(&many, Fault::Exclusive { other: "targetRef" });
    }
    if has_targets && selector.is_some() {
        let other = if spec.target.is_some() { "targetRef" } else { "targetRefs" };
        faults.push(&at.field("selector"), Fault::Exclusive { other });
    }
    match selector {
        _ if has_targets => Some(Scope::Targets(targets)),
        // an empty selector is the whole namespace, as no selector is
        Some(labels) => labels.map(|l| if l.is_empty() { Scope::Namespace } else { Scope::Selector(l) }),
        None => Some(Scope::Namespace),
    }
}

/// One entry of `targetRefs`, of an object in this namespace.
pub(super) fn target_of(
    target: &shapes::PolicyTargetReference,
    namespace: &str,
    at: &At<'_>,
    faults: &mut Faults,
) -> Option<PolicyTarget> {
    let name: Option<Arc<str>> = faults.check(&at.field("name"), syntax::dns_subdomain(&target.name));
    let (group, kind) = (target.group.as_deref().unwrap_or_default(), &*target.kind);
    let kind = match TargetKind::parse(group, kind) {
        _ if kind.is_empty() => Err(Fault::Missing),
        Some(known) => Ok(known),
        None => Err(Fault::Value { found: format!("{group} {kind}").trim().into(), known: TargetKind::KNOWN }),
    };
    let kind = faults.check(&at.field("kind"), kind);
    if let Some(other) = target.namespace.as_deref().filter(|n| !n.is_empty() && *n != namespace) {
        faults.push(&at.field("namespace"), Fault::OtherNamespace { found: other.into() });
    }
    Some(PolicyTarget { kind: kind?, name: name? })
}
