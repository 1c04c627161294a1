//! Objects as manifests have them, taken apart as an API server takes them: it gives uids itself, and it has status written
//! apart from the rest.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// What a running cluster would have come to by manifests.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Objects {
    /// Without status and uid; namespaces first, then the accounts of the pods, then the rest.
    pub(super) wanted: Vec<Value>,
    /// The status of those that have one, with only their names beside it.
    pub(super) statuses: Vec<Value>,
}

impl Objects {
    /// Reads YAML documents. Lists are not taken apart.
    pub(super) fn parse(yaml: &str) -> Result<Self> {
        let all: Vec<Value> = serde_saphyr::from_multiple(yaml).context("these manifests")?;
        let mut it = Self::default();
        let (mut namespaces, mut accounts, mut others) = (Vec::new(), BTreeSet::new(), Vec::new());
        for mut object in all.into_iter().filter(|object| !object.is_null()) {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            ensure!(!kind.is_empty() && object["metadata"]["name"].is_string(), "no object: {object}");
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("uid");
            }
            let status = object.as_object_mut().and_then(|object| object.remove("status"));
            if let Some(status) = status {
                it.statuses.push(json!({
                    "apiVersion": object["apiVersion"],
                    "kind": kind,
                    "metadata": { "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"] },
                    "status": status,
                }));
            }
            if kind == "Pod" {
                let name = |value: &Value| value.as_str().unwrap_or("default").to_owned();
                accounts.insert((name(&object["metadata"]["namespace"]), name(&object["spec"]["serviceAccountName"])));
            }
            if kind == "Namespace" { namespaces.push(object) } else { others.push(object) }
        }
        let accounts = accounts.into_iter().map(|(namespace, name)| {
            let metadata = json!({ "name": name, "namespace": namespace });
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })
        });
        it.wanted = namespaces.into_iter().chain(accounts).chain(others).collect();
        Ok(it)
    }

    /// The same objects as the API server has them (one, or a list), with the status that they are to have.
    pub(super) fn with_status(&self, served: Value) -> Result<Vec<Value>> {
        let mut served = match served {
            Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => list.remove("items"),
            one => Some(json!([one])),
        };
        let mut served = served.as_mut().and_then(Value::as_array_mut).map(std::mem::take).context("a list")?;
        ensure!(served.len() == self.statuses.len(), "{} objects for {} statuses", served.len(), self.statuses.len());
        let identity =
            |o: &Value| (o["kind"].clone(), o["metadata"]["namespace"].clone(), o["metadata"]["name"].clone());
        for (object, wanted) in served.iter_mut().zip(&self.statuses) {
            ensure!(identity(object) == identity(wanted), "{object} for {wanted}");
            object["status"] = wanted["status"].clone();
        }
        Ok(served)
    }
}

/// Many objects as one.
pub(super) fn list(objects: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": objects })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: mesh, uid: 1-2, labels: {app: a}}
spec: {nodeName: node-1, serviceAccountName: of-a, containers: [{name: app, image: app}]}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: mesh}
spec: {serviceAccountName: of-a}
---
# Nothing but this.
---
apiVersion: v1
kind: Namespace
metadata: {name: mesh}
";

    #[test]
    fn an_api_server_takes_what_manifests_say() {
        let objects = Objects::parse(MANIFESTS).expect("objects");
        let names = |objects: &[Value]| -> Vec<String> {
            let name = |o: &Value| format!("{} {}", o["kind"], o["metadata"]["name"]).replace('"', "");
            objects.iter().map(name).collect()
        };
        assert_eq!(names(&objects.wanted), ["Namespace mesh", "ServiceAccount of-a", "Pod a", "Pod b"]);
        assert_eq!(names(&objects.statuses), ["Pod a"]);
        let metadata = json!({ "name": "a", "namespace": "mesh", "labels": { "app": "a" } });
        assert_eq!(objects.wanted[2]["metadata"], metadata);
        assert_eq!(objects.wanted[2]["status"], Value::Null);
        let metadata = json!({ "name": "a", "namespace": "mesh" });
        assert_eq!(objects.statuses[0]["metadata"], metadata);
        assert_eq!(objects.statuses[0]["status"], json!({ "phase": "Running", "podIP": "10.0.0.1" }));
    }

    #[test]
    fn statuses_go_into_what_is_served() {
        let objects = Objects::parse(MANIFESTS).expect("objects");
        let pod = |name: &str| json!({ "kind": "Pod", "metadata": { "name": name, "namespace": "mesh", "uid": "x" } });
        for served in [pod("a"), list(&[pod("a")])] {
            let whole = objects.with_status(served).expect("the same");
            assert_eq!(whole[0]["status"]["phase"], "Running");
            assert_eq!(whole[0]["metadata"]["uid"], "x");
        }
        for other in [pod("b"), list(&[]), list(&[pod("a"), pod("b")])] {
            assert!(objects.with_status(other.clone()).is_err(), "{other}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["- a", "kind: Pod", "kind: Pod\nmetadata: {}", "a: {"] {
            assert!(Objects::parse(text).is_err(), "{text}");
        }
    }
}
