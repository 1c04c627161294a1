//! Everything that can be wrong, with the line that its author reads: file, line, document, object, field, reason.
//! Every case stands between two good documents, which are always served.

use expect_test::{Expect, expect};

use crate::{Shelf, lines};

const BEFORE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: before}\n---\n";
const AFTER: &str = "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: after}\n";

#[track_caller]
fn check(text: &str, expect: &Expect) {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("dir/a.yaml", &format!("{BEFORE}{text}{AFTER}"))]);
    for name in ["before", "after"] {
        assert!(shelf.world.namespace(name).is_some(), "{name} is lost: {text}\n{}", lines(&update));
    }
    expect.assert_eq(&lines(&update));
}

/// A policy with this spec.
#[track_caller]
fn policy(spec: &str, expect: &Expect) {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: prod\n";
    check(&format!("{head}spec:\n{spec}"), expect);
}

#[track_caller]
fn rule(rule: &str, expect: &Expect) {
    policy(&format!("rules:\n- {}", rule.replace('\n', "\n  ")), expect);
}

#[test]
fn documents() {
    check(
        "a: [1\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: is no valid YAML: unclosed bracket '[' (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web # the one\n  labels: {\n",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: Pod default/web: is no valid YAML: unclosed bracket '{' (not served)
    "#]],
    );
    check(
        "kind: Pod\nmetadata:\n\tname: x\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: is no valid YAML: tabs disallowed within this context (block indentation) (not served)
    "#]],
    );
    check(
        "a: *nothing\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: is no valid YAML: alias references unknown anchor (not served)
    "#]],
    );
    check(
        "- 1\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: a manifest is a mapping with apiVersion, kind and metadata; this is a list (not served)
    "#]],
    );
    check(
        "just text\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: a manifest is a mapping with apiVersion, kind and metadata; this is text (not served)
    "#]],
    );
    check(
        "kind: Pod\nmetadata: {name: a}\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: Pod default/a: apiVersion: is missing (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nmetadata: {name: a}\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: kind: is missing (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\n",
        &expect![[r#"
        error: dir/a.yaml:5: document 2: metadata.name: is missing (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: pod\nmetadata: {name: a}\n",
        &expect![[r#"
            error: dir/a.yaml:6: document 2: Pod default/a: kind: `pod` is no kind of this API group: did you mean `Pod`? (not served)
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v2\nkind: AuthorizationPolicy\nmetadata: {name: a}\n",
        &expect![[r#"
            error: dir/a.yaml:5: document 2: AuthorizationPolicy default/a: apiVersion: `security.istio.io/v2` is not served; write security.istio.io/v1 (until it is mended, what it selects is refused)
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorisationPolicy\nmetadata: {name: a}\n",
        &expect![[r#"
            error: dir/a.yaml:6: document 2: AuthorizationPolicy default/a: kind: `AuthorisationPolicy` is no kind of this API group: did you mean `AuthorizationPolicy`? (until it is mended, what it selects is refused)
        "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}\nkind: Pod\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.name: this key stands twice, first in line 7 (not served)
        error: dir/a.yaml:8: document 2: Pod default/a: kind: this key stands twice, first in line 6 (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: List\nitems: {}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: items: is a mapping; expected is a list (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: A}}\n- 1\n",
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/A: items[0].metadata.name: `A` is no valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
        error: dir/a.yaml:9: document 2: items[1]: a manifest is a mapping with apiVersion, kind and metadata; this is a number (not served)
    "#]],
    );
}

#[test]
fn whole_files() {
    for (bytes, expect) in [
        (
            &b"a: \xff\n"[..],
            expect![[r#"
            error: a.yaml: is no UTF-8 text, from byte 3 on
        "#]],
        ),
        (
            &b"\xfe\xffa"[..],
            expect![[r#"
            error: a.yaml: is no UTF-8 text, from byte 0 on
        "#]],
        ),
    ] {
        let manifest = underpass_config::manifest::read(&"a.yaml".into(), bytes);
        expect.assert_eq(&manifest.problems.iter().map(|p| format!("{p}\n")).collect::<String>());
    }
}

#[test]
fn metadata() {
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/A_b: metadata.name: `A_b` is no valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: 123}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: metadata.name: YAML reads this as the number 123; text is expected: write it in quotes (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: a.b}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod a.b/a: metadata.namespace: `a.b` is no valid name: up to 63 of a-z 0-9 -, with a letter or digit at both ends (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: 1a}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Service default/1a: metadata.name: `1a` is no valid name: up to 63 of a-z 0-9 -, a letter first, a letter or digit last (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {version: 1}}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels.version: YAML reads this as the number 1; text is expected: write it in quotes (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {country: no}}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels.country: YAML reads this as the boolean false; text is expected: write it in quotes (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {v: 1.10}}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels.v: YAML reads this as the number 1.1; text is expected: write it in quotes (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    a/b/c: x\n    ok: 'a b'\n",
        &expect![[r#"
        error: dir/a.yaml:10: document 2: Pod default/a: metadata.labels[a/b/c]: is no valid key: an optional DNS prefix and `/`, then up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
        error: dir/a.yaml:11: document 2: Pod default/a: metadata.labels.ok: `a b` is no label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: [x]}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.labels: is a list; expected is a mapping (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: ../../x}\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Pod default/a: metadata.uid: `../../x` is no uid: up to 128 of A-Z a-z 0-9 - (not served)
    "#]],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: x\n",
        &expect![[r#"
        error: dir/a.yaml:7: document 2: metadata: is text; expected is a mapping (not served)
    "#]],
    );
}

#[test]
fn pods_and_nodes() {
    let pod = |rest: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n{rest}\n");
    check(
        &pod("status:\n  podIPs:\n  - ip: 10.0.0.1\n  - ip: 10.0.0.256\n  - ip: 127.0.0.1"),
        &expect![[r#"
        error: dir/a.yaml:11: document 2: Pod default/a: status.podIPs[1].ip: `10.0.0.256` is no IP address (not served)
        error: dir/a.yaml:12: document 2: Pod default/a: status.podIPs[2].ip: 127.0.0.1 cannot be the address of a pod, a node or a service (not served)
    "#]],
    );
    check(
        &pod("status: {podIP: x}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: status.podIP: `x` is no IP address (not served)
    "#]],
    );
    check(
        &pod("status: {podIPs: [10.0.0.1]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: status.podIPs[0]: is text; expected is a mapping (not served)
    "#]],
    );
    check(
        &pod("status: {phase: running}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: status.phase: `running` is none of Pending, Running, Succeeded, Failed, Unknown (not served)
    "#]],
    );
    check(
        &pod("spec: {hostNetwork: \"true\"}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.hostNetwork: is text; expected is a boolean (not served)
    "#]],
    );
    check(
        &pod("spec: {nodeName: ../x, serviceAccountName: A}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.nodeName: `../x` is no valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
        error: dir/a.yaml:8: document 2: Pod default/a: spec.serviceAccountName: `A` is no valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
    "#]],
    );
    check(
        &pod("spec: {containers: [{ports: [{containerPort: 70000, name: HTTP, protocol: tcp}]}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].containerPort: `70000` is no port: a number from 1 to 65535 (not served)
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].name: `HTTP` is no port name: up to 15 of a-z 0-9 -, with a letter (not served)
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].protocol: `tcp` is none of TCP, UDP, SCTP (not served)
    "#]],
    );
    check(
        &pod("spec: {containers: [{ports: [{containerPort: http}]}]}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Pod default/a: spec.containers[0].ports[0].containerPort: is text; expected is a whole number (not served)
        "#]],
    );
    check(
        &pod("spec: {containers: {}}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Pod default/a: spec.containers: is a mapping; expected is a list (not served)
    "#]],
    );
    let node =
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {addresses: [{type: InternalIP, address: x}]}\n";
    check(
        node,
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Node node-1: status.addresses[0].address: `x` is no IP address (not served)
        "#]],
    );
}

#[test]
fn services_and_slices() {
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
    check(
        &service("{clusterIPs: [10.96.0.1, none]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.clusterIPs[1]: `none` is no IP address (not served)
    "#]],
    );
    check(
        &service("{ports: [{port: 0}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].port: `0` is no port: a number from 1 to 65535 (not served)
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].targetPort: `0` is no port: a number from 1 to 65535 (not served)
    "#]],
    );
    check(
        &service("{ports: [{port: '80'}]}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].port: is text; expected is a whole number (not served)
        "#]],
    );
    check(
        &service("{ports: [{port: 80, targetPort: '8080'}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].targetPort: `8080` is no port name: up to 15 of a-z 0-9 -, with a letter (not served)
    "#]],
    );
    check(
        &service("{ports: [{port: 80, targetPort: true}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].targetPort: is the boolean true; expected is a number or text (not served)
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
            error: dir/a.yaml:8: document 2: Service default/a: spec.ports[1].port: port 80 stands twice (not served)
        "#]],
    );
    check(
        &service("{ports: [{port: 80, protocol: HTTP}]}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.ports[0].protocol: `HTTP` is none of TCP, UDP, SCTP (not served)
    "#]],
    );
    check(
        &service("{selector: {app: 1}}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.selector.app: YAML reads this as the number 1; text is expected: write it in quotes (not served)
    "#]],
    );
    check(
        &service("{internalTrafficPolicy: local, sessionAffinity: ClientIp}"),
        &expect![[r#"
            error: dir/a.yaml:8: document 2: Service default/a: spec.internalTrafficPolicy: `local` is none of Cluster, Local (not served)
            warning: dir/a.yaml:8: document 2: Service default/a: spec.sessionAffinity: `ClientIp` is none of None, ClientIP: a client's connections go to any endpoint
        "#]],
    );
    check(
        &service("{type: Cluster}"),
        &expect![[r#"
        error: dir/a.yaml:8: document 2: Service default/a: spec.type: `Cluster` is none of ClusterIP, NodePort, LoadBalancer, ExternalName (not served)
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
        error: dir/a.yaml:7: document 2: Service default/a: metadata.annotations[underpass.dev/waypoint-failure]: YAML reads this as the boolean true; text is expected: write it in quotes (not served)
    "#]],
    );
    check(
        &odd.replace("yes", "open"),
        &expect![[r#"
        error: dir/a.yaml:7: document 2: Service default/a: metadata.annotations[underpass.dev/waypoint-failure]: `open` is none of allow, refuse (not served)
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
        error: dir/a.yaml:8: document 2: EndpointSlice default/a: addressType: `IPV4` is none of IPv4, IPv6, FQDN (not served)
        error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].addresses: the list is empty: it would match nothing or anything; leave the field out or name values (not served)
        error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[1].addresses[0]: ::1 cannot be the address of a pod, a node or a service (not served)
        error: dir/a.yaml:10: document 2: EndpointSlice default/a: ports[0].port: `0` is no port: a number from 1 to 65535 (not served)
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
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].hints.forZones[1].name: `-` is no label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].nodeName: `Node 1` is no valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
            error: dir/a.yaml:9: document 2: EndpointSlice default/a: endpoints[0].zone: `a/b` is no label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (not served)
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
fn policies_as_a_whole() {
    policy(
        "rule: []",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.rule: unknown field: did you mean `rules`? (until it is mended, what it selects is refused)
    "#]],
    );
    policy(
        "rules:\n- form: []",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].form: unknown field: did you mean `from`? (until it is mended, what it selects is refused)
        "#]],
    );
    policy(
        "action: Allow",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.action: `Allow` is none of ALLOW, DENY (until it is mended, what it selects is refused)
    "#]],
    );
    policy(
        "action: CUSTOM\nprovider: {name: x}\nrules: [{}]",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.action: CUSTOM is not served at L4: use ALLOW or DENY (not served)
    "#]],
    );
    policy(
        "action: AUDIT\nrules: [{}]",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.action: AUDIT is not served at L4: use ALLOW or DENY (not served)
    "#]],
    );
    policy(
        "provider: {name: x}",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.provider: only action CUSTOM has a provider (until it is mended, what it selects is refused)
        "#]],
    );
    policy(
        "selector: {matchLabels: {app: '*'}}",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.selector.matchLabels.app: `*` is no label value: up to 63 of A-Z a-z 0-9 - _ . (not at the ends - _ .) (until it is mended, what it selects is refused)
    "#]],
    );
    policy(
        "selector: {app: x}",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.selector.app: unknown field; known are matchLabels (until it is mended, what it selects is refused)
        "#]],
    );
    policy(
        "selector: {matchLabels: {app: x}}\ntargetRefs: [{kind: Service, name: x}]",
        &expect![[r#"
            error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.selector: stands beside `targetRefs`: only one of the two can be given (until it is mended, what it selects is refused)
        "#]],
    );
    policy(
        "targetRef: {kind: Service, name: x}\ntargetRefs: [{kind: Service, name: x}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.targetRefs: stands beside `targetRef`: only one of the two can be given (not served)
    "#]],
    );
    policy(
        "targetRefs: []",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs: the list is empty: it would match nothing or anything; leave the field out or name values (not served)
    "#]],
    );
    policy(
        "targetRefs: [{name: A, namespace: other}]",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs[0].kind: is missing (not served)
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs[0].name: `A` is no valid name: up to 253 of a-z 0-9 - ., with a letter or digit at both ends of each part (not served)
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.targetRefs[0].namespace: `other` is another namespace: a policy is about targets of its own namespace (not served)
    "#]],
    );
    policy(
        "rules:",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.rules: has no value: write one or leave the key out (until it is mended, what it selects is refused)
    "#]],
    );
    policy(
        "rules:\n- from:\n  to:",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from: has no value: write one or leave the key out (until it is mended, what it selects is refused)
        error: dir/a.yaml:13: document 2: AuthorizationPolicy prod/p: spec.rules[0].to: has no value: write one or leave the key out (until it is mended, what it selects is refused)
    "#]],
    );
    policy(
        "rules: {}",
        &expect![[r#"
        error: dir/a.yaml:11: document 2: AuthorizationPolicy prod/p: spec.rules: is a mapping; expected is a list (until it is mended, what it selects is refused)
    "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n",
        &expect![[r#"
        error: dir/a.yaml:8: document 2: AuthorizationPolicy default/p: spec: has no value: write one or leave the key out (until it is mended, what it selects is refused)
    "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspecs: {}\n",
        &expect![[r#"
        error: dir/a.yaml:8: document 2: AuthorizationPolicy default/p: specs: unknown field: did you mean `spec`? (until it is mended, what it selects is refused)
    "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, annotations: {istio.io/dry-run: maybe}}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: AuthorizationPolicy default/p: metadata.annotations[istio.io/dry-run]: `maybe` is none of true, false (until it is mended, what it selects is refused)
        "#]],
    );
}

#[test]
fn sources() {
    rule(
        "from: []",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from: the list is empty: it would match nothing or anything; leave the field out or name values (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from: [{}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source: asks for nothing: name at least one field of source (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from: [{source: {}}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source: asks for nothing: name at least one field of source (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    principals: []",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals: the list is empty: it would match nothing or anything; leave the field out or name values (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    principals: ['']",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals[0]: is empty (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    principals:\n    -",
        &expect![[r#"
        error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals[0]: has no value: write one or leave the key out (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    principals: a",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals: is text; expected is a list (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    principal: [a]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principal: unknown field: did you mean `principals`? (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- principals: [a]",
        &expect![[r#"
            error: dir/a.yaml:13: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].principals: unknown field; known are source (until it is mended, what it selects is refused)
        "#]],
    );
    rule(
        "from:\n- source:\n    principals: [spiffe://td/ns/a/sa/b]",
        &expect![[r#"
            error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.principals[0]: principals are written without `spiffe://`: write `td/ns/a/sa/b` (until it is mended, what it selects is refused)
        "#]],
    );
    rule(
        "from:\n- source:\n    ipBlocks: [10.0.0.0/8, 10.0.0.0/33, x]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.ipBlocks[1]: `10.0.0.0/33` is no IP address and no CIDR (until it is mended, what it selects is refused)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.ipBlocks[2]: `x` is no IP address and no CIDR (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    remoteIpBlocks: [x]\n    notRequestPrincipals: []",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.remoteIpBlocks[0]: `x` is no IP address and no CIDR (until it is mended, what it selects is refused)
        error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.notRequestPrincipals: the list is empty: it would match nothing or anything; leave the field out or name values (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    serviceAccounts: [a/b/c, /a, a/, 'a*']\n    namespaces: [1]",
        &expect![[r#"
        error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.namespaces[0]: YAML reads this as the number 1; text is expected: write it in quotes (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    serviceAccounts: [a/b/c, /a, a/, 'a*']",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[0]: `a/b/c` is no service account: write `namespace/name`, or `name` for the policy's namespace (until it is mended, what it selects is refused)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[1]: `/a` is no service account: write `namespace/name`, or `name` for the policy's namespace (until it is mended, what it selects is refused)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[2]: `a/` is no service account: write `namespace/name`, or `name` for the policy's namespace (until it is mended, what it selects is refused)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.serviceAccounts[3]: `a*` is no service account: write `namespace/name`, or `name` for the policy's namespace (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "from:\n- source:\n    namespaces: [a]\n    namespaces: [b]",
        &expect![[r#"
        error: dir/a.yaml:15: document 2: AuthorizationPolicy prod/p: spec.rules[0].from[0].source.namespaces: this key stands twice, first in line 14 (until it is mended, what it selects is refused)
    "#]],
    );
}

#[test]
fn operations_and_conditions() {
    rule(
        "to: []",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].to: the list is empty: it would match nothing or anything; leave the field out or name values (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "to: [{operation: {}}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation: asks for nothing: name at least one field of operation (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "to:\n- operation:\n    ports: [8080]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[0]: YAML reads this as the number 8080; text is expected: write it in quotes (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "to:\n- operation:\n    ports: ['0', '80-90', http]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[0]: `0` is no port: a number from 1 to 65535 (until it is mended, what it selects is refused)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[1]: `80-90` is no port: a number from 1 to 65535 (until it is mended, what it selects is refused)
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.ports[2]: `http` is no port: a number from 1 to 65535 (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "to:\n- operation:\n    method: [GET]",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.method: unknown field: did you mean `methods`? (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "to:\n- operation:\n    methods: []",
        &expect![[r#"
        error: dir/a.yaml:14: document 2: AuthorizationPolicy prod/p: spec.rules[0].to[0].operation.methods: the list is empty: it would match nothing or anything; leave the field out or name values (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: []",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when: the list is empty: it would match nothing or anything; leave the field out or name values (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: source.ip}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0]: asks for nothing: name at least one field of values and notValues (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: source.ip, values: []}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values: the list is empty: it would match nothing or anything; leave the field out or name values (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: source.ip, values: [x], notValues: ['']}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].notValues[0]: is empty (until it is mended, what it selects is refused)
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values[0]: `x` is no IP address and no CIDR (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: source.ips, values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `source.ips` is no attribute that a condition can ask for: did you mean `source.ip`? (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: source.labels, values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `source.labels` is no attribute that a condition can ask for (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: is missing (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: 'request.headers[]', values: [x]}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].key: `request.headers[]` is no attribute that a condition can ask for: did you mean `request.headers[`? (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: destination.port, values: ['x']}]",
        &expect![[r#"
        error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].values[0]: `x` is no port: a number from 1 to 65535 (until it is mended, what it selects is refused)
    "#]],
    );
    rule(
        "when: [{key: source.principal, notValues: ['spiffe://a']}]",
        &expect![[r#"
            error: dir/a.yaml:12: document 2: AuthorizationPolicy prod/p: spec.rules[0].when[0].notValues[0]: principals are written without `spiffe://`: write `a` (until it is mended, what it selects is refused)
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
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.mtls.mode: `strict` is none of UNSET, DISABLE, PERMISSIVE, STRICT (until it is mended, what it selects is refused)
    "#]],
    );
    spec(
        "{mtls: STRICT}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.mtls: is text; expected is a mapping (until it is mended, what it selects is refused)
    "#]],
    );
    spec(
        "{mTLS: {mode: STRICT}}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.mTLS: unknown field: did you mean `mtls`? (until it is mended, what it selects is refused)
    "#]],
    );
    spec(
        "{portLevelMtls: {http: {mode: STRICT}, 0: {mode: STRICT}, 70000: {}}}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.0: `0` is no port: a number from 1 to 65535 (until it is mended, what it selects is refused)
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.70000: `70000` is no port: a number from 1 to 65535 (until it is mended, what it selects is refused)
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.http: `http` is no port: a number from 1 to 65535 (until it is mended, what it selects is refused)
    "#]],
    );
    spec(
        "{portLevelMtls: {80: }}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.portLevelMtls.80: has no value: write one or leave the key out (until it is mended, what it selects is refused)
    "#]],
    );
    spec(
        "{selector: {matchLabels: {a: [b]}}}",
        &expect![[r#"
        error: dir/a.yaml:9: document 2: PeerAuthentication default/p: spec.selector.matchLabels.a: is a list; expected is text (until it is mended, what it selects is refused)
    "#]],
    );
    spec(
        "{}\nextra: 1",
        &expect![[r#"
            error: dir/a.yaml:10: document 2: PeerAuthentication default/p: extra: unknown field; known are apiVersion, kind, metadata, spec, status (until it is mended, what it selects is refused)
        "#]],
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, creationTimestamp: yesterday}\n",
        &expect![[r#"
            error: dir/a.yaml:7: document 2: PeerAuthentication default/p: metadata.creationTimestamp: `yesterday` is no time like 2026-01-31T23:59:59Z (until it is mended, what it selects is refused)
        "#]],
    );
}
