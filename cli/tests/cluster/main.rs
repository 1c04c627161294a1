//! The command against a cluster: agents on several nodes, asked through an API server that forwards their ports, and those that do
//! not answer.

mod ca;
mod fake;
#[path = "../support/mod.rs"]
mod support;

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use expect_test::expect;
use serde_json::{Value, json};
use underpass_telemetry::admin::{
    Method, Response, Router, StatusCode,
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
fn a_namespace_gets_the_label() {
    let namespace = |labels: Value| json!({"metadata": {"name": "shop", "resourceVersion": "7", "labels": labels}});
    let path = "/api/v1/namespaces/shop";
    let plain = Cluster::start().object(path, namespace(json!({"a": "b"})));
    plain.check(
        &["label", "namespace", "shop"],
        &expect![[r#"
        exit 0
        namespace/shop labeled
    "#]],
    );
    let patch = |value: Value| {
        let metadata = json!({"resourceVersion": "7", "labels": {"istio.io/dataplane-mode": value}});
        vec![("PATCH /api/v1/namespaces/shop".to_owned(), json!({"metadata": metadata}))]
    };
    assert_eq!(plain.written(), patch(json!("ambient")));
    plain.check(
        &["label", "namespace", "nowhere"],
        &expect![[r#"
        exit 1
        ! error: there is no namespace nowhere
    "#]],
    );
    let never = Cluster::start().object(path, namespace(json!({"a": "b"})));
    never.check(
        &["label", "namespace", "shop", "--remove"],
        &expect![[r#"
        exit 0
        namespace/shop not unlabeled: it has no such label
    "#]],
    );
    let other = Cluster::start().object(path, namespace(json!({"istio.io/dataplane-mode": "none"})));
    other.check(
        &["label", "namespace", "shop"],
        &expect![[r#"
        exit 1
        ! error: namespace shop has the label istio.io/dataplane-mode=none already; --overwrite replaces it with ambient
    "#]],
    );
    assert_eq!(other.written(), []);
    other.check(
        &["label", "ns", "shop", "--overwrite"],
        &expect![[r#"
        exit 0
        namespace/shop labeled
    "#]],
    );
    assert_eq!(other.written(), patch(json!("ambient")));
    let removed = Cluster::start().object(path, namespace(json!({"istio.io/dataplane-mode": "ambient"})));
    removed.check(
        &["label", "namespace", "shop"],
        &expect![[r#"
        exit 0
        namespace/shop not labeled: it has the label
    "#]],
    );
    assert_eq!(removed.written(), []);
    removed.check(
        &["label", "namespace", "shop", "--remove"],
        &expect![[r#"
        exit 0
        namespace/shop unlabeled
    "#]],
    );
    assert_eq!(removed.written(), patch(Value::Null));
}

/// What was done is told, also where something else was not.
#[test]
fn of_several_namespaces_each_outcome_is_told() {
    let namespace = |name: &str| json!({"metadata": {"name": name, "resourceVersion": "7"}});
    let of = |name: &str| format!("/api/v1/namespaces/{name}");
    let cluster = Cluster::start().object(&of("a"), namespace("a")).object(&of("c"), namespace("c"));
    cluster.check(
        &["label", "namespace", "a", "b", "c"],
        &expect![[r#"
        exit 1
        namespace/a labeled
        namespace/c labeled
        ! error: there is no namespace b
    "#]],
    );
    let written: Vec<String> = cluster.written().into_iter().map(|(what, _)| what).collect();
    assert_eq!(written, ["a", "c"].map(|name| format!("PATCH {}", of(name))));
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
fn a_check_names_what_could_not_be_asked() {
    let list = |items: Value| json!({"metadata": {}, "items": items});
    let node = json!({"metadata": {"name": "node-1"}, "status": {
        "nodeInfo": {"kernelVersion": "5.10.0", "operatingSystem": "linux", "architecture": "amd64", "containerRuntimeVersion": "containerd://2"},
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let cluster = Cluster::start()
        .object("/version", json!({"major": "1", "minor": "31", "gitVersion": "v1.31.0"}))
        .object("/api/v1/nodes", list(json!([node])))
        .object("/api/v1/pods", list(json!([])))
        .object("/apis/apps/v1/deployments", list(json!([])));
    let output = cluster.output(&["check", "-o", "json"]);
    assert_eq!(output.status.code(), Some(2), "{}", support::shown(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let subjects: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|f| json!([f["level"], f["subject"]])).collect();
    let expected = [
        ["error", "ConfigMaps istio-ca-root-cert"],
        ["error", "node node-1"],
        ["error", "the DaemonSets"],
        ["error", "the Secret cacerts"],
        ["error", "the namespaces"],
        ["error", "webhooks"],
        ["error", "your rights"],
        ["info", "the nodes"],
    ];
    assert_eq!(subjects, expected.map(|e| json!(e)), "{report:#}");
    assert_eq!(report["looked_at"], "Kubernetes v1.31.0, 1 node");
    let nothing = Cluster::start().output(&["check"]);
    assert_eq!(nothing.status.code(), Some(1), "{}", support::shown(&nothing));
    let unknown = cluster.output(&["check", "--node", "node-9"]);
    assert!(support::shown(&unknown).contains("there is no node node-9"), "{}", support::shown(&unknown));
}

/// What an installation lacks is named beside what its agents say.
#[test]
fn an_installation_is_verified_as_a_whole() {
    let list = |items: Value| json!({"metadata": {}, "items": items});
    let rollout = json!({"metadata": {"name": "underpass-agent", "generation": 1}, "status": {"observedGeneration": 1,
        "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2}});
    let control = json!({"metadata": {"name": "underpass-control", "generation": 1}, "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "updatedReplicas": 1}});
    let pod = json!({"metadata": {"name": "cart", "namespace": "shop", "labels": {"app": "cart"}}, "status": {"phase": "Running"}});
    let policy = json!({"metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {}}});
    let (deployments, sets) = (
        "/apis/apps/v1/namespaces/underpass-system/deployments",
        "/apis/apps/v1/namespaces/underpass-system/daemonsets",
    );
    let cluster = two_nodes()
        .object("/version", json!({"major": "1", "minor": "31", "gitVersion": "v1.31.0"}))
        .object("/api/v1/nodes", list(json!([])))
        .object("/api/v1/pods", list(json!([pod])))
        .object("/api/v1/configmaps", list(json!([])))
        .object(deployments, list(json!([control])))
        .object(sets, list(json!([rollout])))
        .object("/apis/networking.k8s.io/v1/networkpolicies", list(json!([policy])))
        .object("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", list(json!([])));
    cluster.check(
        &["verify"],
        &expect![[r#"
            exit 2
            error: ConfigMap underpass-system/istio-ca-root-cert: it does not exist, or is another owner's: agents have no root to know the control plane by
              = help: the control plane writes it: see its log; another owner's has to go first
            error: Deployment underpass-system/underpass-control: of its 1 pods 1 are of its newest version, and 0 available
              = help: kubectl -n underpass-system rollout status deployment/underpass-control; kubectl describe names what a pod waits for
            error: NetworkPolicy shop/closed: lets no TCP 15008 in, by which pods of the mesh reach cart
              = help: add to spec.ingress, with the `from` of your rules: {ports: [{protocol: TCP, port: 15008}]}
            warning: CustomResourceDefinition authorizationpolicies.security.istio.io, CustomResourceDefinition peerauthentications.security.istio.io: it does not exist: no policy of this kind can be written
              = help: underpass crd apply
            namespace underpass-system: control plane 0, agents 2, pods in the mesh 2: 3 errors, 2 warnings
        "#]],
    );
}

/// Without the pods that its agent would tell of nothing is known to be sound.
#[test]
fn an_agent_without_its_pods_is_a_finding_of_verify() {
    let silent = |node| {
        let router = answers(Router::new(), "/status", status(node));
        Port::Serves(router.route(Method::GET, "/workloads", |_| {
            std::future::ready(Response::error(StatusCode::INTERNAL_SERVER_ERROR, "it is broken"))
        }))
    };
    let found = |cluster: Cluster| {
        let cluster = cluster.object("/version", json!({"major": "1", "minor": "31", "gitVersion": "v1.31.0"}));
        let output = cluster.output(&["verify", "-o", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of_pods = |f: &&Value| f["level"] == "error" && f["subject"] == "the pods of the mesh";
        let found: Vec<Value> = report["findings"].as_array().unwrap().iter().filter(of_pods).cloned().collect();
        assert_eq!((output.status.code(), found.len()), (Some(2), 1), "{report:#}");
        found[0]["found"].as_str().unwrap().to_owned()
    };
    let all = found(Cluster::start().agent("node-1", silent("node-1")));
    assert!(all.contains("it is broken"), "{all}");
    let one = found(Cluster::start().agent("node-1", silent("node-1")).agent("node-2", agent("node-2")));
    assert!(one.contains("node-1") && one.contains("it is broken"), "{one}");
}

#[test]
fn nothing_is_injected() {
    let output = support::command(&["kube-inject", "-f", "mesh/policy.yaml"]).output().unwrap();
    let want = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mesh/policy.yaml")).unwrap();
    assert_eq!(output.stdout, want);
    assert!(output.status.success() && !output.stderr.is_empty());
}
