//! Files and documents: no YAML, no object, an unknown kind.

use expect_test::expect;

use super::check;

#[test]
fn documents() {
    check(
        "a: [1\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: is not valid YAML: unclosed bracket '[' (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web # the one\n  labels: {\n",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: Pod default/web: is not valid YAML: unclosed bracket '{' (not served)
    "#]],
    );
    check(
        "kind: Pod\nmetadata:\n\tname: x\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: is not valid YAML: tabs disallowed within this context (block indentation) (not served)
    "#]],
    );
    check(
        "a: *nothing\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: is not valid YAML: alias references unknown anchor (not served)
    "#]],
    );
    check(
        "- 1\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: a manifest is a mapping with apiVersion, kind and metadata; this is a list (not served)
    "#]],
    );
    check(
        "just text\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: a manifest is a mapping with apiVersion, kind and metadata; this is text (not served)
    "#]],
    );
    check(
        "kind: Pod\nmetadata: {name: a}\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: Pod default/a: apiVersion: is missing (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nmetadata: {name: a}\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: kind: is missing (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: metadata.name: is missing (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: pod\nmetadata: {name: a}\n",
        &expect![[r#"
            error: dir/a.yaml:6: document 2: Pod default/a: kind: `pod` is not a kind of this API group: did you mean `Pod`? (not served)
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v2\nkind: AuthorizationPolicy\nmetadata: {name: a}\n",
        &expect![[r#"
            error: dir/a.yaml:5: document 2: AuthorizationPolicy default/a: apiVersion: `security.istio.io/v2` is not served; write security.istio.io/v1 (connections to what it selects are refused until it is fixed)
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorisationPolicy\nmetadata: {name: a}\n",
        &expect![[r#"
            error: dir/a.yaml:6: document 2: AuthorizationPolicy default/a: kind: `AuthorisationPolicy` is not a kind of this API group: did you mean `AuthorizationPolicy`? (connections to what it selects are refused until it is fixed)
        "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}\nkind: Pod\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: Pod default/a: metadata.name: duplicate key, first in line 7 (not served)
            error: dir/a.yaml:8: document 2: Pod default/a: kind: duplicate key, first in line 6 (not served)
        "#]],
    );
    check(
        "apiVersion: v1\nkind: List\nitems: {}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: items: is a mapping, expected a list (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: A}}\n- 1\n",
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/A: items[0].metadata.name: `A` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
        error: dir/a.yaml:9: document 2: items[1]: a manifest is a mapping with apiVersion, kind and metadata; this is a number (not served)
    "#]],
    );
}

#[test]
fn whole_files() {
    for (bytes, expect) in [
        (
            &b"a: \xff\n"[..],
            expect![[r#"
                error: a.yaml: is not UTF-8 text: invalid from byte 3 on
            "#]],
        ),
        (
            &b"\xfe\xffa"[..],
            expect![[r#"
                error: a.yaml: is not UTF-8 text: invalid from byte 0 on
            "#]],
        ),
    ] {
        let manifest = underpass_config::manifest::read(&"a.yaml".into(), bytes);
        expect.assert_eq(&manifest.problems.iter().map(|p| format!("{p}\n")).collect::<String>());
    }
}
