//! The command against a cluster: agents on several nodes, asked through an API server that forwards their ports, and those that do
//! not answer.

mod ca;
mod fake;
mod installation;
mod label;
#[path = "../support/mod.rs"]
mod support;

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use expect_test::expect;
use serde_json::{Value, json};
use underpass_telemetry::admin::{
    Method, Response, Router,
    view::{PodState, Workload},
};

use fake::{Cluster, Port};

fn answers(router: Router, path: &'static str, answer: Value) -> Router {
    router.route(Method::GET, path, move |_| std::future::ready(Response::json(&answer)))
}

fn status(node: &str) -> Value {
    json!({
        "version": "9.9.9", "node": node, "started_unix_s": 0, "world": 12, "objects": {"Pod": 3}, "waiting": [],
        "pods": {"by_state": {"enrolled": 1}, "problems": {}}, "connections": 4, "certificates": 1,
        "certificates_missing": 0, "first_expiry_unix_s": null, "authority_error": null,
        "problems": {"errors": 0, "warnings": 0, "notices": 0, "first": []},
        "control_plane": {"link": "connected", "complete": true, "version": 4711},
    })
}

/// Every agent knows all pods, and the state of its own.
fn workloads(node: &str) -> Vec<Workload> {
    let pod = |name: &str, of: &str, address: &str| Workload {
        namespace: "shop".into(),
        name: name.into(),
        node: Some(of.into()),
        addresses: vec![address.parse().unwrap()],
        in_mesh: true,
        because: "namespace label istio.io/dataplane-mode".into(),
        identity: Some(format!("spiffe://cluster.local/ns/shop/sa/{name}")),
        ready: true,
        state: (of == node).then(|| PodState { state: "enrolled".into(), problem: None }),
    };
    vec![pod("web", "node-1", "10.0.1.2"), pod("cart", "node-2", "10.0.2.2")]
}

/// The answers to `/workloads`, of all pods or those of a node.
fn pods(router: Router, all: Vec<Workload>) -> Router {
    router.route(Method::GET, "/workloads", move |request| {
        let node = request.query("node");
        let asked: Vec<&Workload> = all.iter().filter(|w| node.is_none() || w.node.as_deref() == node).collect();
        std::future::ready(Response::json(&asked))
    })
}

fn agent(node: &'static str) -> Port {
    let router = answers(Router::new(), "/status", status(node));
    let router = pods(router, workloads(node));
    let root = json!([{"name": "root-namespace", "values": ["mesh-root"], "source": "flag", "live": true}]);
    let router =
        answers(router, "/config", json!({"file": null, "settings": root, "needs_restart": [], "problem": null}));
    let certificates = json!([{"identity": format!("spiffe://cluster.local/ns/shop/sa/{}", if node == "node-1" { "web" } else { "cart" }),
        "state": "valid", "serial": node, "not_before_unix_s": null, "not_after_unix_s": null, "issuer": null, "error": null}]);
    let router = answers(router, "/certificates", certificates);
    let router = answers(router, "/policies", json!([]));
    let router = answers(router, "/logging", json!({"level": node}));
    let router = router.route(Method::GET, "/explain", move |request| {
        let source = request.query("source").unwrap_or_default().to_owned();
        let reason = format!("{node} was asked about {source}");
        let says = json!({"source": source, "destination": "", "path": "hbone", "verdict": "allow", "policy": null, "reason": reason, "steps": []});
        std::future::ready(Response::json(&says))
    });
    Port::Serves(router)
}

fn two_nodes() -> Cluster {
    Cluster::start().agent("node-1", agent("node-1")).agent("node-2", agent("node-2"))
}

#[test]
fn each_view_has_all_nodes() {
    let cluster = two_nodes();
    cluster.check(
        &["workloads"],
        &expect![[r#"
        exit 0
        NAMESPACE  NAME  NODE    ADDRESSES  READY  MESH  STATE
        shop       cart  node-2  10.0.2.2   yes    yes   enrolled
        shop       web   node-1  10.0.1.2   yes    yes   enrolled
    "#]],
    );
    cluster.check(
        &["certificates"],
        &expect![[r#"
        exit 0
        NODE    IDENTITY                                STATE  EXPIRES
        node-1  spiffe://cluster.local/ns/shop/sa/web   valid  -
        node-2  spiffe://cluster.local/ns/shop/sa/cart  valid  -
    "#]],
    );
    cluster.check(
        &["certificates", "--node", "node-2"],
        &expect![[r#"
        exit 0
        NODE    IDENTITY                                STATE  EXPIRES
        node-2  spiffe://cluster.local/ns/shop/sa/cart  valid  -
    "#]],
    );
    cluster.check(
        &["pc", "secret", "cart", "-o", "wide"],
        &expect![[r#"
        exit 0
        NODE    IDENTITY                                STATE  EXPIRES  ISSUED  SERIAL  ISSUER  PROBLEM
        node-2  spiffe://cluster.local/ns/shop/sa/cart  valid  -        -       node-2  -       -
    "#]],
    );
    cluster.check(
        &["policies"],
        &expect![[r#"
        exit 0
        no policies
    "#]],
    );
    cluster.check(
        &["proxy-status"],
        &expect![[r#"
        exit 0
        NODE    AGENT                                       VERSION  FACTS  CONTROL PLANE  LAST UPDATE  PROBLEMS
        node-1  underpass-system/underpass-agent-of-node-1  9.9.9    4711   connected      -            0
        node-2  underpass-system/underpass-agent-of-node-2  9.9.9    4711   connected      -            0
    "#]],
    );
    cluster.check(
        &["version"],
        &expect![[r#"
        exit 0
        client version: 0.1.0
        data plane version: 9.9.9 (2 agents)
        COMPONENT  NODE    POD                                         VERSION  READY  IMAGE
        agent      node-1  underpass-system/underpass-agent-of-node-1  9.9.9    yes    example.org/underpass:9.9.8
        agent      node-2  underpass-system/underpass-agent-of-node-2  9.9.9    yes    example.org/underpass:9.9.8
    "#]],
    );
    assert_eq!(cluster.output(&["status"]).status.code(), Some(0));
}

/// A pod moves from its own agent once, and those of nodes without one are in the one whole answer.
#[test]
fn one_agent_tells_the_pods_that_no_agent_has() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let agent = |node: &'static str| {
        let mut all = workloads(node);
        all.push(Workload { name: "far".into(), node: Some("node-9".into()), state: None, ..all[0].clone() });
        let asked = Arc::clone(&asked);
        let router = Router::new().route(Method::GET, "/workloads", move |request| {
            let of = request.query("node").map(str::to_owned);
            let said: Vec<_> = all.iter().filter(|w| of.is_none() || w.node == of).cloned().collect();
            asked.lock().unwrap().push((node, of, said.len()));
            std::future::ready(Response::json(&said))
        });
        Port::Serves(router)
    };
    let cluster = Cluster::start().agent("node-1", agent("node-1")).agent("node-2", agent("node-2"));
    cluster.check(
        &["workloads"],
        &expect![[r#"
        exit 0
        NAMESPACE  NAME  NODE    ADDRESSES  READY  MESH  STATE
        shop       cart  node-2  10.0.2.2   yes    yes   enrolled
        shop       far   node-9  10.0.1.2   yes    yes   -
        shop       web   node-1  10.0.1.2   yes    yes   enrolled
    "#]],
    );
    let mut asked = std::mem::take(&mut *asked.lock().unwrap());
    asked.sort();
    let of = |node: &str| Some(node.to_owned());
    assert_eq!(asked, [("node-1", None, 3), ("node-1", of("node-1"), 1), ("node-2", of("node-2"), 1)]);
}

/// Agents know the effect of a PeerAuthentication, and not the object.
#[test]
fn peer_authentications_are_the_api_servers() {
    let path = "/apis/security.istio.io/v1/peerauthentications";
    let policy = |namespace: &str, name: &str, selector: Value| json!({"metadata": {"name": name, "namespace": namespace, "resourceVersion": "3"}, "spec": {"mtls": {"mode": "STRICT"}, "selector": selector}});
    let cart = json!({"matchLabels": {"app": "cart"}});
    let items = json!([
        policy("shop", "strict", Value::Null),
        policy("shop", "cart", cart.clone()),
        policy("other", "cart", Value::Null),
        // the agents' root namespace, and the default of it
        policy("mesh-root", "all", Value::Null),
        policy("mesh-root", "ignored", cart),
        policy("istio-system", "few", Value::Null),
    ]);
    // One of the two pods is the mesh's.
    let labelled = json!([{"metadata": {"name": "cart", "namespace": "shop"}}, {"metadata": {"name": "alien", "namespace": "shop"}}]);
    let list = |items: Value| json!({"metadata": {"resourceVersion": "7"}, "items": items});
    let cluster = two_nodes().object(path, list(items)).object("/api/v1/namespaces/shop/pods", list(labelled));
    cluster.check(
        &["policies"],
        &expect![[r#"
            exit 0
            NAMESPACE     KIND                NAME     ACTION  APPLIES TO         SELECTS  NEEDS WAYPOINT
            istio-system  PeerAuthentication  few      STRICT  namespace          0        -
            mesh-root     PeerAuthentication  all      STRICT  mesh               2        -
            mesh-root     PeerAuthentication  ignored  STRICT  selector app=cart  0        -
            other         PeerAuthentication  cart     STRICT  namespace          0        -
            shop          PeerAuthentication  cart     STRICT  selector app=cart  1        -
            shop          PeerAuthentication  strict   STRICT  namespace          2        -
        "#]],
    );
    let unreadable = two_nodes().object(path, json!("no list"));
    let output = unreadable.output(&["policies"]);
    assert!(support::shown(&output).contains("cannot read PeerAuthentication"), "{}", support::shown(&output));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_node_of_the_pod_is_asked() {
    let cluster = two_nodes();
    for (source, want) in [
        ("shop/web", "node-1 was asked about shop/web"),
        ("shop/cart", "node-2 was asked about shop/cart"),
        // of the namespace of the kubeconfig's context
        ("cart", "node-2 was asked about shop/cart"),
        ("10.0.2.2", "node-2 was asked about 10.0.2.2"),
    ] {
        let output = cluster.output(&["explain", source, "cart:80"]);
        assert!(String::from_utf8_lossy(&output.stdout).contains(want), "{source}: {}", support::shown(&output));
    }
}

#[test]
fn what_is_about_one_agent_wants_its_node() {
    let cluster = two_nodes();
    cluster.check(
        &["log"],
        &expect![[r#"
        exit 1
        ! error: log is about one agent: name its node with --node, or the agent with --agent
    "#]],
    );
    cluster.check(
        &["log", "--node", "node-2"],
        &expect![[r#"
        exit 0
        node-2
    "#]],
    );
    cluster.check(&["log", "debug", "--node", "node-2"], &expect![[r#"
        exit 1
        ! error: changes are accepted over the agent's own socket alone: type kubectl exec -n underpass-system underpass-agent-of-node-2 -- underpass log debug
    "#]]);
    cluster.check(&["connections", "close", "7", "--node", "node-1"], &expect![[r#"
        exit 1
        ! error: changes are accepted over the agent's own socket alone: type kubectl exec -n underpass-system underpass-agent-of-node-1 -- underpass connections close 7
    "#]]);
    cluster.check(&["log", "--node", "node-9"], &expect![[r#"
        exit 1
        ! error: node node-9 has no agent in namespace underpass-system (nodes with one: node-1, node-2): its pods are not in the mesh; see kubectl get daemonset -n underpass-system
    "#]]);
}

#[test]
fn who_does_not_answer_is_named() {
    let cluster = two_nodes()
        .agent("node-3", Port::Refused("dial tcp4 127.0.0.1:15000: connect: connection refused\n"))
        .agent("node-4", Port::Forbidden)
        .pod(
            "underpass-agent",
            "underpass-agent-new",
            json!({"nodeName": "node-5"}),
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]}),
        );
    cluster.check(&["workloads"], &expect![[r#"
        exit 2
        NAMESPACE  NAME  NODE    ADDRESSES  READY  MESH  STATE
        shop       cart  node-2  10.0.2.2   yes    yes   enrolled
        shop       web   node-1  10.0.1.2   yes    yes   enrolled
        no answer: node node-3: agent underpass-system/underpass-agent-of-node-3: GET /workloads?node=node-3 on agent underpass-system/underpass-agent-of-node-3 on node-3: connection error: dial tcp4 127.0.0.1:15000: connect: connection refused; see kubectl logs -n underpass-system underpass-agent-of-node-3
        no answer: node node-4: agent underpass-system/underpass-agent-of-node-4: GET /api/v1/namespaces/underpass-system/pods/underpass-agent-of-node-4/portforward: 403 Forbidden: pods "underpass-agent-of-node-4" is forbidden: User "tester" cannot create resource "pods/portforward"; asking an agent needs the right to create and get pods/portforward in namespace underpass-system; or type kubectl exec -n underpass-system underpass-agent-of-node-4 -- underpass ...
        no answer: node node-5: agent underpass-system/underpass-agent-new: it does not run: no such image; see kubectl describe pod -n underpass-system underpass-agent-new
    "#]]);
    let output = cluster.output(&["workloads", "-o", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap().len(), 2, "{}", support::shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 3, "{}", support::shown(&output));
    // what all agents say alike is asked of another one
    assert_eq!(cluster.output(&["policies"]).status.code(), Some(0));
    let none = Cluster::start().agent("node-4", Port::Forbidden);
    assert_eq!(none.output(&["workloads"]).status.code(), Some(1));
    none.check(&["policies"], &expect![[r#"
        exit 1
        ! error: node node-4: agent underpass-system/underpass-agent-of-node-4: GET /api/v1/namespaces/underpass-system/pods/underpass-agent-of-node-4/portforward: 403 Forbidden: pods "underpass-agent-of-node-4" is forbidden: User "tester" cannot create resource "pods/portforward"; asking an agent needs the right to create and get pods/portforward in namespace underpass-system; or type kubectl exec -n underpass-system underpass-agent-of-node-4 -- underpass ...
    "#]]);
    Cluster::start().check(&["status"], &expect![[r#"
        exit 1
        ! error: no agent runs in namespace underpass-system: is Underpass installed there? --system-namespace names another one
    "#]]);
}

#[test]
fn a_silent_agent_is_waited_for_for_a_while() {
    let mut cluster = two_nodes();
    for node in ["node-3", "node-4", "node-5"] {
        cluster = cluster.agent(node, Port::Silent);
    }
    let begun = Instant::now();
    let output = cluster.output(&["status"]);
    // All of them together have the time of one.
    assert!(begun.elapsed().as_secs() < 25, "{:?}", begun.elapsed());
    let said = support::shown(&output);
    assert!(said.starts_with("exit 2\n") && said.contains("no answer: node node-5: agent underpass-system/"), "{said}");
    assert!(said.contains("no answer to GET /status within 10 s"), "{said}");
}

#[test]
fn without_agent_and_cluster_both_are_named() {
    let output = support::command(&["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = support::shown(&output);
    assert!(said.contains("no agent on this node") && said.contains("--kubeconfig"), "{said}");
    let output = support::command(&["version", "-o", "short"]).output().unwrap();
    assert!(support::shown(&output).starts_with("exit 0\nclient version: "), "{}", support::shown(&output));
}

/// A part that is not answered is a finding beside those of the others, and no reason to stop.
#[test]
fn nothing_is_injected() {
    let output = support::command(&["kube-inject", "-f", "mesh/policy.yaml"]).output().unwrap();
    let want = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mesh/policy.yaml")).unwrap();
    assert_eq!(output.stdout, want);
    assert!(output.status.success() && !output.stderr.is_empty());
}
