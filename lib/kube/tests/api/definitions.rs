//! Definitions and the webhook's roots: what other writers make of them in between.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use underpass_config::definitions::{self, Definition, VERSION_ANNOTATION};
use underpass_kube::write::{AppliedDefinition, CaBundle, DefinitionState};

use crate::fake::{Fake, Reply, Seen};

fn policies() -> Definition {
    definitions::all().remove(0)
}

/// Ours, in the first moment: without conditions.
fn ours(version: &str) -> Value {
    let mut object = policies().object;
    object["metadata"]["uid"] = json!("u-1");
    object["metadata"]["resourceVersion"] = json!("7");
    object["metadata"]["annotations"][VERSION_ANNOTATION] = json!(version);
    object["status"] = json!({"conditions": null});
    object
}

fn foreign(labels: Value) -> Value {
    json!({"metadata": {"uid": "u-2", "resourceVersion": "7", "labels": labels}, "spec": {"versions": [{"name": "v1", "served": true}, {"name": "v1alpha1", "served": false}]}})
}

/// The outcome where the definition is `found` at first and `then` later on, and an apply is answered so, by its number.
async fn apply(
    found: Option<Value>,
    then: Option<Value>,
    applied: fn(usize) -> Reply,
) -> (AppliedDefinition, Vec<Seen>) {
    let (looks, applies) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let fake = Fake::start(move |seen: &Seen| {
        assert!(seen.what.ends_with(
            " /apis/apiextensions.k8s.io/v1/customresourcedefinitions/authorizationpolicies.security.istio.io"
        ));
        if seen.what.starts_with("PATCH ") {
            return applied(applies.fetch_add(1, Ordering::Relaxed));
        }
        let now = if looks.fetch_add(1, Ordering::Relaxed) == 0 { &found } else { &then };
        now.as_ref().map_or_else(|| Reply::refuse(404, "NotFound", json!({})), Reply::json)
    })
    .await;
    let outcome = fake.client().await.apply_definition(&policies()).await.unwrap();
    (outcome, fake.seen())
}

#[tokio::test]
async fn a_definition_is_applied_where_it_is_ours() {
    let (outcome, seen) = apply(None, None, |_| Reply::of(201, ours("1"))).await;
    assert_eq!(outcome, AppliedDefinition::Created);
    assert_eq!((&*seen[1].query, &*seen[1].content_type), ("fieldManager=underpass", "application/apply-patch+yaml"));
    assert_eq!(seen[1].body, policies().object);

    // By the version that was read, and by force: the values are ours.
    let (outcome, seen) = apply(Some(ours("0")), None, |_| {
        let mut now = ours("1");
        now["metadata"]["resourceVersion"] = json!("8");
        Reply::json(&now)
    })
    .await;
    assert_eq!(outcome, AppliedDefinition::Updated);
    assert_eq!(seen[1].query, "fieldManager=underpass&force=true");
    assert_eq!(seen[1].body["metadata"]["resourceVersion"], "7");
    let (outcome, _) = apply(Some(ours("1")), None, |_| Reply::json(&ours("1"))).await;
    assert_eq!(outcome, AppliedDefinition::Unchanged);
}

#[tokio::test]
async fn what_is_not_ours_is_not_written() {
    let never = |_| panic!("it is written");
    let check = async |labels: Value, owner: &str| {
        let (outcome, _) = apply(Some(foreign(labels)), None, never).await;
        assert_eq!(outcome, AppliedDefinition::Foreign { owner: owner.into(), served: vec!["v1".into()] });
    };
    check(
        json!({"app.kubernetes.io/managed-by": "Helm", "chart": "istio"}),
        "another owner (app.kubernetes.io/managed-by=Helm)",
    )
    .await;
    check(json!({"chart": "istio"}), "another owner (chart=istio)").await;
    check(Value::Null, "another owner").await;
    assert_eq!(apply(Some(ours("2")), None, never).await.0, AppliedDefinition::Later { version: 2 });
    let mut leaving = ours("1");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(apply(Some(leaving), None, never).await.0, AppliedDefinition::Deleting);
    // Its owner came between the look and the apply, which is a conflict without force.
    let conflict = |_| Reply::refuse(409, "Conflict", json!({}));
    let (outcome, seen) = apply(None, Some(foreign(json!({"chart": "istio"}))), conflict).await;
    assert!(matches!(outcome, AppliedDefinition::Foreign { .. }) && seen.len() == 3, "{outcome:?}");
}

#[tokio::test]
async fn a_definition_says_what_it_waits_for() {
    let check = async |conditions: Value, expected: DefinitionState| {
        let mut object = ours("1");
        object["status"]["conditions"] = conditions;
        let fake = Fake::start(move |_: &Seen| Reply::json(&object)).await;
        let found = fake.client().await.definition("x.security.istio.io").await.unwrap().unwrap();
        assert_eq!(found.state, expected);
    };
    check(Value::Null, DefinitionState::Waiting("".into())).await;
    check(json!([{"type": "Established", "status": "True"}]), DefinitionState::Established).await;
    let taken = json!([{"type": "Established", "status": "False", "message": "no"}, {"type": "NamesAccepted", "status": "False", "message": "ap is taken"}]);
    check(taken, DefinitionState::Waiting("ap is taken".into())).await;
}

#[tokio::test]
async fn a_definition_is_deleted_by_its_uid() {
    let status = Arc::new(AtomicUsize::new(200));
    let answer = Arc::clone(&status);
    let fake = Fake::start(move |_: &Seen| match answer.load(Ordering::Relaxed) {
        200 => Reply::json(&json!({})),
        code => Reply::refuse(u16::try_from(code).unwrap(), "x", json!({})),
    })
    .await;
    let client = fake.client().await;
    for (code, expected) in [(200, Some(true)), (404, Some(false)), (409, Some(false)), (403, None)] {
        status.store(code, Ordering::Relaxed);
        assert_eq!(client.delete_definition("x.security.istio.io", "u-1").await.ok(), expected, "{code}");
    }
    assert_eq!(fake.seen()[0].body["preconditions"], json!({"uid": "u-1"}));
}

#[tokio::test]
async fn the_roots_of_the_webhook_are_kept() {
    let check = async |webhooks: Option<Value>, expected: CaBundle| {
        let fake = Fake::start(move |seen: &Seen| match (&webhooks, seen.what.starts_with("PATCH ")) {
            (None, _) => Reply::refuse(404, "NotFound", json!({})),
            (Some(webhooks), false) => {
                Reply::json(&json!({"metadata": {"resourceVersion": "7"}, "webhooks": webhooks}))
            }
            (Some(_), true) => Reply::json(&json!({})),
        })
        .await;
        assert_eq!(fake.client().await.put_ca_bundle("underpass", "roots").await, Ok(expected));
        fake.seen()
    };
    let of = |client_config: Value| json!([{"name": "another", "clientConfig": {}}, {"name": "policies.underpass.dev", "clientConfig": client_config}]);
    check(None, CaBundle::Absent).await;
    check(Some(Value::Array(Vec::new())), CaBundle::Absent).await;
    check(Some(of(json!({"caBundle": "cm9vdHM="}))), CaBundle::Unchanged).await;
    for other in [json!({}), json!({"caBundle": "b2xk"})] {
        let seen = check(Some(of(other)), CaBundle::Written).await;
        assert_eq!(
            seen[1].what,
            "PATCH /apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/underpass"
        );
        assert_eq!(seen[1].content_type, "application/strategic-merge-patch+json");
        let entry = json!({"name": "policies.underpass.dev", "clientConfig": {"caBundle": "cm9vdHM="}});
        assert_eq!(seen[1].body, json!({"metadata": {"resourceVersion": "7"}, "webhooks": [entry]}));
    }
}
