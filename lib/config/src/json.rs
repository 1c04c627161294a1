//! One object as an API server gives it: JSON to a tree, and to what a door observes of it. The converters are those of
//! files, with the strictness of an API server.
//!
//! Most of what an API server says about an object is for others: `managedFields`, the volumes and states of
//! containers. Such values are passed over while the text is read and stand in the tree as null, which is a field left
//! out. Their keys stay, so that what is known about an object does not depend on what was passed over.
//!
//! What must hold: an object whose name can be read is never lost, however broken the rest is; a security policy among
//! those closes what it selects; and the same object in YAML and in JSON is the same object.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use underpass_core::{Kind, ObjectKey, ObjectName};
use underpass_door::{Observation, Strictness};

use crate::{
    Fault, Path, Severity,
    convert::{self, FieldFault},
    manifest::MAX_FAULTS,
    notices,
    yaml::{Key, Tree, Value},
};

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The part of an object that every API has: which one it is, and of when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header<'a> {
    /// `metadata.namespace`; none: cluster-scoped.
    pub namespace: Option<Cow<'a, str>>,
    /// `metadata.name`; empty in a bookmark.
    pub name: Cow<'a, str>,
    /// `metadata.uid`; empty where the API gives none.
    pub uid: Cow<'a, str>,
    /// `metadata.resourceVersion`: opaque, and a decimal number in Kubernetes' own API servers.
    pub resource_version: Cow<'a, str>,
}

/// An object, good or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The object.
    pub key: ObjectKey,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// Its state.
    pub observed: Observation,
    /// Its errors and warnings, the errors first found first.
    pub faults: Vec<FieldFault>,
}

/// The text is no object: no JSON, or without a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no object: {reason}")]
pub struct NoObject {
    /// The reason.
    pub reason: Arc<str>,
}

/// Reads the header alone, and passes over everything else.
///
/// # Errors
/// Where the text is no JSON object with `metadata`.
pub fn header(json: &str) -> Result<Header<'_>, NoObject> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata<'a> {
        #[serde(borrow)]
        namespace: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        name: Cow<'a, str>,
        #[serde(borrow, default)]
        uid: Cow<'a, str>,
        #[serde(borrow, default)]
        resource_version: Cow<'a, str>,
    }
    let Object { metadata: m } = serde_json::from_str(json).map_err(|e| NoObject { reason: e.to_string().into() })?;
    let namespace = m.namespace.filter(|n| !n.is_empty());
    Ok(Header { namespace, name: m.name, uid: m.uid, resource_version: m.resource_version })
}

impl Header<'_> {
    /// The key of the object of this kind.
    #[must_use]
    pub fn key(&self, kind: Kind) -> ObjectKey {
        let name = if kind.is_namespaced() {
            ObjectName::new(self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE), &*self.name)
        } else {
            ObjectName::cluster(&*self.name)
        };
        ObjectKey::new(kind, name)
    }
}

/// The object of a kind that a text says.
///
/// # Errors
/// Where it does not say which object it is.
pub fn object(kind: Kind, json: &str) -> Result<Claim, NoObject> {
    let header = header(json)?;
    if header.name.is_empty() {
        return Err(NoObject { reason: "it has no name".into() });
    }
    let (key, resource_version) = (header.key(kind), (&*header.resource_version).into());
    let (observed, faults) = match tree(kind, json) {
        Ok(tree) => {
            let (observed, mut faults) = convert::observe(kind, Some(&key.name), &tree, Strictness::ApiServer);
            let is_told = |f: &FieldFault| f.fault.severity() > Severity::Notice;
            faults.extend(notices::of_metadata(kind, &tree).into_iter().filter(is_told));
            (observed, faults)
        }
        Err(e) => {
            let message = format!("is not a readable object: {e}").into();
            let fault = FieldFault { field: Path::default(), fault: Fault::Syntax { message } };
            let stand_in = convert::stand_in(kind, key.name.clone(), &Tree::NULL);
            (Observation::Bad { stand_in }, vec![fault])
        }
    };
    Ok(Claim { key, resource_version, observed, faults: few(faults) })
}

/// No more faults than get a line each.
fn few(mut faults: Vec<FieldFault>) -> Vec<FieldFault> {
    let count = faults.len().saturating_sub(MAX_FAULTS);
    if count > 0 {
        faults.truncate(MAX_FAULTS);
        faults.push(FieldFault { field: Path::default(), fault: Fault::More { count } });
    }
    faults
}

/// The tree of an object of this kind. Its lines are unknown.
///
/// # Errors
/// Where it is no JSON, or nested too deeply.
pub fn tree(kind: Kind, json: &str) -> Result<Tree, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let tree = Place { kind, inside: "", depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(tree)
}

/// Values that no shape reads: the kind that has them, if not all, the count of mappings around them, the key of the
/// innermost one (a list's entries stand under its key), and their keys.
type Unread = (Option<Kind>, usize, &'static str, &'static [&'static str]);

const UNREAD: &[Unread] = &[
    (None, 1, "metadata", &["managedFields"]),
    (
        Some(Kind::Pod),
        1,
        "spec",
        &["affinity", "ephemeralContainers", "securityContext", "tolerations", "topologySpreadConstraints", "volumes"],
    ),
    (Some(Kind::Pod), 2, "containers", IN_CONTAINERS),
    (Some(Kind::Pod), 2, "initContainers", IN_CONTAINERS),
    (Some(Kind::Pod), 3, "livenessProbe", IN_PROBES),
    (Some(Kind::Pod), 3, "readinessProbe", IN_PROBES),
    (Some(Kind::Pod), 3, "startupProbe", IN_PROBES),
    (Some(Kind::Pod), 4, "postStart", IN_PROBES),
    (Some(Kind::Pod), 4, "preStop", IN_PROBES),
    (Some(Kind::Pod), 4, "httpGet", IN_HTTP_GET),
    (Some(Kind::Pod), 5, "httpGet", IN_HTTP_GET),
    (
        Some(Kind::Pod),
        1,
        "status",
        &["containerStatuses", "ephemeralContainerStatuses", "initContainerStatuses", "resourceClaimStatuses"],
    ),
    (
        Some(Kind::Node),
        1,
        "status",
        &["allocatable", "capacity", "conditions", "images", "nodeInfo", "volumesAttached", "volumesInUse"],
    ),
];

const IN_CONTAINERS: &[&str] =
    &["command", "env", "envFrom", "resources", "securityContext", "volumeDevices", "volumeMounts"];
const IN_PROBES: &[&str] = &["exec"];
const IN_HTTP_GET: &[&str] = &["httpHeaders"];

/// Where a value stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    kind: Kind,
    /// The key of the value; of the list that it is an entry of.
    inside: &'a str,
    /// The count of mappings around it.
    depth: usize,
}

impl Place<'_> {
    fn passes_over(self, key: &str) -> bool {
        UNREAD.iter().any(|(kind, depth, inside, keys)| {
            kind.is_none_or(|kind| kind == self.kind)
                && *depth == self.depth
                && *inside == self.inside
                && keys.contains(&key)
        })
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        d.deserialize_any(self).map(|value| Tree { line: 0, value })
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Int(n.into()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::Int(n.into()))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        Ok(Value::Float(n))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = if self.passes_over(&name) {
                map.next_value::<IgnoredAny>()?;
                Tree::NULL
            } else {
                let depth = self.depth.saturating_add(1);
                map.next_value_seed(Place { inside: &name, depth, ..self })?
            };
            entries.push((Key { name, line: 0 }, value));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use underpass_core::objects::Object;

    use super::*;
    use crate::yaml;

    /// What an API server's strictness makes of a YAML text.
    fn of_yaml(kind: Kind, text: &str) -> (Observation, Vec<FieldFault>) {
        let documents = yaml::documents(text.as_bytes()).unwrap();
        let tree = documents[0].tree.as_ref().unwrap().as_ref().unwrap();
        let name = header(text).unwrap().key(kind).name;
        let (observed, mut faults) = convert::observe(kind, Some(&name), tree, Strictness::ApiServer);
        faults.extend(notices::of_metadata(kind, tree).into_iter().filter(|f| f.fault.severity() > Severity::Notice));
        (observed, faults)
    }

    /// The faults of an object; `+` first where it is served, `closed` where a stand-in is. JSON is YAML, and both
    /// readers agree about it.
    #[track_caller]
    fn check(kind: Kind, json: &str, expect: &[&str]) {
        let got = object(kind, json).unwrap();
        assert_eq!((got.observed.clone(), got.faults.clone()), of_yaml(kind, json), "{json}");
        check_alone(kind, json, expect);
    }

    #[track_caller]
    fn check_alone(kind: Kind, json: &str, expect: &[&str]) {
        let got = object(kind, json).unwrap();
        let served = match &got.observed {
            Observation::Good(object) => {
                assert_eq!(object.key(), got.key);
                Some("+".to_owned())
            }
            Observation::Bad { stand_in: Some(_) } => Some("closed".to_owned()),
            _ => None,
        };
        let lines: Vec<_> =
            served.into_iter().chain(got.faults.iter().map(|f| format!("{}: {}", f.field, f.fault))).collect();
        assert_eq!(lines, expect, "{json}");
    }

    fn policy(spec: &str) -> String {
        format!(
            r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p","namespace":"a","uid":"1","resourceVersion":"7","generation":3,"managedFields":[{{"fieldsV1":{{"f:spec":{{}}}}}}]}},"spec":{spec}}}"#
        )
    }

    #[test]
    fn objects_are_read_as_from_yaml() {
        check(Kind::AuthorizationPolicy, &policy("{}"), &["+"]);
        check(Kind::AuthorizationPolicy, &policy(r#"{"rules":[{"to":[{"operation":{"ports":["80"]}}]}]}"#), &["+"]);
        check(
            Kind::AuthorizationPolicy,
            &policy(r#"{"rules":[{"to":[{"operation":{"ports":[80]}}]}]}"#),
            &[
                "closed",
                "spec.rules[0].to[0].operation.ports[0]: YAML reads this as the number 80, expected text: write it in quotes",
            ],
        );
        check(
            Kind::AuthorizationPolicy,
            &policy(r#"{"rules":[{"from":null}]}"#),
            &["closed", "spec.rules[0].from: has no value: write one or leave the key out"],
        );
        check(
            Kind::AuthorizationPolicy,
            &policy(r#"{"later":1}"#),
            &[
                "closed",
                "spec.later: unknown field, probably of a newer version of its API: without it the policy might allow more",
            ],
        );
        check(
            Kind::AuthorizationPolicy,
            &policy(r#"{"action":"CUSTOM"}"#),
            &["closed", "spec.provider.name: is missing"],
        );
        check(
            Kind::Pod,
            r#"{"metadata":{"name":"x","namespace":"a","uid":"u-1","annotations":{"traffic.sidecar.istio.io/excludeInboundPorts":"80"}},
                "spec":{"containers":[{"name":"c","image":"i","args":["proxy"],"env":[{"name":"A","value":null}],"ports":[{"containerPort":80}],"resources":{"limits":{"cpu":1.5}}}],"hostNetworks":true,
                "volumes":[{"name":"v"}]},"status":{"podIPs":[{"ip":"10.0.0.1"}],"phase":"Running","containerStatuses":[{"name":"c"}]}}"#,
            &[
                "+",
                "spec.hostNetworks: unknown field, probably of a newer version of its API: ignored",
                "metadata.annotations[traffic.sidecar.istio.io/excludeInboundPorts]: has no effect: nothing is excluded; connections to and from the mesh are captured on every port",
            ],
        );
        check(
            Kind::Node,
            r#"{"metadata":{"name":"n"},"status":{"images":[{"sizeBytes":18446744073709551615}],"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}"#,
            &["+"],
        );
        check(
            Kind::Namespace,
            r#"{"kind":"PartialObjectMetadata","metadata":{"name":"n","labels":{"a":"b"}}}"#,
            &["+"],
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_lost() {
        let deep = |levels: usize| policy(&format!(r#"{{"rules":{}{}}}"#, "[".repeat(levels), "]".repeat(levels)));
        check_alone(
            Kind::AuthorizationPolicy,
            &deep(200),
            &["closed", ": is not a readable object: recursion limit exceeded at line 1 column 340"],
        );
        let bad = |json: &str| object(Kind::Pod, json).unwrap_err().to_string();
        assert_eq!(bad(r#"{"metadata":{"namespace":"a"}}"#), "no object: it has no name");
        assert_eq!(bad("7"), "no object: invalid type: integer `7`, expected struct Object at line 1 column 1");
        assert_eq!(bad(r#"{"metadata":{"name":"a"}"#), "no object: EOF while parsing an object at line 1 column 24");
    }

    #[test]
    fn many_faults_have_an_end() {
        let many = vec![r#"{"operation":{"ports":["x"]}}"#; 40].join(",");
        let faults =
            object(Kind::AuthorizationPolicy, &policy(&format!(r#"{{"rules":[{{"to":[{many}]}}]}}"#))).unwrap().faults;
        assert_eq!(faults.len(), MAX_FAULTS + 1);
        assert_eq!(faults.last().map(|f| f.fault.clone()), Some(Fault::More { count: 8 }));
    }

    /// Of a probe all is passed over but its address.
    #[test]
    fn ports_of_probes_are_read() {
        let text = r#"{"metadata":{"name":"x","namespace":"a"},"spec":{"containers":[{"name":"c","ports":[{"name":"http","containerPort":80}],
            "readinessProbe":{"httpGet":{"port":"http","httpHeaders":[{"name":"host","value":"hidden"}]}},
            "livenessProbe":{"exec":{"command":["port"]}},
            "lifecycle":{"preStop":{"httpGet":{"port":8080,"httpHeaders":[{"name":"a","value":"hidden"}]}},"postStart":{"exec":{"command":["x"]}}}}],
            "initContainers":[{"name":"i","restartPolicy":"Always","startupProbe":{"grpc":{"port":90}}}]},"status":{"podIPs":[{"ip":"10.0.0.1"}]}}"#;
        check(Kind::Pod, text, &["+"]);
        let Observation::Good(Object::Pod(pod)) = object(Kind::Pod, text).unwrap().observed else { panic!("no pod") };
        assert_eq!(*pod.probes, [80, 90, 8080]);
        let tree = tree(Kind::Pod, text).unwrap();
        let held = |text: &str| format!("{tree:?}").contains(text);
        assert!(held("http") && !held("command") && !held("hidden"), "{tree:?}");
    }

    #[test]
    fn what_is_passed_over_is_named_by_its_place() {
        let text = r#"{"metadata":{"labels":{"env":"x","volumes":"y"},"managedFields":[1]},"spec":{"volumes":[1],"containers":[{"env":[1],"args":["env"],"x":{"env":1}}]}}"#;
        let show = |kind| {
            fn out(tree: &Tree) -> String {
                match &tree.value {
                    Value::Map(all) => {
                        format!(
                            "{{{}}}",
                            all.iter().map(|(k, v)| format!("{}:{}", k.name, out(v))).collect::<Vec<_>>().join(",")
                        )
                    }
                    Value::List(all) => format!("[{}]", all.iter().map(out).collect::<Vec<_>>().join(",")),
                    Value::Text(text) => text.clone(),
                    Value::Int(n) => n.to_string(),
                    _ => "-".into(),
                }
            }
            out(&tree(kind, text).unwrap())
        };
        assert_eq!(
            show(Kind::Pod),
            "{metadata:{labels:{env:x,volumes:y},managedFields:-},spec:{volumes:-,containers:[{env:-,args:[env],x:{env:1}}]}}"
        );
        assert_eq!(
            show(Kind::Service),
            "{metadata:{labels:{env:x,volumes:y},managedFields:-},spec:{volumes:[1],containers:[{env:[1],args:[env],x:{env:1}}]}}"
        );
    }
}
