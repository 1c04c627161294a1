//! Gateways: those of a waypoint's class, with their HBONE listeners. Of every other one the class alone is read.

use std::sync::Arc;

use underpass_core::{
    Kind,
    objects::{Admits, Gateway, HboneListener, Must, Requirement, WAYPOINT_CLASSES, WaypointFor},
};

use super::{Converted, Faults, Rejected, meta, syntax};
use crate::{Fault, path::At, shapes};

/// What a waypoint stands before.
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const FOR: &[&str] = &["service", "workload", "all", "none"];
const HBONE: &str = "HBONE";
const FROM: &[&str] = &["Same", "All", "Selector"];
const OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist"];

/// `gateway.networking.k8s.io Gateway`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn gateway(shape: &shapes::Gateway) -> Result<Converted<Gateway>, Rejected> {
    let mut faults = Faults::default();
    let (spec, at) = (&shape.spec, At::ROOT.field("spec"));
    let name = meta::object_name(Kind::Gateway, &shape.metadata, &mut faults);
    let labels = meta::labels(&shape.metadata, &mut faults);
    let class: Arc<str> = spec.gateway_class_name.as_str().into();
    if !WAYPOINT_CLASSES.contains(&&*class) {
        let rest = || Some(Gateway { name: name?, class, waypoint_for: WaypointFor::default(), listeners: Vec::new() });
        let gateway = rest();
        return faults.finish(gateway);
    }
    let waypoint_for = waypoint_for(labels.as_ref().and_then(|l| l.get(WAYPOINT_FOR)), &mut faults);
    let at = at.field("listeners");
    let hbone = spec.listeners.iter().enumerate().filter(|(_, listener)| listener.protocol == HBONE);
    let listeners: Vec<_> = hbone.map(|(i, l)| listener(l, &at.index(i), &mut faults)).collect();
    if listeners.is_empty() {
        faults.push(&at, Fault::NoHboneListener);
    }
    let others = spec.listeners.iter().enumerate().filter(|(_, listener)| listener.protocol != HBONE);
    for (i, _) in others {
        let instead = "a waypoint takes connections at its HBONE listeners alone";
        faults.push(&at.index(i).field("protocol"), Fault::FieldNotServed { instead });
    }
    let gateway = || {
        let listeners = listeners.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Gateway { name: name?, class, waypoint_for: waypoint_for?, listeners })
    };
    let gateway = gateway();
    faults.finish(gateway)
}

fn waypoint_for(text: Option<&str>, faults: &mut Faults) -> Option<WaypointFor> {
    Some(match text.unwrap_or("service") {
        "service" => WaypointFor::Service,
        "workload" => WaypointFor::Workload,
        "all" => WaypointFor::All,
        "none" => WaypointFor::None,
        found => {
            let at = At::ROOT.field("metadata");
            let fault = Fault::Value { found: found.into(), known: FOR };
            faults.push(&at.field("labels").field(WAYPOINT_FOR), fault);
            return None;
        }
    })
}

fn listener(shape: &shapes::Listener, at: &At<'_>, faults: &mut Faults) -> Option<HboneListener> {
    let port = faults.check(&at.field("port"), syntax::port(shape.port));
    let at = at.field("allowedRoutes");
    let namespaces = shape.allowed_routes.as_ref().and_then(|routes| routes.namespaces.as_ref());
    let admits = namespaces.map_or(Some(Admits::Same), |n| admits(n, &at.field("namespaces"), faults));
    Some(HboneListener { port: port?, admits: admits? })
}

fn admits(shape: &shapes::RouteNamespaces, at: &At<'_>, faults: &mut Faults) -> Option<Admits> {
    match (shape.from.as_deref().unwrap_or("Same"), &shape.selector) {
        ("Same", _) => Some(Admits::Same),
        ("All", _) => Some(Admits::All),
        ("Selector", Some(selector)) => Some(Admits::Selector(requirements(selector, &at.field("selector"), faults)?)),
        ("Selector", None) => {
            faults.push(&at.field("selector"), Fault::Missing);
            None
        }
        (found, _) => {
            faults.push(&at.field("from"), Fault::Value { found: found.into(), known: FROM });
            None
        }
    }
}

/// All that is asked for, each once: labels first.
fn requirements(shape: &shapes::LabelSelector, at: &At<'_>, faults: &mut Faults) -> Option<Vec<Requirement>> {
    let labels = meta::label_map(&shape.match_labels, &at.field("matchLabels"), faults);
    let at = at.field("matchExpressions");
    let expressions = shape.match_expressions.iter().enumerate();
    let expressions: Vec<_> = expressions.map(|(i, one)| requirement(one, &at.index(i), faults)).collect();
    let equal = |(key, value): (&str, &str)| Requirement { key: key.into(), must: Must::In(vec![value.into()]) };
    let mut all: Vec<_> = labels?.iter().map(equal).collect();
    all.extend(expressions.into_iter().collect::<Option<Vec<_>>>()?);
    Some(all)
}

fn requirement(shape: &shapes::LabelExpression, at: &At<'_>, faults: &mut Faults) -> Option<Requirement> {
    let key = faults.check(&at.field("key"), syntax::label_key(&shape.key));
    let values_at = at.field("values");
    let values = shape.values.iter().enumerate();
    let values: Vec<_> =
        values.map(|(i, value)| faults.check(&values_at.index(i), syntax::label_value(value))).collect();
    let values = values.into_iter().collect::<Option<Vec<Arc<str>>>>()?;
    let must = match (&*shape.operator, values.is_empty()) {
        ("In", false) => Must::In(values),
        ("NotIn", false) => Must::NotIn(values),
        ("Exists", true) => Must::Exist,
        ("DoesNotExist", true) => Must::NotExist,
        ("In" | "NotIn", true) => {
            faults.push(&values_at, Fault::Missing);
            return None;
        }
        ("Exists" | "DoesNotExist", false) => {
            faults.push(&values_at, Fault::Exclusive { other: "operator" });
            return None;
        }
        (found, _) => {
            faults.push(&at.field("operator"), Fault::Value { found: found.into(), known: OPERATORS });
            return None;
        }
    };
    Some(Requirement { key: key?, must })
}
