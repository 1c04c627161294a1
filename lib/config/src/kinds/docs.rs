//! docs/resources.md, generated from the tables. The served fields are written down here, and compared with the shapes.

use std::fmt::Write as _;

use expect_test::expect_file;
use underpass_core::Kind;
use underpass_door::{Field, Support};

use super::{
    known::{CHART_VALUES, KNOWN},
    metadata::{KEYS, On},
    series::ABSENT,
};
use crate::{
    Fault, Severity,
    door::{MAX_FILES, MAX_FOLDER_DEPTH},
    manifest, shapes,
    yaml::{self, MAX_DOCUMENTS, MAX_FILE_BYTES},
};

const HEAD: &str = "# Resources\n\nThe objects and fields that Underpass reads, those of Istio and the Gateway API that it knows and does not serve yet, and \
     the effect on traffic until then. `underpass analyze DIR` reports the same about your own files, line by line.\n\n\
     Generated from the code: `UPDATE_EXPECT=1 cargo test -p underpass-config --lib docs`.\n";

/// A kind that is served, and what of it is read: field, and what it does or why it does not.
type Served = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const L7: &str = "needs a waypoint: of what passes none, an ALLOW rule with it allows nothing, a DENY rule denies all that its \
                  other fields match";
const L4: &str = "served";

const SERVED: &[Served] = &[
    (
        "Every kind",
        "any",
        &[
            ("metadata.name", "with its namespace, the object"),
            ("metadata.namespace", "`default` where it is missing; misspelled it is an error"),
            ("metadata.labels, annotations", "those that are named below"),
        ],
    ),
    (
        "Namespace",
        "v1",
        &[
            (
                "metadata.labels[istio.io/dataplane-mode]",
                "`ambient` puts its pods into the mesh, `none` keeps them out",
            ),
            (
                "metadata.labels[istio-injection]",
                "`enabled` and `disabled` mean the same, where nothing more specific speaks",
            ),
            ("metadata.annotations[networking.istio.io/traffic-distribution]", "of its Services that do not say"),
            (
                "metadata.labels[istio.io/use-waypoint, istio.io/use-waypoint-namespace]",
                "the waypoint of its Services and pods that do not say ([waypoints.md](waypoints.md)); others are selected by \
                 its labels",
            ),
        ],
    ),
    (
        "Node",
        "v1",
        &[
            (
                "status.addresses[].type, address",
                "of InternalIP and ExternalIP, the node's own addresses: kubelets probe from there",
            ),
            (
                "spec.taints[].key",
                "`underpass.dev/agent-not-ready`: the control plane takes it away once the agent of the node is ready",
            ),
            (
                "metadata.labels[topology.kubernetes.io/region, topology.kubernetes.io/zone]",
                "region and zone of its pods",
            ),
            ("metadata.labels[topology.istio.io/subzone]", "a place within the zone"),
            (
                "metadata.annotations[underpass.dev/waypoint-range]",
                "addresses of waypoints that its agent runs, from files alone: one or two CIDRs with a comma between them, one of \
                 each family ([waypoints.md](waypoints.md))",
            ),
        ],
    ),
    (
        "Pod",
        "v1",
        &[
            ("metadata.labels", "selected by Services and policies; enrolment (above)"),
            (
                "metadata.annotations[sidecar.istio.io/inject]",
                "`true` and `false`: in the mesh or not, without a sidecar",
            ),
            ("metadata.annotations[sidecar.istio.io/status]", "a sidecar was injected: the pod is not enrolled"),
            ("metadata.annotations[inject.istio.io/templates]", "with `gateway`, its proxy is no sidecar"),
            (
                "metadata.labels[gateway.networking.k8s.io/gateway-name]",
                "its proxy is no sidecar, unless it is told to be one",
            ),
            ("metadata.labels[istio.io/gateway-name]", "the same"),
            (
                "metadata.labels[istio.io/use-waypoint, istio.io/use-waypoint-namespace]",
                "the waypoint that calls of its own addresses pass, or `none`",
            ),
            ("metadata.annotations[underpass.dev/weight]", "its weight among the endpoints of a Service"),
            ("metadata.uid", "finds its cgroup on the node"),
            (
                "metadata.deletionTimestamp",
                "it is terminating: it gets no new connections while another endpoint of the Service is ready, and its \
                 address belongs to another pod as soon as that has it",
            ),
            (
                "metadata.ownerReferences[].kind, name, controller",
                "its owner, traced back to its Deployment or CronJob: in metrics and logs",
            ),
            ("spec.serviceAccountName", "its identity"),
            ("spec.nodeName", L4),
            ("spec.hostNetwork", "such a pod is never in the mesh"),
            ("spec.hostname, subdomain", "its name below a headless Service, for `explain`"),
            (
                "spec.containers[].name, args",
                "`istio-proxy` is a sidecar, and the pod is not enrolled; alone in the pod, with argument `router` or marked as a \
                 gateway it is none, and the pod's own label `istio.io/dataplane-mode: ambient` enrols it",
            ),
            ("spec.containers[].ports[].name, containerPort, protocol", "named target ports of Services"),
            ("spec.initContainers[].restartPolicy", "with `Always` its ports count as well"),
            (
                "spec.containers[].livenessProbe, readinessProbe, startupProbe, lifecycle",
                "the ports that `httpGet`, `tcpSocket` and `grpc` name, by number or name: the kubelet of its node reaches them \
                 in spite of policies. One with another `host` than an address of the pod counts for nothing; those of \
                 `initContainers` count as well",
            ),
            ("status.podIP, podIPs[].ip", "its addresses, of both families"),
            ("status.phase", "whether it runs"),
            ("status.conditions[].type, status", "`Ready`: whether it takes new connections"),
        ],
    ),
    (
        "Service",
        "v1",
        &[
            ("spec.clusterIP, clusterIPs", "its addresses, of both families; `None` is headless"),
            (
                "spec.ports[].name, port, targetPort, protocol",
                "TCP; UDP and SCTP are not captured. A target is a number, or a port's name in each pod",
            ),
            (
                "spec.ports[].appProtocol",
                "what a waypoint takes the port for; else its name says it (`http-x`); else the first bytes",
            ),
            ("spec.selector", "its endpoints, where no EndpointSlice names them"),
            ("spec.type", "ExternalName has no address in the mesh: DNS leads to `externalName`; all others are one"),
            ("spec.externalName", "shown by `explain`; DNS alone leads there"),
            ("spec.publishNotReadyAddresses", L4),
            ("spec.sessionAffinity", "`None` or `ClientIP`; any other value is ignored"),
            ("spec.internalTrafficPolicy", L4),
            ("spec.trafficDistribution", L4),
            (
                "metadata.annotations[networking.istio.io/traffic-distribution]",
                "the same, where the field is missing; `Any` as well",
            ),
            (
                "spec.externalIPs",
                "addresses of the Service like its cluster IP, unless they belong to a pod, a node or another Service",
            ),
            (
                "status.loadBalancer.ingress[].ip, ipMode",
                "the same; not those of a load balancer that is a proxy of its own",
            ),
            (
                "spec.loadBalancerSourceRanges",
                "with it connections to its load balancer's addresses are not captured: nodes enforce it",
            ),
            ("spec.ports[].nodePort", "not captured: connections reach endpoints in plaintext; shown by `explain`"),
            (
                "metadata.annotations[service.kubernetes.io/topology-mode]",
                "known, not yet served: only hints that EndpointSlices already have count",
            ),
            (
                "metadata.labels[istio.io/use-waypoint, istio.io/use-waypoint-namespace]",
                "the waypoint that calls of its cluster IP pass, or `none`",
            ),
            (
                "metadata.annotations[underpass.dev/waypoint-failure]",
                "`allow`: a waypoint that is missing or not ready is bypassed",
            ),
        ],
    ),
    (
        "EndpointSlice",
        "discovery.k8s.io/v1",
        &[
            ("metadata.labels[kubernetes.io/service-name]", "the Service of these endpoints"),
            ("addressType", "IPv4 and IPv6; FQDN is not served"),
            ("endpoints[].addresses", L4),
            (
                "endpoints[].targetRef.kind, namespace, name",
                "the pod of the endpoint: if the address belongs to another pod by now, the endpoint is not used",
            ),
            ("endpoints[].conditions.ready, serving, terminating", "whether it takes new connections"),
            ("endpoints[].nodeName", "its node: for `internalTrafficPolicy` and nearness"),
            ("endpoints[].zone", "its zone, if its node's is unknown"),
            ("endpoints[].hints.forZones[].name, forNodes[].name", "the callers it is meant for"),
            ("ports[].name, port, protocol", "TCP; without a number it serves nothing"),
        ],
    ),
    (
        "Gateway",
        "gateway.networking.k8s.io/v1, v1beta1",
        &[
            ("spec.gatewayClassName", "`istio-waypoint` and `underpass-waypoint` are waypoints; others below"),
            (
                "metadata.labels[istio.io/waypoint-for]",
                "what it stands before: `service`, the default, `workload`, `all` or `none`",
            ),
            (
                "spec.listeners[].name, port, protocol",
                "one with protocol HBONE at least; its port is that of every instance. Other protocols are not served",
            ),
            (
                "spec.listeners[].allowedRoutes.namespaces.from",
                "the namespaces whose Services and pods may attach: `Same`, the default, `All` or `Selector`",
            ),
            (
                "spec.listeners[].allowedRoutes.namespaces.selector.matchLabels, matchExpressions[].key, operator, values",
                "their labels, of `Selector`",
            ),
            (
                "spec.addresses, infrastructure",
                "not read: its instances are the pods behind the Service of its name, or what agents run where there is none",
            ),
        ],
    ),
    (
        "AuthorizationPolicy",
        "security.istio.io/v1, v1beta1",
        &[
            (
                "metadata.annotations[istio.io/dry-run]",
                "never enforced. A connection that it would have denied when it was opened has its name in `dry_run_denied_by` \
                 (access log, `underpass connections -o wide`) and counts in `underpass_dry_run_denials_total`; connections that were open \
                 before are not evaluated",
            ),
            (
                "spec.action",
                "ALLOW, DENY; [CUSTOM and AUDIT](policy.md#custom-and-audit) at a waypoint: at L4 CUSTOM denies",
            ),
            ("spec.selector", L4),
            (
                "spec.targetRef, targetRefs",
                "Service, ServiceEntry, Gateway and, in the root namespace, GatewayClass: judged at a waypoint \
                 ([policy.md](policy.md)), with no effect at L4",
            ),
            ("spec.provider", "of CUSTOM: `name` of an `envoyExtAuthzHttp` in the MeshConfig"),
            (
                "spec.rules[].from[].source",
                "principals, namespaces, serviceAccounts, ipBlocks, trustDomains and their `not`. The mesh's trust domain, its \
                 aliases and `cluster.local` are one, here and in conditions. A `*` stands at one end of a value; elsewhere it is an error",
            ),
            ("spec.rules[].from[].source.requestPrincipals, notRequestPrincipals", L7),
            ("spec.rules[].from[].source.remoteIpBlocks, notRemoteIpBlocks", L7),
            ("spec.rules[].to[].operation.ports, notPorts", L4),
            ("spec.rules[].to[].operation.hosts, notHosts, methods, notMethods, paths, notPaths", L7),
            (
                "spec.rules[].when[].key, values, notValues",
                "source.ip, source.namespace, source.principal, source.serviceAccount, source.trustDomain, destination.ip, \
                 destination.port; every other attribute needs a waypoint",
            ),
        ],
    ),
    (
        "PeerAuthentication",
        "security.istio.io/v1, v1beta1",
        &[
            ("spec.selector", "in the root namespace a policy with a selector is ignored"),
            ("spec.mtls.mode", "UNSET, PERMISSIVE, STRICT; DISABLE is served as PERMISSIVE"),
            ("spec.portLevelMtls", "by target port; needs a selector"),
            ("metadata.creationTimestamp", "of several for the same pods the oldest takes precedence"),
        ],
    ),
];

const AS_IF_ABSENT: &str = "connections go to every ready endpoint of the Service, as if it did not exist";

/// The kinds that waypoints enforce: what of them they serve, and what holds where none does.
const OF_WAYPOINTS: &[(Kind, &str, &str)] = &[
    (
        Kind::VirtualService,
        "routes of requests, and of connections that are no HTTP ([routes.md](routes.md))",
        AS_IF_ABSENT,
    ),
    (Kind::DestinationRule, "subsets, balancing, limits, outliers ([routes.md](routes.md#limits))", AS_IF_ABSENT),
    (Kind::HttpRoute, "at Services, as parents ([routes.md](routes.md)); gateways not yet", AS_IF_ABSENT),
    (Kind::GrpcRoute, "the same", AS_IF_ABSENT),
    (Kind::TlsRoute, "the same, by the server name", AS_IF_ABSENT),
    (Kind::TcpRoute, "the same", AS_IF_ABSENT),
    (Kind::ReferenceGrant, "for routes of gateways: at a Service they need no grant", "has no effect"),
    (Kind::MeshConfig, "key `mesh` of `istio` ([policy.md](policy.md#custom-and-audit))", "CUSTOM policies refuse"),
    (
        Kind::RequestAuthentication,
        "tokens of requests ([policy.md](policy.md))",
        "**tokens are not checked**: a request with a forged or expired one is not refused",
    ),
];

fn row(out: &mut String, cells: &[&str]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn markdown() -> String {
    let mut out = HEAD.to_owned();
    let table = |out: &mut String, title: &str, names: &[&str]| {
        let _ = writeln!(out, "\n{title}\n");
        row(out, names);
        row(out, &vec!["---"; names.len()]);
    };
    out += &files();
    out += "\n## Served\n\nAn unknown field of a policy is an error; of Kubernetes' own kinds other fields are ignored, except those that \
            look like a misspelling of one of these: they are warnings.\n";
    for (kind, versions, fields) in SERVED {
        table(&mut out, &format!("### {kind}\n\n`{versions}`"), &["field", "effect"]);
        for (field, does) in *fields {
            row(&mut out, &[&format!("`{field}`"), does]);
        }
    }
    out += "\n## Served by waypoints\n\nRead and checked as a whole: an unknown field is an error. A waypoint before the Service enforces them \
            ([waypoints.md](waypoints.md)); where none stands, `underpass analyze` says so, object by object.\n";
    table(&mut out, "", &["kind", "versions", "serves", "without a waypoint"]);
    out = out.replace("\n\n\n", "\n\n");
    for (kind, serves, without) in OF_WAYPOINTS {
        let (group, versions, _) = super::home(*kind);
        let api = format!("{group}/{}", versions.join(", "));
        row(&mut out, &[&format!("`{kind}`"), &api, serves, without]);
    }
    out += "\n## Known and not served\n";
    for known in KNOWN {
        let when = match known.future {
            Support::Later => "Not yet served",
            Support::Never => "Will not be served",
        };
        let versions = known.versions.join(", ");
        let (says, instead) = (known.meanwhile.says, known.instead);
        let _ =
            writeln!(out, "\n### {} ({}/{versions})\n\n{when}: {says}. Advice: {instead}.", known.kind, known.group);
        if known.fields().next().is_some() {
            table(&mut out, "", &["field", "effect until then"]);
            out = out.replace("\n\n\n", "\n\n");
        }
        for (below, field) in known.fields() {
            let dot = if below.is_empty() { "" } else { "." };
            row(&mut out, &[&format!("`{below}{dot}{}`", field.path), &said(field)]);
        }
    }
    out += "\n## Labels and annotations\n";
    table(&mut out, "On pods and their templates, namespaces and Services:", &["key", "value", "of", "meaning"]);
    for key in KEYS.iter().filter(|k| !k.means.says.is_empty()) {
        let of = |on: &On| match on {
            On::Pod => "Pod",
            On::Template => "template",
            On::Namespace => "Namespace",
            On::Target => "Service",
        };
        let of: Vec<_> = key.on.iter().map(of).collect();
        let value = if key.value.is_empty() { "any other" } else { key.value };
        row(&mut out, &[&format!("`{}`", key.key), value, &of.join(", "), &said(&key.means)]);
    }
    out += "\n## Ignored\n\nObjects of other kinds are counted and ignored. Workload kinds (Deployment, StatefulSet, \
            DaemonSet, ReplicaSet, Job, CronJob) are not read, because their pods are; there are notices about the \
            keys of their templates. Files without any of apiVersion, kind, metadata and spec are no objects. Values of Istio's chart among them:\n";
    table(&mut out, "", &["value", "effect"]);
    out = out.replace("\n\n\n", "\n\n");
    for field in CHART_VALUES.iter().flat_map(|f| f.iter()) {
        row(&mut out, &[&format!("`{}`", field.path), &said(field)]);
    }
    table(&mut out, "Metrics in rules and dashboards that do not exist:", &["prefix", "reason"]);
    for (start, says) in ABSENT {
        row(&mut out, &[&format!("`{start}`"), says]);
    }
    out
}

fn files() -> String {
    format!(
        "\n## Files\n\nEvery `.yaml`, `.yml` and `.json` file below the directory is read, names that start with a dot excepted, and \
         read again when it changes. In all cases:\n\n\
         - A broken object keeps its last good version. Of a file or a document that cannot be read, all objects of \
         its file stay served.\n\
         - A file is deleted with `rm`, a document by taking it out. A file that is empty, or holds only comments or documents \
         without a word (`---`, `null`), deletes nothing: that is how a file looks while it is being written. An intentionally \
         empty file is `{{apiVersion: v1, kind: List, items: []}}`.\n\
         - Write a file aside, then rename it: `kubectl get ... -o yaml > .new && mv .new policies.yaml`. A file that is written \
         in place (`> policies.yaml`) may be read half-written; cut between two documents it looks like a shorter one.\n\
         - A broken AuthorizationPolicy or PeerAuthentication without a last good version, after a restart for instance, closes \
         what it selects; its namespace, where that cannot be read. So does one that cannot be parsed and one with a typo in \
         `apiVersion` or `kind`, as long as its kind and name can be made out. One that would decide nothing (AUDIT, a \
         dry run) closes nothing.\n\
         - An object that is in two files is served from the first one by path.\n\
         - Limits: {MAX_FILES} files, {MAX_FOLDER_DEPTH} folders deep, {} MiB and {MAX_DOCUMENTS} documents a file. Beyond the \
         first, new files are not read and deleted objects stay served until there are fewer.\n",
        MAX_FILE_BYTES >> 20
    )
}

fn said(field: &Field) -> String {
    let mark = if field.severity == Severity::Warning { "**warning**: " } else { "" };
    format!("{mark}{}", field.says)
}

#[test]
fn the_page_is_current() {
    expect_file!["../../../../docs/resources.md"].assert_eq(&markdown());
}

/// The table has all fields of the shapes of Istio's kinds.
#[test]
fn every_field_of_a_policy_is_listed() {
    let check = |kind: &str, spec: &str| {
        let text = format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
        let problems = manifest::read(&"a.yaml".into(), text.as_bytes()).problems;
        let known = problems.iter().find_map(|p| match &p.reason {
            Fault::UnknownField { known, .. } => Some(*known),
            _ => None,
        });
        let (_, _, fields) = SERVED.iter().find(|(k, _, _)| *k == kind).unwrap();
        let told: String = fields.iter().map(|(field, does)| format!("{field} {does} ")).collect();
        for field in known.expect("an unknown field").iter().filter(|f| **f != "matchLabels") {
            // "and their `not`" stands for the negatives of L4 fields
            let positive = field.strip_prefix("not").map(|f| f[..1].to_ascii_lowercase() + &f[1..]);
            assert!(told.contains(field) || positive.is_some_and(|p| told.contains(&p)), "{kind}: {field}");
        }
    };
    check("AuthorizationPolicy", "{zzzzzzzz: 1}");
    check("AuthorizationPolicy", "{rules: [{zzzzzzzz: 1}]}");
    check("AuthorizationPolicy", "{rules: [{from: [{source: {zzzzzzzz: 1}}]}]}");
    check("AuthorizationPolicy", "{rules: [{to: [{operation: {zzzzzzzz: 1}}]}]}");
    check("AuthorizationPolicy", "{rules: [{when: [{zzzzzzzz: 1}]}]}");
    check("PeerAuthentication", "{zzzzzzzz: 1}");
    check("PeerAuthentication", "{mtls: {zzzzzzzz: 1}}");
}

/// The same of Kubernetes' kinds: what their shapes have, and the keys that their converters know.
#[test]
fn no_field_of_kubernetes_kinds_is_left_out() {
    fn check<T: serde::de::DeserializeOwned>(kind: &str, near: &str) {
        let documents = yaml::documents(near.as_bytes()).unwrap();
        let tree = documents[0].tree.clone().unwrap().unwrap();
        let (_, unknown) = yaml::with_unknown_fields::<T>(&tree).unwrap();
        let keys = near.matches(": ").count() - near.matches(": {").count() - near.matches(": [").count();
        assert_eq!(unknown.len(), keys, "{kind}: one misspelled key in each mapping: {unknown:?}");
        let tables = SERVED.iter().filter(|(k, _, _)| [kind, "Every kind"].contains(k));
        let told: Vec<&str> =
            tables.flat_map(|(_, _, rows)| *rows).flat_map(|(f, _)| f.split(|c: char| !c.is_alphanumeric())).collect();
        for field in unknown.iter().flat_map(|s| s.known) {
            let is_of_pod = matches!(*field, "uid" | "deletionTimestamp" | "ownerReferences") && kind != "Pod";
            assert!(told.contains(field) || is_of_pod || *field == "creationTimestamp", "{kind}: {field}");
        }
    }
    check::<shapes::Namespace>("Namespace", "{meta-data: , metadata: {nam: }}");
    check::<shapes::Node>(
        "Node",
        "{metadat: , metadata: {nam: }, spec: {taint: , taints: [{ke: }]}, status: {address: , addresses: [{typ: }]}}",
    );
    check::<shapes::Pod>(
        "Pod",
        "{spe: , metadata: {nam: , ownerReferences: [{kin: }]}, spec: {nodename: , containers: [{nam: , ports: [{nam: }]}]}, \
         status: {phas: , podIPs: [{i: }], conditions: [{typ: }]}}",
    );
    check::<shapes::Service>(
        "Service",
        "{spe: , metadata: {nam: }, spec: {typ: , ports: [{nam: }]}, status: {loadbalancer: , loadBalancer: {ingres: , ingress: [{i: }]}}}",
    );
    check::<shapes::EndpointSlice>(
        "EndpointSlice",
        "{port: , metadata: {nam: }, ports: [{nam: }], endpoints: [{zon: , conditions: {read: }, targetRef: {nam: }, hints: {forZone: , \
         forZones: [{nam: }], forNodes: [{nam: }]}}]}",
    );
    check::<shapes::Gateway>(
        "Gateway",
        "{spe: , metadata: {nam: }, spec: {listener: , listeners: [{prt: , allowedRoutes: {namespace: , namespaces: {frm: , selector: {matchLabel: , \
         matchExpressions: [{ky: }]}}}}]}}",
    );
    let page = markdown();
    let sources = [
        include_str!("../convert/meta.rs"),
        include_str!("../convert/pod.rs"),
        include_str!("../convert/own_proxy.rs"),
        include_str!("../convert/service.rs"),
        include_str!("../convert/endpoint_slice.rs"),
        include_str!("../convert/gateway.rs"),
        include_str!("../convert/policy.rs"),
    ];
    let lines =
        sources.iter().flat_map(|s| s.lines()).filter_map(|l| l.split_once("const ")?.1.split_once(": &str = \""));
    let keys: Vec<_> = lines.filter_map(|(_, l)| l.strip_suffix("\";")).filter(|k| k.contains('/')).collect();
    assert!(keys.len() >= 10, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("[{key}]")), "{key}");
    }
}
