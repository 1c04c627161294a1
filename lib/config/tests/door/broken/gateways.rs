//! Gateways that are waypoints.

use expect_test::expect;

use super::check;

fn gateway(more: &str, spec: &str) -> String {
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: w{more}}}\nspec: {spec}\n")
}

#[test]
fn waypoints() {
    let waypoint =
        |listeners: &str| gateway("", &format!("{{gatewayClassName: istio-waypoint, listeners: [{listeners}]}}"));
    let from = |namespaces: &str| {
        waypoint(&format!("{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {namespaces}}}}}"))
    };
    check(&waypoint("{name: mesh, port: 15008, protocol: HBONE}"), &expect![[""]]);
    check(&from("{from: Selector, selector: {matchLabels: {a: b}}}"), &expect![[""]]);
    check(
        &waypoint(""),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners: a waypoint needs a listener with protocol HBONE (not served)
    "#]],
    );
    check(
        &waypoint("{name: mesh, port: 15008, protocol: HTTP}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners: a waypoint needs a listener with protocol HBONE (not served)
        warning: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].protocol: known, not yet served: a waypoint takes connections at its HBONE listeners alone
    "#]],
    );
    check(
        &waypoint("{name: mesh, port: 0, protocol: HBONE}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].port: `0` is not a port: a number from 1 to 65535 (not served)
    "#]],
    );
    check(
        &gateway(
            ", labels: {istio.io/waypoint-for: services}",
            "{gatewayClassName: istio-waypoint, listeners: [{port: 15008, protocol: HBONE}]}",
        ),
        &expect![[r#"
            error: dir/a.yaml:7: document 2: Gateway default/w: metadata.labels[istio.io/waypoint-for]: `services` is not one of service, workload, all, none (not served)
        "#]],
    );
    check(
        &from("{from: Others}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.from: `Others` is not one of Same, All, Selector (not served)
    "#]],
    );
    check(
        &from("{from: Selector}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.selector: is missing (not served)
    "#]],
    );
    let expressions = |one: &str| from(&format!("{{from: Selector, selector: {{matchExpressions: [{one}]}}}}"));
    check(
        &expressions("{key: a, operator: Is}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].operator: `Is` is not one of In, NotIn, Exists, DoesNotExist (not served)
    "#]],
    );
    check(
        &expressions("{key: a, operator: In}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values: is missing (not served)
    "#]],
    );
    check(
        &expressions("{key: a, operator: Exists, values: [b]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values: conflicts with `operator`: set only one of the two (not served)
    "#]],
    );
    check(
        &expressions("{key: -a, operator: In, values: [-b]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].key: is not a valid key: an optional DNS prefix and `/`, then up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
        error: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values[0]: `-b` is not a label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
    "#]],
    );
}

#[test]
fn gateways_of_other_classes_are_known_by_name() {
    check(
        &gateway("", "{gatewayClassName: istio, listeners: [{name: http, port: 0}]}"),
        &expect![[r#"
        notice: dir/a.yaml:6: document 2: Gateway default/w: known, not yet served: it is no waypoint, and no gateway runs: nothing listens for it
        notice: dir/a.yaml:8: document 2: Gateway default/w: spec.listeners: no gateway runs: nothing listens for it
    "#]],
    );
}
