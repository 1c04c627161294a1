//! Updates of outputs: differences, problems, and their effects.

use expect_test::{Expect, expect};
use underpass_config::json;
use underpass_core::ObjectName;

use super::*;

fn policy(name: &str, version: u32, spec: &str) -> Claim {
    let text =
        format!(r#"{{"metadata":{{"name":"{name}","namespace":"a","resourceVersion":"{version}"}},"spec":{spec}}}"#);
    json::object(Kind::AuthorizationPolicy, &text).unwrap()
}

fn namespace(name: &str, label: &str) -> Claim {
    let text = format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"1","labels":{{"a":"{label}"}}}}}}"#);
    json::object(Kind::Namespace, &text).unwrap()
}

fn contents() -> Contents {
    Contents::new([Kind::Namespace, Kind::AuthorizationPolicy])
}

/// One with an empty list of both kinds, handed on.
fn begun() -> Contents {
    let mut contents = contents();
    contents.take(Kind::Namespace, Output::Replaced(vec![]));
    contents.take(Kind::AuthorizationPolicy, Output::Replaced(vec![]));
    assert_eq!(contents.update(), Some(Update::default()));
    contents
}

/// Changes and problems, one a line.
fn show(update: Option<Update>) -> String {
    let Some(Update { batch, problems, notices, .. }) = update else { return "nothing\n".into() };
    let change = |change: &Change| match change {
        Change::Put(Object::AuthorizationPolicy(p)) => {
            format!("put {} {:?} rules {}\n", p.name, p.action, p.rules.len())
        }
        Change::Put(object) => format!("put {}\n", object.key()),
        Change::Remove(key) => format!("remove {key}\n"),
    };
    let changes = batch.changes.iter().map(change);
    changes.chain(problems.iter().chain(&notices).map(|p| format!("{p}\n"))).collect()
}

#[track_caller]
fn check(contents: &mut Contents, expect: Expect) {
    expect.assert_eq(&show(contents.update()));
}

const POLICY: Kind = Kind::AuthorizationPolicy;
const GOOD: &str = r#"{"rules":[{}]}"#;
const OTHER: &str = r#"{"rules":[{},{}]}"#;
const BROKEN: &str = r#"{"rules":[{"from":[]}]}"#;

#[test]
fn nothing_is_handed_on_before_every_kind_is_heard() {
    let mut all = contents();
    all.take(POLICY, Output::Replaced(vec![policy("p", 1, GOOD)]));
    check(&mut all, expect!["nothing\n"]);
    assert!(all.fail(Kind::Namespace, Some("GET /api/v1/namespaces: refused".into())), "no update can say it");
    assert!(!all.fail(Kind::Namespace, Some("GET /api/v1/namespaces: refused".into())));
    check(&mut all, expect!["nothing\n"]);
    all.take(POLICY, Output::Put(policy("q", 2, GOOD)));
    all.take(Kind::Namespace, Output::Replaced(vec![namespace("a", "x")]));
    assert!(!all.fail(Kind::Namespace, None));
    check(
        &mut all,
        expect![[r#"
        put Namespace a
        put a/p Allow rules 1
        put a/q Allow rules 1
    "#]],
    );
    check(&mut all, expect!["nothing\n"]);
}

#[test]
fn an_absent_kind_is_heard_and_noticed() {
    let mut all = contents();
    all.take(Kind::Namespace, Output::Replaced(vec![]));
    all.take(POLICY, Output::Absent);
    check(
        &mut all,
        expect![[r#"
        notice: API server: the API server does not have kind AuthorizationPolicy: its objects are read as soon as it does
    "#]],
    );
    all.take(POLICY, Output::Replaced(vec![policy("p", 1, GOOD)]));
    check(
        &mut all,
        expect![[r#"
        put a/p Allow rules 1
    "#]],
    );
    all.take(POLICY, Output::Absent);
    check(
        &mut all,
        expect![[r#"
        remove AuthorizationPolicy a/p
        notice: API server: the API server does not have kind AuthorizationPolicy: its objects are read as soon as it does
    "#]],
    );
}

#[test]
fn an_update_is_a_difference() {
    let mut all = begun();
    for version in 1..=1_000 {
        all.take(POLICY, Output::Put(policy("p", version, if version % 2 == 0 { GOOD } else { OTHER })));
    }
    check(
        &mut all,
        expect![[r#"
        put a/p Allow rules 1
    "#]],
    );
    all.take(POLICY, Output::Put(policy("p", 1_001, OTHER)));
    all.take(POLICY, Output::Put(policy("p", 1_002, GOOD)));
    all.take(POLICY, Output::Put(policy("q", 1_003, GOOD)));
    all.take(POLICY, Output::Removed(ObjectName::new("a", "q")));
    check(&mut all, expect!["nothing\n"]);
    all.take(POLICY, Output::Removed(ObjectName::new("a", "p")));
    all.take(POLICY, Output::Put(policy("q", 1_004, GOOD)));
    all.take(Kind::Namespace, Output::Put(namespace("a", "x")));
    check(
        &mut all,
        expect![[r#"
        remove AuthorizationPolicy a/p
        put Namespace a
        put a/q Allow rules 1
    "#]],
    );
    // listed again
    all.take(POLICY, Output::Replaced(vec![policy("r", 9, GOOD), policy("q", 9, GOOD)]));
    check(
        &mut all,
        expect![[r#"
        put a/r Allow rules 1
    "#]],
    );
    all.take(POLICY, Output::Replaced(vec![policy("r", 9, OTHER)]));
    check(
        &mut all,
        expect![[r#"
        remove AuthorizationPolicy a/q
        put a/r Allow rules 2
    "#]],
    );
}

#[test]
fn broken_versions_keep_the_last_good_or_close() {
    let mut all = begun();
    all.take(POLICY, Output::Put(policy("p", 1, GOOD)));
    all.take(POLICY, Output::Put(policy("p", 2, BROKEN)));
    all.take(POLICY, Output::Put(policy("q", 3, BROKEN)));
    check(
        &mut all,
        expect![[r#"
        put a/p Allow rules 1
        put a/q Deny rules 1
        error: API server: version 2: AuthorizationPolicy a/p: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (the last good version stays served)
        error: API server: version 3: AuthorizationPolicy a/q: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
    "#]],
    );
    // the same again, listed
    all.take(POLICY, Output::Replaced(vec![policy("p", 2, BROKEN), policy("q", 3, BROKEN)]));
    check(&mut all, expect!["nothing\n"]);
    // its status was written
    all.take(POLICY, Output::Put(policy("p", 3, BROKEN)));
    check(&mut all, expect!["nothing\n"]);
    all.take(POLICY, Output::Put(policy("q", 4, GOOD)));
    all.take(POLICY, Output::Removed(ObjectName::new("a", "p")));
    check(
        &mut all,
        expect![[r#"
        remove AuthorizationPolicy a/p
        put a/q Allow rules 1
    "#]],
    );
}

#[test]
fn a_good_version_that_equals_its_stand_in_is_good() {
    let mut all = begun();
    let deny = r#"{"action":"DENY","rules":[{}]}"#;
    all.take(POLICY, Output::Put(policy("p", 1, BROKEN)));
    assert!(all.update().is_some());
    all.take(POLICY, Output::Put(policy("p", 2, deny)));
    check(&mut all, expect![""]);
    all.take(POLICY, Output::Put(policy("p", 3, BROKEN)));
    check(
        &mut all,
        expect![[r#"
        error: API server: version 3: AuthorizationPolicy a/p: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (the last good version stays served)
    "#]],
    );
}

#[test]
fn what_cannot_be_read_is_a_problem_of_its_kind() {
    let mut all = begun();
    let _ = all.fail(POLICY, Some("GET /apis/x: 500".into()));
    check(
        &mut all,
        expect![[r#"
        error: API server: objects of kind AuthorizationPolicy cannot be read: GET /apis/x: 500 (the last good version stays served)
    "#]],
    );
    let _ = all.fail(POLICY, Some("GET /apis/x: 500".into()));
    check(&mut all, expect!["nothing\n"]);
    let _ = all.fail(POLICY, None);
    check(&mut all, expect![""]);
}
