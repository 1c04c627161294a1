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

/// Each kind is read once, by the preferred version where that has it.
#[tokio::test]
async fn objects_of_kinds_by_whichever_version_has_them() {
    let of = |name: &str, kind: &str| json!({"name": name, "kind": kind});
    let fake =
        Fake::start(move |seen: &Seen| match seen.what.strip_prefix("GET /apis/mesh.io").unwrap_or("elsewhere") {
            "" => Reply::json(
                &json!({"preferredVersion": {"version": "v1"}, "versions": [{"version": "v2"}, {"version": "v1"}]}),
            ),
            "/v1" => Reply::json(
                &json!({"resources": [of("routes", "Route"), of("routes/status", "Route"), of("others", "Other")]}),
            ),
            "/v2" => Reply::json(&json!({"resources": [of("routes", "Route"), of("gates", "Gate")]})),
            "/v1/routes" => Reply::json(&json!({"metadata": {}, "items": [{"metadata": {"name": "a"}}]})),
            "/v2/gates" => Reply::refuse(403, "Forbidden", json!({})),
            _ => Reply::refuse(404, "NotFound", json!({})),
        })
        .await;
    let client = fake.client().await;
    let listed = client.objects_of("mesh.io", &["Gate", "Route", "Absent"]).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|one| (one.name, one.objects.map_err(|e| e.status()))).collect();
    let route = json!({"apiVersion": "mesh.io/v1", "kind": "Route", "metadata": {"name": "a"}});
    let expected = [("routes.mesh.io".to_owned(), Ok(vec![route])), ("gates.mesh.io".to_owned(), Err(Some(403)))];
    assert_eq!(listed, expected);
    assert!(client.objects_of("absent.io", &["Route"]).await.unwrap().is_empty());
    assert!(client.objects_of("../mesh.io", &["Route"]).await.is_err());
}
