//! Core objects as manifests: the inverse of the converters.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use underpass_core::{
    ObjectName,
    authz::{Condition, L7Condition, Match, Operation, Rule, ServiceAccount, Source},
    labels::Labels,
    objects::{
        AGENT_NOT_READY, Admits, Created, DEFAULT_WEIGHT, EndpointSlice, Gateway, HboneListener, MtlsMode, Must,
        Object, OwnProxy, PeerAuthentication, Phase, Pod, Requirement, Service, SliceEndpoint,
    },
    world::{Affinity, AuthorizationPolicy, Distribution, InternalTraffic, PolicyTarget, Scope, TargetPort},
};

/// One object as one YAML document in block style.
pub fn print(object: &Object) -> String {
    let mut out = String::new();
    block(&to_json(object), 0, &mut out);
    out
}

/// As JSON, for a file that is JSON.
pub fn to_json(object: &Object) -> Value {
    match object {
        Object::Namespace(n) => {
            let mut all = document("v1", "Namespace", &n.name, &n.labels, json!({}));
            if let Some(distribution) = n.distribution {
                all["metadata"]["annotations"] =
                    json!({"networking.istio.io/traffic-distribution": distribution.as_str()});
            }
            all
        }
        Object::Node(n) => {
            let addresses: Vec<_> = n.addresses.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
            let startup = n.awaits_agent.then(|| json!({"key": AGENT_NOT_READY, "effect": "NoSchedule"}));
            let taints: Vec<_> =
                startup.into_iter().chain([json!({"key": "example.com/other", "effect": "NoExecute"})]).collect();
            let rest = json!({"spec": {"taints": taints}, "status": {"addresses": addresses}});
            let mut all = document("v1", "Node", &n.name, &n.labels, rest);
            if !n.waypoint_ranges.is_empty() {
                let ranges: Vec<_> = n.waypoint_ranges.iter().map(ToString::to_string).collect();
                all["metadata"]["annotations"] = json!({"underpass.dev/waypoint-range": ranges.join(", ")});
            }
            all
        }
        Object::Pod(w) => workload(w),
        Object::Service(s) => service(s),
        Object::EndpointSlice(s) => slice(s),
        Object::Gateway(g) => gateway(g),
        Object::AuthorizationPolicy(p) => authorization_policy(p),
        Object::PeerAuthentication(p) => peer_authentication(p),
        other => panic!("{} is no kind that is generated", other.key()),
    }
}

fn document(api_version: &str, kind: &str, name: &ObjectName, labels: &Labels, rest: Value) -> Value {
    let mut all = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name.name(), "labels": labels}});
    if !name.namespace().is_empty() {
        all["metadata"]["namespace"] = json!(name.namespace());
    }
    all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    all
}

fn workload(w: &Pod) -> Value {
    let ports: Vec<_> = w.ports.iter().map(|p| json!({"name": &*p.name, "containerPort": p.port})).collect();
    let mut containers = vec![json!({"name": "app", "image": "app", "ports": ports})];
    // One container for each: a container has three probes at most.
    containers.extend(
        w.probes
            .iter()
            .map(|port| json!({"name": format!("probed-{port}"), "readinessProbe": {"tcpSocket": {"port": port}}})),
    );
    if let Some(proxy) = w.proxy {
        let role = match proxy {
            OwnProxy::Sidecar => "sidecar",
            OwnProxy::Gateway => "router",
            OwnProxy::Waypoint => "waypoint",
        };
        containers.push(json!({"name": "istio-proxy", "args": ["proxy", role]}));
    }
    let phase = match w.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Terminal => "Succeeded",
    };
    let ready = if w.ready || w.draining { "True" } else { "False" };
    let ips: Vec<_> = w.addresses.iter().map(|a| json!({"ip": a})).collect();
    let mut all = document(
        "v1",
        "Pod",
        &w.name,
        &w.labels,
        json!({
            "spec": {"containers": containers, "serviceAccountName": &*w.service_account, "hostNetwork": w.host_network},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}], "podIPs": ips},
        }),
    );
    all["metadata"]["uid"] = json!(&*w.uid);
    all["metadata"]["annotations"] = json!(w.annotations);
    if w.weight != DEFAULT_WEIGHT {
        all["metadata"]["annotations"]["underpass.dev/weight"] = json!(w.weight.to_string());
    }
    if w.deleted {
        all["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:00Z");
    }
    if let Some((hostname, subdomain)) = w.hostname.as_deref() {
        (all["spec"]["hostname"], all["spec"]["subdomain"]) = (json!(&**hostname), json!(&**subdomain));
    }
    if let Some(node) = &w.node {
        all["spec"]["nodeName"] = json!(&**node);
    }
    all
}

fn service(s: &Service) -> Value {
    let ports: Vec<_> = (s.ports.iter())
        .map(|p| {
            let target = match &p.target {
                TargetPort::Number(n) => json!(n),
                TargetPort::Name(name) => json!(&**name),
            };
            let node_port = s.node_ports.get(&p.port);
            json!({"name": &*p.name, "port": p.port, "protocol": "TCP", "targetPort": target, "nodePort": node_port})
        })
        .collect();
    let mut spec = json!({"ports": ports, "clusterIPs": s.vips, "externalIPs": s.external, "publishNotReadyAddresses": s.publish_not_ready});
    if let Some(selector) = &s.selector {
        spec["selector"] = json!(selector);
    }
    if let Some(name) = &s.external_name {
        spec["type"] = json!("ExternalName");
        spec["externalName"] = json!(&**name);
    }
    if s.internal_traffic == InternalTraffic::Local {
        spec["internalTrafficPolicy"] = json!("Local");
    }
    if s.affinity == Affinity::ClientIp {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    let mut annotations = Map::new();
    match s.distribution {
        // the field does not know this one
        Some(Distribution::Any) => {
            annotations.insert("networking.istio.io/traffic-distribution".into(), json!("any"));
        }
        Some(distribution) => spec["trafficDistribution"] = json!(distribution.as_str()),
        None => {}
    }
    if s.waypoint_optional {
        annotations.insert("underpass.dev/waypoint-failure".into(), json!("allow"));
    }
    let mut all = document("v1", "Service", &s.name, &s.labels, json!({"spec": spec}));
    all["metadata"]["annotations"] = annotations.into();
    all
}

fn slice(s: &EndpointSlice) -> Value {
    let labels: Labels = [("kubernetes.io/service-name".into(), s.service.name().into())].into();
    let ports: Vec<_> = s.ports.iter().map(|p| json!({"name": &*p.name, "port": p.port})).collect();
    let endpoints: Vec<_> = s.endpoints.iter().map(slice_endpoint).collect();
    let rest = json!({"addressType": "IPv4", "ports": ports, "endpoints": endpoints});
    document("discovery.k8s.io/v1", "EndpointSlice", &s.name, &labels, rest)
}

fn slice_endpoint(e: &SliceEndpoint) -> Value {
    let named = |all: &[std::sync::Arc<str>]| all.iter().map(|name| json!({"name": &**name})).collect::<Vec<_>>();
    let hints = e.hints.as_deref().cloned().unwrap_or_default();
    let mut all = json!({
        "addresses": e.addresses,
        "conditions": {"ready": e.ready, "serving": e.ready || e.draining, "terminating": e.draining},
        "hints": {"forZones": named(&hints.zones), "forNodes": named(&hints.nodes)},
    });
    if let Some(target) = &e.target {
        all["targetRef"] = json!({"kind": "Pod", "name": target.name(), "namespace": target.namespace()});
    }
    if let Some(node) = &e.node {
        all["nodeName"] = json!(&**node);
    }
    if let Some(zone) = &e.zone {
        all["zone"] = json!(&**zone);
    }
    all
}

fn gateway(g: &Gateway) -> Value {
    let requirement = |one: &Requirement| {
        let (operator, values) = match &one.must {
            Must::In(values) => ("In", &**values),
            Must::NotIn(values) => ("NotIn", &**values),
            Must::Exist => ("Exists", &[][..]),
            Must::NotExist => ("DoesNotExist", &[][..]),
        };
        let mut all = json!({"key": &*one.key, "operator": operator});
        if !values.is_empty() {
            all["values"] = values.iter().map(|value| json!(&**value)).collect();
        }
        all
    };
    let listener = |(i, listener): (usize, &HboneListener)| {
        let namespaces = match &listener.admits {
            Admits::Same => json!({}),
            Admits::All => json!({"from": "All"}),
            Admits::Selector(all) => {
                let expressions: Vec<_> = all.iter().map(requirement).collect();
                json!({"from": "Selector", "selector": {"matchExpressions": expressions}})
            }
        };
        let routes = json!({"namespaces": namespaces});
        json!({"name": format!("l{i}"), "port": listener.port, "protocol": "HBONE", "allowedRoutes": routes})
    };
    let listeners: Vec<_> = g.listeners.iter().enumerate().map(listener).collect();
    let labels: Labels = [("istio.io/waypoint-for".into(), g.waypoint_for.as_str().into())].into();
    let rest = json!({"spec": {"gatewayClassName": &*g.class, "listeners": listeners}});
    document("gateway.networking.k8s.io/v1", "Gateway", &g.name, &labels, rest)
}

fn authorization_policy(p: &AuthorizationPolicy) -> Value {
    let mut spec = json!({"action": p.action.as_str()});
    if let Some(provider) = &p.provider {
        spec["provider"] = json!({"name": provider});
    }
    match &p.scope {
        Scope::Namespace => {}
        Scope::Selector(labels) => spec["selector"] = json!({"matchLabels": labels}),
        Scope::Targets(targets) => {
            let target = |t: &PolicyTarget| json!({"group": t.kind.group(), "kind": t.kind.as_str(), "name": &*t.name});
            spec["targetRefs"] = targets.iter().map(target).collect();
        }
    }
    if !p.rules.is_empty() {
        spec["rules"] = p.rules.iter().map(rule).collect();
    }
    let rest = json!({"spec": spec});
    let mut all = document("security.istio.io/v1", "AuthorizationPolicy", &p.name, &Labels::new(), rest);
    if p.dry_run {
        all["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    }
    all
}

fn rule(r: &Rule) -> Value {
    let mut out = Map::new();
    let mut list = |name: &str, entries: Vec<Value>| {
        if !entries.is_empty() {
            out.insert(name.into(), entries.into());
        }
    };
    list("from", r.from.iter().map(|s| json!({"source": source(s)})).collect());
    list("to", r.to.iter().map(|o| json!({"operation": operation(o)})).collect());
    list("when", r.when.iter().map(condition).collect());
    out.into()
}

fn put<T>(out: &mut Map<String, Value>, names: (&str, &str), m: &Match<T>, text: impl Fn(&T) -> Value) {
    for (name, values) in [(names.0, &m.values), (names.1, &m.not_values)] {
        if !values.is_empty() {
            out.insert(name.into(), values.iter().map(&text).collect());
        }
    }
}

fn as_is<T: serde::Serialize>(value: &T) -> Value {
    json!(value)
}

fn account(a: &ServiceAccount) -> Value {
    json!(format!("{}/{}", a.namespace, a.name))
}

fn source(s: &Source) -> Value {
    let mut out = Map::new();
    put(&mut out, ("principals", "notPrincipals"), &s.principals, as_is);
    put(&mut out, ("namespaces", "notNamespaces"), &s.namespaces, as_is);
    put(&mut out, ("serviceAccounts", "notServiceAccounts"), &s.service_accounts, account);
    put(&mut out, ("ipBlocks", "notIpBlocks"), &s.ip_blocks, as_is);
    put(&mut out, ("trustDomains", "notTrustDomains"), &s.trust_domains, as_is);
    if let Some(l7) = &s.l7 {
        put(&mut out, ("requestPrincipals", "notRequestPrincipals"), &l7.request_principals, as_is);
        put(&mut out, ("remoteIpBlocks", "notRemoteIpBlocks"), &l7.remote_ip_blocks, as_is);
    }
    out.into()
}

fn port(p: &u16) -> Value {
    json!(p.to_string())
}

fn operation(o: &Operation) -> Value {
    let mut out = Map::new();
    put(&mut out, ("ports", "notPorts"), &o.ports, port);
    if let Some(l7) = &o.l7 {
        put(&mut out, ("hosts", "notHosts"), &l7.hosts, as_is);
        put(&mut out, ("methods", "notMethods"), &l7.methods, as_is);
        put(&mut out, ("paths", "notPaths"), &l7.paths, as_is);
    }
    out.into()
}

fn condition(c: &Condition) -> Value {
    let mut out = Map::new();
    let names = ("values", "notValues");
    let key = match c {
        Condition::SourceIp(m) => (put(&mut out, names, m, as_is), "source.ip").1,
        Condition::SourceNamespace(m) => (put(&mut out, names, m, as_is), "source.namespace").1,
        Condition::SourcePrincipal(m) => (put(&mut out, names, m, as_is), "source.principal").1,
        Condition::SourceServiceAccount(m) => (put(&mut out, names, m, account), "source.serviceAccount").1,
        Condition::SourceTrustDomain(m) => (put(&mut out, names, m, as_is), "source.trustDomain").1,
        Condition::DestinationIp(m) => (put(&mut out, names, m, as_is), "destination.ip").1,
        Condition::DestinationPort(m) => (put(&mut out, names, m, port), "destination.port").1,
        Condition::L7(l7) => {
            match &**l7 {
                L7Condition::RemoteIp(m) => put(&mut out, names, m, as_is),
                L7Condition::ConnectionSni(m)
                | L7Condition::RequestHeader(_, m)
                | L7Condition::RequestPrincipal(m)
                | L7Condition::RequestAudiences(m)
                | L7Condition::RequestPresenter(m)
                | L7Condition::RequestClaim(_, m) => put(&mut out, names, m, as_is),
                L7Condition::EnvoyFilter { values, .. } => put(&mut out, names, values, |v| json!(&**v)),
            }
            &l7.key()
        }
    };
    out.insert("key".into(), json!(key));
    out.into()
}

fn peer_authentication(p: &PeerAuthentication) -> Value {
    let mode = |m: &MtlsMode| match m {
        MtlsMode::Unset => "UNSET",
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    };
    let ports: Map<_, _> = p.ports.iter().map(|(p, m)| (p.to_string(), json!({"mode": mode(m)}))).collect();
    let mut spec = json!({"mtls": {"mode": mode(&p.mode)}, "portLevelMtls": ports});
    if let Some(labels) = &p.selector {
        spec["selector"] = json!({"matchLabels": labels});
    }
    let rest = json!({"spec": spec});
    let mut all = document("security.istio.io/v1", "PeerAuthentication", &p.name, &Labels::new(), rest);
    if p.created != Created::UNKNOWN {
        // enough for the seconds of one day
        let s = p.created.0;
        all["metadata"]["creationTimestamp"] =
            json!(format!("1970-01-01T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60));
    }
    all
}

/// Block style, every text in double quotes.
fn block(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key =
                    if key.bytes().all(|b| b.is_ascii_alphabetic()) { key.clone() } else { json!(key).to_string() };
                let _ = write!(out, "{pad}{key}:");
                inner(value, indent, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let _ = write!(out, "{pad}-");
                inner(value, indent, out);
            }
        }
        scalar => {
            let _ = writeln!(out, "{pad}{scalar}");
        }
    }
}

fn inner(value: &Value, indent: usize, out: &mut String) {
    let is_block = value.as_object().is_some_and(|m| !m.is_empty()) || value.as_array().is_some_and(|l| !l.is_empty());
    if is_block {
        out.push('\n');
        block(value, indent + 1, out);
    } else {
        let _ = writeln!(out, " {value}");
    }
}
