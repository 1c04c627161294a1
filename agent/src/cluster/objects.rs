//! The door of this node's pods and of the namespaces: what the API server has becomes updates, for the keeper, and is kept on the node.
//! Where it does not answer, what an earlier agent of the node had is served.
//!
//! What must hold: the first update of the API server has everything, so what was kept and is not in it is gone.

use std::{
    convert::Infallible,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use underpass_core::objects::{Batch, Object};
use underpass_door::Update;
use underpass_keeper::Feed;
use underpass_telemetry::metrics::IntGauge;

use super::cache::{Records, objects as kept};

/// Hands updates on.
#[derive(Debug)]
pub(super) struct ObjectsDoor {
    feed: Feed,
    records: Records,
    cached: IntGauge,
    /// What was kept, and when that changed last, until the API server has answered.
    kept: Mutex<Option<(Vec<Object>, SystemTime)>>,
    answered: AtomicBool,
    /// The time for an answer.
    patience: Duration,
}

impl ObjectsDoor {
    /// With what was kept, and when that changed last.
    pub(super) fn new(
        kept: Option<(Vec<Object>, SystemTime)>,
        records: Records,
        (feed, cached): (Feed, IntGauge),
        patience: Duration,
    ) -> Self {
        Self { feed, records, cached, kept: Mutex::new(kept), answered: AtomicBool::new(false), patience }
    }

    /// Hands on what the API server has.
    pub(super) fn take(&self, mut update: Update) {
        if let Some((before, _)) = self.lock().take() {
            kept::replace(&before, &mut update.batch);
            self.cached.set(0);
        }
        // An update without changes is one of problems; the first says that these are all.
        if !self.answered.swap(true, Ordering::Relaxed) || !update.batch.is_empty() {
            self.records.note(kept::changes(&update.batch));
        }
        self.feed.send(update);
    }

    /// Serves what was kept, once the API server has not answered in time.
    pub(super) async fn serve_when_late(&self) -> Infallible {
        tokio::time::sleep(self.patience).await;
        self.serve_kept();
        std::future::pending().await
    }

    /// Serves what was kept, but for an answer. Whether it is served.
    fn serve_kept(&self) -> bool {
        let kept = self.lock();
        let Some((objects, changed)) = &*kept else { return false };
        let changed_s_ago = changed.elapsed().unwrap_or_default().as_secs();
        tracing::warn!(
            changed_s_ago,
            "API server does not answer: the pods and namespaces that were kept on this node are served"
        );
        self.cached.set(1);
        let batch: Batch = objects.iter().cloned().collect();
        self.feed.send(Update { batch, ..Update::default() });
        true
    }

    /// A holder that panics ends the process.
    fn lock(&self) -> MutexGuard<'_, Option<(Vec<Object>, SystemTime)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;
    use underpass_core::{resolve::Sources, testing::pod, world::MeshSettings};
    use underpass_keeper::Keeper;
    use underpass_telemetry::{admin::Readiness, metrics::Registry};

    use super::*;
    use crate::cluster::cache::Meter;

    fn door(patience: Duration) -> (ObjectsDoor, Records, watch::Receiver<Sources>) {
        let (registry, ready) = (Registry::default(), Readiness::new());
        let mut keeper = Keeper::new(MeshSettings::default(), "node-1", &registry);
        let feed = keeper.door("API server", ready.gate("API server", "not read"));
        let sources = keeper.sources();
        drop(keeper.start().unwrap());
        let (cached, records) = (Meter::new(&registry).api_server, Records::unwritten());
        let kept = ["a/stays", "a/gone"].map(|name| Object::from(pod(name, "10.0.0.1")));
        let kept = Some((kept.to_vec(), SystemTime::UNIX_EPOCH));
        (ObjectsDoor::new(kept, records.clone(), (feed, cached), patience), records, sources)
    }

    fn names(sources: &Sources) -> Vec<String> {
        sources.objects().map(|(key, _)| key.name.to_string()).collect()
    }

    fn update(names: &[&str]) -> Update {
        let batch = names.iter().map(|name| Object::from(pod(name, "10.0.0.2"))).collect();
        Update { batch, ..Update::default() }
    }

    #[tokio::test]
    async fn kept_objects_are_served_until_the_api_server_answers() {
        let (door, records, mut sources) = door(Duration::ZERO);
        let door = Arc::new(door);
        let late = Arc::clone(&door);
        let late = tokio::spawn(async move { match late.serve_when_late().await {} });
        assert_eq!(names(&sources.wait_for(|s| !names(s).is_empty()).await.unwrap()), ["a/gone", "a/stays"]);
        assert_eq!((door.cached.get(), records.noted().len()), (1, 0));
        door.take(update(&["a/new", "a/stays"]));
        sources.wait_for(|s| names(s) == ["a/new", "a/stays"]).await.unwrap();
        assert_eq!(door.cached.get(), 0);
        let gone = records.noted().into_iter().filter(|(_, value)| value.is_none());
        assert_eq!(gone.map(|(key, _)| key).collect::<Vec<_>>(), [Box::from(&b"pod a/gone"[..])]);
        // From then on its updates are differences.
        door.take(update(&["a/more"]));
        sources.wait_for(|s| names(s) == ["a/more", "a/new", "a/stays"]).await.unwrap();
        assert!(records.noted().values().all(Option::is_some));
        late.abort();
    }

    #[tokio::test]
    async fn kept_objects_are_not_served_after_an_answer() {
        let (door, _, mut sources) = door(Duration::ZERO);
        door.take(update(&["a/stays"]));
        assert!(!door.serve_kept());
        sources.wait_for(|s| names(s) == ["a/stays"]).await.unwrap();
        assert_eq!(door.cached.get(), 0);
    }
}
