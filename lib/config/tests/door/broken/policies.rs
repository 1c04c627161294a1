//! AuthorizationPolicies as a whole, and PeerAuthentications.

use expect_test::{Expect, expect};

use super::{check, policy};

#[test]
fn policies_as_a_whole() {
    policy(
        "rule: []",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.rule: unknown field: did you mean `rules`? (connections to what it selects are refused until it is fixed)
    "#]],
    );
    policy(
        "rules:\n- form: []",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].form: unknown field: did you mean `from`? (connections to what it selects are refused until it is fixed)
        "#]],
    );
    policy(
        "action: Allow",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.action: `Allow` is not one of ALLOW, DENY, CUSTOM, AUDIT (connections to what it selects are refused until it is fixed)
        "#]],
    );
    policy(
        "action: CUSTOM\nrules: [{}]",
        &expect![[r#"
            error: dir/a.yaml:10: document 2: AuthorizationPolicy prod/p: spec.provider.name: is missing (connections to what it selects are refused until it is fixed)
        "#]],
    );
    policy(
        "action: AUDIT\nprovider: {name: x}\nrules: [{}]",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.provider: only action CUSTOM has a provider (not served)
        "#]],
    );
    policy(
        "provider: {name: x}",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.provider: only action CUSTOM has a provider (connections to what it selects are refused until it is fixed)
        "#]],
    );
    policy(
        "selector: {matchLabels: {app: '*'}}",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.selector.matchLabels.app: `*` is not a label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (connections to what it selects are refused until it is fixed)
    "#]],
    );
    policy(
        "selector: {app: x}",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.selector.app: unknown field; known fields: matchLabels (connections to what it selects are refused until it is fixed)
        "#]],
    );
    policy(
        "selector: {matchLabels: {app: x}}\ntargetRefs: [{kind: Service, name: x}]",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.selector: conflicts with `targetRefs`: set only one of the two (connections to what it selects are refused until it is fixed)
        "#]],
    );
    policy(
        "targetRef: {kind: Service, name: x}\ntargetRefs: [{kind: Service, name: x}]",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.targetRefs: conflicts with `targetRef`: set only one of the two (connections to what it selects are refused until it is fixed)
        "#]],
    );
    policy(
        "targetRefs: []",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs: the list is empty, which could mean nothing or anything: leave the field out, or list values (not served)
        "#]],
    );
    policy(
        "targetRefs: [{name: A, namespace: other}]",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs[0].kind: is missing (not served)
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs[0].name: `A` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs[0].namespace: `other` is another namespace: a policy applies to targets of its own namespace only (not served)
    "#]],
    );
    policy(
        "rules:",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.rules: has no value: write one or leave the key out (connections to what it selects are refused until it is fixed)
    "#]],
    );
    policy(
        "rules:\n- from:\n  to:",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from: has no value: write one or leave the key out (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:13: document 2: AuthorizationPolicy prod/p: spec.rules[0].to: has no value: write one or leave the key out (connections to what it selects are refused until it is fixed)
    "#]],
    );
    policy(
        "rules: {}",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.rules: is a mapping, expected a list (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n",
        &expect![[r#"
        error: dir/a.yaml:8: document 2: AuthorizationPolicy default/p: spec: has no value: write one or leave the key out (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspecs: {}\n",
        &expect![[r#"
        error: dir/a.yaml:8: document 2: AuthorizationPolicy default/p: specs: unknown field: did you mean `spec`? (connections to what it selects are refused until it is fixed)
    "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, annotations: {istio.io/dry-run: maybe}}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: AuthorizationPolicy default/p: metadata.annotations[istio.io/dry-run]: `maybe` is not one of true, false (connections to what it selects are refused until it is fixed)
        "#]],
    );
}

#[test]
fn peer_authentications() {
    let spec = |spec: &str, expect: &Expect| {
        let head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: p\n";
        check(&format!("{head}spec: {spec}\n"), expect);
    };
    spec(
        "{mtls: {mode: strict}}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.mtls.mode: `strict` is not one of UNSET, DISABLE, PERMISSIVE, STRICT (connections to what it selects are refused until it is fixed)
    "#]],
    );
    spec(
        "{mtls: STRICT}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.mtls: is text, expected a mapping (connections to what it selects are refused until it is fixed)
    "#]],
    );
    spec(
        "{mTLS: {mode: STRICT}}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.mTLS: unknown field: did you mean `mtls`? (connections to what it selects are refused until it is fixed)
    "#]],
    );
    spec(
        "{portLevelMtls: {http: {mode: STRICT}, 0: {mode: STRICT}, 70000: {}}}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.0: `0` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.70000: `70000` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.http: `http` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
    "#]],
    );
    spec(
        "{portLevelMtls: {80: }}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.80: has no value: write one or leave the key out (connections to what it selects are refused until it is fixed)
    "#]],
    );
    spec(
        "{selector: {matchLabels: {a: [b]}}}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.selector.matchLabels.a: is a list, expected text (connections to what it selects are refused until it is fixed)
    "#]],
    );
    spec(
        "{}\nextra: 1",
        &expect![[r#"
            error: dir/a.yaml:10: document 2: PeerAuthentication default/p: extra: unknown field; known fields: apiVersion, kind, metadata, spec, status (connections to what it selects are refused until it is fixed)
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, creationTimestamp: yesterday}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: PeerAuthentication default/p: metadata.creationTimestamp: `yesterday` is not a time: write one like 2026-01-31T23:59:59Z (connections to what it selects are refused until it is fixed)
        "#]],
    );
}
