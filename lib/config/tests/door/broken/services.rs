//! Services and EndpointSlices.

use expect_test::expect;

use super::check;

#[test]
fn services_and_slices() {
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
    check(
        &service("{clusterIPs: [10.96.0.1, none]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.clusterIPs[1]: `none` is not an IP address (not served)
    "#]],
    );
    check(
        &service("{ports: [{port: 0}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].port: `0` is not a port: a number from 1 to 65535 (not served)
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].targetPort: `0` is not a port: a number from 1 to 65535 (not served)
    "#]],
    );
    check(
        &service("{ports: [{port: '80'}]}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].port: is text, expected a whole number (not served)
        "#]],
    );
    check(
        &service("{ports: [{port: 80, targetPort: '8080'}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].targetPort: `8080` is not a port name: up to 15 of a-z 0-9 -, with a letter (not served)
    "#]],
    );
    check(
        &service("{ports: [{port: 80, targetPort: true}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].targetPort: is the boolean true, expected a number or text (not served)
    "#]],
    );
    check(
        &service("{ports: [{port: 80}, {port: 81, name: b}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].name: is missing (not served)
    "#]],
    );
    check(
        &service("{ports: [{name: a, port: 80}, {port: 80, name: b}]}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Service default/a: spec.ports[1].port: duplicate port 80 (not served)
        "#]],
    );
    check(
        &service("{ports: [{port: 80, protocol: HTTP}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].protocol: `HTTP` is not one of TCP, UDP, SCTP (not served)
    "#]],
    );
    check(
        &service("{selector: {app: 1}}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Service default/a: spec.selector.app: YAML reads this as the number 1, expected text: write it in quotes (not served)
        "#]],
    );
    check(
        &service("{internalTrafficPolicy: local, sessionAffinity: ClientIp}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Service default/a: spec.internalTrafficPolicy: `local` is not one of Cluster, Local (not served)
            warning: dir/a.yaml:8: document 2: Service default/a: spec.sessionAffinity: `ClientIp` is not one of None, ClientIP: a client's connections go to any endpoint
        "#]],
    );
    check(
        &service("{type: Cluster}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.type: `Cluster` is not one of ClusterIP, NodePort, LoadBalancer, ExternalName (not served)
    "#]],
    );
    check(
        &service("{type: ExternalName}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.externalName: is missing (not served)
    "#]],
    );
    let odd =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {underpass.dev/waypoint-failure: yes}}\n";
    check(
        odd,
        &expect![[r#"
            error: dir/a.yaml:7: document 2: Service default/a: metadata.annotations[underpass.dev/waypoint-failure]: YAML reads this as the boolean true, expected text: write it in quotes (not served)
        "#]],
    );
    check(
        &odd.replace("yes", "open"),
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Service default/a: metadata.annotations[underpass.dev/waypoint-failure]: `open` is not one of allow, refuse (not served)
    "#]],
    );
    let slice = |label: &str, rest: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a, labels: {{{label}}}}}\n{rest}\n"
        )
    };
    let of_a = "kubernetes.io/service-name: a";
    check(
        &slice("", "addressType: IPv4"),
        &expect![[r#"
        error: dir/a.yaml:7: document 2: EndpointSlice default/a: metadata.labels[kubernetes.io/service-name]: is missing (not served)
    "#]],
    );
    check(
        &slice(of_a, ""),
        &expect![[r#"
        error: dir/a.yaml:5: document 2: EndpointSlice default/a: addressType: is missing (not served)
    "#]],
    );
    check(
        &slice(of_a, "addressType: IPV4\nendpoints: [{addresses: []}, {addresses: [::1]}]\nports: [{port: 0}]"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: EndpointSlice default/a: addressType: `IPV4` is not one of IPv4, IPv6, FQDN (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].addresses: the list is empty, which could mean nothing or anything: leave the field out, or list values (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[1].addresses[0]: ::1 cannot be the address of a pod, a node or a service (not served)
            error: dir/a.yaml:10: document 2: EndpointSlice default/a: ports[0].port: `0` is not a port: a number from 1 to 65535 (not served)
        "#]],
    );
    check(
        &slice(
            of_a,
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], nodeName: 'Node 1', zone: a/b, hints: {forZones: [{name: ''}, {name: '-'}], forNodes: [{}]}}]",
        ),
        &expect![[r#"
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].hints.forNodes[0].name: is missing (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].hints.forZones[0].name: is missing (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].hints.forZones[1].name: `-` is not a label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].nodeName: `Node 1` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].zone: `a/b` is not a label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
        "#]],
    );
    check(
        &slice(of_a, "addressType: FQDN\nendpoints: [{addresses: [example.com]}]\nports: [{}]"),
        &expect![[r#"
        warning: dir/a.yaml:8: document 2: EndpointSlice default/a: addressType: known, not yet served: the slice has no endpoints
        warning: dir/a.yaml:10: document 2: EndpointSlice default/a: ports[0].port: known, not yet served: a port without a number serves nothing
    "#]],
    );
}

#[test]
fn misspelled() {
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  selectr: {app: a}\n  clusterIp: 10.0.0.1\n  \
         ports: [{port: 80, targetport: 8080, appProtocol: http, nodePort: 30000}]\n  externalTrafficPolicy: Local\n",
        &expect![[r#"
            warning: dir/a.yaml:9: document 2: Service default/a: spec.selectr: unknown field, ignored: did you mean `selector`?
            warning: dir/a.yaml:10: document 2: Service default/a: spec.clusterIp: unknown field, ignored: did you mean `clusterIP`?
            warning: dir/a.yaml:11: document 2: Service default/a: spec.ports[0].targetport: unknown field, ignored: did you mean `targetPort`?
        "#]],
    );
    check(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: {kubernetes.io/service-name: a}}\n\
         addressType: IPv4\nendpoint: []\nendpoints: [{addresses: [10.0.0.1], condition: {ready: false}, nodename: n, \
         hostname: a, targetRef: {kind: Pod}}]\n",
        &expect![[r#"
            warning: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoint: unknown field, ignored: did you mean `endpoints`?
            warning: dir/a.yaml:10: document 2: EndpointSlice default/a: endpoints[0].condition: unknown field, ignored: did you mean `conditions`?
            warning: dir/a.yaml:10: document 2: EndpointSlice default/a: endpoints[0].nodename: unknown field, ignored: did you mean `nodeName`?
        "#]],
    );
}
