//! The list of namespaces whose pods wait for an agent, kept on the node for the CNI plugin.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use underpass_cni::namespaces::Namespaces;
use underpass_core::{
    Few, World,
    enrol::{decide, enrols},
    objects::Pod,
    resolve::Sources,
    world::MeshSettings,
};

/// The shortest time between two looks: a storm of changes costs no more.
const PAUSE: Duration = Duration::from_millis(200);
/// What stands for an address in the question whether a pod is to be in the mesh.
const ANY: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Keeps the list in this file, by the objects of the node. Not before a World is there: until then an earlier agent's counts.
pub(crate) async fn keep(path: PathBuf, mut sources: watch::Receiver<Sources>, mut world: watch::Receiver<Arc<World>>) {
    if world.wait_for(|world| world.version().0 > 0).await.is_err() {
        return;
    }
    let (mut written, mut failed) = (None, false);
    loop {
        let list = of(&sources.borrow_and_update(), world.borrow().settings());
        if written.as_ref() != Some(&list) {
            match list.write(&path) {
                Ok(()) => (written, failed) = (Some(list.clone()), false),
                // Tried again until it is written; said once.
                Err(error) if !failed => {
                    failed = true;
                    tracing::error!(%error, file = %path.display(), "writing the list of namespaces for the CNI plugin failed");
                }
                Err(_) => {}
            }
        }
        sleep(PAUSE).await;
        let is_written = written.as_ref() == Some(&list);
        if is_written && sources.changed().await.is_err() {
            return;
        }
    }
}

/// The namespaces that enrol, and those of single pods that are enrolled.
fn of(sources: &Sources, settings: &MeshSettings) -> Namespaces {
    let whole = sources.namespaces().filter(|namespace| enrols(namespace, settings));
    let mut enrolled: BTreeSet<String> = whole.map(|namespace| namespace.name.to_string()).collect();
    for pod in sources.pods() {
        let name = pod.name.namespace();
        if enrolled.contains(name) {
            continue;
        }
        let placed = Pod { addresses: Few::one(ANY), ..Pod::clone(pod) };
        if decide(&placed, sources.namespace(name).map(|namespace| &**namespace), settings).is_enrolled() {
            enrolled.insert(name.to_owned());
        }
    }
    Namespaces { enrolled }
}

#[cfg(test)]
mod tests {
    use underpass_core::testing::{ambient, labels, model, namespace, pod};

    use super::*;

    #[test]
    fn namespaces_that_enrol_and_those_of_enrolled_pods() {
        let mut shop = namespace("shop");
        shop.labels = labels("istio-injection=enabled");
        let model = model([
            shop.into(),
            namespace("other").into(),
            pod("shop/a", "").into(),
            pod("other/b", "10.0.0.2").into(),
            ambient("single/c", "", "").into(),
        ]);
        let list = of(model.sources(), &MeshSettings::default());
        assert_eq!(list.enrolled.into_iter().collect::<Vec<_>>(), ["shop", "single"]);
    }
}
