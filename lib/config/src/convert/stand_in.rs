//! Stand-ins for security policies that cannot be understood and have no good version: without one, traffic that the
//! author wanted to block would pass, and a restart would turn a mistake into an open door.
//!
//! An AuthorizationPolicy is replaced by one that denies everything it selects, a PeerAuthentication by STRICT. Where
//! the selector itself cannot be read, that is the whole namespace. Left out are policies that never decide anything
//! here: of actions that are refused by name, dry runs, and those of waypoints.

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
    policy::{DRY_RUN, TRUE},
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
            let scope = selector(tree).map_or(Scope::Namespace, Scope::Selector);
            let rules = vec![Rule::default()]; // matches everything
            let decides = decides(tree);
            decides.then(|| AuthorizationPolicy { name, scope, action: Action::Deny, rules, dry_run: false }.into())
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
    !matches!(spec("action").and_then(Tree::text), Some("CUSTOM" | "AUDIT"))
        && (spec("selector").is_some() || (spec("targetRef").is_none() && spec("targetRefs").is_none()))
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

fn selector(tree: &Tree) -> Option<Labels> {
    let shape: WorkloadSelector = from_tree(tree.field("spec")?.field("selector")?).ok()?;
    meta::label_map(&shape.match_labels, &At::ROOT, &mut Faults::default()).filter(|l| !l.is_empty())
}
