//! What is read of a cluster before an installation. A part without an answer is empty here, and a finding.

use std::{collections::BTreeMap, sync::Arc};

use underpass_config::definitions;
use underpass_core::ObjectName;
use underpass_identity::Cacerts;
use underpass_kube::{
    Client,
    survey::{
        ServerVersion,
        objects::{ConfigMap, Labelled, Node, PodSeen, WebhookConfiguration, Workload},
    },
    write::{DefinitionState, FoundDefinition, ROOT_CONFIG_MAP},
};

use super::{
    super::{
        findings::{Finding, or_unasked},
        webhooks::{self, Unanswered},
    },
    rights::{self, Denied},
};
use crate::error::CliError;

/// The ConfigMap of Cilium's settings, beside its DaemonSet.
const CILIUM: &str = "cilium-config";

/// A cluster.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The namespace of the installation.
    pub(super) namespace: String,
    pub(super) version: ServerVersion,
    pub(super) nodes: Vec<Node>,
    pub(super) namespaces: Vec<Labelled>,
    pub(super) deployments: Vec<Workload>,
    pub(super) daemon_sets: Vec<Workload>,
    pub(super) webhooks: Vec<WebhookConfiguration>,
    pub(super) roots: Vec<ConfigMap>,
    pub(super) pods: Vec<PodSeen>,
    /// Cilium's settings.
    pub(super) cilium: BTreeMap<String, String>,
    /// A CA is plugged in.
    pub(super) has_own_ca: bool,
    pub(super) definitions: Vec<Found>,
    /// Webhooks without which no policy goes in, and that cannot answer.
    pub(super) unanswered: Vec<Unanswered>,
    /// What the user may not do.
    pub(super) denied: Vec<Denied>,
}

/// A definition that is there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) name: String,
    /// None: it is ours.
    pub(super) owner: Option<Arc<str>>,
    pub(super) version: u32,
    pub(super) served: Vec<String>,
    pub(super) is_going: bool,
}

impl Found {
    fn new(name: String, found: FoundDefinition) -> Self {
        let is_going = found.state == DefinitionState::Deleting;
        Self { name, owner: found.owner, version: found.version, served: found.served, is_going }
    }
}

/// Reads everything that the API server can say, and a finding for each part that it does not.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    node: Option<&str>,
) -> Result<(Seen, Vec<Finding>), CliError> {
    // The first question also tells whether there is a cluster at all.
    let version = client.server_version().await.map_err(|e| CliError::api_server(e, "get /version".to_owned()))?;
    let mut findings = Vec::new();
    let own_ca = ObjectName::new(namespace, Cacerts::SECRET);
    let (nodes, namespaces, deployments, daemon_sets, webhooks, validating, roots, pods, has_own_ca) = tokio::join!(
        client.nodes(),
        client.namespaces(),
        client.deployments(None),
        client.daemon_sets(None),
        client.mutating_webhooks(),
        client.validating_webhooks(),
        client.root_config_maps(),
        client.pods(None),
        client.has_secret(&own_ca),
    );
    let mut nodes = or_unasked(nodes, "the nodes", "list nodes", &mut findings);
    if let Some(node) = node {
        nodes.retain(|one| one.metadata.name == node);
        if nodes.is_empty() {
            return Err(CliError::NotFound { says: format!("there is no node {node}") });
        }
    }
    let daemon_sets = or_unasked(daemon_sets, "the DaemonSets", "list daemonsets", &mut findings);
    let cilium = match daemon_sets.iter().find(|set| set.metadata.name == "cilium") {
        None => None,
        Some(set) => {
            let name = ObjectName::new(&*set.metadata.namespace, CILIUM);
            let right = format!("get the ConfigMap {name}");
            or_unasked(client.config_map(&name).await, "Cilium", &right, &mut findings)
        }
    };
    let mut definitions = Vec::new();
    for definition in definitions::all() {
        let found = client.definition(&definition.name).await;
        let found = or_unasked(found, &definition.name, "get customresourcedefinitions", &mut findings);
        definitions.extend(found.map(|found| Found::new(definition.name.clone(), found)));
    }
    let validating = or_unasked(
        validating,
        "ValidatingWebhookConfigurations",
        "list validatingwebhookconfigurations",
        &mut findings,
    );
    let seen = Seen {
        namespace: namespace.to_owned(),
        version,
        nodes,
        namespaces: or_unasked(namespaces, "the namespaces", "list namespaces", &mut findings),
        deployments: or_unasked(deployments, "the Deployments", "list deployments", &mut findings),
        daemon_sets,
        webhooks: or_unasked(
            webhooks,
            "MutatingWebhookConfigurations",
            "list mutatingwebhookconfigurations",
            &mut findings,
        ),
        roots: or_unasked(roots, &format!("ConfigMaps {ROOT_CONFIG_MAP}"), "list configmaps", &mut findings),
        pods: or_unasked(pods, "the pods", "list pods", &mut findings),
        cilium: cilium.map(|found| found.data).unwrap_or_default(),
        has_own_ca: or_unasked(has_own_ca, "the Secret cacerts", "list secrets", &mut findings),
        definitions,
        unanswered: webhooks::unanswered(client, &validating, &mut findings).await,
        denied: rights::read(client, namespace, &mut findings).await,
    };
    Ok((seen, findings))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A cluster in which nothing is wrong: two nodes.
    pub(crate) fn sound() -> Seen {
        let node = |name: &str| {
            json!({"metadata": {"name": name}, "status": {
                "nodeInfo": {"kernelVersion": "6.1.0-18-amd64", "operatingSystem": "linux", "architecture": "amd64",
                    "containerRuntimeVersion": "containerd://2.1.4"},
                "conditions": [{"type": "Ready", "status": "True"}]}})
        };
        Seen {
            namespace: "underpass-system".into(),
            version: parsed(json!({"major": "1", "minor": "30", "gitVersion": "v1.30.2"})),
            nodes: parsed(json!([node("n-1"), node("n-2")])),
            namespaces: parsed(json!([{"metadata": {"name": "default"}}])),
            deployments: Vec::new(),
            daemon_sets: Vec::new(),
            webhooks: Vec::new(),
            roots: Vec::new(),
            pods: Vec::new(),
            cilium: BTreeMap::new(),
            has_own_ca: false,
            definitions: Vec::new(),
            unanswered: Vec::new(),
            denied: Vec::new(),
        }
    }

    pub(crate) fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// Each finding as `level: subject: found`, by level.
    pub(crate) fn lines(mut findings: Vec<Finding>) -> Vec<String> {
        findings.sort();
        assert!(findings.iter().all(|f| !f.remedy.is_empty()), "{findings:?}");
        findings.iter().map(|f| format!("{:?}: {}: {}", f.level, f.subject, f.found)).collect()
    }
}
