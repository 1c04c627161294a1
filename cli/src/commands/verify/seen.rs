//! What is read of an installation. A part without an answer is empty here, and a finding.

use underpass_config::definitions;
use underpass_kube::{
    pods::ComponentPod,
    survey::{
        network_policy::NetworkPolicy,
        objects::{ConfigMap, Node, PodSeen, WebhookConfiguration, Workload},
    },
    write::{DefinitionState, ROOT_CONFIG_MAP},
};
use underpass_telemetry::admin::view;

use super::super::{
    findings::{Finding, or_unasked},
    nodes::NodeStatus,
    webhooks::{self, Unanswered},
};
use crate::{
    agents::{Agents, Fleet, connect, runtime},
    args::Way,
    error::CliError,
    show,
    source::Source,
};

/// An installation.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its namespace.
    pub(super) namespace: String,
    /// Now, in seconds since the epoch.
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    /// The Deployments and DaemonSets of its namespace.
    pub(super) deployments: Vec<Workload>,
    pub(super) daemon_sets: Vec<Workload>,
    pub(super) control_pods: Vec<ComponentPod>,
    /// What every agent says of itself.
    pub(super) agents: Vec<NodeStatus>,
    /// Pods as the mesh knows them, each with what its own node's agent says.
    pub(super) workloads: Vec<view::Workload>,
    /// Pods as the API server has them: of the namespaces that are asked about, and of its own.
    pub(super) pods: Vec<PodSeen>,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) webhooks: Vec<WebhookConfiguration>,
    pub(super) roots: Vec<ConfigMap>,
    /// By name; none: it does not exist.
    pub(super) definitions: Vec<(String, Option<DefinitionState>)>,
    /// Webhooks without which no policy goes in, and that cannot answer.
    pub(super) unanswered: Vec<Unanswered>,
}

/// Reads everything; of pods and their policies those of one namespace, where one is named.
pub(super) fn read(way: &Way, only: Option<&str>) -> Result<(Seen, Vec<Finding>), CliError> {
    let mut findings = Vec::new();
    let mut seen = runtime()?.block_on(read_api_server(way, only, &mut findings))?;
    let (agents, workloads) = read_agents(way, only, &mut findings)?;
    (seen.agents, seen.workloads, seen.now) = (agents, workloads, show::unix_s());
    Ok((seen, findings))
}

async fn read_api_server(way: &Way, only: Option<&str>, findings: &mut Vec<Finding>) -> Result<Seen, CliError> {
    let client = connect(&way.cluster).await?;
    let namespace = way.system_namespace();
    // The first question also tells whether there is a cluster at all.
    client.server_version().await.map_err(|e| CliError::api_server(e, "get /version".to_owned()))?;
    let own = Some(namespace);
    let (nodes, deployments, daemon_sets, control_pods) = tokio::join!(
        client.nodes(),
        client.deployments(own),
        client.daemon_sets(own),
        client.component(namespace, "app.kubernetes.io/name=underpass-control"),
    );
    let (pods, policies, webhooks, roots) = tokio::join!(
        client.pods(only),
        client.network_policies(only),
        client.validating_webhooks(),
        client.root_config_maps(),
    );
    let mut pods = or_unasked(pods, "the pods", "list pods", findings);
    let mut policies = or_unasked(policies, "NetworkPolicies", "list networkpolicies", findings);
    if only.is_some_and(|only| only != namespace) {
        let right = format!("list pods and networkpolicies in namespace {namespace}");
        pods.extend(or_unasked(client.pods(own).await, "the pods", &right, findings));
        policies.extend(or_unasked(client.network_policies(own).await, "NetworkPolicies", &right, findings));
    }
    let mut definitions = Vec::new();
    for definition in definitions::all() {
        match client.definition(&definition.name).await {
            Ok(found) => definitions.push((definition.name, found.map(|found| found.state))),
            Err(e) => findings.push(Finding::unasked(definition.name, &e, "get customresourcedefinitions")),
        }
    }
    let webhooks =
        or_unasked(webhooks, "ValidatingWebhookConfigurations", "list validatingwebhookconfigurations", findings);
    let unanswered = webhooks::unanswered(&client, &webhooks, findings).await;
    let in_own = |what: &str| format!("list {what} in namespace {namespace}");
    Ok(Seen {
        namespace: namespace.to_owned(),
        now: 0,
        nodes: or_unasked(nodes, "the nodes", "list nodes", findings),
        deployments: or_unasked(deployments, "the Deployments", &in_own("deployments"), findings),
        daemon_sets: or_unasked(daemon_sets, "the DaemonSets", &in_own("daemonsets"), findings),
        control_pods: or_unasked(control_pods, "the control plane's pods", &in_own("pods"), findings),
        agents: Vec::new(),
        workloads: Vec::new(),
        pods,
        policies,
        webhooks,
        roots: or_unasked(roots, &format!("ConfigMaps {ROOT_CONFIG_MAP}"), "list configmaps", findings),
        definitions,
        unanswered,
    })
}

/// What agents say of themselves and of pods. That there is none is said by what is absent.
fn read_agents(
    way: &Way,
    only: Option<&str>,
    findings: &mut Vec<Finding>,
) -> Result<(Vec<NodeStatus>, Vec<view::Workload>), CliError> {
    let fleet = Fleet::open(way)?;
    let agents = match fleet.every("/status") {
        Ok(said) => NodeStatus::all(said),
        Err(CliError::NoAgents { .. }) => return Ok((Vec::new(), Vec::new())),
        Err(e) => {
            findings.push(Finding::error("the agents", e.to_string(), "ask again; nothing is known about them"));
            return Ok((Vec::new(), Vec::new()));
        }
    };
    let subject = "the pods of the mesh";
    let mut workloads = match Source::Agents(Agents::Cluster(Box::new(fleet))).workloads() {
        Ok(found) => {
            // One that gives no answer at all is named by its status too.
            let remedy = "ask again; what this agent would say of its pods is not known";
            findings.extend(found.silent.into_iter().map(|silent| Finding::error(subject, silent, remedy)));
            found.all
        }
        Err(e) => {
            findings.push(Finding::error(subject, e.to_string(), "ask again; nothing is known about them"));
            Vec::new()
        }
    };
    workloads.retain(|workload| only.is_none_or(|only| workload.namespace == only));
    Ok((agents, workloads))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::commands::nodes::tests::{node, status};

    pub(crate) fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// An installation in which nothing is wrong: two nodes, one pod in the mesh on each.
    pub(crate) fn sound() -> Seen {
        let machine = |name: &str| {
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}, "status": {
                "nodeInfo": {"operatingSystem": "linux"}, "conditions": [{"type": "Ready", "status": "True"}]}})
        };
        let pod = |namespace: &str, name: &str, labels: Value, ports: Value| {
            json!({"metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running"}})
        };
        let control = json!({"app.kubernetes.io/name": "underpass-control"});
        let ports =
            json!([{"name": "grpc-xds", "containerPort": 15012}, {"name": "https-webhook", "containerPort": 15017}]);
        let roots = |namespace: &str| {
            json!({"metadata": {"namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "underpass"}},
                "data": {"root-cert.pem": ROOT}})
        };
        let bundle = [("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", BUNDLE)];
        assert_eq!(bundle[0].0, ROOT);
        Seen {
            namespace: "mesh".into(),
            now: 1_200,
            nodes: parsed(json!([machine("n-1"), machine("n-2")])),
            deployments: parsed(
                json!([{"metadata": {"name": "underpass-control", "namespace": "mesh", "generation": 1},
                "spec": {"replicas": 1}, "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}}]),
            ),
            daemon_sets: parsed(json!([{"metadata": {"name": "underpass-agent", "namespace": "mesh", "generation": 1},
                "spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}},
                "status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2}}])),
            control_pods: vec![ComponentPod {
                name: underpass_core::ObjectName::new("mesh", "underpass-control-1"),
                node: Some("n-1".into()),
                image: "localhost/underpass:1".into(),
                is_running: true,
                waits: None,
                created: "".into(),
            }],
            agents: vec![node("n-1", Some(status("n-1"))), node("n-2", Some(status("n-2")))],
            workloads: vec![workload("web", "n-1", Some("enrolled")), workload("cart", "n-2", Some("enrolled"))],
            pods: parsed(json!([
                pod("shop", "web", json!({"app": "web"}), json!([{"name": "http", "containerPort": 8080}])),
                pod("shop", "cart", json!({"app": "cart"}), json!([])),
                pod("mesh", "underpass-control-1", control, ports),
            ])),
            policies: Vec::new(),
            webhooks: parsed(json!([{"metadata": {"name": "underpass"}, "webhooks": [
                {"name": "policies.underpass.dev", "clientConfig": {"caBundle": BUNDLE}}]}])),
            roots: parsed(json!([roots("shop"), roots("mesh")])),
            definitions: vec![("a.security.istio.io".into(), Some(DefinitionState::Established))],
            unanswered: Vec::new(),
        }
    }

    const ROOT: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    /// The same in base64.
    const BUNDLE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

    pub(crate) fn workload(name: &str, node: &str, state: Option<&str>) -> view::Workload {
        crate::source::tests::workload(&format!("shop/{name}"), node, state)
    }

    /// Each finding as `level: subject: found`, by level; of an installation with this change.
    pub(crate) fn check(change: impl FnOnce(&mut Seen), of: fn(&Seen) -> Vec<Finding>, expected: &[&str]) {
        let mut seen = sound();
        change(&mut seen);
        let mut findings = of(&seen);
        findings.sort();
        assert!(findings.iter().all(|f| !f.remedy.is_empty()), "{findings:?}");
        let lines: Vec<String> =
            findings.iter().map(|f| format!("{:?}: {}: {}", f.level, f.subject, f.found)).collect();
        assert_eq!(lines, expected);
    }
}
