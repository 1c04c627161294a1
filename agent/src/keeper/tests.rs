//! What the keeper publishes, and when.

use std::time::Duration;

use underpass_core::{
    objects::Batch,
    testing::{ambient, namespace, pod},
};
use underpass_telemetry::admin::Readiness;

use super::*;

/// One generous deadline.
const DEADLINE: Duration = Duration::from_secs(60);

fn update(batch: Batch) -> Update {
    Update { batch, ..Update::default() }
}

async fn changed<T>(seen: &mut watch::Receiver<T>) {
    tokio::time::timeout(DEADLINE, seen.changed()).await.expect("in time").expect("the keeper runs");
}

#[tokio::test]
async fn worlds_are_published_in_order_and_empty_changes_are_not() {
    let ready = Readiness::new();
    let mut keeper = Keeper::new(MeshSettings::default(), "node-1", &Registry::default());
    let manifests = keeper.door("manifests", ready.gate("manifests", "not read yet"));
    let (mut world, reports) = (keeper.world(), keeper.reports());
    let thread = tokio::spawn(keeper.start().expect("a thread"));
    let version = |w: &watch::Receiver<Arc<World>>| w.borrow().version().0;
    assert_eq!(ready.waiting().len(), 1);

    manifests.send(update(Batch::default()));
    changed(&mut world).await;
    assert_eq!(version(&world), 1, "nothing is something to know");

    let mut batch = Batch::default();
    batch.put(pod("default/a", "10.0.0.1"));
    manifests.send(update(Batch::default()));
    manifests.send(update(batch.clone()));
    changed(&mut world).await;
    assert_eq!((version(&world), world.borrow_and_update().workloads().count()), (2, 1));
    // An equal put, and an object that nothing follows from.
    batch.put(namespace("other"));
    manifests.send(update(batch));
    manifests.send(update([ambient("default/b", "10.0.0.2", "").into()].into_iter().collect()));
    changed(&mut world).await;
    assert_eq!(world.borrow_and_update().workloads().count(), 2);
    assert!(ready.waiting().is_empty());
    assert!(reports.borrow()["manifests"].problems.is_empty());

    drop(manifests);
    thread.await.unwrap();
    assert_eq!(ready.waiting(), [("manifests", "it has ended".to_owned())]);
}
