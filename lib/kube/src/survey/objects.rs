//! What is read of the objects of a cluster: as the API server writes them, without the fields that nothing asks for.

use std::collections::BTreeMap;

use serde::Deserialize;
use underpass_core::ObjectName;

use super::selector::{Labels, Selector};
use crate::write::{FIELD_MANAGER, MANAGED_BY};

/// Names and labels of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace; empty: it has none.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    generation: i64,
    deletion_timestamp: Option<String>,
}

impl Metadata {
    /// namespace/name.
    #[must_use]
    pub fn object(&self) -> ObjectName {
        ObjectName::new(&*self.namespace, &*self.name)
    }

    /// It is ours by its label.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.labels.get(MANAGED_BY).is_some_and(|by| by == FIELD_MANAGER)
    }

    /// It is being deleted.
    #[must_use]
    pub const fn is_going(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}

/// An object of which its labels count alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Labelled {
    /// Its labels.
    pub metadata: Metadata,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What its kubelet says.
    pub status: NodeStatus,
}

/// What a kubelet says of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Its system.
    pub node_info: NodeInfo,
    conditions: Vec<Condition>,
}

/// The system of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    /// `6.1.0-18-amd64`.
    pub kernel_version: String,
    /// `linux`.
    pub operating_system: String,
    /// `amd64`.
    pub architecture: String,
    /// `containerd://2.1.4`.
    pub container_runtime_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

impl Node {
    /// Its condition `Ready` holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
    }
}

/// A Deployment or a DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// Its name and labels.
    pub metadata: Metadata,
    spec: WorkloadSpec,
    status: WorkloadStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct WorkloadSpec {
    replicas: Option<usize>,
    template: Template,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Template {
    spec: PodSpec,
}

/// Of both kinds: each has fields of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WorkloadStatus {
    observed_generation: Option<i64>,
    updated_replicas: Option<usize>,
    available_replicas: usize,
    desired_number_scheduled: Option<usize>,
    updated_number_scheduled: Option<usize>,
    number_available: usize,
}

/// How far a workload's pods are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The pods that are to be.
    pub wanted: usize,
    /// Those of its newest version.
    pub updated: usize,
    /// Those that are ready, and have been for long enough.
    pub available: usize,
    /// Its controller has seen its newest version.
    pub is_seen: bool,
}

impl Rollout {
    /// Every pod is there, and of its newest version.
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.is_seen && self.updated == self.wanted && self.available >= self.wanted
    }
}

impl Workload {
    /// How far its pods are.
    #[must_use]
    pub fn rollout(&self) -> Rollout {
        let status = &self.status;
        let wanted = status.desired_number_scheduled.or(self.spec.replicas).unwrap_or(1);
        Rollout {
            wanted,
            updated: status.updated_replicas.or(status.updated_number_scheduled).unwrap_or(0),
            available: status.available_replicas.max(status.number_available),
            is_seen: status.observed_generation.is_some_and(|seen| seen >= self.metadata.generation),
        }
    }

    /// The labels of the nodes that its pods may be on.
    #[must_use]
    pub const fn node_selector(&self) -> &Labels {
        &self.spec.template.spec.node_selector
    }
}

/// A webhook's configuration, of those that change objects or those that judge them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WebhookConfiguration {
    /// Its name and labels.
    pub metadata: Metadata,
    /// Its entries.
    pub webhooks: Vec<Webhook>,
}

/// An entry of a webhook's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Webhook {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub client_config: ClientConfig,
    /// None: `Fail`.
    failure_policy: Option<String>,
    rules: Vec<WebhookRule>,
    object_selector: Selector,
    namespace_selector: Selector,
    match_conditions: Vec<MatchCondition>,
}

/// An expression of CEL that an object must meet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct MatchCondition {}

/// The objects of a kind that a webhook is asked about before they go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Those that are in some namespaces, have some labels, are new, or meet a condition.
    Some,
    /// Each, when it is created and when it is updated.
    All,
}

/// Objects that a webhook is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WebhookRule {
    api_groups: Vec<String>,
    /// Plurals.
    resources: Vec<String>,
    /// `CREATE`, `UPDATE` ...
    operations: Vec<String>,
    /// None: `*`.
    scope: Option<String>,
}

impl WebhookRule {
    /// It is about objects of this group and plural, which are in namespaces.
    fn is_about(&self, group: &str, plural: &str) -> bool {
        let has = |all: &[String], any: &[&str]| all.iter().any(|one| any.contains(&one.as_str()));
        has(&self.api_groups, &["*", group])
            && has(&self.resources, &["*", "*/*", plural])
            && self.scope.as_deref() != Some("Cluster")
    }

    fn has_operation(&self, operation: &str) -> bool {
        self.operations.iter().any(|one| one == "*" || one == operation)
    }
}

/// A Service by which a webhook is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceReference {
    namespace: String,
    name: String,
}

impl ServiceReference {
    /// namespace/name.
    #[must_use]
    pub fn object(&self) -> ObjectName {
        ObjectName::new(&*self.namespace, &*self.name)
    }
}

/// Where a webhook is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConfig {
    /// The roots by which the API server knows it, PEM in base64.
    ca_bundle: Option<k8s_openapi::ByteString>,
    /// Its Service; none: it has a URL.
    pub service: Option<ServiceReference>,
}

impl Webhook {
    /// The roots by which the API server knows it, certificates in PEM; empty: it has none.
    #[must_use]
    pub fn roots(&self) -> String {
        let bytes = self.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice());
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    }

    /// What it is asked about goes in where it does not answer.
    #[must_use]
    pub fn may_be_silent(&self) -> bool {
        self.failure_policy.as_deref() == Some("Ignore")
    }

    /// The objects in namespaces of this group and plural that it is asked about before they go in; none: it is not.
    #[must_use]
    pub fn reach(&self, group: &str, plural: &str) -> Option<Reach> {
        let rules = || self.rules.iter().filter(|rule| rule.is_about(group, plural));
        let [creates, updates] = ["CREATE", "UPDATE"].map(|of| rules().any(|rule| rule.has_operation(of)));
        let selects_all = self.object_selector.is_empty() && self.namespace_selector.is_empty();
        match (creates, updates) {
            (false, false) => None,
            (true, true) if selects_all && self.match_conditions.is_empty() => Some(Reach::All),
            _ => Some(Reach::Some),
        }
    }
}

/// A ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it has.
    pub data: BTreeMap<String, String>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodSeen {
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it is.
    pub spec: PodSpec,
    /// What its kubelet says.
    pub status: PodStatus,
}

/// What a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Its node; none: not placed yet.
    pub node_name: Option<String>,
    /// It has its node's network.
    pub host_network: bool,
    node_selector: Labels,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The ports that it names.
    pub ports: Vec<ContainerPort>,
}

/// A port that a container names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name; empty: it has none.
    pub name: String,
    /// Its number.
    pub container_port: u16,
    /// None: TCP.
    pub protocol: Option<String>,
}

/// What a kubelet says of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    /// `Running` ...
    pub phase: String,
}

impl PodSeen {
    /// All of its containers, those that run before the others too.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().chain(&self.spec.containers)
    }

    /// All of its containers have ended, and none is started again.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rollouts_of_both_kinds() {
        let check = |object: Value, wanted: usize, is_done: bool| {
            let rollout = serde_json::from_value::<Workload>(object.clone()).unwrap().rollout();
            assert_eq!((rollout.wanted, rollout.is_done()), (wanted, is_done), "{object}");
        };
        let deployment =
            |status: Value| json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
        check(deployment(json!({"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2})), 2, true);
        check(deployment(json!({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2})), 2, false);
        check(deployment(json!({"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2})), 2, false);
        check(deployment(json!({"observedGeneration": 2, "updatedReplicas": 2})), 2, false);
        let daemon_set = |updated: Value, available: usize| {
            json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "desiredNumberScheduled": 3,
                "updatedNumberScheduled": updated, "numberAvailable": available}})
        };
        check(daemon_set(json!(3), 3), 3, true);
        check(daemon_set(json!(3), 2), 3, false);
        check(daemon_set(Value::Null, 3), 3, false);
        check(
            json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "desiredNumberScheduled": 0}}),
            0,
            true,
        );
    }
}
