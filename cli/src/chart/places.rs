//! Where the fields of an IstioOperator are among the chart's values: one table, for files and for `--set`.

use serde_json::Value;

/// The kind of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Flag,
    Number,
    Text,
    Map,
    List,
}

/// A field of `spec`, its path among the chart's values, and what it must be.
pub(super) struct Place {
    pub(super) field: &'static str,
    pub(super) value: &'static str,
    pub(super) shape: Shape,
}

const fn place(field: &'static str, value: &'static str, shape: Shape) -> Place {
    Place { field, value, shape }
}

/// `control.resources` are `pilot.resources` unless they are given, so that Istio's path can still be laid over.
pub(super) const PLACES: &[Place] = &[
    place("profile", "profile", Shape::Text),
    place("meshConfig", "meshConfig", Shape::Map),
    place("components.cni.enabled", "cni.enabled", Shape::Flag),
    place("components.pilot.k8s.resources", "pilot.resources", Shape::Map),
    place("components.pilot.k8s.replicaCount", "control.replicas", Shape::Number),
    place("components.pilot.k8s.nodeSelector", "control.nodeSelector", Shape::Map),
    place("components.pilot.k8s.tolerations", "control.tolerations", Shape::List),
    place("components.pilot.k8s.affinity", "control.affinity", Shape::Map),
    place("components.pilot.k8s.podAnnotations", "control.podAnnotations", Shape::Map),
    place("components.ztunnel.k8s.resources", "agent.resources", Shape::Map),
    place("components.ztunnel.k8s.nodeSelector", "agent.nodeSelector", Shape::Map),
    place("components.ztunnel.k8s.tolerations", "agent.tolerations", Shape::List),
    place("components.ztunnel.k8s.affinity", "agent.affinity", Shape::Map),
    place("components.ztunnel.k8s.podAnnotations", "agent.podAnnotations", Shape::Map),
];

/// Components that are always there: to ask for one asks for nothing more.
const ALWAYS: &[&str] = &["components.base.enabled", "components.pilot.enabled", "components.ztunnel.enabled"];
/// Lists of gateways, of which there are none here.
pub(super) const GATEWAYS: &[&str] = &["components.ingressGateways", "components.egressGateways"];
/// What names the image of Istio.
const IMAGE: &[&str] = &["hub", "tag", "values.global.hub", "values.global.tag"];

/// The field and what is below it names Istio's image.
pub(super) fn is_image(field: &str) -> bool {
    IMAGE.contains(&field)
}

/// To ask for this component asks for nothing more than what is there.
pub(super) fn is_always(field: &str) -> bool {
    ALWAYS.contains(&field)
}

/// Some field below this one has a place.
pub(super) fn is_above_a_place(field: &str) -> bool {
    PLACES
        .iter()
        .map(|place| place.field)
        .chain(ALWAYS.iter().copied())
        .any(|below| below.strip_prefix(field).is_some_and(|rest| rest.starts_with('.')))
}

impl Shape {
    /// The problem with a value that is of another kind.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        let is = match (self, value) {
            (Self::Flag, Value::Bool(_))
            | (Self::Text, Value::String(_))
            | (Self::Map, Value::Object(_))
            | (Self::List, Value::Array(_)) => return Ok(()),
            (Self::Number, Value::Number(number)) if number.is_u64() => return Ok(()),
            (_, value) => kind(value),
        };
        Err(format!("is {is}, not {}", self.name()))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Number => "a whole number",
            Self::Text => "a text",
            Self::Map => "a map",
            Self::List => "a list",
        }
    }
}

/// The kind of a value, for people.
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
