//! The keeper's thread: takes updates, resolves them, publishes the next World.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use underpass_core::{
    World,
    objects::Batch,
    resolve::{Resolved, Resolver},
    world::{Delta, Facts},
};
use underpass_telemetry::admin::Gate;

use super::{
    FactsFrom, Keeper, Meter, Newest, Report, Reports, Senders,
    published::Published,
    queue::{Queue, Taken},
};

/// The interval between two looks for Worlds without a follower.
const FREE_EVERY: Duration = Duration::from_secs(1);
/// The longest time for which updates are merged before a World is published.
const MERGE_AT_MOST: Duration = Duration::from_millis(10);
/// The number of changes after which a World is published.
const MERGE_KEYS: usize = 4096;

/// A door as the keeper knows it.
#[derive(Debug)]
struct Door {
    name: &'static str,
    /// None: it is gone.
    gate: Option<Gate>,
    answered: bool,
}

/// The updates that are merged into one World.
#[derive(Debug, Default)]
struct Merged {
    changes: usize,
    /// A pod of this node may be another one.
    local: bool,
    /// Doors whose updates are in it.
    passed: BTreeSet<usize>,
}

/// The state of the thread.
pub(super) struct Thread {
    queue: Arc<Queue>,
    node: Arc<str>,
    doors: Vec<Door>,
    resolver: Resolver,
    facts_from: FactsFrom,
    world: Arc<World>,
    /// Facts that the World does not have yet.
    facts: Facts,
    reports: Reports,
    senders: Senders,
    published: Published,
    meter: Meter,
}

/// By any end of the thread, no door waits for it.
impl Drop for Thread {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl Thread {
    pub(super) fn new(keeper: Keeper) -> Self {
        let Keeper { queue, node, mesh, facts: facts_from, doors, published: senders, meter } = keeper;
        let door = |(name, gate)| Door { name, gate: Some(gate), answered: false };
        let world = Arc::clone(&senders.world.borrow());
        Self {
            queue,
            node,
            doors: doors.into_iter().map(door).collect(),
            resolver: Resolver::new(Arc::new(mesh)),
            facts_from,
            world,
            facts: Facts::default(),
            reports: BTreeMap::new(),
            senders,
            published: Published::default(),
            meter,
        }
    }

    /// Runs until every door is gone.
    pub(super) fn run(mut self) {
        while self.turn().is_continue() {}
    }

    /// Waits for an update, and merges the others that wait.
    fn turn(&mut self) -> ControlFlow<()> {
        // The newest is this thread's and the channel's as well.
        let is_read = self.published.free() > 1;
        let Some(first) = self.queue.take(&BTreeSet::new(), is_read.then_some(FREE_EVERY)) else {
            return ControlFlow::Continue(());
        };
        let began = Instant::now();
        let mut merged = Merged::default();
        let mut next = Some(first);
        while let Some(taken) = next {
            self.take(taken, &mut merged);
            let is_enough = merged.changes >= MERGE_KEYS || began.elapsed() >= MERGE_AT_MOST;
            next = if is_enough { None } else { self.queue.take(&merged.passed, Some(Duration::ZERO)) };
        }
        self.publish(merged);
        if self.doors.iter().any(|door| door.gate.is_some()) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    fn take(&mut self, taken: Taken, merged: &mut Merged) {
        match taken {
            Taken::Mesh(mesh) => self.resolve(merged, |resolver| resolver.set_settings(Arc::new(mesh))),
            Taken::Update { door, batch, facts, report } => {
                merged.passed.insert(door);
                self.report(door, report);
                self.change(&batch, merged);
                merged.changes += facts.changes.len();
                self.facts.changes.extend(facts.changes);
            }
            Taken::Gone(door) => {
                if let Some(door) = self.doors.get_mut(door) {
                    door.gate = None;
                }
            }
        }
    }

    fn change(&mut self, batch: &Batch, merged: &mut Merged) {
        let before = self.resolver.sources().clone();
        self.resolve(merged, |resolver| resolver.apply(batch));
        self.meter.changed(batch, &before, self.resolver.sources());
        merged.changes += batch.changes.len();
    }

    fn resolve(&mut self, merged: &mut Merged, step: impl FnOnce(&mut Resolver) -> Resolved) {
        let before = self.resolver.sources().clone();
        let resolved = step(&mut self.resolver);
        let after = self.resolver.sources();
        self.meter.found(&resolved, &before, after);
        let is_here = |name| {
            let of = [before.pod(name), after.pod(name)];
            of.into_iter().flatten().any(|pod| pod.node.as_deref() == Some(&*self.node))
        };
        merged.local |= resolved.pods.iter().any(is_here);
        if self.facts_from == FactsFrom::Objects {
            self.facts.changes.extend(resolved.facts.changes);
        }
    }

    fn report(&mut self, door: usize, mut report: Report) {
        let Some(door) = self.doors.get_mut(door) else { return };
        door.answered = true;
        let before = self.reports.entry(door.name).or_default();
        report.taken = before.taken.saturating_add(1);
        report.log(door.name, before);
        self.meter.reported(door.name, &report);
        *before = report;
    }

    /// Objects first: they are as new as the World that a reader sees, or newer. Reports last: the World is as new as they.
    fn publish(&mut self, merged: Merged) {
        self.senders.sources.send_replace(self.resolver.sources().clone());
        self.doors.iter().filter(|door| door.answered).filter_map(|door| door.gate.as_ref()).for_each(Gate::open);
        self.publish_world(merged.changes);
        let local = merged.local.then(|| self.resolver.local_pods(&self.node));
        let world = &self.world;
        self.senders.snapshot.send_if_modified(|known| {
            let local = local.filter(|local| *known.local != **local);
            let differs = local.is_some() || known.world.version() != world.version();
            known.world = Arc::clone(world);
            known.local = local.map_or_else(|| Arc::clone(&known.local), Arc::from);
            differs
        });
        let reports = Arc::new(self.reports.clone());
        self.senders.reports.send_replace(Arc::clone(&reports));
        self.senders.newest.send_if_modified(|newest| {
            let versions =
                |reports: &Reports| -> Vec<_> { reports.values().map(|report| report.versions.clone()).collect() };
            let differs = newest.world.version() != world.version() || versions(&newest.reports) != versions(&reports);
            *newest = Newest { world: Arc::clone(world), reports };
            differs
        });
    }

    fn publish_world(&mut self, changes: usize) {
        let is_first = self.world.version().0 == 0;
        if is_first && !self.doors.iter().all(|door| door.answered) {
            return;
        }
        let (settings, facts) = (self.resolver.settings(), std::mem::take(&mut self.facts));
        let next = match self.world.settings() == &**settings {
            true => self.world.apply(facts),
            false => self.world.with_settings(Arc::clone(settings)).apply(facts),
        };
        // The first one counts even where it is empty: now it is known that there is nothing.
        if !is_first && !Delta::is_any(&self.world, &next) {
            return;
        }
        tracing::info!(version = %next.version(), changes, "World published");
        self.meter.published(next.version());
        self.world = Arc::new(next);
        self.published.push(Arc::clone(&self.world));
        self.senders.world.send_replace(Arc::clone(&self.world));
    }
}
