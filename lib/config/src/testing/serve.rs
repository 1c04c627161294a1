//! Objects as an API server gives them: with all that it adds to what users wrote.

use proptest::prelude::*;
use serde_json::{Value, json};
use underpass_core::{Kind, objects::Object};

use super::to_json;

/// What an API server adds.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// `metadata.resourceVersion`.
    pub resource_version: u64,
    /// `metadata.generation`, and the count of entries of `managedFields`.
    pub generation: u8,
    /// Controllers have written a status, where the kind's status is not read.
    pub has_status: bool,
    /// An element of a list has neither `apiVersion` nor `kind`, of Kubernetes' own kinds.
    pub in_list: bool,
}

/// Any of it.
pub fn some_served() -> impl Strategy<Value = Served> {
    (1u64.., 0u8..3, any::<bool>(), any::<bool>()).prop_map(|(resource_version, generation, has_status, in_list)| {
        Served { resource_version, generation, has_status, in_list }
    })
}

/// The object as the API server gives it.
#[must_use]
pub fn served(object: &Object, served: Served) -> Value {
    let mut all = to_json(object);
    let kind = object.key().kind;
    add(&mut all["metadata"], "uid", json!(format!("0-{}", served.resource_version)));
    all["metadata"]["resourceVersion"] = json!(served.resource_version.to_string());
    all["metadata"]["generation"] = json!(served.generation);
    if kind != Kind::PeerAuthentication {
        // There its absence has a meaning of its own.
        add(&mut all["metadata"], "creationTimestamp", json!("2026-01-31T12:00:00Z"));
    }
    let managed = |n| {
        json!({"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-31T12:00:00Z",
               "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {format!("f:{n}"): {}}}, "f:spec": null}})
    };
    all["metadata"]["managedFields"] = (0..served.generation).map(managed).collect();
    match kind {
        Kind::Pod => pod(&mut all, served),
        Kind::Service => service(&mut all),
        Kind::EndpointSlice => endpoint_slice(&mut all),
        Kind::Node => {
            add(&mut all["spec"], "podCIDRs", json!(["10.244.0.0/24"]));
            add(&mut all["status"], "images", json!([{"names": ["app"], "sizeBytes": 18_446_744_073_709_551_615_u64}]));
        }
        Kind::Namespace => {
            add(&mut all["spec"], "finalizers", json!(["kubernetes"]));
            add(&mut all["status"], "phase", json!("Active"));
        }
        Kind::Gateway
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::RequestAuthentication
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::ReferenceGrant
        | Kind::TlsRoute
        | Kind::TcpRoute
        | Kind::MeshConfig => {
            if served.has_status {
                all["status"] =
                    json!({"observedGeneration": "1", "conditions": [{"type": "Reconciled", "message": null}]});
            }
        }
    }
    let is_own = matches!(kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication);
    if served.in_list && !is_own {
        let all = all.as_object_mut().unwrap();
        all.remove("apiVersion");
        all.remove("kind");
    }
    all
}

/// Where the author has not written it.
fn add(at: &mut Value, key: &str, value: Value) {
    if at[key].is_null() {
        at[key] = value;
    }
}

fn pod(all: &mut Value, served: Served) {
    let spec = &mut all["spec"];
    for container in spec["containers"].as_array_mut().unwrap() {
        add(container, "resources", json!({}));
        add(container, "terminationMessagePath", json!("/dev/termination-log"));
        add(container, "env", json!([{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]));
        add(container, "volumeMounts", json!([{"name": "token", "mountPath": "/var/run", "readOnly": true}]));
        for port in container["ports"].as_array_mut().into_iter().flatten() {
            add(port, "protocol", json!("TCP"));
        }
    }
    add(spec, "serviceAccount", spec["serviceAccountName"].clone());
    add(spec, "restartPolicy", json!("Always"));
    add(spec, "dnsPolicy", json!("ClusterFirst"));
    add(spec, "terminationGracePeriodSeconds", json!(30));
    add(spec, "tolerations", json!([{"key": "node.kubernetes.io/not-ready", "tolerationSeconds": 300}]));
    add(
        spec,
        "volumes",
        json!([{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]),
    );
    add(spec, "securityContext", json!({}));
    let first = all["status"]["podIPs"][0]["ip"].clone();
    if !first.is_null() {
        add(&mut all["status"], "podIP", first);
    }
    add(&mut all["status"], "qosClass", json!("BestEffort"));
    if served.has_status {
        let state = json!({"running": {"startedAt": "2026-01-31T12:00:00Z"}});
        add(&mut all["status"], "containerStatuses", json!([{"name": "app", "ready": true, "state": state}]));
    }
}

fn service(all: &mut Value) {
    let spec = &mut all["spec"];
    let headless = spec["clusterIPs"].as_array().is_none_or(Vec::is_empty);
    let is_external = spec["type"] == "ExternalName";
    let first = if headless { json!("None") } else { spec["clusterIPs"][0].clone() };
    if !is_external {
        add(spec, "type", json!("ClusterIP"));
        spec["clusterIP"] = first.clone();
        if headless {
            spec["clusterIPs"] = json!([first]);
        }
        add(spec, "ipFamilies", json!(["IPv4"]));
        add(spec, "ipFamilyPolicy", json!("SingleStack"));
        add(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    add(spec, "sessionAffinity", json!("None"));
    add(&mut all["status"], "loadBalancer", json!({}));
}

fn endpoint_slice(all: &mut Value) {
    for port in all["ports"].as_array_mut().into_iter().flatten() {
        add(port, "protocol", json!("TCP"));
    }
}
