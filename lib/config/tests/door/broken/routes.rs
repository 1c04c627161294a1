//! VirtualServices and DestinationRules that are broken: field and reason of each mistake.

use expect_test::{Expect, expect};

use super::check;
use crate::Shelf;

const HTTP: &str = "{route: [{destination: {host: a}}]";

/// Field and reason of every error of a `kind` with this spec, in flow style, and whether it is served all the same.
#[track_caller]
fn faults(kind: &str, spec: &str, want: &Expect) {
    let mut shelf = Shelf::new();
    let text = format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
    let update = shelf.put(&[("a.yaml", &text)]);
    let lines = update.problems.iter().map(|p| format!("{}: {}: {}\n", p.severity(), p.field, p.reason));
    let lines: String = lines.collect();
    let is_bad = lines.lines().any(|line| line.starts_with("error"));
    assert_eq!(shelf.object().is_none(), is_bad, "{lines}");
    want.assert_eq(&lines);
}

/// Of a VirtualService with one route of HTTP that has this as well.
#[track_caller]
fn http(more: &str, want: &Expect) {
    faults("VirtualService", &format!("{{hosts: [a], http: [{HTTP}, {more}}}]}}"), want);
}

#[track_caller]
fn matched(condition: &str, want: &Expect) {
    http(&format!("match: [{condition}]"), want);
}

/// Of a DestinationRule with this traffic policy.
#[track_caller]
fn policy(policy: &str, want: &Expect) {
    faults("DestinationRule", &format!("{{host: a, trafficPolicy: {policy}}}"), want);
}

#[test]
fn the_whole_line() {
    check(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  http:\n  - route:\n    - destination: {hots: a}\n",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: VirtualService default/a: spec.http[0].route[0].destination.hots: unknown field: did you mean `host`? (not served)
        "#]],
    );
}

#[test]
fn virtual_services() {
    let check = |spec: &str, want: &Expect| faults("VirtualService", spec, want);
    check(
        "{hosts: [a]}",
        &expect![[r#"
        error: spec: set one of http, tls and tcp
    "#]],
    );
    check(
        "{hosts: ['a b', '', 'a.*', 'http://a'], http: [{route: [{destination: {host: a}}]}]}",
        &expect![[r#"
        error: spec.hosts[0]: `a b` is not a host: a DNS name, one with `*` in the place of its first part, or `*` alone
        error: spec.hosts[1]: is missing
        error: spec.hosts[2]: `a.*` is not a host: a DNS name, one with `*` in the place of its first part, or `*` alone
        error: spec.hosts[3]: `http://a` is not a host: a DNS name, one with `*` in the place of its first part, or `*` alone
    "#]],
    );
    check(
        "{hosts: [a], gateways: [a/b/c, A], exportTo: [B], http: [{redirect: {}}]}",
        &expect![[r#"
        error: spec.exportTo[0]: `B` is not a valid name: up to 63 of a-z 0-9 -, with a letter or digit at both ends
        error: spec.gateways[0]: `a/b/c` is not a gateway: `mesh`, `name` or `namespace/name`
        error: spec.gateways[1]: `A` is not a gateway: `mesh`, `name` or `namespace/name`
    "#]],
    );
    check(
        "{hosts: [a], htpp: []}",
        &expect![[r#"
        error: spec.htpp: unknown field: did you mean `http`?
    "#]],
    );
    check(
        "{hosts: [a], http: null}",
        &expect![[r#"
        error: spec.http: has no value: write one or leave the key out
    "#]],
    );
    check(
        "{hosts: [a], http: [{}]}",
        &expect![[r#"
            error: spec.http[0]: set one of route, redirect, directResponse and delegate
        "#]],
    );
    check(
        "{hosts: [a], tls: [{route: []}], tcp: [{match: [{port: 0, sourceSubnet: x}]}]}",
        &expect![[r#"
            error: spec.tcp[0].match[0].port: `0` is not a port: a number from 1 to 65535
            error: spec.tcp[0].match[0].sourceSubnet: `x` is neither an IP address nor a CIDR
            error: spec.tcp[0].route: is missing
            error: spec.tls[0].match: is missing
            error: spec.tls[0].route: is missing
        "#]],
    );
    check(
        "{hosts: [a], tls: [{match: [{port: 443}], route: [{destination: {host: a}}]}]}",
        &expect![[r#"
        error: spec.tls[0].match[0].sniHosts: is missing
    "#]],
    );
}

#[test]
fn routes() {
    http(
        "redirect: {}",
        &expect![[r#"
        error: spec.http[0].redirect: conflicts with `route`: set only one of the two
    "#]],
    );
    http(
        "timeout: 10",
        &expect![[r#"
        error: spec.http[0].timeout: YAML reads this as the number 10, expected text: write it in quotes
    "#]],
    );
    http(
        "timeout: 10d",
        &expect![[r#"
        error: spec.http[0].timeout: `10d` is not a duration: write one like 10s, 1m30s or 250ms
    "#]],
    );
    http(
        "timeout: 1us",
        &expect![[r#"
        error: spec.http[0].timeout: `1us` is not a duration of at least 1ms
    "#]],
    );
    http(
        "retries: {attempts: -1, perTryTimeout: x, retryOn: '5xx,6xx,99'}",
        &expect![[r#"
        error: spec.http[0].retries.attempts: `-1` is not a number from 0 to 1000
        error: spec.http[0].retries.perTryTimeout: `x` is not a duration: write one like 10s, 1m30s or 250ms
        error: spec.http[0].retries.retryOn: `6xx` is not one of 5xx, gateway-error, reset, reset-before-request, connect-failure, envoy-ratelimited, retriable-4xx, refused-stream, retriable-status-codes, retriable-headers, http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable
        error: spec.http[0].retries.retryOn: `99` is not one of 5xx, gateway-error, reset, reset-before-request, connect-failure, envoy-ratelimited, retriable-4xx, refused-stream, retriable-status-codes, retriable-headers, http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable
    "#]],
    );
    http(
        "rewrite: {}",
        &expect![[r#"
        error: spec.http[0].rewrite: set one of uri, authority and uriRegexRewrite
    "#]],
    );
    http(
        "rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}",
        &expect![[r#"
        error: spec.http[0].rewrite.uriRegexRewrite: conflicts with `uri`: set only one of the two
    "#]],
    );
    http(
        "rewrite: {uriRegexRewrite: {match: (a, rewrite: b}}",
        &expect![[r#"
        error: spec.http[0].rewrite.uriRegexRewrite: `(a` is not an expression that can be served: unclosed group
    "#]],
    );
    http(
        "rewrite: {uriRegexRewrite: {match: a, rewrite: '\\1'}}",
        &expect![[r#"
        error: spec.http[0].rewrite.uriRegexRewrite: `a` is not an expression that can be served: `\1` is no group of the expression
    "#]],
    );
    http(
        "rewrite: {uri: \"/a\\nb\"}",
        &expect![[r#"
            error: spec.http[0].rewrite.uri: `/a
            b` is not a text without control characters
        "#]],
    );
    http(
        "fault: {delay: {}, abort: {httpStatus: 99, percentage: {value: 101}}}",
        &expect![[r#"
        error: spec.http[0].fault.abort.httpStatus: `99` is not a number from 200 to 599
        error: spec.http[0].fault.abort.percentage.value: `101` is not a percentage from 0 to 100
        error: spec.http[0].fault.delay.fixedDelay: is missing
    "#]],
    );
    http(
        "fault: {delay: {exponentialDelay: 1s}, abort: {http2Error: x}}",
        &expect![[r#"
        warning: spec.http[0].fault.abort.http2Error: known, not yet served: nothing is aborted by it, in Istio neither: write httpStatus or grpcStatus
        warning: spec.http[0].fault.delay.exponentialDelay: known, not yet served: nothing is delayed by it, in Istio neither: write fixedDelay
    "#]],
    );
    http(
        "fault: {abort: {grpcStatus: OKAY}}",
        &expect![[r#"
        error: spec.http[0].fault.abort.grpcStatus: `OKAY` is not one of OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED
    "#]],
    );
    http(
        "mirror: {host: b}, mirrors: [{percentage: {value: -1}}]",
        &expect![[r#"
        error: spec.http[0].mirrors: conflicts with `mirror`: set only one of the two
        error: spec.http[0].mirrors[0].destination: is missing
        error: spec.http[0].mirrors[0].percentage.value: `-1` is not a percentage from 0 to 100
    "#]],
    );
    http(
        "corsPolicy: {allowOrigins: [{}], maxAge: x, unmatchedPreflights: x}",
        &expect![[r#"
        error: spec.http[0].corsPolicy.allowOrigins[0]: set one of exact, prefix and regex
        error: spec.http[0].corsPolicy.maxAge: `x` is not a duration: write one like 10s, 1m30s or 250ms
        error: spec.http[0].corsPolicy.unmatchedPreflights: `x` is not one of UNSPECIFIED, FORWARD, IGNORE
    "#]],
    );
    http(
        "headers: {request: {set: {'a b': c, d: \"e\\nf\"}, remove: ['']}}",
        &expect![[r#"
        error: spec.http[0].headers.request.remove[0]: `` is not a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~
        error: spec.http[0].headers.request.set[a b]: `a b` is not a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~
        error: spec.http[0].headers.request.set.d: `e
        f` is not a text without control characters
    "#]],
    );
    let check =
        |route: &str, want: &Expect| faults("VirtualService", &format!("{{hosts: [a], http: [{route}]}}"), want);
    check(
        "{route: [{destination: {host: a}, weight: -1}, {weight: 5}]}",
        &expect![[r#"
        error: spec.http[0].route[0].weight: `-1` is not a number from 0 to 2147483647
        error: spec.http[0].route[1].destination: is missing
    "#]],
    );
    check(
        "{route: [{destination: {host: a}}, {destination: {host: b}, weight: 0}]}",
        &expect![[r#"
        error: spec.http[0].route: all weights are 0: no request could go anywhere
    "#]],
    );
    check(
        "{route: [{destination: {host: '*.a', subset: 'a b', port: {}}}]}",
        &expect![[r#"
        error: spec.http[0].route[0].destination.host: `*.a` is not one host: requests go to one place
        error: spec.http[0].route[0].destination.port.number: is missing
        error: spec.http[0].route[0].destination.subset: `a b` is not a subset's name: up to 63 of A-Z a-z 0-9 - _ .
    "#]],
    );
    check(
        "{redirect: {redirectCode: 200, port: 1, derivePort: X, scheme: ftp}}",
        &expect![[r#"
        error: spec.http[0].redirect.derivePort: `X` is not one of FROM_PROTOCOL_DEFAULT, FROM_REQUEST_PORT
        error: spec.http[0].redirect.derivePort: conflicts with `port`: set only one of the two
        error: spec.http[0].redirect.redirectCode: `200` is not one of 301, 302, 303, 307 and 308
        error: spec.http[0].redirect.scheme: `ftp` is not one of http and https
    "#]],
    );
    check(
        "{directResponse: {status: 99, body: {}}}",
        &expect![[r#"
        error: spec.http[0].directResponse.body: set one of string and bytes
        error: spec.http[0].directResponse.status: `99` is not a number from 200 to 599
    "#]],
    );
    check(
        "{directResponse: {status: 200, body: {string: a, bytes: b}}}",
        &expect![[r#"
        error: spec.http[0].directResponse.body.bytes: conflicts with `string`: set only one of the two
    "#]],
    );
    check(
        "{directResponse: {status: 200, body: {bytes: a}}}",
        &expect![[r#"
        error: spec.http[0].directResponse.body.bytes: `a` is not base64
    "#]],
    );
    check(
        "{delegate: {namespace: a_b}}",
        &expect![[r#"
        error: spec.http[0].delegate.name: is missing
        error: spec.http[0].delegate.namespace: `a_b` is not a valid name: up to 63 of a-z 0-9 -, with a letter or digit at both ends
    "#]],
    );
}

#[test]
fn conditions() {
    matched(
        "{uri: {}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri: set one of exact, prefix and regex
    "#]],
    );
    matched(
        "{uri: {exact: a, prefix: b}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri.prefix: conflicts with `exact`: set only one of the two
    "#]],
    );
    matched(
        "{uri: {exact: a, regex: b}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri.regex: conflicts with `exact`: set only one of the two
    "#]],
    );
    matched(
        "{uri: {prefix: a, regex: b}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri.regex: conflicts with `prefix`: set only one of the two
    "#]],
    );
    matched(
        "{uri: {regex: '[a'}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri.regex: `[a` is not an expression that can be served: unclosed character class
    "#]],
    );
    matched(
        "{uri: {regex: '(?=a)'}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri.regex: `(?=a)` is not an expression that can be served: look-around, including look-ahead and look-behind, is not supported
    "#]],
    );
    matched(
        "{uri: {regex: '[a&&b]'}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri.regex: `[a&&b]` is not an expression that can be served: `&&` is not of RE2's language, or means something else in it
    "#]],
    );
    matched(
        "{uri: {regex: ''}}",
        &expect![[r#"
        error: spec.http[0].match[0].uri.regex: `` is not an expression that can be served: it is empty
    "#]],
    );
    matched(
        "{method: {regex: '((a{1000}){1000}){1000}'}}",
        &expect![[r#"
        error: spec.http[0].match[0].method.regex: `((a{1000}){1000}){1000}` is not an expression that can be served: it is too large when it is compiled: repeat less
    "#]],
    );
    matched(
        "{headers: {'a b': {exact: c}, uri: {exact: /}}}",
        &expect![[r#"
        error: spec.http[0].match[0].headers[a b]: `a b` is not a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~
        warning: spec.http[0].match[0].headers.uri: known, not yet served: the name is of another field of the match, and asks for no header: it is ignored
    "#]],
    );
    matched(
        "{header: {a: {exact: c}}}",
        &expect![[r#"
        error: spec.http[0].match[0].header: unknown field: did you mean `headers`?
    "#]],
    );
    matched(
        "{queryParams: {'': {exact: c}}, port: 70000, sourceLabels: {'a b': c}, sourceNamespace: A}",
        &expect![[r#"
            error: spec.http[0].match[0].port: `70000` is not a port: a number from 1 to 65535
            error: spec.http[0].match[0].queryParams.: is empty
            error: spec.http[0].match[0].sourceLabels[a b]: is not a valid key: an optional DNS prefix and `/`, then up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .)
            error: spec.http[0].match[0].sourceNamespace: `A` is not a valid name: up to 63 of a-z 0-9 -, with a letter or digit at both ends
        "#]],
    );
    matched(
        "null",
        &expect![[r#"
        error: spec.http[0].match[0]: has no value: write one or leave the key out
    "#]],
    );
}

#[test]
fn destination_rules() {
    let check = |spec: &str, want: &Expect| faults("DestinationRule", spec, want);
    check(
        "{}",
        &expect![[r#"
        error: spec.host: is missing
    "#]],
    );
    check(
        "{host: a, subset: []}",
        &expect![[r#"
        error: spec.subset: unknown field: did you mean `subsets`?
    "#]],
    );
    check(
        "{host: a, subsets: [{labels: {a: b}}, {name: a}, {name: a}, {name: 'a b', labels: {a: 'b c'}}]}",
        &expect![[r#"
        error: spec.subsets[0].name: is missing
        error: spec.subsets[2].name: duplicate name `a`
        error: spec.subsets[3].labels.a: `b c` is not a label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .)
        error: spec.subsets[3].name: `a b` is not a subset's name: up to 63 of A-Z a-z 0-9 - _ .
    "#]],
    );
    policy(
        "{loadBalancer: {simple: X}}",
        &expect![[r#"
        error: spec.trafficPolicy.loadBalancer.simple: `X` is not one of UNSPECIFIED, ROUND_ROBIN, LEAST_REQUEST, LEAST_CONN, RANDOM, PASSTHROUGH
    "#]],
    );
    policy(
        "{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}",
        &expect![[r#"
        error: spec.trafficPolicy.loadBalancer.consistentHash: conflicts with `simple`: set only one of the two
    "#]],
    );
    policy(
        "{loadBalancer: {consistentHash: {}}}",
        &expect![[r#"
        error: spec.trafficPolicy.loadBalancer.consistentHash: set one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName
    "#]],
    );
    policy(
        "{loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}}",
        &expect![[r#"
        error: spec.trafficPolicy.loadBalancer.consistentHash.useSourceIp: conflicts with `httpHeaderName`: set only one of the two
    "#]],
    );
    policy(
        "{loadBalancer: {consistentHash: {httpCookie: {}, maglev: {tableSize: 10}}}}",
        &expect![[r#"
        error: spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name: is missing
    "#]],
    );
    policy(
        "{loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: -1}}}}",
        &expect![[r#"
        error: spec.trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize: `-1` is not a number from 0 to 8388608
    "#]],
    );
    policy(
        "{loadBalancer: {warmup: {minimumPercent: 101, aggression: 0.5}}}",
        &expect![[r#"
            error: spec.trafficPolicy.loadBalancer.warmup.aggression: `0.5` is not a number from 1 to 1000
            error: spec.trafficPolicy.loadBalancer.warmup.duration: is missing
            error: spec.trafficPolicy.loadBalancer.warmup.minimumPercent: `101` is not a percentage from 0 to 100
        "#]],
    );
    policy(
        "{loadBalancer: {localityLbSetting: {distribute: [{from: '', to: {a: 50}}], failoverPriority: [a]}}}",
        &expect![[r#"
        error: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].from: is missing
        error: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: `50` is not the sum of these shares: together they are 100
        error: spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority: conflicts with `distribute`: set only one of the two
    "#]],
    );
    policy(
        "{connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s}, http: {h2UpgradePolicy: x}}}",
        &expect![[r#"
        error: spec.trafficPolicy.connectionPool.http.h2UpgradePolicy: `x` is not one of DEFAULT, DO_NOT_UPGRADE, UPGRADE
        error: spec.trafficPolicy.connectionPool.tcp.connectTimeout: `0s` is not a duration of at least 1ms
        error: spec.trafficPolicy.connectionPool.tcp.maxConnections: `-1` is not a number from 0 to 2147483647
    "#]],
    );
    policy(
        "{outlierDetection: {consecutiveErrors: 1, consecutive5xxErrors: 2, maxEjectionPercent: 101, interval: 0s}}",
        &expect![[r#"
        error: spec.trafficPolicy.outlierDetection.consecutiveErrors: conflicts with `consecutive5xxErrors`: set only one of the two
        error: spec.trafficPolicy.outlierDetection.interval: `0s` is not a duration of at least 1ms
        error: spec.trafficPolicy.outlierDetection.maxEjectionPercent: `101` is not a number from 0 to 100
    "#]],
    );
    policy(
        "{tls: {mode: MUTUAL}}",
        &expect![[r#"
        error: spec.trafficPolicy.tls.clientCertificate: is missing
        error: spec.trafficPolicy.tls.privateKey: is missing
    "#]],
    );
    policy(
        "{tls: {mode: mtls, credentialName: a, privateKey: b}}",
        &expect![[r#"
        error: spec.trafficPolicy.tls.credentialName: conflicts with `clientCertificate`: set only one of the two
        error: spec.trafficPolicy.tls.mode: `mtls` is not one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL
    "#]],
    );
    policy(
        "{tls: {mode: SIMPLE, sni: a b, subjectAltNames: [a.example, 10.0.0.1, 'fd00::1', 'spiffe://a/b', 'a b']}}",
        &expect![[r#"
            error: spec.trafficPolicy.tls.sni: `a b` is not a host: a DNS name, one with `*` in the place of its first part, or `*` alone
            error: spec.trafficPolicy.tls.subjectAltNames[4]: `a b` is not a host: a DNS name, one with `*` in the place of its first part, or `*` alone
        "#]],
    );
    policy(
        "{portLevelSettings: [{}, {port: {number: 1}}, {port: {number: 1}}]}",
        &expect![[r#"
        error: spec.trafficPolicy.portLevelSettings[0].port: is missing
        error: spec.trafficPolicy.portLevelSettings[2].port: duplicate port 1
    "#]],
    );
    policy(
        "{tunnel: {protocol: GET}, proxyProtocol: {version: V3}, retryBudget: {percent: -1}}",
        &expect![[r#"
            error: spec.trafficPolicy.proxyProtocol.version: `V3` is not one of V1, V2
            error: spec.trafficPolicy.retryBudget.percent: `-1` is not a percentage from 0 to 100
            error: spec.trafficPolicy.tunnel.protocol: `GET` is not one of CONNECT, POST
            error: spec.trafficPolicy.tunnel.targetHost: is missing
            error: spec.trafficPolicy.tunnel.targetPort: is missing
        "#]],
    );
}
