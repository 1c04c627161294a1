//! The pods of a component of the mesh, read once: where each runs, what it runs, and what it waits for. For a command that asks
//! them.

use std::sync::Arc;

use underpass_core::{ObjectName, labels::Labels};

use crate::{
    client::{Call, Client, Collection, Error, is_name},
    daemon_set::Pod,
};

/// A pod of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentPod {
    /// namespace/name.
    pub name: ObjectName,
    /// Its node, or the one that it is for; none: not placed yet.
    pub node: Option<Arc<str>>,
    /// The image of its first container, as its object names it.
    pub image: Arc<str>,
    /// Its processes run.
    pub is_running: bool,
    /// Nothing: it is ready. Else what it waits for, in the words of the scheduler, the kubelet or its program; empty: not known.
    pub waits: Option<Arc<str>>,
    /// `metadata.creationTimestamp`.
    pub created: Arc<str>,
}

impl Client {
    /// The pods of a namespace with a label `key=value`, without those that are being deleted, by name.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn component(&self, namespace: &str, label: &str) -> Result<Vec<ComponentPod>, Error> {
        if !is_name(namespace) {
            return Err(Error::Name { name: namespace.into() });
        }
        let pods = self.labelled(namespace, label).await?;
        let here = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut all: Vec<ComponentPod> = here.map(|pod| ComponentPod::of(namespace, pod)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Every service account of the cluster, by name.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn service_accounts(&self) -> Result<Vec<ObjectName>, Error> {
        let mut all = self.names(Call::get(Collection::SERVICE_ACCOUNTS.all())).await?;
        all.sort();
        Ok(all)
    }

    /// The names of the pods of a namespace that have all of these labels.
    ///
    /// # Errors
    /// Where the API server gives no good answer.
    pub async fn pods_selected(&self, namespace: &str, labels: &Labels) -> Result<Vec<ObjectName>, Error> {
        if !is_name(namespace) {
            return Err(Error::Name { name: namespace.into() });
        }
        let selector = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        self.names(Call::get(Collection::PODS.within(namespace)).with("labelSelector", &selector)).await
    }
}

impl ComponentPod {
    fn of(namespace: &str, pod: &Pod) -> Self {
        Self {
            name: ObjectName::new(namespace, &*pod.metadata.name),
            node: pod.node().map(Arc::from),
            image: pod.spec.containers.first().map(|container| container.image.as_str()).unwrap_or_default().into(),
            is_running: pod.status.phase == "Running",
            waits: pod.waits(),
            created: pod.metadata.creation_timestamp.as_deref().unwrap_or_default().into(),
        }
    }

    /// Its `Ready` condition holds.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.waits.is_none()
    }
}
