//! Verdicts of `explain` about the sample that the project ships, and that the sample is clean.

use std::process::Command;

use serde_json::{Value, json};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples/bookinfo");

/// Exit status and answer; the sample has no problem to tell.
fn explain(source: &str, destination: &str) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_underpass"))
        .args(["explain", "-f", SAMPLE, "-o", "json", source, destination])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{source} -> {destination}");
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

/// `policy`: the one that decided, in the namespace bookinfo.
fn check(source: &str, destination: &str, code: i32, path: &str, policy: Option<&str>) {
    let (status, answer) = explain(source, destination);
    let verdict = if code == 0 { "allow" } else { "deny" };
    let policy = policy.map(|p| format!("bookinfo/{p}"));
    let told = json!([status, answer["verdict"], answer["path"], answer["policy"]]);
    assert_eq!(told, json!([code, verdict, path, policy]), "{source} -> {destination}: {answer:#}");
}

#[test]
fn allowed_calls() {
    let allowed = |source: &str, destination: &str, policy: &str| check(source, destination, 0, "hbone", Some(policy));
    allowed("client/sleep", "productpage.bookinfo:9080", "productpage-viewer");
    allowed("bookinfo/productpage-v1", "details:9080", "details-viewer");
    allowed("bookinfo/productpage-v1", "reviews:9080", "reviews-viewer");
    for reviews in ["bookinfo/reviews-v1", "bookinfo/reviews-v2", "bookinfo/reviews-v3"] {
        allowed("bookinfo/productpage-v1", &format!("{reviews}:9080"), "reviews-viewer");
        allowed(reviews, "ratings.bookinfo.svc.cluster.local:9080", "ratings-viewer");
    }
}

#[test]
fn denied_calls() {
    for (source, destination) in [
        ("bookinfo/productpage-v1", "ratings:9080"),
        ("bookinfo/details-v1", "productpage:9080"),
        ("bookinfo/ratings-v1", "reviews:9080"),
        ("client/sleep", "reviews.bookinfo:9080"),
        ("client/sleep", "bookinfo/productpage-v1:9081"),
    ] {
        let (status, answer) = explain(source, destination);
        let told = json!([status, answer["verdict"], answer["path"], answer["reason"]]);
        assert_eq!(told, json!([2, "deny", "hbone", "not_allowed"]), "{answer:#}");
    }
}

#[test]
fn outside_the_mesh() {
    check("legacy/curl", "productpage.bookinfo:9080", 2, "plaintext", Some("default"));
    check("bookinfo/productpage-v1", "192.0.2.1:443", 0, "untouched", None);
    check("bookinfo/productpage-v1", "legacy/curl:80", 0, "untouched", None);
}
