//! Broken rules of AuthorizationPolicies.

use expect_test::{Expect, expect};

use super::policy;
use crate::{Shelf, lines};

#[track_caller]
fn rule(rule: &str, expect: &Expect) {
    policy(&format!("rules:\n- {}", rule.replace('\n', "\n  ")), expect);
}

/// A star that is not at one end can never match: a DENY with it would deny no connection.
#[test]
fn stars() {
    let check = |field: &str, value: &str, refused: bool| {
        let spec = match field.split_once('.') {
            Some(_) => format!("  - when: [{{key: '{field}', values: ['{value}']}}]"),
            None => format!("  - from: [{{source: {{{field}: ['{value}']}}}}]"),
        };
        let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n";
        let told = lines(&Shelf::new().put(&[("a.yaml", &format!("{head}spec:\n  action: DENY\n  rules:\n{spec}\n"))]));
        assert_eq!(told.contains("is a wildcard only once"), refused, "{field} {value}: {told}");
        assert_eq!(told.is_empty(), !refused, "{field} {value}: {told}");
    };
    for field in ["principals", "notPrincipals", "namespaces", "trustDomains", "source.principal", "source.namespace"] {
        for fits in ["*", "a*", "*a", "a"] {
            check(field, fits, false);
        }
        for never in ["*a*", "a*b", "**", "a**", "*a*b"] {
            check(field, never, true);
        }
    }
    // what only a waypoint judges is the waypoint's to read
    check("request.headers[x]", "*a*", false);
}

#[test]
fn sources() {
    rule(
        "from: []",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "from: [{}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source: matches nothing: set at least one field of source (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from: [{source: {}}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source: matches nothing: set at least one field of source (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from:\n- source:\n    principals: []",
        &expect![[r#"
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "from:\n- source:\n    principals: ['']",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals[0]: is empty (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from:\n- source:\n    principals:\n    -",
        &expect![[r#"
        error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals[0]: has no value: write one or leave the key out (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from:\n- source:\n    principals: a",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals: is text, expected a list (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from:\n- source:\n    principal: [a]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principal: unknown field: did you mean `principals`? (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from:\n- principals: [a]",
        &expect![[r#"
            error: dir/a.yaml:13: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].principals: unknown field; known fields: source (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "from:\n- source:\n    principals: [spiffe://td/ns/a/sa/b]",
        &expect![[r#"
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals[0]: principals are written without `spiffe://`: write `td/ns/a/sa/b` (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "from:\n- source:\n    ipBlocks: [10.0.0.0/8, 10.0.0.0/33, x]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.ipBlocks[1]: `10.0.0.0/33` is neither an IP address nor a CIDR (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.ipBlocks[2]: `x` is neither an IP address nor a CIDR (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from:\n- source:\n    remoteIpBlocks: [x]\n    notRequestPrincipals: []",
        &expect![[r#"
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.remoteIpBlocks[0]: `x` is neither an IP address nor a CIDR (connections to what it selects are refused until it is fixed)
            error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.notRequestPrincipals: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "from:\n- source:\n    serviceAccounts: [a/b/c, /a, a/, 'a*']\n    namespaces: [1]",
        &expect![[r#"
            error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.namespaces[0]: YAML reads this as the number 1, expected text: write it in quotes (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "from:\n- source:\n    serviceAccounts: [a/b/c, /a, a/, 'a*']",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[0]: `a/b/c` is not a service account: write `namespace/name`, or `name` for the policy's namespace (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[1]: `/a` is not a service account: write `namespace/name`, or `name` for the policy's namespace (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[2]: `a/` is not a service account: write `namespace/name`, or `name` for the policy's namespace (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[3]: `a*` is not a service account: write `namespace/name`, or `name` for the policy's namespace (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "from:\n- source:\n    namespaces: [a]\n    namespaces: [b]",
        &expect![[r#"
            error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.namespaces: duplicate key, first in line 14 (connections to what it selects are refused until it is fixed)
        "#]],
    );
}

#[test]
fn operations_and_conditions() {
    rule(
        "to: []",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].to: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "to: [{operation: {}}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation: matches nothing: set at least one field of operation (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "to:\n- operation:\n    ports: [8080]",
        &expect![[r#"
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[0]: YAML reads this as the number 8080, expected text: write it in quotes (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "to:\n- operation:\n    ports: ['0', '80-90', http]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[0]: `0` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[1]: `80-90` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[2]: `http` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "to:\n- operation:\n    method: [GET]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.method: unknown field: did you mean `methods`? (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "to:\n- operation:\n    methods: []",
        &expect![[r#"
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.methods: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "when: []",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "when: [{key: source.ip}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0]: matches nothing: set at least one field of values and notValues (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: source.ip, values: []}]",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values: the list is empty, which could mean nothing or anything: leave the field out, or list values (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "when: [{key: source.ip, values: [x], notValues: ['']}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].notValues[0]: is empty (connections to what it selects are refused until it is fixed)
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values[0]: `x` is neither an IP address nor a CIDR (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: source.ips, values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `source.ips` is not a known attribute for conditions: did you mean `source.ip`? (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: source.labels, values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `source.labels` is not a known attribute for conditions (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: is missing (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: 'request.headers[]', values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `request.headers[]` is not a known attribute for conditions: did you mean `request.headers[`? (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: destination.port, values: ['x']}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values[0]: `x` is not a port: a number from 1 to 65535 (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: source.principal, notValues: ['spiffe://a']}]",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].notValues[0]: principals are written without `spiffe://`: write `a` (connections to what it selects are refused until it is fixed)
        "#]],
    );
}

#[test]
fn paths_and_names_that_nothing_has() {
    rule(
        "to:\n- operation:\n    paths: ['/a/{id}', '/{**}/b/{*}', /ok/*, '']\n    notPaths: ['/{*}/b*', 'a/{*}']",
        &expect![[r#"
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.paths[0]: `/a/{id}` is not a path template: braces are read as `{*}` and `{**}` alone, each a whole segment between two `/` (connections to what it selects are refused until it is fixed)
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.paths[1]: `/{**}/b/{*}` is not a path template: neither `{*}` nor another `{**}` can follow `{**}` (connections to what it selects are refused until it is fixed)
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.paths[3]: is empty (connections to what it selects are refused until it is fixed)
            error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.notPaths[0]: `/{*}/b*` is not a path template: a segment of a template has at least one character, of A-Z, a-z, 0-9 and -._~%!$&'()+,;:@= (connections to what it selects are refused until it is fixed)
            error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.notPaths[1]: `a/{*}` is not a path template: a template starts with `/` (connections to what it selects are refused until it is fixed)
        "#]],
    );
    rule(
        "when: [{key: 'request.headers[x y]', values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `x y` is not an attribute of a header: a header name consists of A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~, or is :authority, :method, :path or :scheme (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: 'request.headers[:host]', values: ['']}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `:host` is not an attribute of a header: a header name consists of A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~, or is :authority, :method, :path or :scheme (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: 'request.auth.claims[a][]', values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `request.auth.claims[a][]` is not a known attribute for conditions (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: remote.ip, values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values[0]: `x` is neither an IP address nor a CIDR (connections to what it selects are refused until it is fixed)
    "#]],
    );
    rule(
        "when: [{key: connection.sni, values: ['']}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values[0]: is empty (connections to what it selects are refused until it is fixed)
    "#]],
    );
}
