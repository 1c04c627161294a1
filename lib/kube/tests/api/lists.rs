//! Names of objects, read page by page, and the label of a namespace.

use serde_json::{Value, json};
use underpass_core::{Kind, ObjectName, labels::Labels};
use underpass_kube::write::Labelled;

use crate::fake::{Fake, Reply, Seen};

/// Two pages, of one name each.
async fn two_pages() -> Fake {
    Fake::start(|seen: &Seen| {
        assert!(seen.accept.contains("PartialObjectMetadataList"), "{}", seen.accept);
        // 4 MiB are the largest answer: metadata may be of 40 KiB.
        assert_eq!(seen.parameter("limit"), Some("100"), "{}", seen.query);
        let (name, next) = if seen.parameter("continue").is_none() { ("b", "x") } else { ("a", "") };
        Reply::json(
            &json!({"metadata": {"continue": next}, "items": [{"metadata": {"name": name, "namespace": "shop"}}]}),
        )
    })
    .await
}

#[tokio::test]
async fn names_are_listed_whole() {
    let of = |names: [&str; 2]| names.map(|name| ObjectName::new("shop", name));
    let fake = two_pages().await;
    let client = fake.client().await;
    assert_eq!(client.names_of(Kind::PeerAuthentication).await.unwrap(), of(["b", "a"]));
    assert_eq!(client.service_accounts().await.unwrap(), of(["a", "b"]));
    let labels = Labels::from_iter([("app", "cart"), ("v", "1")]);
    assert_eq!(client.pods_selected("shop", &labels).await.unwrap(), of(["b", "a"]));
    assert!(client.pods_selected("../shop", &labels).await.is_err());
    let seen = fake.seen();
    let what: Vec<&str> = seen.iter().step_by(2).map(|seen| &*seen.what).collect();
    assert_eq!(
        what,
        [
            "GET /apis/security.istio.io/v1/peerauthentications",
            "GET /api/v1/serviceaccounts",
            "GET /api/v1/namespaces/shop/pods"
        ]
    );
    assert_eq!(seen[5].parameter("labelSelector"), Some("app%3Dcart%2Cv%3D1"));
    assert_eq!(seen.len(), 6);
}

#[tokio::test]
async fn a_kind_that_is_absent_has_no_names() {
    let absent = Fake::start(|_: &Seen| Reply::refuse(404, "NotFound", json!({}))).await;
    assert!(absent.client().await.names_of(Kind::PeerAuthentication).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_label_is_written_in_our_name() {
    let namespace = json!({"metadata": {"name": "shop", "resourceVersion": "7"}});
    let fake = Fake::start(move |_: &Seen| Reply::json(&namespace)).await;
    let done = fake.client().await.label_namespace("shop", "k", Some("v"), false).await.unwrap();
    assert_eq!(done, Labelled::Changed);
    let seen = fake.seen();
    let write = &seen[1];
    assert_eq!(write.what, "PATCH /api/v1/namespaces/shop");
    assert_eq!((&*write.content_type, &*write.query), ("application/merge-patch+json", "fieldManager=underpass"));
    let patch: Value = json!({"metadata": {"resourceVersion": "7", "labels": {"k": "v"}}});
    assert_eq!(write.body, patch);
}
