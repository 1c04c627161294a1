//! From one state of a directory to the next: what changes, what stays, and what a mistake does not do.

use expect_test::{Expect, expect};
use underpass_config::{door::Content, door::State};
use underpass_core::{
    objects::{Change, Object},
    testing::name,
    world::TargetKind,
};
use underpass_door::{Fault, Update};

use crate::{Shelf, lines};

fn namespace(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{is: {label}}}}}\n---\n")
}

/// A policy `a/p` with this spec.
fn policy(kind: &str, spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: a}}\nspec: {spec}\n")
}

/// `+Kind name` and `-Kind name`, in order.
fn changes(update: &Update) -> Vec<String> {
    let say = |c: &Change| match c {
        Change::Put(object) => format!("+{}", object.key()),
        Change::Remove(key) => format!("-{key}"),
    };
    update.batch.changes.iter().map(say).collect()
}

#[track_caller]
fn check(update: &Update, expect_changes: &[&str], expect: &Expect) {
    assert_eq!(changes(update), expect_changes);
    expect.assert_eq(&lines(update));
}

#[test]
fn only_what_changed_is_in_the_batch() {
    let mut shelf = Shelf::new();
    let (a, b, c) = (namespace("a", "x"), namespace("b", "x"), namespace("c", "x"));
    let none = &expect![[""]];
    check(&shelf.put(&[("1.yaml", &(a.clone() + &b))]), &["+Namespace a", "+Namespace b"], none);
    check(&shelf.put(&[("1.yaml", &(a.clone() + &b))]), &[], none);
    check(&shelf.put(&[("1.yaml", &(b.clone() + "# a comment\n" + &a))]), &[], none);
    check(&shelf.put(&[("1.yaml", &(a.clone() + &namespace("b", "z")))]), &["+Namespace b"], none);
    check(&shelf.put(&[("1.yaml", &a), ("2.yaml", &c)]), &["-Namespace b", "+Namespace c"], none);
    check(&shelf.put(&[("renamed.yaml", &a), ("dir/2.yaml", &c)]), &[], none);
    check(&shelf.put(&[("renamed.yaml", &a)]), &["-Namespace c"], none);
    check(&shelf.put(&[]), &["-Namespace a"], none);
    assert!(shelf.sources().is_empty());
}

#[test]
fn objects_of_a_document_that_became_no_object_stay() {
    let mut shelf = Shelf::new();
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: a}\nspec: {action: DENY, rules: [{}]}\n";
    shelf.put(&[("deny.yaml", deny)]);
    // Half an edit: `apiVersion`, `kind`, `metadata` and `spec` are gone, and the policy holds on.
    let update = shelf.put(&[("deny.yaml", "action: DENY\nrules: [{}]\n")]);
    check(
        &update,
        &[],
        &expect![[r#"
        error: deny.yaml:1: document 1: apiVersion: is missing (the last good version stays served)
    "#]],
    );
    assert!(shelf.sources().len() == 1);
    // The same in a file that never gave an object is a file of another kind.
    let update = shelf.put(&[("deny.yaml", deny), ("values.yaml", "action: DENY\nrules: [{}]\n")]);
    check(
        &update,
        &[],
        &expect![[r#"
        notice: values.yaml:1: document 1: is not a Kubernetes object (no apiVersion, kind, metadata, spec): ignored
    "#]],
    );
    // A file that is gone gives nothing.
    check(&shelf.put(&[]), &["-AuthorizationPolicy a/deny"], &expect![[""]]);
}

#[test]
fn an_empty_file_takes_nothing_back() {
    let deny = policy("AuthorizationPolicy", "{action: DENY, rules: [{}]}");
    for nothing in ["", "\n\n", "# was a policy\n", "---\n", "null\n", "---\n# nothing\n---\n~\n...\n"] {
        let mut shelf = Shelf::new();
        shelf.put(&[("deny.yaml", &deny)]);
        for _ in 0..2 {
            check(
                &shelf.put(&[("deny.yaml", nothing)]),
                &[],
                &expect![[r#"
                    error: deny.yaml: is empty: its objects stay served until the file is deleted (rm) (the last good version stays served)
                "#]],
            );
        }
        // An object that moved to another file is not kept here.
        let moved = shelf.put(&[("deny.yaml", nothing), ("moved.yaml", &deny)]);
        check(
            &moved,
            &[],
            &expect![[r#"
                notice: deny.yaml: holds no object
            "#]],
        );
        check(
            &shelf.put(&[("deny.yaml", nothing)]),
            &["-AuthorizationPolicy a/p"],
            &expect![[r#"
            notice: deny.yaml: holds no object
        "#]],
        );
        check(&shelf.put(&[]), &[], &expect![[""]]);
    }
    // An empty list, or another object, is intended.
    for said in [
        "{apiVersion: v1, kind: List, items: []}",
        "{apiVersion: v1, kind: List, items: }",
        "{apiVersion: v1, kind: Secret}",
    ] {
        let mut shelf = Shelf::new();
        shelf.put(&[("deny.yaml", &deny)]);
        check(&shelf.put(&[("deny.yaml", said)]), &["-AuthorizationPolicy a/p"], &expect![[""]]);
    }
    let mut shelf = Shelf::new();
    shelf.put(&[("deny.yaml", &deny)]);
    check(
        &shelf.put(&[("deny.yaml", "apiVersion: v1\nkind: List\nitem: []\n")]),
        &[],
        &expect![[r#"
        error: deny.yaml:1: document 1: items: is missing (the last good version stays served)
    "#]],
    );
}

#[test]
fn a_broken_object_keeps_its_last_good_version() {
    let mut shelf = Shelf::new();
    let (a, b) = (namespace("a", "x"), namespace("b", "x"));
    shelf.put(&[("1.yaml", &(a.clone() + &b))]);
    let update = shelf.put(&[("1.yaml", &(namespace("a", "1") + &namespace("b", "z")))]);
    check(
        &update,
        &["+Namespace b"],
        &expect![[r#"
            error: 1.yaml:3: document 1: Namespace a: metadata.labels.is: YAML reads this as the number 1, expected text: write it in quotes (the last good version stays served)
        "#]],
    );
    assert_eq!(shelf.sources().namespace("a").unwrap().labels.get("is"), Some("x"));
    // also when the broken one moves to another file
    let update = shelf.put(&[("0.yaml", &namespace("a", "1")), ("1.yaml", &b)]);
    check(
        &update,
        &["+Namespace b"],
        &expect![[r#"
            error: 0.yaml:3: document 1: Namespace a: metadata.labels.is: YAML reads this as the number 1, expected text: write it in quotes (the last good version stays served)
        "#]],
    );
    // deleting the document deletes the object
    check(&shelf.put(&[("1.yaml", &b)]), &["-Namespace a"], &expect![[""]]);
    // and what never was good is not there
    check(
        &shelf.put(&[("1.yaml", &(namespace("a", "1") + &b))]),
        &[],
        &expect![[r#"
            error: 1.yaml:3: document 1: Namespace a: metadata.labels.is: YAML reads this as the number 1, expected text: write it in quotes (not served)
        "#]],
    );
}

#[test]
fn a_document_that_cannot_be_parsed_keeps_what_its_file_gave() {
    let mut shelf = Shelf::new();
    let (a, b) = (namespace("a", "x"), namespace("b", "x"));
    shelf.put(&[("1.yaml", &(a.clone() + &b)), ("2.yaml", &namespace("c", "x"))]);
    let update = shelf.put(&[("1.yaml", &(a.clone() + "kind: [\n"))]);
    check(
        &update,
        &["-Namespace c"],
        &expect![[r#"
        error: 1.yaml:5: document 2: is not valid YAML: unclosed bracket '[' (the last good version stays served)
    "#]],
    );
    assert!(shelf.sources().namespace("b").is_some());
    check(&shelf.put(&[("1.yaml", &a)]), &["-Namespace b"], &expect![[""]]);
    // a line that is lost is no deletion
    let update = shelf.put(&[("1.yaml", &a.replace("kind: Namespace\n", ""))]);
    check(
        &update,
        &[],
        &expect![[r#"
        error: 1.yaml:1: document 1: kind: is missing (the last good version stays served)
    "#]],
    );
    assert!(shelf.sources().namespace("a").is_some());
}

#[test]
fn a_file_that_cannot_be_read_keeps_what_it_gave() {
    let a = namespace("a", "x");
    let file = || "1.yaml".into();
    let (state, _) = State::default().next(&[(file(), Content::Bytes(a.as_bytes()))]);
    let fault = Fault::Io { kind: std::io::ErrorKind::PermissionDenied };
    let (state, update) = state.next(&[(file(), Content::Unreadable(fault))]);
    check(
        &update,
        &[],
        &expect![[r#"
        error: 1.yaml: cannot be read: permission denied (the last good version stays served)
    "#]],
    );
    let (state, update) = state.next(&[(file(), Content::Bytes(b"\xff"))]);
    check(
        &update,
        &[],
        &expect![[r#"
            error: 1.yaml: is not UTF-8 text: invalid from byte 0 on (the last good version stays served)
        "#]],
    );
    let (state, update) = state.next(&[(file(), Content::Unchanged)]);
    assert_eq!((changes(&update).len(), update.problems.len()), (0, 1), "it is still what it was");
    let (_, update) = state.next(&[]);
    check(&update, &["-Namespace a"], &expect![[""]]);
}

#[test]
fn of_two_manifests_for_one_object_the_first_by_path_counts() {
    let mut shelf = Shelf::new();
    let (x, y) = (namespace("a", "x"), namespace("a", "z"));
    let update = shelf.put(&[("2.yaml", &y), ("1.yaml", &("# first\n".to_owned() + &x))]);
    check(
        &update,
        &["+Namespace a"],
        &expect![[r#"
            error: 2.yaml:1: document 1: Namespace a: duplicate object: 1.yaml:2 has it too, and that one is served
        "#]],
    );
    assert_eq!(shelf.sources().namespace("a").unwrap().labels.get("is"), Some("x"));
    check(&shelf.put(&[("2.yaml", &y)]), &["+Namespace a"], &expect![[""]]);
    check(
        &shelf.put(&[("2.yaml", &(y.clone() + &x))]),
        &[],
        &expect![[r#"
            error: 2.yaml:5: document 2: Namespace a: duplicate object: 2.yaml:1 has it too, and that one is served
        "#]],
    );
    // the same name of another kind or namespace is another object
    let pod = |ns: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {ns}}}\n---\n");
    let update = shelf.put(&[("2.yaml", &(y + &pod("p") + &pod("q") + &pod("p")))]);
    check(
        &update,
        &["+Pod p/a", "+Pod q/a"],
        &expect![[r#"
            error: 2.yaml:13: document 4: Pod p/a: duplicate object: 2.yaml:5 has it too, and that one is served
        "#]],
    );
}

#[test]
fn a_policy_that_never_was_good_refuses() {
    let deny = |text: &str, expect: &[&str]| {
        let mut shelf = Shelf::new();
        let update = shelf.put(&[("1.yaml", text)]);
        assert_eq!(changes(&update), expect, "{text}\n{}", lines(&update));
        assert_eq!(update.errors().count(), 1, "{}", lines(&update));
        shelf
    };
    let pod = {
        let mut pod = underpass_core::testing::pod("a/x", "10.0.0.1");
        pod.labels = underpass_core::testing::labels("app=x");
        pod
    };
    let selects = |shelf: &Shelf| shelf.judging(pod.clone());
    let put = &["+AuthorizationPolicy a/p"];
    let authz = |rest| policy("AuthorizationPolicy", rest);
    assert_eq!(selects(&deny(&authz("{selector: {matchLabels: {app: x}}, rules: [{from: []}]}"), put)), 1);
    assert_eq!(selects(&deny(&authz("{selector: {matchLabels: {app: other}}, rules: [{from: []}]}"), put)), 0);
    assert_eq!(selects(&deny(&authz("{selector: {matchLabels: {app: '*'}}}"), put)), 1, "unknown: the namespace");
    deny(&authz("{action: AUDIT, rules: [{from: []}]}"), &[]);
    assert_eq!(selects(&deny(&authz("{action: CUSTOM, rules: [{}]}"), put)), 1);
    deny(&authz("{targetRefs: []}"), &[]);
    deny(&authz("{targetRefs: [{kind: Pod, name: x}]}"), &[]);
    let targets = deny(&authz("{targetRefs: [{kind: Service, name: x}, {kind: Pod, name: y}]}"), put);
    assert_eq!(selects(&targets), 0, "never the namespace");
    let Some(Object::AuthorizationPolicy(p)) = targets.object() else { panic!() };
    assert!(p.has_target(TargetKind::Service, "x") && p.targets().len() == 1, "{p:?}");
    deny(&policy("PeerAuthentication", "{mtls: {mode: x}}"), &["+PeerAuthentication a/p"]);

    // it gives way to the first good one, and that one stays
    let mut shelf = deny(&authz("{rules: [{from: []}]}"), put);
    shelf.put(&[("1.yaml", &authz("{rules: [{}]}"))]);
    let update = shelf.put(&[("1.yaml", &authz("{rules: [{from: []}]}"))]);
    check(
        &update,
        &[],
        &expect![[r#"
            error: 1.yaml:4: document 1: AuthorizationPolicy a/p: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (the last good version stays served)
        "#]],
    );
    let Some(Object::AuthorizationPolicy(p)) = shelf.object() else { panic!() };
    assert_eq!(p.action, underpass_core::world::Action::Allow);
    assert!(shelf.sources().pod(&name("a/x")).is_none());
}

/// The same of one that cannot even be read as a policy: what closed something is closed after a restart as well.
#[test]
fn a_policy_that_cannot_be_read_refuses() {
    const HEAD: &str = "metadata:\n  name: p # a\n  namespace: \"a\"\n";
    let selects = |text: &str, expect: &[&str], app: &str| {
        let mut shelf = Shelf::new();
        let update = shelf.put(&[("1.yaml", text)]);
        assert_eq!(changes(&update), expect, "{text}\n{}", lines(&update));
        assert!(update.errors().count() > 0, "{text}");
        let closed = lines(&update).contains("(connections to what it selects are refused until it is fixed)");
        assert_eq!(closed, !expect.is_empty(), "{}", lines(&update));
        let mut pod = underpass_core::testing::pod("a/x", "10.0.0.1");
        pod.labels = underpass_core::testing::labels(app);
        shelf.judging(pod)
    };
    let authz = &["+AuthorizationPolicy a/p"][..];
    let peer = &["+PeerAuthentication a/p"][..];
    let spec = "spec: {selector: {matchLabels: {app: x}}, action: DENY, rules: [{}]}\n";
    // Its apiVersion or kind has a typo, or is missing: the selector counts.
    for typo in [
        "apiVersion: v1\nkind: AuthorizationPolicy\n",
        "apiVersion: securty.istio.io/v1\nkind: AuthorizationPolicy\n",
        "apiVersion: security.istio.io/v2\nkind: AuthorizationPolicy\n",
        "apiVersion: security.istio.io/v1\nkind: AuthorisationPolicy\n",
        "kind: AuthorizationPolicy\n",
        "kind: authorizationpolicy\n",
    ] {
        assert_eq!(selects(&format!("{typo}{HEAD}{spec}"), authz, "app=x"), 1, "{typo}");
        assert_eq!(selects(&format!("{typo}{HEAD}{spec}"), authz, "app=y"), 0, "{typo}");
        assert_eq!(selects(&format!("{typo}{HEAD}spec: {{action: AUDIT}}\n"), &[], "app=x"), 0, "{typo}");
    }
    selects(&format!("apiVersion: v1\nkind: PeerAuthentication\n{HEAD}spec: {{}}\n"), peer, "app=x");
    let list = format!("kind: AuthorizationPolicy\n{HEAD}").replace('\n', "\n  ");
    selects(&format!("apiVersion: v1\nkind: List\nitems:\n- {list}"), authz, "app=x");
    // It is not YAML: its selector is unknown.
    for broken in ["spec: [\n", "\tspec: {}\n", "spec:\n  rules: *none\n", "spec: {{ toYaml .Values.spec }}\n"] {
        let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";
        assert_eq!(selects(&format!("{head}{HEAD}{broken}"), authz, "app=y"), 1, "{broken}");
        selects(&format!("{HEAD}{broken}kind: PeerAuthentication\n"), peer, "app=y");
        selects(&format!("apiVersion: policy.linkerd.io/v1\nkind: AuthorizationPolicy\n{HEAD}{broken}"), &[], "app=y");
        selects(&format!("apiVersion: v1\nkind: Pod\n{HEAD}{broken}"), &[], "app=y");
        selects(&format!("{head}metadata:\n  name: No Name\n{broken}"), &[], "app=y");
    }
    // Its file is none.
    let deny = policy("AuthorizationPolicy", "{}").replace("{name: p, namespace: a}", "\n  name: p\n  namespace: a");
    let latin = [namespace("b", "x").as_bytes(), deny.as_bytes(), b"# caf\xe9\n"].concat();
    let (_, update) = State::default().next(&[("1.yaml".into(), Content::Bytes(&latin))]);
    check(
        &update,
        authz,
        &expect![[r#"
            error: 1.yaml: is not UTF-8 text: invalid from byte 181 on (not served)
            error: 1.yaml:5: document 2: AuthorizationPolicy a/p: is not UTF-8 text: invalid from byte 181 on (connections to what it selects are refused until it is fixed)
        "#]],
    );
    // The first good one takes its place, and stays when it cannot be read again.
    let mut shelf = Shelf::new();
    let good = policy("AuthorizationPolicy", "{action: ALLOW, rules: [{}]}");
    let typo = good.replace("security", "securty");
    for (text, expect) in [(&typo, authz), (&good, authz), (&typo, &[])] {
        assert_eq!(changes(&shelf.put(&[("1.yaml", text)])), expect);
    }
}

#[test]
fn problems_are_there_until_they_are_mended() {
    let mut shelf = Shelf::new();
    let bad = namespace("a", "1");
    for _ in 0..2 {
        assert_eq!(shelf.put(&[("1.yaml", &bad)]).errors().count(), 1);
    }
    assert_eq!(shelf.put(&[("1.yaml", &namespace("a", "x"))]).problems, []);
}

#[test]
fn problems_are_data_too() {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("1.yaml", &namespace("a", "1"))]);
    expect![[r#"
        [
          {
            "severity": "error",
            "file": "1.yaml",
            "document": 1,
            "line": 3,
            "object": "Namespace a",
            "field": "metadata.labels.is",
            "reason": "YAML reads this as the number 1, expected text: write it in quotes",
            "effect": "absent",
            "help": null
          }
        ]"#]]
    .assert_eq(&serde_json::to_string_pretty(&update.problems).unwrap());
}
