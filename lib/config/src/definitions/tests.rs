//! The definitions as a whole: nothing of a shape is missing, and an API server could take them.

use std::collections::BTreeSet;

use expect_test::expect;

use super::*;

/// The paths of a schema, those of entries and values of maps among them.
fn paths(schema: &Value, path: &str, out: &mut Vec<String>) {
    out.push(path.to_owned());
    let dot = if path.is_empty() { "" } else { "." };
    for (name, inside) in schema["properties"].as_object().into_iter().flatten() {
        paths(inside, &format!("{path}{dot}{name}"), out);
    }
    if !schema["items"].is_null() {
        paths(&schema["items"], &format!("{path}[]"), out);
    }
    if !schema["additionalProperties"].is_null() {
        paths(&schema["additionalProperties"], &format!("{path}{{}}"), out);
    }
}

fn schema_of(kind: Kind) -> Value {
    let of_kind = all().into_iter().find(|definition| definition.kind == kind).unwrap();
    of_kind.object["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn spec_of(kind: Kind) -> Vec<String> {
    let mut all = Vec::new();
    paths(&schema_of(kind), "", &mut all);
    all.retain(|path| !path.starts_with("status"));
    all
}

/// The fields of Istio's API, by hand: a field that a shape loses is missing here.
#[test]
fn every_field_is_in_the_schema() {
    let leaves = |kind| {
        let all = spec_of(kind);
        let is_inside =
            |other: &str, path: &str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[', '{']));
        let is_leaf = |path: &&String| !all.iter().any(|other| is_inside(other, path));
        all.iter().filter(is_leaf).cloned().collect::<Vec<_>>().join("\n")
    };
    expect![[r#"

        spec.action
        spec.provider.name
        spec.rules[].from[].source.ipBlocks[]
        spec.rules[].from[].source.namespaces[]
        spec.rules[].from[].source.notIpBlocks[]
        spec.rules[].from[].source.notNamespaces[]
        spec.rules[].from[].source.notPrincipals[]
        spec.rules[].from[].source.notRemoteIpBlocks[]
        spec.rules[].from[].source.notRequestPrincipals[]
        spec.rules[].from[].source.notServiceAccounts[]
        spec.rules[].from[].source.notTrustDomains[]
        spec.rules[].from[].source.principals[]
        spec.rules[].from[].source.remoteIpBlocks[]
        spec.rules[].from[].source.requestPrincipals[]
        spec.rules[].from[].source.serviceAccounts[]
        spec.rules[].from[].source.trustDomains[]
        spec.rules[].to[].operation.hosts[]
        spec.rules[].to[].operation.methods[]
        spec.rules[].to[].operation.notHosts[]
        spec.rules[].to[].operation.notMethods[]
        spec.rules[].to[].operation.notPaths[]
        spec.rules[].to[].operation.notPorts[]
        spec.rules[].to[].operation.paths[]
        spec.rules[].to[].operation.ports[]
        spec.rules[].when[].key
        spec.rules[].when[].notValues[]
        spec.rules[].when[].values[]
        spec.selector.matchLabels{}
        spec.targetRef.group
        spec.targetRef.kind
        spec.targetRef.name
        spec.targetRef.namespace
        spec.targetRefs[].group
        spec.targetRefs[].kind
        spec.targetRefs[].name
        spec.targetRefs[].namespace"#]]
    .assert_eq(&leaves(Kind::AuthorizationPolicy));
    expect![[r#"

        spec.mtls.mode
        spec.portLevelMtls{}.mode
        spec.selector.matchLabels{}"#]]
    .assert_eq(&leaves(Kind::PeerAuthentication));
}

/// A row for every field, and a field for every row.
#[test]
fn rows_are_those_of_the_fields() {
    for (kind, rows) in [
        (Kind::AuthorizationPolicy, rows::authorization_policy()),
        (Kind::PeerAuthentication, rows::peer_authentication()),
    ] {
        let count = rows.len();
        let rows: BTreeSet<String> = rows.into_iter().map(|(path, ..)| path).collect();
        assert_eq!(rows.len(), count, "a path twice");
        // What stands in a row alone.
        let fields = spec_of(kind).into_iter().filter(|path| path != "spec.provider.name").collect();
        assert_eq!(rows, fields);
    }
}

/// An API server takes structural schemas alone: each value has a type.
#[test]
fn every_value_has_a_type() {
    fn check(schema: &Value, path: &str) {
        let is_typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
        assert!(is_typed, "{path}: {schema}");
        let entries = [&schema["items"], &schema["additionalProperties"]].into_iter().filter(|s| !s.is_null());
        for inside in entries.chain(schema["properties"].as_object().into_iter().flat_map(|all| all.values())) {
            check(inside, path);
        }
    }
    for definition in all() {
        let versions = definition.object["spec"]["versions"].as_array().unwrap();
        assert_eq!(versions.iter().filter(|version| version["storage"] == true).count(), 1);
        assert_eq!(versions[0]["schema"], versions[1]["schema"]);
        check(&versions[0]["schema"]["openAPIV3Schema"], &definition.name);
    }
}

/// A shape with a field that has no outline would give a schema without any.
#[test]
fn what_has_no_outline_is_an_error() {
    #[derive(serde::Deserialize)]
    struct Shape {
        #[allow(dead_code, reason = "only its type counts")]
        port: u16,
    }
    assert!(outline::<Shape>().is_err());
    assert!(outline::<shapes::AuthorizationPolicySpec>().is_ok());
}

/// The version of what is written here is another one with every change: an older program would undo the change.
#[test]
fn a_change_is_a_new_version() {
    let text: String = all().iter().map(|definition| definition.object.to_string()).collect();
    // FNV-1a.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(
        (VERSION, format!("{hash:016x}")),
        (1, "0782fc5f7c81eff4".to_owned()),
        "raise VERSION if one with it was released"
    );
}
