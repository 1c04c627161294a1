//! Reads and writes of single objects, and what becomes of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use underpass_core::ObjectName;
use underpass_kube::{
    Access, Client,
    write::{Annotated, EventType, Made, NewSecret, PodEvent, Reporter, RootConfigMap, Untainted, WatchedSecret},
};

use crate::fake::{DEADLINE, Fake, Part, Reply, Seen, send};

fn secret(data: &str, version: u64) -> Value {
    json!({"kind": "Secret", "metadata": {"name": "ca", "namespace": "mesh", "resourceVersion": version.to_string()}, "data": {"key": data}})
}

fn name() -> ObjectName {
    ObjectName::new("mesh", "ca")
}

fn new_secret() -> NewSecret {
    let data = BTreeMap::from([("key".to_owned(), b"mine".to_vec().into())]);
    NewSecret { name: name(), r#type: "Opaque".into(), data }
}

#[tokio::test]
async fn a_secret_is_made_once() {
    // two replicas, and one API server that takes the first
    let kept: Mutex<Option<Value>> = Mutex::default();
    let fake = Fake::start(move |seen: &Seen| {
        let mut kept = kept.lock().unwrap();
        match (&*seen.what, kept.clone()) {
            ("POST /api/v1/namespaces/mesh/secrets", None) => {
                let mut made = seen.body.clone();
                made["metadata"]["resourceVersion"] = json!("7");
                Reply::of(201, kept.insert(made))
            }
            ("POST /api/v1/namespaces/mesh/secrets", Some(_)) => Reply::refuse(409, "AlreadyExists", json!({})),
            ("GET /api/v1/namespaces/mesh/secrets/ca", Some(found)) => Reply::json(&found),
            _ => Reply::refuse(404, "NotFound", json!({})),
        }
    })
    .await;
    let client = fake.client().await;
    assert_eq!(client.secret(&name()).await, Ok(None));
    let Made::Created(first) = client.create_or_get_secret(&new_secret()).await.unwrap() else { panic!("made") };
    assert_eq!((&*first.resource_version, first.data["key"].as_slice()), ("7", b"mine".as_slice()));
    let other = NewSecret { data: BTreeMap::from([("key".to_owned(), b"other".to_vec().into())]), ..new_secret() };
    assert_eq!(client.create_or_get_secret(&other).await, Ok(Made::Found(first.clone())));
    assert_eq!(client.secret(&name()).await, Ok(Some(first.clone())));
    assert!(!format!("{first:?} {other:?}").contains("109"), "no value is shown: {first:?} {other:?}");
    let body = &fake.seen()[1].body;
    assert_eq!(body["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "underpass"}));
    assert_eq!((&body["data"]["key"], &body["type"]), (&json!("bWluZQ=="), &json!("Opaque")));
}

#[tokio::test]
async fn values_of_a_secret_are_exchanged_at_once() {
    let kept = Mutex::new(secret("YQ==", 6));
    let fake = Fake::start(move |seen: &Seen| {
        let mut kept = kept.lock().unwrap();
        match &*seen.what {
            "GET /api/v1/namespaces/mesh/secrets/ca" => Reply::json(&kept),
            "PATCH /api/v1/namespaces/mesh/secrets/ca"
                if seen.body["metadata"]["resourceVersion"] != kept["metadata"]["resourceVersion"] =>
            {
                Reply::refuse(409, "Conflict", json!({}))
            }
            "PATCH /api/v1/namespaces/mesh/secrets/ca" => {
                kept["metadata"]["resourceVersion"] = json!("7");
                kept["metadata"]["annotations"] = seen.body["metadata"]["annotations"].clone();
                kept["data"] = json!({"next": "Yg=="});
                Reply::json(&kept)
            }
            _ => Reply::refuse(404, "NotFound", json!({})),
        }
    })
    .await;
    let client = fake.client().await;
    let first = client.secret(&name()).await.unwrap().unwrap();
    assert_eq!(first.changed, SystemTime::UNIX_EPOCH);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let values = [("key", None), ("next", Some("b"))];
    let second = client.exchange_secret(&first, &values, now).await.unwrap();
    assert_eq!((second.data["next"].as_slice(), second.changed), (b"b".as_slice(), now));
    let seen = fake.seen();
    let patch = &seen.last().unwrap().body;
    assert_eq!(patch["data"], json!({"key": null, "next": "Yg=="}));
    assert_eq!(patch["metadata"]["annotations"], json!({"underpass.dev/changed": "1970-01-02T00:00:00Z"}));
    let late = client.exchange_secret(&first, &values, now).await.unwrap_err();
    assert_eq!(late.status(), Some(409));
}

/// Its values would count for older than they are, and an old root for one that nothing uses.
#[tokio::test]
async fn the_time_of_an_exchange_is_read_or_refused() {
    let fake = Fake::start(|_: &Seen| {
        let mut secret = secret("YQ==", 6);
        secret["metadata"]["annotations"] = json!({"underpass.dev/changed": "yesterday"});
        Reply::json(&secret)
    })
    .await;
    let error = fake.client().await.secret(&name()).await.unwrap_err().to_string();
    assert!(error.contains("secrets/ca") && error.contains("underpass.dev/changed: \"yesterday\""), "{error}");
}

#[tokio::test]
async fn a_secret_that_comes_and_goes_is_an_error_at_last() {
    let fake = Fake::start(|seen: &Seen| match seen.what.starts_with("POST") {
        true => Reply::refuse(409, "AlreadyExists", json!({})),
        false => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let failed = fake.client().await.create_or_get_secret(&new_secret()).await.unwrap_err();
    assert_eq!(failed.to_string(), "POST /api/v1/namespaces/mesh/secrets: 409 AlreadyExists: refused: AlreadyExists");
    assert_eq!(fake.client().await.secret(&ObjectName::new("..", "x")).await, Ok(None));
}

#[tokio::test]
async fn a_secret_is_watched() {
    let (watch, reply) = Reply::stream();
    let reply = Mutex::new(Some(reply));
    let fake = Fake::start(move |seen: &Seen| match seen.is_watch() {
        true => reply.lock().unwrap().take().unwrap_or_else(|| Reply::stream().1),
        false => Reply::json(&json!({"metadata": {"resourceVersion": "5"}, "items": []})),
    })
    .await;
    let client = fake.client().await;
    let (sender, mut said) = mpsc::unbounded_channel();
    let watching = tokio::spawn(async move { client.watch_secret(name(), |now| drop(sender.send(now))).await });
    let mut next = async || tokio::time::timeout(DEADLINE, said.recv()).await.expect("in time").expect("it runs");
    assert_eq!(next().await, WatchedSecret::Is(None));
    send(&watch, &[json!({"type": "ADDED", "object": secret("YQ==", 6)})]);
    let WatchedSecret::Is(Some(is)) = next().await else { panic!("a secret") };
    assert_eq!((is.data["key"].as_slice(), &*is.resource_version), (b"a".as_slice(), "6"));
    send(&watch, &[json!({"type": "DELETED", "object": secret("YQ==", 7)})]);
    assert_eq!(next().await, WatchedSecret::Is(None));
    send(&watch, &[json!({"type": "ADDED", "object": secret("!", 8)})]);
    assert!(matches!(next().await, WatchedSecret::Failing(_)));
    watching.abort();
    assert_eq!(fake.seen()[0].parameter("fieldSelector"), Some("metadata.name%3Dca"));
    drop(watch.send(Part::Cut));
}

/// The outcome of writing roots where the ConfigMap is `found` and the creation is answered so, and the requests.
async fn put_roots(found: Option<Value>, written: fn(usize) -> Reply) -> (RootConfigMap, Vec<Seen>) {
    let writes = AtomicUsize::new(0);
    let fake = Fake::start(move |seen: &Seen| match (&found, seen.what.starts_with("GET")) {
        (Some(found), true) => Reply::json(found),
        (None, true) => Reply::refuse(404, "NotFound", json!({})),
        _ => written(writes.fetch_add(1, Ordering::Relaxed)),
    })
    .await;
    let outcome = fake.client().await.put_roots("team", "roots").await.unwrap();
    (outcome, fake.seen())
}

fn config_map(labels: &Value, data: &Value) -> Option<Value> {
    Some(json!({"metadata": {"name": "istio-ca-root-cert", "resourceVersion": "9", "labels": labels}, "data": data}))
}

#[tokio::test]
async fn roots_are_written_where_they_are_ours() {
    let (ours, theirs) = (json!({"app.kubernetes.io/managed-by": "underpass"}), json!({"istio.io/config": "true"}));
    let done = |_| Reply::of(200, "{}");

    let (outcome, seen) = put_roots(None, done).await;
    assert_eq!((outcome, seen.len()), (RootConfigMap::Written, 2));
    assert_eq!(
        (&*seen[1].what, &*seen[1].query),
        ("POST /api/v1/namespaces/team/configmaps", "fieldManager=underpass")
    );
    assert_eq!(seen[1].body["data"], json!({"root-cert.pem": "roots"}));
    assert_eq!(seen[1].body["metadata"]["labels"], ours);

    let (outcome, seen) = put_roots(config_map(&ours, &json!({"root-cert.pem": "old"})), done).await;
    assert_eq!((outcome, seen.len()), (RootConfigMap::Written, 2));
    assert_eq!(seen[1].what, "PATCH /api/v1/namespaces/team/configmaps/istio-ca-root-cert");
    assert_eq!(
        (&*seen[1].query, &*seen[1].content_type),
        ("fieldManager=underpass&force=true", "application/apply-patch+yaml")
    );
    assert_eq!(seen[1].body["metadata"]["resourceVersion"], "9");

    let (outcome, seen) = put_roots(config_map(&ours, &json!({"root-cert.pem": "roots"})), done).await;
    assert_eq!((outcome, seen.len()), (RootConfigMap::Unchanged, 1));

    for (labels, data, roots) in [
        (&theirs, json!({"root-cert.pem": "roots"}), Some("roots")),
        (&Value::Null, json!({"root-cert.pem": "other"}), Some("other")),
        (&Value::Null, Value::Null, None),
    ] {
        let (outcome, seen) = put_roots(config_map(labels, &data), done).await;
        assert_eq!((outcome, seen.len()), (RootConfigMap::Foreign { roots: roots.map(str::to_owned) }, 1));
    }

    // another writer was first: what is there is looked at again
    let (outcome, seen) = put_roots(None, |n| match n {
        0 => Reply::refuse(409, "AlreadyExists", json!({})),
        _ => Reply::of(201, "{}"),
    })
    .await;
    assert_eq!((outcome, seen.len()), (RootConfigMap::Written, 4));
    let (outcome, _) = put_roots(None, |_| Reply::refuse(404, "NotFound", json!({}))).await;
    assert_eq!(outcome, RootConfigMap::NamespaceGone);
    let terminating = |_| {
        Reply::refuse(
            403,
            "Forbidden",
            json!({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}),
        )
    };
    assert_eq!(put_roots(None, terminating).await.0, RootConfigMap::NamespaceGone);
}

#[tokio::test]
async fn the_redirection_is_written_to_one_pod() {
    let answers: Arc<Mutex<Vec<Reply>>> = Arc::default();
    let next = Arc::clone(&answers);
    let fake = Fake::start(move |_: &Seen| next.lock().unwrap().pop().unwrap_or_else(|| Reply::of(200, "{}"))).await;
    let client = fake.client().await;
    let pod = ObjectName::new("a", "web");
    let set = async |reply: Reply, enabled| {
        answers.lock().unwrap().push(reply);
        client.set_redirection(&pod, "u-1", enabled).await
    };
    assert_eq!(set(Reply::of(200, "{}"), true).await, Ok(Annotated::Done));
    assert_eq!(set(Reply::of(200, "{}"), false).await, Ok(Annotated::Done));
    assert_eq!(set(Reply::refuse(404, "NotFound", json!({})), true).await, Ok(Annotated::Gone));
    assert_eq!(set(Reply::refuse(409, "Conflict", json!({})), true).await, Ok(Annotated::Conflict));
    let invalid = |field: &str| {
        Reply::refuse(422, "Invalid", json!({"causes": [{"reason": "FieldValueInvalid", "field": field}]}))
    };
    assert_eq!(set(invalid("metadata.uid"), true).await, Ok(Annotated::Replaced));
    assert_eq!(set(invalid("metadata.annotations"), true).await.unwrap_err().status(), Some(422));
    assert_eq!(client.set_redirection(&ObjectName::new("a", "../x"), "u-1", true).await, Ok(Annotated::Gone));
    let seen = fake.seen();
    assert_eq!(
        (&*seen[0].what, &*seen[0].content_type),
        ("PATCH /api/v1/namespaces/a/pods/web", "application/merge-patch+json")
    );
    let patch =
        |value: Value| json!({"metadata": {"uid": "u-1", "annotations": {"ambient.istio.io/redirection": value}}});
    assert_eq!((&seen[0].body, &seen[1].body), (&patch(json!("enabled")), &patch(Value::Null)));
    assert_eq!(seen.len(), 6);
}

#[tokio::test]
async fn one_pod_is_read() {
    let fake = Fake::start(|seen: &Seen| match &*seen.what {
        "GET /api/v1/namespaces/a/pods/web" => Reply::json(&json!({"metadata": {"name": "web", "namespace": "a", "uid": "u-1"},
            "spec": {"serviceAccountName": "web", "nodeName": "n", "containers": []}, "status": {"podIPs": [{"ip": "10.0.0.1"}]}})),
        "GET /api/v1/namespaces/a/pods/odd" => Reply::json(&json!({"metadata": {"name": "odd", "namespace": "a"}, "status": {"podIPs": [{"ip": "x"}]}})),
        _ => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let client = fake.client().await;
    let read = async |name: &str| client.pod(&ObjectName::new("a", name)).await;
    let pod = read("web").await.unwrap().unwrap();
    assert_eq!((&*pod.uid, &*pod.service_account, pod.node.as_deref()), ("u-1", "web", Some("n")));
    assert_eq!(read("none").await, Ok(None));
    assert_eq!(read("../../nodes/x").await, Ok(None));
    assert_eq!(
        read("odd").await.unwrap_err().to_string(),
        "GET /api/v1/namespaces/a/pods/odd: the answer cannot be read: no object: status.podIPs[0].ip: `x` is not an IP address"
    );
}

#[tokio::test]
async fn what_keeps_a_client_from_its_server_is_said_in_one_line() {
    let home = tempfile::tempdir().unwrap();
    let connect = async |file: &str, text: Option<&str>, context: Option<&str>| {
        let path = home.path().join(file);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let access = Access::Kubeconfig { path, context: context.map(str::to_owned) };
        Client::connect(&access, "test").await.map(drop).unwrap_err().to_string()
    };
    let absent = connect("absent", None, None).await;
    assert!(
        absent.contains("absent: failed to read kubeconfig")
            && absent.ends_with("No such file or directory (os error 2)"),
        "{absent}"
    );
    let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [], "contexts": [], "users": []}"#;
    let context = connect("config", Some(text), Some("other")).await;
    assert!(context.contains("failed to load current context: other"), "{context}");
    assert!(!format!("{absent}{context}").contains('\n'));

    let fake = Fake::start(|_: &Seen| Reply::of(200, "{}")).await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let client = fake.client_of(closed).await;
    let error = client.secret(&name()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("GET /api/v1/namespaces/mesh/secrets/ca: ") && error.contains("Connection refused"),
        "{error}"
    );
}

#[tokio::test]
async fn one_taint_goes_and_the_others_stay() {
    let node = |version: &str, taints: Value| {
        let metadata = json!({"name": "n", "resourceVersion": version, "creationTimestamp": "2026-01-02T00:00:00Z"});
        Reply::json(&json!({"metadata": metadata, "spec": {"taints": taints, "podCIDR": "10.0.0.0/24"}}))
    };
    let agent = |status: &str, since: &str| {
        let ready = json!({"type": "Ready", "status": status, "lastTransitionTime": since});
        Reply::json(&json!({"metadata": {"name": "agent"}, "status": {"conditions": [ready]}}))
    };
    let other = json!({"key": "a/b", "value": "c", "effect": "NoExecute"});
    let ours = json!({"key": "underpass.dev/agent-not-ready", "effect": "NoSchedule"});
    let late = json!({"key": "late", "effect": "NoSchedule"});
    let asked = AtomicUsize::new(0);
    let (first, second) = (json!([other, ours]), json!([other, ours, late]));
    let fake = Fake::start(move |seen: &Seen| match (&*seen.what, asked.fetch_add(1, Ordering::Relaxed)) {
        ("GET /api/v1/nodes/n", 0) => node("1", first.clone()),
        ("GET /api/v1/namespaces/mesh/pods/agent", 1 | 4) => agent("True", "2026-01-02T00:00:01Z"),
        // Another writer has added a taint meanwhile.
        ("PATCH /api/v1/nodes/n", 2) => Reply::refuse(409, "Conflict", json!({})),
        ("GET /api/v1/nodes/n", 3) => node("2", second.clone()),
        ("PATCH /api/v1/nodes/n", 5) => Reply::of(200, "{}"),
        // It was ready on the node that had this name before, and it is not ready.
        ("GET /api/v1/nodes/n", 6 | 8) => node("3", first.clone()),
        ("GET /api/v1/namespaces/mesh/pods/agent", 7) => agent("True", "2026-01-01T23:59:59Z"),
        ("GET /api/v1/namespaces/mesh/pods/agent", 9) => agent("False", "2026-01-02T00:00:01Z"),
        ("GET /api/v1/nodes/n", _) => node("4", json!([{"key": "a/b", "effect": "NoExecute"}])),
        _ => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let client = fake.client().await;
    let remove = async |node: &str| client.remove_startup_taint(node, &ObjectName::new("mesh", "agent")).await;
    assert_eq!(remove("n").await, Ok(Untainted::Done));
    assert_eq!(remove("n").await, Ok(Untainted::NotReady));
    assert_eq!(remove("n").await, Ok(Untainted::NotReady));
    assert_eq!(remove("n").await, Ok(Untainted::Unchanged));
    assert_eq!(remove("gone").await, Ok(Untainted::Gone));
    assert!(remove("../pods").await.is_err());
    let seen = fake.seen();
    assert_eq!(
        seen[5].body,
        json!({"metadata": {"resourceVersion": "2"}, "spec": {"taints": [other, late]}}),
        "the version that was read, and every other taint"
    );
    assert_eq!(&*seen[5].content_type, "application/merge-patch+json");
    assert_eq!(seen.iter().filter(|call| call.what.starts_with("PATCH")).count(), 2, "nothing else is written");
}

#[tokio::test]
async fn an_event_is_about_one_pod() {
    let fake = Fake::start(|seen: &Seen| match &*seen.what {
        "POST /apis/events.k8s.io/v1/namespaces/shop/events" => Reply::of(201, "{}"),
        _ => Reply::refuse(404, "NotFound", json!({})),
    })
    .await;
    let client = fake.client().await;
    let by = Reporter { controller: "underpass.dev/agent", instance: "node-1".into() };
    let event = |namespace: &str| PodEvent {
        pod: ObjectName::new(namespace, "web"),
        uid: "u-1".into(),
        r#type: EventType::Warning,
        reason: "NotCaptured",
        action: "Capture",
        note: "x".repeat(2000),
    };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    assert_eq!(client.write_event(&event("shop"), &by, at).await, Ok(()));
    assert_eq!(client.write_event(&event("gone"), &by, at).await.unwrap_err().status(), Some(404));
    let body = &fake.seen()[0].body;
    assert_eq!(
        body["regarding"],
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "u-1"})
    );
    assert_eq!(
        [&body["type"], &body["reason"], &body["eventTime"], &body["reportingController"], &body["reportingInstance"]],
        [
            &json!("Warning"),
            &json!("NotCaptured"),
            &json!("1970-01-01T00:00:01.000000Z"),
            &json!("underpass.dev/agent"),
            &json!("node-1")
        ]
    );
    assert_eq!(body["note"].as_str().map(str::len), Some(1024), "as much as the API takes");
    assert_eq!(body["metadata"]["generateName"], "web-");
}
