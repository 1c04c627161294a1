//! Reviews in, answers out; and the server between them.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc,
};
use underpass_core::world::MeshSettings;
use underpass_telemetry::metrics::Registry;

use super::{LIMITS, review::answer};

/// A question about an object, and the one before.
fn question(kind: &str, object: &Value, old: &Value) -> String {
    let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "security.istio.io", "version": "v1", "kind": kind},
            "operation": operation,
            "object": object,
            "oldObject": old,
        },
    })
    .to_string()
}

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

/// What is answered: `+` for an object that may go in, its refusal otherwise, then each warning.
#[track_caller]
fn check_change(kind: &str, object: &Value, old: &Value, expect: &[&str]) {
    let answer = answer(question(kind, object, old).as_bytes(), &MeshSettings::default()).unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    let response = &answer["response"];
    assert_eq!(response["uid"], "u-1");
    let mut lines = vec![match &response["status"] {
        Value::Null => "+".to_owned(),
        status => format!(
            "{} {}: {}",
            status["code"],
            status["reason"].as_str().unwrap(),
            status["message"].as_str().unwrap()
        ),
    }];
    assert_eq!(response["allowed"], lines[0] == "+");
    lines.extend(response["warnings"].as_array().into_iter().flatten().map(|w| w.as_str().unwrap().to_owned()));
    assert_eq!(lines, expect);
}

#[track_caller]
fn check(spec: Value, expect: &[&str]) {
    check_change("AuthorizationPolicy", &policy(spec), &Value::Null, expect);
}

#[test]
fn a_policy_goes_in_or_is_refused_by_field() {
    check(json!({"rules": [{"from": [{"source": {"namespaces": ["a"]}}]}]}), &["+"]);
    check(
        json!({"action": "DENNY", "rules": [{"to": [{"operation": {"ports": ["http"]}}]}]}),
        &[
            "422 Invalid: AuthorizationPolicy shop/web: spec.action: `DENNY` is not one of ALLOW, DENY, CUSTOM, AUDIT; spec.rules[0].to[0].operation.ports[0]: `http` is not a port: a number from 1 to 65535",
        ],
    );
    check(
        json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
        &[
            "+",
            "AuthorizationPolicy shop/web: spec.rules[0].to[0].operation.methods: methods can only be judged by a waypoint: without one this rule allows nothing",
        ],
    );
    let mtls = |metadata: Value, spec: Value| json!({"metadata": metadata, "spec": spec});
    let shop = json!({"name": "default", "namespace": "shop"});
    check_change("PeerAuthentication", &mtls(shop.clone(), json!({"mtls": {"mode": "STRICT"}})), &Value::Null, &["+"]);
    check_change(
        "PeerAuthentication",
        &mtls(shop, json!({"mtls": {"mode": "ON"}})),
        &Value::Null,
        &[
            "422 Invalid: PeerAuthentication shop/default: spec.mtls.mode: `ON` is not one of UNSET, DISABLE, PERMISSIVE, STRICT",
        ],
    );
    // What holds for the whole mesh depends on the settings.
    let root = json!({"name": "default", "namespace": "istio-system"});
    check_change(
        "PeerAuthentication",
        &mtls(root, json!({"selector": {"matchLabels": {"a": "b"}}, "mtls": {"mode": "STRICT"}})),
        &Value::Null,
        &[
            "+",
            "PeerAuthentication istio-system/default: spec.selector: a PeerAuthentication of the root namespace with a selector is ignored",
        ],
    );
}

/// What is broken already can be labelled and deleted, and gets no worse.
#[test]
fn a_change_without_a_new_error_goes_in() {
    let broken = policy(json!({"action": "DENNY"}));
    let mut labelled = broken.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let says = "AuthorizationPolicy shop/web: spec.action: `DENNY` is not one of ALLOW, DENY, CUSTOM, AUDIT";
    check_change("AuthorizationPolicy", &labelled, &broken, &["+", says]);
    let worse = policy(json!({"action": "DENNY", "rules": [{"from": []}]}));
    let refusal = "422 Invalid: AuthorizationPolicy shop/web: spec.action: `DENNY` is not one of ALLOW, DENY, CUSTOM, AUDIT; spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values";
    check_change("AuthorizationPolicy", &worse, &broken, &[refusal]);
    check_change("AuthorizationPolicy", &broken, &policy(json!({})), &[&format!("422 Invalid: {says}")]);
    let mut deleted = broken;
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    check_change("AuthorizationPolicy", &deleted, &policy(json!({})), &["+", says]);
}

#[test]
fn what_is_no_question_about_a_policy_is_an_error() {
    let says = |body: &str| answer(body.as_bytes(), &MeshSettings::default()).unwrap_err().to_string();
    let of = |change: &dyn Fn(&mut Value)| {
        let mut review: Value =
            serde_json::from_str(&question("AuthorizationPolicy", &policy(json!({})), &Value::Null)).unwrap();
        change(&mut review);
        says(&review.to_string())
    };
    assert_eq!(says("{"), "no AdmissionReview: EOF while parsing an object at line 1 column 1");
    assert!(says("[]").starts_with("no AdmissionReview: invalid length"), "{}", says("[]"));
    assert_eq!(
        of(&|r| r["apiVersion"] = json!("admission.k8s.io/v1beta1")),
        r#"no AdmissionReview of admission.k8s.io/v1: apiVersion "admission.k8s.io/v1beta1", kind "AdmissionReview""#
    );
    assert_eq!(of(&|r| r["request"] = Value::Null), "an AdmissionReview without a request");
    assert_eq!(
        of(&|r| r["request"]["kind"]["kind"] = json!("RequestAuthentication")),
        r#"RequestAuthentication of "security.istio.io" is not reviewed here: AuthorizationPolicy and PeerAuthentication of security.istio.io are"#
    );
    assert_eq!(
        of(&|r| r["request"]["kind"]["group"] = json!("")),
        r#"AuthorizationPolicy of "" is not reviewed here: AuthorizationPolicy and PeerAuthentication of security.istio.io are"#
    );
    assert_eq!(
        of(&|r| r["request"]["operation"] = json!("DELETE")),
        "DELETE is not reviewed here: CREATE and UPDATE are"
    );
    assert_eq!(
        of(&|r| r["request"]["object"] = Value::Null),
        "request.object: no object: invalid type: null, expected struct Object at line 1 column 4"
    );
    assert_eq!(
        of(&|r| r["request"]["object"]["metadata"]["name"] = json!("")),
        "request.object: no object: it has no name"
    );
    assert!(answer(&[0xff, 0xfe], &MeshSettings::default()).is_err());
}

/// What a connection is answered after this request: the status, and the text.
async fn ask(connections: &mpsc::Sender<std::io::Result<DuplexStream>>, head: &str, body: &str) -> (u16, String) {
    let (mut near, far) = duplex(64 << 10);
    connections.send(Ok(far)).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    near.write_all(request.as_bytes()).await.unwrap();
    // A body that is too large is not read to its end.
    let _ = near.write_all(body.as_bytes()).await;
    let mut said = Vec::new();
    near.read_to_end(&mut said).await.unwrap();
    let said = String::from_utf8(said).unwrap();
    let (head, text) = said.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

/// After everything that is no review the next one is answered.
#[tokio::test]
async fn other_questions_leave_reviews_answered() {
    let registry = Registry::default();
    let (connections, accepted) = mpsc::channel(1);
    let server = tokio::spawn(super::serve(accepted, |_| None, MeshSettings::default(), &registry));
    connections.send(Err(std::io::Error::other("no handshake"))).await.unwrap();
    let (status, text) = ask(&connections, "POST /validate", "garbage").await;
    assert!(status == 400 && text.contains("no AdmissionReview: expected value"), "{status}: {text}");
    let (status, text) = ask(&connections, "POST /validate", &" ".repeat(LIMITS.body_bytes + 1)).await;
    assert!(status == 413 && text.contains("a body has at most 4194304 bytes"), "{status}: {text}");
    let (status, _) = ask(&connections, "GET /validate", "").await;
    assert_eq!(status, 405);
    let (status, _) = ask(&connections, "POST /mutate", "{}").await;
    assert_eq!(status, 404);
    for (spec, is_allowed) in [
        (json!({"action": "DENNY"}), false),
        (json!({"rules": [{"to": [{"operation": {"paths": ["/"]}}]}]}), true),
        (json!({}), true),
    ] {
        let (status, text) =
            ask(&connections, "POST /validate", &question("AuthorizationPolicy", &policy(spec), &Value::Null)).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(status == 200 && answer["response"]["allowed"] == is_allowed, "{status}: {text}");
    }
    let text = registry.text();
    for result in ["unreadable", "refused", "warned", "accepted"] {
        let line = format!("underpass_admission_reviews_total{{result=\"{result}\"}} 1");
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    server.abort();
}
