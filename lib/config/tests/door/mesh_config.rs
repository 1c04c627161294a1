//! The external authorizers of Istio's MeshConfig: what of them is read, each field once, and everything that can be wrong.

use expect_test::{Expect, expect};
use underpass_core::objects::{Authorizer, Object};

use crate::Shelf;

/// The authorizers of a MeshConfig with these providers, and what is wrong with it.
fn read(providers: &str) -> (Vec<Authorizer>, String) {
    let providers: String = providers.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  meshNetworks: \"\"\n  \
         mesh: |\n    accessLogFile: /dev/stdout\n    extensionProviders:\n{providers}"
    );
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", &text)]);
    let authorizers = match shelf.object() {
        Some(Object::MeshConfig(config)) => config.authorizers.clone(),
        _ => Vec::new(),
    };
    (authorizers, update.problems.iter().map(|problem| format!("{problem}\n")).collect())
}

#[test]
fn every_field() {
    let (all, problems) = read(
        "- name: jaeger\n  zipkin: {service: jaeger.istio-system.svc.cluster.local, port: 9411}\n\
         - name: opa\n  envoyExtAuthzHttp:\n    service: shop/OPA.shop.svc.cluster.local\n    port: 9000\n    timeout: 5s\n    \
           pathPrefix: /check\n    failOpen: true\n    statusOnError: \"503\"\n    \
           includeRequestHeadersInCheck: [Cookie, x-team-*]\n    includeHeadersInCheck: [\"*-id\"]\n    \
           includeAdditionalHeadersInCheck: {X-Mesh: a}\n    headersToUpstreamOnAllow: [x-user]\n    \
           headersToDownstreamOnDeny: [x-why]\n    headersToDownstreamOnAllow: [x-left]\n\
         - name: least\n  envoyExtAuthzHttp: {service: 10.0.0.1, port: 80}",
    );
    assert_eq!(problems, "");
    let expected: Expect = expect![[r#"
        [
          {
            "name": "opa",
            "host": "opa.shop.svc.cluster.local",
            "port": 9000,
            "timeout": {
              "secs": 5,
              "nanos": 0
            },
            "fails_open": true,
            "status_on_error": 503,
            "path_prefix": "/check",
            "sends": [
              "cookie",
              "x-team-*",
              "*-id"
            ],
            "adds": [
              [
                "x-mesh",
                "a"
              ]
            ],
            "to_endpoint": [
              "x-user"
            ],
            "to_client_denied": [
              "x-why"
            ],
            "to_client_allowed": [
              "x-left"
            ]
          },
          {
            "name": "least",
            "host": "10.0.0.1",
            "port": 80,
            "timeout": {
              "secs": 600,
              "nanos": 0
            },
            "fails_open": false,
            "status_on_error": 403,
            "path_prefix": "",
            "sends": [],
            "adds": [],
            "to_endpoint": [],
            "to_client_denied": [],
            "to_client_allowed": []
          }
        ]"#]];
    expected.assert_eq(&serde_json::to_string_pretty(&all).unwrap());
}

#[test]
fn what_is_wrong() {
    let check = |more: &str, expect: Expect| {
        let (all, problems) = read(&format!(
            "- name: opa\n  envoyExtAuthzHttp:\n    service: opa.shop.svc.cluster.local\n    port: 9000\n{more}"
        ));
        assert_eq!(all, []);
        expect.assert_eq(&problems);
    };
    check(
        "    timeout: soon",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.timeout: `soon` is not a duration: write one like 10s, 1m30s or 250ms (not served)
    "#]],
    );
    check(
        "    statusOnError: Forbidden",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.statusOnError: `Forbidden` is not a status of HTTP from 200 to 599 (not served)
    "#]],
    );
    check(
        "    pathPrefix: check",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.pathPrefix: `check` is not a path: it begins with / (not served)
    "#]],
    );
    check(
        "    headersToUpstreamOnAllow: [\"*\", \"\"]",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.headersToUpstreamOnAllow[0]: `*` is not the name of a header, or its begin or end with a star (not served)
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.headersToUpstreamOnAllow[1]: is missing (not served)
    "#]],
    );
    check(
        "    includeAdditionalHeadersInCheck: {\"a b\": c}",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.includeAdditionalHeadersInCheck[a b]: `a b` is not the name of a header (not served)
    "#]],
    );
    check(
        "    headersToUpstream: [a]",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.headersToUpstream: unknown field; known fields: service, port, timeout, pathPrefix, failOpen, statusOnError, includeRequestHeadersInCheck, includeHeadersInCheck, includeAdditionalHeadersInCheck, includeRequestBodyInCheck, headersToUpstreamOnAllow, headersToDownstreamOnDeny, headersToDownstreamOnAllow, clearRouteCache (not served)
    "#]],
    );
    check(
        "- name: opa\n  envoyExtAuthzHttp: {service: \"*.shop\", port: 0}",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[1].envoyExtAuthzHttp.port: `0` is not a port: a number from 1 to 65535 (not served)
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[1].envoyExtAuthzHttp.service: `*.shop` is not the host of one service, without a star (not served)
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[1].name: duplicate name `opa` (not served)
    "#]],
    );
    check(
        "- envoyExtAuthzHttp: {service: a, port: 80}",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[1].name: is missing (not served)
    "#]],
    );
    check(
        "  - [",
        expect![[r#"
        error: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh: is not valid YAML: while parsing a block mapping, did not find expected key (not served)
    "#]],
    );
    // Known, and not served: there is no authorizer of this name then.
    check(
        "    includeRequestBodyInCheck: {maxRequestBytes: 1}",
        expect![[r#"
        warning: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzHttp.includeRequestBodyInCheck: known, not yet served: what policies with this provider match is refused
    "#]],
    );
    let (all, problems) = read("- name: opa\n  envoyExtAuthzGrpc: {service: opa.shop.svc.cluster.local, port: 9000}");
    assert_eq!(all, []);
    expect![[r#"
        warning: a.yaml:6: document 1: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyExtAuthzGrpc: known, not yet served: what policies with this provider match is refused
    "#]].assert_eq(&problems);
}
