//! docs/resources.md, made of the tables. What is served is written down here, and compared with the shapes.

use std::fmt::Write as _;

use expect_test::expect_file;
use underpass_door::{Field, Future};

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

const HEAD: &str = "# Resources\n\nWhich objects and fields Underpass reads, what of Istio's and the Gateway API's it knows and does not serve yet, and \
     what happens to traffic meanwhile. `underpass analyze DIR` says the same about your own files, line by line.\n\n\
     Generated from the code: `UPDATE_EXPECT=1 cargo test -p underpass-config --lib docs`.\n";

/// A kind that is served, and what of it is read: field, and what it does or why it does not.
type Served = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const L7: &str =
    "needs a waypoint: an ALLOW rule with it allows nothing, a DENY rule denies all that its other fields match";
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
                "metadata.labels[topology.kubernetes.io/region, topology.kubernetes.io/zone]",
                "region and zone of its pods",
            ),
            ("metadata.labels[topology.istio.io/subzone]", "a place within the zone"),
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
            ("metadata.annotations[sidecar.istio.io/status]", "a sidecar was injected: the pod is left to it"),
            ("metadata.annotations[inject.istio.io/templates]", "with `gateway`, its proxy is no sidecar"),
            (
                "metadata.labels[gateway.networking.k8s.io/gateway-name]",
                "its proxy is no sidecar, unless it is told to be one",
            ),
            ("metadata.labels[istio.io/gateway-name]", "the same"),
            ("metadata.annotations[underpass.dev/weight]", "its weight among the endpoints of a Service"),
            ("metadata.uid", "finds its cgroup on the node"),
            (
                "metadata.deletionTimestamp",
                "it is on its way out: nothing new goes there while another endpoint of the Service is ready, and its \
                 address is another pod's as soon as that has it",
            ),
            (
                "metadata.ownerReferences[].kind, name, controller",
                "what made it, led back to its Deployment or CronJob: in metrics and logs",
            ),
            ("spec.serviceAccountName", "its identity"),
            ("spec.nodeName", L4),
            ("spec.hostNetwork", "such a pod is never in the mesh"),
            ("spec.hostname, subdomain", "its name below a headless Service, for `explain`"),
            (
                "spec.containers[].name, args",
                "`istio-proxy` is a sidecar, and the pod is left to it; alone in the pod, told `router` or marked as a gateway \
                 it is none, and the pod's own label `istio.io/dataplane-mode: ambient` enrols it",
            ),
            ("spec.containers[].ports[].name, containerPort, protocol", "named target ports of Services"),
            ("spec.initContainers[].restartPolicy", "with `Always` its ports count as well"),
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
                "TCP; UDP and SCTP are left alone. A target is a number, or a port's name in each pod",
            ),
            ("spec.selector", "its endpoints, where no EndpointSlice names them"),
            ("spec.type", "ExternalName has no address in the mesh: DNS leads to `externalName`; all others are one"),
            ("spec.externalName", "shown by `explain`; DNS alone leads there"),
            ("spec.publishNotReadyAddresses", L4),
            ("spec.sessionAffinity", "`None` or `ClientIP`; what is neither is passed over"),
            ("spec.internalTrafficPolicy", L4),
            ("spec.trafficDistribution", L4),
            (
                "metadata.annotations[networking.istio.io/traffic-distribution]",
                "the same, where the field is missing; `Any` as well",
            ),
            (
                "spec.externalIPs",
                "addresses of the Service like its cluster IP, unless they are another's: of a pod, a node, another Service",
            ),
            (
                "status.loadBalancer.ingress[].ip, ipMode",
                "the same; not those of a load balancer that is a proxy of its own",
            ),
            (
                "spec.loadBalancerSourceRanges",
                "with it the addresses of its load balancer are left to the nodes, which enforce it",
            ),
            ("spec.ports[].nodePort", "left alone, so that it leads to endpoints in plaintext; shown by `explain`"),
            (
                "metadata.annotations[service.kubernetes.io/topology-mode]",
                "known, not yet served: only hints that EndpointSlices already have count",
            ),
            ("metadata.annotations[underpass.dev/waypoint-failure]", "`allow`: a missing waypoint is passed over"),
        ],
    ),
    (
        "EndpointSlice",
        "discovery.k8s.io/v1",
        &[
            ("metadata.labels[kubernetes.io/service-name]", "whose endpoints these are"),
            ("addressType", "IPv4 and IPv6; FQDN is not served"),
            ("endpoints[].addresses", L4),
            (
                "endpoints[].targetRef.kind, namespace, name",
                "of a Pod, the one that is meant: where the address is another pod's by now, the endpoint is not called",
            ),
            ("endpoints[].conditions.ready, serving, terminating", "whether it takes new connections"),
            ("endpoints[].nodeName", "where it is: for `internalTrafficPolicy`, and how near it is"),
            ("endpoints[].zone", "where it is, where no node says so"),
            ("endpoints[].hints.forZones[].name, forNodes[].name", "for whom it is meant"),
            ("ports[].name, port, protocol", "TCP; without a number it serves nothing"),
        ],
    ),
    (
        "AuthorizationPolicy",
        "security.istio.io/v1, v1beta1",
        &[
            (
                "metadata.annotations[istio.io/dry-run]",
                "never enforced. A connection that it would have denied when it was opened has its name in `dry_run_denied_by` \
                 (access log, `underpass connections -o wide`) and counts in `underpass_dry_run_denials_total`; what was open \
                 before is not tried",
            ),
            ("spec.action", "ALLOW and DENY; CUSTOM and AUDIT are rejected"),
            ("spec.selector", L4),
            ("spec.targetRef, targetRefs", "judged at the waypoint, which there is not yet: no effect at L4"),
            ("spec.provider", "only of CUSTOM, which is rejected"),
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
            ("metadata.creationTimestamp", "of several for the same pods the oldest counts"),
        ],
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
    out += "\n## Served\n\nAn unknown field of a policy is an error; of Kubernetes' own kinds other fields are others' business, but for those that \
            look like one of these misspelled: they are warnings.\n";
    for (kind, versions, fields) in SERVED {
        table(&mut out, &format!("### {kind}\n\n`{versions}`"), &["field", "what it does"]);
        for (field, does) in *fields {
            row(&mut out, &[&format!("`{field}`"), does]);
        }
    }
    out += "\n## Known and not served\n";
    for known in KNOWN {
        let when = match known.future {
            Future::Later => "Not yet served",
            Future::Never => "Will not be served",
        };
        let versions = known.versions.join(", ");
        let (says, instead) = (known.meanwhile.says, known.instead);
        let _ = writeln!(
            out,
            "\n### {} ({}/{versions})\n\n{when}: {says}. What to do: {instead}.",
            known.kind, known.group
        );
        if known.fields().next().is_some() {
            table(&mut out, "", &["field", "meanwhile"]);
            out = out.replace("\n\n\n", "\n\n");
        }
        for (below, field) in known.fields() {
            let dot = if below.is_empty() { "" } else { "." };
            row(&mut out, &[&format!("`{below}{dot}{}`", field.path), &said(field)]);
        }
    }
    out += "\n## Labels and annotations\n";
    table(&mut out, "On pods and their templates, namespaces and Services:", &["key", "value", "of", "what it means"]);
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
    out += "\n## Ignored\n\nEvery other kind is not the mesh's: it is counted and ignored. Workload kinds (Deployment, StatefulSet, \
            DaemonSet, ReplicaSet, Job, CronJob) are not read, because pods are; what the keys of their templates will mean is \
            said. Files without any of apiVersion, kind, metadata and spec are no objects. Values of Istio's chart among them:\n";
    table(&mut out, "", &["value", "meanwhile"]);
    out = out.replace("\n\n\n", "\n\n");
    for field in CHART_VALUES.iter().flat_map(|f| f.iter()) {
        row(&mut out, &[&format!("`{}`", field.path), &said(field)]);
    }
    table(&mut out, "Metrics that rules and dashboards ask for and that there are not:", &["name starts with", "why"]);
    for (start, says) in ABSENT {
        row(&mut out, &[&format!("`{start}`"), says]);
    }
    out
}

fn files() -> String {
    format!(
        "\n## Files\n\nEvery `.yaml`, `.yml` and `.json` file below the directory is read, names that start with a dot excepted, and \
         read again when it changes. What holds whatever is written:\n\n\
         - A broken object keeps its last good version. A file or a document that cannot be read keeps everything that its file \
         gave.\n\
         - A file is deleted with `rm`, a document by taking it out. A file that is empty, or holds only comments or documents \
         without a word (`---`, `null`), deletes nothing: that is how a file looks while it is being written. Who wants a file that \
         gives nothing writes `{{apiVersion: v1, kind: List, items: []}}`.\n\
         - Write a file aside, then rename it: `kubectl get ... -o yaml > .new && mv .new policies.yaml`. A file that is written \
         in place (`> policies.yaml`) may be read half-written; cut between two documents it looks like a shorter one.\n\
         - A broken AuthorizationPolicy or PeerAuthentication without a last good version, after a restart for instance, closes \
         what it selects; its namespace, where that cannot be read. So does one that cannot be parsed and one with a slip in \
         `apiVersion` or `kind`, as long as its kind and name can be made out. One that would decide nothing (CUSTOM, AUDIT, a \
         dry run, one for a waypoint) closes nothing.\n\
         - An object that stands twice is served from the first file by path.\n\
         - Limits: {MAX_FILES} files, {MAX_FOLDER_DEPTH} folders deep, {} MiB and {MAX_DOCUMENTS} documents a file. Beyond the \
         first, new files are not read and what is gone stays until there are fewer.\n",
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

/// What the shapes of Istio's kinds know stands in the table.
#[test]
fn no_field_of_a_policy_is_left_out() {
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
        let (_, slips) = yaml::with_slips::<T>(&tree).unwrap();
        let keys = near.matches(": ").count() - near.matches(": {").count() - near.matches(": [").count();
        assert_eq!(slips.len(), keys, "{kind}: one misspelled key in each mapping: {slips:?}");
        let tables = SERVED.iter().filter(|(k, _, _)| [kind, "Every kind"].contains(k));
        let told: Vec<&str> =
            tables.flat_map(|(_, _, rows)| *rows).flat_map(|(f, _)| f.split(|c: char| !c.is_alphanumeric())).collect();
        for field in slips.iter().flat_map(|s| s.known) {
            let is_of_pod = matches!(*field, "uid" | "deletionTimestamp" | "ownerReferences") && kind != "Pod";
            assert!(told.contains(field) || is_of_pod || *field == "creationTimestamp", "{kind}: {field}");
        }
    }
    check::<shapes::Namespace>("Namespace", "{meta-data: , metadata: {nam: }}");
    check::<shapes::Node>("Node", "{metadat: , metadata: {nam: }, status: {address: , addresses: [{typ: }]}}");
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
    let page = markdown();
    let sources = [
        include_str!("../convert/meta.rs"),
        include_str!("../convert/pod.rs"),
        include_str!("../convert/own_proxy.rs"),
        include_str!("../convert/service.rs"),
        include_str!("../convert/endpoint_slice.rs"),
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
