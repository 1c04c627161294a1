//! A look at a node: what its pod wrote, or why it wrote nothing; and that the Job goes in any case.

use std::{future, time::Duration};

use serde_json::{Value, json};
use underpass_kube::look::{Look, Looked};

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
    let look = fake.client().await.look(&job(), patience, future::pending()).await;
    assert_eq!(look.stays, None);
    let looked = look.looked.unwrap();
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

/// One without an end: it waits for a pod that never comes.
async fn stopped(deleted: u16) -> (Look, Vec<String>) {
    let fake = Fake::start(move |seen: &Seen| match &*seen.what {
        "GET /api/v1/namespaces/mesh/pods" => Reply::json(&json!({"metadata": {}, "items": []})),
        what if what.starts_with("DELETE ") => Reply::of(deleted, "{}"),
        _ => Reply::json(&json!({})),
    })
    .await;
    let look = fake.client().await.look(&job(), DEADLINE * 10, future::ready(())).await;
    (look, fake.seen().iter().map(|seen| seen.what.clone()).collect())
}

#[tokio::test]
async fn a_look_that_is_stopped_leaves_no_job() {
    let (look, asked) = stopped(200).await;
    assert_eq!((look.looked, look.stays), (Ok(Looked::Stopped), None));
    assert!(asked.contains(&format!("DELETE {JOBS}/j")), "{asked:?}");
}

#[tokio::test]
async fn what_was_found_is_told_also_where_the_job_stays() {
    let fake = Fake::start(|seen: &Seen| match &*seen.what {
        "GET /api/v1/namespaces/mesh/pods" => pods(&json!({"phase": "Succeeded"})),
        "GET /api/v1/namespaces/mesh/pods/p/log" => Reply::of(200, "{}\n"),
        what if what.starts_with("DELETE ") => Reply::of(403, "{}"),
        _ => Reply::json(&json!({})),
    })
    .await;
    let look = fake.client().await.look(&job(), DEADLINE, future::pending()).await;
    assert_eq!(look.looked, Ok(Looked::Wrote("{}\n".into())));
    assert_eq!(look.stays.and_then(|e| e.status()), Some(403));
    let (look, _) = stopped(404).await;
    assert_eq!(look.stays, None, "it is gone already");
}
