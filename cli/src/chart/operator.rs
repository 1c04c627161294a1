//! An IstioOperator as values of the chart: each field has a place there, or is named as one without an effect. Nothing is lost in
//! silence, and nothing that names Istio's image becomes ours.

use serde_json::{Map, Value};

use super::{
    merge::{overlay, put},
    places::{GATEWAYS, PLACES, Shape, is_above_a_place, is_always, is_image, kind},
};

const API_VERSION: &str = "install.istio.io/v1alpha1";

/// An IstioOperator's values, and a line for each field without an effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) values: Value,
    pub(super) notes: Vec<String>,
}

/// A field that cannot be meant, by its path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) path: String,
    pub(super) problem: String,
}

impl Bad {
    fn of(path: impl Into<String>, problem: String) -> Self {
        Self { path: path.into(), problem }
    }
}

/// The document says that it is one.
pub(super) fn is_one(document: &Value) -> bool {
    document["kind"] == "IstioOperator"
}

/// What it asks for.
pub(super) fn map(document: &Value) -> Result<Mapped, Bad> {
    if document["apiVersion"] != API_VERSION {
        return Err(Bad::of("apiVersion", format!("is {}, not {API_VERSION}", document["apiVersion"])));
    }
    let mut mapped = Mapped { values: Value::Object(Map::new()), notes: Vec::new() };
    for (name, value) in document.as_object().into_iter().flatten() {
        match &**name {
            "apiVersion" | "kind" | "metadata" | "status" => {}
            "spec" => mapped.spec(value)?,
            _ => mapped.note(name, value),
        }
    }
    Ok(mapped)
}

impl Mapped {
    /// Values first: what components and the mesh's settings say is laid over them.
    fn spec(&mut self, spec: &Value) -> Result<(), Bad> {
        let Some(fields) = map_of("spec", spec)? else { return Ok(()) };
        if let Some(values) = fields.get("values") {
            self.given_values(values)?;
        }
        fields.iter().filter(|(name, _)| *name != "values").try_for_each(|(name, value)| self.field(name, value))
    }

    fn given_values(&mut self, values: &Value) -> Result<(), Bad> {
        let Some(fields) = map_of("spec.values", values)? else { return Ok(()) };
        let mut fields = fields.clone();
        if let Some(Value::Object(global)) = fields.get_mut("global") {
            for name in ["hub", "tag"] {
                if let Some(value) = global.remove(name) {
                    self.note(&format!("spec.values.global.{name}"), &value);
                }
            }
        }
        overlay(&mut self.values, Value::Object(fields));
        Ok(())
    }

    /// A field by its path below `spec`.
    fn field(&mut self, field: &str, value: &Value) -> Result<(), Bad> {
        let path = format!("spec.{field}");
        if value.is_null() {
            return Ok(());
        }
        if let Some(place) = PLACES.iter().find(|place| place.field == field) {
            place.shape.check(value).map_err(|problem| Bad::of(&path, problem))?;
            // Resources are given as a whole.
            if place.value.ends_with(".resources") {
                put(&mut self.values, place.value, Value::Null);
            }
            put(&mut self.values, place.value, value.clone());
            return Ok(());
        }
        if GATEWAYS.contains(&field) {
            return self.gateways(&path, value);
        }
        if is_always(field) {
            Shape::Flag.check(value).map_err(|problem| Bad::of(&path, problem))?;
            if *value == Value::Bool(false) {
                self.note(&path, value);
            }
            return Ok(());
        }
        if is_above_a_place(field) {
            let Some(fields) = map_of(&path, value)? else { return Ok(()) };
            return fields.iter().try_for_each(|(name, value)| self.field(&format!("{field}.{name}"), value));
        }
        self.note(&path, value);
        Ok(())
    }

    fn gateways(&mut self, path: &str, value: &Value) -> Result<(), Bad> {
        Shape::List.check(value).map_err(|problem| Bad::of(path, problem))?;
        for (n, gateway) in value.as_array().into_iter().flatten().enumerate() {
            let path = format!("{path}[{n}]");
            Shape::Map.check(gateway).map_err(|problem| Bad::of(&path, problem))?;
            if gateway["enabled"] != Value::Bool(false) {
                let name = gateway["name"].as_str().unwrap_or("without a name");
                self.notes.push(format!("not installed: {path} ({name}): there are no gateways here"));
            }
        }
        Ok(())
    }

    /// Names a field without an effect; an empty one asks for nothing.
    fn note(&mut self, path: &str, value: &Value) {
        let is_empty = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if is_empty {
            return;
        }
        let why = match path.strip_prefix("spec.") {
            Some(field) if is_image(field) => {
                "names Istio's image, and has no effect here: global.hub and global.tag name this mesh's"
            }
            Some("namespace") => "has no effect here: --system-namespace names the namespace of the release",
            Some("revision") => "has no effect here: there are no revisions",
            Some("components.base.enabled") => {
                "false has no effect here: crds.enabled=false leaves the definitions out"
            }
            Some(field) if is_always(field) => "false has no effect here: the mesh needs it",
            _ => "has no effect here",
        };
        self.notes.push(format!("{path}: {why}"));
    }
}

/// A map; none: nothing is given.
fn map_of<'a>(path: &str, value: &'a Value) -> Result<Option<&'a Map<String, Value>>, Bad> {
    match value {
        Value::Null => Ok(None),
        Value::Object(map) => Ok(Some(map)),
        other => Err(Bad::of(path, format!("is {}, not a map", kind(other)))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapped(spec: &str) -> Result<Mapped, Bad> {
        let text = format!("apiVersion: {API_VERSION}\nkind: IstioOperator\nmetadata: {{name: a}}\nspec:\n{spec}");
        let document = serde_saphyr::from_str(&text).unwrap();
        assert!(is_one(&document));
        map(&document)
    }

    const WHOLE: &str = r#"
  profile: ambient
  hub: docker.io/istio
  tag: 1.24.0
  revision: ""
  namespace: istio-system
  installPackagePath: /charts
  meshConfig:
    accessLogEncoding: JSON
    enableTracing: true
  components:
    base: {enabled: true, k8s: {overlays: [{kind: A}]}}
    pilot:
      enabled: true
      k8s:
        replicaCount: 3
        resources: {requests: {cpu: 500m}}
        nodeSelector: {pool: system}
        tolerations: [{operator: Exists}]
        hpaSpec: {maxReplicas: 5}
        env: []
    cni: {enabled: false, namespace: kube-system}
    ztunnel: {enabled: true, k8s: {resources: {requests: {memory: 1Gi}}}}
    ingressGateways:
      - {name: istio-ingressgateway, enabled: true}
      - {name: other, enabled: false}
    egressGateways: [{name: istio-egressgateway}]
    istiodRemote: {enabled: true}
  values:
    global: {hub: docker.io/istio, tag: 1.24.0, proxy: {accessLogFile: /dev/stdout}}
    pilot: {resources: {limits: {cpu: 1}}, enableProtocolSniffingForInbound: true}
    meshConfig: {trustDomain: a.example, accessLogEncoding: TEXT}
"#;

    #[test]
    fn each_field_has_its_place_or_is_named() {
        let got = mapped(WHOLE).unwrap();
        assert_eq!(
            got.values,
            json!({
                "profile": "ambient",
                "global": {"proxy": {"accessLogFile": "/dev/stdout"}},
                "meshConfig": {"accessLogEncoding": "JSON", "enableTracing": true, "trustDomain": "a.example"},
                "pilot": {"resources": {"requests": {"cpu": "500m"}}, "enableProtocolSniffingForInbound": true},
                "control": {"replicas": 3, "nodeSelector": {"pool": "system"}, "tolerations": [{"operator": "Exists"}]},
                "cni": {"enabled": false},
                "agent": {"resources": {"requests": {"memory": "1Gi"}}},
            })
        );
        let named: Vec<&str> = got.notes.iter().map(|note| note.split(": ").next().unwrap()).collect();
        let mut expected = vec![
            "spec.values.global.hub",
            "spec.values.global.tag",
            "spec.hub",
            "spec.tag",
            "spec.namespace",
            "spec.installPackagePath",
            "spec.components.base.k8s",
            "spec.components.pilot.k8s.hpaSpec",
            "spec.components.cni.namespace",
            "spec.components.istiodRemote",
            "not installed",
            "not installed",
        ];
        let mut named = named;
        named.sort_unstable();
        expected.sort_unstable();
        assert_eq!(named, expected, "{:#?}", got.notes);
        let says = |text: &str| assert!(got.notes.iter().any(|note| note.contains(text)), "{text}: {:#?}", got.notes);
        says("spec.components.ingressGateways[0] (istio-ingressgateway): there are no gateways here");
        says("spec.components.egressGateways[0] (istio-egressgateway)");
        says("spec.hub: names Istio's image, and has no effect here: global.hub");
    }

    #[test]
    fn a_field_of_another_kind_is_an_error_with_its_path() {
        for (spec, path, problem) in [
            ("  [1]", "spec", "is a list, not a map"),
            ("  profile: 1", "spec.profile", "is a number, not a text"),
            ("  meshConfig: x", "spec.meshConfig", "is a text, not a map"),
            ("  values: [a]", "spec.values", "is a list, not a map"),
            ("  components: [a]", "spec.components", "is a list, not a map"),
            ("  components: {cni: {enabled: \"true\"}}", "spec.components.cni.enabled", "is a text, not true or false"),
            ("  components: {base: {enabled: 1}}", "spec.components.base.enabled", "is a number, not true or false"),
            (
                "  components: {pilot: {k8s: {replicaCount: 1.5}}}",
                "spec.components.pilot.k8s.replicaCount",
                "is a number, not a whole number",
            ),
            (
                "  components: {pilot: {k8s: {tolerations: {}}}}",
                "spec.components.pilot.k8s.tolerations",
                "is a map, not a list",
            ),
            ("  components: {ingressGateways: {}}", "spec.components.ingressGateways", "is a map, not a list"),
            ("  components: {egressGateways: [a]}", "spec.components.egressGateways[0]", "is a text, not a map"),
        ] {
            assert_eq!(mapped(spec), Err(Bad::of(path, problem.to_owned())), "{spec}");
        }
        let other = json!({"apiVersion": "install.istio.io/v2", "kind": "IstioOperator"});
        assert_eq!(map(&other).unwrap_err().path, "apiVersion");
    }

    #[test]
    fn what_asks_for_nothing_is_not_named() {
        for nothing in
            ["  {}", "", "  components: null", "  components: {base: {}, cni: {k8s: {}}, pilot: {k8s: {env: []}}}"]
        {
            let got = mapped(nothing).unwrap();
            assert_eq!(got, Mapped { values: json!({}), notes: Vec::new() }, "{nothing}");
        }
        let off = mapped("  components: {pilot: {enabled: false}, base: {enabled: false}}").unwrap();
        assert_eq!(off.notes.len(), 2, "{:?}", off.notes);
    }
}
