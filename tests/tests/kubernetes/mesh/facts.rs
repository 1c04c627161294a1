//! The same facts by every way: the World of an agent in a cluster is the one that files with the same manifests make.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use underpass_tests::{
    cluster::{CONTROL_NODE, Cluster},
    mesh::Source,
};

/// Services with endpoints of every kind.
pub(crate) const SERVICES: &str = include_str!("../../manifests/services.yaml");

/// Policies with every field, none of which denies what a test calls.
pub(crate) const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: of-b2, namespace: mesh}
spec:
  selector: {matchLabels: {app: b2}}
  rules:
    - from:
        - source: {principals: [cluster.local/ns/mesh/sa/a, '*/sa/a2'], notPrincipals: [cluster.local/ns/mesh/sa/b]}
        - source: {namespaces: [mesh, o*], notNamespaces: [none], ipBlocks: [10.244.1.0/24, 'fd00:10:244:1::/64']}
        - source: {serviceAccounts: [mesh/a, a2], notIpBlocks: [10.244.2.0/24]}
      to: [{operation: {ports: ['8080'], notPorts: ['9090']}}]
      when: [{key: destination.port, values: ['8080']}, {key: source.namespace, notValues: [none]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, namespace: mesh, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: needs-a-waypoint, namespace: out}
spec: {action: DENY, selector: {matchLabels: {app: o2}}, rules: [{to: [{operation: {methods: [POST], ports: ['7070']}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everywhere, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [elsewhere]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: mesh}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ports-of-a2, namespace: mesh}
spec: {selector: {matchLabels: {app: a2}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: PERMISSIVE}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: PERMISSIVE}}
";

pub(crate) fn are_those_of_files(cluster: &mut Cluster) -> Result<()> {
    let in_cluster = cluster.mesh.set_source(Source::Manifests(cluster.manifests().to_owned()));
    // Of a node without pods of its own.
    cluster.mesh.start_on(CONTROL_NODE)?;
    let of_files = facts(cluster, CONTROL_NODE)?;
    for node in super::NODES {
        let of_control = facts(cluster, node)?;
        let names: BTreeSet<_> = of_files.keys().chain(of_control.keys()).collect();
        let both = |name: &String| {
            let [of_files, of_control] = [&of_files, &of_control].map(|facts| facts.get(name).unwrap_or(&Value::Null));
            (of_files != of_control).then(|| format!("{name}: {of_files} of files, {of_control} of control"))
        };
        let differing: Vec<_> = names.into_iter().filter_map(both).collect();
        ensure!(differing.is_empty(), "the World of {node}: {}", differing.join("\n"));
    }
    cluster.mesh.terminate(CONTROL_NODE)?;
    cluster.mesh.set_source(in_cluster);
    Ok(())
}

/// Every value of the facts of a node's agent by its path, but for what may differ.
fn facts(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, Value>> {
    let mut dump = cluster.mesh.admin(node, "/config_dump")?;
    let mut world = dump["world"].as_object_mut().map(std::mem::take).context("a World")?;
    // A count of changes, of which a control plane hands on others than there are in files.
    ensure!(world.remove("version").is_some_and(|version| version != 0), "no World yet");
    let modes = modes_of_namespaces(&world)?;
    world.remove("mtls");
    let mut found = BTreeMap::new();
    for (kind, name) in [("workloads", "uid"), ("services", "hostname"), ("policies", "name")] {
        let all = world.remove(kind).and_then(|mut all| all.as_array_mut().map(std::mem::take)).context(kind)?;
        ensure!(!all.is_empty(), "no {kind} on {node}");
        for mut fact in all {
            if kind == "workloads" {
                // Files have the label that decides; a control plane goes by the word of the pod's node.
                fact["enrolment"].as_object_mut().context("an enrolment")?.remove("because");
                // A control plane has the mode of a namespace, or of the mesh, with each of its workloads.
                let namespace = fact["name"].as_str().and_then(|name| name.split('/').next()).context("a name")?;
                let inherited = modes.get(namespace).or_else(|| modes.get("istio-system")).cloned();
                if fact["mtls"]["default"].is_null() {
                    fact["mtls"]["default"] = inherited.unwrap_or_default();
                }
            }
            // Every API server has a service of itself.
            let is_of_api_server = fact["name"].as_str().is_some_and(|name| name.starts_with("default/kubernetes"));
            if !is_of_api_server {
                collect(&fact[name].to_string(), &fact, &mut found);
            }
        }
    }
    collect("world", &world.into(), &mut found);
    Ok(found)
}

/// Every value within this one, by its path.
pub(crate) fn collect(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| collect(&format!("{path}.{name}"), value, found));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(n, value)| collect(&format!("{path}[{n}]"), value, found));
        }
        // Of what only a waypoint judges, a control plane says which fields a rule has.
        Value::String(_) if path.contains(".l7.") => drop(found.insert(path.to_owned(), "some".into())),
        one => drop(found.insert(path.to_owned(), one.clone())),
    }
}

/// What namespaces say about mutual TLS, by their names.
fn modes_of_namespaces(world: &Map<String, Value>) -> Result<BTreeMap<String, Value>> {
    let of_namespaces = world.get("mtls").and_then(Value::as_array).context("mtls")?;
    let one = |of: &Value| Some((of["namespace"].as_str()?.to_owned(), of["says"].clone()));
    of_namespaces.iter().map(|of| one(of).with_context(|| of.to_string())).collect()
}
