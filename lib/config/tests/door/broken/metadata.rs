//! Names, labels and annotations.

use expect_test::expect;

use super::check;

#[test]
fn metadata() {
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/A_b: metadata.name: `A_b` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: 123}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: metadata.name: YAML reads this as the number 123, expected text: write it in quotes (not served)
        "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: a.b}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod a.b/a: metadata.namespace: `a.b` is not a valid name: up to 63 of a-z 0-9 -, with a letter or digit at both ends (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: 1a}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Service default/1a: metadata.name: `1a` is not a valid name: up to 63 of a-z 0-9 -, a letter first, a letter or digit last (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {version: 1}}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels.version: YAML reads this as the number 1, expected text: write it in quotes (not served)
        "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {country: no}}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels.country: YAML reads this as the boolean false, expected text: write it in quotes (not served)
        "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {v: 1.10}}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels.v: YAML reads this as the number 1.1, expected text: write it in quotes (not served)
        "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    a/b/c: x\n    ok: 'a b'\n",
        &expect![[r#"
        error: dir/a.yaml:10: document 2: Pod default/a: metadata.labels[a/b/c]: is not a valid key: an optional DNS prefix and `/`, then up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
        error: dir/a.yaml:11: document 2: Pod default/a: metadata.labels.ok: `a b` is not a label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: [x]}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels: is a list, expected a mapping (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: ../../x}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.uid: `../../x` is not a uid: up to 128 of A-Z a-z 0-9 - (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: x\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: metadata: is text, expected a mapping (not served)
    "#]],
    );
}

/// Under another namespace it would be another object; everything else of a pod is ignored with a warning.
#[test]
fn misspelled() {
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, Namespace: prod}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod prod/a: metadata.Namespace: unknown field: did you mean `namespace`? (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, lables: {app: a}, annotation: {a: b}, generateName: a-, uids: x}\n",
        &expect![[r#"
            warning: dir/a.yaml:7: document 2: Pod default/a: metadata.annotation: unknown field, ignored: did you mean `annotations`?
            warning: dir/a.yaml:7: document 2: Pod default/a: metadata.lables: unknown field, ignored: did you mean `labels`?
            warning: dir/a.yaml:7: document 2: Pod default/a: metadata.uids: unknown field, ignored: did you mean `uid`?
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namepsace: prod}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: AuthorizationPolicy prod/a: metadata.namepsace: unknown field: did you mean `namespace`? (connections to what it selects are refused until it is fixed)
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, anotations: {istio.io/dry-run: 'true'}}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: AuthorizationPolicy default/a: metadata.anotations: unknown field: did you mean `annotations`? (connections to what it selects are refused until it is fixed)
        "#]],
    );
}
