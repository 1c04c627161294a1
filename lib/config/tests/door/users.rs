//! Manifests from users' guides: they are served, or reported as not yet served, and nothing is ignored in silence.

use expect_test::{Expect, expect};
use underpass_core::{
    Kind, ObjectKey,
    objects::{Object, OwnProxy},
    testing::{locality, name},
    world::{Affinity, Distribution, InternalTraffic, Locality},
};

use crate::{Shelf, lines};

fn check(text: &str, expect: &Expect) -> Shelf {
    let mut shelf = Shelf::new();
    let update = shelf.put(&[("a.yaml", text)]);
    let ignored = update.ignored.iter().map(|(kind, n)| format!("ignored: {n} {kind}\n")).collect::<String>();
    let findings = shelf.sources().findings().map(|f| format!("finding: {}: {}: {}\n", f.object, f.field, f.says));
    expect.assert_eq(&(lines(&update) + &ignored + &findings.collect::<String>()));
    shelf
}

#[test]
fn an_l7_policy_warns() {
    check(
        "# Allow only frontend\napiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\n\
         metadata:\n  name: api-access\n  namespace: production\nspec:\n  # Apply to API workload\n  selector:\n    \
         matchLabels:\n      app: api\n  action: ALLOW\n  rules:\n    - from:\n        - source:\n            \
         principals:\n              - cluster.local/ns/production/sa/frontend\n      to:\n        - operation:\n            \
         methods: [\"GET\", \"POST\"]\n            paths: [\"/api/*\"]\n",
        &expect![[r#"
            finding: AuthorizationPolicy production/api-access: spec.rules[0].to[0].operation.methods: methods can only be judged by a waypoint: without one this rule allows nothing
            finding: AuthorizationPolicy production/api-access: spec.rules[0].to[0].operation.paths: paths can only be judged by a waypoint: without one this rule allows nothing
        "#]],
    );
}

#[test]
fn peer_authentication_with_a_port() {
    let shelf = check(
        "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata:\n  name: database-mtls\n  \
         namespace: production\nspec:\n  selector:\n    matchLabels:\n      app: postgres\n  mtls:\n    mode: STRICT\n  \
         portLevelMtls:\n    # health\n    9090:\n      mode: DISABLE\n",
        &expect![[r#"
            finding: PeerAuthentication production/database-mtls: spec.portLevelMtls.9090.mode: DISABLE is served as PERMISSIVE: mutual TLS is always accepted
        "#]],
    );
    let key = ObjectKey::new(Kind::PeerAuthentication, name("production/database-mtls"));
    let Object::PeerAuthentication(p) = shelf.sources().get(&key).unwrap() else { panic!("{:?}", shelf.world()) };
    assert_eq!(p.ports.keys().collect::<Vec<_>>(), [&9090]);
}

#[test]
fn a_pod_without_namespace_uid_and_status() {
    let shelf = check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: no-sidecar-pod\n  annotations:\n    \
         sidecar.istio.io/inject: \"false\"\nspec:\n  containers:\n    - name: mycontainer\n      image: busybox\n      \
         command: [\"sleep\", \"3600\"]\n",
        &expect![[""]],
    );
    assert!(!shelf.world().pod(&name("default/no-sidecar-pod")).unwrap().is_enrolled());
    let pod = shelf.sources().pod(&name("default/no-sidecar-pod")).unwrap();
    assert_eq!(&*pod.service_account, "default");
    assert_eq!(pod.annotations.iter().count(), 1);
}

#[test]
fn fields_that_are_not_yet_served_are_reported() {
    check(
        "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata:\n  name: reviews\nspec:\n  \
         {hosts: [reviews], tcp: [{route: [{destination: {host: reviews}}]}]}\n---\napiVersion: networking.istio.io/v1beta1\nkind: DestinationRule\nmetadata:\n  \
         {name: reviews, namespace: prod}\nspec: {host: reviews}\n---\napiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata:\n  \
         name: tracing\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: x}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\napiVersion: v1\nkind: ConfigMap\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 7}\n---\napiVersion: policy.linkerd.io/v1alpha1\n\
         kind: AuthorizationPolicy\nmetadata: {name: x}\n---\n# values of a chart\nglobal:\n  proxy: {}\n",
        &expect![[r#"
            warning: a.yaml:35: document 8: AuthorizationPolicy default/x: kind: is ignored: only AuthorizationPolicy of security.istio.io is served, not of `policy.linkerd.io/v1alpha1`
            notice: a.yaml:15: document 3: IstioOperator default/tracing: known, will not be served: it installs Istio; Underpass does not read its configuration from it
            notice: a.yaml:20: document 4: GatewayClass x: known, not yet served: no controller of Underpass's takes it
            notice: a.yaml:39: document 9: is not a Kubernetes object (no apiVersion, kind, metadata, spec): ignored; it looks like values of Istio's chart
            ignored: 1 apps/v1 Deployment
            ignored: 2 v1 ConfigMap
        "#]],
    );
}

#[test]
fn traffic_fields_of_services() {
    let shelf = check(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n    \
         networking.istio.io/traffic-distribution: PreferClose\nspec:\n  sessionAffinity: ClientIP\n  \
         internalTrafficPolicy: Local\n  trafficDistribution: PreferClose\n  externalIPs: [192.0.2.1]\n  clusterIP: 10.96.0.1\n  \
         ports:\n    - {name: http, port: 80, targetPort: http}\n    - {name: dns, port: 53, protocol: UDP}\n",
        &expect![""],
    );
    let service = shelf.sources().service(&name("default/a")).unwrap();
    assert_eq!(service.ports.len(), 1, "UDP is not the mesh's");
    assert_eq!(service.vips.len(), 1);
    assert_eq!(service.external, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(service.affinity, Affinity::ClientIp);
    assert_eq!(service.internal_traffic, InternalTraffic::Local);
    assert_eq!(service.distribution, Some(Distribution::SameZone));
}

#[test]
fn addresses_of_load_balancers() {
    let check = |spec: &str, ingress: &str, expect: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.0.1, \
             ports: [{{port: 80, nodePort: 30080}}]{spec}}}\nstatus: {{loadBalancer: {{ingress: [{ingress}]}}}}\n"
        );
        let mut shelf = Shelf::new();
        shelf.put(&[("a.yaml", &text)]);
        let service = shelf.sources().service(&name("default/a")).unwrap();
        let all: Vec<_> = service.external.iter().map(ToString::to_string).collect();
        assert_eq!(all.join(" "), expect, "{text}");
        assert_eq!(service.node_ports[&80], 30080);
    };
    check("", "{ip: 192.0.2.1}", "192.0.2.1");
    check("", "{ip: 192.0.2.1, ipMode: VIP}, {ip: 192.0.2.2, ipMode: Proxy}, {hostname: lb.example}", "192.0.2.1");
    check(", externalIPs: [192.0.2.3]", "{ip: 192.0.2.1}", "192.0.2.3 192.0.2.1");
    check(", externalIPs: [192.0.2.3], loadBalancerSourceRanges: [10.0.0.0/8]", "{ip: 192.0.2.1}", "192.0.2.3");
}

/// The distribution of a service with this annotation and field, and its problems.
fn distribution(annotation: &str, field: &str, expect: Option<Distribution>, says: &Expect) {
    let annotations = match annotation {
        "" => String::new(),
        value => format!(", annotations: {{networking.istio.io/traffic-distribution: {value}}}"),
    };
    let mut shelf = Shelf::new();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a{annotations}}}\nspec: {{trafficDistribution: \"{field}\"}}\n\
         ---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default{annotations}}}\n"
    );
    let update = shelf.put(&[("a.yaml", &text)]);
    assert_eq!(shelf.sources().service(&name("default/a")).unwrap().distribution, expect, "{text}");
    says.assert_eq(&lines(&update));
    if field.is_empty() {
        assert_eq!(shelf.sources().namespace("default").unwrap().distribution, expect, "{text}");
    }
}

#[test]
fn distribution_of_traffic() {
    let (zone, node) = (Some(Distribution::SameZone), Some(Distribution::SameNode));
    distribution("", "", None, &expect![]);
    distribution("", "PreferClose", zone, &expect![]);
    distribution("", "PreferSameZone", zone, &expect![]);
    distribution("", "PreferSameNode", node, &expect![]);
    distribution("PreferClose", "", zone, &expect![]);
    distribution("prefersamenode", "", node, &expect![]);
    distribution("Any", "", Some(Distribution::Any), &expect![]);
    distribution("PreferSameNode", "PreferClose", zone, &expect![]);
    // an unknown preference costs neither the service nor the namespace
    distribution(
        "",
        "preferclose",
        None,
        &expect![[r#"
        warning: a.yaml:4: document 1: Service default/a: spec.trafficDistribution: `preferclose` is not one of PreferClose, PreferSameZone, PreferSameNode: connections go to endpoints anywhere
    "#]],
    );
    distribution(
        "",
        "Any",
        None,
        &expect![[r#"
        warning: a.yaml:4: document 1: Service default/a: spec.trafficDistribution: `Any` is not one of PreferClose, PreferSameZone, PreferSameNode: connections go to endpoints anywhere
    "#]],
    );
    distribution(
        "Closest",
        "",
        None,
        &expect![[r#"
        warning: a.yaml:3: document 1: Service default/a: metadata.annotations[networking.istio.io/traffic-distribution]: `Closest` is not one of PreferClose, PreferSameZone, PreferSameNode, Any: connections go to endpoints anywhere
        warning: a.yaml:8: document 2: Namespace default: metadata.annotations[networking.istio.io/traffic-distribution]: `Closest` is not one of PreferClose, PreferSameZone, PreferSameNode, Any: connections go to endpoints anywhere
    "#]],
    );
    distribution(
        "PreferClose",
        "Closest",
        zone,
        &expect![[r#"
        warning: a.yaml:4: document 1: Service default/a: spec.trafficDistribution: `Closest` is not one of PreferClose, PreferSameZone, PreferSameNode: connections go to endpoints anywhere
    "#]],
    );
}

#[test]
fn the_weight_of_a_pod() {
    let check = |value: &str, expect: u16, says: &Expect| {
        let mut shelf = Shelf::new();
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, annotations: {{underpass.dev/weight: \"{value}\"}}}}\n"
        );
        let update = shelf.put(&[("a.yaml", &text)]);
        assert_eq!(shelf.sources().pod(&name("default/a")).unwrap().weight, expect, "{value:?}");
        says.assert_eq(&lines(&update));
    };
    check("0", 0, &expect![]);
    check("7", 7, &expect![]);
    check("65535", 65535, &expect![]);
    check(
        "65536",
        1,
        &expect![[r#"
            warning: a.yaml:3: document 1: Pod default/a: metadata.annotations[underpass.dev/weight]: `65536` is not a weight (a number from 0 to 65535): 1 is used
        "#]],
    );
    check(
        "-1",
        1,
        &expect![[r#"
            warning: a.yaml:3: document 1: Pod default/a: metadata.annotations[underpass.dev/weight]: `-1` is not a weight (a number from 0 to 65535): 1 is used
        "#]],
    );
    check(
        "+1",
        1,
        &expect![[r#"
            warning: a.yaml:3: document 1: Pod default/a: metadata.annotations[underpass.dev/weight]: `+1` is not a weight (a number from 0 to 65535): 1 is used
        "#]],
    );
    check(
        "",
        1,
        &expect![[r#"
            warning: a.yaml:3: document 1: Pod default/a: metadata.annotations[underpass.dev/weight]: `` is not a weight (a number from 0 to 65535): 1 is used
        "#]],
    );
    check(
        "50%",
        1,
        &expect![[r#"
            warning: a.yaml:3: document 1: Pod default/a: metadata.annotations[underpass.dev/weight]: `50%` is not a weight (a number from 0 to 65535): 1 is used
        "#]],
    );
}

#[test]
fn endpoints_as_a_controller_writes_them() {
    let shelf = check(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a-1\n  labels: {kubernetes.io/service-name: a}\n\
         addressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints:\n\
         - {addresses: [10.0.0.1], targetRef: {kind: Pod, name: a-0, namespace: default}, nodeName: node-1, zone: z1, hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: node-1}]}}\n\
         - {addresses: [10.0.0.2], conditions: {ready: true, serving: true, terminating: false}}\n\
         - {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}\n\
         - {addresses: [10.0.0.4], conditions: {ready: false, serving: false, terminating: true}}\n\
         - {addresses: [10.0.0.5], conditions: {ready: false}}\n\
         - {addresses: [10.0.0.6], conditions: {ready: false, terminating: true}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}\n",
        &expect![],
    );
    let service = name("default/a");
    let endpoints: Vec<_> = shelf.world().endpoints(&service).collect();
    let states: Vec<_> = endpoints.iter().map(|(_, e)| (e.ready, e.draining)).collect();
    let (ready, going, down) = ((true, false), (false, true), (false, false));
    assert_eq!(states, [ready, ready, going, down, down, going]);
    let (workload, first) = endpoints[0];
    assert_eq!((workload.node.as_deref(), workload.locality.zone.as_deref()), (Some("node-1"), Some("z1")));
    let texts = |all: &[std::sync::Arc<str>]| all.join(" ");
    let hints = first.hints.as_ref().unwrap();
    assert_eq!((texts(&hints.zones), texts(&hints.nodes)), ("z1 z2".into(), "node-1".into()));
}

#[test]
fn an_external_name_is_named() {
    let shelf = check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec:\n  type: ExternalName\n  externalName: DB.Example.com.\n  \
         clusterIP: 10.96.0.1\n  selector: {app: db}\n",
        &expect![[r#"
            finding: Service default/db: spec.externalName: an ExternalName Service has no address of its own: callers connect to the addresses of db.example.com, and nothing set on this Service applies there
        "#]],
    );
    assert!(shelf.sources().service(&name("default/db")).unwrap().vips.is_empty());
}

#[test]
fn localities_of_nodes() {
    let shelf = check(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-1\n  labels:\n    topology.kubernetes.io/region: r\n    \
         topology.kubernetes.io/zone: z\n    topology.istio.io/subzone: s\n",
        &expect![],
    );
    let of = |node: &str| shelf.sources().node(node).map(|node| Locality::of(&node.labels));
    assert_eq!((of("node-1"), of("node-2")), (Some(locality("r/z/s")), None));
}

#[test]
fn lists_as_kubectl_prints_them() {
    let shelf = check(
        "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n- apiVersion: v1\n  kind: Namespace\n  \
         metadata: {name: a}\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: B}\n- apiVersion: v1\n  \
         kind: Service\n  metadata: {name: s, namespace: a}\n  spec: {clusterIP: None, clusterIPs: [None]}\n---\n\
         apiVersion: v1\nkind: NamespaceList\nitems:\n- metadata: {name: c}\n---\napiVersion: v1\nkind: List\nitems:\n",
        &expect![[r#"
            error: a.yaml:10: document 1: Namespace B: items[1].metadata.name: `B` is not a valid name: up to 63 of a-z 0-9 -, with a letter or digit at both ends (not served)
        "#]],
    );
    assert_eq!(shelf.sources().len(), 3);
}

#[test]
fn pods_as_an_api_server_has_them() {
    let shelf = check(
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\",\"namespace\":\"x\",\"creationTimestamp\":null,\
         \"deletionTimestamp\":\"2026-01-01T00:00:00Z\",\"uid\":\"b1\",\"labels\":{\"app\":null},\"managedFields\":[{\"f\":{\".\":{}}}]},\
         \"spec\":{\"nodeName\":\"\",\"containers\":[{\"name\":\"c\",\"ports\":[{\"name\":\"http\",\"containerPort\":80,\
         \"protocol\":\"TCP\"},{\"containerPort\":81},{\"name\":\"dns\",\"containerPort\":53,\"protocol\":\"UDP\"}],\
         \"readinessProbe\":{\"httpGet\":{\"path\":\"/\",\"port\":\"http\",\"scheme\":\"HTTP\"},\"periodSeconds\":10},\
         \"lifecycle\":{\"preStop\":{\"httpGet\":{\"path\":\"/\",\"port\":8443,\"scheme\":\"HTTPS\"}}}}],\
         \"initContainers\":[{\"name\":\"once\",\"ports\":[{\"name\":\"no\",\"containerPort\":1}]},\
         {\"name\":\"stays\",\"restartPolicy\":\"Always\",\"ports\":[{\"name\":\"yes\",\"containerPort\":2}]}]},\
         \"status\":{\"phase\":\"Running\",\"podIP\":\"10.0.0.1\",\"podIPs\":[{\"ip\":\"10.0.0.1\"},{\"ip\":\"::ffff:10.0.0.1\"}],\
         \"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}",
        &expect![[""]],
    );
    let pod = shelf.sources().pod(&name("x/a")).unwrap();
    assert_eq!(*pod.probes, [80, 8443]);
    let ports: Vec<_> = pod.ports.iter().map(|p| (&*p.name, p.port)).collect();
    assert_eq!(ports, [("http", 80), ("", 81), ("yes", 2)]);
    assert_eq!(pod.addresses.len(), 1, "the same address twice");
    assert_eq!(pod.labels.get("app"), Some(""));
    assert!(!pod.ready && pod.draining && pod.deleted, "it is being deleted");
    assert_eq!(pod.node, None);
}

#[test]
fn a_proxy_of_istio_is_seen_for_what_it_is() {
    let check = |metadata: &str, spec: &str, expect: Option<OwnProxy>| {
        let mut shelf = Shelf::new();
        let pod = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a{metadata}}}\nspec: {{{spec}}}\n");
        shelf.put(&[("a.yaml", &pod)]);
        assert_eq!(shelf.sources().pod(&name("default/a")).unwrap().proxy, expect, "{pod}");
    };
    use OwnProxy::{Gateway, Sidecar, Waypoint};
    let told =
        |role: &str| format!("containers: [{{name: app}}, {{name: istio-proxy, args: [proxy, {role}, --domain, x]}}]");
    let beside = "containers: [{name: app}, {name: istio-proxy}]";
    check("", "containers: [{name: app}]", None);
    check("", beside, Some(Sidecar));
    check("", "containers: [{name: app}], initContainers: [{name: istio-proxy, restartPolicy: Always}]", Some(Sidecar));
    check(", annotations: {sidecar.istio.io/status: '{}'}", "containers: [{name: app}]", Some(Sidecar));
    // a selector that any pod may have
    check(", labels: {istio: ingressgateway}", beside, Some(Sidecar));
    check("", &told("sidecar"), Some(Sidecar));
    check("", &told("router"), Some(Gateway));
    check("", &told("waypoint"), Some(Waypoint));
    check("", "containers: [{name: istio-proxy}]", Some(Gateway));
    check(", annotations: {sidecar.istio.io/status: '{}'}", "containers: [{name: istio-proxy}]", Some(Gateway));
    check(", annotations: {inject.istio.io/templates: 'x, gateway'}", beside, Some(Gateway));
    check(", labels: {gateway.networking.k8s.io/gateway-name: g}", beside, Some(Gateway));
    check(", labels: {istio.io/gateway-name: g}", beside, Some(Gateway));
    check(", labels: {istio.io/gateway-name: g}", &told("sidecar"), Some(Sidecar));
    check(", labels: {gateway.networking.k8s.io/gateway-name: w}", &told("waypoint"), Some(Waypoint));
}

/// Fields that Kubernetes defines and the mesh does not read are no misspellings of those that it reads.
#[test]
fn the_other_fields_of_kubernetes_kinds() {
    let other = |fields: &str| fields.split_whitespace().map(|f| format!("{f}: ")).collect::<Vec<_>>().join(", ");
    let metadata =
        other("generateName generation resourceVersion selfLink finalizers managedFields deletionGracePeriodSeconds");
    let metadata = format!("name: a, {metadata}");
    let pod = other(
        "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks \
         ephemeralContainers hostAliases hostIPC hostPID hostUsers hostname hostnameOverride imagePullSecrets \
         nodeSelector os overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims resources \
         restartPolicy runtimeClassName schedulerName schedulingGates securityContext serviceAccount \
         setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations \
         topologySpreadConstraints volumes",
    );
    let container = other(
        "args command env envFrom image imagePullPolicy resizePolicy resources restartPolicyRules securityContext \
         startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts \
         workingDir",
    );
    let handler =
        format!("exec: , sleep: , httpGet: {{{}}}, tcpSocket: {{host: a}}", other("host httpHeaders path scheme"));
    let probe = other(
        "failureThreshold initialDelaySeconds periodSeconds successThreshold terminationGracePeriodSeconds timeoutSeconds",
    );
    let probes = format!(
        "lifecycle: {{stopSignal: , postStart: {{{handler}}}, preStop: {{{handler}}}}}, livenessProbe: {{{handler}, \
         {probe}}}, readinessProbe: {{grpc: {{service: a, port: 1}}, {probe}}}"
    );
    let status = other(
        "containerStatuses ephemeralContainerStatuses hostIP hostIPs initContainerStatuses message nominatedNodeName \
         observedGeneration qosClass reason resize resourceClaimStatuses startTime",
    );
    let condition = other("lastProbeTime lastTransitionTime lastHeartbeatTime message observedGeneration reason");
    let service = other(
        "allocateLoadBalancerNodePorts externalTrafficPolicy healthCheckNodePort ipFamilies ipFamilyPolicy ipFamily \
         loadBalancerClass loadBalancerIP loadBalancerSourceRanges sessionAffinityConfig topologyKeys",
    );
    let node = other(
        "allocatable capacity conditions config daemonEndpoints features images nodeInfo phase runtimeHandlers \
         volumesAttached volumesInUse",
    );
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{{metadata}, ownerReferences: [{{kind: Job, name: a, apiVersion: , uid: , \
         blockOwnerDeletion: }}]}}\nspec: {{{pod}, containers: [{{{container}, {probes}, ports: [{{containerPort: 80, hostIP: , \
         hostPort: }}]}}]}}\nstatus: {{{status}, conditions: [{{{condition}}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{{metadata}}}\nspec: {{{service}, ports: [{{port: 80, appProtocol: , \
         nodePort: }}]}}\nstatus: {{loadBalancer: , conditions: }}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {{{metadata}}}\nspec: {{podCIDR: , podCIDRs: , providerID: , taints: , \
         unschedulable: , configSource: , externalID: }}\nstatus: {{{node}, addresses: [{{type: Hostname, address: a}}]}}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {{{metadata}}}\nspec: {{finalizers: }}\nstatus: {{phase: , conditions: }}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{{metadata}, labels: {{kubernetes.io/service-name: a}}}}\n\
         addressType: IPv4\nports: [{{port: 80, appProtocol: }}]\nendpoints: [{{addresses: [10.0.0.1], hostname: , \
         targetRef: , deprecatedTopology: }}]\n"
    );
    let shelf = check(&text, &expect![[""]]);
    assert_eq!(shelf.sources().len(), 5);
}
