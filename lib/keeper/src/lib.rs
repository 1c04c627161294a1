//! The keeper: owns the objects and the World on a thread of its own. Doors hand their updates over and go on; updates that wait
//! are merged, the next World is built aside, given a version and published. Readers have a whole World and never wait.
//!
//! ```text
//! doors, settings --> queue --> resolve --> facts --> World, objects, local pods, reports: published
//! ```
//! A process that is given facts (by a control plane) has a door of facts beside the one of its node's objects: then no
//! fact is resolved here, and the objects say which pods are local ([`Keeper::given_facts`]).
//!
//! What must hold: nothing here costs a thread that serves, and changes of one update become visible together. No World
//! is published before every door has answered once: half of what there is would open what the other half closes. One in
//! which nothing differs is not published.

mod meter;
mod published;
mod queue;
mod reports;
mod run;
pub mod supervision;
#[cfg(test)]
mod tests;

use std::{io, sync::Arc};

use tokio::sync::watch;
use underpass_core::{
    World,
    resolve::{LocalPod, Sources},
    world::MeshSettings,
};
use underpass_door::Update;
use underpass_telemetry::{admin::Gate, metrics::Registry};

pub use self::{
    meter::FAMILIES,
    reports::{Report, Reports},
};
use self::{meter::Meter, queue::Queue, run::Thread};
use crate::supervision::on_thread;

/// The keeper before its thread runs: doors are made here.
#[derive(Debug)]
pub struct Keeper {
    queue: Arc<Queue>,
    node: Arc<str>,
    mesh: MeshSettings,
    facts: FactsFrom,
    doors: Vec<(&'static str, Gate)>,
    published: Senders,
    meter: Meter,
}

/// The origin of the facts of a World.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FactsFrom {
    /// They are resolved from the objects of all doors.
    Objects,
    /// A door hands them on; objects of doors concern this node alone.
    Door,
}

/// A World and the pods of one node, of the same objects.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The World. Version 0: none is known yet.
    pub world: Arc<World>,
    /// The pods of this node, by name.
    pub local: Arc<[LocalPod]>,
}

/// A World, and what its doors had reported by then: of exactly the updates that are in it, and of later ones that changed nothing.
#[derive(Clone, Debug)]
pub struct Newest {
    /// The World. Version 0: none is known yet.
    pub world: Arc<World>,
    /// The reports.
    pub reports: Arc<Reports>,
}

/// The channels of the published values, each with the newest.
#[derive(Debug)]
struct Senders {
    world: watch::Sender<Arc<World>>,
    sources: watch::Sender<Sources>,
    snapshot: watch::Sender<Snapshot>,
    reports: watch::Sender<Arc<Reports>>,
    newest: watch::Sender<Newest>,
}

/// The feed of one door: it hands its updates over here. Dropped, the door is gone; without any door the keeper ends.
#[derive(Debug)]
pub struct Feed {
    queue: Arc<Queue>,
    door: usize,
}

/// The setter of the mesh's settings.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<Queue>);

impl Keeper {
    /// Starts with a World without objects, for the pods of `node`, measured in `registry`. Its facts are resolved from
    /// objects.
    #[must_use]
    pub fn new(mesh: MeshSettings, node: &str, registry: &Registry) -> Self {
        Self::by(FactsFrom::Objects, mesh, node, registry)
    }

    /// As [`Keeper::new`], but a door hands on facts. Objects tell the pods of `node`, and lead to no fact.
    #[must_use]
    pub fn given_facts(mesh: MeshSettings, node: &str, registry: &Registry) -> Self {
        Self::by(FactsFrom::Door, mesh, node, registry)
    }

    fn by(facts: FactsFrom, mesh: MeshSettings, node: &str, registry: &Registry) -> Self {
        let world = Arc::new(World::empty(mesh.clone()));
        let published = Senders {
            world: watch::Sender::new(Arc::clone(&world)),
            sources: watch::Sender::default(),
            snapshot: watch::Sender::new(Snapshot { world: Arc::clone(&world), local: Arc::default() }),
            reports: watch::Sender::default(),
            newest: watch::Sender::new(Newest { world, reports: Arc::default() }),
        };
        let (queue, meter) = (Arc::default(), Meter::new(registry));
        Self { queue, node: node.into(), mesh, facts, doors: Vec::new(), published, meter }
    }

    /// Adds a door. Updates of earlier ones are taken first; `gate` opens with this one's first update.
    #[must_use]
    pub fn door(&mut self, name: &'static str, gate: Gate) -> Feed {
        let door = self.queue.add(self.meter.waiting(name));
        self.doors.push((name, gate));
        Feed { queue: Arc::clone(&self.queue), door }
    }

    /// The settings of the whole mesh.
    #[must_use]
    pub fn mesh(&self) -> Mesh {
        Mesh(Arc::clone(&self.queue))
    }

    /// The World.
    #[must_use]
    pub fn world(&self) -> watch::Receiver<Arc<World>> {
        self.published.world.subscribe()
    }

    /// The objects behind it: as new as the World, or newer.
    #[must_use]
    pub fn sources(&self) -> watch::Receiver<Sources> {
        self.published.sources.subscribe()
    }

    /// The World with the pods of this node. It changes after [`Self::world`] does.
    #[must_use]
    pub fn snapshot(&self) -> watch::Receiver<Snapshot> {
        self.published.snapshot.subscribe()
    }

    /// The reports of the doors: as new as the World, or older.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Arc<Reports>> {
        self.published.reports.subscribe()
    }

    /// The World together with its reports. It changes with the World, after [`Self::world`] does, and with the
    /// versions of a door's source.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<Newest> {
        self.published.newest.subscribe()
    }

    /// Starts the thread. The answer completes when it has ended, and panics where it has.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(self) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        on_thread("keeper", move || Thread::new(self).run())
    }
}

impl Feed {
    /// Hands an update over. Blocks while too many keys of this door wait; not where the keeper has ended.
    pub fn send(&self, update: Update) {
        let Update { batch, facts, versions, problems, notices, ignored } = update;
        self.queue.push(self.door, batch, facts, Report { taken: 0, versions, problems, notices, ignored });
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.queue.leave(self.door);
    }
}

impl Mesh {
    /// Sets the settings of the mesh, from the next World on.
    pub fn set(&self, settings: MeshSettings) {
        self.0.set_mesh(settings);
    }
}
