//! The one task that owns the World: a door's changes go in, the next World is built aside, given a version and
//! published. Whoever reads has a whole World and never waits.

mod published;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use underpass_config::{Problem, Update};
use underpass_core::{Kind, World, world::MeshSettings};
use underpass_telemetry::metrics::{Counter, Family, Gauge, Registry};

use self::published::Published;

/// How often Worlds that followers may have let go are looked at.
const FREE_EVERY: Duration = Duration::from_secs(1);

static VERSION: Family =
    Family::gauge("underpass_world_version", "The version of the newest World; it restarts with the agent.", &[]);
static OBJECTS: Family = Family::gauge("underpass_world_objects", "Objects of the newest World.", &["kind"]);
static FINDINGS: Family = Family::gauge(
    "underpass_world_findings",
    "What is surprising about objects of the newest World that are served all the same.",
    &[],
);
static CHANGES: Family =
    Family::counter("underpass_world_changes_total", "Objects that were put into the World or taken out of it.", &[]);
static QUEUE: Family =
    Family::gauge("underpass_world_updates_waiting", "Updates that the keeper of the World has not taken yet.", &[]);
static PROBLEMS: Family = Family::gauge(
    "underpass_config_problems",
    "What the newest configuration has to say: problem is an error or a warning, notice an object that is known and not \
     served yet.",
    &["kind"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&VERSION, &OBJECTS, &FINDINGS, &CHANGES, &QUEUE, &PROBLEMS];

/// What a door had to say beside its changes: newest state, not history.
#[derive(Debug, Default, Serialize)]
pub struct Reports {
    /// Errors and warnings, on file, object and field.
    pub problems: Vec<Problem>,
    /// Objects that are known and not served yet.
    pub notices: Vec<Problem>,
    /// Kinds that are none of the mesh's business, and how many objects of them there are.
    pub ignored: BTreeMap<String, usize>,
}

/// Owns the World.
#[derive(Debug)]
pub struct Keeper {
    updates: mpsc::UnboundedReceiver<Update>,
    world: watch::Sender<Arc<World>>,
    published: Published,
    reports: watch::Sender<Arc<Reports>>,
    changes: Counter,
    waiting: Gauge,
}

impl Keeper {
    /// With a World that has no objects yet, fed by `updates`, measured in `registry`.
    #[must_use]
    pub fn new(settings: MeshSettings, updates: mpsc::UnboundedReceiver<Update>, registry: &Registry) -> Self {
        let (world, _) = watch::channel(Arc::new(World::empty(settings)));
        let (reports, _) = watch::channel(Arc::default());
        measure(registry, world.subscribe(), reports.subscribe());
        let (changes, waiting) = (registry.counter(&CHANGES).with(&[]), registry.gauge(&QUEUE).with(&[]));
        Self { updates, world, published: Published::default(), reports, changes, waiting }
    }

    /// The World, newest.
    #[must_use]
    pub fn world(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    /// The reports, newest.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Arc<Reports>> {
        self.reports.subscribe()
    }

    /// Keeps until the door is gone.
    pub async fn run(mut self) {
        loop {
            // The newest is the channel's as well.
            let is_read = self.published.free() > 1;
            tokio::select! {
                update = self.updates.recv() => {
                    let Some(update) = update else { return };
                    self.waiting.set(i64::try_from(self.updates.len()).unwrap_or(i64::MAX));
                    self.take(update);
                }
                () = tokio::time::sleep(FREE_EVERY), if is_read => {}
            }
        }
    }

    fn take(&mut self, update: Update) {
        for problem in &update.problems {
            if !self.reports.borrow().problems.contains(problem) {
                tracing::warn!("{problem}");
            }
        }
        // One line per object that is new: its fields are in the reports, and in what `underpass analyze` says.
        if self.reports.borrow().notices != update.notices {
            let told: BTreeSet<String> = self.reports.borrow().notices.iter().map(ToString::to_string).collect();
            let objects = update.notices.iter().filter(|n| n.field.is_empty() && n.object.is_some());
            for notice in objects.map(ToString::to_string).filter(|n| !told.contains(n)) {
                tracing::info!("{notice}");
            }
        }
        let Update { batch, problems, notices, ignored } = update;
        self.reports.send_replace(Arc::new(Reports { problems, notices, ignored }));
        // The first answer of a door counts even where it is empty: now it is known that there is nothing.
        let first = self.world.borrow().version().0 == 0;
        if batch.is_empty() && !first {
            return;
        }
        self.changes.add(batch.changes.len() as u64);
        let next = self.world.borrow().apply(&batch);
        tracing::info!(version = %next.version(), changes = batch.changes.len(), "world");
        for finding in next.findings() {
            if !self.world.borrow().findings().contains(finding) {
                tracing::warn!(object = %finding.object, field = %finding.field, "{}", finding.says);
            }
        }
        let next = Arc::new(next);
        self.published.push(Arc::clone(&next));
        self.world.send_replace(next);
    }
}

/// What the newest World and its reports tell by themselves.
fn measure(registry: &Registry, world: watch::Receiver<Arc<World>>, reports: watch::Receiver<Arc<Reports>>) {
    registry.collect(move |samples| {
        let (world, reports) = (Arc::clone(&world.borrow()), Arc::clone(&reports.borrow()));
        samples.add(&VERSION, &[], world.version().0);
        Kind::ALL.iter().for_each(|kind| samples.add(&OBJECTS, &[kind.as_str()], 0_u64));
        world.objects().keys().for_each(|key| samples.add(&OBJECTS, &[key.kind.as_str()], 1_u64));
        samples.add(&FINDINGS, &[], world.findings().len());
        samples.add(&PROBLEMS, &["problem"], reports.problems.len());
        samples.add(&PROBLEMS, &["notice"], reports.notices.len());
    });
}

#[cfg(test)]
mod tests {
    use underpass_core::{testing::pod, world::Batch};

    use super::*;

    #[tokio::test]
    async fn worlds_are_published_in_order_and_empty_changes_are_not() {
        let (sender, updates) = mpsc::unbounded_channel();
        let keeper = Keeper::new(MeshSettings::default(), updates, &Registry::default());
        let (mut world, reports) = (keeper.world(), keeper.reports());
        let task = tokio::spawn(keeper.run());
        let update = |batch| Update { batch, ..Update::default() };
        let version = |w: &watch::Receiver<Arc<World>>| w.borrow().version().0;

        sender.send(update(Batch::default())).unwrap();
        world.changed().await.unwrap();
        assert_eq!(version(&world), 1, "nothing is something to know");

        let mut batch = Batch::default();
        batch.put(pod("default/a", "10.0.0.1"));
        sender.send(update(Batch::default())).unwrap();
        sender.send(update(batch)).unwrap();
        world.changed().await.unwrap();
        assert_eq!((version(&world), world.borrow_and_update().workloads().count()), (2, 1));
        assert!(reports.borrow().problems.is_empty());

        drop(sender);
        task.await.unwrap();
    }
}
