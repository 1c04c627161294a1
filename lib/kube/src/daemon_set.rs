//! A DaemonSet and its pods, read once: which node has a ready one, and what each other one waits for. For work that is to be done once
//! on every node.
//!
//! What must hold: a pod counts for the DaemonSet that made it, by uid; another one of the same name, or of the same labels, is passed
//! over. A pod that no scheduler has placed still says for which node it is.

use std::sync::Arc;

use serde::Deserialize;
use underpass_core::ObjectName;

use crate::client::{Call, Client, Collection, Error, is_name};

/// Pods of one page: of tens of KiB each, where they have many containers.
const PODS: u32 = 50;

/// A DaemonSet as its controller knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonSet {
    /// The number of nodes that are to have a pod of it; none: its controller has not seen it yet.
    pub wanted: Option<usize>,
    /// Its pods that are not being deleted.
    pub pods: Vec<DaemonPod>,
}

/// A pod of a DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonPod {
    /// Its node, or the one that it is for.
    pub node: Arc<str>,
    /// Nothing: it is ready. Else what it waits for, in the words of the scheduler, the kubelet or its program; empty: not known.
    pub waits: Option<Arc<str>>,
}

impl Client {
    /// A DaemonSet and its pods as they are now; none: there is no such DaemonSet.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn daemon_set(&self, name: &ObjectName) -> Result<Option<DaemonSet>, Error> {
        for part in [name.namespace(), name.name()] {
            if !is_name(part) {
                return Err(Error::Name { name: part.into() });
            }
        }
        let call = Call::get(Collection::DAEMON_SETS.one(name.namespace(), name.name()));
        let found: Shape = match self.json(&call).await {
            Ok(found) => found,
            Err(e) if e.status() == Some(404) => return Ok(None),
            Err(e) => return Err(e),
        };
        let is_seen = found.status.observed_generation.is_some_and(|seen| seen >= found.metadata.generation);
        let wanted = is_seen.then_some(found.status.desired_number_scheduled);
        let pods = self.pods_of(name.namespace(), &found).await?;
        Ok(Some(DaemonSet { wanted, pods }))
    }

    async fn pods_of(&self, namespace: &str, of: &Shape) -> Result<Vec<DaemonPod>, Error> {
        let labels = of.spec.selector.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let selector = labels.collect::<Vec<_>>().join(",");
        let pods = self.labelled(namespace, &selector).await?;
        Ok(pods.iter().filter_map(|pod| pod.of(&of.metadata.uid)).collect())
    }

    /// The pods of a namespace with these labels. The namespace is a name.
    pub(crate) async fn labelled(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, Error> {
        let call = Call::get(Collection::PODS.within(namespace)).with("labelSelector", selector);
        self.pages(call, PODS).await
    }
}

#[derive(Deserialize)]
struct Shape {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    #[serde(default)]
    generation: i64,
}

#[derive(Deserialize)]
struct Spec {
    selector: Selector,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    match_labels: std::collections::BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: Option<i64>,
    desired_number_scheduled: usize,
}

/// What is read of a pod.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: PodMetadata,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodMetadata {
    pub(crate) name: Arc<str>,
    pub(crate) creation_timestamp: Option<String>,
    owner_references: Vec<Owner>,
    pub(crate) deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    node_name: Option<String>,
    pub(crate) containers: Vec<ContainerSpec>,
    affinity: Affinity,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerSpec {
    pub(crate) image: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: NodeAffinity,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: NodeSelector,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector {
    node_selector_terms: Vec<Term>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Term {
    match_fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    key: String,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: String,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<Container>,
    container_statuses: Vec<Container>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    state: State,
    last_state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    waiting: Option<Said>,
    terminated: Option<Said>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    reason: Option<String>,
    message: Option<String>,
    exit_code: i32,
}

impl Pod {
    /// What it is for the DaemonSet with this uid; none: it is another's, or on its way out.
    fn of(&self, owner: &str) -> Option<DaemonPod> {
        let is_its = self.metadata.owner_references.iter().any(|reference| reference.uid == owner);
        if !is_its || self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        Some(DaemonPod { node: self.node()?.into(), waits: self.waits() })
    }

    /// Its node, or the one that it is for.
    pub(crate) fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref().or_else(|| self.intended())
    }

    /// As [`DaemonPod::waits`].
    pub(crate) fn waits(&self) -> Option<Arc<str>> {
        let is = |kind: &str, status: &str| {
            self.status.conditions.iter().find(|condition| condition.r#type == kind && condition.status == status)
        };
        if is("Ready", "True").is_some() {
            return None;
        }
        Some(match is("PodScheduled", "False") {
            Some(unplaced) => unplaced.message.as_deref().unwrap_or_default().into(),
            None => self.failing().unwrap_or_default().into(),
        })
    }

    /// The node that a DaemonSet's controller made it for: the scheduler places it there alone.
    fn intended(&self) -> Option<&str> {
        let terms = &self.spec.affinity.node_affinity.required.node_selector_terms;
        let mut fields = terms.iter().flat_map(|term| &term.match_fields);
        fields.find(|field| field.key == "metadata.name")?.values.first().map(String::as_str)
    }

    /// Why a container of it does not run: what its program said at its end, before what the kubelet says of it.
    fn failing(&self) -> Option<String> {
        let all = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        all.filter_map(|container| {
            let ended =
                [&container.state, &container.last_state].into_iter().find_map(|state| state.terminated.as_ref());
            let ended = ended.filter(|ended| ended.exit_code != 0);
            [ended, container.state.waiting.as_ref()].into_iter().flatten().find_map(Said::text)
        })
        .next()
    }
}

impl Said {
    /// In one line; none: nothing that says more than that it begins.
    fn text(&self) -> Option<String> {
        let reason = self.reason.as_deref().filter(|reason| *reason != "PodInitializing");
        let message = self.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
        message.or(reason).map(|text| text.replace(char::is_control, " "))
    }
}
