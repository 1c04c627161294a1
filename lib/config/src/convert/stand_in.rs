//! Stand-ins for security policies that cannot be understood and have no good version: without one, traffic that the
//! author wanted to block would pass, and a restart would turn a mistake into an open door.
//!
//! An AuthorizationPolicy is replaced by one that denies everything it selects or targets, a PeerAuthentication by STRICT.
//! Where the selector itself cannot be read, that is the whole namespace; of targets those that can be read, and never a
//! namespace. Left out are policies that never decide anything: AUDIT, and dry runs.

use std::collections::BTreeMap;

use underpass_core::{
    Kind, ObjectName,
    authz::Rule,
    labels::Labels,
    objects::{Created, MtlsMode, Object, PeerAuthentication},
    world::{Action, AuthorizationPolicy, Scope},
};

use super::{
    Faults, meta,
    policy::{DRY_RUN, TRUE, target_of},
};
use crate::{
    path::At,
    shapes::WorkloadSelector,
    yaml::{Tree, Value, from_tree},
};

/// The replacement for the object of this kind and name, where there is one.
pub(crate) fn stand_in(kind: Kind, name: ObjectName, tree: &Tree) -> Option<Object> {
    match kind {
        Kind::AuthorizationPolicy => {
            let scope = decides(tree).then(|| scope(tree, name.namespace()))??;
            let rules = vec![Rule::default()]; // matches everything
            Some(
                AuthorizationPolicy { name, scope, action: Action::Deny, provider: None, rules, dry_run: false }.into(),
            )
        }
        Kind::PeerAuthentication => {
            let (selector, mode, ports, created) =
                (selector(tree), MtlsMode::Strict, BTreeMap::new(), Created::UNKNOWN);
            Some(PeerAuthentication { name, selector, mode, ports, created }.into())
        }
        _ => None,
    }
}

fn decides(tree: &Tree) -> bool {
    let spec = |field| tree.field("spec").and_then(|s| s.field(field));
    let dry_run = tree.field("metadata").and_then(|m| m.field("annotations")).and_then(|a| a.field(DRY_RUN));
    !matches!(spec("action").and_then(Tree::text), Some("AUDIT"))
        && !dry_run.is_some_and(|value| says_yes(&value.value))
}

/// Also `istio.io/dry-run: true` without quotes, which is not a valid annotation, means a dry run.
fn says_yes(value: &Value) -> bool {
    match value {
        Value::Text(text) => TRUE.contains(&text.as_str()),
        Value::Bool(yes) => *yes,
        Value::Int(n) => *n == 1,
        Value::Null | Value::Float(_) | Value::List(_) | Value::Map(_) => false,
    }
}

/// A line of an object that cannot be parsed has the annotation of a dry run.
pub(crate) fn is_dry_run(line: &str) -> bool {
    let line = line.split(" #").next().unwrap_or_default();
    let mut after = line.split(DRY_RUN);
    let is_comment = after.next().is_some_and(|before| before.contains('#'));
    let value = |rest: &str| {
        let (_, value) =
            rest.trim_start_matches(['"', '\'']).trim_start().split_at_checked(1).filter(|(c, _)| *c == ":")?;
        let value = value.split([',', '}']).next().unwrap_or_default();
        Some(TRUE.contains(&value.trim().trim_matches(['"', '\''])))
    };
    !is_comment && after.any(|rest| value(rest).unwrap_or(false))
}

/// None: it has targets alone, and none of them can be read.
fn scope(tree: &Tree, namespace: &str) -> Option<Scope> {
    let spec = |field| tree.field("spec").and_then(|s| s.field(field));
    let has_targets = spec("targetRef").is_some() || spec("targetRefs").is_some();
    if spec("selector").is_some() || !has_targets {
        return Some(selector(tree).map_or(Scope::Namespace, Scope::Selector));
    }
    let one = |tree: &Tree| {
        let mut faults = Faults::default();
        let target = target_of(&from_tree(tree).ok()?, namespace, &At::ROOT, &mut faults);
        faults.finish(target).ok().map(|good| good.object)
    };
    let many = match spec("targetRefs").map(|many| &many.value) {
        Some(Value::List(many)) => many.as_slice(),
        _ => &[],
    };
    let targets: Vec<_> = spec("targetRef").into_iter().chain(many).filter_map(one).collect();
    (!targets.is_empty()).then_some(Scope::Targets(targets))
}

fn selector(tree: &Tree) -> Option<Labels> {
    let shape: WorkloadSelector = from_tree(tree.field("spec")?.field("selector")?).ok()?;
    meta::label_map(&shape.match_labels, &At::ROOT, &mut Faults::default()).filter(|l| !l.is_empty())
}
