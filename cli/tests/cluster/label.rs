//! `underpass label namespace`: what it writes, and what it leaves.

use expect_test::expect;
use serde_json::{Value, json};

use crate::fake::Cluster;

#[test]
fn a_namespace_gets_the_label() {
    let namespace = |labels: Value| json!({"metadata": {"name": "shop", "resourceVersion": "7", "labels": labels}});
    let path = "/api/v1/namespaces/shop";
    let plain = Cluster::start().object(path, namespace(json!({"a": "b"})));
    plain.check(
        &["label", "namespace", "shop"],
        &expect![[r#"
        exit 0
        namespace/shop labeled
    "#]],
    );
    let patch = |value: Value| {
        let metadata = json!({"resourceVersion": "7", "labels": {"istio.io/dataplane-mode": value}});
        vec![("PATCH /api/v1/namespaces/shop".to_owned(), json!({"metadata": metadata}))]
    };
    assert_eq!(plain.written(), patch(json!("ambient")));
    plain.check(
        &["label", "namespace", "nowhere"],
        &expect![[r#"
        exit 1
        ! error: there is no namespace nowhere
    "#]],
    );
    let never = Cluster::start().object(path, namespace(json!({"a": "b"})));
    never.check(
        &["label", "namespace", "shop", "--remove"],
        &expect![[r#"
        exit 0
        namespace/shop not unlabeled: it has no such label
    "#]],
    );
    let other = Cluster::start().object(path, namespace(json!({"istio.io/dataplane-mode": "none"})));
    other.check(
        &["label", "namespace", "shop"],
        &expect![[r#"
        exit 1
        ! error: namespace shop has the label istio.io/dataplane-mode=none already; --overwrite replaces it with ambient
    "#]],
    );
    assert_eq!(other.written(), []);
    other.check(
        &["label", "ns", "shop", "--overwrite"],
        &expect![[r#"
        exit 0
        namespace/shop labeled
    "#]],
    );
    assert_eq!(other.written(), patch(json!("ambient")));
    let removed = Cluster::start().object(path, namespace(json!({"istio.io/dataplane-mode": "ambient"})));
    removed.check(
        &["label", "namespace", "shop"],
        &expect![[r#"
        exit 0
        namespace/shop not labeled: it has the label
    "#]],
    );
    assert_eq!(removed.written(), []);
    removed.check(
        &["label", "namespace", "shop", "--remove"],
        &expect![[r#"
        exit 0
        namespace/shop unlabeled
    "#]],
    );
    assert_eq!(removed.written(), patch(Value::Null));
}

/// What was done is told, also where something else was not.
#[test]
fn of_several_namespaces_each_outcome_is_told() {
    let namespace = |name: &str| json!({"metadata": {"name": name, "resourceVersion": "7"}});
    let of = |name: &str| format!("/api/v1/namespaces/{name}");
    let cluster = Cluster::start().object(&of("a"), namespace("a")).object(&of("c"), namespace("c"));
    cluster.check(
        &["label", "namespace", "a", "b", "c"],
        &expect![[r#"
        exit 1
        namespace/a labeled
        namespace/c labeled
        ! error: there is no namespace b
    "#]],
    );
    let written: Vec<String> = cluster.written().into_iter().map(|(what, _)| what).collect();
    assert_eq!(written, ["a", "c"].map(|name| format!("PATCH {}", of(name))));
}
