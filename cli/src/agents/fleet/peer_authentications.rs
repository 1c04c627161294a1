//! The PeerAuthentications of a cluster. Its agents know them by their effect alone, so the objects are the API server's; the root
//! namespace and the pods of the mesh are as an agent has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_core::{
    Kind, ObjectName, labels::Labels, objects::PeerAuthentication, resolve::Model, world::MeshSettings,
};
use underpass_kube::Client;
use underpass_telemetry::admin::view::{self, Policy, Settings, Workload};

use super::Fleet;
use crate::{agents::at_once::at_once, error::CliError, live};

impl Fleet {
    /// The PeerAuthentications of the cluster, by name.
    pub(crate) fn peer_authentications(&self) -> Result<Vec<Policy>, CliError> {
        self.runtime.block_on(async {
            let objects = live::objects(&self.client, [Kind::PeerAuthentication]).await?;
            let agents = self.agents().await?;
            let root = root_namespace(self.first(&agents, "/config").await?)?;
            let mut model = Model::empty(MeshSettings { root_namespace: Arc::clone(&root), ..MeshSettings::default() });
            model.apply(&objects.batch);
            let mut all = view::policies(model.world(), model.sources());
            if all.is_empty() {
                return Ok(all);
            }
            let pods = Arc::new(in_mesh(self.first(&agents, "/workloads").await?));
            let counts = at_once(model.sources().peer_authentications().cloned(), |policy| {
                let (client, pods, root) = (self.client.clone(), Arc::clone(&pods), Arc::clone(&root));
                async move {
                    let count = selects(&client, &policy, &root, &pods).await?;
                    Ok::<_, CliError>((policy.name.clone(), count))
                }
            });
            let counts = counts.await.into_iter().collect::<Result<BTreeMap<_, _>, _>>()?;
            for policy in &mut all {
                let name = ObjectName::new(&*policy.namespace, &*policy.name);
                policy.selects = counts.get(&name).copied().unwrap_or_default();
            }
            Ok(all)
        })
    }
}

fn root_namespace(settings: Settings) -> Result<Arc<str>, CliError> {
    let root = settings.settings.into_iter().find(|setting| setting.name == "root-namespace");
    let root = root.and_then(|setting| setting.values.into_iter().next());
    let says = || "the agent's settings have no root-namespace: is it of the same version as this command?".to_owned();
    root.map(Arc::from).ok_or_else(|| CliError::NotFound { says: says() })
}

fn in_mesh(all: Vec<Workload>) -> BTreeSet<ObjectName> {
    all.into_iter().filter(|w| w.in_mesh).map(|w| ObjectName::new(w.namespace, w.name)).collect()
}

/// The number of `pods`, those of the mesh, that a policy selects. For a selector the API server is asked: an agent tells no labels.
async fn selects(
    client: &Client,
    policy: &PeerAuthentication,
    root: &str,
    pods: &BTreeSet<ObjectName>,
) -> Result<usize, CliError> {
    let namespace = policy.name.namespace();
    match &policy.selector {
        None if namespace == root => Ok(pods.len()),
        None => Ok(pods.iter().filter(|pod| pod.namespace() == namespace).count()),
        // It is ignored there, and a finding says so.
        Some(_) if namespace == root => Ok(0),
        Some(labels) => selected(client, namespace, labels, pods).await,
    }
}

async fn selected(
    client: &Client,
    namespace: &str,
    labels: &Labels,
    pods: &BTreeSet<ObjectName>,
) -> Result<usize, CliError> {
    let found = client.pods_selected(namespace, labels).await;
    let found = found.map_err(|e| CliError::api_server(e, format!("list pods in namespace {namespace}")))?;
    Ok(found.iter().filter(|pod| pods.contains(*pod)).count())
}
