//! The roots that everyone trusts, in the ConfigMap `istio-ca-root-cert` of every namespace. Every replica writes: what is there
//! already is left as it is, and another owner's is reported, never changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use underpass_core::resolve::Sources;
use underpass_identity::{Authority, certificate::pem};
use underpass_kube::{Client, write::RootConfigMap};

use super::source::Newest;
use crate::chain;

/// The pause before another try.
const AGAIN: Duration = Duration::from_secs(5);
/// The pause between two looks at what has changed: pods change far more often than namespaces.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// The interval between two looks at all of them: one may have been removed.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Writes the ConfigMaps for as long as it is polled.
pub async fn write(client: Client, mut authority: Newest, mut sources: watch::Receiver<Sources>) {
    let mut done: BTreeMap<Arc<str>, String> = BTreeMap::new();
    let mut foreign = BTreeSet::new();
    loop {
        let roots = text(&authority.borrow_and_update().clone());
        let namespaces = namespaces(&sources.borrow_and_update().clone());
        done.retain(|namespace, _| namespaces.contains(namespace));
        foreign.retain(|namespace| namespaces.contains(namespace));
        let mut failed = false;
        for namespace in &namespaces {
            if done.get(namespace) == Some(&roots) {
                continue;
            }
            match client.put_roots(namespace, &roots).await {
                Ok(RootConfigMap::Foreign { .. }) => {
                    if foreign.insert(Arc::clone(namespace)) {
                        tracing::warn!(%namespace, "ConfigMap istio-ca-root-cert is another owner's, left as it is");
                    }
                    done.insert(Arc::clone(namespace), roots.clone());
                }
                Ok(RootConfigMap::Written | RootConfigMap::Unchanged | RootConfigMap::NamespaceGone) => {
                    done.insert(Arc::clone(namespace), roots.clone());
                }
                Err(error) => {
                    tracing::warn!(%namespace, error = %chain(&error), "root certificates not written");
                    failed = true;
                    break;
                }
            }
        }
        tokio::select! {
            changed = authority.changed() => if changed.is_err() { return },
            changed = sources.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if failed => {}
            () = sleep(LOOK_AGAIN), if !failed => done.clear(),
        }
        sleep(LOOK_AT_MOST_EVERY).await;
    }
}

fn namespaces(sources: &Sources) -> BTreeSet<Arc<str>> {
    sources.namespaces().map(|namespace| namespace.name.name().into()).collect()
}

/// The roots, certificates in PEM.
pub(crate) fn text(authority: &Authority) -> String {
    authority.root_certificates().iter().map(|root| pem(root).to_string()).collect()
}
