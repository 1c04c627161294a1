//! `underpass check` and `underpass verify` against an API server that says little.

use expect_test::expect;
use serde_json::{Value, json};
use underpass_telemetry::admin::{Method, Response, Router, StatusCode};

use crate::{
    agent, answers,
    fake::{Cluster, Port},
    status, support, two_nodes,
};

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
        ["error", "MutatingWebhookConfigurations"],
        ["error", "ValidatingWebhookConfigurations"],
        ["error", "node node-1"],
        ["error", "the DaemonSets"],
        ["error", "the Secret cacerts"],
        ["error", "the namespaces"],
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
