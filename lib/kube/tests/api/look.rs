//! A look at a node: what its pod wrote, or why it wrote nothing; and that the Job goes in any case.

use std::time::Duration;

use serde_json::{Value, json};
use underpass_kube::look::Looked;

use crate::fake::{DEADLINE, Fake, Reply, Seen};

const JOBS: &str = "/apis/batch/v1/namespaces/mesh/jobs";

fn job() -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "mesh"}})
}

fn pods(status: &Value) -> Reply {
    Reply::json(
        &json!({"metadata": {}, "items": [{"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": status}]}),
    )
}

/// What becomes of a look where the pod has this status, and the log and the events are these.
async fn look(status: Option<Value>, log: &'static str, events: Value, patience: Duration) -> Looked {
    let fake = Fake::start(move |seen: &Seen| match &*seen.what {
        "GET /api/v1/namespaces/mesh/pods" => {
            assert_eq!(seen.parameter("labelSelector"), Some("batch.kubernetes.io%2Fjob-name%3Dj"));
            match &status {
                Some(status) => pods(status),
                None => Reply::json(&json!({"metadata": {}, "items": []})),
            }
        }
        "GET /api/v1/namespaces/mesh/pods/p/log" => Reply::of(200, log),
        "GET /api/v1/namespaces/mesh/events" => {
            let about = if status.is_some() { "p" } else { "j" };
            let selector = format!("type%3DWarning%2CinvolvedObject.name%3D{about}");
            assert_eq!(seen.parameter("fieldSelector"), Some(&*selector));
            Reply::json(&json!({"metadata": {}, "items": events}))
        }
        _ => Reply::json(&json!({})),
    })
    .await;
    let looked = fake.client().await.look(&job(), patience).await.unwrap();
    let seen = fake.seen();
    let sent = |what: String| seen.iter().find(|seen| seen.what == what).map(|seen| seen.body.clone());
    assert_eq!(sent(format!("POST {JOBS}")), Some(job()));
    let deleted = sent(format!("DELETE {JOBS}/j")).expect("the Job goes");
    assert_eq!(deleted["propagationPolicy"], "Background", "and its pod with it");
    looked
}

#[tokio::test]
async fn what_a_pod_wrote() {
    let ended = |phase: &str| Some(json!({"phase": phase}));
    assert_eq!(look(ended("Succeeded"), "{}\n", json!([]), DEADLINE).await, Looked::Wrote("{}\n".into()));
    assert_eq!(look(ended("Failed"), "no\n", json!([]), DEADLINE).await, Looked::Failed("no\n".into()));
}

#[tokio::test]
async fn why_a_pod_wrote_nothing() {
    let waiting = |reason: &str, message: Value| {
        Some(
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}),
        )
    };
    let late = |status, events| look(status, "", events, Duration::ZERO);
    let events = json!([
        {"message": "newest\nof all", "lastTimestamp": "2026-01-02T00:00:00Z"},
        {"message": "older", "lastTimestamp": "2026-01-01T00:00:00Z"},
    ]);
    let pull = waiting("ErrImagePull", json!("no such image"));
    assert_eq!(late(pull, events.clone()).await, Looked::Late("no such image".into()));
    assert_eq!(
        late(waiting("ContainerCreating", Value::Null), events.clone()).await,
        Looked::Late("newest of all".into())
    );
    assert_eq!(late(None, events).await, Looked::Late("newest of all".into()));
    assert_eq!(late(None, json!([])).await, Looked::Late("".into()));
}
