//! The definitions of the mesh's own kinds for an API server (CustomResourceDefinitions): AuthorizationPolicy and
//! PeerAuthentication of `security.istio.io`, under the names that Istio gives them.
//!
//! ```text
//! shapes --outline--> fields and types \
//!                     rows: texts, what is refused --> schema --> definition
//!                     status                       /
//! ```
//! What must hold: every field of a shape is in its schema, and every object that Istio's own definitions accept is accepted.

mod outline;
mod rows;
mod status;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};
use underpass_core::Kind;

use self::{
    outline::{NoOutline, Outline, outline},
    rows::Row,
};
use crate::shapes;

/// The version of the definitions: raised with every change, so that an older program leaves newer ones as they are.
pub const VERSION: u32 = 1;
/// The annotation of a definition that has its [`VERSION`].
pub const VERSION_ANNOTATION: &str = "underpass.dev/definitions-version";

/// The API group.
const GROUP: &str = "security.istio.io";

/// A definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The name of the definition: `authorizationpolicies.security.istio.io`.
    pub name: String,
    /// The kind that it defines.
    pub kind: Kind,
    /// The object.
    pub object: Value,
}

/// All definitions, of [`VERSION`].
#[must_use]
pub fn all() -> Vec<Definition> {
    let [policy, authentication] = [
        schema(outline::<shapes::AuthorizationPolicySpec>(), &rows::authorization_policy()),
        schema(outline::<shapes::PeerAuthenticationSpec>(), &rows::peer_authentication()),
    ];
    let action = ("Action", ".spec.action", "What becomes of a matching connection.");
    let mode = ("Mode", ".spec.mtls.mode", "The mode of mutual TLS.");
    vec![
        definition(Kind::AuthorizationPolicy, ["authorizationpolicies", "authorizationpolicy", "ap"], action, policy),
        definition(Kind::PeerAuthentication, ["peerauthentications", "peerauthentication", "pa"], mode, authentication),
    ]
}

/// `names`: plural, singular, short. `column`: name, path and text of a column of `kubectl get`.
fn definition(
    kind: Kind,
    [plural, singular, short]: [&str; 3],
    (column, path, text): (&str, &str, &str),
    schema: Value,
) -> Definition {
    let version = |name: &str, is_stored: bool| {
        json!({
            "name": name,
            "served": true,
            "storage": is_stored,
            "subresources": {"status": {}},
            "additionalPrinterColumns": [
                {"name": column, "type": "string", "jsonPath": path, "description": text},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            ],
            "schema": {"openAPIV3Schema": schema},
        })
    };
    let name = format!("{plural}.{GROUP}");
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name,
            // Whose it is: what has another owner stays as it is.
            "labels": {"app.kubernetes.io/managed-by": "underpass", "app.kubernetes.io/part-of": "underpass"},
            "annotations": {VERSION_ANNOTATION: VERSION.to_string()},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.as_str(),
                "listKind": format!("{}List", kind.as_str()),
                "plural": plural,
                "singular": singular,
                "shortNames": [short],
                "categories": ["istio-io", "security-istio-io"],
            },
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    });
    Definition { name, kind, object }
}

/// The schema of an object with such a `spec`. A shape without an outline gives a schema that knows no field of it, which a
/// test does not let happen.
fn schema(spec: Result<Outline, NoOutline>, rows: &[Row]) -> Value {
    let root = Outline::Fields(vec![("spec", spec.unwrap_or_default())]);
    let mut schema = field(&root, "", rows);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("status".to_owned(), status::status());
    }
    schema
}

/// The schema of the field at `path`, with all that is inside it.
fn field(outline: &Outline, path: &str, rows: &[Row]) -> Value {
    let mut schema = Map::new();
    match outline {
        Outline::Open => {}
        Outline::Text => drop(schema.insert("type".to_owned(), json!("string"))),
        Outline::List(entry) => {
            schema.insert("type".to_owned(), json!("array"));
            schema.insert("items".to_owned(), field(entry, &format!("{path}[]"), rows));
        }
        Outline::Map(value) => {
            schema.insert("type".to_owned(), json!("object"));
            schema.insert("additionalProperties".to_owned(), field(value, &format!("{path}{{}}"), rows));
        }
        Outline::Fields(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            let inside = fields
                .iter()
                .map(|(name, outline)| ((*name).to_owned(), field(outline, &format!("{path}{dot}{name}"), rows)));
            schema.insert("type".to_owned(), json!("object"));
            schema.insert("properties".to_owned(), inside.collect::<Map<_, _>>().into());
        }
    }
    for (_, text, more) in rows.iter().filter(|(at, ..)| at == path) {
        if !text.is_empty() {
            schema.insert("description".to_owned(), json!(text));
        }
        schema.extend(more.as_object().cloned().unwrap_or_default());
    }
    schema.into()
}
