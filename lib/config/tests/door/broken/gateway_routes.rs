//! Routes of the Gateway API that are broken: field and reason of each mistake.

use expect_test::{Expect, expect};

use crate::Shelf;

/// Field and reason of every problem of a `kind` with this spec, in flow style, and whether it is served all the same.
#[track_caller]
fn faults(kind: &str, spec: &str, want: &Expect) {
    let mut shelf = Shelf::new();
    let text = format!("apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
    let update = shelf.put(&[("a.yaml", &text)]);
    let lines = update.problems.iter().map(|p| format!("{}: {}: {}\n", p.severity(), p.field, p.reason));
    let lines: String = lines.collect();
    let is_bad = lines.lines().any(|line| line.starts_with("error"));
    assert_eq!(shelf.object().is_none(), is_bad, "{lines}");
    want.assert_eq(&lines);
}

/// Of an HTTPRoute with one rule that has this.
#[track_caller]
fn rule(rule: &str, want: &Expect) {
    faults("HTTPRoute", &format!("{{parentRefs: [{{group: '', kind: Service, name: a}}], rules: [{{{rule}}}]}}"), want);
}

/// Of a rule with these filters.
#[track_caller]
fn filters(filters: &str, want: &Expect) {
    rule(&format!("filters: [{filters}]"), want);
}

#[test]
fn references() {
    faults(
        "HTTPRoute",
        "{parentRefs: [{kind: 'a b', group: A, name: '', namespace: B, port: 0, sectionName: C}, {}], hostnames: ['a b', '*.B', '']}",
        &expect![[r#"
            error: spec.hostnames[0]: `a b` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
            error: spec.hostnames[2]: is missing
            error: spec.parentRefs[0].group: `A` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
            error: spec.parentRefs[0].kind: `a b` is not a kind: up to 63 of A-Z a-z 0-9 -
            error: spec.parentRefs[0].name: is missing
            error: spec.parentRefs[0].namespace: `B` is not a valid name: up to 63 of a-z 0-9 -, with a letter or digit at both ends
            error: spec.parentRefs[0].port: `0` is not a port: a number from 1 to 65535
            error: spec.parentRefs[0].sectionName: `C` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
            error: spec.parentRefs[1].name: is missing
        "#]],
    );
    rule(
        "backendRefs: [{name: a}, {name: b, port: 70000, weight: -1}, {name: c, port: 1, weight: 1000001}]",
        &expect![[r#"
        error: spec.rules[0].backendRefs[0].port: is missing
        error: spec.rules[0].backendRefs[1].port: `70000` is not a port: a number from 1 to 65535
        error: spec.rules[0].backendRefs[1].weight: `-1` is not a number from 0 to 1000000
        error: spec.rules[0].backendRefs[2].weight: `1000001` is not a number from 0 to 1000000
    "#]],
    );
    rule(
        "backendRefs: [{nam: a}]",
        &expect![[r#"
        error: spec.rules[0].backendRefs[0].nam: unknown field: did you mean `name`?
    "#]],
    );
    faults(
        "ReferenceGrant",
        "{from: [{group: '', kind: '', namespace: ''}]}",
        &expect![[r#"
        error: spec.from[0].kind: is missing
        error: spec.from[0].namespace: is missing
        error: spec.to: is missing
    "#]],
    );
}

#[test]
fn matches() {
    rule(
        "matches: [{path: {value: a}}, {path: {type: Exact, value: /a//b}}, {path: {value: /a/../b}}, {path: {value: '/%2F'}}, {path: {value: '/a?b'}}, {path: {value: '/%zz'}}, {path: {type: Prefix}}]",
        &expect![[r#"
            error: spec.rules[0].matches[0].path.value: `a` is not a path: / first, none of //, /./, /../, %2f and #, and of the rest only what a path can have
            error: spec.rules[0].matches[1].path.value: `/a//b` is not a path: / first, none of //, /./, /../, %2f and #, and of the rest only what a path can have
            error: spec.rules[0].matches[2].path.value: `/a/../b` is not a path: / first, none of //, /./, /../, %2f and #, and of the rest only what a path can have
            error: spec.rules[0].matches[3].path.value: `/%2F` is not a path: / first, none of //, /./, /../, %2f and #, and of the rest only what a path can have
            error: spec.rules[0].matches[4].path.value: `/a?b` is not a path: / first, none of //, /./, /../, %2f and #, and of the rest only what a path can have
            error: spec.rules[0].matches[5].path.value: `/%zz` is not a path: / first, none of //, /./, /../, %2f and #, and of the rest only what a path can have
            error: spec.rules[0].matches[6].path.type: `Prefix` is not one of Exact, PathPrefix, RegularExpression
        "#]],
    );
    rule(
        "matches: [{path: {type: RegularExpression, value: '(?=a)'}, method: get, headers: [{name: 'a b', value: x}, {name: a}, {type: Prefix, name: b, value: c}, {type: RegularExpression, name: c, value: '['}], queryParams: [{value: x}]}]",
        &expect![[r#"
            error: spec.rules[0].matches[0].headers[0].name: `a b` is not a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~
            error: spec.rules[0].matches[0].headers[1].value: is missing
            error: spec.rules[0].matches[0].headers[2].type: `Prefix` is not one of Exact, RegularExpression
            error: spec.rules[0].matches[0].headers[3].value: `[` is not an expression that can be served: unclosed character class
            error: spec.rules[0].matches[0].method: `get` is not one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH
            error: spec.rules[0].matches[0].path.value: `(?=a)` is not an expression that can be served: look-around, including look-ahead and look-behind, is not supported
            error: spec.rules[0].matches[0].queryParams[0].name: is missing
        "#]],
    );
    faults(
        "GRPCRoute",
        "{rules: [{matches: [{method: {}}, {method: {service: a/b, method: c.d}}, {method: {type: RegularExpression, service: 'a)('}}, {method: {type: Prefix, service: a}}]}]}",
        &expect![[r#"
            error: spec.rules[0].matches[0].method: set one of service and method
            error: spec.rules[0].matches[1].method.method: `c.d` is not a name of gRPC: letters, digits, _ and, of a service, dots between them
            error: spec.rules[0].matches[1].method.service: `a/b` is not a name of gRPC: letters, digits, _ and, of a service, dots between them
            error: spec.rules[0].matches[2].method.service: `a)(` is not an expression that can be served: unopened group
            error: spec.rules[0].matches[3].method.type: `Prefix` is not one of Exact, RegularExpression
        "#]],
    );
}

#[test]
fn filters_that_are_not_served_or_incomplete() {
    filters(
        "{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}, {type: ExternalAuth, externalAuth: {}}, {}, {type: URLRewrite}, {type: CORS, cors: {}, urlRewrite: {}}",
        &expect![[r#"
            error: spec.rules[0].filters[0].type: `ExtensionRef` is not one of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect, URLRewrite, CORS
            error: spec.rules[0].filters[1].type: `ExternalAuth` is not one of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect, URLRewrite, CORS
            error: spec.rules[0].filters[2].type: is missing
            error: spec.rules[0].filters[3].urlRewrite: is missing
            error: spec.rules[0].filters[4].urlRewrite: conflicts with `type`: set only one of the two
        "#]],
    );
    faults(
        "GRPCRoute",
        "{rules: [{filters: [{type: URLRewrite}, {type: ExtensionRef, extensionRef: {}}], backendRefs: [{name: a, port: 1, filters: [{type: RequestMirror, requestMirror: {}}]}]}]}",
        &expect![[r#"
            error: spec.rules[0].backendRefs[0].filters[0].type: `RequestMirror` is not one of RequestHeaderModifier, ResponseHeaderModifier
            error: spec.rules[0].filters[0].type: `URLRewrite` is not one of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror
            error: spec.rules[0].filters[1].type: `ExtensionRef` is not one of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror
        "#]],
    );
    rule(
        "backendRefs: [{name: a, port: 1, filters: [{type: URLRewrite, urlRewrite: {hostname: b}}]}]",
        &expect![[r#"
            error: spec.rules[0].backendRefs[0].filters[0].type: `URLRewrite` is not one of RequestHeaderModifier, ResponseHeaderModifier
        "#]],
    );
}

#[test]
fn filters_that_contradict_each_other() {
    filters(
        "{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}",
        &expect![[r#"
            error: spec.rules[0].filters: conflicts with `RequestRedirect`: set only one of the two
            error: spec.rules[0].filters[2].type: duplicate name `URLRewrite`
        "#]],
    );
    rule(
        "filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]",
        &expect![[r#"
            error: spec.rules[0].backendRefs: conflicts with `RequestRedirect`: set only one of the two
        "#]],
    );
    let prefix =
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}}}]";
    rule(
        &format!("{prefix}, matches: [{{path: {{type: Exact, value: /a}}}}]"),
        &expect![[r#"
        error: spec.rules[0].filters: `ReplacePrefixMatch` is not possible without exactly one match, by PathPrefix: write ReplaceFullPath, or one rule for each match
    "#]],
    );
    rule(
        &format!("{prefix}, matches: [{{path: {{value: /a}}}}, {{path: {{value: /b}}}}]"),
        &expect![[r#"
        error: spec.rules[0].filters: `ReplacePrefixMatch` is not possible without exactly one match, by PathPrefix: write ReplaceFullPath, or one rule for each match
    "#]],
    );
    rule(&format!("{prefix}, matches: [{{path: {{value: /a}}}}]"), &expect![[""]]);
}

#[test]
fn values_of_filters() {
    filters(
        "{type: RequestRedirect, requestRedirect: {scheme: ftp, hostname: '*.a', port: 0, statusCode: 200, path: {type: ReplaceFullPath, replacePrefixMatch: /a}}}",
        &expect![[r#"
            error: spec.rules[0].filters[0].requestRedirect.hostname: `*.a` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
            error: spec.rules[0].filters[0].requestRedirect.path.replaceFullPath: is missing
            error: spec.rules[0].filters[0].requestRedirect.path.replacePrefixMatch: conflicts with `type`: set only one of the two
            error: spec.rules[0].filters[0].requestRedirect.port: `0` is not a port: a number from 1 to 65535
            error: spec.rules[0].filters[0].requestRedirect.scheme: `ftp` is not one of http, https
            error: spec.rules[0].filters[0].requestRedirect.statusCode: `200` is not one of 301, 302, 303, 307 and 308
        "#]],
    );
    filters(
        "{type: URLRewrite, urlRewrite: {path: {type: Full}}}",
        &expect![[r#"
        error: spec.rules[0].filters[0].urlRewrite.path.type: `Full` is not one of ReplaceFullPath, ReplacePrefixMatch
    "#]],
    );
    filters(
        "{type: RequestMirror, requestMirror: {percent: 101, fraction: {numerator: 2, denominator: 1}}}, {type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {denominator: 0}}}",
        &expect![[r#"
            error: spec.rules[0].filters[0].requestMirror.backendRef: is missing
            error: spec.rules[0].filters[0].requestMirror.fraction: conflicts with `percent`: set only one of the two
            error: spec.rules[0].filters[0].requestMirror.fraction.numerator: `2` is not a number from 0 to 1
            error: spec.rules[0].filters[0].requestMirror.percent: `101` is not a number from 0 to 100
            error: spec.rules[0].filters[1].requestMirror.fraction.denominator: `0` is not a number from 1 to 2147483647
            error: spec.rules[0].filters[1].requestMirror.fraction.numerator: is missing
        "#]],
    );
    filters(
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a b', value: c}], remove: ['']}}",
        &expect![[r#"
            error: spec.rules[0].filters[0].requestHeaderModifier.remove[0]: `` is not a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~
            error: spec.rules[0].filters[0].requestHeaderModifier.set[0].name: `a b` is not a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~
        "#]],
    );
    filters(
        "{type: CORS, cors: {allowOrigins: ['a', 'https://*b'], allowMethods: ['*', GET], maxAge: 0}}",
        &expect![[r#"
            error: spec.rules[0].filters[0].cors.allowMethods: `*` is not alone: beside it no other entry means anything
            error: spec.rules[0].filters[0].cors.allowOrigins[0]: `a` is not an origin: `*`, or http:// or https:// and a host, which may begin with `*.`, and perhaps a port
            error: spec.rules[0].filters[0].cors.allowOrigins[1]: `https://*b` is not an origin: `*`, or http:// or https:// and a host, which may begin with `*.`, and perhaps a port
            error: spec.rules[0].filters[0].cors.maxAge: `0` is not a number from 1 to 2147483647
        "#]],
    );
}

#[test]
fn time_and_retries() {
    rule(
        "timeouts: {request: 1.5s, backendRequest: '10'}",
        &expect![[r#"
            error: spec.rules[0].timeouts.backendRequest: `10` is not a duration of the Gateway API: whole numbers with h, m, s and ms, like 10s or 1m30s
            error: spec.rules[0].timeouts.request: `1.5s` is not a duration of the Gateway API: whole numbers with h, m, s and ms, like 10s or 1m30s
        "#]],
    );
    rule(
        "timeouts: {request: 1s, backendRequest: 2s}",
        &expect![[r#"
        error: spec.rules[0].timeouts.backendRequest: `2s` is not at most as long as `request`
    "#]],
    );
    rule(
        "retry: {codes: [200, 600], attempts: -1, backoff: '1'}",
        &expect![[r#"
            error: spec.rules[0].retry.attempts: `-1` is not a number from 0 to 1000
            error: spec.rules[0].retry.backoff: `1` is not a duration of the Gateway API: whole numbers with h, m, s and ms, like 10s or 1m30s
            error: spec.rules[0].retry.codes[0]: `200` is not a number from 400 to 599
            error: spec.rules[0].retry.codes[1]: `600` is not a number from 400 to 599
        "#]],
    );
}

#[test]
fn names_and_unknown_fields() {
    faults(
        "HTTPRoute",
        "{rules: [{name: a}, {name: a}, {name: 'A b'}]}",
        &expect![[r#"
        error: spec.rules[1].name: duplicate name `a`
        error: spec.rules[2].name: `A b` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
    "#]],
    );
    rule(
        "matchs: []",
        &expect![[r#"
        error: spec.rules[0].matchs: unknown field: did you mean `matches`?
    "#]],
    );
    faults(
        "GRPCRoute",
        "{rules: [{timeouts: {}}]}",
        &expect![[r#"
        error: spec.rules[0].timeouts: unknown field; known fields: name, matches, filters, backendRefs, sessionPersistence
    "#]],
    );
    rule(
        "matches:",
        &expect![[r#"
        error: spec.rules[0].matches: has no value: write one or leave the key out
    "#]],
    );
}

#[test]
fn routes_of_connections() {
    let parents = "parentRefs: [{group: '', kind: Service, name: a}]";
    faults(
        "TCPRoute",
        &format!("{{{parents}}}"),
        &expect![[r#"
        error: spec.rules: is missing
    "#]],
    );
    faults(
        "TCPRoute",
        &format!("{{{parents}, rules: [{{}}]}}"),
        &expect![[r#"
        error: spec.rules[0].backendRefs: is missing
    "#]],
    );
    faults(
        "TCPRoute",
        "{parentRefs: [{name: A}], rules: [{name: a, backendRefs: [{name: a, port: 0, weight: -1}]}, {name: a, backendRefs: [{name: b}]}]}",
        &expect![[r#"
            error: spec.parentRefs[0].name: `A` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
            error: spec.rules[0].backendRefs[0].port: `0` is not a port: a number from 1 to 65535
            error: spec.rules[0].backendRefs[0].weight: `-1` is not a number from 0 to 1000000
            error: spec.rules[1].backendRefs[0].port: is missing
            error: spec.rules[1].name: duplicate name `a`
        "#]],
    );
    let backend = "backendRefs: [{name: a, port: 1}]";
    faults(
        "TCPRoute",
        &format!("{{hostnames: [a], rules: [{{{backend}}}]}}"),
        &expect![[r#"
        error: spec.hostnames: unknown field; known fields: parentRefs, useDefaultGateways, rules
    "#]],
    );
    faults(
        "TLSRoute",
        &format!("{{hostnames: [a], rules: [{{{backend}, matches: [{{}}]}}]}}"),
        &expect![[r#"
        error: spec.rules[0].matches: unknown field; known fields: name, backendRefs
    "#]],
    );
    faults(
        "TLSRoute",
        "{hostnames: [a], rules: [{backendRefs: [{name: a, port: 1, filters: []}]}]}",
        &expect![[r#"
        error: spec.rules[0].backendRefs[0].filters: unknown field; known fields: group, kind, name, namespace, port, weight
    "#]],
    );
    faults(
        "TLSRoute",
        &format!("{{hostnames: [10.0.0.1, '*a.b', 'a b', '*'], rules: [{{{backend}}}]}}"),
        &expect![[r#"
            error: spec.hostnames[0]: `10.0.0.1` is not a name: clients of TLS do not ask for addresses (RFC 6066)
            error: spec.hostnames[1]: `*a.b` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
            error: spec.hostnames[2]: `a b` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
            error: spec.hostnames[3]: `*` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part
        "#]],
    );
    faults(
        "TLSRoute",
        "{rules: null}",
        &expect![[r#"
        error: spec.rules: has no value: write one or leave the key out
    "#]],
    );
}
