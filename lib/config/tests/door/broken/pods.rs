//! Pods and nodes.

use expect_test::expect;

use super::check;

#[test]
fn pods_and_nodes() {
    let pod = |rest: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n{rest}\n");
    check(
        &pod("status:\n  podIPs:\n  - ip: 10.0.0.1\n  - ip: 10.0.0.256\n  - ip: 127.0.0.1"),
        &expect![[r#"
        error: dir/a.yaml:11: document 2: Pod default/a: status.podIPs[1].ip: `10.0.0.256` is not an IP address (not served)
        error: dir/a.yaml:12: document 2: Pod default/a: status.podIPs[2].ip: 127.0.0.1 cannot be the address of a pod, a node or a service (not served)
    "#]],
    );
    check(
        &pod("status: {podIP: x}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: status.podIP: `x` is not an IP address (not served)
    "#]],
    );
    check(
        &pod("status: {podIPs: [10.0.0.1]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: status.podIPs[0]: is text, expected a mapping (not served)
    "#]],
    );
    check(
        &pod("status: {phase: running}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: status.phase: `running` is not one of Pending, Running, Succeeded, Failed, Unknown (not served)
    "#]],
    );
    check(
        &pod("spec: {hostNetwork: \"true\"}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.hostNetwork: is text, expected a boolean (not served)
    "#]],
    );
    check(
        &pod("spec: {nodeName: ../x, serviceAccountName: A}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.nodeName: `../x` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
        error: dir/a.yaml:8: document 2: Pod default/a: spec.serviceAccountName: `A` is not a valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
    "#]],
    );
    check(
        &pod("spec: {containers: [{ports: [{containerPort: 70000, name: HTTP, protocol: tcp}]}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].containerPort: `70000` is not a port: a number from 1 to 65535 (not served)
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].name: `HTTP` is not a port name: up to 15 of a-z 0-9 -, with a letter (not served)
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].protocol: `tcp` is not one of TCP, UDP, SCTP (not served)
    "#]],
    );
    check(
        &pod("spec: {containers: [{ports: [{containerPort: http}]}]}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].containerPort: is text, expected a whole number (not served)
        "#]],
    );
    check(
        &pod("spec: {containers: {}}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers: is a mapping, expected a list (not served)
    "#]],
    );
    let node =
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {addresses: [{type: InternalIP, address: x}]}\n";
    check(
        node,
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Node node-1: status.addresses[0].address: `x` is not an IP address (not served)
        "#]],
    );
}

#[test]
fn misspelled() {
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  serviceAcountName: a\n  hostNetwork: false\n  hostPID: true\n  \
         container: [{nmae: x}]\n  initContainers: [{ports: [{containerport: 80, hostPort: 80}]}]\nstatus:\n  podIps: []\n  \
         hostIP: 10.0.0.1\n  condition: []\n",
        &expect![[r#"
            warning: dir/a.yaml:9: document 2: Pod default/a: spec.serviceAcountName: unknown field, ignored: did you mean `serviceAccountName`?
            warning: dir/a.yaml:12: document 2: Pod default/a: spec.container: unknown field, ignored: did you mean `containers`?
            warning: dir/a.yaml:13: document 2: Pod default/a: spec.initContainers[0].ports[0].containerport: unknown field, ignored: did you mean `containerPort`?
            warning: dir/a.yaml:15: document 2: Pod default/a: status.podIps: unknown field, ignored: did you mean `podIPs`?
            warning: dir/a.yaml:17: document 2: Pod default/a: status.condition: unknown field, ignored: did you mean `conditions`?
        "#]],
    );
    check(
        "apiVersion: v1\nkind: Node\nmetadata: {name: a}\nstatus: {address: [], capacity: {}}\n",
        &expect![[r#"
        warning: dir/a.yaml:8: document 2: Node a: status.address: unknown field, ignored: did you mean `addresses`?
    "#]],
    );
}
