//! The World of a waypoint from a directory of manifests: the same door and the same keeper as the agent's, so that both go by the
//! same facts.

use std::{io, path::PathBuf, sync::Arc};

use tokio::sync::watch;
use underpass_core::{World, resolve::Sources};
use underpass_door::Update;
use underpass_keeper::{
    Keeper, Mesh,
    supervision::{SupervisedTask, TaskEnded},
};
use underpass_proxy::child::Begin;
use underpass_telemetry::{admin::Readiness, metrics::Registry};

/// The source, open. Dropped, its directory is watched no more.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) world: watch::Receiver<Arc<World>>,
    pub(super) sources: watch::Receiver<Sources>,
    /// Takes other settings of the mesh.
    pub(super) mesh: Mesh,
    keeping: SupervisedTask,
    _watch: underpass_config::Watch,
}

impl Source {
    /// Opens it. Within the tokio runtime.
    pub(super) fn open(begin: &Begin, readiness: &Readiness, registry: &Registry) -> io::Result<Self> {
        let mut keeper = Keeper::new(begin.mesh.clone(), &begin.node, registry);
        let feed = keeper.door("manifests", readiness.gate("manifests", "the manifests are not read yet"));
        let (world, sources, mesh) = (keeper.world(), keeper.sources(), keeper.mesh());
        let keeping = SupervisedTask::spawn("the keeper", keeper.start()?);
        let directory = PathBuf::from(&begin.manifests);
        let watch = underpass_config::Door::new(directory).watch(move |update| feed.send(without_reports(update)))?;
        Ok(Self { world, sources, mesh, keeping, _watch: watch })
    }

    /// Completes where the World is followed no more.
    pub(super) async fn ended(&mut self) -> TaskEnded {
        self.keeping.ended().await
    }
}

/// The changes of an update. The agent reads the same files, and reports what is wrong in them.
fn without_reports(update: Update) -> Update {
    for problem in update.problems.iter().chain(&update.notices) {
        tracing::debug!(%problem, "configuration problem");
    }
    Update { batch: update.batch, facts: update.facts, versions: update.versions, ..Update::default() }
}
