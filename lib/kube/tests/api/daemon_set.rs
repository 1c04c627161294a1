//! A DaemonSet's pods: whose they are, which nodes they are for, and what they wait for.

use serde_json::{Value, json};
use underpass_core::ObjectName;
use underpass_kube::daemon_set::{DaemonPod, DaemonSet};

use crate::fake::{Fake, Reply, Seen};

fn daemon_set(generation: u64, observed: Option<u64>) -> Value {
    json!({
        "metadata": {"name": "d", "namespace": "mesh", "uid": "u-2", "generation": generation},
        "spec": {"selector": {"matchLabels": {"app": "d", "of": "x"}}, "template": {}},
        "status": {"observedGeneration": observed, "desiredNumberScheduled": 7, "numberReady": 1},
    })
}

/// A pod of this owner with this spec and status.
fn pod(owner: &str, spec: Value, status: Value) -> Value {
    json!({"metadata": {"name": "p", "ownerReferences": [{"kind": "DaemonSet", "uid": owner}]}, "spec": spec, "status": status})
}

fn on(node: &str) -> Value {
    json!({"nodeName": node})
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": status, "message": message}]})
}

fn first(state: Value) -> Value {
    json!({"conditions": [{"type": "Ready", "status": "False"}], "initContainerStatuses": [state],
           "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]})
}

#[tokio::test]
async fn each_pod_says_its_node_and_what_it_waits_for() {
    let unplaced = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n-3"]}]}]}}}});
    let mut leaving = pod("u-2", on("n-9"), condition("Ready", "True", ""));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let pages = [
        json!([
            pod("u-2", on("n-1"), condition("Ready", "True", "")),
            pod("u-1", on("n-8"), condition("Ready", "True", "")),
            leaving,
            pod("u-2", on("n-2"), json!({})),
            pod("u-2", unplaced, condition("PodScheduled", "False", "1 node has the pod of another")),
        ]),
        json!([
            pod(
                "u-2",
                on("n-4"),
                first(json!({"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "left: x\nleft: y\n"}}}))
            ),
            pod(
                "u-2",
                on("n-5"),
                first(json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}))
            ),
            pod("u-2", on("n-6"), first(json!({"state": {"terminated": {"exitCode": 0, "message": "removed: /a"}}}))),
            pod("u-2", on("n-7"), first(json!({"state": {"waiting": {"reason": "CreateContainerError"}}}))),
        ]),
    ];
    let fake = Fake::start(move |seen: &Seen| match (&*seen.what, seen.parameter("continue")) {
        ("GET /apis/apps/v1/namespaces/mesh/daemonsets/d", _) => Reply::json(&daemon_set(3, Some(3))),
        ("GET /api/v1/namespaces/mesh/pods", None) => {
            Reply::json(&json!({"metadata": {"continue": "more"}, "items": pages[0]}))
        }
        ("GET /api/v1/namespaces/mesh/pods", Some("more")) => Reply::json(&json!({"metadata": {}, "items": pages[1]})),
        _ => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let found = fake.client().await.daemon_set(&ObjectName::new("mesh", "d")).await.unwrap().unwrap();
    // 4 MiB are the largest answer: a pod may be of 80 KiB.
    for seen in &fake.seen()[1..] {
        assert_eq!(seen.parameter("limit"), Some("50"), "{}", seen.query);
    }
    let expected = [
        ("n-1", None),
        ("n-2", Some("")),
        ("n-3", Some("1 node has the pod of another")),
        ("n-4", Some("left: x left: y")),
        ("n-5", Some("no such image")),
        ("n-6", Some("")),
        ("n-7", Some("CreateContainerError")),
    ];
    let pods = expected.map(|(node, waits)| DaemonPod { node: node.into(), waits: waits.map(Into::into) });
    assert_eq!(found, DaemonSet { wanted: Some(7), pods: pods.into() });
    let asked = fake.seen();
    assert!(asked[1].query.contains("labelSelector=app%3Dd%2Cof%3Dx"), "{asked:?}");
}

#[tokio::test]
async fn one_that_its_controller_has_not_seen_wants_nothing_yet() {
    for (generation, observed, wanted) in [(1, None, None), (2, Some(1), None), (2, Some(2), Some(7))] {
        let fake = Fake::start(move |seen: &Seen| match seen.what.contains("daemonsets") {
            true => Reply::json(&daemon_set(generation, observed)),
            false => Reply::json(&json!({"metadata": {}, "items": []})),
        })
        .await;
        let found = fake.client().await.daemon_set(&ObjectName::new("mesh", "d")).await.unwrap();
        assert_eq!(found, Some(DaemonSet { wanted, pods: Vec::new() }), "{observed:?} of {generation}");
    }
}

#[tokio::test]
async fn one_that_is_gone_is_none_and_a_refusal_is_an_error() {
    let fake = Fake::start(|seen: &Seen| match seen.what.ends_with("/gone") {
        true => Reply::refuse(404, "NotFound", json!({})),
        false => Reply::refuse(403, "Forbidden", json!({})),
    })
    .await;
    let client = fake.client().await;
    assert_eq!(client.daemon_set(&ObjectName::new("mesh", "gone")).await, Ok(None));
    assert_eq!(client.daemon_set(&ObjectName::new("mesh", "d")).await.unwrap_err().status(), Some(403));
    client.daemon_set(&ObjectName::new("..", "d")).await.unwrap_err();
    assert_eq!(fake.seen().len(), 2);
}
