//! RequestAuthentications: what of them is read, each field once, and everything that can be wrong.

use expect_test::{Expect, expect};
use underpass_core::{
    Kind, ObjectKey,
    objects::{KeySource, Object, RequestAuthentication},
    testing::name,
    world::{PolicyTarget, Scope, TargetKind},
};

use crate::{Shelf, lines};

const HEAD: &str =
    "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: prod}\n";

fn read(spec: &str) -> (Option<RequestAuthentication>, String) {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", &format!("{HEAD}spec:\n{spec}"))]);
    let object = match shelf.sources().get(&ObjectKey::new(Kind::RequestAuthentication, name("prod/r"))) {
        Some(Object::RequestAuthentication(object)) => Some(RequestAuthentication::clone(object)),
        _ => None,
    };
    (object, update.errors().map(|problem| format!("{problem}\n")).collect())
}

#[test]
fn every_field() {
    let (object, problems) = read(
        "selector: {matchLabels: {app: a}}\n\
         jwtRules:\n\
         - issuer: https://issuer.example\n  \
           audiences: [a, b]\n  \
           jwksUri: https://issuer.example/keys\n  \
           fromHeaders: [{name: X-Jwt, prefix: 'Token '}, {name: x-other}]\n  \
           fromParams: [token]\n  \
           fromCookies: [session]\n  \
           outputPayloadToHeader: X-Payload\n  \
           forwardOriginalToken: true\n  \
           outputClaimToHeaders: [{header: X-Sub, claim: sub}, {header: x-role, claim: realm.role}]\n  \
           timeout: 10s\n  \
           spaceDelimitedClaims: [roles]\n\
         - issuer: other",
    );
    assert_eq!(problems, "");
    let want: Expect = expect![[r#"
        {
          "name": "prod/r",
          "scope": {
            "Selector": {
              "app": "a"
            }
          },
          "rules": [
            {
              "issuer": "https://issuer.example",
              "audiences": [
                "a",
                "b"
              ],
              "keys": {
                "Uri": "https://issuer.example/keys"
              },
              "places": [
                {
                  "Header": {
                    "name": "x-jwt",
                    "prefix": "Token "
                  }
                },
                {
                  "Header": {
                    "name": "x-other",
                    "prefix": ""
                  }
                },
                {
                  "Param": "token"
                },
                {
                  "Cookie": "session"
                }
              ],
              "forward_original_token": true,
              "payload_header": "x-payload",
              "claim_headers": [
                {
                  "header": "x-sub",
                  "claim": [
                    "sub"
                  ]
                },
                {
                  "header": "x-role",
                  "claim": [
                    "realm",
                    "role"
                  ]
                }
              ],
              "timeout": {
                "secs": 10,
                "nanos": 0
              },
              "space_delimited": [
                "roles"
              ]
            },
            {
              "issuer": "other",
              "audiences": [],
              "keys": "Discovery",
              "places": [],
              "forward_original_token": false,
              "payload_header": null,
              "claim_headers": [],
              "timeout": {
                "secs": 5,
                "nanos": 0
              },
              "space_delimited": []
            }
          ]
        }"#]];
    want.assert_eq(&serde_json::to_string_pretty(&object.unwrap()).unwrap());
}

#[test]
fn scopes() {
    let check = |spec: &str, scope: Scope| {
        let (object, problems) = read(spec);
        assert_eq!((object.map(|object| object.scope), problems.as_str()), (Some(scope), ""), "{spec}");
    };
    let target = |kind, name: &str| Scope::Targets(vec![PolicyTarget::new(kind, name)]);
    check("{}", Scope::Namespace);
    check("selector: {}", Scope::Namespace);
    check("targetRef: {kind: Service, name: a}", target(TargetKind::Service, "a"));
    let gateway = "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}]";
    check(gateway, target(TargetKind::Gateway, "w"));
}

#[test]
fn keys_that_are_written_in() {
    let check = |keys: &str, expect: usize| {
        let (object, problems) = read(&format!("jwtRules:\n- issuer: i\n  jwks: '{{\"keys\": [{keys}]}}'"));
        assert_eq!(problems, "", "{keys}");
        let Some(KeySource::Inline(set)) = object.map(|object| object.rules[0].keys.clone()) else { panic!("{keys}") };
        assert_eq!(serde_json::to_value(&set).unwrap().as_array().unwrap().len(), expect);
    };
    let rsa =
        format!(r#"{{"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig", "n": "{}", "e": "AQAB", "x5c": []}}"#, N);
    let ec = format!(r#"{{"kty": "EC", "crv": "P-256", "x": "{X}", "y": "{X}"}}"#);
    let okp = format!(r#"{{"kty": "OKP", "crv": "Ed25519", "x": "{X}"}}"#);
    let other = r#"{"kty": "RSA", "use": "enc"}"#;
    check(&rsa, 1);
    check(&format!("{rsa}, {ec}, {okp}, {other}"), 3);
}

#[track_caller]
fn broken(spec: &str, expect: &Expect) {
    let (object, problems) = read(spec);
    assert!(object.is_none(), "{spec}");
    expect.assert_eq(&problems);
}

#[test]
fn what_is_wrong_is_named() {
    let rule = |more: &str, expect: &Expect| broken(&format!("jwtRules:\n- issuer: i\n  {more}"), expect);
    broken(
        "jwtRules: [{}]",
        &expect![[r#"
            error: a.yaml:5: document 1: RequestAuthentication prod/r: spec.jwtRules[0].issuer: is missing (not served)
        "#]],
    );
    broken(
        "jwtRule: []",
        &expect![[r#"
            error: a.yaml:5: document 1: RequestAuthentication prod/r: spec.jwtRule: unknown field: did you mean `jwtRules`? (not served)
        "#]],
    );
    broken(
        "jwtRules: [{issuer: i, fromHeader: []}]",
        &expect![[r#"
            error: a.yaml:5: document 1: RequestAuthentication prod/r: spec.jwtRules[0].fromHeader: unknown field: did you mean `fromHeaders`? (not served)
        "#]],
    );
    broken(
        "jwtRules:",
        &expect![[r#"
            error: a.yaml:5: document 1: RequestAuthentication prod/r: spec.jwtRules: has no value: write one or leave the key out (not served)
        "#]],
    );
    broken(
        "targetRefs: [{kind: Pod, name: a}]",
        &expect![[r#"
            error: a.yaml:5: document 1: RequestAuthentication prod/r: spec.targetRefs[0].kind: `Pod` is not one of Service, networking.istio.io ServiceEntry, gateway.networking.k8s.io Gateway, gateway.networking.k8s.io GatewayClass (not served)
        "#]],
    );
    rule(
        "audiences: []",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].audiences: the list is empty, which could mean nothing or anything: leave the field out, or list values (not served)
        "#]],
    );
    rule(
        "audiences: [a, '']",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].audiences[1]: is empty (not served)
        "#]],
    );
    rule(
        "jwksUri: ftp://a",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].jwksUri: `ftp://a` is not an http or https URL (not served)
        "#]],
    );
    rule(
        "jwksUri: https:///keys",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].jwksUri: `https:///keys` is not an http or https URL (not served)
        "#]],
    );
    rule(
        "jwksUri: https://a\n  jwks: x",
        &expect![[r#"
            error: a.yaml:8: document 1: RequestAuthentication prod/r: spec.jwtRules[0].jwks: conflicts with `jwksUri`: set only one of the two (not served)
        "#]],
    );
    rule(
        "jwks: '{\"keys\": 1}'",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].jwks: `{"keys": 1}` is not a JSON Web Key set: {"keys": [...]} (not served)
        "#]],
    );
    rule(
        "jwks: '{\"keys\": []}'",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].jwks: has no key for signatures: every token would be refused (not served)
        "#]],
    );
    rule(
        "jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}, {\"kty\": \"RSA\", \"n\": \"!\", \"e\": \"AQAB\"}]}'",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].jwks: keys[0].k is secret: a key set has public keys alone (not served)
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].jwks: keys[1].n is not base64url (not served)
        "#]],
    );
    rule(
        "fromHeaders: [{prefix: 'Bearer '}]",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].fromHeaders[0].name: `` is not a header name: A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~ (not served)
        "#]],
    );
    rule(
        "fromParams: ['']",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].fromParams[0]: is empty (not served)
        "#]],
    );
    rule(
        "fromCookies: []",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].fromCookies: the list is empty, which could mean nothing or anything: leave the field out, or list values (not served)
        "#]],
    );
    rule(
        "outputPayloadToHeader: Host",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].outputPayloadToHeader: `Host` is not the name of a header that says nothing about the message itself (not served)
        "#]],
    );
    rule(
        "outputClaimToHeaders: [{header: x-a, claim: a..b}, {header: X-A, claim: a}, {header: ':path'}]",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].outputClaimToHeaders[0].claim: `a..b` is not names with dots between them (not served)
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].outputClaimToHeaders[1].header: duplicate name `X-A` (not served)
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].outputClaimToHeaders[2].claim: is missing (not served)
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].outputClaimToHeaders[2].header: `:path` is not the name of a header that says nothing about the message itself (not served)
        "#]],
    );
    rule(
        "timeout: 10",
        &expect![[r#"
            error: a.yaml:7: document 1: RequestAuthentication prod/r: spec.jwtRules[0].timeout: YAML reads this as the number 10, expected text: write it in quotes (not served)
        "#]],
    );
}

/// Nothing validates tokens yet, which its author is told.
#[test]
fn what_is_read_is_not_said_to_be_enforced() {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", &format!("{HEAD}spec: {{jwtRules: [{{issuer: i}}]}}\n"))]);
    let want: Expect = expect![""];
    want.assert_eq(&lines(&update));
}

const X: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE";
const N: &str = "_____________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________________w";
