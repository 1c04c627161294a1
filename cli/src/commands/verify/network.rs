//! NetworkPolicies that stand between the parts of the mesh: they judge packets as they are on the wire, where every connection between
//! two pods of the mesh is one to port 15008, with any port that an application has called.
//!
//! What must hold: a pod that a policy selects is open for the union of what all such policies let through, and for nothing else. The
//! control plane is called from the network of nodes, which no selector of pods and namespaces matches.

use std::collections::{BTreeMap, BTreeSet};

use underpass_core::addr::HBONE_PORT;
use underpass_kube::survey::{
    network_policy::{Direction, NetworkPolicy, Number, Peer, Port, Rule},
    objects::PodSeen,
};

use super::{super::findings::Finding, pods::first, seen::Seen};
use crate::table::list;

/// The control plane's ports, and who calls them.
const CONTROL: [(u16, &str); 2] = [(15012, "agents ask"), (15017, "the API server asks")];
/// The label of the control plane's pods.
const NAME: &str = "app.kubernetes.io/name";

/// For whom a port of a pod is open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Opening {
    /// To no peer.
    Closed,
    /// To some, each in words.
    Narrow(Vec<String>),
    /// To every peer.
    Open,
}

/// Where the other end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Pods,
    Nodes,
}

pub(super) fn findings(seen: &Seen) -> Vec<Finding> {
    let mut findings = tunnels(seen, Direction::Ingress);
    findings.extend(tunnels(seen, Direction::Egress));
    findings.extend(CONTROL.iter().flat_map(|(port, callers)| control(seen, *port, callers)));
    findings
}

/// The pods of each set of policies, by what these let through.
type Groups = BTreeMap<(Vec<String>, Opening), Vec<String>>;

fn tunnels(seen: &Seen, direction: Direction) -> Vec<Finding> {
    let in_mesh = seen.workloads.iter().filter(|w| w.in_mesh).map(|w| (&*w.namespace, &*w.name));
    let in_mesh: BTreeSet<(&str, &str)> = in_mesh.collect();
    let is_in_mesh = |pod: &&PodSeen| in_mesh.contains(&(&*pod.metadata.namespace, &*pod.metadata.name));
    let pods = seen.pods.iter().filter(is_in_mesh);
    let groups = groups(&seen.policies, pods, direction, HBONE_PORT, Other::Pods);
    groups.into_iter().filter_map(|((policies, opening), pods)| tunnel(direction, &policies, &opening, &pods)).collect()
}

fn tunnel(direction: Direction, policies: &[String], opening: &Opening, pods: &[String]) -> Option<Finding> {
    let (subject, names) = (format!("NetworkPolicy {}", list(policies)), first(pods));
    Some(match (direction, opening) {
        (_, Opening::Open) => return None,
        (Direction::Ingress, Opening::Closed) => Finding::error(
            subject,
            format!("lets no TCP {HBONE_PORT} in, by which pods of the mesh reach {names}"),
            "add to spec.ingress, with the `from` of your rules: {ports: [{protocol: TCP, port: 15008}]}",
        ),
        (Direction::Egress, Opening::Closed) => Finding::error(
            subject,
            format!("lets no TCP {HBONE_PORT} out, by which {names} reach pods of the mesh"),
            "add to spec.egress, with the `to` of your rules: {ports: [{protocol: TCP, port: 15008}]}",
        ),
        (Direction::Ingress, Opening::Narrow(who)) => Finding::info(
            subject,
            format!("lets TCP {HBONE_PORT} in from {} alone, to {names}", list(who)),
            "others in the mesh do not reach them, on any port",
        ),
        (Direction::Egress, Opening::Narrow(who)) => Finding::info(
            subject,
            format!("lets TCP {HBONE_PORT} out to {} alone, from {names}", list(who)),
            "they do not reach others in the mesh, on any port",
        ),
    })
}

fn control(seen: &Seen, port: u16, callers: &str) -> Vec<Finding> {
    let is_control = |pod: &&PodSeen| {
        pod.metadata.namespace == seen.namespace
            && pod.metadata.labels.get(NAME).is_some_and(|name| name == "underpass-control")
    };
    let pods = seen.pods.iter().filter(is_control);
    let groups = groups(&seen.policies, pods, Direction::Ingress, port, Other::Nodes);
    let finding = |((policies, opening), _): ((Vec<String>, Opening), _)| {
        let subject = format!("NetworkPolicy {}", list(&policies));
        match opening {
            Opening::Open => None,
            Opening::Closed => Some(Finding::error(
                subject,
                format!("lets no TCP {port} in from the network of nodes, from where {callers} the control plane"),
                "networkPolicy.enabled=true makes one that does; selectors of pods and namespaces match no node",
            )),
            Opening::Narrow(who) => Some(Finding::info(
                subject,
                format!("lets TCP {port} in from {} alone, to the control plane", list(who)),
                "see that the addresses of all nodes are among them",
            )),
        }
    };
    groups.into_iter().filter_map(finding).collect()
}

fn groups<'a>(
    policies: &'a [NetworkPolicy],
    pods: impl Iterator<Item = &'a PodSeen>,
    direction: Direction,
    port: u16,
    other: Other,
) -> Groups {
    let mut groups = Groups::new();
    // A pod on its node's network is none that a policy selects.
    for pod in pods.filter(|pod| !pod.spec.host_network && !pod.has_ended()) {
        let about: Vec<&NetworkPolicy> = policies.iter().filter(|policy| restricts(policy, pod, direction)).collect();
        if about.is_empty() {
            continue;
        }
        let names = about.iter().map(|policy| policy.metadata.object().to_string()).collect();
        let key = (names, opening(&about, pod, direction, port, other));
        groups.entry(key).or_default().push(pod.metadata.name.clone());
    }
    groups
}

fn restricts(policy: &NetworkPolicy, pod: &PodSeen, direction: Direction) -> bool {
    policy.metadata.namespace == pod.metadata.namespace
        && policy.spec.restricts(direction)
        && policy.spec.pod_selector.selects(&pod.metadata.labels)
}

/// For whom these policies, all of which select the pod, leave the port open.
fn opening(policies: &[&NetworkPolicy], pod: &PodSeen, direction: Direction, port: u16, other: Other) -> Opening {
    let rules = policies.iter().flat_map(|policy| policy.spec.rules(direction));
    let mut some = Vec::new();
    for rule in rules.filter(|rule| has_port(rule, pod, direction, port)) {
        if rule.peers.is_empty() || rule.peers.iter().any(|peer| is_every_peer(peer, other)) {
            return Opening::Open;
        }
        some.extend(rule.peers.iter().filter(|peer| other == Other::Pods || peer.ip_block.is_some()).map(text));
    }
    some.sort();
    some.dedup();
    if some.is_empty() { Opening::Closed } else { Opening::Narrow(some) }
}

fn has_port(rule: &Rule, pod: &PodSeen, direction: Direction, port: u16) -> bool {
    rule.ports.is_empty() || rule.ports.iter().any(|one| is_port(one, pod, direction, port))
}

fn is_port(one: &Port, pod: &PodSeen, direction: Direction, port: u16) -> bool {
    let is_tcp = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
    if !is_tcp(one.protocol.as_deref()) {
        return false;
    }
    match (&one.port, direction) {
        (None, _) => true,
        (Some(Number::Number(first)), _) => (*first..=one.end_port.unwrap_or(*first)).contains(&port),
        // A name is one of the pod that is called.
        (Some(Number::Name(name)), Direction::Ingress) => {
            let mut ports = pod.containers().flat_map(|container| &container.ports);
            ports.any(|p| p.name == *name && p.container_port == port && is_tcp(p.protocol.as_deref()))
        }
        (Some(Number::Name(_)), Direction::Egress) => false,
    }
}

fn is_every_peer(peer: &Peer, other: Other) -> bool {
    match other {
        Other::Pods => {
            peer.namespace_selector.as_ref().is_some_and(|selector| selector.is_empty())
                && peer.pod_selector.as_ref().is_none_or(|selector| selector.is_empty())
        }
        Other::Nodes => {
            let is_all = |cidr: &str| ["0.0.0.0/0", "::/0"].contains(&cidr);
            peer.ip_block.as_ref().is_some_and(|block| is_all(&block.cidr) && block.except.is_empty())
        }
    }
}

fn text(peer: &Peer) -> String {
    match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
        (Some(block), ..) if block.except.is_empty() => format!("addresses {}", block.cidr),
        (Some(block), ..) => format!("addresses {} without {}", block.cidr, list(&block.except)),
        (None, Some(pods), None) => format!("pods {pods} of its namespace"),
        (None, None, Some(namespaces)) => format!("namespaces {namespaces}"),
        (None, Some(pods), Some(namespaces)) => format!("pods {pods} of namespaces {namespaces}"),
        (None, None, None) => "no peer".to_owned(), // the API server takes no such peer
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::seen::tests::{check as check_with, parsed},
        *,
    };

    /// A policy of this name for the pods of an app, or for all.
    fn policy(name: &str, namespace: &str, app: Option<&str>, spec: Value) -> Value {
        let mut spec = spec;
        spec["podSelector"] = app.map_or(json!({}), |app| json!({"matchLabels": {"app": app}}));
        json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
    }

    fn check(policies: Value, expected: &[&str]) {
        check_with(|s| s.policies = parsed(policies), findings, expected);
    }

    /// What one policy about `web` leaves of port 15008.
    fn of_web(spec: Value, expected: &[&str]) {
        check(json!([policy("p", "shop", Some("web"), spec)]), expected);
    }

    const NOTHING_IN: &str = "Error: NetworkPolicy shop/p: lets no TCP 15008 in, by which pods of the mesh reach web";
    const NOTHING_OUT: &str = "Error: NetworkPolicy shop/p: lets no TCP 15008 out, by which web reach pods of the mesh";

    #[test]
    fn ingress() {
        of_web(json!({}), &[NOTHING_IN]);
        of_web(json!({"ingress": []}), &[NOTHING_IN]);
        of_web(json!({"ingress": [{}]}), &[]);
        of_web(json!({"policyTypes": ["Egress"], "egress": [{}]}), &[]);
        of_web(json!({"policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": []}), &[NOTHING_OUT]);
    }

    #[test]
    fn ports() {
        let port = |port: Value| json!({"ingress": [{"ports": [port]}]});
        of_web(port(json!({"port": 8080})), &[NOTHING_IN]);
        of_web(port(json!({"port": 15008})), &[]);
        of_web(port(json!({"protocol": "TCP", "port": 15008})), &[]);
        of_web(port(json!({"protocol": "UDP", "port": 15008})), &[NOTHING_IN]);
        of_web(port(json!({"protocol": "UDP"})), &[NOTHING_IN]);
        of_web(port(json!({"protocol": "TCP"})), &[]);
        of_web(port(json!({"port": 8080, "endPort": 15007})), &[NOTHING_IN]);
        of_web(port(json!({"port": 8080, "endPort": 15008})), &[]);
        of_web(port(json!({"port": "http"})), &[NOTHING_IN]);
        let named = |number: u16| {
            let ports = json!([{"name": "hbone", "containerPort": number}]);
            let pod = json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "ports": ports}]}});
            let policies = json!([policy("p", "shop", Some("web"), port(json!({"port": "hbone"})))]);
            move |s: &mut Seen| (s.pods[0], s.policies) = (parsed(pod), parsed(policies))
        };
        check_with(named(15008), findings, &[]);
        check_with(named(15009), findings, &[NOTHING_IN]);
        of_web(json!({"egress": [{"ports": [{"port": "http"}]}]}), &[NOTHING_IN, NOTHING_OUT]);
        of_web(json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 15008}]}]}), &[]);
        of_web(
            json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]}),
            &[NOTHING_OUT],
        );
    }

    #[test]
    fn peers() {
        let from = |peers: Value| json!({"ingress": [{"from": peers}]});
        let some = |who: &str| format!("Info: NetworkPolicy shop/p: lets TCP 15008 in from {who} alone, to web");
        of_web(from(json!([{"namespaceSelector": {}}])), &[]);
        of_web(from(json!([{"namespaceSelector": {}, "podSelector": {}}])), &[]);
        of_web(from(json!([{"podSelector": {}}])), &[&some("pods every one of its namespace")]);
        of_web(
            from(json!([{"podSelector": {"matchLabels": {"app": "cart"}}}])),
            &[&some("pods app=cart of its namespace")],
        );
        of_web(
            from(
                json!([{"namespaceSelector": {"matchLabels": {"a": "1"}}, "podSelector": {"matchLabels": {"b": "2"}}}]),
            ),
            &[&some("pods b=2 of namespaces a=1")],
        );
        of_web(
            from(json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}])),
            &[&some("addresses 10.0.0.0/8 without 10.1.0.0/16")],
        );
        of_web(
            json!({"policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"a": "1"}}}]}]}),
            &["Info: NetworkPolicy shop/p: lets TCP 15008 out to namespaces a=1 alone, from web"],
        );
        // A rule about another port does not open this one.
        of_web(
            json!({"ingress": [{"ports": [{"port": 8080}]}, {"ports": [{"port": 15008}], "from": [{"podSelector": {}}]}]}),
            &[&some("pods every one of its namespace")],
        );
    }

    #[test]
    fn a_pod_is_open_for_what_any_policy_lets_in() {
        let closed = policy("closed", "shop", None, json!({}));
        let open = policy("open", "shop", Some("web"), json!({"ingress": [{"ports": [{"port": 15008}]}]}));
        check(
            json!([closed, open]),
            &["Error: NetworkPolicy shop/closed: lets no TCP 15008 in, by which pods of the mesh reach cart"],
        );
        check(
            json!([closed, policy("other", "shop", None, json!({"ingress": [{"ports": [{"port": 80}]}]}))]),
            &[
                "Error: NetworkPolicy shop/closed, shop/other: lets no TCP 15008 in, by which pods of the mesh reach web, cart",
            ],
        );
    }

    #[test]
    fn policies_that_are_about_no_pod_of_the_mesh() {
        check(json!([policy("p", "elsewhere", None, json!({}))]), &[]);
        check(json!([policy("p", "shop", Some("unheard-of"), json!({}))]), &[]);
        let outside = |s: &mut Seen| {
            s.policies = parsed(json!([policy("p", "shop", Some("web"), json!({}))]));
            s.workloads[0].in_mesh = false;
        };
        check_with(outside, findings, &[]);
        let of_host = |s: &mut Seen| {
            s.policies = parsed(json!([policy("p", "shop", Some("web"), json!({}))]));
            s.pods[0].spec.host_network = true;
        };
        check_with(of_host, findings, &[]);
    }

    #[test]
    fn the_control_plane_is_called_from_nodes() {
        let of = |rules: Value| json!([policy("p", "mesh", None, json!({"ingress": rules}))]);
        let closed = [
            "Error: NetworkPolicy mesh/p: lets no TCP 15012 in from the network of nodes, from where agents ask the control plane",
            "Error: NetworkPolicy mesh/p: lets no TCP 15017 in from the network of nodes, from where the API server asks the control plane",
        ];
        check(of(json!([])), &closed);
        check(of(json!([{"from": [{"namespaceSelector": {}}]}])), &closed);
        check(of(json!([{"ports": [{"port": "grpc-xds"}, {"port": "https-webhook"}]}])), &[]);
        check(of(json!([{"ports": [{"port": 15012}]}])), &closed[1..]);
        check(of(json!([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])), &[]);
        check(of(json!([{}, {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])), &[]);
        check(
            of(json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])),
            &[
                "Info: NetworkPolicy mesh/p: lets TCP 15012 in from addresses 10.0.0.0/8 alone, to the control plane",
                "Info: NetworkPolicy mesh/p: lets TCP 15017 in from addresses 10.0.0.0/8 alone, to the control plane",
            ],
        );
    }
}
