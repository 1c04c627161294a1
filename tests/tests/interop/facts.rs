//! The facts of istiod are those of our control plane for the same objects of the same API server, but for what [`EXPECTED`] lists with
//! its reason. docs/interop.md has the same list.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use underpass_tests::{
    cluster::{CONTROL_NODE, Cluster},
    testbed::{Lab, wait::wait_until},
};

use super::{
    NODES, PODS,
    expected::{EXPECTED, Expected},
    of_files::{POLICIES, SERVICES, collect},
    support::WORLD,
};

/// Objects beside those of other tests.
const OBJECTS: &str = include_str!("objects.yaml");
/// Its pod, behind the others.
const WEB: &str = "mesh/web-6d4cf56db6-x2k9v";

/// Facts by kind and key, such as `policies/mesh/strict`: values by the path of their field, without the numbers of list entries
/// where it is compared to [`EXPECTED`].
type Facts = BTreeMap<String, BTreeMap<String, Value>>;

pub(crate) fn of_istiod_are_those_of_control(lab: &Lab) -> Result<()> {
    is_documented()?;
    let (mut cluster, _istiod) = super::up(lab, &[WORLD, SERVICES, POLICIES, OBJECTS])?;
    let pods = [&PODS[..], &[WEB]].concat();
    cluster.admit(CONTROL_NODE)?;
    cluster.control.start()?;
    cluster.follow_own()?;
    cluster.mesh.start_on(CONTROL_NODE)?;
    cluster.wait_for_annotated(&pods)?;
    cluster.wait_for_enrolled(&pods)?;
    for node in NODES {
        let mut last = Vec::new();
        let waited = wait_until(&format!("the facts of {node} to be those of control"), || {
            last = findings(&facts(&cluster, node)?, &facts(&cluster, CONTROL_NODE)?);
            Ok(last.is_empty())
        });
        waited.with_context(|| format!("they are not:\n{}", last.join("\n")))?;
    }
    Ok(())
}

/// The list in docs/interop.md is this one.
fn is_documented() -> Result<()> {
    let text = include_str!("../../../docs/interop.md");
    for one in EXPECTED {
        ensure!(text.contains(one.reason), "docs/interop.md does not say: {}", one.reason);
    }
    Ok(())
}

/// Every difference that is not expected, and every expected one that is not there.
fn findings(of_istiod: &Facts, of_control: &Facts) -> Vec<String> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let keys: BTreeSet<_> = of_istiod.keys().chain(of_control.keys()).collect();
    for key in keys {
        let [istiod, control] = [of_istiod, of_control].map(|all| all.get(key));
        let differing = match (istiod, control) {
            (Some(istiod), Some(control)) => differing(istiod, control),
            // The whole of it.
            (istiod, _) => vec![Differing {
                field: String::new(),
                istiod: json(istiod.is_some()),
                control: json(istiod.is_none()),
            }],
        };
        for one in differing {
            match EXPECTED.iter().position(|expected| explains(expected, key, &one, control)) {
                Some(at) => drop(seen.insert(at)),
                None => {
                    found.push(format!("{key} {}: {} of istiod, {} of control", one.field, one.istiod, one.control))
                }
            }
        }
    }
    let unseen = EXPECTED.iter().enumerate().filter(|(at, _)| !seen.contains(at));
    found.extend(unseen.map(|(_, one)| format!("{} {}: no difference: {}", one.of, one.field, one.reason)));
    found
}

/// One field of one fact.
struct Differing {
    /// Without the numbers of list entries; empty: the fact itself.
    field: String,
    istiod: Value,
    control: Value,
}

fn json(is_there: bool) -> Value {
    if is_there { "there".into() } else { Value::Null }
}

fn differing(istiod: &BTreeMap<String, Value>, control: &BTreeMap<String, Value>) -> Vec<Differing> {
    let fields: BTreeSet<_> = istiod.keys().chain(control.keys()).collect();
    let [of, than] = [istiod, control].map(|all| move |field: &String| all.get(field).cloned().unwrap_or_default());
    let one = |field: &String| Differing { field: numberless(field), istiod: of(field), control: than(field) };
    // What is left out is the same as nothing.
    fields
        .into_iter()
        .map(one)
        .filter(|one| one.istiod != one.control)
        .filter(|one| !(is_nothing(&one.istiod) && is_nothing(&one.control)))
        .collect()
}

fn explains(expected: &Expected, key: &str, one: &Differing, control: Option<&BTreeMap<String, Value>>) -> bool {
    let says = match expected.istiod {
        None => is_nothing(&one.istiod),
        Some(text) => {
            let shown = one.istiod.to_string();
            one.istiod == text || shown == text
        }
    };
    let holds =
        |(field, value): (&str, &str)| control.and_then(|fact| fact.get(field)).is_some_and(|found| found == value);
    let is_of = key.starts_with(expected.of) && one.field.starts_with(expected.field);
    is_of && (expected.field.is_empty() == one.field.is_empty()) && says && expected.given.is_none_or(holds)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A path without the numbers of list entries.
fn numberless(path: &str) -> String {
    let parts = path.split('[');
    parts
        .map(|part| {
            part.split_once(']').filter(|(n, _)| n.bytes().all(|b| b.is_ascii_digit())).map_or(part, |(_, rest)| rest)
        })
        .collect()
}

/// Every value of the facts of a node's agent.
fn facts(cluster: &Cluster, node: &str) -> Result<Facts> {
    let mut dump = cluster.mesh.admin(node, "/config_dump")?;
    let mut world = dump["world"].as_object_mut().map(std::mem::take).context("a World")?;
    // A count of changes.
    ensure!(world.remove("version").is_some_and(|version| version != 0), "no World yet");
    let mut found = Facts::new();
    for (kind, name) in [("workloads", "uid"), ("services", "hostname"), ("policies", "name")] {
        let all = world.remove(kind).and_then(|mut all| all.as_array_mut().map(std::mem::take)).context(kind)?;
        ensure!(!all.is_empty(), "no {kind} on {node}");
        for mut fact in all {
            let name = fact[name].as_str().context("a name")?.to_owned();
            if let Some(endpoints) = fact.get_mut("endpoints") {
                *endpoints = by_service(endpoints)?;
            }
            collect("", &fact, found.entry(format!("{kind}/{name}")).or_default());
        }
    }
    collect("", &world.into(), found.entry("world".to_owned()).or_default());
    Ok(found)
}

/// Endpoints by service and address: one more or less moves no other.
fn by_service(endpoints: &Value) -> Result<Value> {
    let all = endpoints.as_array().context("endpoints")?;
    let name = |e: &Value| {
        format!("{} at {}", e["service"].as_str().unwrap_or_default(), e["address"].as_str().unwrap_or_default())
    };
    Ok(Value::Object(all.iter().map(|e| (name(e), e.clone())).collect::<Map<_, _>>()))
}
